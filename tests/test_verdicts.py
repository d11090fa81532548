"""Which trials are drawn, and generation accuracy by whether the classifier was right."""

import numpy as np
import pytest
import torch
from torch import nn

from brainvis import verdicts
from brainvis.image_metrics import judge_images
from brainvis.metrics import n_way_accuracy
from brainvis.phantom.stimuli import CLASS_NAMES


class PixelJudge(nn.Module):
    """Sees the class that the red value of the first pixel names."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"class": nn.Linear(1, len(CLASS_NAMES))})

    def forward(self, images):
        seen = (images[:, 0, 0, 0] * 255).round().long()
        return {"class": nn.functional.one_hot(seen, len(CLASS_NAMES)).float()}

    def features(self, images):
        return images.flatten(1)[:, :2]


def pictures(classes):
    """Pictures of these classes, for `PixelJudge`: (..., 2, 2, 3)."""
    return np.broadcast_to(np.asarray(classes, np.uint8)[..., None, None, None], (*np.shape(classes), 2, 2, 3)).copy()


def test_trials_are_spread_over_classes():
    labels = torch.tensor([5, 5, 5, 0, 0, 3, 3, 3, 3])
    assert verdicts.spread_over_classes(labels, 3).tolist() == [0, 3, 5]
    assert verdicts.spread_over_classes(labels, 4).tolist() == [0, 3, 4, 5]  # the lowest class gets the odd one
    assert verdicts.spread_over_classes(labels, 8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    for all_of_them in (None, 9, 99):
        assert verdicts.spread_over_classes(labels, all_of_them).tolist() == list(range(9))


def test_rows_are_evenly_spaced():
    assert verdicts.evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert verdicts.evenly(np.array([4, 7]), 5) == [4, 7]
    assert verdicts.evenly([], 5) == []


def test_the_split_adds_up_to_the_whole():
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 60, 30)
    right = rng.random(30) < 0.5
    made = np.where(right[:, None] & (rng.random((30, 2)) < 0.8), shown[:, None], rng.integers(0, 60, (30, 2)))
    judge = PixelJudge()
    split = verdicts.accuracy_by_prediction(judge, pictures(made), pictures(shown), right, 50)
    assert {name: part["trials"] for name, part in split.items()} == {"right": right.sum(), "wrong": (~right).sum()}
    logits = judge_images(judge, pictures(made).reshape(-1, 2, 2, 3))[0]["class"].reshape(30, 2, -1)
    truth = judge_images(judge, pictures(shown))[0]["class"]
    whole = n_way_accuracy(logits, truth, 50)["exact"]
    assert sum(part["exact"] * part["trials"] for part in split.values()) / 30 == pytest.approx(whole)
    assert split["right"]["value"] > 0.6 > 0.2 > split["wrong"]["value"]
    assert verdicts.accuracy_by_prediction(judge, pictures(made), pictures(shown), right | True, 50).keys() == {"right"}


def test_pictures_that_show_the_predicted_class():
    judged = verdicts.judged_classes(PixelJudge(), pictures([[0, 1], [2, 2]]))
    assert judged.tolist() == [[0, 1], [2, 2]]
    assert verdicts.judged_names(judged) == [[CLASS_NAMES[0], CLASS_NAMES[1]], [CLASS_NAMES[2]] * 2]
    assert verdicts.agreement_with([CLASS_NAMES[0], CLASS_NAMES[2]], judged)["value"] == 0.75
    assert verdicts.agreement_with([CLASS_NAMES[0], "unicorn"], judged) is None


def test_no_more_ways_than_classes():
    assert verdicts.possible_ways(PixelJudge()) == 50
    assert verdicts.possible_ways(PixelJudge(), 80) == 60
