"""Figures of notebooks 02 and 03: how the branches are trained, and what they read."""

import math

from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.plots import style
from brainvis.plots.style import COLOUR_OF, PALETTE, panels
from brainvis.training import History

ON_WHITE = {"white": "silver", "yellow": "gold"}  # colours that are visible on paper


def mask_figure(data: EEGDataset, trial: int, mask: Tensor, tokens: Tensor, channels: int = 6) -> Figure:
    """One trial cut into units; `mask` (unit,) is true for the grey ones, `tokens` (masked unit,) are their tokens."""
    figure, axis = panels(height=3.4)
    style.show_trial(axis, data, trial, channels, among=[trial])
    length = data.trials.shape[-1] // len(mask) * 1000 / data.sampling_rate  # milliseconds per unit
    edges = [1000 * data.times[0].item() + unit * length for unit in range(len(mask) + 1)]
    for unit, token in zip(mask.nonzero().flatten().tolist(), tokens.tolist(), strict=True):
        axis.axvspan(edges[unit], edges[unit + 1], color=(0.5, 0.5, 0.5, 0.35), linewidth=0)
        middle = edges[unit] + length / 2
        axis.text(middle, 1.01, token, transform=axis.get_xaxis_transform(), fontsize=6, ha="center")
    axis.set_xlim(edges[0], edges[-1])
    axis.set_title(f"{int(mask.sum())} of {len(mask)} units masked (grey), with their tokens above", pad=14)
    return figure


def latents_figure(predictions: dict, dimensions: int = 40) -> Figure:
    """Target and regressed latent units of the first trial: "before", "after" -> `MaskedPrediction` of some trials."""
    figure, axes = panels(1, 2 * len(predictions), height=2.9, squeeze=False)
    for (left, right), (when, prediction) in zip(axes.reshape(-1, 2), predictions.items(), strict=True):
        target, regressed = prediction.target, prediction.regressed  # (b, masked unit, width)
        limit = target[0].abs().quantile(0.98).item()
        for axis, name, values in ((left, "target", target), (right, "regressed", regressed)):
            picture = values[0, :, :dimensions].T
            shown = axis.imshow(picture, aspect="auto", cmap=style.DIVERGING, vmin=-limit, vmax=limit)
            axis.set(xlabel="masked unit", title=f"{when}: {name}")
        error = (regressed - target).square().mean() / target.var(0, correction=0).mean().clamp(min=1e-12)
        left.set_ylabel("dimension of the latent unit")
        right.sharey(left)
        right.tick_params(labelleft=False)
        figure.colorbar(shown, ax=[left, right], label="latent value", shrink=0.8)
        right.set_xlabel(f"masked unit\n(error {100 * error.item():.0f} % of the variance over trials)")
    return figure


def curves(history: History, titles: dict[str, str], **options) -> tuple:
    """Figure and panels: terms of the loss (-> title) over the epochs, and the epoch that was kept."""
    figure, axes = panels(1, len(titles), **options)
    for axis, (term, title) in zip(axes, titles.items(), strict=True):
        curve(axis, history, term, title)
    return figure, axes


def curve(axis: Axes, history: History, term: str, title: str) -> None:
    """A term of the loss over the epochs, for training and validation trials, and the epoch that was kept."""
    for part in ("train", "validation"):
        epochs, values = history.curve(f"{part}_{term}")
        values = [100 * value for value in values] if "%" in title else values
        axis.plot(epochs, values, ".-", color=COLOUR_OF[part], label=part)
    axis.axvline(history.best_epoch, color="black", linestyle=":", linewidth=1, label="epoch kept")
    axis.set(xlabel="epoch", ylabel=title)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.legend()


def pretraining_figure(history: History, before: dict[str, float], chance: float, codewords: int) -> Figure:
    """What LMM learns: both losses and the masked-token accuracy, each next to its level without knowledge of the
    trial; codebook use; the encoder's state; linear probes (untrained: `before`, by readout, as `probe_encoder`)."""
    figure, axes = panels(2, 3, height=5.2)
    (regression, classification, accuracy), (perplexity, state, probe) = axes
    curve(regression, history, "regression", "regression loss (MSE)")
    curve(classification, history, "classification", "token loss (cross-entropy)")
    curve(accuracy, history, "token_accuracy", "masked-token accuracy (%)")
    curve(perplexity, history, "perplexity", "codewords used (perplexity)")
    for axis, term, scale, label in (
        (regression, "regression_of_mean", 1, "mean of the targets"),
        (accuracy, "token_chance", 100, "most frequent token"),
    ):
        epochs, values = history.curve(f"validation_{term}")
        axis.plot(epochs, [scale * value for value in values], "--", color=COLOUR_OF["chance"], label=label)
        axis.legend()
    style.chance_line(classification, math.log(codewords), "all codewords equally likely")
    classification.legend()
    names = {"residual_scale": "scalars of sublayers", "variance_over_trials": "variance over trials"}
    names |= {"variance_over_positions": "variance over positions"}
    for (term, label), marker in zip(names.items(), "os^", strict=True):
        state.plot(*history.curve(term), f"{marker}-", label=label)
    style.log_scale(state)
    state.set(xlabel="epoch", ylabel="latent units of the encoder")
    state.legend()
    readouts = {"mean_of_units": "probe_accuracy", "all_units": "probe_of_all_units"}
    for (readout, term), marker in zip(readouts.items(), "os", strict=True):
        epochs, values = history.curve(term)
        values = [100 * value for value in (before[readout], *values)]
        probe.plot([0, *epochs], values, f"{marker}-", label=readout.replace("_", " "))
    style.chance_line(probe, 100 * chance)
    probe.set(xlabel="epoch", ylabel="linear probe accuracy (%)", ylim=(0, None))
    probe.legend()
    for axis in (state, probe):
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def classifier_figure(history: History, chance: float) -> Figure:
    """Loss and accuracy of a classifier over the epochs, on training and on validation trials."""
    figure, axes = curves(history, {"loss": "cross-entropy", "accuracy": "top-1 accuracy (%)"})
    style.chance_line(axes[1], 100 * chance)
    axes[1].legend()
    return figure


