"""What a folder of recordings holds: continuous recordings, a BIDS data set, epochs, or arrays. Light to import."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brainvis.configuration import Configuration
from brainvis.data.recordings_settings import (
    SETTINGS_NAME,
    RecordingsSettings,
    read_settings,
    settings_file,
)
from brainvis.data.source import DatasetError, Source
from brainvis.files import digest, file_digests

SUFFIXES = (".fif", ".fif.gz", ".vhdr", ".edf", ".bdf", ".gdf", ".set")
BIDS_SUFFIXES = (".vhdr", ".edf", ".bdf", ".set")
# FIF files that are not continuous recordings, by MNE's own naming rules, and the later parts of a split recording,
# which MNE opens itself when it reads the first.
OTHER_FIF = re.compile(
    r"[-_](eve|epo|ave|cov|ica|proj|annot|trans|fwd|inv|src|bem|sol|meta)$|(raw|eeg|epo)-\d+$|split-(?!0*1[-_])\d+[-_]"
)
EPOCHS, LABELS = re.compile(r"[-_]epo\.fif(\.gz)?$"), re.compile(r"[-_]labels$")
EVENTS_ENDINGS = ("-eve.fif", "_eve.fif")
SUBJECT_NAME = re.compile(r"^[A-Za-z]*[-_ ]?0*(\d+)$")
SESSION_NAME = re.compile(r"(?:^|[/_])ses-([A-Za-z0-9]+)")
TASK_NAME = re.compile(r"_task-([A-Za-z0-9]+)")
SIDECARS = re.compile(r"(^|_)(events|channels|eeg|electrodes|coordsystem)\.(tsv|json)$")  # of BIDS, at every level
KINDS = ("continuous", "bids", "epochs", "array")


@dataclass(frozen=True)
class Recording:
    """One file of one subject."""

    file: Path
    subject: int
    session: str  # the BIDS session if the name has one, else the file itself
    events_file: Path | None  # `-eve.fif` of a continuous recording, or labels of an array
    kind: str = "continuous"  # one of KINDS; a .set may turn out to hold epochs


@dataclass(frozen=True)
class Found:
    """Contents of a folder of recordings."""

    recordings: tuple[Recording, ...]
    orphans: tuple[Path, ...] = ()  # event files without a recording
    ignored: tuple[Path, ...] = ()  # epochs and arrays beside continuous recordings

    @property
    def notes(self) -> list[str]:
        """What a reader should know about files that are not read."""
        notes = [
            f"{file} belongs to no recording and is not read: the events of <name>_raw.fif must be in <name>-eve.fif."
            for file in self.orphans
        ]
        if self.ignored:
            which = (
                f"{len(self.ignored)} files with epochs or arrays (the first is {self.ignored[0].name}) are not read"
            )
            notes.append(f"{which}, as there are continuous recordings: move them into a separate folder.")
        return notes


def is_bids(folder: Path) -> bool:
    """Whether a folder follows the BIDS layout."""
    return (folder / "dataset_description.json").is_file() or any(folder.glob("sub-*/**/eeg/*_events.tsv"))


def survey(folder: Path, task: str | None = None) -> Found:
    """All recordings below `folder`, by subject and then in natural order of their names (2 before 10): continuous
    recordings if there are any, otherwise epochs, otherwise arrays; in a BIDS data set, those of one task.
    DatasetError: no folder, no recording, a subject folder without a number, a duplicate number, an unknown task, or
    several tasks."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; it should hold one folder per subject with its recordings.")
    bids = is_bids(folder)
    places = [place for place in sorted(folder.iterdir(), key=_natural) if place.name[0] != "."]
    files = {place: list(_files_of(place, bids)) for place in places if not bids or place.name.startswith("sub-")}
    there = {kind for found in files.values() for _, kind in found}
    chosen = next(({kind} for kind in KINDS[2:] if kind in there), set()) if not there & set(KINDS[:2]) else KINDS[:2]
    ignored = tuple(file for found in files.values() for file, kind in found if kind not in chosen)
    files = {place: [one for one in found if one[1] in chosen] for place, found in files.items()}
    if bids:
        files = _of_task(files, task, folder)
    files = {place: found for place, found in files.items() if found}
    numbers, recordings = _subjects(files, bids), []
    for place, found in files.items():
        for file, kind in found:
            name = file.relative_to(place).as_posix()
            session = SESSION_NAME.search(name)
            events = _events_file(file, kind)
            recordings.append(Recording(file, numbers[place], session.group(1) if session else name, events, kind))
    if not recordings:
        needs = f"one folder per subject (subject01, sub-01, 1, ...) with files ending in {', '.join(SUFFIXES)}"
        raise DatasetError(f"No recordings in {folder}: it should hold {needs}, -epo.fif or .npy.")
    used = {recording.events_file for recording in recordings}
    tables = (file for place in places if chosen == KINDS[:2] for file in sorted(place.rglob("*eve.fif")))
    orphans = tuple(file for file in tables if file.name.endswith(EVENTS_ENDINGS) and file not in used)
    return Found(tuple(sorted(recordings, key=lambda recording: recording.subject)), orphans, ignored)


