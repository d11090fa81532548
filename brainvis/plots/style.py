"""The one look of all figures and tables, set when this is imported, and what several of them draw."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainvis.data.dataset import EEGDataset

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 9.0, 3.0  # inches, of a figure as wide as the text, and of one row of panels
MANY = 20  # names: more than this do not fit on an axis or in a legend
PALETTE = sns.color_palette("colorblind")
SEQUENTIAL, DIVERGING = "mako", "vlag"  # from nothing to much; around zero
# One colour for one thing, in every figure.
COLOUR_OF = {"time": PALETTE[0], "frequency": PALETTE[1], "fused": PALETTE[2]}
COLOUR_OF |= {"late": sns.light_palette(PALETTE[2], 3)[1], "referee": (0.15, 0.15, 0.15)}
COLOUR_OF |= {"train": PALETTE[7], "validation": PALETTE[4], "test": PALETTE[3]}
COLOUR_OF |= {"semantic": PALETTE[9], "refined": PALETTE[8], "chance": (0.45, 0.45, 0.45), "truth": (0.15, 0.15, 0.15)}
OTHERS = [PALETTE[number] for number in (5, 6, 8, 9, 4, 3)]  # of branches that are not named here
LOOK = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
LOOK |= {"image.interpolation": "nearest", "pdf.fonttype": 42, "figure.dpi": 90}  # text stays text; enough for a screen
LOOK |= {"text.parse_math": False}  # a class may be called "$5"
PLAIN = {"frame_on": False, "xticks": [], "yticks": []}  # axes of a picture
sns.set_theme(style="ticks", context="notebook", palette="colorblind", font_scale=0.8, rc=LOOK)
# In tables, too, names are text: neither HTML nor formulas.
TABLES = {"styler.format.escape": "html", "styler.html.mathjax": False, "display.html.use_mathjax": False}
for option, value in TABLES.items():
    pd.set_option(option, value)


def words(name: object, most: int = 40) -> str:
    """A name of somebody's as one line of at most `most` characters, without what is not seen: line breaks, marks that
    turn the direction. A space goes before an underscore, as matplotlib leaves such labels out of its legends."""
    text = "".join(letter for letter in " ".join(str(name).split()) if letter.isprintable()) or "?"
    text = text if len(text) <= most else text[: most - 4] + " ..."
    return f" {text}" if text.startswith("_") else text


def panels(rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float | None = None, **options):
    """As `plt.subplots`, size of the whole in inches; closed for pyplot, so that a notebook shows the figure once."""
    size = (width, height or HEIGHT * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def empty_figure(sentence: str) -> Figure:
    """A strip that says why there is nothing to draw."""
    figure, axes = panels(height=0.6, subplot_kw=PLAIN)
    axes.text(0.5, 0.5, words(sentence, 300), ha="center", va="center", wrap=True)
    return figure


def colours_of(names: Iterable[str]) -> dict[str, tuple]:
    """The colour of each name, distinct ones for branches that have none of their own."""
    others = cycle(OTHERS)
    return {name: COLOUR_OF[name] if name in COLOUR_OF else next(others) for name in names}


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis; its powers of ten are the only formulas in the figures."""
    axes.set_yscale("log")
    for tick in (*axes.yaxis.get_major_ticks(20), *axes.yaxis.get_minor_ticks(100)):  # more than are ever drawn
        tick.label1.set_parse_math(True)


def chance_line(axes: Axes, chance: float, label: str | None = None) -> None:
    """A dashed horizontal line at chance level, with its name for the legend."""
    label = label or f"chance ({chance:.3g})"
    axes.axhline(chance, color=COLOUR_OF["chance"], linestyle="--", linewidth=1, label=label, zorder=0)


def chance_mark(axes: Axes, place: float, chance: float) -> None:
    """A short dashed line at the chance level of one place alone."""
    axes.plot([place - 0.35, place + 0.35], [chance, chance], "--", color=COLOUR_OF["chance"])


def estimate(axes: Axes, place: float, score: Mapping, colour, *, width=None, scale=1, label=None) -> None:
    """A score with its interval: a bar of this width, or a point."""
    low, value, high = (scale * score[key] for key in ("low", "value", "high"))
    reach = np.array([[value - low], [high - value]], float).clip(min=0)
    if width:
        axes.bar(place, value, width, yerr=reach, color=colour, label=label, capsize=2, error_kw={"linewidth": 1})
    else:
        axes.errorbar(place, value, yerr=reach, fmt="o", color=colour, label=label, capsize=3)


def estimates(axes: Axes, groups: Mapping, places: Mapping, *, bars=False, scale=1, labels: Mapping | None = None):
    """Scores of several groups side by side, group -> place -> score, at each of `places` -> what stands beneath it."""
    colours, apart = colours_of(groups), 0.8 / max(len(groups), 1 if bars else 5)
    width = 0.92 * apart if bars else None
    for number, (name, scores) in enumerate(groups.items()):
        shift, label = (number - (len(groups) - 1) / 2) * apart, (labels or {}).get(name, name)
        for place in (place for place in places if place in scores):
            where = list(places).index(place) + shift
            estimate(axes, where, scores[place], colours[name], width=width, scale=scale, label=label)
            label = None  # the first is enough for the legend
    for where, place in enumerate(places):
        chance = [scores[place]["chance"] for scores in groups.values() if "chance" in scores.get(place, {})]
        if not bars and chance:
            chance_mark(axes, where, scale * chance[-1])
    axes.set_xticks(range(len(places)), places.values())


def show_trial(axes: Axes, data: EEGDataset, trial: int, channels: int, among: Sequence[int]) -> None:
    """Some channels of a trial one above the other, at distances that fit the trials it is drawn among."""
    shown = np.linspace(0, len(data.channels) - 1, min(channels, len(data.channels))).round().astype(int)
    step = 6 * data.trials[among][:, shown].std().item()  # six standard deviations apart: lines rarely meet
    heights = -step * np.arange(len(shown))
    signals = data.trials[trial, shown].numpy() + heights[:, None]  # (channel, time)
    axes.plot(1000 * data.times, signals.T, color="black", linewidth=0.6)
    axes.set_yticks(heights, [words(data.channels[channel], 12) for channel in shown])
    axes.set_xlabel("time after onset (ms)")
