"""Reading and writing: whole or not at all, and one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from brainvis.files.folders import BrainvisError, OriginalError


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader never meets half a file, whatever is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")  # runs of two subjects may write the same file at once
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: object, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_aside(path, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path, missing: dict | None = None) -> dict:
    """A dictionary from a JSON file; `missing`, where that is given, if there is no file.

    Raises:
        FileNotFoundError: no file, and no `missing`.
        BrainvisError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    except ValueError as error:
        raise BrainvisError(f"{path} is damaged: it is not JSON ({error}). Repair or remove it.") from error
    if not isinstance(content, dict):
        raise BrainvisError(f"{path} holds a {type(content).__name__}, not a dictionary. Repair or remove it.")
    return content


def read_origin(path: Path) -> dict[str, str]:
    """Where the authors' weights in `path` are from, as `brainvis.models.original` wrote it; empty without a file.

    Raises:
        OriginalError: the file is damaged, or nothing in it says where it is from.
    """
    try:
        with safe_open(path, framework="np") as content:
            return {key: content.metadata()[key] for key in ("file", "sha256", "kind", "stands_in")}
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise OriginalError(f"{path} is damaged; write it again: python -m brainvis original FILE ...") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`; the system takes it back if this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield
