"""The drawing of the whole method (our own, after figure 2 of the paper), with the shapes of one configuration."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray

from ..configuration import Configuration
from .style import COLOURS, PALETTE, panels

LEARNT, FROZEN, DATA = PALETTE[2], PALETTE[9], (0.35, 0.35, 0.35)
SIZE = (12.0, 4.35)  # inches, and the units of the drawing


def framework_figure(
    configuration: Configuration,
    *,
    channels: int,
    samples: int,
    sampling_rate: float,
    classes: int,
    states: tuple[int, int] | None = None,
    pictures: dict[str, NDArray[np.uint8]] | None = None,
) -> Figure:
    """What flows through BrainVis, from a trial of EEG to pictures, with the shape of everything on its way.

    Args:
        configuration: whose numbers are written into the drawing.
        channels, samples, sampling_rate: of one trial; the rate in hertz.
        classes: that the classifier knows.
        states: (tokens, width) of the backbone's text states; None: the data set has no pictures, and the drawing
            ends with the classifier.
        pictures: "shown", "semantic", "refined", each (height, width, 3), one trial of a run; None: none was run.
    """
    time, frequency, fusion = configuration.time, configuration.frequency, configuration.fusion
    figure, axes = panels(width=SIZE[0], height=SIZE[1] if states else 3.1)
    axes.set(xlim=(0, SIZE[0]), ylim=(0 if states else 1.25, SIZE[1]))
    axes.axis("off")
    units = samples // time.unit_length
    highest = min(frequency.highest_frequency or sampling_rate / 2, sampling_rate / 2)
    lines = int(highest * samples / sampling_rate)  # the constant is dropped
    widths = {"time": time.width, "frequency": frequency.width}
    fused = sum(widths[branch] for branch in fusion.branches)

    eeg = _box(axes, 0.1, 2.3, 1.3, 1.0, f"EEG trial\n{channels} channels\n{samples} samples", DATA)
    in_time = _box(
        axes, 1.9, 3.3, 2.9, 0.95,
        f"time branch\n{units} units of {time.unit_length} samples\ntransformer layers: {time.layers}, "
        f"width {time.width}",
        LEARNT, faded="time" not in fusion.branches,
    )  # fmt: skip
    masked = f"{time.mask_ratio:.0%} of units masked, then fine-tuned" if time.pretraining.epochs else "no pre-training"
    axes.text(3.35, 3.23, f"Latent Masked Modeling: {masked}", ha="center", va="top", fontsize=7, style="italic")
    in_frequency = _box(
        axes, 1.9, 1.45, 2.9, 0.95,
        f"frequency branch\n|FFT|: {lines} frequencies up to {highest:g} Hz\nLSTM layers: {frequency.layers}, "
        f"width {frequency.width}",
        LEARNT, faded="frequency" not in fusion.branches,
    )  # fmt: skip
    joined = _box(axes, 5.35, 2.35, 1.6, 0.9, f"fused embedding\nwidth {fused}", LEARNT)
    classifier = _box(axes, 7.5, 3.3, 1.6, 0.95, f"classifier\n{classes} classes", LEARNT)
    for branch, box in (("time", in_time), ("frequency", in_frequency)):
        if branch in fusion.branches:
            _arrow(axes, eeg, box)
            _arrow(axes, box, joined)
    _arrow(axes, joined, classifier)
    if states is None:
        return figure

    generation, alignment = configuration.generation, configuration.alignment
    network = _box(
        axes, 7.5, 1.9, 1.6, 1.0,
        f"alignment\n{alignment.wide} and {alignment.narrow} wide\nto {states[0]} x {states[1]}", LEARNT,
    )  # fmt: skip
    text = _box(axes, 5.35, 0.15, 3.75, 0.8, f"CLIP text states, {states[0]} x {states[1]} (frozen)\n"
                "coarse: class name, fine: caption", FROZEN)  # fmt: skip
    _arrow(axes, joined, network)
    _arrow(axes, classifier, network)
    _arrow(axes, text, network, dashed=True)
    axes.text(8.35, 1.42, "semantic interpolation\n(training only)", fontsize=7, style="italic", va="center")
    semantic = _box(
        axes, 9.75, 1.9, 2.15, 1.0,
        f"semantic stage (frozen)\nPLMS, {generation.semantic_steps} steps\nsamples: {generation.samples}", FROZEN,
        faded=not generation.semantic,
    )  # fmt: skip
    refined = _box(
        axes, 9.75, 3.3, 2.15, 0.95,
        f"refinement (frozen)\nimage-to-image, strength {generation.strength:g}\n"
        f"guidance {generation.refinement_guidance:g}, {generation.refinement_steps} steps", FROZEN,
        faded=not generation.refinement,
    )  # fmt: skip
    _arrow(axes, network, semantic)
    _arrow(axes, semantic, refined)
    _arrow(axes, classifier, refined)
    axes.text(9.42, 3.84, "name", ha="center", fontsize=7, style="italic")
    for place, (name, picture) in enumerate((pictures or {}).items()):
        left = 9.42 + 0.86 * place
        inset = axes.inset_axes((left, 0.5, 0.8, 0.8), transform=axes.transData)
        inset.imshow(picture)
        inset.set(xticks=[], yticks=[])
        inset.spines[:].set_visible(False)
        axes.text(left + 0.4, 0.43, name, ha="center", va="top", fontsize=7)
    axes.text(0.1, 0.55, "learnt here", color=LEARNT, weight="bold", fontsize=8)
    axes.text(0.1, 0.25, "frozen backbone", color=FROZEN, weight="bold", fontsize=8)
    return figure


def _box(axes: Axes, left: float, bottom: float, width: float, height: float, text: str, colour, faded=False):
    """A box with words; the first line is its name. Faded: this configuration leaves it out."""
    box = FancyBboxPatch(
        (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor=(*colour[:3], 0.12),
        edgecolor=colour, linewidth=1.4, linestyle=":" if faded else "-", alpha=0.4 if faded else None,
    )  # fmt: skip
    axes.add_patch(box)
    name, _, rest = text.partition("\n")
    middle, half = left + width / 2, bottom + height / 2
    lines = 1 + rest.count("\n") + bool(rest)
    top = half + 0.1 * (lines - 1)
    ink = {"ha": "center", "va": "center", "alpha": 0.5 if faded else 1}
    axes.text(middle, top, name, weight="bold", fontsize=8.5, **ink)
    axes.text(middle, top - 0.12 * lines + 0.02, rest, fontsize=7.5, **ink)
    return box


def _arrow(axes: Axes, start: FancyBboxPatch, end: FancyBboxPatch, dashed: bool = False) -> None:
    """An arrow between the nearest sides of two boxes."""

    def middle(box: FancyBboxPatch) -> tuple[float, float]:
        return box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2

    (x0, y0), (x1, y1) = middle(start), middle(end)
    if end.get_x() >= start.get_x() + start.get_width():  # to the right
        points = (start.get_x() + start.get_width(), y0), (end.get_x(), y1)
    elif y1 > y0:
        x = max(min(x0, x1 + end.get_width() / 2), x1)  # straight up, where the boxes overlap
        points = (x, start.get_y() + start.get_height()), (x, end.get_y())
    else:
        points = (x0, start.get_y()), (x0, end.get_y() + end.get_height())
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0}
    arrow = FancyArrowPatch(*points, color=COLOURS["truth"], linewidth=1.1, linestyle="--" if dashed else "-", **style)
    axes.add_patch(arrow)
