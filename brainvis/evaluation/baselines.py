"""Baselines: what plain classifiers read from the same trials and split, and from inputs without a response.

A deep model that does not beat these has learned nothing that needs depth; and if none of them is above chance, there
may be nothing to learn from so few trials. All are shown; none is picked. Two of them read what cannot contain a
response, the place of a trial in its session and the samples before the event: what they know is not the brain's
answer.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.linalg import cholesky, solve_triangular
from scipy.stats import binomtest
from sklearn.covariance import ledoit_wolf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from brainvis.data.dataset import EEGDataset, Partition
from brainvis.data.order import places_in_sessions
from brainvis.evaluation.bootstrap import holm
from brainvis.evaluation.evidence import evidence_text, p_above_chance
from brainvis.evaluation.features import (
    band_power,
    canonical_correlations,
    short_time_means,
    signal_to_noise,
    tangent_vectors,
)
from brainvis.evaluation.scores import classification_scores
from brainvis.models.encoder import unequal

INVERSE_PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
FAR_MORE = 2  # features than trials: where projecting onto the span of the trials pays off
LEAST_SCORE = -1e4  # score of a class without a training trial
FEWEST_SAMPLES = 16  # before the event: fewer say nothing about rhythms
LEVEL = 0.05
CONFOUNDS = {"place": "place in the session", "before_onset": "log band power before the event"}
BASELINES = {
    "band_power": "logistic regression on log band power",
    "short_time_means": "shrinkage LDA on means over 40 ms",
    "covariances": "logistic regression on covariances in tangent space",
    "flicker": "logistic regression on signal-to-noise at the flicker",
    "correlation": "logistic regression on canonical correlations with the flicker",
}


SHORT = {"band_power": "band power", "short_time_means": "short-time means", "covariances": "covariances"}
SHORT |= {
    "flicker": "flicker SNR",
    "correlation": "flicker CCA",
    "place": "place alone",
    "before_onset": "before onset",
}


@dataclass(frozen=True)
class Split:
    """Labels and indices of the trials that a baseline learns from and is tested on."""

    labels: np.ndarray  # (trial,) of all trials
    train: np.ndarray
    test: np.ndarray
    classes: int
    seed: int

    @property
    def balanced(self) -> bool:
        """Whether classes get equal weight because they are unbalanced in training."""
        return unequal(torch.from_numpy(self.labels[self.train]))


def baselines(data: EEGDataset, partition: Partition, highest: float | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Class scores (test trial, class) of all `BASELINES` and `CONFOUNDS` for which the data set has what is needed.

    Fitted on the training trials, with hyperparameters chosen within them; validation trials are not used. Band powers
    go up to `highest` hertz; `data.flicker` gives the frequencies of flickering lights, if any.
    """
    split, rate, trials = _split(data, partition, seed), data.sampling_rate, data.trials
    found = {"band_power": _logistic(band_power(trials, rate, highest), split)}
    found["short_time_means"] = _shrinkage_lda(short_time_means(trials, rate), split)
    found["covariances"] = _logistic(tangent_vectors(trials, partition.train, rate, data.flicker), split)
    if data.flicker:
        found["flicker"] = _logistic(signal_to_noise(trials, rate, data.flicker), split)
        found["correlation"] = _logistic(canonical_correlations(trials, rate, data.flicker), split)
    if data.sessions is not None and data.order is not None:
        found["place"] = _nearest_places(data, split)
    before = trials[..., data.times < 0] if data.before is None else data.before
    if before.shape[-1] >= FEWEST_SAMPLES:
        found["before_onset"] = _logistic(band_power(before, rate, highest), split)
    return {name: torch.from_numpy(scores).float().clamp(min=LEAST_SCORE) for name, scores in found.items()}


def scored(logits: dict[str, Tensor], labels: Tensor, groups: Tensor | None = None, seed: int = 0) -> dict[str, dict]:
    """`classification_scores` of each, and under "evidence" the result of `p_above_chance`."""
    found = {}
    for name, values in logits.items():
        found[name] = classification_scores(values, labels, seed=seed, groups=groups)
        found[name]["evidence"] = p_above_chance(values.argmax(1), labels, groups, seed)
        found[name]["balanced_accuracy"]["p"] = found[name]["evidence"]["p"]
    return found


def best_of(scores: dict[str, dict]) -> str:
    """The baseline with the highest balanced accuracy; confounds do not count."""
    return max((name for name in scores if name in BASELINES), key=lambda name: _balanced(scores[name]))


