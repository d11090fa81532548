"""Opening, checking and cutting continuous recordings with MNE; nothing here knows about splits or models."""

from __future__ import annotations

import re
from collections import Counter

import mne
import numpy as np

from brainvis.datasets.errors import DatasetError
from brainvis.datasets.recordings_settings import Recording, Settings

MICROVOLTS = 1e6  # of MNE's volts
BRAINVISION = re.compile(r"^Stimulus/S\s*(\d+)$")  # how MNE spells the event of a .vmrk file

Events = list[tuple[int, "int | str"]]  # (sample counted from the recording's first, event)


def open_recording(recording: Recording) -> mne.io.BaseRaw:
    """The recording with its header and annotations, signal unread."""
    try:
        return mne.io.read_raw(recording.file, preload=False, verbose="ERROR")
    except Exception as error:  # MNE's readers raise whatever their format makes them raise
        raise DatasetError(f"MNE cannot read {recording.file}: {error}") from error


def common_rate(headers: dict, values: Settings) -> float:
    """The sampling rate of the trials, in hertz, if all recordings can be filtered and brought to it."""
    rates = {recording.file: float(raw.info["sfreq"]) for recording, raw in headers.items()}
    if len(set(rates.values())) > 1 and values.resample is None:
        told = ", ".join(f"{rate:g} Hz ({next(f for f in rates if rates[f] == rate)})" for rate in set(rates.values()))
        raise DatasetError(f"The recordings differ in sampling rate: {told}. Add `resample: {min(rates.values()):g}`.")
    rate = values.resample or next(iter(rates.values()))
    for file, own in rates.items():
        highest = min(own, rate) / 2
        for name, frequency in (("filter", values.filter[1]), *(("notch", notch) for notch in values.notch)):
            if frequency >= (highest if name == "filter" else own / 2):
                raise DatasetError(
                    f"{name}: {frequency:g} Hz is not below the Nyquist frequency, {highest:g} Hz, of {file} "
                    f"(recorded at {own:g} Hz, trials at {rate:g} Hz). Lower it{' or resample higher' * (rate < own)}."
                )
    return rate


def common_channels(headers: dict, values: Settings, notes: list[str]) -> tuple[str, ...]:
    """The channels of the trials: those asked for, or all good EEG channels that every recording has."""
    own = {}
    for recording, raw in headers.items():
        picks = mne.pick_types(raw.info, eeg=True, exclude="bads")
        own[recording] = raw.ch_names if values.channels else [raw.ch_names[pick] for pick in picks]
        missing = [name for name in values.channels if name not in raw.ch_names]
        if missing:
            raise DatasetError(f"channels: {', '.join(missing)} not in {recording.file}; it has {raw.ch_names}.")
    if values.channels:
        return values.channels
    names = list(dict.fromkeys(name for channels in own.values() for name in channels))
    common = tuple(name for name in names if all(name in channels for channels in own.values()))
    if not common:
        raise DatasetError(f"The {len(own)} recordings share no EEG channel; name those to read under `channels`.")
    dropped = [name for name in names if name not in common]
    if dropped:
        notes.append(f"Channels that some recordings lack or mark bad are left out: {', '.join(dropped)}.")
    return common


def read_events(recording: Recording, raw: mne.io.BaseRaw) -> Events:
    """All events of a recording in time, as texts: from its `-eve.fif` where there is one, else its annotations."""
    if recording.events_file is not None:
        try:
            table = mne.read_events(recording.events_file, verbose="ERROR")
        except Exception as error:
            raise DatasetError(f"{recording.events_file} is not a file of events: {error}") from error
        found = [(int(sample) - raw.first_samp, str(code)) for sample, _, code in table]
    else:
        samples, codes = mne.events_from_annotations(raw, event_id=None, verbose="ERROR")
        texts = {code: text for text, code in codes.items()}
        found = [(int(sample) - raw.first_samp, texts[code]) for sample, _, code in samples]
    if not found:
        raise DatasetError(
            f"{recording.file} has no events: no annotations, and no -eve.fif beside it. If it has a trigger channel, "
            "write one with mne.write_events(file, mne.find_events(raw))."
        )
    return sorted(found)


