"""Differences between two presets, field by field."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from brainvis.configuration.changes import configure

LEFT_OUT = ("phantom", "encoders", "permuted_labels")  # concern data and other branches, not the method


def preset_differences(preset: str, against: str = "paper", dataset: str = "phantom", part: str = "") -> list[dict]:
    """Fields in which a preset differs from another: rows with `setting` and each preset's value under its name.

    `part` limits it to one part of the configuration ("time"). BrainvisError: a preset is neither known nor a file.
    """
    own, other = (_flat(asdict(configure(name, "full", dataset))) for name in (preset, against))
    names = [name for name in own if name.startswith(f"{part}." if part else "") and own[name] != other.get(name)]
    names = [name for name in names if name.partition(".")[0] not in LEFT_OUT]
    return [{"setting": name, against: _said(other.get(name)), preset: _said(own[name])} for name in names]


def _flat(values: dict, name: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries to dotted names."""
    flat = {}
    for key, value in values.items():
        path = f"{name}.{key}" if name else key
        flat |= _flat(value, path) if isinstance(value, dict) else {path: value}
    return flat


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
