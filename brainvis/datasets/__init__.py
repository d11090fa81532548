"""Data sets: one adapter a file, all returning the same `EEGDataset`.

Nothing heavy is imported before it is used: Snakemake asks for fingerprints without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from brainvis.configuration import Phantom
from brainvis.datasets.errors import DatasetError
from brainvis.paths import data_folder

if TYPE_CHECKING:
    from brainvis.datasets.base import EEGDataset, Partition

__all__ = ["DATASETS", "DatasetError", "EEGDataset", "Partition", "dataset_fingerprint", "load_dataset"]

DATASETS = ("phantom", "eegcvpr40", "recordings")


def load_dataset(
    name: str, *, folder: Path | None = None, phantom: Phantom | None = None, seed: int = 0, **options
) -> EEGDataset:
    """Read a data set, from `data/<name>` unless `folder` says otherwise.

    Args:
        name: one of `DATASETS`.
        folder: where the files are (for the phantom: the folder of all phantoms).
        phantom: size of the embedded world, which is generated where it is missing; only for "phantom".
        seed: seed of the embedded world; only for "phantom".
        options: the adapter's own, see `load_eegcvpr40` and `load_recordings`.

    Raises:
        DatasetError: unknown name, or files that cannot be used.
    """
    return _call("load", name, folder, phantom, seed, options)


def dataset_fingerprint(
    name: str, folder: Path | None = None, phantom: Phantom | None = None, seed: int = 0, **options
) -> str:
    """What `load_dataset` with the same arguments would be made from, as a short hash; cheap.

    Raises:
        DatasetError: unknown name, or files that are not there.
    """
    return _call("fingerprint", name, folder, phantom, seed, options)


def _call(what: str, name: str, folder: Path | None, phantom: Phantom | None, seed: int, options: dict):
    if name not in DATASETS:
        raise DatasetError(f"Unknown data set {name!r}: choose one of {', '.join(DATASETS)}.")
    module = import_module(f"brainvis.datasets.{name}")
    function = getattr(module, f"load_{name}" if what == "load" else f"{name}_fingerprint")
    folder = Path(folder) if folder is not None else data_folder(name)
    if name == "phantom":
        return function(folder, phantom or Phantom(), seed, **options)
    return function(folder, **options)


def __getattr__(name: str):
    if name in ("EEGDataset", "Partition"):
        return getattr(import_module("brainvis.datasets.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
