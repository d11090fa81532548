"""One toy of each kind comes in from outside: by one line in a table, found by papermill and by snakemake."""

import json
import sys
from pathlib import Path

import pytest
from helpers.world import ROOT, World, copy_checkout

PRESET = """
start: smoke
fusion: {branches: [time, loudness]}
generation: {semantic_steps: 1, refinement_steps: 2}
"""

ENCODERS = "time, frequency, spectrum_cnn, eegnet, shallow, loudness"
REFUSED = """
import sys
from brainvis.files import BrainvisError
from brainvis.graph import Choice
for choice, words in (
    ({"dataset": "toy", "backbone": "paintr"}, "painter"),
    ({"preset": sys.argv[1]}, sys.argv[2]),
):
    try:
        Choice(**choice)
    except BrainvisError as error:
        print(words if words in str(error) and "\\n" not in str(error) else error)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toys.yml").write_text(PRESET)
    checkout = copy_checkout(folder / "checkout")
    made = World(folder, checkout=checkout, BRAINVIS_EXTENSIONS="toy", PYTHONPATH=str(ROOT / "tests" / "helpers"))
    made.grid = ["dataset=toy", "backbone=painter", f"preset={folder / 'toys.yml'}", "subjects=[1]", "ablations=[full]"]
    answer = made.snakemake(grid=made.grid)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return made


def results(world, who, stage):
    return json.loads((world.runs / "toy_toys_painter" / who / "full" / stage / "results.json").read_text())


def test_notebooks_01_to_08_run_on_toys_of_all_four_kinds(world):
    assert world.planned(world.grid) == {}
    assert results(world, "sub-all", "exploration")["metrics"]["channels"] == 6
    branch = results(world, "sub-all", "loudness_branch")
    assert branch["configuration"]["fusion"]["branches"] == ["time", "loudness"]
    fused = results(world, "sub-01", "fusion")
    assert set(fused["built_from"]) == {"lmm_pretraining", "loudness_branch"} and "loudness" in fused["metrics"]
    generated = results(world, "sub-01", "generation")["metrics"]
    for stage in ("semantic", "refined"):
        assert 0 <= generated[stage]["contrast"]["low"] <= generated[stage]["contrast"]["value"]
        assert "generation_accuracy" not in generated[stage]  # nobody judges: it is left out, and said
    assert "contrast" in (world.figures / "toy_toys_painter" / "results.md").read_text()


def test_the_checkout_is_not_touched(world, tmp_path):
    def contents(folder: Path) -> dict[Path, bytes]:
        files = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
        return {name: file.read_bytes() for name, file in files.items() if "__pycache__" not in name.parts}

    assert contents(world.checkout) == contents(copy_checkout(tmp_path / "fresh"))


def test_what_the_tables_do_not_have_is_refused_in_one_sentence(world):
    preset = world.folder / "other.yml"
    preset.write_text("start: smoke\nfusion: {branches: [time, os.system]}")
    answer = world.snakemake("--dry-run", grid=["dataset=toys"])
    assert answer.returncode != 0 and "phantom, eegcvpr40, recordings, toy" in answer.stderr
    assert "Traceback" not in answer.stderr
    answer = world.run(sys.executable, "-c", REFUSED, str(preset), ENCODERS)  # one process: toys import torch
    assert answer.stdout.splitlines() == ["painter", "time, frequency, spectrum_cnn, eegnet, shallow, loudness"], (
        answer.stderr
    )


def test_an_extension_that_is_not_there_is_named(world):
    elsewhere = World(world.folder, BRAINVIS_EXTENSIONS="not_there")
    answer = elsewhere.snakemake("--dry-run")
    assert answer.returncode != 0 and "BRAINVIS_EXTENSIONS names 'not_there'" in answer.stderr
