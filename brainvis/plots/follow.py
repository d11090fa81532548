"""One trial followed through the method, one figure per notebook: waveform, spectrum, neighbours, text, pictures."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.plots import style
from brainvis.plots.style import COLOUR_OF, PALETTE, Pixels, panels

TIME = "time after onset (ms)"


def followed_trial(data: EEGDataset, among: Tensor, subject: int | None = None) -> int:
    """The trial that all notebooks follow: the first trial of the middle class in `among` (indices), restricted to
    `subject` if it has any of these. It is not picked by hand, and nothing else in a notebook changes it.

    ValueError: `among` is empty.
    """
    if not len(among):
        raise ValueError("there is no trial to follow: name at least one")
    own = among[data.subjects[among] == subject]
    own = own if len(own) else among
    present = data.labels[own].unique()  # ascending
    middle = present[len(present) // 2]
    return int(own[data.labels[own] == middle].min())


def waveform_figure(data: EEGDataset, trial: int, channels: int = 10) -> Figure:
    """The followed trial: the picture that was shown, and some channels of the recorded EEG."""
    figure, (left, right) = panels(1, 2, height=3.2, width_ratios=(1, 3))
    _shown(left, data, trial)
    style.show_trial(right, data, trial, channels, among=[trial])
    right.set(ylabel="channel", title=f"subject {data.subjects[trial]}, trial {trial}")
    return figure


def spectrum_figure(hertz: Tensor, spectrum: Tensor, others: Tensor) -> Figure:
    """The amplitudes of the followed trial (frequency, channel) next to those of other trials (trial, frequency,
    channel): the mean over channels, and how each channel differs, in standard deviations over trials."""
    figure, (left, right) = panels(1, 2, height=2.9, width_ratios=(1, 1.2))
    over_channels = others.mean(2)  # (trial, frequency)
    low, middle, high = np.quantile(over_channels, [0.05, 0.5, 0.95], axis=0)
    left.fill_between(hertz, low, high, color=COLOUR_OF["chance"], alpha=0.3, linewidth=0, label="90 % of the others")
    left.plot(hertz, middle, color=COLOUR_OF["chance"], label="their median")
    left.plot(hertz, spectrum.mean(1), color=COLOUR_OF["frequency"], label="this trial")
    left.set(xlabel="frequency (Hz)", ylabel="|FFT|, mean over channels", title="the trial's spectrum")
    left.legend()
    scores = (spectrum - others.mean(0)) / others.std(0).clamp(min=1e-12)  # (frequency, channel)
    edges = [hertz[0].item(), hertz[-1].item(), scores.shape[1], 1]
    shown = right.imshow(scores.T, aspect="auto", extent=edges, cmap=style.DIVERGING, vmin=-3, vmax=3)
    figure.colorbar(shown, ax=right, label="deviation from the mean (SD)")
    right.set(xlabel="frequency (Hz)", ylabel="channel (number)", title="what sets it apart")
    return figure


def neighbours_figure(data: EEGDataset, trial: int, neighbours: Sequence[int], cosines: Sequence[float]) -> Figure:
    """The followed trial and the training trials whose fused embeddings are nearest: what was shown in each."""
    figure, axes = panels(1, len(neighbours) + 1, height=2.1, squeeze=False)
    _shown(axes[0, 0], data, trial, head="this trial")
    right = data.labels[trial]
    for axis, other, cosine in zip(axes[0, 1:], neighbours, cosines, strict=True):
        same = data.labels[other] == right
        _shown(axis, data, other, head=f"cosine {cosine:.2f}")
        colour = PALETTE[0] if same else PALETTE[3]
        axis.spines[:].set(visible=True, color=colour, linewidth=2, linestyle="-" if same else "--")
        axis.set_frame_on(True)
    return figure


def text_state_figure(states: Mapping[str, Tensor], nearest: Mapping[str, Sequence[tuple[str, float, bool]]]) -> Figure:
    """The text embedding predicted from the followed trial next to those of its texts, and the nearest texts.

    `states`: name -> (tokens, width). `nearest`: which texts -> (text, cosine, whether it is the true one), best first.
    """
    count = len(states)
    figure = panels(1, 1, height=1.7 * len(nearest) + 1.9)[0]
    figure.clf()
    above, below = figure.subfigures(2, 1, height_ratios=(1.7, 1.7 * len(nearest)))
    top = above.subplots(1, count, squeeze=False, sharey=True)[0]
    limit = max(values.float().abs().quantile(0.98).item() for values in states.values())
    for axis, (name, values) in zip(top, states.items(), strict=True):
        look = {"aspect": "auto", "cmap": style.DIVERGING, "vmin": -limit, "vmax": limit}
        shown = axis.imshow(values.float()[:, :64], **look)
        axis.set(title=style.words(name, 30), xlabel="dimension (first 64)" if values.shape[1] > 64 else "dimension")
    top[0].set_ylabel("token")
    above.colorbar(shown, ax=list(top), label="value")
    bars = below.subplots(len(nearest), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, texts) in zip(bars, nearest.items(), strict=True):
        colours = [PALETTE[0] if true else COLOUR_OF["chance"] for _, _, true in texts]
        axis.barh(range(len(texts)), [cosine for _, cosine, _ in texts], color=colours, height=0.6)
        names = [style.words(text, 48) + (" (true)" if true else "") for text, _, true in texts]
        axis.set_yticks(range(len(texts)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"nearest {title}")
    bars[-1].set_xlabel("cosine with the predicted text embedding")
    return figure


def nearest(cosines: Tensor, texts: Sequence[str], true: int, count: int = 5) -> list[tuple[str, float, bool]]:
    """The texts with the highest cosines (text,), best first, followed by the true one if it is not among them: text,
    cosine, whether it is the true one."""
    order = cosines.argsort(descending=True, stable=True)[:count].tolist()
    order += [] if true in order else [true]
    return [(texts[place], cosines[place].item(), place == true) for place in order]


def verdict_figure(pictures: Mapping[str, Pixels], words: Mapping[str, str], true: str) -> Figure:
    """The pictures made from the followed trial: name -> (height, width, 3), and the judge's word for each."""
    figure, axes = panels(1, len(pictures), height=1.9, width=min(9, 1.55 * len(pictures)), squeeze=False,
                          subplot_kw=style.PLAIN)  # fmt: skip
    for axis, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(picture)
        axis.set_title("\n".join(textwrap.wrap(style.words(name, 36), 18)), loc="center", fontsize=8)
        if name in words:
            hit = words[name] == true
            said = f"{'✓' if hit else '✗'} {style.words(words[name], 20)}"
            axis.set_xlabel(said, fontsize=8, color=PALETTE[0 if hit else 3])
    return figure


def _shown(axes: Axes, data: EEGDataset, trial: int, head: str = "shown") -> None:
    """The picture of a trial with the name of its class; the name alone if there are no pictures."""
    axes.set(xticks=[], yticks=[], frame_on=False)
    name = style.words(data.class_names[data.labels[trial]], 24)
    if data.has_images and data.images[trial] >= 0:
        axes.imshow(np.asarray(data.image(int(data.images[trial]))))
    else:
        axes.text(0.5, 0.5, "no picture", ha="center", va="center", transform=axes.transAxes, fontsize=8)
    axes.set_title(style.words(head, 24), loc="center", fontsize=8)
    axes.set_xlabel("\n".join(textwrap.wrap(name, 16)), fontsize=8)
