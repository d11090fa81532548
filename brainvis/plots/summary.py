"""Figures of notebooks 07 and 08: results over all runs. Scores are the rows of `report.gather_scores`, for a single
seed, or of `seeds.mean_over_seeds`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainvis.configuration import ABLATIONS
from brainvis.evaluation.baselines import SHORT
from brainvis.evaluation.comparisons import LEVEL, corrected_p
from brainvis.plots import style
from brainvis.plots.style import WIDTH, Pixels, empty_figure, panels

COLOURS_OF_MEASURES = {"CA top-1": "fused", "GA": "refined"}
TITLES = {"top1": "top-1", "top5": "top-5", "balanced_accuracy": "balanced accuracy"}
KEYS = ("value", "low", "high")
MOST_INSIDE = 3  # subjects: more names would hide the points
SUBJECTS, MARKERS = [style.PALETTE[number] for number in (0, 3, 4, 5, 9, 7)], "os^Dv"
# Labels beneath the scores of the fusion stage, in this order; other branches go after the first two.
FEATURES = {"time": "time branch", "frequency": "frequency branch", "late": "late fusion", "fused": "BrainVis"}
FEATURES |= {f"baselines.{name}": words for name, words in SHORT.items()}
PICTURES_OF = {"semantic": "semantic stage alone", "refined": "after refinement"}


def classification_figure(
    scores: pd.DataFrame, trials: Mapping[int, int], of_seeds: pd.DataFrame | None = None
) -> Figure:
    """Top-1 and top-5 accuracy (balanced accuracy if top-5 is uninformative) of each branch, of late fusion, of
    BrainVis and of the baselines; one line per subject.

    `trials`: subject -> its test trials. `of_seeds`: the same scores for each seed, drawn as small separate points.
    """
    scores = scores[(scores["stage"] == "fusion") & (scores["ablation"] == "full")]
    if scores.empty:
        return empty_figure("There is no run of the fusion stage yet.")
    tops = scores.loc[scores["score"].str.endswith(".top1"), "score"].str.removesuffix(".top1")
    found = [name for name in tops.unique() if name != "referee" and not name.startswith("difference.")]
    own, last = [name for name in found if name not in FEATURES], list(FEATURES)
    order = {name: place for place, name in enumerate([*last[:2], *own, *last[2:]])}
    features = sorted(found, key=order.__getitem__)
    subjects = sorted(scores["subject"].unique())
    figure, axes = panels(1, 2, height=3.4, sharey=True)
    second = "top5" if (scores["score"] == "fused.top5").any() else "balanced_accuracy"
    for axis, top in zip(axes, ("top1", second), strict=True):
        by_feature = {feature: _by(scores, "subject", f"{feature}.{top}") for feature in features}
        for number, subject in enumerate(subjects):
            points = [(place, by_feature[name].get(subject)) for place, name in enumerate(features)]
            points = [(place + 0.12 * (number - (len(subjects) - 1) / 2), point) for place, point in points if point]
            values = 100 * np.array([[point[key] for key in ("value", "low", "high")] for _, point in points])
            reach = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
            label = f"subject {subject} (n = {trials[subject]})" if subject in trials else f"subject {subject}"
            look = {"fmt": MARKERS[number % len(MARKERS)] + "-", "linewidth": 0.8, "capsize": 2, "markersize": 5}
            colour = SUBJECTS[number % len(SUBJECTS)]
            axis.errorbar([place for place, _ in points], values[:, 0], reach, color=colour, label=label, **look)
            for (place, _), name in zip(points, (n for n in features if subject in by_feature[n]), strict=True):
                dots = _of_seeds(of_seeds, subject, f"{name}.{top}")
                axis.plot([place + 0.05] * len(dots), 100 * dots, ".", color=colour, alpha=0.5, markersize=4)
        chance = 100 * next(iter(by_feature["fused"].values()))["chance"]
        style.chance_line(axis, chance, label=f"chance ({chance / 100:.3f})")
        names = [FEATURES.get(name, style.words(name, 14)) for name in features]
        axis.set_xticks(range(len(features)), names, rotation=30, ha="right")
        axis.set(title=TITLES[top], ylim=(0, 102))
        if len(subjects) <= MOST_INSIDE:
            axis.legend(loc="upper left" if top == "top1" else "best")
    if len(subjects) > MOST_INSIDE:
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[0].set_ylabel("test trials named correctly (%)")
    return figure


def ablation_figure(scores: pd.DataFrame, subject: int) -> Figure:
    """Accuracy of classification (as in table 3; ablations that change it) and of generation (as in table 4)."""
    scores = scores[scores["subject"] == subject]
    classified = {"fused": _by(scores[scores["stage"] == "fusion"], "ablation", "fused.top1")}
    generated = {stage: _by(scores, "ablation", f"{stage}.generation_accuracy") for stage in PICTURES_OF}
    if not classified["fused"]:
        return empty_figure(f"There is no run of the fusion stage for subject {subject} yet.")
    figure, axes = panels(1, 2, height=3.4)
    parts = (("classification accuracy, top-1 (%)", classified), ("generation accuracy, GA (%)", generated))
    for axis, (title, groups) in zip(axes, parts, strict=True):
        rows = {ablation: row for group in groups.values() for ablation, row in group.items()}
        if not rows:
            axis.axis("off")
            axis.text(0.5, 0.5, "no pictures were generated", ha="center", va="center")
            return figure
        names = {name: _without(name, rows[name].get("seeds", 1)) for name in ABLATIONS if name in rows}
        style.estimates(axis, groups, names, bars=True, scale=100, labels=PICTURES_OF | {"fused": None})
        chance = next(iter(rows.values()))["chance"]
        style.chance_line(axis, 100 * chance, f"chance ({chance:.3f})")
        plt.setp(axis.get_xticklabels(), rotation=30, ha="right")
        axis.set(ylabel=title, title=f"subject {subject}", ylim=(0, 100))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def differences_figure(differences: pd.DataFrame) -> Figure:
    """How leaving out a part changes scores on the same trials, in points; one panel per measure, p corrected by panel.

    `differences` are those of `comparisons.ablation_differences`.
    """
    if differences.empty:
        return empty_figure("No ablation has been run besides the whole method.")
    measures, ablations = differences["measure"].unique(), list(differences["ablation"].unique())
    size = {"height": 0.34 * len(ablations) + 1.1, "sharey": True, "squeeze": False}
    figure, axes = panels(1, len(measures), **size)
    for axis, measure in zip(axes[0], measures, strict=True):
        rows = differences[differences["measure"] == measure]
        colour = style.COLOUR_OF[COLOURS_OF_MEASURES.get(measure, "fused")]
        for _, row in rows.iterrows():
            place, (value, low, high) = ablations.index(row["ablation"]), (100 * row[key] for key in KEYS)
            shown = row["p_holm"] < LEVEL
            axis.plot([low, high], [place, place], color=colour, linewidth=1.5)
            axis.plot(value, place, "o", color=colour, markerfacecolor=colour if shown else "white")
            where = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
            axis.text(1.01, place, corrected_p(row), **where)
        axis.axvline(0, color=style.COLOUR_OF["chance"], linewidth=1)
        axis.set_title(f"{measure} (n = {rows['trials'].max():.0f})")
        axis.set(xlabel="points gained or lost without it", ylim=(len(ablations) - 0.5, -0.5))
        axis.margins(x=0.08)
    axes[0, 0].set_yticks(range(len(ablations)), [_without(name) for name in ablations])
    return figure


def _without(ablation: str, seeds: int = 1) -> str:
    """An ablation's name in words, with the number of seeds its score is averaged over."""
    name = style.words(ablation.replace("no_", "no ").replace("_", " "), 30)
    return name if seeds == 1 else f"{name} ({seeds} seeds)"


