"""Which trials the cascade draws, and what the judge says of the pictures where the classifier was right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from numpy.typing import ArrayLike, NDArray
from torch import nn

from .image_metrics import judge_images
from .metrics import mean_interval, n_way_accuracy
from .phantom.stimuli import CLASS_NAMES


def spread_over_classes(labels: ArrayLike, count: int | None) -> NDArray[np.int64]:
    """Some of the trials, as evenly spread over the classes as their number allows: positions in `labels`, ascending.

    Takes the first trial of every class, then the second of every class, and so on; nothing is drawn at random.

    Args:
        labels: (trial,) classes.
        count: trials to take; None, or more than there are: all.
    """
    labels = np.asarray(labels)
    seen: dict[int, int] = {}
    rank = np.empty(len(labels), int)  # 0 for the first trial of its class, 1 for the second, ...
    for trial, label in enumerate(labels.tolist()):
        rank[trial] = seen[label] = seen.get(label, -1) + 1
    return np.sort(np.lexsort((labels, rank))[:count])


def evenly(rows: Sequence[int], count: int) -> list[int]:
    """`count` of the rows, evenly spaced, for a picture of some of them; all, if there are no more."""
    return [int(rows[i * len(rows) // count]) for i in range(count)] if len(rows) > count else [int(i) for i in rows]


def possible_ways(judge: nn.Module, wanted: int = 50) -> int:
    """Classes that can compete for generation accuracy: `wanted`, or as many as the judge knows."""
    return min(wanted, judge.heads["class"].out_features)


def judged_classes(judge: nn.Module, generated: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class that the judge sees in each picture: (trial, sample, height, width, 3) -> (trial, sample)."""
    logits, _ = judge_images(judge, rearrange(generated, "t s h w c -> (t s) h w c"))
    return rearrange(logits["class"].argmax(1).numpy(), "(t s) -> t s", t=len(generated))


def judged_names(judged: NDArray[np.int64]) -> list[list[str]]:
    """The names of the classes that the judge sees, by trial and sample."""
    return [[CLASS_NAMES[seen] for seen in trial] for trial in judged]


def accuracy_by_prediction(
    judge: nn.Module,
    generated: NDArray[np.uint8],
    shown: NDArray[np.uint8],
    right: ArrayLike,
    ways: int,
    seed: int = 0,
) -> dict[str, dict]:
    """Generation accuracy of the trials that the classifier got right, and of those that it got wrong.

    Args:
        judge: the classifier of pictures.
        generated: (trial, sample, height, width, 3).
        shown: (trial, height, width, 3).
        right: (trial,) bool, whether the predicted class is the one that was shown.
        ways: classes that compete.
        seed: of the draws, see `n_way_accuracy`.

    Returns:
        "right" and "wrong", each as `n_way_accuracy` returns it; a part without trials is left out.
    """
    right = np.asarray(right, bool)
    made, _ = judge_images(judge, rearrange(generated, "t s h w c -> (t s) h w c"))
    truth, _ = judge_images(judge, shown)
    made = rearrange(made["class"], "(t s) c -> t s c", t=len(shown)).numpy()
    parts = {"right": right, "wrong": ~right}
    return {
        name: n_way_accuracy(made[part], truth["class"].numpy()[part], ways, seed=seed)
        for name, part in parts.items()
        if part.any()
    }


def agreement_with(names: list[str], judged: NDArray[np.int64], seed: int = 0) -> dict[str, float] | None:
    """Share of the pictures in which the judge sees the class that is named for the trial.

    Args:
        names: (trial,) class names, such as those predicted.
        judged: (trial, sample) from `judged_classes`.
        seed: of the bootstrap over trials.

    Returns:
        {"value", "low", "high", "chance"}; None if the judge does not know one of the names.
    """
    if not set(names) <= set(CLASS_NAMES):
        return None
    named = np.array([CLASS_NAMES.index(name) for name in names])
    return {**mean_interval((judged == named[:, None]).mean(1), seed=seed), "chance": 1 / len(CLASS_NAMES)}