def keep_events(
    events: dict[Recording, Events], headers: dict[Recording, mne.io.BaseRaw], values: Settings, notes: list[str]
) -> dict[Recording, Events]:
    """The events that `classes` names, by its own keys, each with room for its window.

    Raises:
        DatasetError: a class without events in any recording, a recording without classes, a window that sticks out.
    """
    texts = {str(key): key for key in values.classes}
    if len(texts) < len(values.classes):
        raise DatasetError(f"classes names an event twice, as number and as text: {list(values.classes)}.")

    def key_of(text: str):
        match = BRAINVISION.match(text)
        return texts.get(text, texts.get(match.group(1)) if match else None)

    found = Counter(text for table in events.values() for _, text in table)
    there_are = ", ".join(f"{text} ({count} times)" for text, count in sorted(found.items()))
    unknown = [str(key) for key in values.classes if key not in {key_of(text) for text in found}]
    if unknown:
        raise DatasetError(
            f"classes: no recording has the event {', '.join(unknown)}; the recordings have {there_are}. "
            "Use these under `classes`."
        )
    ignored = sorted(text for text in found if key_of(text) is None)
    if ignored:
        notes.append(f"Events that `classes` does not name are ignored: {', '.join(ignored)}.")

    kept = {}
    overlapping = 0
    for recording, table in events.items():
        kept[recording] = [(sample, key_of(text)) for sample, text in table if key_of(text) is not None]
        if not kept[recording]:
            raise DatasetError(f"{recording.file} has none of the events under `classes`; it has {table}.")
        raw = headers[recording]
        rate, last = raw.info["sfreq"], raw.n_times / raw.info["sfreq"]
        for trial, (sample, key) in enumerate(kept[recording]):
            begin, end = (sample / rate + edge for edge in values.window)
            if begin < 0 or end > last:
                raise DatasetError(
                    f"{recording.file}: trial {trial} (event {key} at {sample / rate:.3f} s): its window "
                    f"{begin:.3f}..{end:.3f} s is outside the recording, which lasts {last:.3f} s. "
                    "Shorten `window`, or remove the event."
                )
        onsets = np.array([sample for sample, _ in kept[recording]]) / rate
        overlapping += int((np.diff(onsets) < values.window[1] - values.window[0]).sum())
    if overlapping:
        notes.append(f"The windows of {overlapping} trials reach into the next trial's: neighbours share samples.")
    return kept


def cut_trials(
    raw: mne.io.BaseRaw, events: Events, channels: tuple[str, ...], rate: float, values: Settings
) -> tuple[np.ndarray, list, np.ndarray, int]:
    """Filter a loaded recording and cut its trials.

    The filter (zero-phase FIR) runs over the whole recording, so a window has no filter edges.

    Returns:
        trials (trial, channel, time) float32, their events, their recorded lengths (samples until the next event or
        the end of the recording), and how many trials were left out because an annotation marks them bad.
    """
    table = np.array([[sample + raw.first_samp, 0, trial] for trial, (sample, _) in enumerate(events)])
    raw.pick(list(channels), exclude=[], verbose="ERROR").reorder_channels(list(channels))
    low, high = values.filter
    raw.filter(low or None, high, picks="all", verbose="ERROR")
    if values.notch:
        raw.notch_filter(list(values.notch), picks="all", verbose="ERROR")
    if raw.info["sfreq"] != rate:
        raw, table = raw.resample(rate, events=table, verbose="ERROR")
    if values.standardise == "channel":
        signal = raw.get_data()  # (channel, time)
        flat = [name for name, spread in zip(channels, signal.std(axis=1), strict=True) if not spread > 0]
        if flat:
            raise DatasetError(
                f"{raw.filenames[0]}: channel {', '.join(flat)} is constant and cannot be standardised; list the "
                "others under `channels`."
            )
        mean, spread = signal.mean(axis=1, keepdims=True), signal.std(axis=1, keepdims=True)
        raw.apply_function(lambda data: (data - mean) / spread, picks="all", channel_wise=False, verbose="ERROR")
    else:
        raw.apply_function(lambda data: data * MICROVOLTS, picks="all", channel_wise=False, verbose="ERROR")
    begin, end = values.window
    samples = round((end - begin) * rate)
    first = begin * rate
    epochs = mne.Epochs(
        raw,
        table,
        event_id=None,
        tmin=round(first) / rate,
        tmax=(round(first) + samples - 1) / rate,
        baseline=None,
        picks="all",
        proj=False,
        preload=True,
        reject_by_annotation=True,
        event_repeated="error",
        verbose="ERROR",
    )
    trials = epochs.get_data(copy=False).astype(np.float32)  # (trial, channel, time)
    onsets = np.append(table[:, 0], raw.first_samp + raw.n_times)
    good = epochs.events[:, 2]
    return trials, [events[trial][1] for trial in good], np.diff(onsets)[good].astype(np.int64), len(events) - len(good)


def montage_of(channels: tuple[str, ...]) -> str | None:
    """`colin27_1005`, if it has all of these channels."""
    known = mne.channels.make_standard_montage("colin27_1005").ch_names
    return "colin27_1005" if set(channels) <= set(known) else None
