"""A world of its own for tests that run the study as a user does: folders for data, runs and figures, and commands."""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from brainvis.files import ROOT, warm

BIN = Path(sys.executable).parent
ODD = "my repo's $HOME & (ü)"  # a legal name of a folder; Snakemake refuses braces alone
GRID = ["preset=smoke", "subjects=[1,2]", "ablations=[full,no_time,no_refinement]"]

JOBS = {  # runs a notebook: an ablation repeats nothing that it does not change
    "01_data_exploration": 1,
    "02_lmm_pretraining": 1,
    "03_frequency_branch": 1,
    "04_fusion": 3,
    "05_alignment": 3,
    "06_generation": 4,
    "07_ablations": 1,
    "08_figures": 1,
}


# Before any library has put variables of its own there: kernels of another environment than their server's start cold.
# Nothing is asked of a network, and no weights that this machine's user has are found.
SURROUNDINGS = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
SURROUNDINGS |= {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9"}  # where nobody answers
SURROUNDINGS |= {name: f"{tempfile.gettempdir()}/brainvis-none" for name in ("HF_HOME", "TORCH_HOME")}
SURROUNDINGS |= warm.one_thread()


@cache
def kernels() -> dict[str, str]:
    """One server of kernels for all that this process runs, studies and papermill alone: each would import for seven
    seconds."""
    if (place := warm.start(SURROUNDINGS)) is None:
        return {}
    folder = Path(tempfile.mkdtemp(prefix="brainvis-"))
    atexit.register(shutil.rmtree, folder)
    warm.kernel_spec(place, folder)
    return {warm.WARM: place, "JUPYTER_PATH": str(folder)}


class World:
    """Folders for data, runs and figures, and the commands that work on them.

    Args:
        folder: of everything that is made.
        data: folder of the data; None: in `folder`.
        checkout: the repository; a copy may stand in for a person's own.
        environment: more of it.
    """

    def __init__(self, folder: Path, data: Path | None = None, checkout: Path = ROOT, **environment: str):
        self.folder, self.runs, self.figures, self.checkout = folder, folder / "runs", folder / "figures", checkout
        paths = [str(checkout), environment.pop("PYTHONPATH", SURROUNDINGS.get("PYTHONPATH", ""))]
        self.environment = SURROUNDINGS | {
            "PATH": f"{BIN}{os.pathsep}{SURROUNDINGS['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "BRAINVIS_DATA": str(data or folder / "data"),
            "BRAINVIS_RUNS": str(self.runs),
            "BRAINVIS_FIGURES": str(self.figures),
            **kernels(),
            **environment,
        }

    def run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=self.checkout, env=self.environment, capture_output=True, text=True)

    def snakemake(self, *options: str, grid=GRID) -> subprocess.CompletedProcess:
        where = ["--directory", str(self.folder), "--cores", "2"]
        return self.run("snakemake", *where, *options, "--config", *grid)

    def planned(self, grid=GRID) -> dict[str, int]:
        """Runs that snakemake would make now, by notebook."""
        answer = self.snakemake("--dry-run", grid=grid)
        assert answer.returncode == 0, answer.stderr
        counts = re.findall(r"^(\d\d_\w+)\s+(\d+)$", answer.stdout + answer.stderr, re.M)
        return {notebook: int(count) for notebook, count in counts}

    def results(self, who: str, ablation: str, stage: str, study: str = "phantom_smoke") -> dict:
        return json.loads((self.runs / study / who / ablation / stage / "results.json").read_text())

    def edited(self, folder: Path) -> "World":
        """The same world, seen from a copy of the repository that a test may edit."""
        return World(self.folder, Path(self.environment["BRAINVIS_DATA"]), copy_checkout(folder))


def copy_checkout(folder: Path) -> Path:
    """Copies into `folder` what of the repository a study needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("brainvis", "notebooks", "profiles", "docs/studies"):
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, folder / part)  # with what is compiled, and the times that it goes by
    shutil.copy(ROOT / "Snakefile", folder)
    return folder
