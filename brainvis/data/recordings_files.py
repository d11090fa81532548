"""What a folder of recordings holds and the YAML file that says how to cut it into trials. Light."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import MinLen, Predicate
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator, model_validator

from brainvis.configuration import Configuration
from brainvis.data.source import DatasetError, FileSettings, Source, read_yaml
from brainvis.files import digest, file_digests

SETTINGS_NAME = "recordings.yml"
SUFFIXES = (".fif", ".fif.gz", ".vhdr", ".edf", ".bdf", ".gdf", ".set")
# FIF files that are not continuous recordings, by MNE's own naming rules, and the later parts of a split recording,
# which MNE opens itself when it reads the first.
OTHER_FIF = re.compile(
    r"[-_](eve|epo|ave|cov|ica|proj|annot|trans|fwd|inv|src|bem|sol|meta)$|(raw|eeg)-\d+$|split-(?!0*1[-_])\d+[-_]"
)
SUBJECT_NAME = re.compile(r"^[A-Za-z]*[-_ ]?0*(\d+)$")
SESSION_NAME = re.compile(r"(?:^|[/_])ses-([A-Za-z0-9]+)")

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Hertz = Annotated[Number, Field(gt=0)]
Rising = Annotated[tuple[Number, Number], Predicate(lambda pair: pair[0] < pair[1])]
Name = Annotated[str, Field(coerce_numbers_to_str=True)]
NAMED = Predicate(lambda table: all(type(event) in (int, str) for event in table))
ByEvent = Annotated[dict[Any, Name], MinLen(1), NAMED]
A_TABLE = "such as {1: rest, 2: 13 Hz}; an event is a whole number or a text, a name a text, all else has to be quoted"
# A path that starts from the folder of the settings. Of a data set that was moved only its name counts.
FROM_SETTINGS = BeforeValidator(lambda value, info: info.context.parent / str(value))
Beside = Annotated[Path, FROM_SETTINGS, PlainSerializer(lambda path: path.name)]


class Images(FileSettings):
    """Which picture each event showed; the names are image ids, the folder is where their files lie."""

    # <folder>/<name up to the first _>/<name>.png, as EEGDataset.image_path expects
    folder: Annotated[Beside, Predicate(Path.is_dir)] = Field(description="a folder that exists")
    events: ByEvent = Field(description=f"a table of events and names of pictures {A_TABLE}")
    captions: Annotated[Beside, Predicate(Path.is_file)] | None = Field(
        None, description="a JSON file that exists: name -> sentence"
    )


class RecordingsSettings(FileSettings):
    """`recordings.yml`. Times are seconds after the event, frequencies hertz."""

    window: Rising = Field(description="two numbers of seconds such as [2.0, 5.0], the first less than the second")
    filter: Annotated[Rising, Predicate(lambda band: band[0] >= 0)] = Field(
        description="two frequencies such as [5, 45], none negative, the first less than the second; 0: no lower edge"
    )
    classes: Annotated[ByEvent, Predicate(lambda names: len(set(names.values())) > 1)] = Field(
        description=f"a table of events and at least two different class names {A_TABLE}"
    )
    notch: tuple[Hertz, ...] = Field((), description="a positive number in hertz, or a list of them")
    resample: Hertz | None = Field(None, description="a positive number in hertz")
    # None: all EEG channels that the recordings share
    channels: tuple[str, ...] | None = Field(None, description="a list of names such as [Oz, O1, O2]", min_length=1)
    standardise: Literal["channel", "none"] = "channel"  # none: microvolts
    # of lights, where the classes are lights that flicker: baselines then look for responses to them
    flicker: tuple[Hertz, ...] = Field((), description="a positive number in hertz, or a list of them")
    images: Images | None = Field(None, description="a table with folder and events")

    @field_validator("notch", "flicker", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return value if isinstance(value, list) else [value]

    @field_validator("images", mode="before")
    @classmethod
    def _nested(cls, value: object, info: ValidationInfo) -> object:
        return Images.validated(value, info.context, "images.") if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _same_events(self) -> Self:
        if self.images and (odd := set(self.images.events) ^ set(self.classes)):
            only = ", ".join(sorted(map(str, odd)))
            raise ValueError(f"images.events and classes must name the same events; only one of them has {only}")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label, in the order of the file; several events may share a name."""
        return tuple(dict.fromkeys(self.classes.values()))


@dataclass(frozen=True)
class Recording:
    """One continuous recording of one subject."""

    file: Path
    subject: int
    session: str  # the BIDS session where the name has one, else the file itself
    events_file: Path | None


