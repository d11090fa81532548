"""Figures of notebooks 07 and 08: what all runs together say. Scores are the rows of `report.gather_scores`."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from brainvis.configuration import ABLATIONS, Configuration
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.comparisons import corrected_p
from brainvis.plots import style
from brainvis.plots.style import WIDTH, Pixels, empty_figure, panels

COLOURS_OF_MEASURES = {"CA top-1": "fused", "GA": "refined"}
TITLES = {"top1": "top-1", "top3": "top-3", "top5": "top-5", "balanced_accuracy": "balanced accuracy"}
PICTURES_OF = {"semantic": "semantic stage alone", "refined": "after refinement"}


def classification_figure(scores: pd.DataFrame) -> Figure:
    """Top-1, top-3 and top-5 accuracy of every branch and of fusion, by subject, with 95 % intervals; where there are so
    few classes that top-3 says nothing, top-1 and balanced accuracy."""
    scores = scores[(scores["stage"] == "fusion") & (scores["ablation"] == "full")]
    if scores.empty:
        return empty_figure("No run of the fusion stage is there yet.")
    tops = scores.loc[scores["score"].str.endswith(".top1"), "score"].str.removesuffix(".top1")
    features = [name for name in tops.unique() if not name.startswith(("baselines.", "difference."))]
    subjects = {subject: f"subject {subject}" for subject in sorted(scores["subject"].unique())}
    there_are = [top for top in ("top1", "top3", "top5") if (scores["score"] == f"fused.{top}").any()]
    measures = there_are if len(there_are) > 1 else ["top1", "balanced_accuracy"]
    figure, axes = panels(1, len(measures), sharey=True)
    for axis, top in zip(axes, measures, strict=True):
        groups = {feature: _by(scores, "subject", f"{feature}.{top}") for feature in features}
        style.estimates(axis, groups, subjects, bars=True)
        chance = next(iter(groups["fused"].values()))["chance"]
        style.chance_line(axis, chance, label="chance")  # another in each panel
        axis.set(title=TITLES[top], ylim=(0, 1))
    axes[0].set_ylabel("classification accuracy")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def ablation_figure(scores: pd.DataFrame, subject: int) -> Figure:
    """Accuracy of classification (as table 3; the ablations that change it) and of generation (as table 4)."""
    scores = scores[scores["subject"] == subject]
    classified = {"fused": _by(scores[scores["stage"] == "fusion"], "ablation", "fused.top1")}
    generated = {stage: _by(scores, "ablation", f"{stage}.generation_accuracy") for stage in PICTURES_OF}
    if not classified["fused"]:
        return empty_figure(f"No run of the fusion stage of subject {subject} is there yet.")
    figure, axes = panels(1, 2, height=3.4)
    parts = (("classification top-1 (CA)", classified), ("generation accuracy (GA)", generated))
    for axis, (title, groups) in zip(axes, parts, strict=True):
        rows = {ablation: row for group in groups.values() for ablation, row in group.items()}
        if not rows:
            axis.axis("off")
            axis.text(0.5, 0.5, "no pictures were generated", ha="center", va="center")
            return figure
        names = {name: name.replace("no_", "no ").replace("_", " ") for name in ABLATIONS if name in rows}
        style.estimates(axis, groups, names, bars=True, labels=PICTURES_OF | {"fused": None})
        style.chance_line(axis, next(iter(rows.values()))["chance"])
        plt.setp(axis.get_xticklabels(), rotation=30, ha="right")
        axis.set(ylabel=title, title=f"subject {subject}", ylim=(0, 1))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def differences_figure(differences: pd.DataFrame) -> Figure:
    """What each ablation changes on the same trials, in points, a panel a measure; p as corrected for its panel.

    `differences` are those of `comparisons.ablation_differences`.
    """
    if differences.empty:
        return empty_figure("No ablation was run beside the whole method.")
    measures = differences["measure"].unique()
    figure, axes = panels(1, len(measures), height=3.4, squeeze=False)
    for axis, measure in zip(axes[0], measures, strict=True):
        rows = differences[differences["measure"] == measure].reset_index(drop=True)
        colour = style.COLOUR_OF[COLOURS_OF_MEASURES.get(measure, "fused")]
        for place, row in rows.iterrows():
            style.estimate(axis, place, row, colour, scale=100)
            axis.text(
                place, 1, corrected_p(row), ha="center", va="top", fontsize=8, transform=axis.get_xaxis_transform()
            )
        axis.axhline(0, color=style.COLOUR_OF["chance"], linewidth=1)
        names = rows["ablation"].str.replace("no_", "no ").str.replace("_", " ")
        axis.set_xticks(range(len(rows)), names, rotation=30, ha="right")
        axis.set(xlim=(-0.6, len(rows) - 0.4), title=f"{measure}: without the part - with it", ylabel="points")
        axis.margins(y=0.2)
    return figure


def _by(scores: pd.DataFrame, key: str, score: str) -> dict[object, dict]:
    """One score of the rows, by their subject or ablation."""
    return scores[scores["score"] == score].set_index(key).to_dict("index")


def results_grid_figure(truth: Pixels, samples: Pixels, names: list[str], columns: int = 4) -> Figure:
    """Ground truth (trial, height, width, 3) and the first two samples of each (the results grid of the paper)."""
    pictures = np.concatenate([truth[:, None], samples[:, :2]], 1)  # (trial, picture, height, width, 3)
    wide, rows = pictures.shape[1], -(-len(truth) // columns)
    ratios = ([1] * wide + [0.25]) * columns  # a gap between trials
    options = {"width_ratios": ratios, "subplot_kw": style.PLAIN}
    height = rows * (1.2 * WIDTH / sum(ratios) + 0.24) + 0.35
    figure, axes = panels(rows, len(ratios), width=WIDTH * 1.2, height=height, squeeze=False, **options)
    for of_trial, name, shown in zip(axes.reshape(-1, wide + 1), names, pictures, strict=False):
        for axis, picture in zip(of_trial, shown, strict=False):
            axis.imshow(picture)
        of_trial[0].set_title(style.words(name, 30), fontsize=8, loc="left")
    figure.supxlabel("each trial: ground truth" + "".join(f", sample {i}" for i in range(1, wide)), fontsize=8)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.04, wspace=0.01, hspace=0.02)
    return figure


def wrong_figure(truth: Pixels, drawn: Pixels, names: list[str], predicted: list[str], pairs: pd.DataFrame) -> Figure:
    """Wrong reconstructions (as figure 7 of the paper), above the most frequent errors (`report.frequent_errors`)."""
    if not len(truth):
        return empty_figure("No reconstruction is wrong.")
    options = {"height_ratios": (1, 1, 1.3), "subplot_kw": style.PLAIN}
    figure, axes = panels(3, len(truth), width=WIDTH * 1.2, height=4.8, squeeze=False, **options)
    for axis, picture, name in zip(axes[:2].flat, [*truth, *drawn], [*names, *predicted], strict=True):
        axis.imshow(picture)
        axis.set_title(style.words(name, 20), fontsize=8, loc="center")
    for axis, word in zip(axes[:2, 0], ("shown", "predicted\nand generated"), strict=True):
        axis.set_ylabel(word, fontsize=8)
    for axis in axes[2]:
        axis.remove()
    axis = figure.add_subplot(axes[0, 0].get_gridspec()[2, :])
    axis.barh(range(len(pairs)), pairs["trials"], color=style.COLOUR_OF["test"])
    shown, predicted = (pairs[which].map(style.words) for which in ("shown", "predicted"))
    axis.set_yticks(range(len(pairs)), shown + " as " + predicted, fontsize=8)
    axis.invert_yaxis()
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(title="most frequent errors of the classifier", xlabel="test trials")
    return figure
