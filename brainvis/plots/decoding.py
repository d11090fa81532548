"""Figures of notebooks 04 and 05: what is decoded from one subject, and where it lies among text states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor
from torch.nn.functional import normalize

from ..training import History
from .style import COLOURS, PALETTE, SEQUENTIAL, empty_figure, panels

SCORES = {"top1": "top-1", "top3": "top-3", "top5": "top-5", "macro_f1": "macro F1"}
MANY = 20  # names: more than this do not fit on an axis or in a legend

# Classification (notebook 04)


def comparison_figure(scores: dict[str, dict], differences: dict[str, dict]) -> Figure:
    """Classification of the branches beside each other (table 2 and 3 of the paper), and what fusion adds to each.

    Args:
        scores: "time", "frequency", "fused" -> result of `brainvis.metrics.classification_scores`.
        differences: branch -> result of `brainvis.metrics.paired_difference`, fused minus that branch.
    """
    figure, (left, right) = panels(1, 2, width_ratios=(2, 1))
    for number, (name, score) in enumerate(scores.items()):
        shift = 0.18 * (number - (len(scores) - 1) / 2)
        for place, measure in enumerate(SCORES):
            _point(left, place + shift, score[measure], COLOURS[name], name if place == 0 else None)
    for place, measure in enumerate(SCORES):
        if "chance" in score[measure]:
            left.plot([place - 0.35, place + 0.35], [100 * score[measure]["chance"]] * 2, "--", color=COLOURS["chance"])
    left.set_xticks(range(len(SCORES)), SCORES.values())
    left.set(ylabel="test trials (%)", ylim=(0, 103), title="95 % intervals, chance dashed")
    left.legend()
    for place, (name, difference) in enumerate(differences.items()):
        _point(right, place, difference["top1"], COLOURS[name])
        right.annotate(f"p = {difference['top1']['p']:.2g}", (place + 0.1, 100 * difference["top1"]["value"]))
    right.axhline(0, color=COLOURS["chance"], linewidth=1)
    right.set_xticks(range(len(differences)), [f"fused - {name}" for name in differences])
    right.set(xlim=(-0.5, len(differences) - 0.3), ylabel="percentage points", title="paired differences, top-1")
    return figure


def confusion_figure(matrix: ArrayLike, class_names: Sequence[str], attributes: dict, means: ArrayLike) -> Figure:
    """Which classes are taken for which, in orders in which structure shows.

    Args:
        matrix: trials by (right class, predicted class), see `brainvis.metrics.confusion_matrix`.
        attributes: from `brainvis.attributes.class_attributes`: one panel each, its words side by side, so that errors
            that keep the word fall into blocks on the diagonal.
        means: an embedding of each class (class, width); without attributes, similar classes are side by side.
    """
    shares = 100 * np.asarray(matrix) / np.maximum(np.asarray(matrix).sum(1, keepdims=True), 1)
    columns = {f"ordered by the {place}": words for place, words in attributes.items()} or {"confusion matrix": None}
    figure, axes = panels(1, len(columns), width=4.6 * len(columns), height=4.2, squeeze=False)
    for axis, (title, words) in zip(axes[0], columns.items(), strict=True):
        order = _similar_side_by_side(means) if words is None else sorted(range(len(words)), key=_number(words))
        picture = axis.imshow(shares[order][:, order], cmap=SEQUENTIAL, vmin=0, vmax=100)
        axis.set(xlabel="predicted class", ylabel="right class", title=title)
        if words is not None:
            _name_blocks(axis, [words[label] for label in order])
        elif len(class_names) <= MANY:
            names = [class_names[label] for label in order]
            axis.set_xticks(range(len(names)), names, rotation=90)
            axis.set_yticks(range(len(names)), names)
    figure.colorbar(picture, ax=axes, label="trials of the right class (%)", shrink=0.8)
    return figure


def attributes_figure(scores: dict[str, dict[str, dict]], names: dict[str, str]) -> Figure:
    """How often each attribute of the class is right, whole class or not, by branch.

    Args:
        scores: branch -> attribute -> {"value", "low", "high", "chance"}.
        names: attribute -> what to write beneath it.
    """
    if not names:
        return empty_figure("The class names are not built alike, so a class is right or wrong as a whole.")
    figure, axis = panels()
    for number, (branch, parts) in enumerate(scores.items()):
        shift = 0.18 * (number - (len(scores) - 1) / 2)
        for place, attribute in enumerate(names):
            _point(axis, place + shift, parts[attribute], COLOURS[branch], branch if place == 0 else None)
    for place, attribute in enumerate(names):
        axis.plot([place - 0.35, place + 0.35], [100 * parts[attribute]["chance"]] * 2, "--", color=COLOURS["chance"])
    axis.set_xticks(range(len(names)), names.values())
    axis.set(ylabel="test trials with the right word (%)", ylim=(0, 103), title="95 % intervals, chance dashed")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def embedding_figure(points: ArrayLike, words: dict[str, Sequence[str]], unseen: ArrayLike) -> Figure:
    """Trials in a plane that keeps neighbours together, one panel for each way to colour them.

    Args:
        points: (trial, 2).
        words: title -> word of each trial (its class, or an attribute of it).
        unseen: (trial,) bool, large where the model was not trained on the trial; the others are small and pale.
    """
    points, unseen = np.asarray(points), np.asarray(unseen, bool)
    figure, axes = panels(1, len(words), height=4, squeeze=False)
    for axis, (title, of_trial) in zip(axes[0], words.items(), strict=True):
        named, of_trial = sorted(set(of_trial)), np.array(of_trial)
        for word, colour in zip(named, _colours(named), strict=True):
            for part, size, alpha in ((~unseen, 6, 0.35), (unseen, 34, 1.0)):
                own = (of_trial == word) & part
                edge = "black" if size > 6 else "none"
                axis.scatter(*points[own].T, s=size, color=[colour], alpha=alpha, edgecolors=edge, linewidths=0.5)
            axis.scatter([], [], color=[colour], label=word, edgecolors="black", linewidths=0.5)
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_facecolor("0.93")  # white may be a colour of the data
        if len(named) <= MANY:
            axis.legend(fontsize=7, ncols=-(-len(named) // 3), loc="upper center", bbox_to_anchor=(0.5, 0))
    return figure


# Text states (notebook 05)


def text_similarity_figure(coarse: Tensor, fine: Tensor, labels: Tensor) -> Figure:
    """How alike text states are: class names among each other, captions among each other, captions of one class.

    Args:
        coarse: (class, tokens, width).
        fine: (caption, tokens, width), sorted by class.
        labels: (caption,) class of each.
    """
    figure, axes = panels(1, 3, height=3.2, width_ratios=(1, 1, 0.9))
    among = {
        f"{len(states)} {name}": _cosines(states) for name, states in (("class names", coarse), ("captions", fine))
    }
    lowest = min(float(cosines.min()) for cosines in among.values())
    for axis, (title, cosines) in zip(axes, among.items(), strict=False):
        picture = axis.imshow(cosines, cmap=SEQUENTIAL, vmin=lowest, vmax=1)
        axis.set(xticks=[], yticks=[], title=title)
    figure.colorbar(picture, ax=axes[:2], label="cosine", shrink=0.7)
    same = (labels[:, None] == labels).numpy()
    above = np.triu(np.ones_like(same), 1).astype(bool)
    names, captions = among.values()
    groups = {
        "class names": names[np.triu_indices(len(names), 1)],
        "captions,\ndifferent classes": captions[above & ~same],
        "captions,\nsame class": captions[above & same],
        "a caption and\nits class name": (_unit(fine) * _unit(coarse)[labels]).sum(1).numpy(),
    }
    groups = {name: values for name, values in groups.items() if len(values)}
    axes[2].boxplot(list(groups.values()), orientation="horizontal", tick_labels=list(groups), whis=(2.5, 97.5), sym="")
    axes[2].invert_yaxis()
    axes[2].set(xlabel="cosine", title="pairs (whiskers: 95 %)")
    return figure


def alignment_curves_figure(history: History) -> Figure:
    """The loss, and the cosine of the prediction with both targets, over the epochs."""
    figure, axes = panels(1, 3)
    titles = {"loss": "loss", "cosine_coarse": "cosine with the class name", "cosine_fine": "cosine with the caption"}
    for axis, (term, title) in zip(axes, titles.items(), strict=True):
        for part in ("train", "selection"):
            axis.plot(*history.curve(f"{part}_{term}"), ".-", color=COLOURS[part], label=part)
        axis.axvline(history.best_epoch, color="black", linestyle=":", linewidth=1, label="epoch kept")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel="epoch", title=title)
    limits = [axis.get_ylim() for axis in axes[1:]]
    for axis in axes[1:]:  # both cosines on one scale
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[0].legend()
    return figure


def retrieval_figure(retrieval: dict[str, dict[str, dict]]) -> Figure:
    """How often the right text is among the first k of all candidates, beside chance.

    Args:
        retrieval: which texts -> "top1", "top5" -> {"value", "low", "high", "chance"}.
    """
    figure, axes = panels(1, len(retrieval), sharey=True, squeeze=False)
    for axis, (title, scores) in zip(axes[0], retrieval.items(), strict=True):
        for place, score in enumerate(scores.values()):
            _point(axis, place, score, COLOURS["test"])
            axis.plot([place - 0.3, place + 0.3], [100 * score["chance"]] * 2, "--", color=COLOURS["chance"])
        axis.set_xticks(range(len(scores)), [SCORES[measure] for measure in scores])
        axis.set(xlim=(-0.6, len(scores) - 0.4), ylim=(0, 103), title=title)
    axes[0, 0].set_ylabel("test trials (%)\n(95 % intervals, chance dashed)")
    return figure


def interpolation_figure(own: dict[str, Tensor], other: dict[str, Tensor]) -> Figure:
    """Where predictions lie between the class name's text state and the caption's.

    Left: along the line from one to the other (0 and 1), and away from it, in units of their distance. Right: the
    cosine with both. Grey: the same predictions against the texts of another trial, of another class.

    Args:
        own, other: results of `brainvis.semantics.interpolation_position`.
    """
    figure, (left, right) = panels(1, 2, height=3.6)
    parts = ((other, COLOURS["chance"], "texts of another trial"), (own, COLOURS["test"], "own texts"))
    for values, colour, label in parts:
        options = {"color": [colour], "s": 14, "alpha": 0.7, "label": label}
        left.scatter(values["position"], values["off_axis"], **options)
        right.scatter(values["cosine_coarse"], values["cosine_fine"], **options)
    for place, name in ((0, "class name"), (1, "caption")):
        left.plot(place, 0, "D", color=COLOURS["truth"], clip_on=False)
        left.annotate(name, (place, 0), xytext=(0, 8), textcoords="offset points", ha="center")
    left.set(xlabel="position on the line between both", ylabel="distance from the line", ylim=(0, None))
    ends = [min(right.get_xlim()[0], right.get_ylim()[0]), max(right.get_xlim()[1], right.get_ylim()[1])]
    right.plot(ends, ends, color=COLOURS["chance"], linewidth=1, linestyle=":")  # as close to one as to the other
    right.set(xlabel="cosine with the class name", ylabel="cosine with the caption")
    right.legend(loc="upper left")
    return figure


# What several of them draw


def _point(axis: Axes, place: float, score: dict, colour, label: str | None = None) -> None:
    """An estimate in percent, with its interval."""
    value = score["value"]
    reach = [[max(100 * (value - score["low"]), 0)], [max(100 * (score["high"] - value), 0)]]
    axis.errorbar(place, 100 * value, yerr=reach, fmt="o", color=colour, capsize=3, label=label)


def _similar_side_by_side(means: ArrayLike) -> np.ndarray:
    """An order of the rows in which neighbours are alike (average linkage of cosine distances, optimal leaf order)."""
    return leaves_list(linkage(np.asarray(means), "average", "cosine", optimal_ordering=True))


def _number(words: Sequence[str]) -> Callable[[int], int]:
    """The number of a class's word, in the order in which words first occur."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return lambda label: numbers[words[label]]


def _name_blocks(axis: Axes, words: list[str]) -> None:
    """Lines between, and names beside, runs of equal words."""
    starts = [row for row in range(len(words)) if row == 0 or words[row] != words[row - 1]]
    ends = [*starts[1:], len(words)]
    for edge in starts[1:]:
        axis.axhline(edge - 0.5, color="white", linewidth=0.5)
        axis.axvline(edge - 0.5, color="white", linewidth=0.5)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axis.set_xticks(middles, [words[start] for start in starts], rotation=90)
    axis.set_yticks(middles, [words[start] for start in starts])
    axis.tick_params(length=0)


def _colours(words: list[str]) -> list:
    """The colours that the words name, if all of them do; else distinct ones."""
    if all(is_color_like(word) for word in words):
        return words
    return list(PALETTE[: len(words)]) if len(words) <= len(PALETTE) else sns.husl_palette(len(words))


def _unit(states: Tensor) -> Tensor:
    return normalize(states.flatten(1), dim=-1)


def _cosines(states: Tensor) -> np.ndarray:
    """(text, tokens, width) -> (text, text)."""
    return (_unit(states) @ _unit(states).T).numpy()
