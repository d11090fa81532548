"""What a user of the published files does: two parameters change, `dataset=eegcvpr40` and `backbone=sd15`."""

import json

import pytest
from helpers.tiny_backbone import RESOLUTION, random_pipeline, shrunken_configuration
from helpers.world import World

from brainvis.configuration import Phantom
from brainvis.phantom.recording import write_phantom

PRESET = """
start: smoke
generation: {trials: 3, samples: 2, semantic_steps: 2, refinement_steps: 2, refinement_guidance: 7.5, batch_size: 4}
"""
STUDY = ("eegcvpr40_small_sd15", "sub-01", "full")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """EEG in the published files, Stable Diffusion 1.5 with few channels where its folder belongs, and no network."""
    made = World(tmp_path_factory.mktemp("real"))
    write_phantom(made.folder / "data" / "eegcvpr40", Phantom(subjects=1, images_per_class=6, classes=8), seed=0)
    configuration = shrunken_configuration(made.folder / "configuration")
    weights = made.folder / "data" / "weights" / "stable-diffusion-v1-5"
    random_pipeline(configuration).save_pretrained(weights, variant="fp16")
    (made.folder / "small.yml").write_text(PRESET)
    return made


def check(world):
    return world.run("python", "-m", "brainvis", "check", "--dataset", "eegcvpr40", "--backbone", "sd15")


@pytest.fixture(scope="module")
def study(world):
    grid = ["dataset=eegcvpr40", "backbone=sd15", f"preset={world.folder / 'small.yml'}", "subjects=[1]"]
    answer = world.snakemake(grid=[*grid, "ablations=[full]"])
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return world.runs.joinpath(*STUDY)


def test_check_says_that_it_can_start_and_what_is_left_out(world):
    answer = check(world)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Useful items missing: 5." in answer.stdout and "make reproduce ARGS=" in answer.stdout
    split = world.folder / "data" / "eegcvpr40" / "block_splits_by_image_all.pth"
    split.rename(split.with_suffix(".away"))
    try:
        assert check(world).returncode == 1
    finally:
        split.with_suffix(".away").rename(split)


def test_all_notebooks_run_up_to_the_pictures(study):
    results = json.loads((study / "generation" / "results.json").read_text())
    assert results["study"]["backbone"] == "sd15" and results["study"]["dataset"] == "eegcvpr40"
    assert results["metrics"]["trials"] == 3 and results["metrics"]["samples"] == 2
    for stage in ("semantic", "refined"):
        assert {"ssim", "pixel_correlation"} <= set(results["metrics"][stage])
        assert "generation_accuracy" not in results["metrics"][stage]  # its judge is not here ...
    assert any("vit_h_14_swag" in note for note in results["notes"])  # ... and that is said


def test_every_picture_is_a_file_in_an_index(study):
    from PIL import Image

    for stage in ("semantic", "refinement"):
        folder = study / "generation" / "pictures" / stage
        pictures = json.loads((folder / "index.json").read_text())["pictures"]
        assert len(pictures) == 6
        for picture in pictures:
            assert Image.open(folder / picture["file"]).size == (RESOLUTION, RESOLUTION)


def test_text_embeddings_are_in_one_file_of_all_subjects(world, study):
    from safetensors import safe_open

    (file,) = (world.folder / "data" / "text_embeddings").glob("*.safetensors")
    captions = json.loads((world.folder / "data" / "eegcvpr40" / "captions.json").read_text())
    with safe_open(file, "pt") as content:
        count, tokens, _ = content.get_slice("embeddings").get_shape()
    assert tokens == 77 and count == 8 + len(set(captions.values()))


def test_the_published_file_is_converted_once(world, study):
    (array,) = (world.folder / "data" / "eegcvpr40").glob("eeg_5_95_std.*.safetensors")
    assert not list(array.parent.glob("*.part"))


def test_figures_and_tables_are_made(world, study):
    folder = world.figures / STUDY[0]
    assert "| 1 | full |" in (folder / "results.md").read_text()
    assert (folder / "reconstructions.png").exists()
