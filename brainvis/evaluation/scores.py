"""Metrics of logits: classification scores with bootstrap intervals, and n-way accuracy of generated pictures (GA).

Every score is {"value", "low", "high"}: the estimate and its 95 % bootstrap interval, see `bootstrap`. Among equal
logits, the class with the lower number always wins.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from brainvis.evaluation.bootstrap import (
    RESAMPLES,
    interval,
    interval_and_p,
    mean_interval,
    over_seeds,
    resample_weights,
    weighted_means,
)

TOP = (1, 3, 5)


def classification_scores(
    logits: ArrayLike, labels: ArrayLike, n_bootstrap: int = RESAMPLES, seed: int = 0, groups: ArrayLike | None = None
) -> dict:
    """Accuracy, balanced accuracy and macro F1 of logits (trial, class) for right classes (trial,), and for two classes
    the area under the ROC curve; for several seeds, (seed, trial, class), the means over seeds, with intervals that
    include the seeds, see `bootstrap.over_seeds`.

    Resamples are drawn within the right classes, so that none is without trials, and from whole `groups` (trial,), the
    picture that each trial shows; see `bootstrap.resample_weights`. Even so, macro F1 is lower in resamples than on the
    trials themselves, as an F1 over few trials loses more by a miss than it gains by a hit; its interval describes its
    scatter, so the mean of the resamples is shifted to the value.

    Returns `top1`, `top3`, `top5`, the latter two only with at least 2 k classes, as naming half of them says nothing;
    `balanced_accuracy`, the mean recall over the classes that occur; `auc`, if there are two classes and both occur:
    how often a trial of the second class is rated above one of the first; `macro_f1` over the classes that occur among
    labels or predictions, as in scikit-learn; `trials`, `classes`. All but F1 have their "chance": for top-k it is that
    of always naming the k most frequent classes of these trials.
    ValueError: no trials, shapes that do not fit, logits that are not finite, labels out of range.
    """
    resampled, labels, classes = _resampled(logits, labels, n_bootstrap, seed, groups)
    scores = {name: interval(*values) for name, values in resampled.items()}
    for name, chance in chances(labels, classes).items():
        scores[name]["chance"] = chance
    return {**scores, "trials": len(labels), "classes": classes}


def tops(classes: int) -> list[int]:
    """The k of `TOP` for which top-k is informative with this many classes."""
    return [k for k in TOP if k == 1 or 2 * k <= classes]


def chances(labels: ArrayLike, classes: int) -> dict[str, float]:
    """Chance levels of the scores for labels (trial,): for top-k, the share of the k most frequent classes."""
    counts = np.sort(np.bincount(labels, minlength=classes))[::-1]
    found = {f"top{k}": float(counts[:k].sum() / len(labels)) for k in tops(classes)}
    found["balanced_accuracy"] = 1 / int((counts > 0).sum())
    return found | ({"auc": 0.5} if classes == 2 and counts.all() else {})


def paired_difference(
    logits: ArrayLike,
    other: ArrayLike,
    labels: ArrayLike,
    n_bootstrap: int = RESAMPLES,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> dict[str, dict[str, float]]:
    """How much better one classifier is than another on the same trials: paired bootstrap of score - other score; for
    several seeds, over seeds and trials.

    Returns {"value", "low", "high", "p"} for each of `classification_scores`, see `bootstrap.interval_and_p`; logits
    and resamples are the same.
    """
    if np.ndim(logits) != np.ndim(other) or len(logits) != len(other):
        raise ValueError(f"logits {np.shape(logits)} and {np.shape(other)} must be of the same seeds and trials")
    first, second = (_resampled(each, labels, n_bootstrap, seed, groups)[0] for each in (logits, other))
    return {
        name: interval_and_p(value - second[name][0], resampled - second[name][1])
        for name, (value, resampled) in first.items()
    }


def confusion_matrix(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Trials by (right class, predicted class): (class, class)."""
    logits, labels = _checked(logits, labels)
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)


