"""A person's own EEG: continuous recordings that MNE reads, one folder a subject, cut into trials by a YAML file.

    <folder>/recordings.yml                        see recordings_example.yml beside this module
    <folder>/subject01/20120706-190216_raw.fif     or .vhdr, .edf, .bdf, .gdf, .set
    <folder>/subject01/20120706-190216-eve.fif     only where the recording has no annotations of its own

Subject folders may be links. Every file is one session, unless its name has a BIDS session (`ses-01`). Whole sessions
are held out for the test: nothing of a test session is seen in training, not even its neighbouring minutes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from brainvis.datasets.errors import DatasetError
from brainvis.datasets.recordings_settings import Settings, find_recordings, read_settings, recordings_fingerprint

if TYPE_CHECKING:  # torch, NumPy and MNE are imported where they are needed: a fingerprint needs none of them
    import numpy as np

    from brainvis.datasets.base import EEGDataset

__all__ = ["load_recordings", "recordings_fingerprint", "split_by_session"]

VALIDATION = 0.25  # of each class of a training session, its last trials
BLOCKS = (0.6, 0.8)  # a lone session: first 60 % train, up to 80 % val, the rest test


def load_recordings(folder: Path, settings: Path | str | None = None) -> EEGDataset:
    """Read, filter and cut all recordings below `folder`.

    Everything that the headers and events can tell is checked before the first signal is read. `lengths` are the
    samples from an event to the next one (or to the end of the recording), `order` counts a subject's trials in time.

    Args:
        folder: one subfolder a subject; read only.
        settings: the YAML file, where the folder cannot be written to; None: `<folder>/recordings.yml`.

    Raises:
        DatasetError: settings, file names, events or windows that do not fit, in words.
    """
    import numpy as np
    import torch
    from tqdm.auto import tqdm

    from brainvis.datasets import recordings_signals as signals
    from brainvis.datasets.base import EEGDataset

    folder, values = Path(folder), read_settings(folder, settings)
    recordings, notes = find_recordings(folder), []
    headers = {recording: signals.open_recording(recording) for recording in recordings}
    rate = signals.common_rate(headers, values)
    channels = signals.common_channels(headers, values, notes)
    events = {recording: signals.read_events(recording, header) for recording, header in headers.items()}
    events = signals.keep_events(events, headers, values, notes)

    parts, seen, sessions = [], {}, {}
    for recording in tqdm(recordings, desc="reading recordings", disable=len(recordings) < 5):
        raw = headers[recording].load_data(verbose="ERROR")
        content = hashlib.sha256(np.ascontiguousarray(raw.get_data()).tobytes()).digest()
        if content in seen:  # a copy under a second subject would put training trials into the test
            notes.append(
                f"{recording.file.relative_to(folder)} holds the same samples as {seen[content]} and is left out."
            )
            continue
        seen[content] = recording.file.relative_to(folder)
        trials, keys, lengths, bad = signals.cut_trials(raw, events[recording], channels, rate, values)
        if bad:
            notes.append(f"{recording.file.relative_to(folder)}: {bad} trials left out, marked bad in the recording.")
        session = sessions.setdefault((recording.subject, recording.session), len(sessions))
        parts.append((trials, keys, lengths, np.full(len(keys), recording.subject), np.full(len(keys), session)))
        headers[recording] = None  # lets go of the signal
    trials, keys, lengths, subjects, session = (np.concatenate(column) for column in zip(*parts, strict=True))

    labels = np.array([values.class_names.index(values.classes[key]) for key in keys], dtype=np.int64)
    order = np.zeros(len(labels), dtype=np.int64)
    for subject in np.unique(subjects):
        order[subjects == subject] = np.arange((subjects == subject).sum())
    splits = split_by_session(labels, subjects, session, notes)
    _note_fixed_order(labels, session, notes)
    if values.standardise == "channel":
        notes.append(
            "Each recording's channels are standardised by their own mean and deviation over the whole recording: "
            "no labels are used, but the level of the whole recording, test trials included, is."
        )
    images, image_ids, captions = _images(keys, values, splits, notes)
    return EEGDataset(
        name="recordings",
        trials=torch.from_numpy(trials),
        sampling_rate=rate,
        start=values.window[0],
        channels=channels,
        montage=signals.montage_of(channels),
        labels=torch.from_numpy(labels),
        subjects=torch.from_numpy(subjects.astype(np.int64)),
        images=torch.from_numpy(images),
        image_ids=image_ids,
        class_names=values.class_names,
        captions=captions,
        image_folder=values.images.folder if values.images else None,
        splits={name: torch.from_numpy(index) for name, index in splits.items()},
        lengths=torch.from_numpy(lengths),
        order=torch.from_numpy(order),
        fingerprint=recordings_fingerprint(folder, settings),
        notes=tuple(notes),
    )


def split_by_session(
    labels: np.ndarray, subjects: np.ndarray, sessions: np.ndarray, notes: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Trial indices of train, val and test, subject by subject; trials are in the order of recording.

    Three or more sessions: the last is the test, the one before it validation. Two: the last is the test and, of each
    class of the first, the last quarter is validation. One: of each class the first 60 % train, the next 20 % validate,
    the last 20 % test; blocks in time, because shuffled neighbours share drift and noise.

    Args:
        labels, subjects, sessions: (trial,) integers; a session number belongs to one subject.
        notes: sentences on what was done are appended here.
    """
    import numpy as np

    notes = [] if notes is None else notes
    splits = {"train": [], "val": [], "test": []}
    cases = {"three": [], "two": [], "one": []}
    for subject in np.unique(subjects):
        own = np.flatnonzero(subjects == subject)
        names = list(dict.fromkeys(sessions[own].tolist()))
        by_class = [own[(labels[own] == label) & (sessions[own] == names[0])] for label in np.unique(labels[own])]
        if len(names) >= 3:
            cases["three"].append(int(subject))
            splits["train"] += own[~np.isin(sessions[own], names[-2:])].tolist()
            splits["val"] += own[sessions[own] == names[-2]].tolist()
            splits["test"] += own[sessions[own] == names[-1]].tolist()
            continue
        cases["two" if len(names) == 2 else "one"].append(int(subject))
        if len(names) == 2:
            splits["test"] += own[sessions[own] == names[-1]].tolist()
        for trials in by_class:
            if len(names) == 2:
                cut = stop = len(trials) - round(len(trials) * VALIDATION)
                stop = len(trials)
            else:
                cut, stop = (round(len(trials) * part) for part in BLOCKS)
                if len(trials) < 3:
                    raise DatasetError(
                        f"Subject {subject} has one session with only {len(trials)} trials of class "
                        f"{labels[trials[0]]}: three splits need at least 3. Record more or leave the subject out."
                    )
                cut, stop = max(1, min(cut, len(trials) - 2)), max(2, min(stop, len(trials) - 1))
            splits["train"] += trials[:cut].tolist()
            splits["val"] += trials[cut:stop].tolist()
            splits["test"] += trials[stop:].tolist()
    told = {
        "three": "the last session is the test, the one before it validation, all others train",
        "two": "the last session is the test; of each class of the first, the last quarter is validation",
        "one": "only one session: of each class the first 60 % train, the next 20 % validate, the last 20 % test, so "
        "the test shares its session with training and says nothing about another day",
    }
    notes += [
        f"Subject{'s' * (len(who) > 1)} {', '.join(map(str, who))}: {told[case]}." for case, who in cases.items() if who
    ]
    return {name: np.array(sorted(index), dtype=np.int64) for name, index in splits.items()}


