"""The method as one row of boxes, with a notebook's box highlighted: where the reader is."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from brainvis.graph import NOTEBOOKS
from brainvis.plots import style
from brainvis.plots.style import WIDTH, panels

LIT, UNLIT, INK = style.PALETTE[1], (0.62, 0.62, 0.62), (0.15, 0.15, 0.15)
HIGH = 1.15  # inches, which are also the drawing units, as for the width
# For each stage: left, bottom, width, height; the text in the box under its notebook number.
BOXES = {
    "exploration": ((0.05, 0.35, 0.95, 0.5), "data"),
    "lmm_pretraining": ((1.3, 0.63, 1.2, 0.48), "time branch"),
    "frequency_branch": ((1.3, 0.05, 1.2, 0.48), "frequency branch"),
    "fusion": ((2.8, 0.35, 0.95, 0.5), "fusion"),
    "alignment": ((4.05, 0.35, 1.05, 0.5), "alignment"),
    "generation": ((5.4, 0.35, 1.05, 0.5), "generation"),
    "ablations": ((7.0, 0.63, 1.1, 0.48), "ablations"),
    "figures": ((7.0, 0.05, 1.1, 0.48), "figures"),
}
ARROWS = (
    ("exploration", "lmm_pretraining"),
    ("exploration", "frequency_branch"),
    ("lmm_pretraining", "fusion"),
    ("frequency_branch", "fusion"),
    ("fusion", "alignment"),
    ("alignment", "generation"),
)
CARRIED = {"fusion": "embedding,\nclass scores", "alignment": "text\nembedding", "generation": "pictures"}


def framework_strip(stage: str) -> Figure:
    """The eight notebooks as boxes, in the order of the data flow, with that of `stage` highlighted.

    `stage` is a name in `brainvis.graph.NOTEBOOKS`; "<encoder>_branch" is notebook 03. ValueError for any other.
    """
    here = "frequency_branch" if stage not in NOTEBOOKS and stage.endswith("_branch") else stage
    if here not in BOXES:
        raise ValueError(f"there is no stage {stage!r}; choose one of {', '.join(BOXES)}")
    figure, axes = panels(width=WIDTH, height=HIGH, subplot_kw=style.PLAIN)
    axes.set(xlim=(0, 8.2), ylim=(0, HIGH))
    for name, (place, words) in BOXES.items():
        number = NOTEBOOKS[name][:2]
        _box(axes, place, f"{number}  {words}", lit=name == here)
    for start, end in ARROWS:
        _arrow(axes, BOXES[start][0], BOXES[end][0])
    axes.annotate("", (6.95, 0.6), (6.5, 0.6), arrowprops={"arrowstyle": "-|>", "color": INK, "linestyle": "--"})
    for name, words in CARRIED.items():
        left, bottom, width, _ = BOXES[name][0]
        axes.text(left + width + 0.02, bottom - 0.04, words, fontsize=6.5, color=(0.4, 0.4, 0.4), va="top", ha="center")
    return figure


def _box(axes: Axes, place: tuple[float, float, float, float], words: str, lit: bool) -> None:
    left, bottom, width, height = place
    look = {"boxstyle": "round,pad=0,rounding_size=0.08", "linewidth": 1.8 if lit else 0.9}
    look |= {"facecolor": (*LIT[:3], 0.25) if lit else "white", "edgecolor": LIT if lit else UNLIT}
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, **look))
    ink = {"color": INK if lit else (0.35, 0.35, 0.35), "weight": "bold" if lit else "normal"}
    axes.text(left + width / 2, bottom + height / 2, words, ha="center", va="center", fontsize=7.5, **ink)


def _arrow(axes: Axes, start: tuple, end: tuple) -> None:
    """From the right edge of one box to the left edge of another."""
    ends = [(start[0] + start[2], start[1] + start[3] / 2), (end[0], end[1] + end[3] / 2)]
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=8, shrinkA=1, shrinkB=1, color=INK))
