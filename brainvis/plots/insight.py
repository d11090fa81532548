"""Figures that answer a reader's questions: when and where the EEG carries the class, and whose EEG does; what a moving
average and a codebook do; what lies between two texts; and what strength and guidance change."""

import textwrap
from collections.abc import Mapping, Sequence

import mne
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.time_resolved import Decoded
from brainvis.plots import style
from brainvis.plots.style import COLOUR_OF, PALETTE, Pixels, panels

TIME, MANY_CHANNELS = "time after onset (ms)", 12
FEATURE_COLOURS = {"waveform": COLOUR_OF["time"], "power": COLOUR_OF["frequency"]}


def topography(axes: Axes, data: EEGDataset, values: NDArray, **look):
    """A map of one value per channel over the head, seen from above; returns the object that a colour bar needs."""
    with mne.utils.use_log_level("error"):
        info = mne.create_info(list(data.channels), data.sampling_rate, "eeg").set_montage(data.montage)
        return mne.viz.plot_topomap(np.asarray(values, float), info, axes=axes, sensors=False, show=False, **look)[0]


def time_resolved_figure(
    data: EEGDataset, centres: Tensor, over_time: Mapping[str, Decoded], over_scalp: Mapping[str, Decoded]
) -> Figure:
    """Accuracy in each window after onset, and of each channel: a map if positions are known, else the best ones."""
    if not over_time:
        return style.empty_figure("No subject has both training and validation trials of two classes.")
    figure, axes = panels(1, 1 + len(over_scalp), height=3.0, width_ratios=(2.4, *[1] * len(over_scalp)))
    left, moments = axes[0], 1000 * centres.numpy()
    for name, decoded in over_time.items():
        accuracy, colour = 100 * decoded.accuracy.numpy(), FEATURE_COLOURS[name]
        left.plot(moments, accuracy, "-", color=colour, label=name)
        sure = decoded.above.numpy()
        left.plot(moments[sure], accuracy[sure], "o", color=colour, markersize=5)
    left.plot([], [], "o", color="black", label="above chance")
    left.fill_between(moments, 0, 100 * decoded.reach, color=COLOUR_OF["chance"], alpha=0.2, linewidth=0)
    style.chance_line(left, 100 * decoded.chance, f"chance ({decoded.chance:.3f})")
    left.set(xlabel=TIME, ylabel="accuracy (%)", title="from one window of all channels")
    left.set_ylim(0, 1.3 * left.get_ylim()[1])
    left.legend(ncols=4, loc="upper left", fontsize=7.5)
    for axis, (name, decoded) in zip(axes[1:], over_scalp.items(), strict=True):
        accuracy = 100 * decoded.accuracy.numpy()
        if data.montage:
            limits = (100 * decoded.chance, max(accuracy.max(), 100 * decoded.chance + 0.1))
            shown = topography(axis, data, accuracy, cmap=style.SEQUENTIAL, vlim=limits, contours=0)
            figure.colorbar(shown, ax=axis, label="accuracy (%)", location="bottom", shrink=0.9)
        else:
            best = accuracy.argsort()[::-1][:MANY_CHANNELS]
            axis.barh([style.words(data.channels[channel], 12) for channel in best], accuracy[best],
                      color=FEATURE_COLOURS[name])  # fmt: skip
            axis.axvline(100 * decoded.chance, color=COLOUR_OF["chance"], linestyle="--", linewidth=1)
            axis.set_xlabel("accuracy (%)")
            axis.invert_yaxis()
        axis.set_title(f"one channel:\n{name}", loc="center")
    return figure


def quality_figure(quality: Mapping[int, Mapping[str, float]]) -> Figure:
    """Whose EEG carries the class: accuracy of each subject against the signal-to-noise ratio of the evoked response
    and the share of the variance that the class explains (`time_resolved.subject_quality`)."""
    if not quality:
        return style.empty_figure("No subject has both training and validation trials of two classes.")
    figure, axes = panels(1, 2, height=2.9, sharey=True)
    columns = {"evoked_snr_db": ("signal-to-noise ratio, evoked (dB)", 1)}
    columns["class_share"] = ("variance explained by the class, at its peak (%)", 100)
    for axis, (name, (label, scale)) in zip(axes, columns.items(), strict=True):
        for subject, of in quality.items():
            if of[name] is not None:
                spread = (of["accuracy"] * (1 - of["accuracy"]) / of["validation_trials"]) ** 0.5
                look = {"fmt": "o", "color": COLOUR_OF["time"], "capsize": 2}
                axis.errorbar(scale * of[name], 100 * of["accuracy"], yerr=100 * spread, **look)
                axis.annotate(f" {subject}", (scale * of[name], 100 * of["accuracy"]), fontsize=8, va="bottom")
        style.chance_line(axis, 100 * np.mean([of["chance"] for of in quality.values()]), "chance")
        axis.margins(x=0.15)
        axis.set_xlabel(label)
    axes[0].set(ylabel="accuracy, linear classifier (%)", title="one point per subject, numbered (bar: standard error)")
    axes[0].legend()
    return figure


