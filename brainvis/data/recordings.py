"""A person's own EEG: continuous recordings that MNE reads, one folder a subject, cut into trials by a YAML file.

    <folder>/recordings.yml                        see recordings_example.yml beside this module
    <folder>/subject01/20120706-190216_raw.fif     or .vhdr, .edf, .bdf, .gdf, .set
    <folder>/subject01/20120706-190216-eve.fif     only where the recording has no annotations of its own

Subject folders may be links. Every file is one session, unless its name has a BIDS session (`ses-01`). Whole sessions
are held out: nothing of a test session is seen in training, not even its neighbouring minutes.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from brainvis.data.dataset import EEGDataset
from brainvis.data.order import cut_before, order_note, seconds_before
from brainvis.data.recordings_checks import check_file, check_header
from brainvis.data.recordings_files import Recording, RecordingsSettings, find_recordings
from brainvis.data.source import DatasetError
from brainvis.files import read_json
from brainvis.files.reading import reason

MICROVOLTS = 1e6  # of MNE's volts
MONTAGE = "colin27_1005"
BRAINVISION = re.compile(r"^Stimulus/S\s*(\d+)$")  # how MNE spells the event of a .vmrk file
RULES = {  # by the number of a subject's sessions
    3: "the last session is the test, the one before it validation, all others train",
    2: "the last session is the test; of each class of the first, the last quarter is validation",
    1: "only one session: of each class the first 60 % train, the next 20 % validate, the last 20 % test, so the test "
    "shares its session with training and says nothing about another day",
}

Events = list[tuple[int, "int | str"]]  # (sample counted from the recording's first, event)
Headers = dict[Recording, mne.io.BaseRaw]


def cut_recordings(folder: Path, values: RecordingsSettings, fingerprint: str) -> EEGDataset:
    """All recordings below `folder` as trials; see `load_recordings`. Everything that the headers and events can tell
    is checked before the first signal is read. `lengths` reach from an event to the next one (or to the end of the
    recording), `order` counts a subject's trials in time."""
    recordings, notes = find_recordings(folder), []
    headers = {recording: open_recording(recording) for recording in recordings}
    rate = common_rate(headers, values)
    channels = common_channels(headers, values, notes)
    events = {recording: read_events(recording, header) for recording, header in headers.items()}
    events = keep_events(events, headers, values, notes)

    onsets = {one: np.array([sample for sample, _ in table]) for one, table in events.items()}
    early = seconds_before([onsets[one] / header.info["sfreq"] for one, header in headers.items()], values)
    if not early:
        notes.append("Between trials there is no time to speak of: what was recorded before the events is not tested.")

    parts, keys, seen, sessions = [], [], {}, {}
    for recording in tqdm(recordings, desc="reading recordings", disable=len(recordings) < 5):
        name = recording.file.relative_to(folder)
        with readable(recording.file):
            raw = headers.pop(recording).load_data(verbose="ERROR")  # popped: its signal is let go of after its turn
        content = hashlib.sha256(np.ascontiguousarray(raw.get_data()).tobytes()).digest()
        if seen.setdefault(content, name) != name:  # a copy under a second subject puts training trials into the test
            notes.append(f"{name} holds the same samples as {seen[content]} and is left out.")
            continue
        with readable(recording.file):
            before = cut_before(raw.copy(), onsets[recording], early, channels, rate, values) if early else None
            trials, lengths, good = cut_trials(raw, events[recording], channels, rate, values)
        if bad := len(events[recording]) - len(good):
            notes.append(f"{name}: {bad} trials left out, marked bad in the recording.")
        keys += [events[recording][trial][1] for trial in good]
        session = sessions.setdefault((recording.subject, recording.session), len(sessions))
        before = before[good] if early else np.zeros((len(good), 0, 0), np.float32)
        parts.append((trials, lengths, before, np.full(len(good), recording.subject), np.full(len(good), session)))
    trials, lengths, before, subjects, session = map(np.concatenate, zip(*parts, strict=True))

    labels = np.array([values.class_names.index(values.classes[key]) for key in keys])
    order = pd.Series(subjects).groupby(subjects).cumcount().to_numpy()
    splits = split_by_session(labels, subjects, session, notes)
    notes += filter(None, [order_note(labels, order, session)])
    if values.standardise == "channel":
        known = "no labels are used, but the level of the whole recording, test trials included, is"
        notes.append(f"Each recording's channels are standardised by their own mean and deviation: {known}.")
    images, image_ids, captions = _images(keys, values, splits, notes)
    of_trial = {"labels": labels, "subjects": subjects, "images": images, "lengths": lengths, "order": order}
    of_trial["sessions"] = session
    return EEGDataset(
        name="recordings",
        trials=torch.from_numpy(trials),
        sampling_rate=rate,
        start=values.window[0],
        channels=channels,
        montage=MONTAGE if set(channels) <= set(mne.channels.make_standard_montage(MONTAGE).ch_names) else None,
        image_ids=image_ids,
        class_names=values.class_names,
        captions=captions,
        image_folder=values.images.folder if values.images else None,
        splits={name: torch.from_numpy(index) for name, index in splits.items()},
        fingerprint=fingerprint,
        notes=tuple(notes),
        before=torch.from_numpy(before) if early else None,
        flicker=values.flicker,
        **{name: torch.from_numpy(column.astype(np.int64)) for name, column in of_trial.items()},
    )


