"""When after onset, and where on the head, can the class be decoded from the EEG? And from whose EEG?

Each subject has its own linear classifiers (`analysis.linear_probe`: a ridge regression in closed form), fitted on
training trials and evaluated on validation trials; test trials are not used. A classifier reads one window of all
channels (time-resolved decoding; King and Dehaene 2014) or all windows of one channel (sensor-wise decoding), and one
of two features: the mean amplitude, which contains what is phase-locked to the onset, or the log variance within the
window ("power"), which contains what is not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import binom, binomtest
from torch import Tensor
from torch.nn import functional

from brainvis.data.dataset import EEGDataset, Partition
from brainvis.data.unit import NAMES, unit_of
from brainvis.evaluation.analysis import linear_probe, variance_shares
from brainvis.evaluation.bootstrap import holm

WINDOW = 0.04  # seconds
LEVEL = 0.05  # for all windows, or all channels, together, after Holm's correction
SMALLEST = 1e-6  # keeps logarithms finite where a channel is flat
FEATURES = ("waveform", "power")


@dataclass(frozen=True)
class Decoded:
    """Accuracy of classifiers that read one feature: one number per window or channel."""

    hits: Tensor  # (place,) correctly classified validation trials of all subjects
    trials: int
    chance: float

    @property
    def accuracy(self) -> Tensor:
        """(place,)"""
        return self.hits.double() / self.trials

    @property
    def reach(self) -> float:
        """What a classifier without any knowledge exceeds in one of twenty cases, at a single place."""
        return binom.ppf(0.95, self.trials, self.chance).item() / self.trials

    @property
    def above(self) -> Tensor:
        """(place,) bool: above chance by a binomial test, Holm-corrected over all places."""
        tests = [binomtest(int(hits), self.trials, self.chance, alternative="greater").pvalue for hits in self.hits]
        corrected = holm({str(place): p for place, p in enumerate(tests)})
        return torch.tensor([corrected[str(place)] <= LEVEL for place in range(len(tests))], dtype=torch.bool)


def windows(data: EEGDataset, seconds: float = WINDOW) -> Tensor:
    """Centres (window,), in seconds after onset, of the windows that a trial is cut into; a remainder is dropped."""
    length = _samples(data, seconds)
    starts = torch.arange(data.trials.shape[-1] // length) * length
    return data.times[starts] + (length - 1) / 2 / data.sampling_rate


def _samples(data: EEGDataset, seconds: float) -> int:
    """Length of a window: at least one sample, at most a trial."""
    return min(max(round(seconds * data.sampling_rate), 1), data.trials.shape[-1])


def features(trials: Tensor, length: int) -> dict[str, Tensor]:
    """Mean amplitude and log power of windows: (trial, channel, time) -> feature -> (trial, channel, window)."""
    whole = trials[..., : trials.shape[-1] // length * length]
    mean = functional.avg_pool1d(whole, length)
    power = (functional.avg_pool1d(whole.square(), length) - mean.square()).clamp(min=0)
    return {"waveform": mean, "power": (power + SMALLEST).log()}


def decode_time(data: EEGDataset, partition: Partition, seconds: float = WINDOW) -> dict[str, Decoded]:
    """Time-resolved decoding: for each feature, accuracy in each of the `windows`, from all channels together.

    Empty if no subject has training trials of two classes and validation trials.
    """
    return _decode(data, partition, seconds, lambda values: values.unbind(2))


def decode_sensors(data: EEGDataset, partition: Partition, seconds: float = WINDOW) -> dict[str, Decoded]:
    """Sensor-wise decoding: for each feature, accuracy of each channel, from all its windows together; or empty."""
    return _decode(data, partition, seconds, lambda values: values.unbind(1))


def _decode(data: EEGDataset, partition: Partition, seconds: float, parts: Callable) -> dict[str, Decoded]:
    """Hits of the classifiers of all subjects, one classifier per part of (trial, channel, window)."""
    length = _samples(data, seconds)
    hits: dict[str, Tensor | int] = dict.fromkeys(FEATURES, 0)
    asked = []
    for known, tested in _of_subjects(data, partition):
        learnt, read = (features(data.trials[rows], length) for rows in (known, tested))
        for name in FEATURES:
            pairs = zip(parts(learnt[name]), parts(read[name]), strict=True)
            right = [linear_probe(a, data.labels[known], b, data.labels[tested]).sum() for a, b in pairs]
            hits[name] = hits[name] + torch.stack(right)
        asked.append(data.labels[tested])
    if not asked:
        return {}
    labels = torch.cat(asked)
    chance = labels.bincount().max().item() / len(labels)
    return {name: Decoded(hits[name], len(labels), chance) for name in FEATURES}


def _of_subjects(data: EEGDataset, partition: Partition):
    """Training and validation trials (indices) of each subject that has both, of at least two classes."""
    for subject in data.subjects.unique():
        own = [rows[data.subjects[rows] == subject] for rows in (partition.train, partition.validation)]
        if len(own[1]) and len(data.labels[own[0]].unique()) > 1:
            yield own


def subject_quality(
    data: EEGDataset, partition: Partition, seconds: float = WINDOW
) -> dict[int, dict[str, float | None]]:
    """Measures that explain why one subject is decoded better than another: subject -> measures.

    - `trials`: number of training trials;
    - `amplitude`: standard deviation of single trials, in the data's unit;
    - `evoked_snr_db`: power of the response common to all trials, over that of the rest of a single trial; the noise
      left by averaging is subtracted. None: no response;
    - `class_share`: share of the variance of the waveform that the class explains, highest over time (mean over
      channels; epsilon squared: 0 on average without an effect);
    - `accuracy` of a linear classifier on all windows of both features, on validation trials, and its `chance`.
    """
    length, found = _samples(data, seconds), {}
    for known, tested in _of_subjects(data, partition):
        trials, labels = data.trials[known], data.labels[known]
        mean = trials.mean(0).double()
        noise = trials.var(0).mean().item()  # variance over trials, mean over channels and time
        signal = max(mean.square().mean().item() - noise / len(known), 0.0)
        learnt, read = (features(data.trials[rows], length) for rows in (known, tested))
        both = [torch.cat([values[name].flatten(1) for name in FEATURES], 1) for values in (learnt, read)]
        right = linear_probe(both[0], labels, both[1], data.labels[tested])
        share = {"class": torch.zeros(1, 1)}
        if len(labels.unique()) < len(labels):
            share = variance_shares(learnt["waveform"], {"class": labels}, torch.zeros_like(labels))
        found[int(data.subjects[known[0]])] = {
            "trials": len(known),
            "amplitude": trials.std().item(),
            "evoked_snr_db": 10 * math.log10(signal / noise) if signal and noise else None,
            "class_share": share["class"].mean(0).max().item(),
            "accuracy": right.double().mean().item(),
            "chance": data.labels[tested].bincount().max().item() / len(tested),
            "validation_trials": len(tested),
        }
    return found


def recording_facts(data: EEGDataset, trials: Tensor) -> dict[str, str]:
    """Facts about the recording, measured on some trials (indices): unit, reference, passband, window.

    Files seldom state them. The unit shows in the size of the numbers; an average reference, in a mean over channels
    that is negligible compared with a channel; a filter, in where the spectrum falls to a tenth of its highest power.
    """
    signals = data.trials[trials]
    size = signals.std().item()
    shared = (signals.mean(1).std() / size).item()
    independent = len(data.channels) ** -0.5
    spectrum = torch.fft.rfft(signals - signals.mean(-1, keepdim=True)).abs().square().mean((0, 1))[1:]
    hertz = torch.fft.rfftfreq(signals.shape[-1], 1 / data.sampling_rate)[1:]
    inside = hertz[spectrum >= spectrum.max() / 10]
    above = spectrum[hertz > inside[-1]].mean().item() / spectrum.max().item() if inside[-1] < hertz[-1] else None
    first, last = (1000 * data.times[end].item() for end in (0, -1))
    common = "yes" if shared < 1e-3 else "no"
    facts = {
        "unit": f"{NAMES[unit_of(data)]}, judged by size: standard deviation of single trials {size:.3g}",
        "reference": f"average of all channels: {common} (their mean has {shared:.1%} of a channel's standard "
        f"deviation; {independent:.0%} if channels were independent)",
        "passband": f"{inside[0]:.3g} to {inside[-1]:.3g} Hz, where power reaches a tenth of its maximum"
        + (f"; above, it averages {above:.1%} of the maximum" if above is not None else "; no upper edge is visible"),
        "window": f"{first:.0f} to {last:.0f} ms after onset, {signals.shape[-1]} samples at {data.sampling_rate:g} Hz",
        "channels": f"{len(data.channels)}, positions: {data.montage or 'not known'}",
    }
    return facts


def in_words(
    data: EEGDataset, centres: Tensor, over_time: dict[str, Decoded], over_scalp: dict[str, Decoded]
) -> list[str]:
    """The results of both, one sentence per feature; `centres` (window,) as returned by `windows`."""
    said = []
    for name, decoded in over_time.items():
        moments, best = 1000 * centres, decoded.accuracy.argmax()
        peak = f"at best {decoded.accuracy[best]:.1%} at {moments[best]:.0f} ms (chance {decoded.chance:.1%})"
        sure = moments[decoded.above]
        when = f"above chance between {sure[0]:.0f} and {sure[-1]:.0f} ms" if len(sure) else "nowhere above chance"
        when = f"above chance at {sure[0]:.0f} ms" if len(sure) == 1 else when
        counted = f"{int(decoded.above.sum())} of {len(moments)} windows"
        sensors = over_scalp[name]
        channel = data.channels[int(sensors.accuracy.argmax())]
        where = f"{int(sensors.above.sum())} of {len(data.channels)} single channels above chance, {channel} best"
        said.append(f"{name}: {when} ({counted}), {peak}; {where} with {sensors.accuracy.max():.1%}")
    return said or ["No subject has both training and validation trials of two classes."]
