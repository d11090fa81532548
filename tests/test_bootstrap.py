"""Resampled pictures within classes: against plain loops and textbook formulas, and on worlds whose truth is known."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from brainvis.evaluation.bootstrap import (
    LEAST_P,
    holm,
    interval,
    mean_difference,
    mean_interval,
    p_text,
    resample_weights,
    weighted_means,
)
from brainvis.evaluation.scores import classification_scores, paired_difference, scores_by_subject

CLASSES, PICTURES, SUBJECTS = 12, 3, 4  # pictures of a class; each seen by every subject


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def world(rng, pictures: int = PICTURES, subjects: int = SUBJECTS):
    """Logits, labels and pictures of trials: what a picture is like matters more than who looks at it."""
    labels = np.repeat(np.arange(CLASSES), pictures * subjects)
    shown = np.repeat(np.arange(CLASSES * pictures), subjects)
    ease = np.linspace(-0.5, 2.5, CLASSES)  # some classes are easier
    logits = rng.normal(size=(CLASSES * pictures, CLASSES))[shown] + 0.5 * rng.normal(size=(len(labels), CLASSES))
    logits[np.arange(len(labels)), labels] += ease[labels]
    return logits, labels, shown


def plain_weights(labels, shown, rng):
    """One resample, group by group."""
    weights = np.zeros(len(labels))
    for label in np.unique(labels):
        pictures = np.unique(shown[labels == label])
        for drawn in rng.choice(pictures, len(pictures) - 1):
            weights[(shown == drawn) & (labels == label)] += len(pictures) / (len(pictures) - 1)
    return weights


def test_weights_are_those_of_a_plain_loop(rng):
    _, labels, shown = world(rng)
    weights = resample_weights(len(labels), 2000, groups=shown, strata=labels)
    plain = np.stack([plain_weights(labels, shown, rng) for _ in range(300)])
    assert set(np.unique(weights)) == set(np.unique(plain)) == {0.0, 1.5, 3.0}
    for some in (weights, plain):
        by_class = some.reshape(len(some), CLASSES, PICTURES, SUBJECTS)
        assert np.allclose(by_class.sum((2, 3)), PICTURES * SUBJECTS)  # each class as often as it was tested
        assert (by_class == by_class[..., :1]).all()  # all trials of a picture or none
        assert some.mean(0) == pytest.approx(np.ones(len(labels)), abs=0.2)
        assert some.var(0) == pytest.approx(np.full(len(labels), 1.0), abs=0.3)  # (n / (n - 1))^2 (n - 1) / n (1 - 1/n)


def test_the_variance_of_a_mean_is_the_textbooks(rng):
    """Of a stratified sample of clusters: the sum of (share of the stratum)^2 s^2 / n, s^2 with n - 1 below."""
    strata = np.repeat([0, 1, 2], [2, 3, 7])
    values = rng.normal(size=12) + 5 * strata
    expected = sum((n / 12) ** 2 * values[strata == one].var(ddof=1) / n for one, n in enumerate((2, 3, 7)))
    resampled = weighted_means(values, resample_weights(12, 40_000, strata=strata))
    assert resampled.mean() == pytest.approx(values.mean(), abs=0.01)
    assert resampled.var() == pytest.approx(expected, rel=0.03)
    thrice = weighted_means(
        values.repeat(3), resample_weights(36, 40_000, groups=np.arange(12).repeat(3), strata=strata.repeat(3))
    )
    assert thrice.var() == pytest.approx(expected, rel=0.03)  # trials that repeat a picture add nothing


def test_classes_of_one_picture_are_put_together(rng):
    values = rng.normal(size=20)
    apart = mean_interval(values, strata=np.arange(20))
    assert apart == mean_interval(values) and apart["low"] < apart["high"]
    weights = resample_weights(5, 100, strata=[0, 0, 1, 1, 2])
    assert (weights[:, 4] == 1).all() and (weights[:, :4] != 1).all()  # a single one that is left over stays


def test_trials_without_a_picture_stand_for_themselves(rng):
    values, strata = rng.normal(size=30), np.arange(30) % 3
    assert mean_interval(values, groups=np.full(30, -1), strata=strata) == mean_interval(values, strata=strata)
    mixed = resample_weights(6, 500, groups=[7, 7, 7, -1, -1, -1])
    assert (mixed[:, 0] == mixed[:, 1]).all() and (mixed[:, 3] != mixed[:, 4]).any()


def test_one_picture_in_two_classes_is_two_groups():
    weights = resample_weights(4, 500, groups=[1, 2, 1, 2], strata=[0, 0, 1, 1])
    assert (weights[:, 0] != weights[:, 2]).any() and (weights[:, :2].sum(1) == 2).all()


@pytest.mark.parametrize("wrong", [{"groups": [0, 1]}, {"strata": [0, 1, 2, 3]}])
def test_groups_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="3 trials, groups .* give one of each per trial"):
        mean_interval(np.arange(3.0), **wrong)
    with pytest.raises(ValueError, match="0 trials"):
        mean_interval([])


def test_scores_are_those_of_scikit_learn_in_every_resample(rng):
    logits, labels, shown = world(rng)
    scores = classification_scores(logits, labels, n_bootstrap=200, seed=3, groups=shown)
    predicted, weights = logits.argmax(1), resample_weights(len(labels), 200, 3, shown, labels)
    plain = [np.average(predicted == labels, weights=one) for one in weights]
    assert scores["top1"] == pytest.approx(interval(np.mean(predicted == labels), np.array(plain)) | {"chance": 1 / 12})
    macro = [f1_score(labels, predicted, average="macro", sample_weight=one) for one in weights]
    value = f1_score(labels, predicted, average="macro")
    assert scores["macro_f1"] == pytest.approx(interval(value, np.array(macro) - np.mean(macro) + value))


def test_the_interval_of_macro_f1_lies_around_its_value(rng):
    """Three trials of each of 40 classes, as in the default study; resamples that lack classes lie below the value."""
    labels = np.arange(120) % 40
    predicted = np.where(rng.random(120) < 0.78, labels, rng.integers(0, 40, 120))
    score = classification_scores(np.eye(40)[predicted], labels)["macro_f1"]
    below, above = score["value"] - score["low"], score["high"] - score["value"]
    assert 0.8 < above / below < 1.25
    drawn = rng.integers(0, 120, (400, 120))  # trials, whatever their class
    lacking = [f1_score(labels[rows], predicted[rows], average="macro") for rows in drawn]
    low, high = np.percentile(lacking, (2.5, 97.5))
    assert (high - score["value"]) / (score["value"] - low) < 0.6


def test_intervals_cover_the_truth_of_a_world_with_pictures(rng):
    """Counting trials instead of pictures covers far too rarely: four subjects' trials of one picture are alike."""
    logits, labels, _ = world(rng, pictures=2000)
    truth = {name: classification_scores(logits, labels, n_bootstrap=1)[name]["value"] for name in ("top1", "macro_f1")}
    covered = {key: 0 for key in ("top1", "macro_f1", "trials alone", "macro_f1 of trials")}
    for repeat in range(200):
        logits, labels, shown = world(rng)
        scores = classification_scores(logits, labels, n_bootstrap=300, seed=repeat, groups=shown)
        for name, true in truth.items():
            covered[name] += scores[name]["low"] <= true <= scores[name]["high"]
        alone = classification_scores(logits, labels, n_bootstrap=300, seed=repeat)
        covered["trials alone"] += alone["top1"]["low"] <= truth["top1"] <= alone["top1"]["high"]
        covered["macro_f1 of trials"] += alone["macro_f1"]["low"] <= truth["macro_f1"] <= alone["macro_f1"]["high"]
    assert 0.87 <= covered["top1"] / 200 <= 0.99 and 0.87 <= covered["macro_f1"] / 200 <= 0.99
    assert covered["trials alone"] / 200 < 0.8 and covered["macro_f1 of trials"] / 200 < 0.8