def verdict(scores: dict[str, dict]) -> str:
    """In words: whether there is something to learn, and whether inputs that cannot hold a response predict it too."""
    best, ps = best_of(scores), {name: one["evidence"]["p"] for name, one in scores.items()}
    known = {name: p for name, p in ps.items() if p is not None}
    corrected = holm({name: p for name, p in known.items() if name in BASELINES})
    told = (
        f"{BASELINES[best]}, {_balanced(scores[best]):.1%} balanced accuracy, {evidence_text(scores[best]['evidence'])}"
    )
    if corrected and min(corrected.values()) <= LEVEL:
        said = f"There is something to learn: the best of {len(corrected)} baselines is {told}."
    elif corrected:
        said = f"NOTHING TO LEARN, as far as this amount of data shows: none of {len(corrected)} baselines is above "
        said += f"chance (Holm-corrected p above {LEVEL:g}); the best is {told}."
    else:
        said = f"Too few independent test trials to say whether there is anything to learn; the best is {told}."
    for name in (name for name in CONFOUNDS if known.get(name, 1) <= LEVEL):
        said += f" BUT the {CONFOUNDS[name]} alone, which contains no response, reaches {_balanced(scores[name]):.1%}"
        said += f" ({evidence_text(scores[name]['evidence'])})."
    return said


def ahead(plain: dict[str, dict], name: str, network: dict) -> str:
    """Whether a network or the best baseline has the higher balanced accuracy; within an interval: no gain."""
    best = best_of(plain)
    of_plain, of_network = plain[best]["balanced_accuracy"], network["balanced_accuracy"]
    shown = "balanced accuracy {value:.1%} [{low:.1%}, {high:.1%}]"
    said = f"{name}: {shown.format(**of_network)}; best baseline, {BASELINES[best]}: {shown.format(**of_plain)}."
    if of_network["value"] == of_plain["value"]:
        return f"{said} Neither is ahead."
    inside = of_plain["low"] <= of_network["value"] <= of_plain["high"]
    first = name if of_network["value"] > of_plain["value"] else f"the baseline ({best})"
    return f"{said} Ahead: {first}{', but within the interval of the baseline' if inside else ''}."


def table(plain: dict[str, dict], networks: dict[str, dict]) -> pd.DataFrame:
    """Networks, baselines and confounds, one row each, for readers: scores with intervals, chance and p."""
    shown, rows = {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "top1": "accuracy"}, {}
    for name, score in (networks | plain).items():
        kind = "reads no response" if name in CONFOUNDS else "baseline" if name in plain else "network"
        cells = {
            title: "{value:.3f} [{low:.3f}, {high:.3f}]".format(**score[key])
            for key, title in shown.items()
            if key in score
        }
        p = evidence_text(score["evidence"]).removeprefix("p ").removeprefix("= ")
        rows[(BASELINES | CONFOUNDS).get(name, name)] = {"kind": kind, **cells, "p": p}
    chances = {title: f"{score[key]['chance']:.3f}" for key, title in shown.items() if key in score}
    return pd.DataFrame(rows | {"by chance": {"kind": "", **chances, "p": ""}}).T


def linear_baseline(
    dataset: EEGDataset,
    partition: Partition,
    frequencies: Sequence[float] | None = None,
    highest: float | None = None,
    seed: int = 0,
) -> dict:
    """Logistic regression, fitted on the training trials and scored once on the test trials.

    Features, standardised by the training trials: log band power, 1 Hz wide, of every channel up to `highest` hertz;
    with `frequencies` of flickering stimuli (hertz), the signal-to-noise ratio of the responses to them and their
    second harmonics. The penalty is chosen by cross-validation inside the training trials; validation is not used.

    Returns:
        logits, probabilities (test trial, class; 0 without training trials) and predictions (test trial,) as tensors;
        accuracy; chance, the share of the most frequent test class; p_value, one-sided binomial against chance;
        inverse_penalty (sklearn's C); features, their number.
    """
    if frequencies is None:
        features = band_power(dataset.trials, dataset.sampling_rate, highest=highest)
    else:
        features = signal_to_noise(dataset.trials, dataset.sampling_rate, frequencies)
    split, chosen = _split(dataset, partition, seed), []
    logits = _logistic(features, split, chosen.append)
    predictions, labels = logits.argmax(1), split.labels[split.test]
    right, chance = predictions == labels, float(np.bincount(labels).max() / len(labels))
    return {
        "logits": torch.from_numpy(logits).float(),
        "probabilities": torch.from_numpy(np.exp(logits)).float(),
        "predictions": torch.from_numpy(predictions),
        "accuracy": float(right.mean()),
        "chance": chance,
        "p_value": float(binomtest(int(right.sum()), len(labels), chance, alternative="greater").pvalue),
        "inverse_penalty": chosen[0],
        "features": features.shape[1],
    }


def _split(data: EEGDataset, partition: Partition, seed: int) -> Split:
    train, test = partition.train.numpy(), partition.test.numpy()
    return Split(data.labels.numpy(), train, test, len(data.class_names), seed)