def find_recordings(folder: Path, task: str | None = None) -> list[Recording]:
    """Only the recordings; see `survey`."""
    return list(survey(folder, task).recordings)


def _files_of(place: Path, bids: bool) -> Iterator[tuple[Path, str]]:
    """The files in one subject's folder that hold trials, each with its kind."""
    for file in sorted(place.rglob("*"), key=_natural):
        if file.name.startswith(".") or not file.is_file():
            continue
        stem = _stem(file)
        if bids and file.parent.name == "eeg" and stem and stem.endswith("_eeg") and file.suffix in BIDS_SUFFIXES:
            yield file, "bids"
        elif EPOCHS.search(file.name):
            yield file, "epochs"
        elif file.suffix == ".npy" and not LABELS.search(file.stem):
            yield file, "array"
        elif stem is not None and (".fif" not in file.name[len(stem) :].lower() or not OTHER_FIF.search(stem.lower())):
            yield file, "continuous"


def _events_file(file: Path, kind: str) -> Path | None:
    if kind == "array":
        beside = (file.with_name(f"{file.stem}{mark}labels.npy") for mark in "-_")
    elif kind == "continuous":
        stem = re.sub(r"[-_]raw$", "", _stem(file))
        beside = (file.with_name(stem + ending) for ending in EVENTS_ENDINGS)
    else:
        return None
    return next((one for one in beside if one.is_file()), None)


def _of_task(files: dict[Path, list], task: str | None, folder: Path) -> dict[Path, list]:
    """The files of one task; DatasetError if it does not exist, or if there are several and none is chosen."""

    def own(file: Path) -> str:
        return found.group(1) if (found := TASK_NAME.search(file.name)) else ""

    there = sorted({own(file) for found in files.values() for file, _ in found})
    if task is None and len(there) > 1 or task is not None and task not in there:
        chosen = "several tasks:" if task is None else f"no recordings of the task {task!r}, only of"
        cure = f"Choose one in {SETTINGS_NAME} in that folder, such as `task: {there[0] if there else 'name'}`"
        raise DatasetError(f"{folder} has {chosen} {', '.join(there)}. {cure}.")
    return {place: [one for one in found if task in (None, own(one[0]))] for place, found in files.items()}


def _subjects(files: dict[Path, list], bids: bool) -> dict[Path, int]:
    """The number of each subject's folder, taken from its name. BIDS labels without a number, or with a shared one, are
    numbered from 1 in their order."""
    numbers = {place: match and int(match.group(1)) for place in files for match in [SUBJECT_NAME.match(place.name)]}
    if bids and (None in numbers.values() or max(Counter(numbers.values()).values(), default=0) > 1):
        return {place: number for number, place in enumerate(numbers, 1)}
    owners = {}
    for place, number in numbers.items():
        if number is None:
            wrong = "holds recordings, but its name does not say of which subject. Call it subject01, sub-01, S1 or 1"
            raise DatasetError(f"{place} {wrong}.")
        if (other := owners.setdefault(number, place)) != place:
            raise DatasetError(f"{other} and {place} are both subject {number}. Rename one of them, or merge them.")
    return numbers


def _stem(file: Path) -> str | None:
    """The name of a file without its recording suffix; None if it has no such suffix."""
    return next((file.name[: -len(suffix)] for suffix in SUFFIXES if file.name.lower().endswith(suffix)), None)


