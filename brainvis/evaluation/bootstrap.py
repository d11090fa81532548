"""Intervals and p-values by resampling trials: whole pictures are drawn within classes, and families are corrected.

Trials that show the same picture are not independent evidence, so they are drawn together. Each class is drawn as often
as it was tested: a test part has equally many trials of each by design, and a resample that lacks classes would
describe a different design, especially for macro F1.

If several seeds were run on the same trials, values are (seed, trial): the estimate is the mean over seeds, and each
resample draws seeds, then trials, the same ones for all seeds (a hierarchical bootstrap).
"""

from collections.abc import Hashable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percent
LEVEL = 0.05  # for a family of tests, after correction
LEAST_P = 2 / RESAMPLES  # smallest two-sided p that this many resamples can resolve


def resample_weights(
    trials: int,
    n_bootstrap: int = RESAMPLES,
    seed: int = 0,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """How much each trial counts in each bootstrap resample: (resample, trial).

    Of the n groups of a stratum, n - 1 are drawn with replacement, and each counts n / (n - 1) times (Rao and Wu 1988,
    Journal of the American Statistical Association 83, 231-241): n draws would make the variance too small by the
    factor (n - 1) / n, a third if a class has three pictures. Strata with only one group are merged, as nothing could
    vary within them; if a single group is left over, it is in every resample unchanged.

    Args:
        groups: (trial,) int, such as the picture shown; below 0: a group of its own. None: every trial is its own.
        strata: (trial,) int, such as the class; None: one stratum. Groups are distinguished within each stratum.

    Raises:
        ValueError: no trials, or groups or strata that are not one per trial.
    """
    places = np.arange(trials)
    groups = places if groups is None else np.asarray(groups)
    strata = np.zeros(trials, int) if strata is None else np.asarray(strata)
    if not trials or groups.shape != places.shape or strata.shape != places.shape:
        raise ValueError(f"{trials} trials, groups {groups.shape}, strata {strata.shape}: give one of each per trial")
    groups = np.where(groups < 0, groups.max() + 1 + places, groups)
    units, unit = np.unique(np.stack([strata, groups]), axis=1, return_inverse=True)  # (2, unit), (trial,)
    _, stratum, sizes = np.unique(units[0], return_inverse=True, return_counts=True)
    stratum[sizes[stratum] == 1] = -1
    weights = np.ones((n_bootstrap, len(stratum)))
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    for members in (np.flatnonzero(stratum == one) for one in np.unique(stratum)):
        if (count := len(members)) > 1:
            drawn = rng.multinomial(count - 1, np.full(count, 1 / count), size=n_bootstrap)
            weights[:, members] = drawn * (count / (count - 1))
    return weights[:, unit]


def weighted_means(values: ArrayLike, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of one value per trial, (trial,), in each resample: (resample,)."""
    return weights @ np.asarray(values, float) / (weights @ np.ones(weights.shape[1]))


def over_seeds(resampled: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Resamples (resample,) of the mean over seeds of a score, from those of each seed (seed, resample), which draw the
    same trials: each draws n - 1 of the n seeds with replacement, like the groups in `resample_weights`.

    A few seeds say little about their own scatter. In simulations with 120 trials and three seeds, 95 % intervals
    contain the mean over all seeds in .96 of cases if seeds have a standard deviation of .05, and in .90 if it is .15;
    with two seeds, in .94 and .82.
    """
    resampled = np.atleast_2d(np.asarray(resampled, float))
    if (count := len(resampled)) == 1:
        return resampled[0]
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    drawn = rng.multinomial(count - 1, np.full(count, 1 / count), size=resampled.shape[1])  # (resample, seed)
    return (drawn.T * resampled).sum(0) / (count - 1)


def interval(value: float, resampled: NDArray[np.float64]) -> dict[str, float]:
    """{"value", "low", "high"}: a score and its 95 % percentile interval."""
    low, high = np.percentile(resampled, INTERVAL)
    return {"value": float(value), "low": float(low), "high": float(high)}


def interval_and_p(value: float, resampled: NDArray[np.float64]) -> dict[str, float]:
    """The same for a difference, with a two-sided "p": the share of resamples that have the other sign or are zero.

    It is never below 2 / (resamples + 1); `p_text` formats it.
    """
    zero = 1e-12  # equal sums added in a different order may differ by this
    tail = 1 + min((resampled <= zero).sum(), (resampled >= -zero).sum())
    return {**interval(value, resampled), "p": float(min(1.0, 2 * tail / (len(resampled) + 1)))}


def mean_interval(
    values: ArrayLike,
    n_bootstrap: int = RESAMPLES,
    seed: int = 0,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> dict[str, float]:
    """Mean of one value per trial, (trial,) or (seed, trial), with its interval; groups and strata as in
    `resample_weights`."""
    values = np.asarray(values, float)
    return interval(values.mean(), _resampled_means(values, n_bootstrap, seed, groups, strata))


def mean_difference(
    differences: ArrayLike,
    n_bootstrap: int = RESAMPLES,
    seed: int = 0,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> dict[str, float]:
    """Mean of one paired difference per trial, (trial,) or (seed, trial): {"value", "low", "high", "p"}, see
    `interval_and_p`."""
    differences = np.asarray(differences, float)
    return interval_and_p(differences.mean(), _resampled_means(differences, n_bootstrap, seed, groups, strata))


def _resampled_means(values: NDArray, n_bootstrap: int, seed: int, groups: ArrayLike | None, strata: ArrayLike | None):
    weights = resample_weights(values.shape[-1], n_bootstrap, seed, groups, strata)
    return over_seeds([weighted_means(of_seed, weights) for of_seed in np.atleast_2d(values)], seed)


def holm(p_values: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """p-values of a family of tests, corrected by Holm (1979): compared with a level, they keep it for all together."""
    corrected, largest, count = {}, 0.0, len(p_values)
    for rank, name in enumerate(sorted(p_values, key=p_values.get)):
        largest = max(largest, min(1.0, (count - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def p_text(p: float, least: float = LEAST_P) -> str:
    """A p-value for readers: "p = 0.034", or "p < 0.001" if it is below the smallest that can be resolved.

    `least` is 1 / permutations, or 2 / resamples for a two-sided test, times the size of the family after `holm`.
    """
    return f"p < {least:.3g}" if p < least else f"p = {p:.2g}"
