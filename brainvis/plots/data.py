"""Figures of notebook 01: what was shown, what was recorded, and how the two are related in time."""

import textwrap

import mne
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from scipy.signal import find_peaks
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.data.unit import unit_of
from brainvis.evaluation.analysis import Successions
from brainvis.evaluation.confounds import LEVEL, Audit
from brainvis.plots import style
from brainvis.plots.style import PALETTE, panels

TIME = "time after onset (ms)"


def stimuli_figure(data: EEGDataset, images: list[int], columns: int = 6) -> Figure:
    """Pictures that were shown, each with its class in bold and its caption if there is one."""
    rows = -(-len(images) // columns)
    figure, axes = panels(rows, columns, height=2.1 * rows, squeeze=False, subplot_kw=style.PLAIN)
    for axis, image in zip(axes.flat, images, strict=False):
        name = data.class_names[data.labels[data.images == image][0]]
        caption = textwrap.wrap(
            style.words(data.captions.get(data.image_ids[image], " "), 200), 26, max_lines=4, placeholder=" ..."
        )
        axis.imshow(np.asarray(data.image(image)))
        axis.set_title(style.words(name, 24), fontsize=9, fontweight="bold", loc="center")
        axis.text(0.5, -0.04, "\n".join(caption), transform=axis.transAxes, ha="center", va="top", fontsize=7)
    return figure


def counts_figure(data: EEGDataset) -> Figure:
    """Number of trials for every class and subject, and their length before the window was cut."""
    figure, (left, right) = panels(1, 2, width_ratios=(2, 1))
    subjects, classes = data.subjects.unique(), len(data.class_names)
    counts = [data.labels[data.subjects == subject].bincount(minlength=classes).tolist() for subject in subjects]
    few = classes <= style.MANY
    names = {"xticklabels": [*map(style.words, data.class_names)] if few else "auto", "yticklabels": subjects.tolist()}
    sns.heatmap(counts, ax=left, annot=few, fmt="d", cbar=not few, cmap=style.SEQUENTIAL, vmin=0, **names)
    left.set(xlabel="class", ylabel="subject", title="trials of each class and subject")
    kept = 1000 * data.trials.shape[-1] / data.sampling_rate
    right.hist(1000 * data.lengths.numpy() / data.sampling_rate, bins=40, color=PALETTE[0])
    right.axvline(kept, color=PALETTE[3])
    right.set(xlabel="recorded length (ms)", ylabel="trials", title=f"trial lengths (kept: {kept:.0f} ms)")
    style.log_scale(right)
    return figure


def single_trials_figure(data: EEGDataset, trials: list[int], channels: int = 8) -> Figure:
    """A few unprocessed trials, `channels` of their channels one above the other."""
    figure, axes = panels(1, len(trials), height=3.6, sharey=True, squeeze=False)
    for axis, trial in zip(axes.flat, trials, strict=True):
        style.show_trial(axis, data, trial, channels, trials, bar=trial == trials[-1])
        axis.set_title(
            f"{style.words(data.class_names[data.labels[trial]], 24)}\nsubject {data.subjects[trial]}, trial {trial}"
        )
    return figure


def evoked_figure(data: EEGDataset, evoked: Tensor, moments: int = 4) -> Figure:
    """The evoked response (channel, time), and its map over the head where it is strongest (needs a montage)."""
    power, times = evoked.std(0).numpy(), 1000 * data.times.numpy()  # (time,)
    peaks, _ = find_peaks(power, distance=len(power) // 20 + 1)
    peaks = sorted(peaks[power[peaks].argsort()[::-1][:moments]].tolist()) if data.montage else []
    values = f"EEG ({unit_of(data)})"
    figure, axes = panels(1, 1 + len(peaks), width_ratios=(2.2, *[1] * len(peaks)), squeeze=False)
    axes[0, 0].plot(times, evoked.T, color="black", linewidth=0.4, alpha=0.5)
    axes[0, 0].plot(times, power, color=PALETTE[3], linewidth=1.5, label="global field power")
    axes[0, 0].set(xlabel=TIME, ylabel=values, title="evoked response, all channels")
    axes[0, 0].legend(loc="upper right")
    for axis, peak in zip(axes[0, 1:], peaks, strict=True):
        axes[0, 0].axvline(times[peak], color=PALETTE[3], linewidth=0.6, linestyle=":")
        axis.set_title(f"{times[peak]:.0f} ms", loc="center")
        with mne.utils.use_log_level("error"):
            info = mne.create_info(list(data.channels), data.sampling_rate, "eeg").set_montage(data.montage)
            limit = evoked[:, peaks].abs().max().item()
            look = {"cmap": style.DIVERGING, "vlim": (-limit, limit), "sensors": False, "show": False}
            picture, _ = mne.viz.plot_topomap(evoked[:, peak].numpy(), info, axes=axis, **look)
    if peaks:
        figure.colorbar(picture, ax=axes[0, 1:], label=values, shrink=0.7)
    return figure


def class_evoked_figure(data: EEGDataset, evoked: Tensor, classes: Tensor) -> Figure:
    """Field power of the evoked response of every class (class, channel, time), and how three of them differ."""
    figure, (left, right) = panels(1, 2)
    names, times = [style.words(data.class_names[label]) for label in classes], 1000 * data.times.numpy()
    unit = unit_of(data)
    edges = [times[0], times[-1], len(names) - 0.5, -0.5]
    picture = left.imshow(evoked.std(1), aspect="auto", extent=edges, cmap=style.SEQUENTIAL, vmin=0)
    figure.colorbar(picture, ax=left, label=f"global field power ({unit})")
    left.set(xlabel=TIME, ylabel="class", title="evoked response of every class")
    if len(names) <= style.MANY:
        left.set_yticks(range(len(names)), names)
    spread = evoked.std(0)  # (channel, time), over classes
    channel, moment = divmod(int(spread.argmax()), spread.shape[1])
    ranked = evoked[:, channel, moment].argsort().tolist()
    for label in dict.fromkeys((ranked[-1], ranked[len(ranked) // 2], ranked[0])):
        right.plot(times, evoked[label, channel], label=names[label])
    right.axvline(times[moment], color="black", linewidth=0.6, linestyle=":")
    right.set(
        xlabel=TIME, ylabel=f"EEG ({unit})", title=f"channel {style.words(data.channels[channel])}, three classes"
    )
    right.legend()
    return figure


def share_figure(axis_values: Tensor, shares: dict[str, Tensor], xlabel: str, title: str) -> Figure:
    """Variance explained by `shares` (channel, time or frequency): mean over channels, shaded up to the best."""
    figure, axis = panels()
    for (name, share), colour in zip(shares.items(), PALETTE, strict=False):
        mean, best = 100 * share.mean(0), 100 * share.amax(0)
        axis.plot(axis_values, mean, color=colour, label=style.words(name))
        axis.fill_between(axis_values, mean, best, color=colour, alpha=0.15, linewidth=0)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlabel=xlabel, ylabel="variance explained (%)", title=title, xlim=(axis_values[0], axis_values[-1]))
    axis.legend(ncols=2)
    return figure


def spectra_figure(hertz: Tensor, spectra: dict[str, Tensor], evoked: Tensor, averaged: float) -> Figure:
    """Spectra (frequency, channel) by subject, and those of averages over `averaged` trials of a class."""
    figure, (left, right) = panels(1, 2)
    for name, spectrum in spectra.items():
        left.plot(hertz, spectrum.mean(1), label=name)
    left.set(ylabel="|FFT|, mean over channels", title="single trials, by subject")
    whole, grey = torch.stack(list(spectra.values())).mean((0, 2)), style.COLOUR_OF["chance"]
    right.plot(hertz, whole, color=PALETTE[0], label="single trials")
    right.plot(hertz, evoked.mean(1), color=PALETTE[3], label="averaged first")
    right.plot(hertz, whole / averaged**0.5, color=grey, linestyle="--", label="if all phases were random")
    right.set(ylabel="|FFT|, mean over channels", title="what averaging keeps")
    for axis in (left, right):
        axis.set_xlabel("frequency (Hz)")
        axis.legend()
        style.log_scale(axis)
    return figure


def order_figure(data: EEGDataset, found: Successions) -> Figure:
    """Classes in recording order, and how often each follows itself compared with its own expectation."""
    figure, (left, right) = panels(1, 2, width_ratios=(2, 1))
    own = data.subjects == data.subjects.min()
    left.scatter(data.order[own], data.labels[own], s=12, color=PALETTE[0])
    left.set(xlabel="place in the recording", ylabel="class", title=f"subject {int(data.subjects.min())}")
    if len(data.class_names) <= style.MANY:
        left.set_yticks(range(len(data.class_names)), [*map(style.words, data.class_names)])
    reach = [100 * (found.expected - found.low), 100 * (found.high - found.expected)]
    places = range(len(data.class_names))
    right.errorbar(
        places,
        100 * found.expected,
        yerr=torch.stack(reach).clamp(min=0),
        fmt="_",
        color=style.COLOUR_OF["chance"],
        label="in random order, 95 %",
    )
    right.scatter(places, 100 * found.share, s=14, color=PALETTE[0], zorder=3, label="as recorded")
    if len(data.class_names) <= style.MANY:
        right.set_xticks(places, [*map(style.words, data.class_names)], rotation=90)
    right.set(xlabel="class", ylabel="trials (%)", ylim=(-3, 103), title="next trial has the same class")
    right.legend()
    return figure


def confounds_figure(audits: dict[str, Audit]) -> Figure:
    """Each audit's answer next to its chance answers, for permuted or shifted labels."""
    figure, axis = panels(height=0.9 + 0.42 * len(audits))
    for place, audit in enumerate(audits.values()):
        low, high = audit.null.quantile(torch.tensor([0.0, 1.0], dtype=audit.null.dtype)).tolist()
        axis.barh(place, high - low, left=low, height=0.5, color=style.COLOUR_OF["chance"], alpha=0.4, linewidth=0)
        axis.plot(audit.value, place, "o", color=PALETTE[3] if audit.p <= LEVEL else PALETTE[0])
    axis.plot([], [], "s", color=style.COLOUR_OF["chance"], alpha=0.4, label="by chance, lowest to highest")
    axis.plot([], [], "o", color=PALETTE[3], label=f"as recorded, p at most {LEVEL:g} (uncorrected)")
    axis.plot([], [], "o", color=PALETTE[0], label="as recorded, larger p")
    axis.set_yticks(range(len(audits)), [audit.question for audit in audits.values()])
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.6)
    lowest = min([0.0, *(audit.null.min().item() for audit in audits.values())])
    axis.set(xlabel="accuracy, share or correlation", xlim=(lowest - 0.03, 1.03))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def calibration_figure(table: dict) -> Figure:
    """How often each audit raises its flag as drift grows, and how much drift adds to the accuracy of a classifier that
    reads the trial and of one that cannot see it; `table` as written by docs/studies/calibrate_audits.py."""
    figure, axes = panels(1, 3, height=3.4, width_ratios=(1, 1, 1))
    classifiers = {
        "order of labels": ("whole trial", PALETTE[2]),
        "slow drift": ("previous trial", PALETTE[1]),
    }
    colours = dict(zip(table["family"], (PALETTE[0], PALETTE[4], PALETTE[1], PALETTE[5]), strict=False))
    for axis, design in zip(axes, ("block", "interleaved"), strict=False):
        for number, (name, colour) in enumerate(colours.items()):
            rows = [row for row in table["rows"] if row["design"] == design and row["audit"] == name]
            shares = [100 * row["flags"] / row["seeds"] for row in rows]
            size = 11 - 3 * number  # so that overlapping ones are all visible
            axis.plot([row["drift"] for row in rows], shares, "o-", markersize=size, color=colour, label=name)
        axis.set(title=f"{design}: flags raised", ylabel="recordings (%)", ylim=(-4, 106))
    style.chance_line(axes[1], 5, "5 %")
    for name, (label, colour) in classifiers.items():
        rows = [row for row in table["rows"] if row["design"] == "block" and row["audit"] == name]
        drifts, gains = [row["drift"] for row in rows], np.array([row["gain"] for row in rows])
        reach = np.array([row["gain_reach"] or 0 for row in rows])
        axes[2].plot(drifts, gains, "o-", markersize=4, color=colour, label=label)
        axes[2].fill_between(drifts, gains - reach, gains + reach, color=colour, alpha=0.2, linewidth=0)
    style.chance_line(axes[2], 5, "5 points")
    axes[2].set(title="block: what drift adds to accuracy", ylabel="points")
    for axis in axes:
        axis.set_xscale("symlog", linthresh=0.001)
        axis.set_xlim(-0.0002, 1.5)
        axis.set_xticks([0, 0.001, 0.01, 0.1, 1], ["0", ".001", ".01", ".1", "1"])
        axis.set_xlabel("drift, relative to the ongoing EEG")
        axis.legend(fontsize=7)
    return figure
