"""Figures of notebook 06: pictures shown next to pictures generated, their quality, and what is recovered."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainvis.evaluation.bootstrap import p_text
from brainvis.plots import style
from brainvis.plots.style import COLOUR_OF, WIDTH, Pixels, empty_figure, panels

STAGE_NAMES = {"semantic": "semantic stage", "refined": "refined"}
SIZE = 0.9  # inches per picture


def reconstruction_figure(
    truth: Pixels, stages: dict[str, Pixels], shown: list[str], predicted: list[str], seen: dict | None = None
) -> Figure:
    """One row per trial: pictures (trial, [sample,] height, width, 3), and what the judge has `seen` in each stage."""
    if not len(truth):
        return empty_figure("There is no such trial.")
    cells = [(stage, sample) for stage in stages for sample in range(stages[stage].shape[1])]
    width, height = max(WIDTH * 0.6, SIZE * 1.25 * (len(cells) + 2.6)), SIZE * 1.32 * len(truth) + 0.3
    ratios = [1.6] + [1] * (len(cells) + 1)
    options = {"width": width, "height": height, "width_ratios": ratios, "subplot_kw": style.PLAIN}
    figure, axes = panels(len(truth), len(ratios), squeeze=False, **options)
    for trial, (words, first, *others) in enumerate(axes):
        beside = f"shown: {style.words(shown[trial], 24)}\npredicted: {style.words(predicted[trial], 24)}"
        words.text(0, 0.5, beside, fontsize=8, va="center")
        first.imshow(truth[trial])
        for axis, (stage, sample) in zip(others, cells, strict=True):
            axis.imshow(stages[stage][trial, sample])
            if seen:
                name = seen[stage][trial][sample]
                style.mark_hit(axis, name == shown[trial], name)
    heads = ["shown", *(f"{STAGE_NAMES[stage]} {sample + 1}" for stage, sample in cells)]
    for axis, head in zip(axes[0, 1:], heads, strict=True):
        axis.set_title(head, loc="center", fontsize=8)
    return figure


def accuracy_figure(scores: dict[str, dict[str, dict]], classifier: dict[str, float], chance: float) -> Figure:
    """Generation accuracy, stage -> "all", "right", "wrong" (predicted class) -> score, next to the classifier's."""
    figure, axes = panels(width=WIDTH * 0.85)
    trials = {part: score["trials"] for parts in scores.values() for part, score in parts.items()}
    names = {"all": "all trials", "right": "class predicted correctly", "wrong": "class predicted wrongly"}
    places = {"classifier": "classification\ntop-1 (CA)"}
    places |= {part: f"{words}\n({trials.get(part, 0)} trials)" for part, words in names.items()}
    style.estimates(axes, scores, places, bars=True, labels=STAGE_NAMES)
    style.estimate(axes, 0, classifier, COLOUR_OF["fused"], width=0.5)
    axes.set(ylim=(0, 1), ylabel="accuracy")
    style.chance_line(axes, chance)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def recovery_figure(attributes: dict[str, dict[str, dict]]) -> Figure:
    """Which attributes the judge recovers from the pictures: stage -> attribute -> {"value", "chance", "p"}."""
    names = list(next(iter(attributes.values())))
    figure, axes = panels(1, len(names), height=2.8, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for place, (stage, scores) in enumerate(attributes.items()):
            score = scores[name]
            axis.bar(place, score["value"], 0.7, color=COLOUR_OF[stage])
            axis.text(place, score["value"] + 0.02, p_text(score["p"]), ha="center", fontsize=8)
            style.chance_mark(axis, place, score["chance"])
        axis.set_xticks(range(len(attributes)), [STAGE_NAMES[stage].replace(" ", "\n") for stage in attributes])
        axis.set(title=name, ylim=(0, 1.05), xlim=(-0.6, len(attributes) - 0.4))
    axes[0, 0].set_ylabel("pictures that agree\n(dashed: chance)")
    return figure


def controls_figure(scores: dict[str, dict], titles: dict[str, str], classifier: dict, chance: float) -> Figure:
    """What makes up GA, see `evaluation.controls`: a line per control, by predicted class, below the classifier's."""
    figure, axis = panels(height=0.36 * (len(scores) + 1) + 0.9)
    lines = {"the classifier (CA)": {"all": classifier}}
    for name, score in scores.items():
        lines[titles[name]] = {"all": score["generation_accuracy"], **score["by_prediction"]}
    looks = {
        "all": ("o", COLOUR_OF["truth"], 0, "all trials"),
        "right": ("^", COLOUR_OF["fused"], -0.22, "predicted correctly"),
    }
    looks["wrong"] = ("v", COLOUR_OF["test"], 0.22, "predicted wrongly")
    for part, (marker, colour, shift, words) in looks.items():
        found = [(place + shift, line[part]) for place, line in enumerate(lines.values()) if part in line]
        label = f"{words} ({found[-1][1]['trials']})" if found and "trials" in found[-1][1] else words
        _across(axis, found, colour, marker, label)
    axis.axvline(chance, color=COLOUR_OF["chance"], linestyle="--", linewidth=1, label=f"chance of GA ({chance:.3g})")
    axis.set_yticks(range(len(lines)), list(lines))
    axis.invert_yaxis()
    axis.set(xlim=(-0.02, 1.02), xlabel="accuracy, 95 % intervals")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def layout_figure(scores: dict[str, dict], titles: dict[str, str]) -> Figure:
    """Which attributes besides the class each control's pictures show: control -> "attributes" -> name -> score."""
    names = list(next(iter(scores.values()))["attributes"])
    figure, axes = panels(1, len(names), height=0.33 * len(scores) + 1, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        found = [score["attributes"][name] for score in scores.values()]
        _across(axis, list(enumerate(found)), COLOUR_OF["truth"], "o", None)
        for place, score in enumerate(found):
            axis.plot([score["chance"]] * 2, [place - 0.3, place + 0.3], "--", color=COLOUR_OF["chance"])
        axis.set(title=name, xlim=(-0.02, 1.02), xlabel="pictures that agree\n(dashed: chance)")
    axes[0, 0].set_yticks(range(len(scores)), [titles[name] for name in scores])
    axes[0, 0].invert_yaxis()
    return figure


def _across(axis: Axes, found: list[tuple[float, dict]], colour, marker: str, label: str | None) -> None:
    """Scores with their intervals, each at its height."""
    if found:
        heights, values = [height for height, _ in found], [score["value"] for _, score in found]
        below = [max(score["value"] - score["low"], 0) for _, score in found]
        above = [max(score["high"] - score["value"], 0) for _, score in found]
        axis.errorbar(values, heights, xerr=[below, above], fmt=marker, color=colour, label=label, capsize=2)
