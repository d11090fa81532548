"""Your own EEG: continuous recordings, a BIDS data set, epochs or arrays, with one folder per subject.

    <folder>/recordings.yml                        see recordings_example.yml beside this module
    <folder>/subject01/20120706-190216_raw.fif     or .vhdr, .edf, .bdf, .gdf, .set
    <folder>/subject01/20120706-190216-eve.fif     only if the recording has no events of its own

Subject folders may be links. Every file is one session, unless its name contains a BIDS session (`ses-01`). Whole
sessions are held out: training sees nothing of a test session, not even its neighbouring minutes.

Trials are cut once and kept in an array file beside the settings (see `stored`), which runs map instead of reading the
recordings.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.data.order import order_note
from brainvis.data.recordings_continuous import plan_continuous
from brainvis.data.recordings_epochs import holds_epochs, plan_epochs
from brainvis.data.recordings_files import Found, own_settings, signals_fingerprint, survey
from brainvis.data.recordings_settings import RecordingsSettings, settings_file
from brainvis.data.recordings_signals import Piece, Plan, readable
from brainvis.data.source import DatasetError, stored_beside
from brainvis.data.stored import check_room, stored, write_trials
from brainvis.files import code_digest, digest, read_json

MONTAGE = "colin27_1005"
RULES = {  # by number of sessions per subject
    3: "the last session is the test part, the one before it the validation part, and all others the training part",
    2: "the last session is the test part; in the first session, the last quarter of each class is the validation part",
    1: "only one session: of each class, the first 60% are the training part, the next 20% the validation part and the "
    "last 20% the test part, so the test shares its session with training and says nothing about another day",
}


def open_recordings(folder: Path, settings: Path | str | None, fingerprint: str) -> EEGDataset:
    """All recordings below `folder` as trials; see `load_recordings`. `order` numbers a subject's trials in time."""
    file, values = settings_file(folder, settings), own_settings(folder, settings)
    found = survey(folder, values.task)
    code = code_digest(__name__, leave_out=("brainvis.configuration", "brainvis.files"))  # with all that it imports
    made_from = digest([signals_fingerprint(folder, values, found), code, mne.__version__])
    target = stored_beside(folder) / f"{file.stem}.trials.safetensors"
    signals, about = stored(target, made_from, lambda: _cut(folder, values, file, found, target, made_from))

    labels, subjects, session = (np.array(about[column]) for column in ("labels", "subjects", "sessions"))
    order, notes = pd.Series(subjects).groupby(subjects).cumcount().to_numpy(), found.notes + about["notes"]
    splits = split_by_session(labels, subjects, session, notes)
    notes += filter(None, [order_note(labels, order, session)])
    if values.standardise == "channel":
        known = "this uses no labels, but it does use the level of the whole recording, test trials included"
        notes.append(f"Each recording's channels are standardised by their own mean and standard deviation: {known}.")
    images, image_ids, captions = _images(about["events"], values, splits, notes)
    of_trial = {"labels": labels, "subjects": subjects, "images": images, "order": order, "sessions": session}
    of_trial["lengths"] = np.array(about["lengths"])
    channels = about["channels"]
    return EEGDataset(
        name="recordings",
        trials=signals["trials"],
        sampling_rate=about["rate"],
        start=about["start"],
        channels=tuple(channels),
        montage=MONTAGE if set(channels) <= set(mne.channels.make_standard_montage(MONTAGE).ch_names) else None,
        image_ids=image_ids,
        class_names=tuple(about["classes"]),
        captions=captions,
        image_folder=values.images.folder if values.images else None,
        splits={name: torch.from_numpy(index) for name, index in splits.items()},
        fingerprint=fingerprint,
        notes=tuple(notes),
        before=signals.get("before"),
        flicker=values.flicker,
        checked=True,
        **{name: torch.from_numpy(column.astype(np.int64)) for name, column in of_trial.items()},
    )