def _natural(file: Path) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(file)) if part]


def own_settings(folder: Path, settings: Path | str | None = None) -> RecordingsSettings:
    """The settings of a folder; empty settings if there is no file for a BIDS data set or epochs, which name their own
    events. DatasetError as in `read_settings`."""
    optional = not settings_file(folder, settings).is_file() and all(
        one.kind in ("bids", "epochs") or one.file.suffix == ".set" for one in find_recordings(folder)
    )
    return read_settings(folder, settings, optional)


def recordings_contents(
    folder: Path, configuration: Configuration, settings: Path | str | None = None
) -> dict[str, str]:
    """Digests of the settings, of all files beside the recordings, and of captions and pictures, by name."""
    values = own_settings(folder, settings)
    named = signal_files(folder, survey(folder, values.task))
    if values.images:
        pictures = (file for file in values.images.folder.glob("*/*") if file.is_file())
        named |= {f"{file.parent.name}/{file.name}": file for file in pictures}
        named |= {file.name: file for file in [values.images.captions] if file}
    if (file := settings_file(folder, settings)).is_file():
        named[SETTINGS_NAME] = file
    return _digests(named)


def signal_files(folder: Path, found: Found) -> dict[str, Path]:
    """All files from which signals and events may be read, by name: those beside the recordings, any of which a header
    may name, and BIDS sidecars in the folders above."""
    left_out, places = {*found.orphans, *found.ignored}, {recording.file.parent for recording in found.recordings}
    above = {parent for place in places for parent in place.parents if parent == folder or folder in parent.parents}
    above = above if any(recording.kind == "bids" for recording in found.recordings) else set()
    files = [file for place in places for file in place.iterdir() if file not in left_out]
    files += [file for place in above - places for file in place.iterdir() if SIDECARS.search(file.name)]
    plain = (file for file in files if file.is_file() and file.name[0] != "." and file.suffix != ".lock")
    return {file.relative_to(folder).as_posix(): file for file in plain}


def _digests(named: dict[str, Path]) -> dict[str, str]:
    found = file_digests(named.values(), "checksums of recordings", watched=True)
    return {name: found[file][:16] for name, file in sorted(named.items())}


def recordings_fingerprint(folder: Path, configuration: Configuration, settings: Path | str | None = None) -> str:
    """Identifies the content of the settings and everything that is read; a copy has the same fingerprint."""
    contents = recordings_contents(folder, configuration, settings)
    contents.pop(SETTINGS_NAME, None)  # its content counts, not its formatting
    return digest([own_settings(folder, settings).model_dump_json(), contents])  # as text: the order of classes matters


def signals_fingerprint(folder: Path, values: RecordingsSettings, found: Found) -> str:
    """Identifies the data behind the trials' signals: pictures and captions may change."""
    return digest([values.model_dump_json(exclude={"images", "flicker"}), _digests(signal_files(folder, found))])


def recordings_have_images(folder: Path, configuration: Configuration, settings: Path | str | None = None) -> bool:
    """Whether there are valid settings that say which pictures were shown."""
    with suppress(DatasetError):
        return read_settings(folder, settings).images is not None
    return False


def recordings_subjects(folder: Path, configuration: Configuration, settings: Path | str | None = None, **_) -> tuple:
    """The numbers of all subjects."""
    task = None
    with suppress(DatasetError):
        task = read_settings(folder, settings).task
    return tuple(sorted({recording.subject for recording in find_recordings(folder, task)}))


def load_recordings(folder: Path, configuration: Configuration, settings: Path | str | None = None):  # -> EEGDataset
    """Read, filter and cut all recordings below `folder`, one subfolder per subject. `settings` is the YAML file, for
    folders that cannot be written to. DatasetError: settings, names, events or windows that do not fit."""
    from brainvis.data.recordings import open_recordings

    return open_recordings(folder, settings, recordings_fingerprint(folder, configuration, settings))


RECORDINGS = Source(
    load=load_recordings,
    fingerprint=recordings_fingerprint,
    subjects=recordings_subjects,
    has_images=recordings_have_images,
    contents=recordings_contents,
)
