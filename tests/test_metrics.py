"""Metrics on cases with known answers, and against independent implementations."""

from math import comb

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, top_k_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from brainvis.evaluation.scores import (
    classification_scores,
    confusion_matrix,
    guess_from_classes,
    mean_interval,
    n_way_accuracy,
    n_way_expectation,
    n_way_of_trials,
    paired_difference,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def noisy_logits(rng, labels, classes, signal):
    return rng.normal(size=(len(labels), classes)) + signal * np.eye(classes)[labels]


# Classification


@pytest.mark.parametrize("classes", [6, 40])
def test_scores_equal_scikit_learn_and_torchmetrics(rng, classes):
    labels = rng.integers(0, classes - 1, 150)  # the last class never occurs
    logits = noisy_logits(rng, labels, classes, 1.5)
    scores = classification_scores(logits, torch.as_tensor(labels), n_bootstrap=10)
    tensors = torch.as_tensor(logits), torch.as_tensor(labels)
    shares = np.sort(np.bincount(labels) / len(labels))[::-1]
    assert [name for name in scores if name.startswith("top")] == [f"top{k}" for k in (1, 3, 5) if 2 * k <= classes]
    for k in (k for k in (1, 3, 5) if 2 * k <= classes):
        value = scores[f"top{k}"]["value"]
        assert value == pytest.approx(top_k_accuracy_score(labels, logits, k=k, labels=range(classes)))
        assert value == pytest.approx(float(multiclass_accuracy(*tensors, classes, average="micro", top_k=k)))
        assert scores[f"top{k}"]["chance"] == pytest.approx(shares[:k].sum())  # of always naming the k most frequent
    balanced = scores["balanced_accuracy"]
    assert balanced["value"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert balanced["chance"] == 1 / len(np.unique(labels))
    macro = scores["macro_f1"]["value"]
    assert macro == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert macro == pytest.approx(float(multiclass_f1_score(*tensors, classes, average="macro")), abs=1e-6)


def test_scores_of_a_case_counted_by_hand():
    logits = np.array([[3, 2, 1, 0.5], [3, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0]])
    scores = classification_scores(logits, [0, 1, 3, 3])
    assert scores["top1"]["value"] == 0.5
    assert scores["top1"]["chance"] == 0.5  # by somebody who always says 3
    assert not {"top3", "top5"} & set(scores)  # three of four classes say nothing
    assert scores["balanced_accuracy"]["value"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    # class 0: 1 hit of 3 predicted, 1 right: F1 1/2; class 1: 0; class 3: 1 of 1 predicted, of 2 right: 2/3
    assert scores["macro_f1"]["value"] == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)


def test_of_two_unequal_classes_balance_and_area_tell_what_accuracy_hides(rng):
    labels = (np.arange(80) % 8 == 0).astype(int)  # 12.5 % targets
    never = np.tile([1.0, 0.0], (80, 1))
    scores = classification_scores(never, labels)
    assert scores["top1"]["value"] == scores["top1"]["chance"] == 0.875
    assert scores["balanced_accuracy"]["value"] == scores["auc"]["value"] == 0.5 == scores["auc"]["chance"]
    logits = noisy_logits(rng, labels, 2, 1.0)
    auc = classification_scores(logits, labels)["auc"]
    assert auc["value"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    assert auc["low"] < auc["value"] < auc["high"] and auc["low"] > 0.5
    assert "auc" not in classification_scores(logits, np.zeros(80, int))  # nothing to tell apart


def test_equal_logits_are_no_knowledge():
    labels = np.arange(20) % 10
    assert classification_scores(np.zeros((20, 10)), labels)["top1"]["value"] == 0.1
    assert classification_scores(np.zeros((20, 10)), labels)["top5"]["value"] == 0.5


def test_bootstrap_intervals_match_a_plain_loop(rng):
    labels = rng.integers(0, 5, 60)
    logits = noisy_logits(rng, labels, 5, 1.0)
    scores = classification_scores(logits, labels, n_bootstrap=4000)
    plain = []
    for _ in range(500):
        drawn = rng.integers(0, 60, 60)
        predicted = logits[drawn].argmax(1)
        plain.append((np.mean(predicted == labels[drawn]), f1_score(labels[drawn], predicted, average="macro")))
    low, high = np.percentile(plain, (2.5, 97.5), axis=0)
    for name, index in (("top1", 0), ("macro_f1", 1)):
        assert scores[name]["low"] == pytest.approx(low[index], abs=0.04)
        assert scores[name]["high"] == pytest.approx(high[index], abs=0.04)


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    covered = 0
    for trial in range(200):
        interval = mean_interval(rng.random(100) < 0.4, n_bootstrap=500, seed=trial)
        covered += interval["low"] <= 0.4 <= interval["high"]
    assert 0.90 <= covered / 200 <= 0.99


def test_scores_are_repeatable(rng):
    labels = rng.integers(0, 4, 30)
    logits = noisy_logits(rng, labels, 4, 1.0)
    assert classification_scores(logits, labels, seed=3) == classification_scores(logits, labels, seed=3)
    assert classification_scores(logits, labels, seed=3) != classification_scores(logits, labels, seed=4)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 3], "labels run from 0 to 3, but there are 3 classes"),
        (np.zeros((2, 3)), [0, -1], "labels run from -1"),
        (np.zeros((2, 3)), [0], r"logits \(2, 3\) and labels \(1,\)"),
        (np.zeros((0, 3)), [], r"logits \(0, 3\)"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), [0, 1], "logits of trial 1 are not finite"),
    ],
)
def test_scores_refuse_what_does_not_fit(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(logits, labels)


def test_confusion_matrix_is_right_by_predicted(rng):
    labels = rng.integers(0, 7, 100)
    logits = noisy_logits(rng, labels, 7, 1.0)
    counts = confusion_matrix(logits, labels)
    assert np.array_equal(counts, sklearn_confusion(labels, logits.argmax(1), labels=range(7)))


def test_paired_difference_sees_what_both_classifiers_share(rng):
    labels = rng.integers(0, 4, 200)
    worse = noisy_logits(rng, labels, 4, 1.0)
    better = worse.copy()
    lost = np.flatnonzero(worse.argmax(1) != labels)[:20]
    better[lost] = 10 * np.eye(4)[labels[lost]]  # right wherever the other is, and on 20 trials more
    difference = paired_difference(better, worse, labels)["top1"]
    assert difference["value"] == pytest.approx(0.1)
    assert difference["p"] < 0.001
    # the difference is a proportion of 20 of 200 trials
    expected = 1.96 * np.sqrt(0.1 * 0.9 / 200)
    assert (difference["high"] - difference["low"]) / 2 == pytest.approx(expected, rel=0.15)
    reverse = paired_difference(worse, better, labels)["top1"]
    assert reverse["value"] == pytest.approx(-0.1)


def test_paired_difference_of_a_classifier_with_itself_is_nothing(rng):
    labels = rng.integers(0, 4, 50)
    logits = noisy_logits(rng, labels, 4, 1.0)
    for score in paired_difference(logits, logits, labels).values():
        assert score == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_paired_difference_of_equally_good_classifiers_has_uniform_p(rng):
    ps = []
    for trial in range(100):
        labels = rng.integers(0, 3, 200)
        a, b = (noisy_logits(rng, labels, 3, 1.0) for _ in range(2))
        ps.append(paired_difference(a, b, labels, n_bootstrap=300, seed=trial)["top1"]["p"])
    assert np.mean(np.array(ps) < 0.05) < 0.14
    assert np.mean(np.array(ps) < 0.5) > 0.3


# n-way accuracy


def test_n_way_accuracy_of_perfect_and_of_worst_pictures(rng):
    truth = rng.normal(size=(10, 12))
    best = n_way_accuracy(truth[:, None].repeat(3, 1), truth, ways=5)
    assert (best["value"], best["low"], best["high"], best["exact"]) == (1, 1, 1, 1)
    assert n_way_accuracy(-truth[:, None], truth, ways=5)["value"] == 0
    assert best["chance"] == 0.2


def test_n_way_expectation_is_the_average_over_all_draws(rng):
    from itertools import combinations

    generated, truth = rng.normal(size=(6, 2, 7)), rng.normal(size=(6, 7))
    exact = n_way_expectation(generated, truth, ways=4)
    for trial, label in enumerate(truth.argmax(1)):
        others = [c for c in range(7) if c != label]
        for sample in range(2):
            logits = generated[trial, sample]
            wins = [all(logits[c] < logits[label] for c in drawn) for drawn in combinations(others, 3)]
            assert len(wins) == comb(6, 3)
            assert exact[trial, sample] == pytest.approx(np.mean(wins))


def test_sampled_n_way_accuracy_approaches_its_expectation(rng):
    labels = rng.integers(0, 60, 40)
    truth = noisy_logits(rng, labels, 60, 10)
    generated = rng.normal(size=(40, 2, 60)) + 2.0 * np.eye(60)[labels][:, None]
    result = n_way_accuracy(generated, truth, ways=20, repeats=400)
    exact = n_way_expectation(generated, truth, 20)
    assert result["exact"] == pytest.approx(exact.mean())
    spread = np.sqrt((exact * (1 - exact)).sum() / 400) / exact.size
    assert abs(result["value"] - result["exact"]) < 4 * spread
    assert 0.2 < result["value"] < 0.9
    assert result == n_way_accuracy(generated, truth, ways=20, repeats=400)


def test_n_way_accuracy_with_all_classes_is_top_1(rng):
    generated, truth = rng.normal(size=(30, 1, 8)), rng.normal(size=(30, 8))
    generated[:15, 0] += truth[:15]
    expected = np.mean(generated[:, 0].argmax(1) == truth.argmax(1))
    assert n_way_accuracy(generated, truth, ways=8, repeats=2)["value"] == pytest.approx(expected)


def test_n_way_accuracy_of_noise_is_chance(rng):
    result = n_way_accuracy(rng.normal(size=(400, 2, 60)), rng.normal(size=(400, 60)), ways=50, repeats=10)
    assert result["low"] < 0.02 < result["high"]


def test_n_way_interval_is_over_trials_not_samples(rng):
    truth = rng.normal(size=(50, 10))
    one = truth[:, None] * rng.choice([-1, 1], (50, 1, 1))  # half right, half wrong, all samples of a trial alike
    many = n_way_accuracy(one.repeat(20, 1), truth, ways=5)
    few = n_way_accuracy(one, truth, ways=5)
    assert (many["low"], many["high"]) == pytest.approx((few["low"], few["high"]))


def test_n_way_accuracy_refuses_more_ways_than_classes(rng):
    with pytest.raises(ValueError, match="50 ways, but the judge knows 40 classes; choose from 2 to 40 ways"):
        n_way_accuracy(rng.normal(size=(2, 1, 40)), rng.normal(size=(2, 40)))
    with pytest.raises(ValueError, match="do not fit"):
        n_way_accuracy(rng.normal(size=(2, 1, 40)), rng.normal(size=(3, 40)), ways=5)


def test_n_way_accuracy_is_the_mean_of_its_trials(rng):
    generated, truth = rng.normal(size=(30, 2, 9)), rng.normal(size=(30, 9))
    of_trials = n_way_of_trials(generated, truth, ways=4, seed=1)
    score = n_way_accuracy(generated, truth, ways=4, seed=1)
    assert of_trials.shape == (30,) and score["value"] == of_trials.mean()
    strata = np.arange(30) % 3
    within = n_way_accuracy(generated, truth, ways=4, seed=1, strata=strata)
    assert within == score | mean_interval(of_trials, seed=1, strata=strata)


# What class scores alone would find


def test_guessing_from_classes_is_the_average_over_random_orders(rng):
    """Against texts that are sorted: by the score of their class, at random among those of one class."""
    texts = np.array([1, 4, 2, 6])
    classes = np.repeat(np.arange(4), texts)  # of each text
    labels = np.array([0, 1, 2, 3, 3])
    logits = rng.normal(size=(5, 4))
    for k in (1, 5):
        found = np.zeros(5)
        for trial, label in enumerate(labels):
            for _ in range(4000):
                order = np.lexsort((rng.random(len(classes)), -logits[trial, classes]))
                found[trial] += np.flatnonzero(classes == label)[0] in order[:k]
        assert guess_from_classes(logits, labels, texts, k) == pytest.approx(found / 4000, abs=0.04)


def test_who_knows_the_class_alone_finds_one_of_its_captions():
    labels = np.arange(4)
    sure = np.eye(4)[[0, 1, 2, 0]]  # the last one is taken for the first class
    assert guess_from_classes(sure, labels, np.full(4, 20), 1) == pytest.approx([0.05, 0.05, 0.05, 0])
    assert guess_from_classes(sure, labels, np.full(4, 20), 5) == pytest.approx([0.25, 0.25, 0.25, 0])
    assert guess_from_classes(sure, labels, np.ones(4), 1) == pytest.approx([1, 1, 1, 0])  # class names