def _cut(folder: Path, values: RecordingsSettings, settings: Path, found: Found, target: Path, made_from: str) -> None:
    """Read, filter and cut all recordings into the array file `target`."""
    notes, recordings = [], list(found.recordings)
    plan = _plan(recordings, values, settings, folder, notes)
    check_room(target, 8 * plan.most * len(plan.channels) * plan.samples)
    names, columns, sessions = list(dict.fromkeys(plan.classes.values())), defaultdict(list), {}

    def trials() -> Iterator[tuple[Tensor, ...]]:
        for piece in plan.pieces:
            session = sessions.setdefault((piece.recording.subject, piece.recording.session), len(sessions))
            columns["labels"] += [names.index(plan.classes[event]) for event in piece.events]
            columns["events"] += piece.events
            columns["subjects"] += [piece.recording.subject] * len(piece.events)
            columns["sessions"] += [session] * len(piece.events)
            columns["lengths"] += np.asarray(piece.lengths).tolist()
            yield from _signals(piece)
        if not columns["labels"]:
            raise DatasetError(f"{folder}: no trials are left. {' '.join(notes)}")

    known = {"rate": plan.rate, "start": plan.start, "channels": plan.channels, "classes": names}
    write_trials(target, made_from, trials(), lambda: {**known, **columns, "notes": notes})


def _plan(recordings: list, values: RecordingsSettings, settings: Path, folder: Path, notes: list[str]) -> Plan:
    """How the recordings become trials: as continuous recordings, or as epochs (an EEGLAB file may turn out to hold
    them). DatasetError if a folder has both."""
    ready = []
    for recording in recordings:
        with readable(recording.file):
            if (
                recording.kind in ("epochs", "array")
                or recording.file.suffix == ".set"
                and holds_epochs(recording.file)
            ):
                ready.append(recording)
    if ready and len(ready) < len(recordings):
        other = next(recording.file for recording in recordings if recording not in ready)
        wrong = f"{ready[0].file} holds epochs, but {other} is a continuous recording"
        raise DatasetError(f"{wrong}. Put them into separate folders.")
    return (plan_epochs if ready else plan_continuous)(recordings, values, settings, folder, notes)


def _signals(piece: Piece) -> Iterator[tuple[Tensor, ...]]:
    signals = [piece.trials] + ([] if piece.before is None else [piece.before])
    yield from zip(*map(torch.from_numpy, signals), strict=True)


def split_by_session(
    labels: np.ndarray, subjects: np.ndarray, sessions: np.ndarray, notes: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Trial indices of train, val and test, subject by subject, according to `RULES`; trials are in recording order. A
    single session is divided into blocks in time, because shuffled neighbours share drift and noise. Each number in
    `sessions` belongs to one subject. Sentences that describe the split are appended to `notes`."""
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
                few = f"has one session with only {count} trials of class {label}: the three parts need at least 3"
                raise DatasetError(f"Subject {subject} {few}. Record more trials, or leave the subject out.")
            else:
                val, test = max(1, min(round(count * 0.6), count - 2)), max(2, min(round(count * 0.8), count - 1))
            pieces.append(np.split(trials, [val, test]))
        pieces += [(first[:0], first[:0], session) for session in later]
    if notes is not None:
        told = ((whose[rule], text) for rule, text in RULES.items() if whose[rule])
        notes += [f"Subject{'s' * (len(who) > 1)} {', '.join(who)}: {text}." for who, text in told]
    parts = zip(("train", "val", "test"), zip(*pieces, strict=True), strict=True)
    return {name: np.sort(np.concatenate(part)) for name, part in parts}


def _images(events: list[str], values: RecordingsSettings, splits: dict, notes: list[str]) -> tuple:
    """Image index of each trial, image ids and captions."""
    if values.images is None:
        return np.full(len(events), -1), (), {}
    shown, file = {str(event): name for event, name in values.images.events.items()}, values.images.captions
    if lacking := sorted(set(events) - shown.keys()):
        raise DatasetError(
            f"images.events does not say what was shown at the events {', '.join(lacking[:20])}. Add them."
        )
    image_ids = tuple(dict.fromkeys(shown.values()))
    images = np.array([image_ids.index(shown[event]) for event in events])
    if again := np.isin(images[splits["test"]], images[splits["train"]]).mean():
        notes.append(f"The pictures of {again:.0%} of the test trials were also shown in training.")
    if file is None:
        return images, image_ids, {}
    captions = read_json(file)
    if missing := [name for name in image_ids if not isinstance(captions.get(name), str)]:
        raise DatasetError(f"{file} has no caption for {', '.join(missing)}.")
    return images, image_ids, captions
