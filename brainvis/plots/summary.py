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

LEARNT, FROZEN, MEASURED = style.PALETTE[2], style.PALETTE[9], (0.35, 0.35, 0.35)  # colours of the framework
WIDE, HIGH = 12.0, 4.35  # inches, and the units, of the drawing of the framework
COLOURS_OF_MEASURES = {"CA top-1": "fused", "GA": "refined"}
PICTURES_OF = {"semantic": "semantic stage alone", "refined": "after refinement"}


def classification_figure(scores: pd.DataFrame) -> Figure:
    """Top-1, top-3 and top-5 accuracy of every branch and of fusion, by subject, with 95 % intervals."""
    scores = scores[(scores["stage"] == "fusion") & (scores["ablation"] == "full")]
    if scores.empty:
        return empty_figure("No run of the fusion stage is there yet.")
    tops = scores.loc[scores["score"].str.endswith(".top1"), "score"].str.removesuffix(".top1")
    features = [name for name in tops.unique() if name != "linear" and not name.startswith("difference.")]
    subjects = {subject: f"subject {subject}" for subject in sorted(scores["subject"].unique())}
    figure, axes = panels(1, 3, sharey=True)
    for axis, top in zip(axes, ("top1", "top3", "top5"), strict=True):
        groups = {feature: _by(scores, "subject", f"{feature}.{top}") for feature in features}
        style.estimates(axis, groups, subjects, bars=True)
        chance = next(iter(groups["fused"].values()))["chance"]
        style.chance_line(axis, chance, label="chance")  # another in each panel
        axis.set(title=top.replace("p", "p-"), ylim=(0, 1))
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


