"""The configuration of a study: a built-in preset, or a custom one based on it, with an ablation's changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from itertools import combinations
from textwrap import shorten
from typing import Any

from pydantic import TypeAdapter, ValidationError

from brainvis.configuration.presets import ABLATIONS, FOR_DATASET, PRESETS
from brainvis.configuration.settings import Configuration
from brainvis.configuration.sweeps import SWEEPS
from brainvis.files import BrainvisError, resolve
from brainvis.files.reading import UNSAFE, read_yaml, safe_name


def configure(preset: str, ablation: str, dataset: str = "phantom") -> Configuration:
    """The configuration of a preset for a data set, with the changes of an ablation.

    Args:
        ablation: an entry of `ABLATIONS` or `SWEEPS`, or several joined by "+", all of whose changes apply.
        preset: one of `PRESETS`, or the path of a YAML file that names its starting preset and its changes:

            start: paper
            time: {pretraining: {epochs: 3}}
            generation: {samples: 1, semantic_steps: 20}

    Raises:
        BrainvisError: the preset is neither, or the file has a field or value that is not allowed.
        KeyError: the ablation is not in its table.
    """
    start, own = (preset, {}) if isinstance(preset, str) and preset in PRESETS else _read_preset(preset)
    configuration, where = changed(PRESETS[start], FOR_DATASET.get((start, dataset), {})), f"preset {preset}"
    try:
        configuration = changed(configuration, own)
        where = f"ablation {ablation} of preset {preset}"
        made = []
        for name in ablation.split("+"):
            changes = (ABLATIONS | SWEEPS)[name].changes
            made.append(changes(configuration) if callable(changes) else changes)
            configuration = changed(configuration, made[-1])
        if any(changed(configuration, changes) != configuration for changes in made):
            raise BrainvisError("its parts set the same field to different values, so that one undoes the other")
        return configuration
    except BrainvisError as error:
        raise BrainvisError(f"{where}: {error}") from error


def combined(ablation: str) -> list[str]:
    """The ablations contained in a combination: `full`, each part, all combinations of some parts, and finally the
    combination itself. "a+b" -> ["full", "a", "b", "a+b"]."""
    names = [name for name in ablation.split("+") if name != "full"]
    return ["full", *("+".join(some) for n in range(len(names)) for some in combinations(names, n + 1))]


def changed(part: Any, changes: Mapping) -> Any:
    """A configuration, or a part of one, with some fields replaced; `changes` is nested like the dataclasses.

    Raises:
        BrainvisError: unknown field or invalid value; the message gives the dotted path and what is allowed.
    """
    kind = TypeAdapter(type(part))
    # As JSON, so that lists become tuples while text never becomes a number; YAML's dates and bytes become text.
    text = json.dumps(_merged(asdict(part), changes), default=str)
    try:
        return kind.validate_json(text, strict=True)
    except ValidationError as error:
        raise BrainvisError(_explained(part, error.errors()[0])) from error


def _merged(values: dict, changes: Mapping) -> dict:
    both = {name for name in changes if isinstance(changes[name], Mapping) and isinstance(values.get(name), dict)}
    return {**values, **changes, **{name: _merged(values[name], changes[name]) for name in both}}


def _explained(part: Any, error: dict) -> str:
    """What is wrong, in one sentence, from the first of pydantic's errors."""
    path, parent, present = ".".join(map(str, error["loc"])), part, part
    for name in error["loc"]:
        parent, present = present, getattr(present, str(name), None)
    if error["type"] == "unexpected_keyword_argument":
        where = ".".join(map(str, error["loc"][:-1])) or "the configuration"
        return f"there is no field {path}; {where} has {', '.join(field.name for field in fields(parent))}"
    needs = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and is_dataclass(present):  # involves several fields: has its own sentence
        return f"{path}.{needs}".removeprefix(".")
    value = "missing" if error["type"] == "missing" else shorten(repr(error["input"]), 200, placeholder=" ...")
    known = [field.name for field in fields(present)] if is_dataclass(present) else present
    like = "" if known is None else f"it must be a value like {known!r}: "
    return f"{path} is {value}; {like}{needs}"


def _read_preset(name: str) -> tuple[str, dict]:
    """The preset that a file starts from, and its changes."""
    names = ", ".join(PRESETS)
    try:
        file = resolve(name)
        there = file.suffix in (".yml", ".yaml") and file.is_file()
    except (OSError, ValueError, TypeError, RuntimeError):  # not a path: too long, a zero byte, a number, ~nobody
        there = False
    if not there:
        shown = shorten(repr(name), 200, placeholder=" ...")
        raise BrainvisError(f"preset is {shown}; choose one of {names}, or give the path of a YAML file")
    if file.stem in PRESETS:
        raise BrainvisError(f"preset {name}: {file.stem!r} is a built-in preset with runs of its own; rename the file")
    if not safe_name(file.stem):
        raise BrainvisError(f"preset {name!r}: {UNSAFE}, for example to mine{file.suffix}.")
    content = read_yaml(file)
    if not isinstance(content, dict) or content.get("start") not in list(PRESETS):
        raise BrainvisError(f"preset {name} must say where it starts: add `start:` with one of {names}")
    return content.pop("start"), content