def _of_seeds(scores: pd.DataFrame | None, subject: int, score: str) -> np.ndarray:
    """One score of the fusion stage for each seed of `full`, if there are several: (seed,)."""
    if scores is None:
        return np.empty(0)
    wanted = {"stage": "fusion", "ablation": "full", "subject": subject, "score": score}
    values = scores.loc[(scores[list(wanted)] == pd.Series(wanted)).all(axis=1), "value"].to_numpy()
    return values if len(values) > 1 else np.empty(0)


def _by(scores: pd.DataFrame, key: str, score: str) -> dict[object, dict]:
    """One score from the rows, by subject or ablation."""
    return scores[scores["score"] == score].set_index(key).to_dict("index")


def results_grid_figure(
    pictures: Mapping[str, Pixels],
    names: Sequence[str],
    predicted: Sequence[str],
    seen: Mapping[str, Sequence[str]],
    title: str = "",
    blocks: int = 3,
) -> Figure:
    """Trials in several blocks, each trial a row of four pictures (the results grid of the paper).

    `pictures`: column head -> pictures (trial, height, width, 3), the one shown first; `seen`: column head -> what the
    judge sees in each of them, if a judge was asked. The class is written beneath the picture shown, the `predicted`
    class beneath the last picture drawn from EEG.
    """
    wide, count = len(pictures), len(names)
    rows = -(-count // blocks)
    ratios = ([1] * wide + [0.18]) * blocks  # a gap between blocks
    side = WIDTH * 1.2 / sum(ratios)
    options = {"width_ratios": ratios, "subplot_kw": style.PLAIN, "width": WIDTH * 1.2, "squeeze": False}
    figure, axes = panels(rows, len(ratios), height=rows * (side + 0.19) + 0.75, **options)
    last = list(seen)[-1] if seen else list(pictures)[-1]
    for trial in range(count):
        block, row = divmod(trial, rows)
        for axis, (head, images) in zip(axes[row, block * (wide + 1) :], pictures.items(), strict=False):
            axis.imshow(images[trial])
            if head in seen:
                style.mark_hit(axis, seen[head][trial] == names[trial], "")
                axis.set_xlabel("")
            if row == 0:
                axis.set_title(head, loc="center", fontsize=8)
            if head == last:
                hit = predicted[trial] == names[trial]
                colour = style.COLOUR_OF["hit" if hit else "miss"]
                axis.set_xlabel(f"{'✓' if hit else '✗'} {style.words(predicted[trial], 15)}", fontsize=7, color=colour)
        axes[row, block * (wide + 1)].set_xlabel(style.words(names[trial], 16), fontsize=7)
    for axis in axes.flat:
        axis.xaxis.labelpad = 2
    said = f"Beneath: the class shown, and the class predicted from EEG, which “{last}” is told (✓ right, ✗ wrong)."
    if seen:
        said += "\nFrames: the judge sees the class that was shown (blue) or another one (dashed orange)."
    figure.supxlabel(said, fontsize=7.5, x=0.01, ha="left")
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.01, hspace=0.02)
    return figure


