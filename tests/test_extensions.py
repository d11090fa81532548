"""One toy of each kind comes in from outside: by one line in a table, found by papermill and by snakemake."""

import json

import pytest
from helpers.world import ROOT, World

PRESET = """
start: smoke
fusion: {branches: [time, loudness]}
generation: {semantic_steps: 1, refinement_steps: 2}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toys.yml").write_text(PRESET)
    made = World(folder, BRAINVIS_EXTENSIONS="toy", PYTHONPATH=str(ROOT / "tests" / "helpers"))
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


def test_what_the_tables_do_not_have_is_refused_in_one_sentence(world):
    for grid, words in (
        (["dataset=toys"], "phantom, eegcvpr40, recordings, toy"),
        (["dataset=toy", "backbone=paintr"], "painter"),
    ):
        answer = world.snakemake("--dry-run", grid=grid)
        assert answer.returncode != 0 and words in answer.stderr and "Traceback" not in answer.stderr
    preset = world.folder / "other.yml"
    preset.write_text("start: smoke\nfusion: {branches: [time, os.system]}")
    answer = world.snakemake("--dry-run", grid=[f"preset={preset}"])
    assert answer.returncode != 0 and "time, frequency, spectrum_cnn, eegnet, shallow, loudness" in answer.stderr


def test_an_extension_that_is_not_there_is_named(world):
    elsewhere = World(world.folder, BRAINVIS_EXTENSIONS="not_there")
    answer = elsewhere.snakemake("--dry-run")
    assert answer.returncode != 0 and "BRAINVIS_EXTENSIONS names 'not_there'" in answer.stderr
