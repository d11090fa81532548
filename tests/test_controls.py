"""The controls of the cascade: what each is given, and what is said of the pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from brainvis.configuration import Generation
from brainvis.evaluation import controls
from brainvis.evaluation.bootstrap import holm
from brainvis.evaluation.controls import (
    BLIND,
    CONTROLS,
    control_scores,
    draw_controls,
    noise_trials,
    other_trials,
    verdict,
)
from brainvis.evaluation.judges import Judge, Judges
from brainvis.evaluation.pictures import Pictures
from brainvis.evaluation.scores import n_way_accuracy


def test_noise_has_the_mean_and_the_covariance_of_the_trials():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    trials = (torch.randn(400, 6, generator=generator) @ mixing + 3).reshape(400, 2, 3)
    noise = noise_trials(trials, 20_000, seed=0).flatten(1)
    known = trials.flatten(1)
    torch.testing.assert_close(noise.mean(0), known.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(noise.T.cov(), known.T.cov(), atol=0.3, rtol=0.05)
    assert torch.equal(noise_trials(trials, 3, seed=1), noise_trials(trials, 3, seed=1))
    assert not torch.equal(noise_trials(trials, 3, seed=1), noise_trials(trials, 3, seed=2))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 0, 5, 0, 3, 3, 1], list(range(40)) * 3])
def test_another_trial_is_of_another_class(labels):
    labels = torch.tensor(labels)
    others = other_trials(labels)
    assert sorted(others.tolist()) == list(range(len(labels)))  # each lends its own once
    assert (labels[others] != labels).all()


@pytest.fixture
def called(monkeypatch):
    """Stages that paint what they are given: who led in the red, whose name was told in the green."""
    calls = []

    def semantic_stage(generator, embeddings, config, seed, trials, folder=None):
        calls.append(("semantic", folder and folder.name, config.samples, seed))
        return np.full((len(trials), 1, 2, 2, 3), [int(embeddings[0, 0, 0]), 0, 0], np.uint8)

    def refinement_stage(generator, images, names, config, seed, trials, folder=None):
        calls.append(("refinement", folder and folder.name, config.samples, seed))
        made = np.zeros((len(trials), 1, 2, 2, 3), np.uint8) if images is None else images.copy()
        made[..., 1] = int(names[0])
        return made

    monkeypatch.setattr(controls, "semantic_stage", semantic_stage)
    monkeypatch.setattr(controls, "refinement_stage", refinement_stage)
    return calls


def test_every_control_is_drawn_from_what_its_line_says(called):
    led_by = {"predicted": 1, "caption": 2, "average": 3, "another": 4, "noise": 5}
    told = {"predicted": 1, "generic": 2, "nearest": 3, "true": 4, "noise": 5}
    embeddings = {name: torch.full((3, 2, 4), float(number)) for name, number in led_by.items()}
    names = {name: [str(number)] * 3 for name, number in told.items()}
    there = {"no_refinement": np.full((3, 1, 2, 2, 3), [1, 0, 0], np.uint8)}
    there["cascade"] = np.full((3, 1, 2, 2, 3), [1, 1, 0], np.uint8)
    drawn = draw_controls(None, embeddings, names, Generation(), 7, [4, 5, 6], there, folder=Path("pictures"))
    assert list(drawn) == list(CONTROLS)
    for name, control in CONTROLS.items():
        assert drawn[name].shape == (3, 1, 2, 2, 3)
        assert tuple(drawn[name][2, 0, 1, 1]) == (led_by.get(control.embeddings, 0), told.get(control.name, 0), 0), name
    assert {(samples, seed) for _, _, samples, seed in called} == {(1, 7)}
    places = [(stage, place) for stage, place, _, _ in called]
    assert len(set(places)) == len(places) == 4 + 7  # nothing is drawn twice, nor that is there already
    assert not {place for _, place in places} & {"cascade", "no_refinement", "led_by_predicted"}


def test_scores_of_controls_are_paired_with_the_cascade_and_with_the_blind():
    rng, trials = np.random.default_rng(0), 30
    shown, position = rng.integers(0, 60, trials), rng.integers(0, 9, trials)
    right = rng.random(trials) < 0.5

    def one_hot(values, levels):
        return torch.nn.functional.one_hot(torch.as_tensor(values), levels).float()

    def pictures(name, classes, positions):
        said = {"class": one_hot(classes, 60), "position": one_hot(positions, 9), "features": torch.zeros(trials, 1)}
        pixels = np.zeros((trials, 1, 1, 1, 3), np.uint8)
        return Pictures(pixels, judges, n_permutations=99, answers={"judge": {k: v[:, None] for k, v in said.items()}})

    judges = Judges(Judge("judge", None, str))
    truth = Pictures(np.zeros((trials, 1, 1, 3), np.uint8), judges, n_permutations=99)
    truth.answers["judge"] = {"class": one_hot(shown, 60), "position": one_hot(position, 9)}
    wrong = np.where(right, shown, (shown + 1) % 60)
    guess = rng.integers(0, 9, trials)
    drawn = {
        "cascade": pictures("cascade", wrong, position),
        "true_name": pictures("true_name", shown, guess),
        BLIND: pictures(BLIND, (shown + 1) % 60, guess),
    }
    scores = control_scores(drawn, truth, right)
    assert (
        scores["cascade"]["by_prediction"]["right"]["value"] == 1 > scores["cascade"]["by_prediction"]["wrong"]["value"]
    )
    assert scores["cascade"]["minus_cascade"] == {"value": 0, "low": 0, "high": 0, "p": 1}
    gained = 1 - n_way_accuracy(one_hot(wrong, 60)[:, None], one_hot(shown, 60))["exact"]
    assert scores["true_name"]["minus_cascade"]["value"] == pytest.approx(gained)
    assert scores["true_name"]["minus_cascade"]["low"] > 0 > scores[BLIND]["minus_cascade"]["high"]
    kept = scores["cascade"]["attributes"]["position"]
    assert kept["value"] == kept["low"] == 1 and kept["p"] == 0.01
    assert kept["minus_blind"]["value"] == pytest.approx(1 - (guess == position).mean())
    same = {"value": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1, "family": 1}  # one attribute
    assert scores["true_name"]["attributes"]["position"]["minus_blind"] == same
    against = {name: scores[name]["minus_cascade"] for name in ("true_name", BLIND)}
    assert {name: each["p_holm"] for name, each in against.items()} == holm({n: d["p"] for n, d in against.items()})
    assert against["true_name"]["family"] == 2 and against["true_name"]["p_holm"] > against["true_name"]["p"]
    assert verdict(against["true_name"]) == "more" and verdict(against[BLIND], less="worse") == "worse"
    assert verdict(same, not_shown="not shown") == "not shown"
    assert set(scores["cascade"]["attributes"]) == {"position"}
