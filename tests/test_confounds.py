"""Audits of the time of recording, against recordings made up: what is planted is found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brainvis.data.audit import distance_in_time
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation import confounds

CLASSES, EACH, SUBJECTS, CHANNELS, SAMPLES, RATE = 6, 20, 2, 8, 100, 200.0


def made_up(*, block=False, drift=0.0, evoked=0.0, start=0.0, before=0.0, power=0.0, order=True, seed=0) -> EEGDataset:
    """White noise; a response that differs between classes, slow drift of the mean and of the power, and what differs
    between classes before onset."""
    generator = torch.Generator().manual_seed(seed)
    labels, places = torch.arange(CLASSES).repeat_interleave(EACH), []
    trials = torch.randn(SUBJECTS * len(labels), CHANNELS, SAMPLES, generator=generator)
    patterns = torch.randn(CLASSES, CHANNELS, 1, generator=generator)
    time = start + torch.arange(SAMPLES) / RATE
    response = torch.sin(2 * torch.pi * 16 * time) * ((time > 0.1) & (time < 0.35))
    for subject in range(SUBJECTS):
        own = trials[subject * len(labels) : (subject + 1) * len(labels)]
        mixed = torch.arange(len(labels)) if block else torch.randperm(len(labels), generator=generator)
        place = mixed.argsort()
        walk = torch.randn(len(labels), CHANNELS, generator=generator).cumsum(0) / len(labels) ** 0.5
        own *= 1 + power * place[:, None, None] / len(labels)
        own += drift * walk[place][:, :, None] + evoked * patterns[labels] * response
        own += before * patterns[labels] * (time < 0)
        places.append(place)
    part = torch.arange(SUBJECTS * len(labels)) % EACH
    return EEGDataset(
        name="made up", trials=trials, sampling_rate=RATE, start=start, channels=tuple("abcdefgh"), montage=None,
        labels=labels.repeat(SUBJECTS), subjects=torch.arange(1, SUBJECTS + 1).repeat_interleave(len(labels)),
        images=torch.full((len(trials),), -1), image_ids=(), class_names=tuple("uvwxyz"), captions={},
        image_folder=None, lengths=torch.full((len(trials),), SAMPLES), fingerprint="f",
        splits={name: torch.nonzero(inside).flatten() for name, inside in
                {"train": part < 14, "val": (part >= 14) & (part < 17), "test": part >= 17}.items()},
        order=torch.cat(places) if order else None,
    )  # fmt: skip


def audited(**made) -> dict[str, confounds.Audit]:
    data = made_up(**made)
    return confounds.audits(data, torch.cat([data.splits["train"], data.splits["val"]]))


def test_nothing_is_raised_by_a_mixed_order_whatever_drifts_and_is_evoked():
    for made in ({}, {"drift": 2.0}, {"evoked": 1.0}, {"drift": 1.0, "evoked": 1.0}):
        found = audited(**made)
        assert not any(confounds.flags(found).values()), made
        assert confounds.verdict(found).startswith("In none of 3 audits")
        assert found["time alone"].chance == pytest.approx(1 / CLASSES, abs=0.03)


def test_a_block_design_is_raised_by_time_and_by_drift_only_if_there_is_some():
    still, moving = audited(block=True), audited(block=True, drift=1.0)
    assert confounds.flags(still) == {"time alone": True, "succession": True, "slow drift": False}
    assert all(confounds.flags(moving).values())
    assert still["succession"].value == pytest.approx(
        1 - (EACH - 1) / (CLASSES * EACH - 1), abs=0.01
    )  # beyond what is expected
    assert moving["time alone"].value > 0.9 and moving["slow drift"].value > 0.4
    assert "in 3 of 3 audits" in confounds.verdict(moving) and "by chance 1" in confounds.verdict(moving)
    assert moving["slow drift"].p == moving["slow drift"].score["p_floor"] == 1 / 200


def test_one_class_in_a_block_is_found_among_many():
    data = made_up()
    order = data.order.clone()
    for subject in (1, 2):
        own = torch.nonzero(data.subjects == subject).flatten()
        first = (data.labels[own] != 2).int()  # class 2 before all others, which stay mixed
        order[own] = (first * 1000 + data.order[own]).argsort().argsort()
    found = confounds.audits(replace(data, order=order), data.splits["train"])
    assert found["succession"].value > 0.75 > found["succession"].null.max() and found["succession"].p == 1 / 200


def test_the_highest_of_many_is_high_by_chance_and_p_knows_it():
    values = [audited(seed=seed)["succession"] for seed in range(12)]
    assert all(audit.value > 0.2 / CLASSES for audit in values)  # each looks like more than chance for one class
    assert sum(audit.p <= 0.1 for audit in values) <= 4


def test_what_is_there_before_onset_is_found_and_what_comes_after_is_not():
    assert "before onset" not in audited()
    quiet, loud = audited(start=-0.2, evoked=2.0), audited(start=-0.2, before=0.5)
    assert not confounds.flags(quiet)["before onset"] and confounds.flags(loud)["before onset"]
    assert loud["before onset"].value > 0.5


def test_responses_are_no_slow_drift():
    """Not even one that lasts as long as the trial: another trial's mean knows nothing of it in a mixed order."""
    data = made_up(seed=1)
    data.trials.add_(data.labels[:, None, None])
    found = confounds.audits(data, data.splits["train"])
    assert found["order of labels"].value > 0.3 and not confounds.flags(found)["slow drift"]
    own = confounds.audits(replace(data, order=None), data.splits["train"])
    assert own["own mean"].p == 1 / 200 and confounds.verdict(own) == "No audit was possible."


