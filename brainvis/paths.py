"""Where things are: the repository's folders, each of which an environment variable can move."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def data_folder(name: str) -> Path:
    """Folder of one data set: `data/<name>`, or `$BRAINVIS_DATA/<name>`."""
    return Path(os.environ.get("BRAINVIS_DATA", ROOT / "data")) / name


def runs_folder() -> Path:
    """Folder of all runs: `papermill_runs`, or `$BRAINVIS_RUNS`."""
    return Path(os.environ.get("BRAINVIS_RUNS", ROOT / "papermill_runs"))


def figures_folder() -> Path:
    """Folder of the paper's figures and tables: `figures`, or `$BRAINVIS_FIGURES`."""
    return Path(os.environ.get("BRAINVIS_FIGURES", ROOT / "figures"))
