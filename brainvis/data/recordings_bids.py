"""A BIDS data set: recordings with tables of events and channels beside them, read with mne-bids.

Without `recordings.yml`, the events give the classes (column `trial_type`), and their durations give the window.
"""

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path

import mne
import numpy as np

from brainvis.data.recordings_checks import check_table
from brainvis.data.recordings_files import SIDECARS, Recording
from brainvis.data.recordings_settings import RecordingsSettings
from brainvis.data.recordings_signals import some
from brainvis.data.source import DatasetError
from brainvis.files.reading import plain_file, read_json

BAND = (1.0, 40.0)  # hertz, passband if none is specified
LONGEST = 1.0  # seconds of a trial, if event durations are zero or differ
ABOVE = 3  # levels, at most, from the recordings' folder up to that of the data set
TABLE_BYTES = 64 * 2**20


def open_bids(file: Path) -> mne.io.BaseRaw:
    """One recording, signal unread: its annotations are the events of its table, named by trial_type; channels that its
    channel table marks as bad are marked bad. ValueError or BrainvisError for tables that cannot be read."""
    from mne_bids import get_bids_path_from_fname, read_raw_bids

    for table in sidecars(file):
        check_table(table) if table.suffix == ".tsv" else read_json(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing parts of a data set that are not needed here
        raw = read_raw_bids(get_bids_path_from_fname(file, check=False, verbose="ERROR"), verbose="ERROR")
    names = _trial_types(file)
    if names is not None:  # mne-bids adds the value if one type has several
        own = [text if text in names else text.rpartition("/")[0] or text for text in raw.annotations.description]
        raw.annotations.description = np.array(own)
    return raw


def sidecars(file: Path) -> list[Path]:
    """All tables and descriptions that may refer to a recording, from its folder up to that of the data set."""
    places = [file.parent, *list(file.parents)[1 : 1 + ABOVE]]
    last = next((at for at, place in enumerate(places) if place.name.startswith("sub-")), 0) + 1
    named = ("participants.tsv", "participants.json", "dataset_description.json")
    found = [one for place in places[: last + 1] for one in sorted(place.iterdir())]
    return [one for one in found if SIDECARS.search(one.name) or one.name in named or one.name.endswith("_scans.tsv")]


def _events_table(file: Path) -> Path | None:
    stem = file.name.rpartition("_")[0]
    table = file.with_name(f"{stem}_events.tsv")
    return table if table.is_file() else None


def _trial_types(file: Path) -> set[str] | None:
    """The trial_type values in a recording's table of events; None without such a table or column."""
    if (table := _events_table(file)) is None:
        return None
    plain_file(table, TABLE_BYTES)
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        if "trial_type" not in (rows.fieldnames or ()):
            return None
        return {(row["trial_type"] or "").strip() for row in rows}


def settings_of_bids(
    values: RecordingsSettings,
    headers: Mapping[Recording, mne.io.BaseRaw],
    events: Mapping[Recording, list],
    notes: list[str],
) -> RecordingsSettings:
    """The settings, with missing values taken from the events. DatasetError if the events do not name classes."""
    chosen, told = {}, []
    if values.classes is None:
        types = {recording: _trial_types(recording.file) for recording in headers}
        if unnamed := [recording.file for recording, names in types.items() if not names]:
            wrong = f"{unnamed[0]} has no events table with a trial_type column"
            raise DatasetError(f"{wrong}. Say in recordings.yml, under `classes`, which events mean which class.")
        there = {text for table in events.values() for _, text in table}
        if len(names := sorted(there & set().union(*types.values()))) < 2:
            wrong = f"its events are all of one type, {', '.join(names) or 'none'}"
            raise DatasetError(f"{next(iter(headers)).file}: {wrong}. Define the `classes` in recordings.yml.")
        chosen["classes"] = {name: name for name in names}
        told.append(f"the classes are the event types ({some(names)})")
    kept = {str(key) for key in values.classes or chosen["classes"]}
    if values.window is None:
        chosen["window"] = (0.0, _duration(headers, events, kept))
        told.append(f"the window is the {chosen['window'][1]:g} s after the event")
    if values.filter is None:
        slowest = min([values.resample or np.inf, *(raw.info["sfreq"] for raw in headers.values())])
        chosen["filter"] = (BAND[0], min(BAND[1], float(np.floor(0.45 * slowest))))
        told.append(f"frequencies from {chosen['filter'][0]:g} to {chosen['filter'][1]:g} Hz are kept")
    if told:
        notes.append(f"BIDS: {', '.join(told)}. To change this, use recordings.yml in the data set's folder.")
    return values.model_copy(update=chosen)


def _duration(headers: Mapping, events: Mapping, kept: set[str]) -> float:
    """Seconds of a trial: the duration of the events if all are equal, otherwise the longest at which no trial meets
    the next, at most `LONGEST`."""
    durations, gaps = set(), [LONGEST]
    for recording, raw in headers.items():
        notes = raw.annotations
        durations |= {
            round(float(one), 3) for one, text in zip(notes.duration, notes.description, strict=True) if text in kept
        }
        onsets = np.array([sample for sample, text in events[recording] if text in kept]) / raw.info["sfreq"]
        gaps += [*np.diff(onsets), raw.n_times / raw.info["sfreq"] - onsets.max(initial=0.0)]
    if len(durations) == 1 and (lasting := durations.pop()) > 0:
        return lasting
    if (free := np.floor(1000 * min(gaps)) / 1000) <= 0:
        raise DatasetError("Events follow one another without a gap. Set `window` in recordings.yml.")
    return float(free)
