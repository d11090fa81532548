"""What a folder of recordings holds and the YAML file that says how to cut it into trials.

Nothing here reads a signal, so that Snakemake can ask for a fingerprint without importing torch or MNE.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from brainvis.datasets.errors import DatasetError

SETTINGS_NAME = "recordings.yml"
SUFFIXES = (".fif", ".fif.gz", ".vhdr", ".edf", ".bdf", ".gdf", ".set")
# FIF files that are not continuous recordings, by MNE's own naming rules, and the later parts of a split recording,
# which MNE opens itself when it reads the first.
OTHER_FIF = re.compile(
    r"[-_](eve|epo|ave|cov|ica|proj|annot|trans|fwd|inv|src|bem|sol|meta)$|(raw|eeg)-\d+$|split-(?!0*1[-_])\d+[-_]"
)
SUBJECT_NAME = re.compile(r"^[A-Za-z]*[-_ ]?0*(\d+)$")
SESSION_NAME = re.compile(r"(?:^|[/_])ses-([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Images:
    """Which picture each event showed; the names are image ids, the folder is where their files lie."""

    folder: Path  # <folder>/<name up to the first _>/<name>.png, as EEGDataset.image_path expects
    events: dict[int | str, str]
    captions: Path | None = None  # JSON: image name -> sentence


@dataclass(frozen=True)
class Settings:
    """`recordings.yml`, validated. Times are seconds after the event, frequencies hertz."""

    window: tuple[float, float]
    filter: tuple[float, float]  # 0 below: no lower edge
    classes: dict[int | str, str]  # event id or annotation text -> class name
    notch: tuple[float, ...] = ()
    resample: float | None = None
    channels: tuple[str, ...] = ()  # empty: all EEG channels that the recordings share
    standardise: str = "channel"  # or "none": microvolts
    images: Images | None = None

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


def read_settings(folder: Path, settings: Path | str | None = None) -> Settings:
    """Read and validate the YAML file.

    Args:
        folder: the folder of the recordings.
        settings: the YAML file; None: `recordings.yml` in the folder.

    Raises:
        DatasetError: no such file, not YAML, an unknown or missing key, or a value that cannot be meant.
    """
    file = Path(settings) if settings is not None else Path(folder) / SETTINGS_NAME
    if not file.is_file():
        raise DatasetError(
            f"No settings for the recordings: {file} does not exist. Copy brainvis/datasets/recordings_example.yml "
            "there and change it to your events and window."
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is not plain YAML: {error}") from error
    known = [field.name for field in fields(Settings)]
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds no settings; it needs the keys window, filter and classes.")
    _check_keys(file, "", content, known, required=("window", "filter", "classes"))

    values = {"window": _pair(file, "window", content["window"]), "filter": _pair(file, "filter", content["filter"])}
    if values["filter"][0] < 0:
        raise DatasetError(f"{file}: filter: {content['filter']} has a negative frequency; 0 means no lower edge.")
    values["classes"] = _by_event(file, "classes", content["classes"])
    if len(set(values["classes"].values())) < 2:
        raise DatasetError(f"{file}: classes: needs at least two different class names, not {content['classes']}.")
    if content.get("notch") is not None:
        notch = content["notch"] if isinstance(content["notch"], list) else [content["notch"]]
        values["notch"] = tuple(_positive(file, "notch", value) for value in notch)
    if content.get("resample") is not None:
        values["resample"] = _positive(file, "resample", content["resample"])
    if content.get("channels") is not None:
        channels = content["channels"]
        if not isinstance(channels, list) or not channels or not all(isinstance(name, str) for name in channels):
            raise DatasetError(f"{file}: channels: is a list of names such as [Oz, O1, O2], not {channels!r}.")
        values["channels"] = tuple(dict.fromkeys(channels))
    values["standardise"] = content.get("standardise", "channel")
    if values["standardise"] not in ("channel", "none"):
        raise DatasetError(f"{file}: standardise: is channel or none, not {content['standardise']!r}.")
    if content.get("images") is not None:
        values["images"] = _images(file, content["images"], values["classes"])
    return Settings(**values)


def find_recordings(folder: Path) -> list[Recording]:
    """All recordings below `folder`, by subject and then in the natural order of their names (2 before 10).

    Raises:
        DatasetError: no folder, no recording, a subject folder without a number, a number twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; it should hold one folder a subject with its recordings.")
    recordings, owners = [], {}
    for place in sorted(folder.iterdir(), key=_natural):
        if not place.is_dir() or place.name.startswith("."):
            continue
        files = sorted((file for file in place.rglob("*") if _is_recording(file)), key=_natural)
        if not files:
            continue
        match = SUBJECT_NAME.match(place.name)
        if match is None:
            raise DatasetError(
                f"{place} holds recordings, but its name does not say whose: call it subject01, sub-01, S1 or 1."
            )
        subject = int(match.group(1))
        if subject in owners:
            raise DatasetError(
                f"{owners[subject]} and {place} are both subject {subject}; rename or merge one of them."
            )
        owners[subject] = place
        for file in files:
            name = file.relative_to(place).as_posix()
            session = SESSION_NAME.search(name)
            events = _events_file(file)
            recordings.append(
                Recording(file, subject, session.group(1) if session else name, events if events.is_file() else None)
            )
    if not recordings:
        raise DatasetError(
            f"No recording in {folder}: it should hold one folder a subject (subject01, sub-01, 1, ...) with files "
            f"ending in {', '.join(SUFFIXES)}."
        )
    return sorted(recordings, key=lambda recording: recording.subject)