def framework_figure(
    configuration: Configuration, data: EEGDataset, text_shape: tuple | None = None, pictures: dict | None = None
) -> Figure:
    """What flows through BrainVis (our own drawing, after figure 2 of the paper), with the shapes of one configuration.

    Without `text_shape` (tokens, width) of text embeddings it ends with the classifier. `pictures`: name -> pixels.
    """
    channels, samples = data.trials.shape[1:]
    time, frequency, branches = configuration.time, configuration.frequency, configuration.fusion.branches
    highest = min(frequency.highest_frequency or data.sampling_rate / 2, data.sampling_rate / 2)
    lines = int(highest * samples / data.sampling_rate)  # the constant is dropped
    words = {
        "time": f"time branch\n{samples // time.unit_length} units of {time.unit_length} samples\n"
        f"transformer layers: {time.layers}, width {time.width}",
        "frequency": f"frequency branch\n|FFT|: {lines} frequencies up to {highest:g} Hz\n"
        f"LSTM layers: {frequency.layers}, width {frequency.width}",
    }
    drawn = list(dict.fromkeys([*words, *branches]))
    bottom = 0.0 if text_shape or len(drawn) > 2 else 1.25
    figure, axes = panels(width=WIDE, height=HIGH - bottom, subplot_kw=style.PLAIN)
    axes.set(xlim=(0, WIDE), ylim=(bottom, HIGH))

    widths = [getattr(getattr(configuration, branch, None), "width", None) for branch in branches]
    fused = f"{len(branches)} branches, end to end" if None in widths else f"width {sum(widths)}"
    _box(axes, (0.1, 2.3, 1.3, 1.0), f"EEG trial\n{channels} channels\n{samples} samples", MEASURED)
    step = min(1.85, 3.2 / (len(drawn) - 1))
    for place, branch in enumerate(drawn):
        low, height = 3.3 - place * step, min(0.95, step - 0.2)
        _box(axes, (1.9, low, 2.9, height), words.get(branch, branch), LEARNT, faded=branch not in branches)
        if branch in branches:
            _arrow(axes, (1.4, 2.8), (1.9, low + height / 2))
            _arrow(axes, (4.8, low + height / 2), (5.35, 2.8))
    masked = f"{time.mask_ratio:.0%} of units masked, then fine-tuned" if time.pretraining.epochs else "no pre-training"
    axes.text(3.35, 3.23, f"Latent Masked Modeling: {masked}", ha="center", va="top", fontsize=7, style="italic")
    _box(axes, (5.35, 2.35, 1.6, 0.9), f"fused embedding\n{fused}", LEARNT)
    _box(axes, (7.5, 3.3, 1.6, 0.95), f"classifier\n{len(data.class_names)} classes", LEARNT)
    _arrow(axes, (6.95, 2.8), (7.5, 3.775))
    if text_shape is None:
        return figure

    generation, alignment = configuration.generation, configuration.alignment
    shape = f"{text_shape[0]} x {text_shape[1]}"
    text = f"CLIP text embeddings, {shape} (frozen)\ncoarse: class name, fine: caption"
    semantic = f"semantic stage (frozen)\nPLMS, {generation.semantic_steps} steps\nsamples: {generation.samples}"
    refined = f"refinement (frozen)\nimage-to-image, strength {generation.strength:g}\n"
    refined += f"guidance {generation.refinement_guidance:g}, {generation.refinement_steps} steps"
    _box(axes, (7.5, 1.9, 1.6, 1.0), f"alignment\n{alignment.wide} and {alignment.narrow} wide\nto {shape}", LEARNT)
    _box(axes, (5.35, 0.15, 3.75, 0.8), text, FROZEN)
    _box(axes, (9.75, 1.9, 2.15, 1.0), semantic, FROZEN, faded=not generation.semantic)
    _box(axes, (9.75, 3.3, 2.15, 0.95), refined, FROZEN, faded=not generation.refinement)
    _arrow(axes, (6.95, 2.8), (7.5, 2.4))  # fused embedding -> alignment
    _arrow(axes, (8.3, 3.3), (8.3, 2.9))  # classifier -> alignment
    _arrow(axes, (8.3, 0.95), (8.3, 1.9), linestyle="--")  # text embeddings -> alignment
    _arrow(axes, (9.1, 2.4), (9.75, 2.4))  # alignment -> semantic stage
    _arrow(axes, (10.825, 2.9), (10.825, 3.3))  # semantic stage -> refinement
    _arrow(axes, (9.1, 3.775), (9.75, 3.775))  # classifier -> refinement
    axes.text(8.35, 1.42, "semantic interpolation\n(training only)", fontsize=7, style="italic", va="center")
    axes.text(9.42, 3.84, "name", ha="center", fontsize=7, style="italic")
    for place, (name, picture) in enumerate((pictures or {}).items()):
        left = 9.42 + 0.86 * place
        axes.inset_axes((left, 0.5, 0.8, 0.8), transform=axes.transData, **style.PLAIN).imshow(picture)
        axes.text(left + 0.4, 0.43, style.words(name, 16), ha="center", va="top", fontsize=7)
    axes.text(0.1, 0.55, "learnt here", color=LEARNT, weight="bold", fontsize=8)
    axes.text(0.1, 0.25, "frozen backbone", color=FROZEN, weight="bold", fontsize=8)
    return figure


def _box(axes: Axes, place: tuple, text: str, colour: tuple, faded: bool = False) -> None:
    """A box (left, bottom, width, height) with words, the first line its name; faded where it is left out."""
    left, bottom, width, height = place
    look = {"linestyle": ":", "alpha": 0.4} if faded else {}
    look |= {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": (*colour[:3], 0.12), "edgecolor": colour}
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, linewidth=1.4, **look))
    name, *rest = text.split("\n")
    top = bottom + height / 2 + 0.1 * len(rest)
    ink = {"ha": "center", "va": "center", "alpha": 0.5 if faded else 1}
    axes.text(left + width / 2, top, name, weight="bold", fontsize=8.5, **ink)
    axes.text(left + width / 2, top - 0.12 * (len(rest) + 1) + 0.02, "\n".join(rest), fontsize=7.5, **ink)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], linestyle: str = "-") -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0, "linestyle": linestyle}
    axes.add_patch(FancyArrowPatch(start, end, color=style.COLOUR_OF["truth"], linewidth=1.1, **look))
