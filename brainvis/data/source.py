"""What every data set consists of: its functions, its error, and user settings in YAML.

Light to import, like the modules that fill `DATASETS`: Snakemake needs only fingerprints, and must not wait for torch
or MNE.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from brainvis.files import BrainvisError, beside_runs, read_only, reading

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Hertz = Annotated[Number, Field(gt=0)]


class DatasetError(BrainvisError):
    """Data that cannot be used: the message says which file, which trial and what to do."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: functions called as f(folder, configuration, **options)."""

    load: Callable  # -> EEGDataset
    fingerprint: Callable[..., str]  # of what `load` with the same arguments would read; cheap
    subjects: Callable[..., tuple[int, ...]]  # their numbers, without reading any trial
    has_images: Callable[..., bool]  # whether the pictures that were shown are available
    # Digests of the files that are read, by name, to report which of them has changed.
    contents: Callable[..., dict[str, str]] = lambda folder, configuration, **options: {}


class FileSettings(BaseModel):
    """Settings of a data set. A field's description says what it requires: messages quote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def validated(cls, content: dict, where: object, part: str = "") -> Self:
        """`content` as settings; DatasetError if a key is unknown or missing, or a value is not allowed. `where` it
        comes from is the validators' context; `part` is a prefix for keys, such as "images."."""
        try:
            return cls.model_validate(content, context=where)
        except ValidationError as caught:
            error = min(caught.errors(), key=lambda error: error["type"] != "extra_forbidden")
            key = error["loc"][0] if error["loc"] else ""
            if error["type"] == "value_error":
                wrong = error["msg"].removeprefix("Value error, ")
            elif key not in cls.model_fields:
                wrong = f"unknown key {part}{key}; the keys are {', '.join(cls.model_fields)}"
            else:
                value = f"is {content[key]!r}" if key in content else "is missing"
                needs = cls.model_fields[key].description or error["ctx"]["expected"]
                wrong = f"the key {part}{key} {value}; it must be {needs}"
            raise DatasetError(f"{where}: {wrong}.") from caught


def read_yaml(file: Path) -> dict:
    """The keys of a YAML file that have a value; DatasetError if it is not plain YAML, or not a mapping."""
    try:
        content = reading.read_yaml(file) or {}
    except BrainvisError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds no settings; it needs lines such as `window: [0, 100]`.")
    return {key: value for key, value in content.items() if value is not None}


def stored_beside(folder: Path) -> Path:
    """Where the array files of the data in `folder` are stored: in that folder, or beside the runs if it cannot be
    written to."""
    return beside_runs("data") / folder.name if read_only(folder) else folder


def read_about(file: Path) -> dict:
    """What an array file (`stored`) says about itself; empty if there is none, or if it cannot be read."""
    try:
        with safe_open(file, "numpy") as content:
            about = json.loads(bytes(content.get_tensor("about")))
        return about if isinstance(about, dict) else {}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}  # damaged: it is rebuilt when the data set is opened
