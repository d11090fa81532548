"""What trials can show: units of evidence, p-values that respect them, and a word where too few choose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_confounds import made_up

from brainvis.evaluation import evidence


def test_units_are_pictures_and_rows_of_windows_that_share_samples():
    data = made_up(seed=1)
    assert (evidence.units_of(data) == -1).all()  # one event, one trial
    lengths = data.lengths.clone()
    own = torch.nonzero(data.subjects == 1).flatten()
    rows = own[data.order[own].argsort()]
    lengths[rows[[3, 4]]] = 60  # of 100 samples: the fourth reaches into the fifth, that into the sixth
    units = evidence.units_of(replace(data, lengths=lengths))
    assert len(units[rows[3:6]].unique()) == 1 and units[rows[3]] >= 0
    rest = torch.ones(len(data), dtype=torch.bool).index_fill(0, rows[3:6], False)
    assert (units[rest] == -1).all()
    assert evidence.units_of(replace(data, lengths=lengths), rows[2:5]).tolist() == units[rows[2:5]].tolist()
    sessions = (data.order > 4).long()  # the fifth and the sixth are of different sessions
    apart = evidence.units_of(replace(data, lengths=lengths, sessions=sessions))
    assert len(apart[rows[3:6]].unique()) == 2
    shown = torch.arange(len(data)) % 7
    of_pictures = replace(data, images=shown, image_ids=tuple(f"n_{i}" for i in range(7)))
    assert evidence.units_of(of_pictures).tolist() == shown.tolist()


def test_knowing_nothing_is_rarely_significant_and_a_majority_never():
    rng, labels = np.random.default_rng(0), np.arange(40) % 4
    found = [evidence.p_above_chance(rng.integers(0, 4, 40), labels, seed=i)["p"] for i in range(60)]
    assert sum(p <= 0.05 for p in found) <= 8 and np.mean(found) == pytest.approx(0.5, abs=0.15)
    unequal = (np.arange(80) % 8 == 0).astype(int)
    assert evidence.p_above_chance(np.zeros(80, int), unequal)["p"] == 1.0
    known = evidence.p_above_chance(unequal, unequal)
    assert known["p"] == known["least"] and known["units"] == 80
    assert evidence.evidence_text(known) == "p = 0.0002"


def test_windows_of_one_event_are_no_independent_trials():
    """Twelve events, each cut into ten windows that are all right or all wrong: 120 trials would be sure of it."""
    rng = np.random.default_rng(3)
    events, labels = np.repeat(np.arange(12), 10), np.repeat(np.arange(12) % 2, 10)
    trials, whole = [], []
    for repeat in range(40):
        right = np.repeat(rng.random(12) < 0.5, 10)
        predictions = np.where(right, labels, 1 - labels)
        trials.append(evidence.p_above_chance(predictions, labels, seed=repeat)["p"])
        whole.append(evidence.p_above_chance(predictions, labels, events, seed=repeat)["p"])
    assert sum(p <= 0.05 for p in trials) >= 10  # as if there were something
    assert sum(p <= 0.05 for p in whole) <= 6
    few = evidence.p_above_chance(labels, labels, np.repeat(np.arange(3), 40))
    assert few["p"] is None and "only 3 independent" in evidence.evidence_text(few)


def test_too_few_trials_are_said_with_their_number():
    labels = torch.tensor([0, 1] * 40)
    parts = {"train": torch.arange(40), "validation": torch.arange(40, 44)}
    first, *rest = evidence.too_few(parts, labels)
    assert "the epoch is chosen on 4, " in first and "25.0 points" in first and rest == []
    assert evidence.too_few({"train": torch.arange(40), "validation": torch.arange(40, 80)}, labels) == []
    (said,) = evidence.too_few({"train": torch.arange(9), "validation": torch.arange(40, 80)}, labels)
    assert said == "TOO FEW TRAINING TRIALS: 9 in all, only 4 of one class."
