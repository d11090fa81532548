"""Figures of notebooks 02 and 03: how the two branches are trained, and what they read."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..datasets.base import EEGDataset
from ..time_branch import MaskedPrediction
from ..training import History
from .style import COLOURS, DIVERGING, PALETTE, chance_line, panels

MASK_COLOUR = (0.5, 0.5, 0.5, 0.35)
ON_WHITE = {"white": "silver", "yellow": "gold"}  # what can be seen on paper


def mask_figure(data: EEGDataset, trial: int, mask: Tensor, tokens: Tensor, channels: int = 6) -> Figure:
    """One trial cut into units: those that the encoder sees, and the masked ones with the token of each.

    Args:
        mask: (unit,) bool, true where masked.
        tokens: (masked unit,) codewords, in the order of time.
    """
    figure, axis = panels(height=3.4)
    shown = np.linspace(0, len(data.channels) - 1, min(channels, len(data.channels))).round().astype(int)
    signals = data.trials[trial, shown].numpy()  # (channel, time)
    heights = -6 * signals.std() * np.arange(len(shown))
    times = 1000 * data.times.numpy()
    length = data.trials.shape[-1] // len(mask) * 1000 / data.sampling_rate  # milliseconds a unit
    axis.plot(times, (signals + heights[:, None]).T, color="black", linewidth=0.7)
    for unit, token in zip(mask.nonzero().flatten().tolist(), tokens.tolist(), strict=True):
        start = times[0] + unit * length
        axis.axvspan(start, start + length, color=MASK_COLOUR, linewidth=0)
        axis.text(start + length / 2, 1.01, token, transform=axis.get_xaxis_transform(), fontsize=6, ha="center")
    axis.set_yticks(heights, [data.channels[channel] for channel in shown])
    axis.set(xlabel="time after onset (ms)", xlim=(times[0], times[0] + len(mask) * length))
    axis.set_title(f"{int(mask.sum())} of {len(mask)} units masked (grey), the token of each above", pad=14)
    return figure


def latents_figure(predictions: dict[str, MaskedPrediction], dimensions: int = 40) -> Figure:
    """What the regressor has to say and what it says about the masked units of the first trial, stage by stage.

    Args:
        predictions: "before", "after" -> prediction of the same trials under the same mask. Only the first
            `dimensions` of the latent units are drawn; the number under each pair is over all of them and all trials.
    """
    figure, axes = panels(1, 2 * len(predictions), height=2.9, squeeze=False)
    for number, (stage, prediction) in enumerate(predictions.items()):
        pair = {"target": prediction.target, "regressed": prediction.regressed}
        limit = prediction.target[0].abs().quantile(0.98).item()
        error = _relative_error(prediction)
        for axis, (name, values) in zip(axes[0, 2 * number :], pair.items(), strict=False):
            axis.imshow(values[0, :, :dimensions].T, aspect="auto", cmap=DIVERGING, vmin=-limit, vmax=limit)
            axis.set(xlabel="masked unit", title=f"{stage}: {name}")
        axes[0, 2 * number].set_ylabel("dimension of the latent unit")
        axes[0, 2 * number + 1].set_xlabel(f"masked unit\n(error {100 * error:.0f} % of the variance over trials)")
    return figure


def _relative_error(prediction: MaskedPrediction) -> float:
    """Squared error relative to the targets' variance over trials: 1 is as good as knowing each unit's average."""
    error = (prediction.regressed - prediction.target).square().mean()
    return (error / prediction.target.var(0, correction=0).mean().clamp(min=1e-12)).item()


def pretraining_figure(history: History, before: float, chance: float) -> Figure:
    """Both losses of LMM, the use of the codebook, and what a linear probe reads in the encoder, over the epochs.

    Args:
        before: accuracy of the probe on the untrained encoder.
    """
    figure, axes = panels(1, 4, width=11)
    _curves(axes[0], history, "regression", "regression loss (MSE)")
    _curves(axes[1], history, "classification", "classification loss (cross-entropy)")
    _curves(axes[2], history, "perplexity", "codewords in use (perplexity)")
    epochs, accuracy = history.curve("probe_accuracy")
    axes[3].plot(
        [0, *epochs], [100 * value for value in (before, *accuracy)], "o-", color=COLOURS["time"], label="probe"
    )
    chance_line(axes[3], 100 * chance)
    axes[3].set(xlabel="epoch", title="linear probe, top-1 (%)", ylim=(0, None))
    axes[3].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[3].legend()
    return figure


def classifier_figure(history: History, chance: float) -> Figure:
    """Loss and accuracy of a classifier over the epochs, on training and on selection trials."""
    figure, axes = panels(1, 2)
    _curves(axes[0], history, "loss", "cross-entropy")
    _curves(axes[1], history, "accuracy", "top-1 accuracy (%)", scale=100)
    chance_line(axes[1], 100 * chance)
    axes[1].legend()
    return figure


def _curves(axis, history: History, term: str, title: str, scale: float = 1.0) -> None:
    for part in ("train", "selection"):
        epochs, values = history.curve(f"{part}_{term}")
        axis.plot(epochs, [scale * value for value in values], ".-", color=COLOURS[part], label=part)
    axis.axvline(history.best_epoch, color="black", linestyle=":", linewidth=1, label="epoch kept")
    axis.set(xlabel="epoch", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.legend()


def codebook_figure(usage: dict[str, Tensor]) -> Figure:
    """How often each codeword is picked, most frequent first.

    Args:
        usage: "before", "after" -> how many units have each codeword (codeword,).
    """
    figure, axis = panels(height=2.6)
    for (stage, counts), colour in zip(usage.items(), PALETTE, strict=False):
        shares = 100 * counts.sort(descending=True).values / counts.sum()
        axis.step(range(1, len(shares) + 1), shares, where="mid", color=colour, label=stage)
    axis.axhline(100 / len(counts), color=COLOURS["chance"], linestyle="--", linewidth=1, label="all alike")
    axis.set(xlabel="codeword, by frequency", ylabel="units (%)", title="use of the codebook")
    axis.legend()
    return figure


def scores_figure(scores: dict[str, dict], colour: str) -> Figure:
    """Top-1 accuracy on the test trials with its 95 % interval, for several groups of trials.

    Args:
        scores: name -> result of `brainvis.metrics.classification_scores`.
        colour: a key of `brainvis.plots.style.COLOURS`.
    """
    figure, axis = panels(height=2.6)
    for place, score in enumerate(scores.values()):
        top1 = score["top1"]
        reach = [[100 * (top1["value"] - top1["low"])], [100 * (top1["high"] - top1["value"])]]
        axis.bar(place, 100 * top1["value"], color=COLOURS[colour], width=0.6)
        axis.errorbar(place, 100 * top1["value"], yerr=reach, color="black", capsize=3)
    chance_line(axis, 100 * top1["chance"])
    axis.set_xticks(range(len(scores)), [f"{name}\n{score['trials']} trials" for name, score in scores.items()])
    axis.set(ylabel="top-1 accuracy (%)", title="test trials, 95 % intervals")
    axis.legend()
    return figure


def group_spectra_figure(hertz: Tensor, spectra: dict[str, tuple[list[str], Tensor]]) -> Figure:
    """How the spectrum of each group of trials differs from the mean of all groups, in percent.

    Args:
        hertz: (frequency,).
        spectra: what the trials are grouped by -> names of the groups and their mean amplitudes
            (group, frequency, channel); drawn is the mean over channels.
    """
    figure, axes = panels(1, len(spectra), sharey=True, squeeze=False)
    for axis, (title, (names, values)) in zip(axes[0], spectra.items(), strict=True):
        amplitude = values.mean(2)  # (group, frequency)
        difference = 100 * (amplitude / amplitude.mean(0) - 1)
        few = len(names) <= len(PALETTE)
        own_colours = all(map(is_color_like, names))  # lines of red and blue pictures are red and blue
        for place, (name, line) in enumerate(zip(names, difference, strict=True)):
            colour = ON_WHITE.get(name, name) if own_colours else PALETTE[place if few else 0]
            axis.plot(hertz, line, color=colour, label=name, alpha=1 if few else 0.3, linewidth=1.2 if few else 0.7)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xlabel="frequency (Hz)", title=f"by {title}")
        if few:
            axis.legend(fontsize=7, ncols=2)
    axes[0, 0].set_ylabel("amplitude, difference from the mean (%)")
    return figure


def bands_figure(reliance: dict[str, dict[str, float]], bands: dict[str, tuple[float, float]], chance: float) -> Figure:
    """Accuracy of a classifier when one band is exchanged between trials, and when that band alone is left.

    Args:
        reliance: as from `brainvis.analysis.band_reliance`.
        bands: name -> (from, to) in hertz.
    """
    figure, (left, right) = panels(1, 2, sharey=True)
    names = [name.replace(" ", "\n") + f"\n{low:g}-{high:.0f} Hz" for name, (low, high) in bands.items()]
    for axis, what, title in ((left, "without", "one band exchanged"), (right, "alone", "one band left")):
        values = torch.tensor([100 * reliance[name][what] for name in bands])
        axis.bar(names, values, color=COLOURS["frequency"])
        axis.axhline(100 * reliance["all bands"]["alone"], color="black", linewidth=1, label="all bands intact")
        chance_line(axis, 100 * chance)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(title)
    left.set_ylabel("top-1 accuracy, selection trials (%)")
    left.legend(loc="lower left", framealpha=0.9, frameon=True)
    return figure
