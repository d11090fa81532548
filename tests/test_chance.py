"""EEG that knows nothing gives nothing: the whole pipeline, trained and tested on noise, stays at chance."""

import json

import pytest
from helpers.world import World
from scipy.stats import binomtest

from brainvis.configuration import Phantom
from brainvis.phantom.recording import write_phantom

# `demo`, whose trainings on labels, pictures and captions are as long as ever; what sees none of them, or only decides
# how good a picture looks, is shorter.
PRESET = """
start: demo
time: {pretraining: {epochs: 5}}
generation: {samples: 1, semantic_steps: 8, refinement_steps: 8, controls: 1}
"""
NOISE = Phantom(subjects=2, images_per_class=6, signal=0.0)  # pictures and noise as ever, but no response


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The default study on files of EEGCVPR40's format, through snakemake, up to the pictures."""
    world = World(tmp_path_factory.mktemp("noise"))
    write_phantom(world.folder / "data" / "eegcvpr40", NOISE, seed=0)
    (world.folder / "small.yml").write_text(PRESET)
    grid = ["dataset=eegcvpr40", f"preset={world.folder / 'small.yml'}"]
    grid += ["subjects=[1]", "ablations=[full]", "seeds=[0]"]
    answer = world.snakemake("--until", "06_generation", grid=grid)
    assert answer.returncode == 0, answer.stdout + answer.stderr

    def metrics(stage: str, who: str = "sub-all") -> dict:
        file = world.runs / "eegcvpr40_small" / who / "full" / stage / "results.json"
        return json.loads(file.read_text())["metrics"]

    return metrics


def above_chance(share: float, trials: int, chance: float) -> bool:
    return binomtest(round(share * trials), trials, chance, alternative="greater").pvalue < 1e-3


def test_the_question_can_be_answered_with_yes():
    assert above_chance(0.15, 80, 1 / 40)  # far less than what the phantom with signal gives


def test_classification_is_at_chance(study):
    scores = [study("lmm_pretraining")["test"], study("frequency_branch")["test"], study("fusion", "sub-01")["fused"]]
    for score in scores:
        assert not above_chance(score["top1"]["value"], score["trials"], 1 / score["classes"])


def test_alignment_finds_no_caption(study):
    for score in study("alignment", "sub-01")["retrieval"].values():
        assert score["top1"]["low"] <= score["top1"]["chance"]


def test_generated_pictures_are_right_by_chance_alone(study):
    metrics = study("generation", "sub-01")
    for stage in ("semantic", "refined"):
        accuracy = metrics[stage]["generation_accuracy"]["value"]
        # a picture of one of the 40 shown classes is right in 1 of 40, whatever the other ways are
        assert not above_chance(accuracy, metrics["trials"], 1 / 40)
        for attribute in ("position", "background"):
            assert metrics[stage]["attributes"][attribute]["p"] > 1e-3
