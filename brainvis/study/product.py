"""The results in a run's folder, verified by their checksums, and the software and hardware that made them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from torch import Tensor, nn

from brainvis.files import ROOT, BrainvisError, DamagedError, file_digests, read_sealed
from brainvis.files.running import MADE
from brainvis.files.tensors import load_safetensors
from brainvis.graph import mark
from brainvis.training import computed_in

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "torchmetrics", "open_clip_torch", "mne", "papermill")


@dataclass(frozen=True)
class Product:
    """The results in a run's folder."""

    folder: Path
    results: dict

    @property
    def metrics(self) -> dict:
        """The run's metrics."""
        return self.results["metrics"]

    def load_weights(self, name: str, module: nn.Module) -> nn.Module:
        """`module` with the saved weights `name`."""
        module.load_state_dict(load_safetensors(self.folder / f"{name}.safetensors"))
        return module

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """The saved arrays by name."""
        return load_safetensors(self.folder / "arrays.safetensors")


def read_product(folder: Path) -> Product:
    """The content of a run's folder, each file verified by its checksum.

    Raises:
        FileNotFoundError: the run does not exist.
        DamagedError: a file differs from what the run wrote; the run is no longer marked as complete.
    """
    try:
        results = read_sealed(folder / "results.json")
        files = {name: folder / name for name in results["files"]}
        if lost := [file for file in files.values() if not file.is_file()]:
            raise DamagedError(f"{lost[0]} is missing from an otherwise complete run.")
        found = file_digests(files.values(), "checksums of a run")
        if wrong := [file for name, file in files.items() if found[file] != results["files"][name]]:
            raise DamagedError(f"{wrong[0]} is damaged: it is not what the run wrote.")
    except (FileNotFoundError, BrainvisError) as error:
        with suppress(OSError):  # someone else's folder: its owner has to do it
            for whole in [*folder.glob(mark("*")), folder / MADE]:
                whole.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError | DamagedError):
            raise
        raise DamagedError(str(error)) from error
    return Product(folder, results)


def made_with() -> dict:
    """Versions, commit and hardware of this run; for each computation its device and precision, and why."""
    commit, changed = (
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "brainvis", "notebooks"))
    )
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "not_pinned": other_versions(),
        "python": platform.python_version(),
        "commit": commit or "not a git checkout",
        "modified": [line.split()[-1] for line in changed.splitlines()],
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "computed_in": computed_in,
    }


def other_versions() -> dict[str, str]:
    """Packages whose version differs from the one the study was tested with: name -> "2.14.0, tested with 2.15.0"."""
    pins = [pin.partition(";")[0].strip() for pin in _installed("brainvis", requires) or () if "extra ==" not in pin]
    found = {name: (_installed(name, version), pin) for name, _, pin in (pin.partition("==") for pin in pins)}
    here = {name: (str(found or "missing").partition("+")[0], pin) for name, (found, pin) in found.items()}
    return {name: f"{found}, tested with {pin}" for name, (found, pin) in here.items() if found != pin}


def _installed(name: str, what: Callable) -> object:
    """Metadata of a package; None if it is not installed, e.g. if the repository is only on PYTHONPATH."""
    try:
        return what(name)
    except PackageNotFoundError:
        return None