def _balanced(scores: dict) -> float:
    return scores["balanced_accuracy"]["value"]


def _logistic(features: Tensor, split: Split, tell: Callable[[float], None] = lambda penalty: None) -> np.ndarray:
    """Log-probabilities (test trial, class) of logistic regression on features (trial, feature)."""
    values, labels = features.numpy(), split.labels[split.train]
    weights = compute_sample_weight("balanced" if split.balanced else None, labels)
    best = _best_penalty(values[split.train], labels, weights, split.seed)
    tell(best)
    known, asked = _prepared(values[split.train], values[split.test])
    regression = _fit(_regression().set_params(C=best), known, labels, weights)
    logits = np.full((len(split.test), split.classes), -np.inf)
    logits[:, regression.classes_] = regression.predict_log_proba(asked)
    return logits


def _shrinkage_lda(features: Tensor, split: Split) -> np.ndarray:
    """Class scores (test trial, class) of linear discriminant analysis on features (trial, feature), with the
    Ledoit-Wolf covariance within classes (Blankertz et al. 2011, NeuroImage 56, 814-825)."""
    scaler = StandardScaler().fit(features[split.train].double().numpy())
    known, asked = (scaler.transform(features[part].double().numpy()) for part in (split.train, split.test))
    present, labels, counts = np.unique(split.labels[split.train], return_inverse=True, return_counts=True)
    means = np.stack([known[labels == label].mean(0) for label in range(len(present))])  # (class, feature)
    covariance, _ = ledoit_wolf(known - means[labels], assume_centered=True)
    covariance[np.diag_indices(len(covariance))] += 1e-9 + 1e-9 * covariance.trace() / len(covariance)
    weights = np.linalg.solve(covariance, means.T)  # (feature, class)
    prior = np.zeros(len(present)) if split.balanced else np.log(counts / counts.sum())
    logits = np.full((len(split.test), split.classes), -np.inf)
    logits[:, present] = asked @ weights - 0.5 * (means.T * weights).sum(0) + prior
    return logits


def _nearest_places(data: EEGDataset, split: Split) -> np.ndarray:
    """Class scores (test trial, class) from the place of a trial in its session alone: the nearer a training trial's
    place, the more its class counts."""
    places = places_in_sessions(data.order.numpy(), data.sessions.numpy())
    distance = np.abs(places[split.test][:, None] - places[split.train])
    shown = np.eye(split.classes)[split.labels[split.train]]  # (training trial, class)
    if split.balanced:
        shown = shown / np.maximum(shown.sum(0), 1)
    votes = (1 / (1 + distance) ** 2) @ shown
    return np.log(np.maximum(votes / votes.sum(1, keepdims=True), 1e-12))


def _best_penalty(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int) -> float:
    """Best of `INVERSE_PENALTIES` by the cross-entropy of held-out trials, in five folds, or fewer if a class has fewer
    trials."""
    folds = int(min(5, np.unique(labels, return_counts=True)[1].min()))
    if folds == 1:  # a class with one training trial leaves nothing to choose with
        return LogisticRegression().C
    losses = np.zeros(len(INVERSE_PENALTIES))
    for inside, outside in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        known, asked = _prepared(features[inside], features[outside])
        regression = _regression()
        for number, penalty in enumerate(INVERSE_PENALTIES):  # each starts from the previous, stricter fit
            _fit(regression.set_params(C=penalty), known, labels[inside], weights[inside])
            told = {"labels": regression.classes_, "sample_weight": weights[outside]}
            losses[number] += log_loss(labels[outside], regression.predict_proba(asked), **told)
    return INVERSE_PENALTIES[int(losses.argmin())]


def _prepared(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (trial, feature), standardised by the known ones and, if there are far more features than trials,
    rotated into the space that the trials span: weights under a quadratic penalty lie in it anyway, so only the time
    changes (to a fifth, with 550 trials of 5,632 features)."""
    scaler = StandardScaler().fit(known)
    known, asked = scaler.transform(known), scaler.transform(asked)
    if known.shape[1] < FAR_MORE * len(known):
        return known, asked
    products = (known @ known.T).astype(float)  # rotated features must preserve them
    products[np.diag_indices(len(products))] += 1e-6 * products.trace() / len(products)  # one eigenvalue is 0
    turned = cholesky(products, lower=True)
    turned_asked = solve_triangular(turned, (known @ asked.T).astype(float), lower=True).T
    return turned.astype(known.dtype), turned_asked.astype(known.dtype)


def _regression() -> LogisticRegression:
    # At scikit-learn's tolerance of 1e-4, predictions still depend on how the features are rotated.
    return LogisticRegression(max_iter=2000, tol=1e-5, warm_start=True)


def _fit(
    regression: LogisticRegression, features: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty may not converge; it is then not chosen
        return regression.fit(features, labels, sample_weight=weights)
