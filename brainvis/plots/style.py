"""The one look of all figures: sizes, type, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 9.0  # inches, of a figure as wide as the text
HEIGHT = 3.0  # inches, of one row of panels

PALETTE = sns.color_palette("colorblind")
# One colour for one thing, in every figure.
COLOURS = {
    "time": PALETTE[0],
    "frequency": PALETTE[1],
    "fused": PALETTE[2],
    "train": PALETTE[7],
    "selection": PALETTE[4],
    "test": PALETTE[3],
    "chance": (0.45, 0.45, 0.45),
    "truth": (0.15, 0.15, 0.15),
    "semantic": PALETTE[9],
    "refined": PALETTE[8],
}
SEQUENTIAL = "mako"  # from nothing to much
DIVERGING = "vlag"  # around zero


def use_style() -> None:
    """Set matplotlib's defaults; importing `brainvis.plots` does it."""
    sns.set_theme(style="ticks", context="notebook", palette="colorblind", font_scale=0.8)
    plt.rcParams.update(
        {
            "figure.dpi": 90,  # enough for a screen; the paper's figures are saved at 300
            "savefig.dpi": 300,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.grid": False,
            "legend.frameon": False,
            "image.interpolation": "nearest",
            "pdf.fonttype": 42,  # text stays text
        }
    )


def panels(rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float | None = None, **options):
    """A figure with a grid of axes that do not overlap.

    Args:
        width: inches, of the whole figure.
        height: inches, of the whole figure; None: `HEIGHT` a row.
        options: passed on to `plt.subplots` (`sharex`, `squeeze`, `width_ratios`, ...).

    Returns:
        The figure and its axes, as `plt.subplots` gives them. The figure is closed for pyplot, so that a notebook
        shows it once, as the value of its cell.
    """
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height or HEIGHT * rows), layout="constrained", **options
    )
    plt.close(figure)
    return figure, axes


def empty_figure(sentence: str) -> Figure:
    """A strip that says why there is nothing to draw."""
    figure, axes = panels(height=0.6)
    axes.axis("off")
    axes.text(0.5, 0.5, sentence, ha="center", va="center", wrap=True)
    return figure


def chance_line(axes: Axes, chance: float) -> None:
    """A dashed horizontal line at chance level, with its name for the legend."""
    axes.axhline(chance, color=COLOURS["chance"], linestyle="--", linewidth=1, label=f"chance ({chance:.3g})", zorder=0)