def split_by_session(
    labels: np.ndarray, subjects: np.ndarray, sessions: np.ndarray, notes: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Trial indices of train, val and test, subject by subject, by `RULES`; trials are in the order of recording. A
    lone session is divided into blocks in time, because shuffled neighbours share drift and noise. A number in
    `sessions` belongs to one subject. Sentences on what was done are appended to `notes`."""
    pieces, whose = [], defaultdict(list)  # (train, val, test)
    for subject in np.unique(subjects):
        own = np.flatnonzero(subjects == subject)
        first, *later = (own[sessions[own] == session] for session in dict.fromkeys(sessions[own].tolist()))
        rule = min(1 + len(later), 3)
        whose[rule].append(str(subject))
        if rule == 3:
            pieces.append((np.concatenate([first, *later[:-2]]), *later[-2:]))
            continue
        for label in np.unique(labels[own]):
            trials = first[labels[first] == label]
            count = len(trials)
            if rule == 2:
                val, test = count - round(count * 0.25), count
            elif count < 3:
                few = f"has one session with only {count} trials of class {label}: three splits need at least 3"
                raise DatasetError(f"Subject {subject} {few}. Record more or leave the subject out.")
            else:
                val, test = max(1, min(round(count * 0.6), count - 2)), max(2, min(round(count * 0.8), count - 1))
            pieces.append(np.split(trials, [val, test]))
        pieces += [(first[:0], first[:0], session) for session in later]
    if notes is not None:
        told = ((whose[rule], text) for rule, text in RULES.items() if whose[rule])
        notes += [f"Subject{'s' * (len(who) > 1)} {', '.join(who)}: {text}." for who, text in told]
    parts = zip(("train", "val", "test"), zip(*pieces, strict=True), strict=True)
    return {name: np.sort(np.concatenate(part)) for name, part in parts}


def _images(keys: list, values: RecordingsSettings, splits: dict, notes: list[str]) -> tuple:
    """Image index of each trial, image ids and captions."""
    if values.images is None:
        return np.full(len(keys), -1), (), {}
    shown, file = values.images.events, values.images.captions
    image_ids = tuple(dict.fromkeys(shown.values()))
    images = np.array([image_ids.index(shown[key]) for key in keys])
    if again := np.isin(images[splits["test"]], images[splits["train"]]).mean():
        notes.append(f"The pictures of {again:.0%} of the test trials were also shown in training.")
    if file is None:
        return images, image_ids, {}
    captions = read_json(file)
    if missing := [name for name in image_ids if not isinstance(captions.get(name), str)]:
        raise DatasetError(f"{file} has no caption for {', '.join(missing)}.")
    return images, image_ids, captions


def open_recording(recording: Recording) -> mne.io.BaseRaw:
    """The recording with its header and annotations, signal unread."""
    with readable(recording.file):
        check_file(recording.file)
        raw = mne.io.read_raw(recording.file, preload=False, verbose="ERROR")
        check_header(raw)
        return raw


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Whatever MNE's readers raise for a file, which is what their format makes them raise, in one sentence."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"MNE cannot read {file}: {reason(error)}. Repair or remove it.") from error


def common_rate(headers: Headers, values: RecordingsSettings) -> float:
    """The sampling rate of the trials, in hertz, to which all recordings can be filtered and brought."""
    rates = {recording.file: float(raw.info["sfreq"]) for recording, raw in headers.items()}
    if len(set(rates.values())) > 1 and values.resample is None:
        told = ", ".join(f"{rate:g} Hz ({file})" for rate, file in {rates[file]: file for file in rates}.items())
        raise DatasetError(f"The recordings differ in sampling rate: {told}. Add `resample: {min(rates.values()):g}`.")
    rate = values.resample or next(iter(rates.values()))
    for file, own in rates.items():
        notches = (("notch", notch, own / 2) for notch in values.notch)
        for name, frequency, nyquist in (("filter", values.filter[1], min(own, rate) / 2), *notches):
            if frequency >= nyquist:
                wrong = f"{name}: {frequency:g} Hz is not below the Nyquist frequency, {nyquist:g} Hz, of {file}"
                cure = f"Lower it{' or resample higher' * (rate < own)}"
                raise DatasetError(f"{wrong} (recorded at {own:g} Hz, trials at {rate:g} Hz). {cure}.")
    return rate


def common_channels(headers: Headers, values: RecordingsSettings, notes: list[str]) -> tuple[str, ...]:
    """The channels of the trials: those asked for, or all good EEG channels that every recording has."""
    for recording, raw in headers.items():
        if missing := [name for name in values.channels or () if name not in raw.ch_names]:
            raise DatasetError(f"channels: {', '.join(missing)} not in {recording.file}; it has {raw.ch_names}.")
    if values.channels:
        return tuple(dict.fromkeys(values.channels))
    own = [[raw.ch_names[pick] for pick in mne.pick_types(raw.info, eeg=True)] for raw in headers.values()]
    names = dict.fromkeys(name for channels in own for name in channels)
    common = tuple(name for name in names if all(name in channels for channels in own))
    if not common:
        raise DatasetError(f"The {len(own)} recordings share no EEG channel; name those to read under `channels`.")
    if dropped := [name for name in names if name not in common]:
        notes.append(f"Channels that some recordings lack or mark bad are left out: {', '.join(dropped)}.")
    return common


def read_events(recording: Recording, raw: mne.io.BaseRaw) -> Events:
    """All events of a recording in time, as texts: from its `-eve.fif` where there is one, else its annotations."""
    if recording.events_file is None:
        with readable(recording.file):
            table, codes = mne.events_from_annotations(raw, event_id=None, verbose="ERROR")
        texts = {code: text for text, code in codes.items()}
    else:
        with readable(recording.events_file):
            check_file(recording.events_file)
            table, texts = mne.read_events(recording.events_file, verbose="ERROR"), {}
    if not len(table):
        wrong = f"{recording.file} has no events: no annotations, and no -eve.fif beside it"
        cure = "If it has a trigger channel, write one with mne.write_events(file, mne.find_events(raw))"
        raise DatasetError(f"{wrong}. {cure}.")
    return sorted((int(sample) - raw.first_samp, texts.get(code, str(code))) for sample, _, code in table)


def keep_events(
    events: dict[Recording, Events], headers: Headers, values: RecordingsSettings, notes: list[str]
) -> dict[Recording, Events]:
    """The events that `classes` names, by its own keys; DatasetError for a class without events in any recording, a
    recording without classes, a window that sticks out of the recording."""
    texts = {str(key): key for key in values.classes}
    if len(texts) < len(values.classes):
        raise DatasetError(f"classes names an event twice, as number and as text: {list(values.classes)}.")
    found = Counter(text for table in events.values() for _, text in table)
    keys = {text: texts.get(text, texts.get(BRAINVISION.sub(r"\1", text))) for text in found}  # None: is not named
    if unknown := [str(key) for key in values.classes if key not in keys.values()]:
        there_are = ", ".join(f"{text} ({count} times)" for text, count in sorted(found.items()))
        wrong = f"no recording has the event {', '.join(unknown)}; the recordings have {there_are}"
        raise DatasetError(f"classes: {wrong}. Use these under `classes`.")
    if ignored := sorted(text for text, key in keys.items() if key is None):
        notes.append(f"Events that `classes` does not name are ignored: {', '.join(ignored)}.")

    kept, overlapping = {}, 0
    for recording, table in events.items():
        kept[recording] = [(sample, keys[text]) for sample, text in table if keys[text] is not None]
        if not kept[recording]:
            raise DatasetError(f"{recording.file} has none of the events under `classes`; it has {table}.")
        rate = headers[recording].info["sfreq"]
        last = headers[recording].n_times / rate
        for trial, (sample, key) in enumerate(kept[recording]):
            begin, end = (sample / rate + edge for edge in values.window)
            if begin < 0 or end > last:
                wrong = f"its window {begin:.3f}..{end:.3f} s is outside the recording, which lasts {last:.3f} s"
                which = f"{recording.file}: trial {trial} (event {key} at {sample / rate:.3f} s)"
                raise DatasetError(f"{which}: {wrong}. Shorten `window`, or remove the event.")
        onsets = np.array([sample for sample, _ in kept[recording]]) / rate
        overlapping += int((np.diff(onsets) < values.window[1] - values.window[0]).sum())
    if overlapping:
        notes.append(f"The windows of {overlapping} trials reach into the next trial's: neighbours share samples.")
    return kept


def cut_trials(
    raw: mne.io.BaseRaw, events: Events, channels: tuple[str, ...], rate: float, values: RecordingsSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filter a loaded recording (zero-phase FIR, as a whole, so that a window has no filter edges) and cut its trials.
    Of those that no annotation marks bad: trials (trial, channel, time) float32, recorded lengths (samples until the
    next event or the end of the recording), and places among `events`."""
    table = np.array([[sample + raw.first_samp, 0, trial] for trial, (sample, _) in enumerate(events)])
    raw.pick(list(channels), exclude=[], verbose="ERROR").reorder_channels(list(channels))
    low, high = values.filter
    raw.filter(low or None, high, picks="all", verbose="ERROR")
    if values.notch:
        raw.notch_filter(list(values.notch), picks="all", verbose="ERROR")
    if raw.info["sfreq"] != rate:
        raw, table = raw.resample(rate, events=table, verbose="ERROR")
    if values.standardise == "channel":
        if flat := [name for name, signal in zip(channels, raw.get_data(), strict=True) if not signal.std() > 0]:
            wrong = f"channel {', '.join(flat)} is constant and cannot be standardised"
            raise DatasetError(f"{raw.filenames[0]}: {wrong}; list the others under `channels`.")
        raw.apply_function(lambda signal: (signal - signal.mean()) / signal.std(), picks="all", verbose="ERROR")
    else:
        raw.apply_function(lambda signal: signal * MICROVOLTS, picks="all", verbose="ERROR")
    begin, end = values.window
    first, samples = round(begin * rate), round((end - begin) * rate)
    window = {"tmin": first / rate, "tmax": (first + samples - 1) / rate, "baseline": None}
    epochs = mne.Epochs(raw, table, **window, picks="all", proj=False, preload=True, verbose="ERROR")
    good = epochs.events[:, 2]
    lengths = np.diff(table[:, 0], append=raw.first_samp + raw.n_times)[good]
    return epochs.get_data(copy=False).astype(np.float32), lengths, good