def codebook_figure(usage: dict[str, Tensor]) -> Figure:
    """How often each codeword is chosen, most frequent first: "before", "after" -> units that have it (codeword,)."""
    figure, axis = panels(height=2.6)
    for (when, counts), colour in zip(usage.items(), PALETTE, strict=False):
        shares = 100 * counts.sort(descending=True).values / counts.sum()
        axis.step(range(1, len(shares) + 1), shares, where="mid", color=colour, label=when)
    axis.axhline(100 / len(counts), color=COLOUR_OF["chance"], linestyle="--", linewidth=1, label="all equally often")
    axis.set(xlabel="codeword, by frequency", ylabel="units (%)", title="use of the codebook")
    axis.legend()
    return figure


def scores_figure(scores: dict[str, dict], branch: str) -> Figure:
    """Top-1 accuracy of a branch on several groups of test trials: group -> `classification_scores`."""
    figure, axis = panels(height=2.6)
    places = {name: f"{name}\n{score['trials']} trials" for name, score in scores.items()}
    tops = {name: score["top1"] for name, score in scores.items()}
    style.estimates(axis, {branch: tops}, places, bars=True, scale=100, labels={branch: None})
    style.chance_line(axis, 100 * next(iter(tops.values()))["chance"])
    axis.set(ylabel="top-1 accuracy (%)", title="test trials, 95 % intervals")
    axis.legend()
    return figure


def group_spectra_figure(hertz: Tensor, spectra: dict[str, tuple[list[str], Tensor]]) -> Figure:
    """Spectra relative to the mean of all groups: grouped by -> names, mean amplitudes (group, frequency, channel)."""
    figure, axes = panels(1, len(spectra), sharey=True, squeeze=False)
    for axis, (title, (names, values)) in zip(axes[0], spectra.items(), strict=True):
        amplitude = values.mean(2)  # (group, frequency)
        difference = 100 * (amplitude / amplitude.mean(0) - 1)
        few = len(names) <= len(PALETTE)
        look = {"alpha": 1, "linewidth": 1.2} if few else {"alpha": 0.3, "linewidth": 0.7}
        colours = PALETTE if few else PALETTE[:1] * len(names)
        if all(map(is_color_like, names)):  # lines for red and blue pictures are red and blue
            colours = [ON_WHITE.get(name, name) for name in names]
        for name, line, colour in zip(names, difference, colours, strict=False):
            axis.plot(hertz, line, color=colour, label=style.words(name, 24), **look)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xlabel="frequency (Hz)", title=f"by {title}")
        if few:
            axis.legend(fontsize=7, ncols=2)
    axes[0, 0].set_ylabel("amplitude, difference from the mean (%)")
    return figure


def bands_figure(reliance: dict[str, dict[str, float]], bands: dict[str, tuple[float, float]], chance: float) -> Figure:
    """Accuracy with one band (from, to; hertz) exchanged, and with that band alone, see `analysis.band_reliance`."""
    figure, (left, right) = panels(1, 2, sharey=True)
    names = [name.replace(" ", "\n") + f"\n{low:g}-{high:.0f} Hz" for name, (low, high) in bands.items()]
    for axis, what, title in ((left, "without", "one band exchanged"), (right, "alone", "one band left")):
        axis.bar(names, [100 * reliance[name][what] for name in bands], color=COLOUR_OF["frequency"])
        axis.axhline(100 * reliance["all bands"]["alone"], color="black", linewidth=1, label="all bands intact")
        style.chance_line(axis, 100 * chance)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(title)
    left.set_ylabel("top-1 accuracy, validation trials (%)")
    left.legend(loc="lower left", framealpha=0.9, frameon=True)
    return figure