def test_differences_are_resampled_by_picture_too(rng):
    logits, labels, shown = world(rng)
    other = logits + rng.normal(size=(CLASSES * PICTURES, CLASSES))[shown]
    by_picture = paired_difference(logits, other, labels, groups=shown)["top1"]
    by_trial = paired_difference(logits, other, labels)["top1"]
    assert by_picture["value"] == by_trial["value"]
    assert by_picture["high"] - by_picture["low"] > 1.2 * (by_trial["high"] - by_trial["low"])
    hits = [(values.argmax(1) == labels).astype(float) for values in (logits, other)]
    one_by_one = mean_difference(hits[0] - hits[1], groups=shown, strata=labels)
    assert one_by_one == pytest.approx(by_picture)


def test_all_subjects_are_resampled_together_by_picture(rng):
    logits, labels, shown = world(rng)
    subjects = np.tile(np.arange(SUBJECTS), CLASSES * PICTURES)
    scores = scores_by_subject(logits, labels, subjects, 5, shown)
    assert scores["all"] == classification_scores(logits, labels, seed=5, groups=shown)
    own = subjects == 2
    assert scores["subject 2"] == classification_scores(logits[own], labels[own], seed=5)  # one trial a picture


def test_p_has_a_floor_and_is_printed_so(rng):
    sure = mean_difference(np.ones(50))
    assert 0 < sure["p"] < LEAST_P and p_text(sure["p"]) == "p < 0.001"
    corrected = holm({name: sure["p"] for name in range(12)})
    assert p_text(corrected[0], 12 * LEAST_P) == "p < 0.012"
    assert [p_text(p) for p in (0.034, 0.00123, 1.0, 1e-9)] == ["p = 0.034", "p = 0.0012", "p = 1", "p < 0.001"]
    assert p_text(1 / 101, least=1 / 100) == "p < 0.01" and p_text(2 / 101, least=1 / 100) == "p = 0.02"


def test_holm_equals_known_examples():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    values = holm(dict(enumerate((0.01, 0.02, 0.03, 0.04, 0.05))))
    assert list(values.values()) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm({"one": 0.7}) == {"one": 0.7} and holm({}) == {} and holm({1: 0.6, 2: 0.9}) == {1: 1.0, 2: 1.0}


def test_holm_keeps_its_level_for_the_whole_family(rng):
    """Five tests of nothing: one of them is below .05 in a quarter of the cases, after the correction in 5 %."""
    families = rng.random((4000, 5))
    plain, corrected = families.min(1) < 0.05, [min(holm(dict(enumerate(f))).values()) < 0.05 for f in families]
    assert plain.mean() > 0.2 and 0.035 < np.mean(corrected) < 0.065