def _note_fixed_order(labels: np.ndarray, sessions: np.ndarray, notes: list[str]) -> None:
    """Says so where every session shows the classes in one and the same order: then a class is also a time."""
    import numpy as np

    sequences = {tuple(labels[sessions == session]) for session in np.unique(sessions)}
    if len(sequences) == 1 and len(np.unique(sessions)) > 1:
        notes.append(
            "Every session shows the classes in the same order, so the class of a trial can also be told by when in "
            "the session it came: slow drift (fatigue, drying electrodes) may count as class."
        )


def _images(keys: np.ndarray, values: Settings, splits: dict, notes: list[str]) -> tuple:
    """Image index of each trial, image ids and captions."""
    import numpy as np

    if values.images is None:
        return np.full(len(keys), -1, dtype=np.int64), (), {}
    shown = values.images.events
    image_ids = tuple(dict.fromkeys(shown.values()))
    images = np.array([image_ids.index(shown[key]) for key in keys], dtype=np.int64)
    again = np.isin(images[splits["test"]], images[splits["train"]]).mean()
    if again:
        notes.append(f"The pictures of {again:.0%} of the test trials were also shown in training.")
    if values.images.captions is None:
        return images, image_ids, {}
    captions = json.loads(values.images.captions.read_text(encoding="utf-8"))
    missing = [name for name in image_ids if not isinstance(captions.get(name), str)]
    if missing:
        raise DatasetError(f"{values.images.captions} has no caption for {', '.join(missing)}.")
    return images, image_ids, captions