def read_settings(folder: Path, settings: Path | str | None = None) -> RecordingsSettings:
    """The YAML file `settings`, or `recordings.yml` in the folder, validated; DatasetError if there is none."""
    file = Path(settings or Path(folder) / SETTINGS_NAME)
    if not file.is_file():
        cure = "Copy brainvis/data/recordings_example.yml there and change it to your events and window"
        raise DatasetError(f"No settings for the recordings: {file} does not exist. {cure}.")
    return RecordingsSettings.validated(read_yaml(file), file)


def find_recordings(folder: Path) -> list[Recording]:
    """All recordings below `folder`, by subject and then in the natural order of their names (2 before 10).
    DatasetError: no folder, no recording, a subject folder without a number, a number twice."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; it should hold one folder a subject with its recordings.")
    recordings, owners = [], {}
    for place in sorted(folder.iterdir(), key=_natural):
        files = [] if place.name.startswith(".") else sorted(filter(_is_recording, place.rglob("*")), key=_natural)
        if not files:
            continue
        if (match := SUBJECT_NAME.match(place.name)) is None:
            wrong = "holds recordings, but its name does not say whose: call it subject01, sub-01, S1 or 1"
            raise DatasetError(f"{place} {wrong}.")
        subject = int(match.group(1))
        if (other := owners.setdefault(subject, place)) != place:
            raise DatasetError(f"{other} and {place} are both subject {subject}; rename or merge one of them.")
        for file in files:
            name = file.relative_to(place).as_posix()
            session = SESSION_NAME.search(name)
            events = file.with_name(re.sub(r"[-_]raw$", "", _stem(file)) + "-eve.fif")
            session, events = session.group(1) if session else name, events if events.is_file() else None
            recordings.append(Recording(file, subject, session, events))
    if not recordings:
        needs = f"one folder a subject (subject01, sub-01, 1, ...) with files ending in {', '.join(SUFFIXES)}"
        raise DatasetError(f"No recording in {folder}: it should hold {needs}.")
    return sorted(recordings, key=lambda recording: recording.subject)


def _stem(file: Path) -> str | None:
    """The name of a file without the suffix of a recording, None if it has none."""
    return next((file.name[: -len(suffix)] for suffix in SUFFIXES if file.name.lower().endswith(suffix)), None)


def _is_recording(file: Path) -> bool:
    if (stem := _stem(file)) is None or file.name.startswith(".") or not file.is_file():
        return False
    return ".fif" not in file.name[len(stem) :].lower() or not OTHER_FIF.search(stem.lower())


def _natural(file: Path) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(file)) if part]


def recordings_contents(
    folder: Path, configuration: Configuration, settings: Path | str | None = None
) -> dict[str, str]:
    """Digests of the settings, of all files beside the recordings, and of captions and pictures, by name."""
    values, named = read_settings(folder, settings), {}
    for place in {recording.file.parent for recording in find_recordings(folder)}:
        files = (file for file in place.iterdir() if file.is_file() and file.name[0] != ".")
        named |= {file.relative_to(folder).as_posix(): file for file in files}
    if values.images:
        pictures = (file for file in values.images.folder.glob("*/*") if file.is_file())
        named |= {f"{file.parent.name}/{file.name}": file for file in pictures}
        named |= {file.name: file for file in [values.images.captions] if file}
    named[SETTINGS_NAME] = Path(settings or folder / SETTINGS_NAME)
    found = file_digests(named.values(), "checksums of recordings", watched=True)
    return {name: found[file][:16] for name, file in sorted(named.items())}


def recordings_fingerprint(folder: Path, configuration: Configuration, settings: Path | str | None = None) -> str:
    """Stands for what the settings say and for all that is read; a copy of it has the same."""
    contents = recordings_contents(folder, configuration, settings)
    del contents[SETTINGS_NAME]  # what it says counts, not how it is written
    return digest([read_settings(folder, settings).model_dump_json(), contents])  # as text: the order of classes counts


def recordings_have_images(folder: Path, configuration: Configuration, settings: Path | str | None = None) -> bool:
    """Whether valid settings say which pictures were shown."""
    with suppress(DatasetError):
        return read_settings(folder, settings).images is not None
    return False


def load_recordings(folder: Path, configuration: Configuration, settings: Path | str | None = None):  # -> EEGDataset
    """Read, filter and cut all recordings below `folder`, one subfolder a subject. `settings` is the YAML file, where
    the folder cannot be written to. DatasetError: settings, names, events or windows that do not fit."""
    from brainvis.data.recordings import cut_recordings

    fingerprint = recordings_fingerprint(folder, configuration, settings)
    return cut_recordings(folder, read_settings(folder, settings), fingerprint)


RECORDINGS = Source(
    load=load_recordings,
    fingerprint=recordings_fingerprint,
    subjects=lambda folder, *_, **__: tuple(sorted({recording.subject for recording in find_recordings(folder)})),
    has_images=recordings_have_images,
    contents=recordings_contents,
)
