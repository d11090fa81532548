"""Where everything is stored, how paths are displayed, and the base class for errors that users can fix.

A relative path in one of the BRAINVIS_* variables is relative to the repository, whatever the current folder.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MADE_HERE = ("phantom", "text_embeddings")  # data that the package generates


class BrainvisError(Exception):
    """An error that the user can fix; the message says what is wrong and what to do."""


class OriginalError(BrainvisError):
    """A file with the authors' weights, or a study of them, that cannot be used; the message says why and what to
    do."""


def data_folder(name: str) -> Path:
    """Folder of one data set: `data/<name>`, or `$BRAINVIS_DATA/<name>`. Generated data (phantoms and text embeddings)
    go beside the runs if the repository cannot be written to."""
    if place := os.environ.get("BRAINVIS_DATA"):
        return ROOT / Path(place).expanduser() / name
    return beside_runs("data") / name if name in MADE_HERE and read_only(ROOT) else ROOT / "data" / name


def weights_folder() -> Path:
    """Folder for published weights, under their published names; searched before any cache."""
    return data_folder("weights")


def runs_folder() -> Path:
    """Folder of all runs: `papermill_runs`, or `$BRAINVIS_RUNS`."""
    return ROOT / Path(os.environ.get("BRAINVIS_RUNS") or "papermill_runs").expanduser()


def figures_folder() -> Path:
    """Folder of the paper's figures and tables: `figures`, or `$BRAINVIS_FIGURES`; beside the runs if the repository
    cannot be written to."""
    if place := os.environ.get("BRAINVIS_FIGURES"):
        return ROOT / Path(place).expanduser()
    return beside_runs("figures") if read_only(ROOT) else ROOT / "figures"


def read_only(folder: Path) -> bool:
    """Whether an existing folder cannot be written to."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def beside_runs(name: str) -> Path:
    """A folder for what belongs elsewhere but cannot be written there."""
    return runs_folder() / name


def resolve(path: str | Path) -> Path:
    """A path as typed by the user: relative to the current folder, otherwise to the repository (Jupyter runs in
    notebooks/)."""
    path = Path(path).expanduser()
    inside = ROOT / path
    return inside if not path.exists() and inside.exists() else path


def readable_path(path: Path | str) -> str:
    """A path for display: relative to the repository, or to the home folder."""
    path = Path(path)
    for base, name in ((ROOT, ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return name + str(path.relative_to(base))
    return str(path)


def readable_size(size: int) -> str:
    """A number of bytes for display: "2.5 GB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
