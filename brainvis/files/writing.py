"""Reading and writing: atomic, and one process at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from platform import node

import psutil
from safetensors import SafetensorError, safe_open

from brainvis.files.folders import BrainvisError, OriginalError, readable_size
from brainvis.files.running import held

HOST = re.sub(r"[^\w-]", "-", node()) or "host"
ORIGIN = ("file", "sha256", "kind", "stands_in", "weights")  # what is recorded about the authors' weights
HALF = re.compile(r"\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]+\.part$")  # the end of a partial file's name
DAY = 86_400.0  # seconds after which the writer of a partial file on another machine counts as dead


class WriteError(BrainvisError, OSError):
    """A full disk, or a folder that cannot be written to; the message names the file."""


def write_aside(path: Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Let `write` write a temporary file beside `path`, then rename it: readers never see a partial file, even after a
    crash.

    A `durable` file is flushed to disk before it is renamed, so that it also survives a power failure.

    Raises:
        WriteError: the disk or the folder refuses; the previous file is unchanged.
    """
    aside = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if durable:
            remove_leftovers(path.parent, path.name)
        write(aside)
        if durable:
            _to_disk(aside)
        aside.replace(path)
        if durable and os.name != "nt":  # Windows cannot open folders
            _to_disk(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own errors
        if isinstance(error, BrainvisError):
            raise
        raise WriteError(f"{path} cannot be written: {_why(path, error)}") from error
    finally:
        with suppress(OSError):  # a folder that is gone or read-only has no partial file
            aside.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the partial files of dead writers: killed on this machine, or silent for a day on another."""
    for half in folder.glob(f".{name}.*.part"):
        found = HALF.search(half.name)
        here = found is not None and found["host"] == HOST
        with suppress(FileNotFoundError):  # its writer was faster
            if not psutil.pid_exists(int(found["pid"])) if here else half.stat().st_mtime < time.time() - DAY:
                half.unlink()


def check_writable(folder: Path, size: int = 0) -> None:
    """Create `folder` if necessary; WriteError if it cannot be written to, or has no room for `size` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WriteError(f"{folder} cannot be written to: {_why(folder, error)}") from error
    if (free := psutil.disk_usage(str(folder)).free) < size:
        told = f"{readable_size(size)} needed in {folder}, {readable_size(free)} free"
        advice = "Free some space, or set BRAINVIS_RUNS to a folder on another disk."
        raise WriteError(f"Not enough disk space: {told}. {advice}")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(path: Path, error: Exception) -> str:
    """The system's error message, and what to do."""
    reason = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
    with suppress(OSError):
        free = psutil.disk_usage(str(path.parent)).free
        return f"{reason} ({readable_size(free)} free). Free some space or make the folder writable, then run it again."
    return f"{reason}. Make the folder writable, then run it again."


def write_json(path: Path, content: object, indent: int | None = 1) -> None:
    """Write JSON atomically."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_aside(path, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))


def sealed_origin(origin: dict[str, str]) -> dict[str, str]:
    """`origin` with a checksum of its content."""
    said = json.dumps([origin[key] for key in ORIGIN])
    return {**origin, "sealed": hashlib.sha256(said.encode()).hexdigest()}


def read_origin(path: Path) -> dict[str, str]:
    """Origin of the authors' weights in `path`, as written by `brainvis.models.original`; empty if there is no file.

    Raises:
        OriginalError: the file is damaged, or does not state its origin.
    """
    try:
        with safe_open(path, framework="np") as content:
            stored = content.metadata() or {}
        origin = {key: stored[key] for key in ORIGIN}
        if stored["sealed"] != sealed_origin(origin)["sealed"]:
            raise KeyError("sealed")
        return origin
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise OriginalError(f"{path} is damaged; write it again: python -m brainvis original FILE ...") from error


def original_weights(folder: Path) -> dict[str, dict[str, str]]:
    """The authors' weights in the folder of a run, by the training that they replace, with their origin."""
    files = sorted(folder.glob("*.original.safetensors"))
    return {file.name.removesuffix(".original.safetensors"): read_origin(file) for file in files}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, even across the machines of a cluster; WriteError if its folder cannot be written to."""
    check_writable(path.parent)
    with held(path.with_name(f".{path.name}.lock")):
        yield
