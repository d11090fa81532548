"""The whole study at preset `smoke`, as a user runs it: snakemake, papermill, and cell by cell."""

import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.world import JOBS
from nbclient import NotebookClient

from brainvis.files import warm
from brainvis.graph import NOTEBOOKS, STAGES


def test_every_run_is_whole_and_says_what_it_was_made_from(world):
    files = sorted(world.runs.glob("*/*/*/*/results.json"))
    assert len(files) == sum(JOBS.values())
    for file in files:
        results = json.loads(file.read_text())
        assert (file.parent / f"{NOTEBOOKS[results['stage']]}.ipynb").exists()
        for needed, fingerprint in results["built_from"].items():
            sources = [
                json.loads(f.read_text())["fingerprint"] for f in world.runs.glob(f"*/*/*/{needed}/results.json")
            ]
            assert fingerprint in sources
        assert results["made_with"]["packages"]["torch"] and results["study"]["preset"] == "smoke"
        assert not list(file.parent.glob("*.checkpoint"))
        if results["stage"] in STAGES:
            assert [mark.name for mark in file.parent.glob("*.whole")] == [f"{results['fingerprint']}.whole"]
            assert results["code"] != results["fingerprint"] != results["chosen"]


def test_every_executed_notebook_shows_its_figures(world):
    for file in sorted(world.runs.glob("*/*/full/*/*.ipynb")):
        cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
        outputs = [output.get("data", {}) for cell in cells for output in cell.outputs]
        assert sum("image/png" in output for output in outputs) >= 2, file
        assert not [output for output in outputs if "<Figure" in output.get("text/plain", "") and len(output) == 1], (
            file
        )


def test_a_second_time_nothing_runs(world):
    assert world.planned() == {}


def test_only_what_depends_on_a_lost_run_runs_again(world, tmp_path):
    lost = world.runs / "phantom_smoke" / "sub-02" / "full" / "alignment"
    kept = tmp_path / "alignment"
    shutil.move(lost, kept)
    try:
        assert world.planned() == {"05_alignment": 1, "06_generation": 1, "07_ablations": 1, "08_figures": 1}
    finally:
        shutil.move(kept, lost)


def execute_interactively(world, runs: Path, notebook: str, cold: bool, **parameters) -> None:
    """As in JupyterLab: the parameters typed over, all cells run, no papermill; `cold`: by a kernel that a person's own
    environment starts from nothing."""
    content = nbformat.read(world.checkout / "notebooks" / f"{notebook}.ipynb", as_version=4)
    first = next(cell for cell in content.cells if cell.cell_type == "code")
    first.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    environment = world.environment | {"BRAINVIS_RUNS": str(runs)}
    if cold:
        environment = {name: environment[name] for name in environment.keys() - {"JUPYTER_PATH", *warm.one_thread()}}
    with pytest.MonkeyPatch.context() as patch:
        for name in environment.keys() & {"JUPYTER_PATH"}:  # where kernels are found
            patch.setenv(name, environment[name])
        client = NotebookClient(content, timeout=600, kernel_name="python3")
        client.execute(cwd=str(world.checkout / "notebooks"), env=environment)


def test_the_same_seed_and_interactive_use_give_the_same_results(world, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(world.runs, runs)
    for stage in ("lmm_pretraining", "fusion", "alignment", "generation"):
        who = "sub-01" if STAGES[stage].of_subject else "sub-all"
        folder = runs / "phantom_smoke" / who / "full" / stage
        shutil.rmtree(folder)
        execute_interactively(world, runs, NOTEBOOKS[stage], cold=stage == "lmm_pretraining", preset="smoke")
        again = json.loads((folder / "results.json").read_text())
        assert again["metrics"] == world.results(who, "full", stage)["metrics"], stage


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"ablation": "no_tim"}, "no_frequency"),
        ({"subject": 9}, "1, 2"),
        ({"seed": 1}, "papermill notebooks/"),  # nothing was run for this seed yet
    ],
)
def test_wrong_parameters_are_one_sentence(world, tmp_path, parameters, expected):
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    output = tmp_path / "out.ipynb"
    answer = world.run("papermill", "notebooks/05_alignment.ipynb", str(output), "-p", "preset", "smoke", *given)
    assert answer.returncode != 0 and expected in answer.stderr


def test_a_wrong_grid_is_one_sentence(world):
    answer = world.snakemake("--dry-run", grid=["dataset=eeg40"])
    assert answer.returncode != 0
    assert "eegcvpr40" in answer.stderr and "Traceback" not in answer.stderr


def test_figures_are_made(world):
    folder = world.figures / "phantom_smoke"
    assert (folder / "results.md").exists()
    pictures = list(folder.glob("*.png"))
    assert pictures and all(picture.with_suffix(".pdf").exists() for picture in pictures)


def test_a_damaged_run_is_named_and_made_again(world):  # the last of these tests: the run stays damaged
    (file,) = world.runs.glob("phantom_smoke/sub-02/full/alignment/arrays.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    said = world.run(sys.executable, "-m", "brainvis", "check", "--deep")
    assert said.returncode == 1 and "sub-02/full/alignment/arrays.safetensors is damaged" in said.stdout
    assert "papermill notebooks/05_alignment.ipynb" in said.stdout
    assert world.planned() == {"05_alignment": 1, "06_generation": 1, "07_ablations": 1, "08_figures": 1}
