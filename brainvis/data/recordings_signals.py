"""Steps shared by continuous recordings and epochs on their way to trials."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mne
import numpy as np

from brainvis.data.recordings_files import Recording
from brainvis.data.source import DatasetError
from brainvis.files.reading import reason

MICROVOLTS = 1e6  # of MNE's volts
POSSIBLE = (0.05, 1000.0)  # microvolts: standard deviation of a typical channel of EEG, filtered
TYPICAL = 10.0  # microvolts
# What a signal that is too large by this factor really was, and what its file calls it.
SLIPS = {
    1e6: "microvolts that their files call volts", 1e3: "microvolts that their files call millivolts",
    1e-3: "millivolts that their files call microvolts", 1e-6: "volts that their files call microvolts",
    1e-9: "volts that their files call nanovolts, or volts that were divided once too often", 
}  # fmt: skip
BRAINVISION = "Stimulus/S"  # how MNE begins the event of a .vmrk file; its number follows


class Piece(NamedTuple):
    """The trials of one recording."""

    recording: Recording
    trials: np.ndarray  # (trial, channel, time) float32
    before: np.ndarray | None  # the same, for what was recorded before the event
    lengths: np.ndarray  # (trial,) recorded samples
    events: list[str]  # of each trial


@dataclass(frozen=True)
class Plan:
    """What is known about all trials before the first signal is read."""

    rate: float  # hertz
    start: float  # time of a trial's first sample, in seconds after the event
    channels: tuple[str, ...]
    classes: dict[str, str]  # event -> name of its class
    most: int  # number of trials, at most
    samples: int  # of a trial
    pieces: Iterator[Piece]  # read one after another


@contextmanager
def readable(file: Path, reader: str = "MNE") -> Iterator[None]:
    """Turn whatever a reader raises for a file, which depends on its format, into one sentence."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"{reader} cannot read {file}: {reason(error)}. Repair or remove it.") from error


def common_rate(rates: Mapping[Path, float], resample: float | None) -> float:
    """The sampling rate of all trials in hertz, from the rates of the files; DatasetError if they differ."""
    if len(set(rates.values())) > 1 and resample is None:
        told = ", ".join(f"{rate:g} Hz ({file})" for rate, file in {rates[file]: file for file in rates}.items())
        raise DatasetError(f"The recordings differ in sampling rate: {told}. Add `resample: {min(rates.values()):g}`.")
    return resample or next(iter(rates.values()))


def common_channels(infos: Mapping[Path, mne.Info], asked: tuple[str, ...] | None, notes: list[str]) -> tuple[str, ...]:
    """The channels of the trials: those asked for, or all good EEG channels present in every recording."""
    for file, info in infos.items():
        if missing := [name for name in asked or () if name not in info.ch_names]:
            raise DatasetError(f"channels: {', '.join(missing)} not found in {file}; it has {info.ch_names}.")
    if asked:
        return tuple(dict.fromkeys(asked))
    own = [[info.ch_names[pick] for pick in mne.pick_types(info, eeg=True)] for info in infos.values()]
    names = dict.fromkeys(name for channels in own for name in channels)
    common = tuple(name for name in names if all(name in channels for channels in own))
    if not common:
        raise DatasetError(
            f"The {len(own)} recordings have no EEG channel in common. List the channels to read under `channels`."
        )
    if dropped := [name for name in names if name not in common]:
        notes.append(f"Channels that some recordings lack or mark as bad are left out: {some(dropped)}.")
    return common


def named_events(found: Iterable[str], classes: Mapping, notes: list[str]) -> dict[str, str]:
    """The entry of `classes`, as text, for each of the events `found`; events without an entry are left out.
    DatasetError for an entry found in no recording. An event matches the entry with its own text, its number
    (`Stimulus/S  3` of BrainVision is 3), or one of its parts separated by slashes, with which readers join two events
    of one trial."""
    texts, count = {str(key) for key in classes}, Counter(found)
    if len(texts) < len(classes):
        raise DatasetError(f"classes lists an event twice, as a number and as text: {list(classes)}.")
    named = {text: key for text in count if (key := _entry(text, texts)) is not None}
    if unknown := [str(key) for key in classes if str(key) not in named.values()]:
        there_are = some([f"{text} ({times} times)" for text, times in sorted(count.items())], 50)
        wrong = f"no recording has the event {', '.join(unknown)}; the recordings have {there_are}"
        raise DatasetError(f"classes: {wrong}. Use these under `classes`.")
    if ignored := sorted(count.keys() - named.keys()):
        notes.append(f"Events that `classes` does not name are ignored: {some(ignored)}.")
    return named


def _entry(text: str, texts: set[str]) -> str | None:
    if text in texts:
        return text
    number = text.removeprefix(BRAINVISION).strip()
    if text.startswith(BRAINVISION) and number in texts:
        return number
    parts = texts & set(text.split("/"))
    return parts.pop() if len(parts) == 1 else None


def some(words: list[str], most: int = 20) -> str:
    """The first few of them, as part of a sentence."""
    return ", ".join(words[:most]) + f" and {len(words) - most} more" * (len(words) > most)


def amplitude(signals: np.ndarray) -> float:
    """Standard deviation of a typical channel in microvolts, from volts (..., channel, time)."""
    return float(np.median(signals.std(-1))) * MICROVOLTS


def amplitude_notes(levels: Mapping[object, float]) -> list[str]:
    """Notes on recordings, by name, whose `amplitude` is impossible for EEG, with the likely cause."""
    slips = defaultdict(dict)
    for name, level in levels.items():
        if level > 0 and not POSSIBLE[0] <= level <= POSSIBLE[1]:
            factor = min(SLIPS, key=lambda factor: abs(math.log10(level / factor / TYPICAL)))
            slips[factor][name] = level
    notes = []
    for factor, found in slips.items():
        which = f"{len(found)} of {len(levels)} recordings (the first is {next(iter(found))})"
        low, high = min(found.values()), max(found.values())
        wrong = f"{which} have a standard deviation of {low:.2g} to {high:.2g} microvolts, which EEG cannot have"
        meant = f"that would make {low / factor:.2g} to {high / factor:.2g} microvolts"
        notes.append(f"{wrong}. They are probably {SLIPS[factor]}: {meant}.")
    return notes


def standardised(signals: np.ndarray, channels: tuple[str, ...], name: object) -> np.ndarray:
    """Each channel of signals (channel, time), or (trial, channel, time), scaled to mean 0 and standard deviation 1
    over all."""
    axes = tuple(axis for axis in range(signals.ndim) if axis != signals.ndim - 2)
    mean, deviation = signals.mean(axes, keepdims=True), signals.std(axes, keepdims=True)
    if flat := [channel for channel, value in zip(channels, deviation.ravel(), strict=True) if not value > 0]:
        wrong = f"the signal of {', '.join(flat)} is constant and cannot be standardised"
        raise DatasetError(f"{name}: {wrong}. List the other channels under `channels`.")
    return (signals - mean) / deviation


def check_finite(trials: np.ndarray, name: object) -> None:
    """DatasetError if any of the trials (trial, channel, time) is not finite."""
    for trial in np.flatnonzero(~np.isfinite(trials).all((1, 2)))[:1]:
        raise DatasetError(f"{name}: trial {trial} has values that are not finite. Repair or remove it.")