def moving_average_figure(momentum: float, steps: int, tokens: Tensor, most: int = 12) -> Figure:
    """Left: share of the target encoder that comes from the last n epochs, against n, with `steps` per epoch. Right:
    when in a trial the most frequent codewords occur; `tokens` (trial, unit)."""
    figure, (left, right) = panels(1, 2, height=2.8)
    ago = np.arange(0, max(2, int(np.log(0.005) / np.log(momentum))) if 0 < momentum < 1 else 2)
    left.plot(ago / steps, 100 * (1 - momentum ** (ago + 1)), color=COLOUR_OF["time"])
    if 0 < momentum < 1:
        half = np.log(0.5) / np.log(momentum)
        left.axvline(half / steps, color="black", linestyle=":", linewidth=1, label=f"half: {half:.0f} steps")
        left.legend()
    left.set(xlabel="epochs ago", ylabel="share from then on (%)", ylim=(0, 103))
    left.set_title("what the target encoder is made of")
    counts = tokens.flatten().bincount()
    common = counts.argsort(descending=True)[: min(most, int((counts > 0).sum()))]
    shares = 100 * (tokens[None] == common[:, None, None]).double().mean(1)  # (codeword, unit)
    picture = right.imshow(shares, aspect="auto", cmap=style.SEQUENTIAL, vmin=0)
    figure.colorbar(picture, ax=right, label="trials (%)")
    right.set_yticks(range(len(common)), [f"codeword {word}" for word in common.tolist()], fontsize=7)
    right.set(xlabel="unit of the trial", title="when codewords occur")
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def line_figure(geometry: Mapping[str, Sequence[float]], cosine: float) -> Figure:
    """The straight line from the embedding of the class name to that of the caption: cosines with both ends and length
    along it (`text_line.line_geometry`); `cosine` is the cosine between the ends."""
    figure, axis = panels(height=2.6, width=6)
    looks = {"cosine_coarse": ("cosine with the class name", "o-", PALETTE[0])}
    looks["cosine_fine"] = ("cosine with the caption", "s-", PALETTE[1])
    looks["length"] = ("length, relative to the ends", "^--", COLOUR_OF["chance"])
    for name, (label, marker, colour) in looks.items():
        axis.plot(geometry["place"], geometry[name], marker, color=colour, label=label)
    axis.set(xlabel="position between class name (0) and caption (1)", ylabel="cosine, or length")
    axis.set_title(f"between two texts with cosine {cosine:.2f}")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def sweep_figure(
    truth: Pixels, pictures: Mapping[str, Pixels], shown: Sequence[str], hits: Mapping[str, Sequence[bool]]
) -> Figure:
    """One row per trial, one column per setting -> pictures (trial, height, width, 3); framed if the judge sees the
    class that was shown: `hits` for the same settings, (trial,)."""
    size, columns = 0.85, 1 + len(pictures)
    figure, axes = panels(len(truth), columns, width=size * columns + 1.2, height=size * len(truth) + 0.8,
                          squeeze=False, subplot_kw=style.PLAIN)  # fmt: skip
    for row, of_trial in enumerate(axes):
        of_trial[0].imshow(truth[row])
        of_trial[0].set_ylabel("\n".join(textwrap.wrap(style.words(shown[row], 24), 12)), fontsize=7, rotation=0,
                               ha="right", va="center")  # fmt: skip
        for axis, (name, made) in zip(of_trial[1:], pictures.items(), strict=True):
            axis.imshow(made[row])
            if hits.get(name) is not None and hits[name][row]:
                axis.set_frame_on(True)
                axis.spines[:].set(visible=True, color=PALETTE[0], linewidth=2)
    for axis, head in zip(axes[0], ["shown", *pictures], strict=True):
        axis.set_title("\n".join(textwrap.wrap(style.words(head, 50), 13)), loc="center", fontsize=7)
    return figure
