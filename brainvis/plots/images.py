"""Figures of notebook 06: what was shown beside what was generated, how good it is, what is recovered."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .style import COLOURS, WIDTH, chance_line, empty_figure, panels

RIGHT, WRONG = COLOURS["fused"], COLOURS["test"]  # frames; the words beneath say the same
SIZE = 0.9  # inches, of one picture
STAGE_NAMES = {"semantic": "semantic stage", "refined": "refined"}


def reconstruction_figure(
    truth: NDArray[np.uint8],
    stages: dict[str, NDArray[np.uint8]],
    shown: list[str],
    predicted: list[str],
    verdicts: dict[str, list[list[str]]] | None = None,
) -> Figure:
    """One trial a row: the picture that was shown, then the samples of each stage (the cascade of figure 2).

    A frame and the word beneath say what the judge sees: green where it is the class that was shown.

    Args:
        truth: (trial, height, width, 3).
        stages: "semantic" and / or "refined" -> (trial, sample, height, width, 3).
        shown, predicted: (trial,) names of the class that was shown, and of the one that the classifier predicted.
        verdicts: for each stage (trial, sample) names of the class that the judge sees; None: there is no judge.
    """
    if not len(truth):
        return empty_figure("There is no such trial.")
    heads = ["shown", *(f"{STAGE_NAMES[stage]} {i + 1}" for stage in stages for i in range(stages[stage].shape[1]))]
    width = max(WIDTH * 0.6, SIZE * 1.25 * (len(heads) + 1.6))
    figure, axes = panels(
        len(truth), len(heads) + 1, width=width, height=SIZE * 1.32 * len(truth) + 0.3, squeeze=False,
        width_ratios=[1.6] + [1] * len(heads),
    )  # fmt: skip
    for trial, row in enumerate(axes):
        _words(row[0], f"shown: {shown[trial]}\npredicted: {predicted[trial]}")
        _picture(row[1], truth[trial])
        cells = iter(row[2:])
        for stage, images in stages.items():
            for sample, picture in enumerate(images[trial]):
                seen = verdicts[stage][trial][sample] if verdicts else None
                _picture(next(cells), picture, seen, None if seen is None else seen == shown[trial])
    for axis, head in zip(axes[0, 1:], heads, strict=True):
        axis.set_title(head, loc="center", fontsize=8)
    return figure


def _picture(axes: Axes, picture: NDArray[np.uint8], word: str | None = None, right: bool | None = None) -> None:
    """A picture without ticks, in a frame that says whether it is right, with a word beneath."""
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=right is not None, color=RIGHT if right else WRONG, linewidth=2)
    if word is not None:
        axes.set_xlabel(word, fontsize=7, color=RIGHT if right else WRONG, labelpad=2)


def _words(axes: Axes, text: str) -> None:
    axes.axis("off")
    axes.text(0, 0.5, text, fontsize=8, va="center")


def accuracy_figure(scores: dict[str, dict[str, dict]], classifier: dict[str, float], chance: float) -> Figure:
    """Generation accuracy of each stage, over all trials and split by whether the predicted class was right.

    If generation accuracy is high only where the class was predicted rightly, it repeats the classifier.

    Args:
        scores: stage -> "all", "right", "wrong" -> {"value", "low", "high", "trials"}; parts may be missing.
        classifier: top-1 accuracy of the same trials, {"value", "low", "high"}.
        chance: of generation accuracy.
    """
    figure, axes = panels(width=WIDTH * 0.85)
    names = {"all": "all trials", "right": "class named rightly", "wrong": "class named wrongly"}
    width = 0.8 / max(len(scores), 1)
    for place, (stage, parts) in enumerate(scores.items()):
        for part, score in parts.items():
            position = list(names).index(part) + (place - (len(scores) - 1) / 2) * width
            _bar(axes, position, score, width * 0.92, COLOURS[stage], STAGE_NAMES[stage] if part == "all" else None)
    _bar(axes, -1, classifier, 0.5, COLOURS["fused"])
    trials = {part: score["trials"] for parts in scores.values() for part, score in parts.items()}
    labels = [f"{words}\n({trials.get(part, 0)} trials)" for part, words in names.items()]
    axes.set_xticks(range(-1, 3), ["classification\ntop-1 (CA)", *labels])
    axes.set(ylim=(0, 1), ylabel="accuracy")
    chance_line(axes, chance)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _bar(axes: Axes, position: float, score: dict, width: float, colour, label: str | None = None) -> None:
    """A bar with its interval."""
    value = score["value"]
    errors = [[max(value - score["low"], 0)], [max(score["high"] - value, 0)]]
    axes.bar(position, value, width, color=colour, label=label, yerr=errors, capsize=3, error_kw={"linewidth": 1})


def recovery_figure(attributes: dict[str, dict[str, dict]]) -> Figure:
    """Which attributes of the picture that was shown the judge finds again in the generated ones, beside chance.

    Args:
        attributes: stage -> attribute -> {"value", "chance", "p"}.
    """
    names = list(next(iter(attributes.values())))
    figure, axes = panels(1, len(names), height=2.8, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for place, (stage, scores) in enumerate(attributes.items()):
            score = scores[name]
            axis.bar(place, score["value"], 0.7, color=COLOURS[stage])
            axis.plot([place - 0.42, place + 0.42], [score["chance"]] * 2, "--", color=COLOURS["chance"])
            axis.text(place, score["value"] + 0.02, f"p = {score['p']:.2g}", ha="center", fontsize=8)
        axis.set_xticks(range(len(attributes)), [STAGE_NAMES[stage].replace(" ", "\n") for stage in attributes])
        axis.set(title=name, ylim=(0, 1.05), xlim=(-0.6, len(attributes) - 0.4))
    axes[0, 0].set_ylabel("pictures that agree\n(dashed: chance)")
    return figure
