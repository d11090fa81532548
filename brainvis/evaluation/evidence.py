"""How much the trials of a study can show: what is by chance, which are evidence of their own, and how few choose.

A test part in which one class has seven trials of eight is named rightly seven times of eight by somebody who never
looks at it. Two windows that share samples are one observation. An epoch that is chosen by four trials is chosen by
chance. All three are said where they matter.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.bootstrap import p_text, resample_weights

EXCHANGES = 4999  # of labels between test trials
FEWEST_UNITS = 6  # below that, resampled units cannot tell a p
FEW = 30  # trials that choose: below that, one of them is worth more than three points
FEW_OF_A_CLASS = 10  # training trials
AT_ONCE = 2**24  # exchanged labels held together


def most_frequent(labels: Tensor) -> float:
    """Accuracy by chance: that of always naming the most frequent class among labels (trial,)."""
    return labels.bincount().max().item() / len(labels)


def units_of(data: EEGDataset, trials: Tensor | None = None) -> Tensor:
    """Which trials are one piece of evidence, (trial,): those of a picture, and those whose windows share samples.

    A window reaches into the next one where fewer samples were recorded up to the next event than a trial has. A row
    of such windows is one unit: one event that is cut several times, or a recording without a gap. Below 0: a unit of
    its own. Of the whole data set, or of some `trials` (indices).
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
    """Mean over the classes that occur among labels (trial,) of how often predictions (trial,) tell each."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    return float(_weights(labels) @ (predictions == labels))


def p_above_chance(predictions: ArrayLike, labels: ArrayLike, groups: ArrayLike | None = None, seed: int = 0) -> dict:
    """Whether predictions (trial,) know anything of the labels (trial,), by their balanced accuracy; one-sided.

    Where every trial is evidence of its own, labels are exchanged between trials: how often do these reach at least as
    much? Where `groups` (trial,) tie trials together, whole groups are resampled: how often is chance not exceeded?

    Returns {"p", "least", "units"}: None for p where there are fewer than `FEWEST_UNITS`; the least p that can be told.
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
    """What `p_above_chance` says, in words."""
    if found["p"] is None:
        return f"no p: the test trials are only {found['units']} independent pieces of recording"
    return p_text(found["p"], found["least"])


def too_few(parts: dict[str, Tensor], labels: Tensor) -> list[str]:
    """Sentences for whatever is learned from or chosen by too few trials; `parts` are those of a partition, "train" and
    "validation" (indices into labels)."""
    said = []
    if len(chosen_by := parts["validation"]) < FEW:
        worth = f"one of them is worth {100 / len(chosen_by):.1f} points"
        said.append(f"TOO FEW VALIDATION TRIALS: {len(chosen_by)} choose the epoch, and {worth}.")
    counts = labels[parts["train"]].bincount()
    if (least := int(counts[counts > 0].min())) < FEW_OF_A_CLASS:
        said.append(f"TOO FEW TRAINING TRIALS: {len(parts['train'])}, of one class only {least}.")
    return said


def _weights(labels: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
    """What a right trial of each of the labels `of` counts in the balanced accuracy of `labels` (trial,)."""
    counts = np.bincount(labels)
    weights = 1 / np.maximum(counts, 1) / (counts > 0).sum()
    return weights[labels if of is None else of]
