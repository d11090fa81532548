"""Figures of notebooks 04 and 05: what is decoded from one subject, and where it lies among text embeddings."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor
from torch.nn.functional import normalize

from brainvis.evaluation.bootstrap import LEAST_P, holm, p_text
from brainvis.plots import style
from brainvis.plots.style import COLOUR_OF, PALETTE, SEQUENTIAL, panels
from brainvis.plots.training import curves
from brainvis.training import History

SCORES = {"top1": "top-1", "top3": "top-3", "top5": "top-5", "balanced_accuracy": "balanced", "auc": "AUC"}
SCORES |= {"macro_f1": "macro F1"}
INTERVALS = "95 % intervals, chance dashed"


def comparison_figure(scores: dict[str, dict], differences: dict[str, dict]) -> Figure:
    """`classification_scores` by branch (tables 2 and 3 of the paper), and `paired_difference` of fusion and each.

    The p-values of these differences are one family, corrected by Holm.
    """
    figure, (left, right) = panels(1, 2, width_ratios=(2, 1))
    there_are = {name: title for name, title in SCORES.items() if any(name in score for score in scores.values())}
    style.estimates(left, scores, there_are, scale=100)
    left.set(ylabel="test trials (%)", ylim=(0, 103), title=INTERVALS)
    left.legend()
    colours = style.colours_of(scores)
    corrected = holm({name: difference["top1"]["p"] for name, difference in differences.items()})
    for place, (name, difference) in enumerate(differences.items()):
        top, p = difference["top1"], p_text(corrected[name], len(corrected) * LEAST_P)
        style.estimate(right, place, top, colours[name], scale=100)
        right.annotate(p, (place + 0.1, 100 * top["value"]))
    right.axhline(0, color=COLOUR_OF["chance"], linewidth=1)
    right.set_xticks(range(len(differences)), [f"fused -\n{name}" for name in differences])
    right.set(xlim=(-0.5, len(differences) - 0.3), ylabel="points", title="paired differences, top-1 (p: Holm)")
    return figure


def attributes_figure(scores: dict[str, dict[str, dict]], names: dict[str, str]) -> Figure:
    """How often each attribute of the class is right: branch -> attribute -> score; `names` are the labels beneath."""
    if not names:
        return style.empty_figure("The class names are not built alike, so a class is right or wrong as a whole.")
    figure, axis = panels()
    names = {place: "\n".join(style.words(line) for line in beneath.split("\n")) for place, beneath in names.items()}
    style.estimates(axis, scores, names, scale=100)
    axis.set(ylabel="test trials with the right word (%)", ylim=(0, 103), title=INTERVALS)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def confusion_figure(matrix: ArrayLike, class_names: Sequence[str], attributes: dict, means: ArrayLike) -> Figure:
    """Which classes are confused with which, ordered by each of `class_attributes`, else by similarity of means."""
    shares = 100 * np.asarray(matrix) / np.maximum(np.asarray(matrix).sum(1, keepdims=True), 1)
    columns = {f"ordered by the {place}": words for place, words in attributes.items()} or {"confusion matrix": []}
    figure, axes = panels(1, len(columns), width=4.6 * len(columns), height=4.2, squeeze=False)
    for axis, (title, words) in zip(axes[0], columns.items(), strict=True):
        if words:
            order = sorted(range(len(words)), key=[words.index(word) for word in words].__getitem__)
        else:
            order = leaves_list(linkage(np.asarray(means), "average", "cosine", optimal_ordering=True))
        picture = axis.imshow(shares[order][:, order], cmap=SEQUENTIAL, vmin=0, vmax=100)
        axis.set(xlabel="predicted class", ylabel="right class", title=title)
        names = [(words or class_names)[label] for label in order]
        if words:  # lines between, and names next to, blocks of equal words
            starts = {name: names.index(name) for name in names}
            for edge in list(starts.values())[1:]:
                axis.axhline(edge - 0.5, color="white", linewidth=0.5)
                axis.axvline(edge - 0.5, color="white", linewidth=0.5)
            middles = [start + (names.count(name) - 1) / 2 for name, start in starts.items()]
            axis.set_xticks(middles, [*map(style.words, starts)], rotation=90)
            axis.set_yticks(middles, [*map(style.words, starts)])
            axis.tick_params(length=0)
        elif len(names) <= style.MANY:
            axis.set_xticks(range(len(names)), [*map(style.words, names)], rotation=90)
            axis.set_yticks(range(len(names)), [*map(style.words, names)])
    figure.colorbar(picture, ax=axes, label="trials of the right class (%)", shrink=0.8)
    return figure


def embedding_figure(points: ArrayLike, words: dict[str, Sequence[str]], unseen: ArrayLike) -> Figure:
    """Trials in a plane (trial, 2), coloured by title -> word of each; large if `unseen` (trial,) in training."""
    points, unseen = np.asarray(points), np.asarray(unseen, bool)
    figure, axes = panels(1, len(words), height=4, squeeze=False)
    for axis, (title, of_trial) in zip(axes[0], words.items(), strict=True):
        named, of_trial = sorted(set(of_trial)), np.array(of_trial)
        colours = PALETTE if len(named) <= len(PALETTE) else sns.husl_palette(len(named))
        if all(map(is_color_like, named)):
            colours = named  # trials with red pictures are red
        for word, colour in zip(named, colours, strict=False):
            for part, size, alpha, edge in ((~unseen, 6, 0.35, "none"), (unseen, 34, 1.0, "black")):
                own = points[(of_trial == word) & part]
                axis.scatter(*own.T, s=size, color=[colour], alpha=alpha, edgecolors=edge, linewidths=0.5)
            axis.scatter([], [], color=[colour], label=style.words(word, 24), edgecolors="black", linewidths=0.5)
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_facecolor("0.93")  # white may be a colour of the data
        if len(named) <= style.MANY:
            axis.legend(fontsize=7, ncols=-(-len(named) // 3), loc="upper center", bbox_to_anchor=(0.5, 0))
    return figure


def text_similarity_figure(coarse: Tensor, fine: Tensor, labels: Tensor) -> Figure:
    """Similarity of text embeddings (text, tokens, width): of classes, and of captions sorted by class (caption,)."""
    figure, axes = panels(1, 3, height=3.2, width_ratios=(1, 1, 0.9))
    coarse, fine = (normalize(embeddings.flatten(1), dim=-1) for embeddings in (coarse, fine))
    names, captions = (coarse @ coarse.T).numpy(), (fine @ fine.T).numpy()
    lowest = min(names.min(), captions.min())
    for axis, cosines, title in ((axes[0], names, "class names"), (axes[1], captions, "captions")):
        picture = axis.imshow(cosines, cmap=SEQUENTIAL, vmin=lowest, vmax=1)
        axis.set(xticks=[], yticks=[], title=f"{len(cosines)} {title}")
    figure.colorbar(picture, ax=axes[:2], label="cosine", shrink=0.7)
    same = (labels[:, None] == labels).numpy()
    above = np.triu(np.ones_like(same), 1).astype(bool)
    groups = {
        "class names": names[np.triu_indices(len(names), 1)],
        "captions,\ndifferent classes": captions[above & ~same],
        "captions,\nsame class": captions[above & same],
        "a caption and\nits class name": (fine * coarse[labels]).sum(1).numpy(),
    }
    groups = {name: values for name, values in groups.items() if len(values)}
    axes[2].boxplot(list(groups.values()), orientation="horizontal", tick_labels=list(groups), whis=(2.5, 97.5), sym="")
    axes[2].invert_yaxis()
    axes[2].set(xlabel="cosine", title="pairs (whiskers: 95 %)")
    return figure


def alignment_curves_figure(history: History) -> Figure:
    """The loss, and the cosine of the prediction with both targets, over the epochs."""
    titles = {"loss": "loss", "cosine_coarse": "cosine with the class name", "cosine_fine": "cosine with the caption"}
    figure, axes = curves(history, titles)
    for axis in axes[1:]:
        axis.get_legend().remove()
    axes[2].sharey(axes[1])
    axes[1].autoscale(axis="y")
    return figure


def retrieval_figure(retrieval: dict[str, dict[str, dict]]) -> Figure:
    """How often the right text is among the first k of all: which texts -> "top1", "top5" -> score.

    Besides "chance", a score may contain what the "class_scores_alone" would find.
    """
    figure, axes = panels(1, len(retrieval), sharey=True, squeeze=False)
    for axis, (title, scores) in zip(axes[0], retrieval.items(), strict=True):
        style.estimates(axis, {"test": scores}, {measure: SCORES[measure] for measure in scores}, scale=100)
        for place, score in enumerate(scores.values()):
            known, label = 100 * score.get("class_scores_alone", np.nan), None if place else "class scores alone"
            axis.plot([place - 0.35, place + 0.35], [known, known], ":", color=COLOUR_OF["fused"], label=label)
        axis.set(xlim=(-0.6, len(scores) - 0.4), ylim=(0, 103), title=title)
    axes[0, 0].set_ylabel("test trials (%)\n(95 % intervals, chance dashed)")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def interpolation_figure(own: dict[str, Tensor], other: dict[str, Tensor]) -> Figure:
    """Where predictions lie between both texts, see `interpolation_position`; grey: between those of another trial."""
    figure, (left, right) = panels(1, 2, height=3.6)
    parts = ((other, COLOUR_OF["chance"], "texts of another trial"), (own, COLOUR_OF["test"], "own texts"))
    for values, colour, label in parts:
        options = {"color": [colour], "s": 14, "alpha": 0.7, "label": label}
        left.scatter(values["position"], values["off_axis"], **options)
        right.scatter(values["cosine_coarse"], values["cosine_fine"], **options)
    for place, name in ((0, "class name"), (1, "caption")):
        left.plot(place, 0, "D", color=COLOUR_OF["truth"], clip_on=False)
        left.annotate(name, (place, 0), xytext=(0, 8), textcoords="offset points", ha="center")
    left.margins(x=0.2)  # room for both names
    left.set(xlabel="position on the line between both", ylabel="distance from the line", ylim=(0, None))
    ends = [min(right.get_xlim()[0], right.get_ylim()[0]), max(right.get_xlim()[1], right.get_ylim()[1])]
    right.plot(ends, ends, color=COLOUR_OF["chance"], linewidth=1, linestyle=":")  # equally close to both
    right.set(xlabel="cosine with the class name", ylabel="cosine with the caption")
    right.legend(loc="upper left")
    return figure
