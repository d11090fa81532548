"""How much the trials of a study can show: chance levels, independent evidence, and choices based on too few trials.

In a test part where one class has seven of eight trials, always naming that class is right seven times out of eight.
Two windows that share samples are one observation. An epoch chosen by four trials is chosen by chance. All three are
stated where they matter.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.bootstrap import p_text, resample_weights

EXCHANGES = 4999  # permutations of the labels of test trials
FEWEST_UNITS = 6  # below that, resampling units cannot give a p
FEW = 30  # validation trials: below that, one trial is worth more than three points
FEW_OF_A_CLASS = 10  # training trials
AT_ONCE = 2**24  # exchanged labels held together


def most_frequent(labels: Tensor) -> float:
    """Chance accuracy: that of always naming the most frequent class among labels (trial,)."""
    return labels.bincount().max().item() / len(labels)


def units_of(data: EEGDataset, trials: Tensor | None = None) -> Tensor:
    """Which trials form one piece of evidence, (trial,): those of one picture, and those whose windows share samples.

    A window overlaps the next one if fewer samples were recorded up to the next event than a trial has. A chain of such
    windows is one unit: one event cut several times, or a recording without a gap. Below 0: a unit of its own. For the
    whole data set, or for some `trials` (indices).
    """
    place = torch.arange(len(data))
    units = torch.where(data.images < 0, -1, data.images)
    if data.order is not None and (overlapping := data.lengths < data.trials.shape[-1]).any():
        rows = torch.from_numpy(np.lexsort((data.order, data.subjects)))
        same = data.subjects[rows][1:] == data.subjects[rows][:-1]
        if data.sessions is not None:
            same &= data.sessions[rows][1:] == data.sessions[rows][:-1]
        begins = torch.ones(len(rows), dtype=torch.bool)
        begins[1:] = ~(same & overlapping[rows][:-1])
        chain = torch.empty_like(place)
        chain[rows] = begins.cumsum(0)
        alone = chain.bincount()[chain] == 1
        units = torch.where(alone, units, len(data.image_ids) + chain)  # a chain outweighs the pictures in it
    return units if trials is None else units[trials]


def balanced_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes that occur among labels (trial,) of the share of trials predicted correctly (trial,)."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    return float(_weights(labels) @ (predictions == labels))


def p_above_chance(predictions: ArrayLike, labels: ArrayLike, groups: ArrayLike | None = None, seed: int = 0) -> dict:
    """Whether predictions (trial,) carry information on the labels (trial,), by balanced accuracy; one-sided.

    If every trial is independent evidence, labels are permuted between trials: how often do these reach at least as
    much? If `groups` (trial,) tie trials together, whole groups are resampled: how often is chance not exceeded?

    Returns {"p", "least", "units"}: p is None with fewer than `FEWEST_UNITS`; least is the smallest possible p.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    groups = np.full(len(labels), -1) if groups is None else np.asarray(groups)
    tied = groups[groups >= 0]
    units = len(np.unique(tied)) + int((groups < 0).sum())
    if units == len(labels):
        value, reached = balanced_accuracy(predictions, labels), 0
        rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
        for some in np.array_split(np.arange(EXCHANGES), 1 + EXCHANGES * len(labels) // AT_ONCE):
            exchanged = rng.permuted(np.tile(labels, (len(some), 1)), axis=1)  # (exchange, trial)
            found = (_weights(labels, exchanged) * (predictions == exchanged)).sum(1)
            reached += int((found >= value - 1e-12).sum())
        return {"p": (1 + reached) / (1 + EXCHANGES), "least": 1 / (1 + EXCHANGES), "units": units}
    if units < FEWEST_UNITS:
        return {"p": None, "least": 1.0, "units": units}
    weights = resample_weights(len(labels), seed=seed, groups=groups)
    classes = np.unique(labels)
    shown = labels == classes[:, None]  # (class, trial)
    counts = weights @ shown.T  # (resample, class)
    hits = weights @ (shown & (predictions == labels)).T
    recalls = np.divide(hits, counts, out=np.full_like(hits, np.nan), where=counts > 0)
    below = int((np.nanmean(recalls, axis=1) <= 1 / len(classes)).sum())
    return {"p": (1 + below) / (1 + len(weights)), "least": 1 / (1 + len(weights)), "units": units}


def evidence_text(found: dict) -> str:
    """The result of `p_above_chance`, in words."""
    if found["p"] is None:
        return f"no p: the test trials are only {found['units']} independent pieces of evidence"
    return p_text(found["p"], found["least"])


def too_few(parts: dict[str, Tensor], labels: Tensor) -> list[str]:
    """Sentences on whatever is trained or chosen with too few trials; `parts` are those of a partition, "train" and
    "validation" (indices into labels)."""
    said = []
    if len(chosen_by := parts["validation"]) < FEW:
        worth = f"one of them is worth {100 / len(chosen_by):.1f} points"
        said.append(f"TOO FEW VALIDATION TRIALS: the epoch is chosen on {len(chosen_by)}, and {worth}.")
    counts = labels[parts["train"]].bincount()
    if (least := int(counts[counts > 0].min())) < FEW_OF_A_CLASS:
        said.append(f"TOO FEW TRAINING TRIALS: {len(parts['train'])} in all, only {least} of one class.")
    return said


def _weights(labels: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
    """What a correct trial of each of the labels `of` contributes to the balanced accuracy of `labels` (trial,)."""
    counts = np.bincount(labels)
    weights = 1 / np.maximum(counts, 1) / (counts > 0).sum()
    return weights[labels if of is None else of]
