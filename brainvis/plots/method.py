"""The figure of the method: what flows through BrainVis and what each part learns from, for one trial of the study."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from brainvis.configuration import Configuration
from brainvis.data.dataset import EEGDataset
from brainvis.models.spectrum import amplitude_spectrum, frequencies
from brainvis.plots import style
from brainvis.plots.style import COLOUR_OF, Pixels, panels

LEARNT, FROZEN, LOSS = style.PALETTE[0], (0.45, 0.45, 0.45), style.PALETTE[3]
WIDE, HIGH = 11.0, 6.3  # inches, which are also the drawing units
SHOWN_UNITS = 22  # squares that stand for the units of a trial


def framework_figure(
    configuration: Configuration,
    data: EEGDataset,
    text_shape: tuple | None = None,
    pictures: Mapping[str, Pixels] | None = None,
    trial: int = 0,
) -> Figure:
    """The method (our own drawing, after figure 2 of the paper) with the sizes of one configuration.

    The trace and the spectrum are those of `trial`. Without the `text_shape` (tokens, width) of text embeddings, the
    drawing ends with the classifier. `pictures` of this trial: "shown", "semantic", "refined" -> pixels, if available.
    """
    bottom = 0.0 if text_shape else 2.0
    figure, axes = panels(width=WIDE, height=HIGH - bottom, subplot_kw=style.PLAIN)
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    axes.set(xlim=(0, WIDE), ylim=(bottom, HIGH))
    name = style.words(data.class_names[data.labels[trial]], 24)
    _masked_modeling(axes, configuration, data)
    _trial(axes, data, trial)
    _branches_and_fusion(axes, configuration, data, trial)
    if text_shape:
        _pictures(axes, configuration, text_shape, dict(pictures or {}), name)
    for place, (words, colour) in enumerate({"learnt": LEARNT, "frozen": FROZEN, "loss": LOSS}.items()):
        axes.text(0.1 + 0.62 * place, bottom + 0.12, words, color=colour, weight="bold", fontsize=8)
    return figure


def _trial(axes: Axes, data: EEGDataset, trial: int, channels: int = 9) -> None:
    """The EEG of a trial, some channels one above the other."""
    rows = np.linspace(0, len(data.channels) - 1, min(channels, len(data.channels))).round().astype(int)
    signals = data.trials[trial, rows].numpy()
    step = 5 * max(float(signals.std()), 1e-12)
    inset = axes.inset_axes((0.1, 2.75, 1.75, 2.7), transform=axes.transData, **style.PLAIN)
    inset.plot((signals - step * np.arange(len(rows))[:, None]).T, color=COLOUR_OF["truth"], linewidth=0.6)
    inset.margins(0)
    count, samples = data.trials.shape[1:]
    milliseconds = 1000 * samples / data.sampling_rate
    axes.text(0.97, 5.78, "EEG trial", ha="center", weight="bold", fontsize=9)
    axes.text(0.97, 5.56, f"{count} channels, {milliseconds:.0f} ms, {samples} samples", ha="center", fontsize=7)


def _masked_modeling(axes: Axes, configuration: Configuration, data: EEGDataset) -> None:
    """The upper panel: units, masked and visible, encoder, target encoder, regressor, codebook, both losses."""
    time, samples = configuration.time, data.trials.shape[2]
    used = "time" in configuration.fusion.branches
    trains, units = used and time.pretraining.epochs > 0, samples // time.unit_length
    axes.add_patch(
        FancyBboxPatch((2.1, 3.72), 8.8, 2.53, boxstyle="round,pad=0,rounding_size=0.1", facecolor=(*LEARNT, 0.05),
                       edgecolor="none", linewidth=0)
    )  # fmt: skip
    pretraining = "Latent Masked Modeling, then fine-tuning" if trains else "without pre-training"
    _words(axes, (2.2, 6.05), "time branch", f"    {pretraining if used else 'left out'}")
    faded = {"faded": not used}
    unit, masked = 1.95 / SHOWN_UNITS, np.random.default_rng(5).random(SHOWN_UNITS).argsort()
    masked = set(masked[: round(time.mask_ratio * SHOWN_UNITS)].tolist()) if trains else set()
    for place in range(SHOWN_UNITS):
        colour = (0.72, 0.72, 0.72) if place in masked else (*LEARNT, 0.75)
        axes.add_patch(Rectangle((2.25 + place * unit, 4.85), unit * 0.8, 0.3, facecolor=colour, edgecolor="none"))
    share = f"\n{100 * time.mask_ratio:.0f} % masked (grey)" if trains else ""
    axes.text(2.25, 5.22, f"{units} units of {time.unit_length} samples{share}", fontsize=7)
    _arrow(axes, (1.85, 4.9), (2.22, 5.0))
    encoder = f"encoder\n{_count(time.layers, 'transformer layer')}\nwidth {time.width}, visible units"
    _box(axes, (4.6, 5.2, 1.55, 0.72), encoder, LEARNT, **faded)
    _arrow(axes, (4.22, 5.05), (4.6, 5.5))
    _box(axes, (9.5, 5.2, 1.3, 0.72), "fine-tuning\nmean over units,\ncross-entropy", LEARNT, **faded)
    around = "arc,angleA=90,angleB=90,armA=10,armB=10,rad=6"
    axes.add_patch(FancyArrowPatch((5.9, 5.92), (10.15, 5.92), connectionstyle=around, **_look("-")))
    if not trains:
        return
    sees = "masked" if time.target_sees == "masked" else "all"
    _box(axes, (4.6, 3.95, 1.55, 0.72), f"target encoder\nmoving average {time.momentum:g}\n{sees} units", FROZEN)
    _arrow(axes, (4.2, 4.9), (4.6, 4.4))
    _arrow(axes, (5.375, 5.2), (5.375, 4.67), "--")
    axes.text(5.43, 4.93, "moving average,\nno gradient", fontsize=6.5, va="center", style="italic")
    _box(
        axes, (6.7, 5.2, 1.35, 0.72), f"regressor\n{_count(time.regressor_layers, 'layer')} of\ncross-attention", LEARNT
    )
    _box(axes, (2.45, 3.95, 1.55, 0.6), f"codebook\n{time.codewords} tokens", LEARNT)
    _arrow(axes, (3.225, 4.85), (3.225, 4.55))
    _arrow(axes, (6.15, 5.56), (6.7, 5.56))
    _loss(axes, (8.75, 4.78), "$L_\\mathdefault{reg}$\nMSE of units")
    _loss(axes, (7.2, 4.07), "$L_\\mathdefault{cls}$\ntoken of each")
    _arrow(axes, (8.05, 5.4), (8.45, 5.0))
    _arrow(axes, (6.15, 4.55), (8.17, 4.74))
    _arrow(axes, (7.3, 5.2), (7.2, 4.31))
    axes.add_patch(FancyArrowPatch((3.4, 3.95), (6.65, 3.98), connectionstyle="arc3,rad=0.09", **_look("-")))
    axes.text(8.35, 5.2, "regressed units", fontsize=6.5, style="italic")


def _branches_and_fusion(axes: Axes, configuration: Configuration, data: EEGDataset, trial: int) -> None:
    """The middle: spectrum, other branches, fusion, classifier."""
    frequency, branches = configuration.frequency, configuration.fusion.branches
    used, others = "frequency" in branches, [name for name in branches if name not in ("time", "frequency")]
    highest = min(frequency.highest_frequency or data.sampling_rate / 2, data.sampling_rate / 2)
    hertz = frequencies(data.trials.shape[2], data.sampling_rate, highest)
    spectrum = amplitude_spectrum(data.trials[trial : trial + 1], data.sampling_rate, highest)
    inset = axes.inset_axes((2.25, 2.55, 1.9, 0.62), transform=axes.transData, **style.PLAIN)
    inset.fill_between(hertz, spectrum[0].mean(1), color=COLOUR_OF["frequency"], alpha=0.8 if used else 0.3)
    inset.set(xlim=(hertz[0], hertz[-1]), ylim=(0, None))
    axes.text(2.25, 3.42, "frequency branch", weight="bold", fontsize=8.5, alpha=1 if used else 0.5)
    axes.text(2.25, 3.24, f"|FFT|, {len(hertz)} frequencies up to {highest:g} Hz", fontsize=7)
    look = f"LSTM\n{_count(frequency.layers, 'layer')}, width {frequency.width}"
    _box(axes, (4.6, 2.6, 1.55, 0.6), look, COLOUR_OF["frequency"], faded=not used)
    _arrow(axes, (1.85, 3.0), (2.22, 2.9))
    _arrow(axes, (4.18, 2.9), (4.6, 2.9))
    widths = [getattr(getattr(configuration, branch, None), "width", None) for branch in branches]
    fused = f"{len(branches)} branches" if None in widths else " + ".join(map(str, widths)) + " wide"
    _box(axes, (6.9, 2.55, 1.35, 0.7), f"fusion\n{fused}\nend to end", COLOUR_OF["fused"])
    if "time" in branches:
        axes.add_patch(FancyArrowPatch((10.15, 5.2), (8.0, 3.25), connectionstyle="arc3,rad=-0.2", **_look("-")))
        axes.text(9.5, 3.84, "time embedding", fontsize=6.5, style="italic")
    if used:
        _arrow(axes, (6.15, 2.9), (6.9, 2.9))
    for place, name in enumerate(others):
        left = 2.25 + place * 3.9 / len(others)
        width = 3.9 / len(others) - 0.1
        size = min(8.0, 110 * width / max(len(name), 1))  # the name fits into its box
        _box(axes, (left, 2.06, width, 0.36), style.words(name, 40), LEARNT, size=max(size, 3))
    if others:
        _arrow(axes, (6.1, 2.24), (6.9, 2.65))
    _box(axes, (8.85, 2.55, 0.95, 0.7), f"classifier\n{len(data.class_names)} classes", COLOUR_OF["fused"])
    _arrow(axes, (8.25, 2.9), (8.85, 2.9))
    _loss(axes, (10.4, 3.3), "cross-\nentropy")
    _arrow(axes, (9.8, 3.02), (10.05, 3.2))


def _pictures(axes: Axes, configuration: Configuration, text_shape: tuple, pictures: dict, name: str) -> None:
    """The lower row: text embeddings, alignment and both stages, each with its picture below."""
    generation, alignment = configuration.generation, configuration.alignment
    shape = f"{text_shape[0]} x {text_shape[1]}"
    _box(axes, (2.25, 1.1, 2.2, 0.72), f"CLIP text encoder\nlast hidden states, {shape}\nfor training only", FROZEN)
    axes.text(3.35, 0.92, f"coarse: “{name}”\nfine: a caption of the picture", fontsize=7, ha="center", va="top")
    mlp = f"alignment\n{alignment.wide} and {alignment.narrow} wide,\nto {shape}"
    _box(axes, (5.35, 1.1, 1.75, 0.72), mlp, LEARNT)
    _arrow(axes, (4.45, 1.46), (5.35, 1.46), "--")
    terms = "1 − cosine" + " + MSE" * alignment.mean_squared_error
    _loss(axes, (6.22, 0.68), f"{' and '.join(alignment.targets)}:\n{terms}")
    _arrow(axes, (6.22, 1.1), (6.22, 0.9))
    _arrow(axes, (7.2, 2.55), (6.6, 1.82))  # fusion -> alignment
    _arrow(axes, (8.95, 2.55), (6.95, 1.82))  # class scores -> alignment
    semantic = f"semantic stage\nPLMS, {generation.semantic_steps} steps\nled by the embedding"
    refined = f"refinement\nstrength {generation.strength:g}, guidance\n"
    refined += f"{generation.refinement_guidance:g}, {generation.refinement_steps} steps"
    _box(axes, (7.55, 1.1, 1.45, 0.72), semantic, FROZEN, faded=not generation.semantic)
    _box(axes, (9.45, 1.1, 1.45, 0.72), refined, FROZEN, faded=not generation.refinement)
    _arrow(axes, (7.1, 1.46), (7.55, 1.46))
    _arrow(axes, (9.0, 1.46), (9.45, 1.46))
    axes.add_patch(FancyArrowPatch((9.8, 2.78), (10.2, 1.82), connectionstyle="arc3,rad=-0.25", **_look("-")))
    axes.text(10.28, 2.2, "class name", fontsize=6.5, style="italic")
    for which, (left, low, side) in {"shown": (0.5, 1.2, 0.95), "semantic": (7.8, 0.05, 0.95), "refined":
                                     (9.7, 0.05, 0.95)}.items():  # fmt: skip
        if which in pictures:
            inset = axes.inset_axes((left, low, side, side), transform=axes.transData, **style.PLAIN)
            inset.imshow(pictures[which])
    if "shown" in pictures:
        axes.text(0.97, 1.05, f"shown: {name}", ha="center", va="top", fontsize=7)
        _arrow(axes, (0.97, 2.2), (0.97, 2.7))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _words(axes: Axes, place: tuple[float, float], name: str, rest: str) -> None:
    """A name in bold, followed by its description, in one line."""
    axes.text(*place, name, weight="bold", fontsize=8.5, va="center")
    axes.text(place[0] + 0.075 * len(name), place[1], rest, fontsize=7.5, va="center", style="italic")


def _box(axes: Axes, place: tuple, text: str, colour: tuple, faded: bool = False, size: float = 8) -> None:
    """A box (left, bottom, width, height) with text, its name in the first line; dotted if it is left out."""
    left, bottom, width, height = place
    look = {"linestyle": ":", "alpha": 0.4} if faded else {}
    look |= {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": (*colour[:3], 0.12), "edgecolor": colour}
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, linewidth=1.3, **look))
    name, *rest = text.split("\n")
    ink = {"ha": "center", "va": "center", "alpha": 0.5 if faded else 1}
    top = bottom + height / 2 + 0.09 * len(rest)
    axes.text(left + width / 2, top, name, weight="bold", fontsize=size, **ink)
    axes.text(left + width / 2, top - 0.1 * (len(rest) + 1), "\n".join(rest), fontsize=6.8, **ink)


def _loss(axes: Axes, centre: tuple[float, float], text: str) -> None:
    """The loss that a part learns from; the formulas are ours."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": (*LOSS, 0.1), "edgecolor": LOSS, "linewidth": 1.1}
    axes.text(*centre, text, ha="center", va="center", fontsize=7.2, bbox=box, parse_math=True)


def _look(linestyle: str) -> dict:
    look = {"arrowstyle": "-|>", "mutation_scale": 10, "shrinkA": 0, "shrinkB": 0, "linestyle": linestyle}
    return look | {"color": COLOUR_OF["truth"], "linewidth": 1.0}


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], linestyle: str = "-") -> None:
    axes.add_patch(FancyArrowPatch(start, end, **_look(linestyle)))
