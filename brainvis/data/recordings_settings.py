"""`recordings.yml`: how your own recordings become trials. Light to import."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import MinLen, Predicate
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator, model_validator

from brainvis.data.source import DatasetError, FileSettings, Hertz, Number, read_yaml

SETTINGS_NAME = "recordings.yml"

Rising = Annotated[tuple[Number, Number], Predicate(lambda pair: pair[0] < pair[1])]
Name = Annotated[str, Field(coerce_numbers_to_str=True)]
NAMED = Predicate(lambda table: all(type(event) in (int, str) for event in table))
ByEvent = Annotated[dict[Any, Name], MinLen(1), NAMED]
A_TABLE = "such as {1: rest, 2: 13 Hz}; events are whole numbers or text, names are text, anything else must be quoted"
# A path relative to the folder of the settings. Only its name counts, so that a data set may be moved.
FROM_SETTINGS = BeforeValidator(lambda value, info: info.context.parent / str(value))
Beside = Annotated[Path, FROM_SETTINGS, PlainSerializer(lambda path: path.name)]


class Images(FileSettings):
    """Which picture each event showed; the names are image ids, and the folder holds their files."""

    # <folder>/<name up to the first _>/<name>.png, as EEGDataset.image_path expects
    folder: Annotated[Beside, Predicate(Path.is_dir)] = Field(description="an existing folder")
    events: ByEvent = Field(description=f"a table of events and picture names {A_TABLE}")
    captions: Annotated[Beside, Predicate(Path.is_file)] | None = Field(
        None, description="an existing JSON file: name -> sentence"
    )


class Arrays(FileSettings):
    """What NumPy files do not say about the trials that they hold."""

    sampling_rate: Hertz = Field(description="a positive number in hertz")
    channels: tuple[str, ...] = Field(description="a list of names such as [Oz, O1, O2], one per channel", min_length=1)
    start: Number = Field(0.0, description="the time of the first sample in seconds after the event")
    unit: Literal["microvolts", "volts"] = "microvolts"


class RecordingsSettings(FileSettings):
    """`recordings.yml`. Times are seconds after the event, frequencies hertz."""

    # Continuous recordings need these three, unless they are BIDS. None: whole epochs, unfiltered, with classes named
    # after their events.
    window: Rising | None = Field(
        None, description="two numbers of seconds such as [2.0, 5.0], the first less than the second"
    )
    filter: Annotated[Rising, Predicate(lambda band: band[0] >= 0)] | None = Field(
        None,
        description="two frequencies such as [5, 45], not negative, the first less than the second (0: no lower edge)",
    )
    classes: Annotated[ByEvent, Predicate(lambda names: len(set(names.values())) > 1)] | None = Field(
        None, description=f"a table of events and at least two different class names {A_TABLE}"
    )
    notch: tuple[Hertz, ...] = Field((), description="a positive number in hertz, or a list of them")
    resample: Hertz | None = Field(None, description="a positive number in hertz")
    # None: all EEG channels that the recordings share
    channels: tuple[str, ...] | None = Field(None, description="a list of names such as [Oz, O1, O2]", min_length=1)
    standardise: Literal["channel", "none"] = "channel"  # none: microvolts
    # of lights, if the classes are flickering lights: baselines then look for responses to them
    flicker: tuple[Hertz, ...] = Field((), description="a positive number in hertz, or a list of them")
    images: Images | None = Field(None, description="a table with folder and events")
    task: str | None = Field(
        None, description="a task of the BIDS data set, as written after `task-` in its file names"
    )
    arrays: Arrays | None = Field(None, description="a table with sampling_rate and channels")

    @field_validator("notch", "flicker", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return value if isinstance(value, list) else [value]

    @field_validator("images", "arrays", mode="before")
    @classmethod
    def _nested(cls, value: object, info: ValidationInfo) -> object:
        part = {"images": Images, "arrays": Arrays}[info.field_name]
        return part.validated(value, info.context, f"{info.field_name}.") if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _same_events(self) -> Self:
        if self.images and self.classes and (odd := set(self.images.events) ^ set(self.classes)):
            only = ", ".join(sorted(map(str, odd)))
            raise ValueError(f"images.events and classes must name the same events; only one of them has {only}")
        return self

    def needed(self, *keys: str, file: Path) -> None:
        """DatasetError unless the settings, read from `file`, contain all these keys."""
        for key in keys:
            if getattr(self, key) is None:
                if not file.is_file():
                    raise no_settings(file)
                needs = type(self).model_fields[key].description
                raise DatasetError(f"{file}: the key {key} is missing; it must be {needs}.")


def no_settings(file: Path) -> DatasetError:
    """The error for a missing settings file."""
    cure = "Copy brainvis/data/recordings_example.yml there and adapt it to your events and window"
    return DatasetError(f"No settings for the recordings: {file} does not exist. {cure}.")


def settings_file(folder: Path, settings: Path | str | None = None) -> Path:
    """Path of the settings: `settings`, or `recordings.yml` in the folder."""
    return Path(settings or Path(folder) / SETTINGS_NAME)


def read_settings(folder: Path, settings: Path | str | None = None, optional: bool = False) -> RecordingsSettings:
    """The validated settings. DatasetError if there are none, unless they are `optional`."""
    file = settings_file(folder, settings)
    if not file.is_file():
        if optional:
            return RecordingsSettings.validated({}, file)
        raise no_settings(file)
    return RecordingsSettings.validated(read_yaml(file), file)