def test_the_eeg_tells_the_time_where_it_drifts_in_mean_or_power():
    found = audited()["EEG tells time"]
    assert found.p > 0.05 and abs(found.value) < 0.2
    for made in ({"drift": 1.0}, {"power": 1.0}):
        found = audited(**made)["EEG tells time"]
        assert found.p == 1 / 200 and found.value > found.null.max(), made


def test_labels_that_keep_their_order_are_decoded_from_drift_and_not_from_responses():
    drifting = audited(block=True, drift=2.0)["order of labels"]
    evoked = audited(evoked=1.0)["order of labels"]
    assert drifting.chance > 0.5 and evoked.chance < 0.25 < 0.6 < evoked.value and evoked.p == 1 / 200


def test_without_an_order_only_what_needs_none_is_asked():
    found = audited(order=False, start=-0.2)
    assert set(found) == {"own mean", "before onset"} and set(confounds.flags(found)) == {"before onset"}
    assert distance_in_time(made_up(order=False)) is None


def test_too_few_trials_or_one_class_are_no_audit():
    data = made_up()
    assert confounds.audits(data, torch.arange(4)) == {} == confounds.audits(data, torch.arange(EACH))
    assert confounds.verdict({}) == "No audit was possible." and confounds.flags({}) == {}


def test_the_closed_form_is_ridge_regression_without_the_fold():
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(40, 5, generator=generator), torch.randn(40, generator=generator).double()
    folds = torch.arange(40) % confounds.FOLDS
    decoded = confounds._decoder(features, folds).double() @ targets
    inputs = ((features - features.mean(0)) / features.std(0)).double()
    inside, mean = folds != 2, targets[folds != 2].mean()
    gram = inputs[inside].T @ inputs[inside] + 5 * confounds.PENALTY * torch.eye(5)
    weights = torch.linalg.solve(gram, inputs[inside].T @ (targets[inside] - mean))
    assert decoded[~inside] == pytest.approx((inputs[~inside] @ weights + mean), abs=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_test_trials_have_no_part():
    data = made_up(block=True, drift=0.2)
    seen = torch.cat([data.splits["train"], data.splits["val"]])
    one = {name: audit.score for name, audit in confounds.audits(data, seen, 3).items()}
    data.trials[data.splits["test"]] = 1e6
    data.labels[data.splits["test"]] = 0
    assert one == {name: audit.score for name, audit in confounds.audits(data, seen, 3).items()}


def test_distance_in_time_is_to_the_nearest_training_trial_of_the_subject():
    data = made_up(block=True)
    places = data.order[data.splits["train"]][data.subjects[data.splits["train"]] == 1]
    for trial, found in zip(data.splits["test"].tolist()[:9], distance_in_time(data).tolist(), strict=False):
        assert found == (places - data.order[trial]).abs().min()
    alone = {**data.splits, "train": data.splits["train"][data.subjects[data.splits["train"]] == 1]}
    distance = distance_in_time(replace(data, splits=alone))
    assert torch.isinf(distance).sum() == len(distance) // 2
