"""The common style of all figures and tables, set when this module is imported, and shared drawing functions."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainvis.data.dataset import EEGDataset
from brainvis.data.unit import unit_of

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 9.0, 3.0  # inches: a figure as wide as the text, and one row of panels
MANY = 20  # names: more do not fit on an axis or in a legend
# Blue, orange, indigo, vermilion, ...: seaborn's colour-blind palette without its green, which some see as its red.
PALETTE = sns.color_palette(
    ["#0173b2", "#e69f00", "#542788", "#d55e00", "#cc78bc", "#7f4a1e", "#fbafe4", "#949494", "#f0e442", "#56b4e9"]
)
SEQUENTIAL, DIVERGING = "mako", "vlag"  # from low to high; around zero
# The same colour for the same thing in every figure.
COLOUR_OF = {"time": PALETTE[0], "frequency": PALETTE[1], "fused": PALETTE[2]}
COLOUR_OF |= {"late": sns.light_palette(PALETTE[2], 3)[1], "referee": (0.15, 0.15, 0.15)}
COLOUR_OF |= {"train": PALETTE[7], "validation": PALETTE[4], "test": PALETTE[3]}
COLOUR_OF |= {"semantic": PALETTE[9], "refined": PALETTE[5], "chance": (0.45, 0.45, 0.45), "truth": (0.15, 0.15, 0.15)}
COLOUR_OF |= {"hit": PALETTE[0], "miss": PALETTE[3]}
OTHERS = [PALETTE[number] for number in (5, 6, 8, 9, 4, 3)]  # for branches not named here
LOOK = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
LOOK |= {"image.interpolation": "nearest", "pdf.fonttype": 42, "figure.dpi": 90}  # text stays text
LOOK |= {"text.parse_math": False}  # a class may be called "$5"
LOOK |= {"axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8, "legend.title_fontsize": 8}
LOOK |= {"xtick.labelsize": 8, "ytick.labelsize": 8, "font.size": 9}
PLAIN = {"frame_on": False, "xticks": [], "yticks": []}  # axes for pictures
# The font comes with matplotlib, so figures are the same on every machine.
sns.set_theme(style="ticks", font="DejaVu Sans", palette=PALETTE, rc=LOOK)
if get_ipython():  # imported here: without a shell, this import would remove the pictures from the notebook
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("retina")  # twice as many pixels
# In tables, too, names are plain text: neither HTML nor formulas.
TABLES = {"styler.format.escape": "html", "styler.html.mathjax": False, "display.html.use_mathjax": False}
for option, value in TABLES.items():
    pd.set_option(option, value)


def words(name: object, most: int = 40) -> str:
    """A user-supplied name as one line of at most `most` characters, without invisible ones: line breaks, direction
    marks. A leading underscore gets a space before it, as matplotlib omits such labels from its legends."""
    text = "".join(letter for letter in " ".join(str(name).split()) if letter.isprintable()) or "?"
    text = text if len(text) <= most else text[: most - 4] + " ..."
    return f" {text}" if text.startswith("_") else text


def panels(rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float | None = None, **options):
    """Like `plt.subplots`, with the total size in inches; closed for pyplot, so a notebook shows the figure once."""
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
    """The colour of each name; branches without a colour of their own get distinct ones."""
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
    """A short dashed line at the chance level of a single place."""
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
    """Scores of several groups side by side, group -> place -> score, at each of `places` -> the label beneath it."""
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


def amplitude_bar(axes: Axes, amount: float, unit: str) -> None:
    """A vertical bar of about this height to the right of the traces, rounded to 1, 2 or 5, with its size and unit."""
    power = 10.0 ** np.floor(np.log10(amount))
    size = power * max(step for step in (1, 2, 5) if step * power <= amount * 1.001)
    limits, across = axes.get_ylim(), axes.get_yaxis_transform()
    bottom = min(limits)
    axes.plot([1.01, 1.01], [bottom, bottom + size], color="black", linewidth=1.5, transform=across, clip_on=False)
    axes.text(1.02, bottom, f"{size:g} {words(unit, 20)}", fontsize=7, rotation=90, va="bottom", transform=across)
    axes.set_ylim(limits)


def mark_hit(axes: Axes, hit: bool, name: str) -> None:
    """Frame a picture and write the recognised name beneath it, ticked or crossed: never marked by colour alone."""
    colour = COLOUR_OF["hit" if hit else "miss"]
    axes.set_frame_on(True)
    axes.spines[:].set(visible=True, color=colour, linewidth=2, capstyle="butt")
    axes.spines[:].set(linestyle="-" if hit else (0, (2, 1)))
    axes.set_xlabel(f"{'✓' if hit else '✗'} {words(name, 20)}", fontsize=7, color=colour, labelpad=2)


def unlabelled(figure: Figure) -> list[str]:
    """What a reader would miss in a figure: an empty list if every axis states what it shows and in which unit.

    Axes with numbers need a label, their own or that of the panel they share the axis with; axes whose ticks are names
    need none. A map (a picture of one number per pixel) needs a colour bar with a label, or its numbers written in it;
    a photograph needs neither. If there are several panels, each needs a title or a label.
    """
    missing, bars = [], [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    maps = [mapped for axes in figure.axes if axes not in bars for mapped in _maps(axes)]
    explained = {(mapped.get_cmap().name, mapped.get_clim()) for mapped in maps if mapped.colorbar}
    for number, axes in enumerate(figure.axes):
        where = f"panel {number} ({axes.get_title() or axes.get_title('left') or axes.get_title('center')})"
        photograph = not (len(axes.get_xticks()) or len(axes.get_yticks()))
        if not axes.axison or not axes.get_visible() or not axes.has_data() and axes not in bars:
            continue
        for mapped in [] if axes in bars else _maps(axes):
            written = len(axes.texts) >= np.size(mapped.get_array())
            if not written and (mapped.get_cmap().name, mapped.get_clim()) not in explained:
                missing.append(f"{where}: a map without a colour bar")
        if axes in bars:
            missing += [] if axes.get_xlabel() or axes.get_ylabel() else [f"{where}: a colour bar without a label"]
        elif not photograph:
            for which, shared in (("x", axes.get_shared_x_axes()), ("y", axes.get_shared_y_axes())):
                label = any(getattr(other, f"get_{which}label")() for other in shared.get_siblings(axes))
                if not label and not getattr(figure, f"get_sup{which}label")() and _numbers(axes, which):
                    missing.append(f"{where}: no {which} label")
    return missing


def _maps(axes: Axes) -> list[ScalarMappable]:
    """Pictures and meshes of one number per pixel, encoded by colour."""
    drawn = [drawn for drawn in (*axes.images, *axes.collections) if isinstance(drawn, ScalarMappable)]
    drawn = [drawn for drawn in drawn if drawn.get_array() is not None and not isinstance(drawn, ContourSet)]
    return [mapped for mapped in drawn if np.ndim(mapped.get_array()) < 3]


def _numbers(axes: Axes, which: str) -> bool:
    """Whether the ticks of an axis are visible numbers, not names."""
    ticks = [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")() if label.get_visible()]
    found = [tick.replace("\N{MINUS SIGN}", "-").strip("$%") for tick in ticks if tick]
    return any("mathdefault" in tick or _is_number(tick) for tick in found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def show_trial(axes: Axes, data: EEGDataset, trial: int, channels: int, among: Sequence[int], bar: bool = True) -> None:
    """Some channels of a trial one above the other, at distances that suit the trials it is drawn among; with an
    amplitude bar if `bar`."""
    shown = np.linspace(0, len(data.channels) - 1, min(channels, len(data.channels))).round().astype(int)
    step = 6 * data.trials[among][:, shown].std().item()  # six standard deviations apart: lines rarely meet
    heights = -step * np.arange(len(shown))
    signals = data.trials[trial, shown].numpy() + heights[:, None]  # (channel, time)
    axes.plot(1000 * data.times, signals.T, color="black", linewidth=0.6)
    axes.set_yticks(heights, [words(data.channels[channel], 12) for channel in shown])
    axes.set_xlabel("time after onset (ms)")
    if bar:
        amplitude_bar(axes, step, unit_of(data))
