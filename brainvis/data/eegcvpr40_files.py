"""Which of EEGCVPR40's published files are read, and how: names, settings, fingerprints. Light to import."""

from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Predicate
from pydantic import BeforeValidator, Field, StrictInt

from brainvis.configuration import Configuration
from brainvis.data.source import DatasetError, FileSettings, Hertz, Source, read_yaml, stored_beside
from brainvis.files import digest, file_digest, file_digests, remembered

SETTINGS_NAME = "eegcvpr40.yml"
FORMAT = 4  # increased when the same source and settings would give a different array file
EEG_FILES = {
    "5_95": "eeg_5_95_std.pth",
    "14_70": "eeg_14_70_std.pth",
    "55_95": "eeg_55_95_std.pth",
    "raw": "eeg_signals_raw_with_mean_std.pth",
}
# The published files identify trials by their index in the list of all trials. The released code uses the same numbers
# as indices into a list already filtered to one subject: those readings are called "..._released".
READINGS = ("all", "single", "all_released", "single_released")
SPLIT_FILES = {name: f"block_splits_by_image_{name.removesuffix('_released')}.pth" for name in READINGS}


def _band(value: object) -> object:
    """The name of a band that YAML has read as a number: 5_95 becomes 595, because underscores may group digits."""
    return {name.replace("_", ""): name for name in EEG_FILES}.get(str(value), value) if type(value) is int else value


class EEGCVPR40Settings(FileSettings):
    """Settings from `eegcvpr40.yml` or keyword arguments."""

    band: Annotated[Literal[*EEG_FILES], BeforeValidator(_band)] = "5_95"  # raw is standardised by its own statistics
    # First and end sample kept of each trial. None: 20 and 460 if trials are as long as the published ones; otherwise
    # as many as all usable trials have.
    window: Annotated[tuple[StrictInt, StrictInt], Predicate(lambda pair: 0 <= pair[0] < pair[1])] | None = Field(
        None, description="two whole numbers of samples, the first at least 0 and less than the second"
    )
    # Minimum and maximum recorded samples of a usable trial; others are dropped. None: 450 and 600, or the equivalent.
    lengths: Annotated[tuple[StrictInt, StrictInt], Predicate(lambda pair: 1 <= pair[0] <= pair[1])] | None = Field(
        None, description="two whole numbers of samples, the first at least 1 and not greater than the second"
    )
    split: Literal[*SPLIT_FILES] = "all"
    split_index: StrictInt = Field(0, description="a whole number, 0 or greater")  # which of the file's splits
    names: Literal["corrected", "released"] = "corrected"  # spelt correctly, or as in the released code
    # What the files do not contain.
    sampling_rate: Hertz = Field(1000.0, description="a positive number in hertz")
    channels: tuple[str, ...] | None = Field(None, description="a list of names such as [Fp1, Fp2]", min_length=1)
    montage: str | None = Field(None, description="the name of one of MNE's standard montages")


def read_settings(folder: Path, options: dict) -> EEGCVPR40Settings:
    """The validated settings of `eegcvpr40.yml` in the folder, if it exists; `options` override them."""
    file = folder / SETTINGS_NAME
    content = read_yaml(file) if file.is_file() else {}
    EEGCVPR40Settings.validated(content, file)
    return EEGCVPR40Settings.validated({**content, **options}, "Data set eegcvpr40")


def published_files(folder: Path, settings: EEGCVPR40Settings) -> tuple[Path, Path]:
    """The EEG file and the split file; DatasetError if one is missing."""
    files = folder / EEG_FILES[settings.band], folder / SPLIT_FILES[settings.split]
    for file in files:
        if not file.is_file():
            raise DatasetError(f"{file} is missing. Put the published files of EEGCVPR40 into {folder}.")
    return files


def array_file(folder: Path, settings: EEGCVPR40Settings) -> Path:
    """The array file for these settings."""
    chosen = {"samples": settings.window, "lengths": settings.lengths}
    parts = [f"{name}{pair[0]}-{pair[1]}" for name, pair in chosen.items() if pair]
    name = ".".join([Path(EEG_FILES[settings.band]).stem, *(parts or ["trials"]), "safetensors"])
    return stored_beside(folder) / name


def made_from(folder: Path, settings: EEGCVPR40Settings) -> str:
    """Identifies the EEG file and the settings that shape its array file."""
    source = folder / EEG_FILES[settings.band]
    return digest([FORMAT, file_digest(source), settings.band, settings.window, settings.lengths])


def data_contents(folder: Path, settings: EEGCVPR40Settings) -> dict[str, str]:
    """Digests of the settings and of everything that is read, by name; one per folder for pictures. DatasetError if a
    file is missing."""
    optional = [folder / name for name in ("captions.json", "class_names.json") if (folder / name).is_file()]
    pictures = sorted(file for file in folder.glob("image/*/*") if file.is_file())
    files = [*published_files(folder, settings), *optional]
    found = file_digests([*files, *pictures], f"checksums of {folder.name}", watched=True)
    contents = {SETTINGS_NAME: digest(settings.model_dump()), **{file.name: found[file][:16] for file in files}}
    for place, inside in groupby(pictures, lambda file: file.parent.name):
        contents[f"image/{place}"] = digest([[file.name, found[file]] for file in inside])
    return contents


def data_fingerprint(folder: Path, settings: EEGCVPR40Settings) -> str:
    """Identifies the settings and the content of the files; DatasetError if one is missing."""
    return digest(data_contents(folder, settings))


def published_subjects(folder: Path, settings: EEGCVPR40Settings) -> tuple[int, ...]:
    """The subjects in the EEG file, or the six published ones if it is missing."""
    source = folder / EEG_FILES[settings.band]
    if not source.is_file():
        return (1, 2, 3, 4, 5, 6)

    def ask() -> str:
        from brainvis.data.eegcvpr40 import subjects_of  # imports torch; only once, as the answer is cached

        return " ".join(map(str, subjects_of(source)))

    return tuple(map(int, remembered(source, "subjects", ask).split()))


def load_eegcvpr40(folder: Path, configuration: Configuration, **options):  # -> EEGDataset
    """Load the published files. `options` are fields of `EEGCVPR40Settings`; any not given are taken from
    `eegcvpr40.yml` in the folder, if it exists. DatasetError: an invalid option, file or trial."""
    from brainvis.data.eegcvpr40 import load_published

    return load_published(folder, read_settings(folder, options))


EEGCVPR40 = Source(
    load=load_eegcvpr40,
    fingerprint=lambda folder, configuration, **options: data_fingerprint(folder, read_settings(folder, options)),
    subjects=lambda folder, configuration, **options: published_subjects(folder, read_settings(folder, options)),
    has_images=lambda folder, configuration, **_: (folder / "image").is_dir(),
    contents=lambda folder, configuration, **options: data_contents(folder, read_settings(folder, options)),
)
