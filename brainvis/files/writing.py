"""Reading and writing: whole or not at all, and one at a time."""

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
ORIGIN = ("file", "sha256", "kind", "stands_in", "weights")  # what is said of the authors' weights
HALF = re.compile(r"\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]+\.part$")  # the end of a half file's name
DAY = 86_400.0  # seconds after which the writer of a half file on another machine counts as gone


class WriteError(BrainvisError, OSError):
    """A disk that is full, or a folder that cannot be written to; the message names the file."""


def write_aside(path: Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader never meets half a file, whatever is killed.

    A `durable` file is on the disk before it has its name, so that no loss of power takes it either.

    Raises:
        WriteError: the disk or the folder refuses; what was there before is as it was.
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
        if durable and os.name != "nt":  # Windows opens no folders
            _to_disk(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        if isinstance(error, BrainvisError):
            raise
        raise WriteError(f"{path} cannot be written: {_why(path, error)}") from error
    finally:
        with suppress(OSError):  # a folder that is gone or read-only has no half file
            aside.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the half files of writers that are gone: killed on this machine, or silent for a day on another."""
    for half in folder.glob(f".{name}.*.part"):
        found = HALF.search(half.name)
        here = found is not None and found["host"] == HOST
        with suppress(FileNotFoundError):  # its writer was quicker
            if not psutil.pid_exists(int(found["pid"])) if here else half.stat().st_mtime < time.time() - DAY:
                half.unlink()


def check_writable(folder: Path, size: int = 0) -> None:
    """Make `folder` if need be; WriteError if it cannot be written to, or has no room for `size` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WriteError(f"{folder} cannot be written to: {_why(folder, error)}") from error
    if (free := psutil.disk_usage(str(folder)).free) < size:
        told = f"{readable_size(size)} are needed in {folder}, and {readable_size(free)} are free"
        raise WriteError(f"There is no room: {told}. Make some, or let BRAINVIS_RUNS name a folder on another disk.")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(path: Path, error: Exception) -> str:
    """What the system says, and what to do."""
    reason = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
    with suppress(OSError):
        free = psutil.disk_usage(str(path.parent)).free
        return f"{reason} ({readable_size(free)} are free). Make room or the folder writable, then run it again."
    return f"{reason}. Make the folder writable, then run it again."


def write_json(path: Path, content: object, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_aside(path, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))


def sealed_origin(origin: dict[str, str]) -> dict[str, str]:
    """`origin` with a checksum of what it says."""
    said = json.dumps([origin[key] for key in ORIGIN])
    return {**origin, "sealed": hashlib.sha256(said.encode()).hexdigest()}


def read_origin(path: Path) -> dict[str, str]:
    """Where the authors' weights in `path` are from, as `brainvis.models.original` wrote it; empty without a file.

    Raises:
        OriginalError: the file is damaged, or nothing in it says where it is from.
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
    """The authors' weights that lie in the folder of a run, by the training that they replace, and their origin."""
    files = sorted(folder.glob("*.original.safetensors"))
    return {file.name.removesuffix(".original.safetensors"): read_origin(file) for file in files}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, across machines of a cluster too; WriteError if its folder cannot be written to."""
    check_writable(path.parent)
    with held(path.with_name(f".{path.name}.lock")):
        yield
