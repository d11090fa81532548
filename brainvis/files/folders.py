"""Where everything is, how paths are said, and the error that a person can mend.

A relative path in one of the variables BRAINVIS_* starts from the repository, whoever reads it from where.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MADE_HERE = ("phantom", "text_embeddings")  # data that the package makes


class BrainvisError(Exception):
    """Something that a person can mend; the message says what is wrong and what to do."""


class OriginalError(BrainvisError):
    """A file of the authors' weights, or a study for them, that cannot be used; the message says why and what to do."""


def data_folder(name: str) -> Path:
    """Folder of one data set: `data/<name>`, or `$BRAINVIS_DATA/<name>`. What is made here, phantoms and text
    embeddings, goes beside the runs where the repository cannot be written to."""
    if place := os.environ.get("BRAINVIS_DATA"):
        return ROOT / Path(place).expanduser() / name
    return beside_runs("data") / name if name in MADE_HERE and read_only(ROOT) else ROOT / "data" / name


def weights_folder() -> Path:
    """Folder for published weights, under their published names: searched before any cache."""
    return data_folder("weights")


def runs_folder() -> Path:
    """Folder of all runs: `papermill_runs`, or `$BRAINVIS_RUNS`."""
    return ROOT / Path(os.environ.get("BRAINVIS_RUNS") or "papermill_runs").expanduser()


def figures_folder() -> Path:
    """Folder of the paper's figures and tables: `figures`, or `$BRAINVIS_FIGURES`; beside the runs where the
    repository cannot be written to."""
    if place := os.environ.get("BRAINVIS_FIGURES"):
        return ROOT / Path(place).expanduser()
    return beside_runs("figures") if read_only(ROOT) else ROOT / "figures"


def read_only(folder: Path) -> bool:
    """Whether a folder that is there cannot be written to."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def beside_runs(name: str) -> Path:
    """A folder for what belongs elsewhere and cannot be written there."""
    return runs_folder() / name


def resolve(path: str | Path) -> Path:
    """A path as somebody typed it: from the current folder, else from the repository (Jupyter sits in notebooks/)."""
    path = Path(path).expanduser()
    inside = ROOT / path
    return inside if not path.exists() and inside.exists() else path


def readable_path(path: Path | str) -> str:
    """A path as people write it: relative to the repository, or to their home."""
    path = Path(path)
    for base, name in ((ROOT, ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return name + str(path.relative_to(base))
    return str(path)


def readable_size(size: int) -> str:
    """Bytes as people read them: "2.5 GB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
