"""Continuous recordings that MNE reads, including BIDS: events, filters, trials."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import mne
import numpy as np
from tqdm.auto import tqdm

from brainvis.data.order import cut_before, seconds_before
from brainvis.data.recordings_bids import open_bids, settings_of_bids
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

TRIGGERS = 2**16 - 1  # of BioSemi's status channel; higher bits describe the amplifier
PADDING = 0.02  # seconds of one repeated value at the end of a recording that count as padding, not signal

Events = list[tuple[int, str]]  # (sample counted from the start of the recording, event)
Headers = dict[Recording, mne.io.BaseRaw]


def plan_continuous(
    recordings: list[Recording], values: RecordingsSettings, settings: Path, folder: Path, notes: list[str]
) -> Plan:
    """How these recordings become trials. Everything that headers and events can reveal is checked before the first
    signal is read. Lengths extend from an event to the next one, or to the end of the recording."""
    headers = {recording: open_recording(recording) for recording in recordings}
    events = {recording: read_events(recording, header) for recording, header in headers.items()}
    if all(recording.kind == "bids" for recording in recordings):
        values = settings_of_bids(values, headers, events, notes)
    values.needed("window", "filter", "classes", file=settings)
    rate = check_filters(headers, values)
    channels = common_channels({one.file: raw.info for one, raw in headers.items()}, values.channels, notes)
    events = keep_events(events, headers, values, notes)
    onsets = {one: np.array([sample for sample, _ in table]) for one, table in events.items()}
    early = seconds_before([onsets[one] / header.info["sfreq"] for one, header in headers.items()], values)
    if not early:
        notes.append("There is hardly any time between trials: what was recorded before the events is not tested.")

    def pieces() -> Iterator[Piece]:
        seen, padded, levels = {}, [], {}
        for recording in tqdm(recordings, desc="reading recordings", disable=len(recordings) < 5):
            name, own = recording.file.relative_to(folder), events[recording]
            with readable(recording.file):
                raw = headers.pop(recording).load_data(verbose="ERROR")  # popped: it is freed after its turn
            content = hashlib.sha256(np.ascontiguousarray(raw.get_data()).tobytes()).digest()
            if seen.setdefault(content, name) != name:  # a copy under a second subject would leak test data
                notes.append(f"{name} holds the same samples as {seen[content]} and is left out.")
                continue
            with readable(recording.file):
                if padding := cut_padding(raw, channels):
                    padded.append(padding)
                    last = raw.n_times / raw.info["sfreq"] - values.window[1]
                    own = [one for one in own if one[0] / raw.info["sfreq"] <= last]
                    if lost := len(events[recording]) - len(own):
                        notes.append(
                            f"{name}: {lost} trials are left out, as they extend into the end that is cut off."
                        )
                    if not own:
                        continue
                where = np.array([sample for sample, _ in own])
                before = cut_before(raw.copy(), where, early, channels, rate, values) if early else None
                trials, lengths, good, levels[name] = cut_trials(raw, own, channels, rate, values)
            if bad := len(own) - len(good):
                notes.append(f"{name}: {bad} trials are left out, as they are marked bad in the recording.")
            check_finite(trials, name)
            yield Piece(recording, trials, before[good] if early else None, lengths, [own[trial][1] for trial in good])
        notes.extend(amplitude_notes(levels))
        if padded:
            told = (
                f"{len(padded)} recordings end in up to {max(padded):.2f} s of a single value, like the padding of the"
            )
            notes.append(f"{told} last second in EDF files: these ends are cut off.")

    begin, end = values.window
    first, samples = round(begin * rate), round((end - begin) * rate)
    classes = {str(key): name for key, name in values.classes.items()}
    return Plan(rate, first / rate, channels, classes, sum(map(len, events.values())), samples, pieces())


def open_recording(recording: Recording) -> mne.io.BaseRaw:
    """The recording with its header and annotations, signal unread."""
    with readable(recording.file):
        check_file(recording.file)
        if recording.kind == "bids":
            raw = open_bids(recording.file)
        else:
            raw = mne.io.read_raw(recording.file, preload=False, verbose="ERROR")
        check_header(raw.filenames, len(raw.ch_names) * raw.n_times)
        return raw


def check_filters(headers: Headers, values: RecordingsSettings) -> float:
    """The sampling rate of the trials in hertz, to which all recordings can be filtered and resampled."""
    rates = {recording.file: float(raw.info["sfreq"]) for recording, raw in headers.items()}
    rate = common_rate(rates, values.resample)
    for file, own in rates.items():
        notches = (("notch", notch, own / 2) for notch in values.notch)
        for name, frequency, nyquist in (("filter", values.filter[1], min(own, rate) / 2), *notches):
            if frequency >= nyquist:
                wrong = f"{name}: {frequency:g} Hz is not below the Nyquist frequency of {file}, {nyquist:g} Hz"
                cure = f"Lower it{' or resample to a higher rate' * (rate < own)}"
                raise DatasetError(f"{wrong} (recorded at {own:g} Hz, trials at {rate:g} Hz). {cure}.")
    return rate


def read_events(recording: Recording, raw: mne.io.BaseRaw) -> Events:
    """All events of a recording in chronological order, as texts: from its `-eve.fif` if it has one, otherwise from its
    annotations, otherwise from its trigger channel, if there is exactly one."""
    texts = {}
    if recording.events_file is not None:
        with readable(recording.events_file):
            check_file(recording.events_file)
            table = mne.read_events(recording.events_file, verbose="ERROR")
    else:
        with readable(recording.file):
            table, codes = mne.events_from_annotations(raw, event_id=None, verbose="ERROR")
            texts = {code: text for text, code in codes.items()}
            triggers = [raw.ch_names[pick] for pick in mne.pick_types(raw.info, meg=False, stim=True)]
            if not len(table) and len(triggers) == 1:
                table = _triggers(raw, triggers[0])
    if not len(table):
        name = recording.file.name.removesuffix(".gz").rpartition(".")[0].removesuffix("_raw").removesuffix("-raw")
        which = f" to choose from ({', '.join(triggers)})" if len(triggers) > 1 else ""
        wrong = f"{recording.file} has no events: no annotations, no {name}-eve.fif beside it"
        wrong += f", and {len(triggers)} trigger channel{' without triggers' if len(triggers) == 1 else 's'}{which}"
        cure = f'Write its events with mne.write_events("{name}-eve.fif", mne.find_events(raw, stim_channel=...))'
        raise DatasetError(
            f"{wrong}. {cure}, or use (sample, 0, code) for each event; put that file beside the recording."
        )
    return sorted((int(sample) - raw.first_samp, texts.get(code, str(code))) for sample, _, code in table)


def _triggers(raw: mne.io.BaseRaw, channel: str) -> np.ndarray:
    """Events of a trigger channel, (event, 3); each lasts until the channel changes."""
    status = channel == "Status" and any(str(file).lower().endswith(".bdf") for file in raw.filenames)
    mask = {"mask": TRIGGERS, "mask_type": "and"} if status else {}
    return mne.find_events(raw, channel, shortest_event=1, verbose="ERROR", **mask)


def keep_events(
    events: dict[Recording, Events], headers: Headers, values: RecordingsSettings, notes: list[str]
) -> dict[Recording, Events]:
    """The events that `classes` names, given as its entries; DatasetError for a class without events in any recording,
    a recording without classes, or a window that extends beyond the recording."""
    named = named_events((text for table in events.values() for _, text in table), values.classes, notes)
    kept, overlapping = {}, 0
    for recording, table in events.items():
        kept[recording] = [(sample, named[text]) for sample, text in table if text in named]
        if not kept[recording]:
            raise DatasetError(
                f"{recording.file} has none of the events listed under `classes`; its events are {table[:50]}."
            )
        rate = headers[recording].info["sfreq"]
        last = headers[recording].n_times / rate
        for trial, (sample, key) in enumerate(kept[recording]):
            begin, end = (sample / rate + edge for edge in values.window)
            if begin < 0 or end > last:
                wrong = (
                    f"its window, {begin:.3f} to {end:.3f} s, extends beyond the recording, which lasts {last:.3f} s"
                )
                which = f"{recording.file}: trial {trial} (event {key} at {sample / rate:.3f} s)"
                raise DatasetError(f"{which}: {wrong}. Shorten `window`, or remove the event.")
        onsets = np.array([sample for sample, _ in kept[recording]]) / rate
        overlapping += int((np.diff(onsets) < values.window[1] - values.window[0]).sum())
    if overlapping:
        notes.append(
            f"The windows of {overlapping} trials reach into the next trial's: neighbouring trials share samples."
        )
    return kept


def cut_padding(raw: mne.io.BaseRaw, channels: tuple[str, ...]) -> float:
    """Crop the end of a loaded recording in which no channel changes any more; returns its length in seconds, 0 if
    there is none."""
    signals = raw.get_data(picks=list(channels))
    changes = np.flatnonzero((signals[:, 1:] != signals[:, :-1]).any(0))
    kept = int(changes[-1]) + 1 if len(changes) else raw.n_times  # the repeated sample is not signal either
    seconds = (raw.n_times - kept) / raw.info["sfreq"]
    if seconds < PADDING or raw.n_times - kept < 2:
        return 0.0
    raw.crop(tmax=(kept - 1) / raw.info["sfreq"], verbose="ERROR")
    return seconds


def cut_trials(
    raw: mne.io.BaseRaw,
    events: Events,
    channels: tuple[str, ...],
    rate: float,
    values: RecordingsSettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Filter a loaded recording (zero-phase FIR, as a whole, so that windows have no filter edges) and cut its trials.
    For trials not marked bad by an annotation, returns trials (trial, channel, time) float32, recorded lengths (samples
    until the next event or the end of the recording), and indices into `events`; also returns the recording's
    `amplitude`."""
    table = np.array([[sample + raw.first_samp, 0, trial] for trial, (sample, _) in enumerate(events)])
    raw.pick(list(channels), exclude=[], verbose="ERROR").reorder_channels(list(channels))
    low, high = values.filter
    raw.filter(low or None, high, picks="all", verbose="ERROR")
    if values.notch:
        raw.notch_filter(list(values.notch), picks="all", verbose="ERROR")
    if raw.info["sfreq"] != rate:
        raw, table = raw.resample(rate, events=table, verbose="ERROR")
    level = amplitude(raw.get_data())
    if values.standardise == "channel":
        scaled = standardised(raw.get_data(), channels, raw.filenames[0])
    else:
        scaled = raw.get_data() * MICROVOLTS
    raw.apply_function(lambda _: scaled, picks="all", channel_wise=False, verbose="ERROR")
    begin, end = values.window
    first, samples = round(begin * rate), round((end - begin) * rate)
    window = {"tmin": first / rate, "tmax": (first + samples - 1) / rate, "baseline": None}
    epochs = mne.Epochs(raw, table, **window, picks="all", proj=False, preload=True, verbose="ERROR")
    good = epochs.events[:, 2]
    lengths = np.diff(table[:, 0], append=raw.first_samp + raw.n_times)[good]
    return epochs.get_data(copy=False).astype(np.float32), lengths, good, level