def wrong_figure(truth: Pixels, drawn: Pixels, names: list[str], predicted: list[str]) -> Figure:
    """Trials whose class was predicted wrongly (figure 7 of the paper): shown above, drawn below."""
    if not len(truth):
        return empty_figure("No class was predicted wrongly.")
    figure, axes = panels(2, len(truth), width=WIDTH * 1.2, height=3.1, squeeze=False, subplot_kw=style.PLAIN)
    for axis, picture, name in zip(axes.flat, [*truth, *drawn], [*names, *predicted], strict=True):
        axis.imshow(picture)
        axis.set_title(style.words(name, 20), fontsize=8, loc="center")
    for axis, word in zip(axes[:, 0], ("shown", "predicted and drawn"), strict=True):
        axis.set_ylabel(word, fontsize=8)
    return figure


def errors_figure(
    labels: Sequence[int], predicted: Sequence[int], words: Mapping[str, Sequence[str]], pairs: pd.DataFrame
) -> Figure:
    """Which word of the name is wrong: one against the other, counted, and what each is confused with.

    `labels` and `predicted` (trial,); `words` as returned by `class_attributes`. If class names do not share a common
    structure, the most frequent errors (`report.frequent_errors`) are drawn instead.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if len(words) < 2:
        figure, axis = panels(height=0.28 * len(pairs) + 0.9)
        axis.barh(range(len(pairs)), pairs["trials"], color=style.COLOUR_OF["miss"])
        shown, said = (pairs[which].map(lambda name: style.words(name, 24)) for which in ("shown", "predicted"))
        axis.set_yticks(range(len(pairs)), shown + " as " + said)
        axis.invert_yaxis()
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(title="most frequent errors of the classifier", xlabel="test trials")
        return figure
    (first, second), spelled = list(words)[:2], {place: np.array(of, object) for place, of in words.items()}
    right = {place: of[labels] == of[predicted] for place, of in spelled.items()}
    figure, axes = panels(1, 3, width=WIDTH * 1.2, height=3.6, width_ratios=(0.8, 1, 1.1))
    table = [[int(((right[second] == s) & (right[first] == f)).sum()) for f in (True, False)] for s in (True, False)]
    axes[0].imshow(table, cmap=style.SEQUENTIAL + "_r", vmin=0, vmax=len(labels))
    for (row, column), count in np.ndenumerate(table):
        ink = "white" if count > len(labels) / 2 else "black"
        text = {"ha": "center", "va": "center", "color": ink, "fontsize": 9}
        axes[0].text(column, row, f"{count}\n{100 * count / max(len(labels), 1):.0f} %", **text)
    axes[0].set_xticks((0, 1), (f"{style.words(first)} right", f"{style.words(first)} wrong"))
    axes[0].set_yticks(
        (0, 1), (f"{style.words(second)} right", f"{style.words(second)} wrong"), rotation=90, va="center"
    )
    axes[0].set_title(f"{len(labels)} test trials")
    for axis, place in zip(axes[1:], (first, second), strict=True):
        names = sorted(set(spelled[place]))
        counts = np.zeros((len(names), len(names)))
        pairs_of = zip(spelled[place][labels], spelled[place][predicted], strict=True)
        for shown, said in pairs_of:
            counts[names.index(shown), names.index(said)] += 1
        shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
        picture = axis.imshow(shares, cmap=style.SEQUENTIAL, vmin=0, vmax=100)
        axis.set_xticks(range(len(names)), [style.words(name, 14) for name in names], rotation=90)
        axis.set_yticks(range(len(names)), [style.words(name, 14) for name in names])
        axis.set(xlabel=f"{style.words(place)} predicted", ylabel=f"{style.words(place)} shown")
    figure.colorbar(picture, ax=axes[1:], label="trials of what was shown (%)", shrink=0.8)
    return figure
