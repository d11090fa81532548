"""Figures of notebooks 07 and 08: what all runs together say. Scores come as `brainvis.tables.gather_scores` rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..configuration import ABLATIONS
from .style import COLOURS, WIDTH, chance_line, empty_figure, panels

FEATURES = ("time", "frequency", "fused")
STAGES = {"semantic": "semantic stage alone", "refined": "after refinement"}


def classification_figure(scores: pd.DataFrame) -> Figure:
    """Top-1, top-3 and top-5 accuracy of time, frequency and fused features of each subject, with 95 % intervals."""
    scores = scores[(scores["stage"] == "fusion") & (scores["ablation"] == "full")]
    if scores.empty:
        return empty_figure("No run of the fusion stage is there yet.")
    subjects = sorted(scores["subject"].unique())
    figure, axes = panels(1, 3, sharey=True)
    for axis, top in zip(axes, (1, 3, 5), strict=True):
        for place, feature in enumerate(FEATURES):
            rows = scores[scores["score"] == f"{feature}.top{top}"].sort_values("subject")
            positions = [subjects.index(subject) + (place - 1) * 0.27 for subject in rows["subject"]]
            _bars(axis, positions, rows, 0.25, COLOURS[feature], feature)
        chances = scores.loc[scores["score"] == f"fused.top{top}", "chance"].dropna()
        if len(chances):
            chance_line(axis, chances.iloc[0])
            axis.lines[-1].set_label("chance")  # another in each panel
        axis.set_xticks(range(len(subjects)), [f"subject {subject}" for subject in subjects])
        axis.set(title=f"top-{top}", ylim=(0, 1))
    axes[0].set_ylabel("classification accuracy")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def ablation_figure(scores: pd.DataFrame, subject: int) -> Figure:
    """Classification accuracy (left, as table 3) and generation accuracy (right, as table 4) by ablation.

    An ablation that leaves the classifier alone has no bar of its own on the left.
    """
    scores = scores[scores["subject"] == subject]
    classified = scores[(scores["stage"] == "fusion") & (scores["score"] == "fused.top1")]
    generated = {stage: scores[scores["score"] == f"{stage}.generation_accuracy"] for stage in STAGES}
    if classified.empty:
        return empty_figure(f"No run of the fusion stage of subject {subject} is there yet.")
    figure, axes = panels(1, 2, height=3.4)
    _by_ablation(axes[0], {"fused": classified}, {"fused": None})
    axes[0].set(title=f"classification top-1 (CA), subject {subject}", ylim=(0, 1))
    if all(rows.empty for rows in generated.values()):
        axes[1].axis("off")
        axes[1].text(0.5, 0.5, "no pictures were generated", ha="center", va="center")
        return figure
    _by_ablation(axes[1], generated, STAGES)
    axes[1].set(title=f"generation accuracy (GA), subject {subject}", ylim=(0, 1))
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _by_ablation(axes: Axes, groups: dict[str, pd.DataFrame], labels: dict[str, str | None]) -> None:
    """Bars of each group, next to each other for each ablation, with the chance line."""
    present = pd.concat(groups.values())
    ablations = sorted(present["ablation"].unique(), key=list(ABLATIONS).index)
    width = 0.8 / len(groups)
    for place, (name, rows) in enumerate(groups.items()):
        offset = (place - (len(groups) - 1) / 2) * width
        positions = [ablations.index(ablation) + offset for ablation in rows["ablation"]]
        _bars(axes, positions, rows, width * 0.92, COLOURS[name], labels[name])
    chance_line(axes, present["chance"].iloc[0])
    names = [name.replace("no_", "no ").replace("_", " ") for name in ablations]
    axes.set_xticks(range(len(ablations)), names, rotation=30, ha="right")


def _bars(axes: Axes, positions: list[float], rows: pd.DataFrame, width: float, colour, label: str | None) -> None:
    errors = np.array([rows["value"] - rows["low"], rows["high"] - rows["value"]], float).clip(min=0)
    axes.bar(
        positions, rows["value"], width, yerr=errors, color=colour, label=label, capsize=2, error_kw={"linewidth": 1}
    )


def results_grid_figure(
    truth: NDArray[np.uint8], samples: NDArray[np.uint8], names: list[str], columns: int = 4
) -> Figure:
    """Ground truth, sample 1, sample 2 (the results grid of the paper), several trials side by side.

    Args:
        truth: (trial, height, width, 3).
        samples: (trial, sample, height, width, 3); the first two samples are drawn, or the only one.
        names: (trial,) what stands above each trial.
        columns: trials in a row.
    """
    shown = min(samples.shape[1], 2)
    wide = shown + 1
    rows = -(-len(truth) // columns)
    gap = 0.25  # of a picture, between trials
    ratios = ([1] * wide + [gap]) * columns
    figure, axes = panels(
        rows, len(ratios), width=WIDTH * 1.2, height=rows * (1.2 * WIDTH / sum(ratios) + 0.24) + 0.35, squeeze=False,
        width_ratios=ratios,
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for trial, name in enumerate(names):
        row, first = trial // columns, trial % columns * (wide + 1)
        for place, picture in enumerate([truth[trial], *samples[trial, :shown]]):
            axes[row, first + place].imshow(picture)
        axes[row, first].set_title(name, fontsize=8, loc="left")
    figure.supxlabel("each trial: ground truth" + "".join(f", sample {i + 1}" for i in range(shown)), fontsize=8)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.04, wspace=0.01, hspace=0.02)
    return figure


def wrong_figure(
    truth: NDArray[np.uint8],
    generated: NDArray[np.uint8],
    names: list[str],
    predicted: list[str],
    pairs: pd.DataFrame,
) -> Figure:
    """Wrong reconstructions (as figure 7 of the paper), and between which classes the classifier errs most.

    Args:
        truth: (trial, height, width, 3) of wrong trials.
        generated: (trial, height, width, 3), one sample of each.
        names, predicted: (trial,) class that was shown, class that was predicted.
        pairs: columns `shown`, `predicted`, `trials`: the most frequent errors.
    """
    if not len(truth):
        return empty_figure("No reconstruction is wrong.")
    columns = len(truth)
    figure, axes = panels(3, columns, width=WIDTH * 1.2, height=4.8, squeeze=False, height_ratios=(1, 1, 1.3))
    for axis, picture, name in zip(axes[:2].flat, [*truth, *generated], [*names, *predicted], strict=True):
        axis.imshow(picture)
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=8, loc="center")
        axis.spines[:].set_visible(False)
    for axis, word in zip(axes[:2, 0], ("shown", "predicted\nand generated"), strict=True):
        axis.set_ylabel(word, fontsize=8)
    for axis in axes[2]:
        axis.remove()
    axis = figure.add_subplot(axes[0, 0].get_gridspec()[2, :])
    words = [f"{row.shown} as {row.predicted}" for row in pairs.itertuples()]
    axis.barh(range(len(pairs)), pairs["trials"], color=COLOURS["test"])
    axis.set_yticks(range(len(pairs)), words, fontsize=8)
    axis.invert_yaxis()
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(title="most frequent errors of the classifier", xlabel="test trials")
    return figure
