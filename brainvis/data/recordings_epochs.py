"""Epochs: trials that have already been cut, in files of MNE, EEGLAB or NumPy.

    <folder>/subject01/monday-epo.fif         MNE; or monday.set, EEGLAB epochs
    <folder>/subject01/monday.npy             (trial, channel, time), any numbers; see `arrays` in recordings.yml
    <folder>/subject01/monday-labels.npy      (trial,) whole numbers or texts

They are used as they are, without filtering, which would leave edges in every trial.
"""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import mne
import numpy as np
from tqdm.auto import tqdm

from brainvis.data.recordings_checks import check_file, check_header
from brainvis.data.recordings_files import Recording
from brainvis.data.recordings_settings import RecordingsSettings
from brainvis.data.recordings_signals import (
    MICROVOLTS,
    Piece,
    Plan,
    amplitude,
    amplitude_notes,
    check_finite,
    common_channels,
    common_rate,
    named_events,
    readable,
    standardised,
)
from brainvis.data.source import DatasetError
from brainvis.files.reading import plain_file


def holds_epochs(file: Path) -> bool:
    """Whether an EEGLAB file holds epochs."""
    check_file(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mne.io.read_raw_eeglab(file, preload=False, verbose="ERROR")
        except TypeError as error:
            return "number of trials" in str(error)
    return False


def plan_epochs(
    recordings: list[Recording], values: RecordingsSettings, settings: Path, folder: Path, notes: list[str]
) -> Plan:
    """How epochs become trials; each file is opened once to find what all have in common, and again to be read."""
    for key in ("filter", "notch"):
        if getattr(values, key):
            cure = "Filter the recordings before cutting them into epochs, and remove the key"
            raise DatasetError(f"{settings}: {key} is for continuous recordings, but these are epochs. {cure}.")
    heads = {}
    for recording in recordings:
        epochs = open_epochs(recording, values, settings)
        heads[recording] = (epochs.info, epochs.tmin, len(epochs.times), _events(epochs))
    rates = {one.file: float(info["sfreq"]) for one, (info, *_) in heads.items()}
    rate = common_rate(rates, values.resample)
    channels = common_channels({one.file: info for one, (info, *_) in heads.items()}, values.channels, notes)
    begin, samples = _window(heads, values, rate)
    found = [text for *_, events in heads.values() for text in events]
    classes = values.classes or {text: text for text in sorted(set(found))}
    if len(set(classes.values())) < 2:
        wrong = f"all {len(found)} epochs are of the same event, {found[0]!r}" if found else "there are no epochs"
        raise DatasetError(f"{recordings[0].file}: {wrong}, so there is nothing to tell apart.")
    named = named_events(found, classes, notes)

    def pieces() -> Iterator[Piece]:
        seen, levels = {}, {}
        for recording in tqdm(recordings, desc="reading epochs", disable=len(recordings) < 5):
            name, (_, _, times, events) = recording.file.relative_to(folder), heads[recording]
            with readable(recording.file):
                epochs = open_epochs(recording, values, settings).load_data()
                content = hashlib.sha256(np.ascontiguousarray(epochs.get_data(copy=False)).tobytes()).digest()
            if seen.setdefault(content, name) != name:
                notes.append(f"{name} holds the same samples as {seen[content]} and is left out.")
                continue
            with readable(recording.file):
                epochs.pick(list(channels), exclude=[], verbose="ERROR").reorder_channels(list(channels))
                if epochs.info["sfreq"] != rate:
                    epochs.resample(rate, verbose="ERROR")
                first = round((begin - epochs.tmin) * rate)
                signals = epochs.get_data(copy=False)[..., first : first + samples]  # (trial, channel, time) volts
            check_finite(signals, name)
            levels[name] = amplitude(signals)
            scaled = standardised(signals, channels, name) if values.standardise == "channel" else signals * MICROVOLTS
            own = np.flatnonzero([text in named for text in events])
            lengths = np.full(len(own), round(times * rate / rates[recording.file]))
            trials = scaled[own].astype(np.float32)
            yield Piece(recording, trials, None, lengths, [named[events[trial]] for trial in own])
        notes.extend(amplitude_notes(levels))

    names = {str(key): name for key, name in classes.items()}
    return Plan(rate, begin, channels, names, len(found), samples, pieces())


def _window(heads: dict, values: RecordingsSettings, rate: float) -> tuple[float, int]:
    """Time of the first sample in seconds after the event, and the number of samples: the settings' window, which all
    epochs must cover, or else what all epochs share."""
    spans = {one.file: (tmin, tmin + times / info["sfreq"]) for one, (info, tmin, times, _) in heads.items()}
    if values.window is None:
        begin, end = max(span[0] for span in spans.values()), min(span[1] for span in spans.values())
    else:
        begin, end = values.window
    for file, (first, last) in spans.items():
        if begin < first - 0.5 / rate or end > last + 0.5 / rate or end - begin < 1 / rate:
            told = f"its epochs extend from {first:g} to {last:g} s, but the window is {begin:g} to {end:g} s"
            raise DatasetError(f"{file}: {told}. Choose a `window` that all epochs cover.")
    return begin, round((end - begin) * rate)


def open_epochs(recording: Recording, values: RecordingsSettings, settings: Path) -> mne.BaseEpochs:
    """The epochs of a file; signals of MNE's own files are not read yet."""
    if recording.file.suffix == ".npy":
        return _of_array(recording, values, settings)
    with readable(recording.file), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_file(recording.file)
        if recording.file.suffix == ".set":
            return mne.read_epochs_eeglab(recording.file, verbose="ERROR")
        epochs = mne.read_epochs(recording.file, preload=False, verbose="ERROR")
        check_header([recording.file], len(epochs) * len(epochs.ch_names) * len(epochs.times))
        return epochs


def _events(epochs: mne.BaseEpochs) -> list[str]:
    texts = {code: text for text, code in epochs.event_id.items()}
    return [texts.get(code, str(code)) for code in epochs.events[:, 2]]


def _of_array(recording: Recording, values: RecordingsSettings, settings: Path) -> mne.BaseEpochs:
    values.needed("arrays", file=settings)
    file, arrays = recording.file, values.arrays
    if recording.events_file is None:
        raise DatasetError(f"{file} has no labels. Put them beside it as {file.stem}-labels.npy, one per trial.")
    signals, labels = (read_array(one) for one in (file, recording.events_file))
    if signals.ndim != 3 or signals.dtype.kind not in "iuf" or not signals.size:
        told = f"{signals.dtype} {signals.shape}"
        raise DatasetError(f"{file} holds {told}, not numbers (trial, channel, time). Save it again with numpy.save.")
    if signals.shape[1] != len(arrays.channels):
        told = f"{signals.shape[1]} channels, but arrays.channels names {len(arrays.channels)}"
        raise DatasetError(f"{file} has {told}. Its shape must be (trial, channel, time).")
    if labels.shape != signals.shape[:1] or labels.dtype.kind not in "iuU":
        told = f"{labels.dtype} {labels.shape}, not {len(signals)} whole numbers or strings"
        raise DatasetError(f"{recording.events_file} holds {told}, one per trial.")
    texts = [str(label) for label in labels.tolist()]
    codes = {text: code for code, text in enumerate(dict.fromkeys(texts), 1)}
    events = np.array([[place, 0, codes[text]] for place, text in enumerate(texts)])
    volts = np.asarray(signals, np.float64) / (MICROVOLTS if arrays.unit == "microvolts" else 1)
    with readable(file, "NumPy"):
        info = mne.create_info(list(arrays.channels), arrays.sampling_rate, "eeg", verbose="ERROR")
        return mne.EpochsArray(volts, info, events, arrays.start, codes, proj=False, verbose="ERROR")


def read_array(file: Path) -> np.ndarray:
    """An array saved by `numpy.save`, mapped; DatasetError for anything else, pickles in particular."""
    with readable(file, "NumPy"):
        plain_file(file)
        if not isinstance(array := np.load(file, mmap_mode="r", allow_pickle=False), np.ndarray):
            raise ValueError("it is an archive, not a single array saved with numpy.save")
        return array