def recordings_fingerprint(folder: Path, settings: Path | str | None = None) -> str:
    """A short name of what the data are made from: the settings and, of each file, name, size and three samples of
    its bytes (start, middle, end), so that gigabytes are not read and a copied file keeps its fingerprint."""
    values = read_settings(folder, settings)
    told = json.dumps(asdict(values), default=lambda path: path.name)  # not where, so that a moved folder is the same
    digest = hashlib.sha256(told.encode())
    for place in sorted({recording.file.parent for recording in find_recordings(folder)}):
        for file in sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith(".")):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
            with file.open("rb") as stream:
                for position in (0, size // 2, max(0, size - 65536)):
                    stream.seek(position)
                    digest.update(stream.read(65536))
    return digest.hexdigest()[:16]


def _is_recording(file: Path) -> bool:
    name = file.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if suffix is None or name.startswith(".") or not file.is_file():
        return False
    return not (suffix.startswith(".fif") and OTHER_FIF.search(name.removesuffix(suffix)))


def _events_file(file: Path) -> Path:
    stem = next(file.name[: -len(suffix)] for suffix in SUFFIXES if file.name.lower().endswith(suffix))
    return file.with_name(re.sub(r"[-_]raw$", "", stem) + "-eve.fif")


def _natural(file: Path) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(file)) if part]


def _check_keys(file: Path, where: str, content: dict, known: list[str], required: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            raise DatasetError(f"{file}: unknown key {where}{key!s}; the keys are {', '.join(known)}.")
    for key in required:
        if content.get(key) is None:
            raise DatasetError(f"{file}: the key {where}{key} is missing.")


def _pair(file: Path, key: str, value) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(part) for part in value):
        raise DatasetError(f"{file}: {key}: is two numbers such as [2.0, 5.0], not {value!r}.")
    low, high = map(float, value)
    if low >= high:
        raise DatasetError(f"{file}: {key}: [{low:g}, {high:g}] is empty; the second number must be the larger.")
    return low, high


def _positive(file: Path, key: str, value) -> float:
    if not _is_number(value) or value <= 0:
        raise DatasetError(f"{file}: {key}: is a positive number in hertz, not {value!r}.")
    return float(value)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _by_event(file: Path, key: str, value) -> dict[int | str, str]:
    """A table whose keys are event ids or annotation texts and whose values are names."""
    if not isinstance(value, dict) or not value:
        raise DatasetError(f"{file}: {key}: is a table such as {{1: rest, 2: 13 Hz}}, not {value!r}.")
    for event, name in value.items():
        if isinstance(event, bool) or not isinstance(event, (int, str)):
            raise DatasetError(f"{file}: {key}: the event {event!r} is neither a whole number nor a text; quote it.")
        if isinstance(name, bool) or not isinstance(name, (int, float, str)):
            raise DatasetError(f"{file}: {key}: the name of event {event!r} is {name!r}; give a text, quoted.")
    return {event: str(name) for event, name in value.items()}


def _images(file: Path, value, classes: dict) -> Images:
    if not isinstance(value, dict):
        raise DatasetError(f"{file}: images: is a table with folder and events, not {value!r}.")
    _check_keys(file, "images.", value, [field.name for field in fields(Images)], required=("folder", "events"))
    folder, events = file.parent / str(value["folder"]), _by_event(file, "images.events", value["events"])
    captions = file.parent / str(value["captions"]) if value.get("captions") is not None else None
    if set(events) != set(classes):
        odd = sorted(map(str, set(events) ^ set(classes)))
        raise DatasetError(f"{file}: images.events and classes must name the same events; only one has {odd}.")
    if not folder.is_dir():
        raise DatasetError(f"{file}: the folder of images {folder} does not exist.")
    if captions is not None and not captions.is_file():
        raise DatasetError(f"{file}: the captions {captions} do not exist.")
    return Images(folder, events, captions)
