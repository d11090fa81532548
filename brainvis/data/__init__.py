"""Data sets: one adapter each, all returning the same `EEGDataset`.

Add your own in one line: `DATASETS["mine"] = Source(load=..., fingerprint=..., subjects=..., has_images=...)`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from brainvis.configuration import Configuration
from brainvis.data.eegcvpr40_files import EEGCVPR40
from brainvis.data.phantom import PHANTOM
from brainvis.data.recordings_files import RECORDINGS
from brainvis.data.source import DatasetError, Source
from brainvis.files import data_folder

if TYPE_CHECKING:  # it imports torch
    from brainvis.data.dataset import EEGDataset

__all__ = ["DATASETS", "DatasetError", "Source", "load_dataset"]

DATASETS: dict[str, Source] = {"phantom": PHANTOM, "eegcvpr40": EEGCVPR40, "recordings": RECORDINGS}


def load_dataset(
    name: str, folder: Path | str | None = None, configuration: Configuration | None = None, **options
) -> "EEGDataset":
    """Load the data set `name` of `DATASETS` from `folder` (None: `data/<name>`); DatasetError if it cannot be used. A
    missing phantom is generated with the sizes of `configuration.phantom`, in the folder for all phantoms. `options`
    are those of the data set: see `load_phantom`, `load_eegcvpr40` and `load_recordings`."""
    if name not in DATASETS:
        raise DatasetError(f"Unknown data set {name!r}: choose one of {', '.join(DATASETS)}.")
    folder = Path(folder) if folder is not None else data_folder(name)
    return DATASETS[name].load(folder, configuration or Configuration(), **options)