def n_way_accuracy(
    generated: ArrayLike,
    truth: ArrayLike,
    ways: int = 50,
    repeats: int = 50,
    seed: int = 0,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> dict[str, float | int]:
    """Generation accuracy (GA): n-way top-1 accuracy of a judge on generated pictures, BrainVis section 4.

    The mean of `n_way_of_trials` with its interval; groups and strata (trial,) as in `bootstrap.resample_weights`.

    Returns:
        {"value", "low", "high", "exact", "chance", "ways", "repeats", "trials", "samples"}; `exact` is the mean of
        `n_way_expectation`. ValueError: as `n_way_of_trials`.
    """
    accuracy = n_way_of_trials(generated, truth, ways, repeats, seed)
    score = mean_interval(accuracy, seed=seed, groups=groups, strata=strata)
    expected = n_way_expectation(generated, truth, ways)  # (trial, sample)
    size = {"ways": ways, "repeats": repeats, "trials": len(expected), "samples": expected.shape[1]}
    return {**score, "exact": float(expected.mean()), "chance": 1 / ways, **size}


def n_way_of_trials(
    generated: ArrayLike, truth: ArrayLike, ways: int = 50, repeats: int = 50, seed: int = 0
) -> NDArray[np.float64]:
    """n-way top-1 accuracy on each trial's generated pictures, (trial,), averaged over rounds and samples.

    The right class of a trial is the judge's own answer for the picture shown. It competes with `ways` - 1 other
    classes, drawn again in each of `repeats` rounds; the draws are the same for equally many pictures of the same
    trials.

    Args:
        generated, truth: the judge's logits (trial, sample, class), and (trial, class) of the pictures shown.

    Raises:
        ValueError: more ways than classes, fewer than two, or shapes that do not fit.
    """
    generated, truth = _finite(generated), _finite(truth)
    if generated.ndim != 3 or truth.shape != (generated.shape[0], generated.shape[2]) or not generated.size:
        raise ValueError(f"logits (trial, sample, class) {generated.shape} do not fit those of the truth {truth.shape}")
    trials, samples, classes = generated.shape
    if not 2 <= ways <= classes:
        raise ValueError(f"{ways} ways, but the judge knows {classes} classes; choose from 2 to {classes} ways")
    rng = np.random.default_rng(seed)
    right = truth.argmax(1)
    beaten_by = _beats(generated, right)
    accuracy = np.empty((trials, samples))
    for trial, label in enumerate(right):
        others = np.delete(beaten_by[trial], label, axis=1)  # (sample, class - 1)
        # The smallest ways - 1 of random keys are a draw without replacement.
        keys = rng.random((repeats, samples, classes - 1))
        drawn = np.argpartition(keys, ways - 2, axis=2)[..., : ways - 1]
        accuracy[trial] = (~np.take_along_axis(others[None], drawn, axis=2).any(2)).mean(0)
    return accuracy.mean(1)


def n_way_expectation(generated: ArrayLike, truth: ArrayLike, ways: int) -> NDArray[np.float64]:
    """Probability over all draws of distractors that the right class wins: (trial, sample).

    With C classes, m of which beat the right one: binomial(C - 1 - m, ways - 1) / binomial(C - 1, ways - 1).
    """
    generated, truth = _finite(generated), _finite(truth)
    others, drawn = generated.shape[2] - 1, ways - 1
    harmless = others - _beats(generated, truth.argmax(1)).sum(2)  # (trial, sample)
    possible = harmless >= drawn
    harmless = np.maximum(harmless, drawn)  # any valid number where the answer is 0 anyway
    return np.where(possible, np.exp(_log_binomial(harmless, drawn) - _log_binomial(others, drawn)), 0.0)


def guess_from_classes(logits: ArrayLike, labels: ArrayLike, texts: ArrayLike, k: int) -> NDArray[np.float64]:
    """Probability (trial,) that the right text is among the first k if only the class scores are known.

    The texts of the predicted class come first, then those of the second, each in random order; so knowledge beyond the
    class starts here, not at chance. `logits` (trial, class); `texts` (class,), the number of texts for each.
    """
    (logits, labels), texts = _checked(logits, labels), np.asarray(texts, float)
    ahead = _beats(logits[:, None], labels)[:, 0] @ texts
    return ((k - ahead) / texts[labels]).clip(0, 1)


def spread_over_classes(labels: ArrayLike, count: int | None) -> NDArray[np.int64]:
    """Positions in labels (trial,), ascending, of `count` trials (None: all): first of each class, second, ..."""
    labels = pd.Series(np.asarray(labels))
    rank = labels.groupby(labels).cumcount()  # 0 for the first trial of its class
    return np.sort(np.lexsort((labels, rank))[:count])


def evenly(rows: Sequence[int], count: int) -> list[int]:
    """`count` of the rows, evenly spaced; all rows if there are no more."""
    count = min(count, len(rows))
    return [int(rows[i * len(rows) // count]) for i in range(count)]


def _beats(logits: NDArray, right: NDArray) -> NDArray[np.bool_]:
    """Which classes beat the right one: (trial, sample, class)."""
    own = np.take_along_axis(logits, right[:, None, None], axis=2)
    lower = np.arange(logits.shape[2]) < right[:, None, None]
    return (logits > own) | ((logits == own) & lower)


def _log_binomial(n, k):
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _scores(logits: NDArray, labels: NDArray, weights: NDArray) -> dict[str, tuple[float, NDArray]]:
    """Value of each score on the trials and on each resample (resample,)."""
    trials, classes = logits.shape
    rank = _beats(logits[:, None], labels)[:, 0].sum(1)  # 0: the right class comes first
    weights = np.concatenate([np.ones((1, trials)), weights])  # the trials themselves, then the resamples
    scores = {f"top{k}": weighted_means(rank < k, weights) for k in tops(classes)}
    one_hot, predicted = np.eye(classes)[labels], np.eye(classes)[logits.argmax(1)]  # (trial, class)
    hits, shown = weights @ (one_hot * predicted), weights @ one_hot  # (resample, class)
    recalls = np.divide(hits, shown, out=np.full_like(hits, np.nan), where=shown > 0)
    scores["balanced_accuracy"] = np.nanmean(recalls, axis=1)
    if classes == 2 and len(np.unique(labels)) == 2:
        scores["auc"] = _areas(logits[:, 1] - logits[:, 0], labels == 1, weights)
    occurring = shown + weights @ predicted  # 2 TP + FP + FN
    f1 = np.divide(2 * hits, occurring, out=np.full_like(hits, np.nan), where=occurring > 0)
    macro = np.nanmean(f1, axis=1)
    macro[1:] = (macro[1:] + macro[0] - macro[1:].mean()).clip(0, 1)  # see `classification_scores`
    scores["macro_f1"] = macro
    return {name: (values[0], values[1:]) for name, values in scores.items()}


def _areas(ratings: NDArray, second: NDArray, weights: NDArray) -> NDArray:
    """Area under the ROC curve in each resample (resample,): how often a trial of the second class is rated above one
    of the first, with ties counted half (Mann and Whitney)."""
    above = ratings[second][:, None] - ratings[~second]  # (trial of the second class, trial of the first)
    above = (np.sign(above) + 1) / 2
    pairs = weights[:, second].sum(1) * weights[:, ~second].sum(1)
    return ((weights[:, second] @ above) * weights[:, ~second]).sum(1) / pairs


def _resampled(
    logits: ArrayLike, labels: ArrayLike, n_bootstrap: int, seed: int, groups: ArrayLike | None
) -> tuple[dict[str, tuple[float, NDArray]], NDArray, int]:
    """Value and resamples (resample,) of each score, the mean over seeds of logits ([seed,] trial, class); the labels
    and the number of classes. The same labels and groups give the same draws, so that differences are paired."""
    of_seeds = [_checked(each, labels) for each in (logits if np.ndim(logits) == 3 else [logits])]
    classes, labels = of_seeds[0][0].shape[1], of_seeds[0][1]
    weights = resample_weights(len(labels), n_bootstrap, seed, groups, strata=labels)
    found = [_scores(each, labels, weights) for each, _ in of_seeds]  # (seed) of score -> value, (resample,)
    over = {
        name: (np.mean([one[name][0] for one in found]), over_seeds([one[name][1] for one in found], seed))
        for name in found[0]
    }
    return over, labels, classes


def _finite(logits: ArrayLike) -> NDArray[np.float64]:
    logits = np.asarray(logits, float)
    if not np.isfinite(logits).all():
        raise ValueError(f"logits of trial {np.argwhere(~np.isfinite(logits))[0, 0]} are not finite")
    return logits


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    logits, labels = _finite(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} must be (trial, class) and (trial,)")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {logits.shape[1]} classes")
    return logits, labels.astype(np.int64)


def scores_by_subject(
    logits: ArrayLike, labels: ArrayLike, subjects: ArrayLike, seed: int = 0, groups: ArrayLike | None = None
) -> dict[str, dict]:
    """`classification_scores` of all trials together ("all") and of each subject by itself ("subject 1", ...).

    `groups` (trial,) are the pictures shown: trials of several subjects may show the same one.
    """
    logits, labels, subjects = map(np.asarray, (logits, labels, subjects))
    groups = np.full(len(labels), -1) if groups is None else np.asarray(groups)
    parts = {"all": slice(None)} | {f"subject {subject}": subjects == subject for subject in np.unique(subjects)}
    return {
        name: classification_scores(logits[rows], labels[rows], seed=seed, groups=groups[rows])
        for name, rows in parts.items()
    }


def as_table(scores: dict[str, dict]) -> pd.DataFrame:
    """Results of `classification_scores` by name: one row each, values with their intervals as text."""
    cell = "{value:.3f} [{low:.3f}, {high:.3f}]"
    scores = {
        name: {key: score for key, score in of.items() if isinstance(score, dict) and "value" in score}
        for name, of in scores.items()
    }
    return pd.DataFrame(scores).map(lambda score: cell.format(**score), na_action="ignore").fillna("").T
