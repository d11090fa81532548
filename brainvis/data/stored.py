"""Trials in an array file: written trial by trial, checksummed, and mapped for reading.

A safetensors file with "trials" (trial, channel, time), any other signals that belong to each trial, "about" (JSON with
all other information), and a checksum of each trial. Its header is one page, so that signals start on a page boundary;
it is written last, because only then is the number of trials known. Neither writing nor reading ever holds all signals
in memory.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from brainvis.data.source import DatasetError
from brainvis.files import DamagedError, digest, locked, readable_size, verified, write_aside

PAGE = 4096  # bytes
CHECKSUM = 8  # bytes of a trial's SHA-256
SIGNALS = ("trials", "before")  # in file order


class Stored(NamedTuple):
    """Content of an array file, mapped: processes share its pages, and writing to the tensors never changes the
    file."""

    signals: dict[str, Tensor]  # those of `SIGNALS` that exist, each (trial, channel, time) float32
    about: dict  # as returned by JSON


def stored(target: Path, made_from: str, make: Callable[[], None]) -> Stored:
    """The content of the array file `target`. If there is no such file that is complete, unchanged and made from
    `made_from`, `make` writes it with `write_trials`, in one of several processes. DatasetError: a folder that cannot
    be written to."""
    if (found := _mapped(target, made_from, told=True)) is not None:
        return found
    try:
        with locked(target):
            if (found := _mapped(target, made_from)) is None:  # another process may have made it while this one waited
                make()
                found = _mapped(target, made_from)
    except OSError as error:
        cure = f"Make {target.parent} writable, or make a folder of links to the files and set BRAINVIS_DATA"
        raise DatasetError(f"{target} cannot be written ({error}). {cure} to the folder above it.") from error
    return found


def check_room(target: Path, size: int) -> None:
    """DatasetError if there is no space for a file of `size` bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.parent).free) < size * 1.01 + 2**20:
        wrong = f"Not enough disk space for {target}: it needs {readable_size(size)}, but {readable_size(free)} is free"
        raise DatasetError(
            f"{wrong}. Free some space, or move the data and set BRAINVIS_DATA to the folder above them."
        )


def write_trials(target: Path, made_from: str, trials: Iterable[tuple[Tensor, ...]], about: Callable[[], dict]) -> None:
    """Write an array file: for each trial its `SIGNALS`, float32 (channel, time) with the same shape for all trials.
    `about` is called once they are written. ValueError: no trials."""

    def write(path: Path) -> None:  # by hand: the safetensors library writes only what is entirely in memory
        checksums, shapes = [], ()
        with path.open("wb") as stream, ExitStack() as opened:
            stream.seek(PAGE)
            files = [stream]
            for signals in trials:
                if not shapes:
                    shapes = [tuple(signal.shape) for signal in signals]
                    more = (tempfile.TemporaryFile(dir=path.parent) for _ in signals[1:])
                    files += [opened.enter_context(file) for file in more]
                for file, signal in zip(files, signals, strict=True):
                    file.write(signal.contiguous().numpy())
                checksums.append(_checksum(signals))
            if not checksums:
                raise ValueError("there are no trials to write")
            for file in files[1:]:
                file.seek(0)
                shutil.copyfileobj(file, stream, 2**20)
            content = {name: ("F32", [len(checksums), *shape]) for name, shape in zip(SIGNALS, shapes, strict=False)}
            told, sums = json.dumps(about()).encode(), b"".join(checksums)
            content |= {"about": ("U8", [len(told)]), "checksums": ("U8", [len(checksums), CHECKSUM])}
            stream.write(told + sums)
            stream.seek(0)
            stream.write(_head(content, {"made_from": made_from, "sealed": _seal(made_from, told, sums)}))

    write_aside(target, write)


def _head(content: dict[str, tuple[str, list[int]]], metadata: dict[str, str]) -> bytes:
    """A safetensors header, padded with spaces to one page, which the format allows."""
    header, end = {"__metadata__": metadata}, 0
    for name, (kind, shape) in content.items():
        start, end = end, end + math.prod(shape) * (4 if kind == "F32" else 1)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    return (PAGE - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(PAGE - 8)


def _checksum(signals: Iterable[Tensor]) -> bytes:
    total = hashlib.sha256()
    for signal in signals:
        total.update(signal.contiguous().numpy())
    return total.digest()[:CHECKSUM]


def _seal(made_from: str, about: bytes, checksums: bytes) -> str:
    return digest([made_from, hashlib.sha256(about).hexdigest(), hashlib.sha256(checksums).hexdigest()])


def _mapped(file: Path, made_from: str, told: bool = False) -> Stored | None:
    """The content of an array file; None unless it is complete, unchanged and made from `made_from`. Damage is
    reported, unless it was or will be (`told`)."""
    try:
        with safe_open(file, "pt") as content:
            if (content.metadata() or {}).get("made_from") != made_from:
                return None
            signals = {name: content.get_tensor(name) for name in SIGNALS if name in content.keys()}
            about = bytes(content.get_tensor("about").numpy())
        verified(file, "trials", lambda: check_array(file))
        return Stored(signals, json.loads(about))
    except DamagedError as error:
        if not told:
            tqdm.write(f"{error} It is being made again.")
        return None
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None


def check_array(file: Path) -> None:
    """Check an array file against its checksums; DamagedError if it is not what was written, or has values that are not
    finite."""
    try:
        with safe_open(file, "pt") as content:
            metadata, there = content.metadata(), content.keys()
            signals = [content.get_tensor(name) for name in SIGNALS if name in there]
            about, checksums = (bytes(content.get_tensor(name).numpy()) for name in ("about", "checksums"))
        sealed, made_from = metadata["sealed"], metadata["made_from"]
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedError(f"{file} is damaged: it is not a complete array file.") from error
    if not signals or any(signal.dtype != torch.float32 or signal.ndim != 3 for signal in signals):
        told = ", ".join(f"{signal.dtype} {tuple(signal.shape)}" for signal in signals)
        raise DamagedError(f"{file} is damaged: its trials are {told or 'missing'}.")
    if sealed != _seal(made_from, about, checksums) or {CHECKSUM * len(signal) for signal in signals} != {
        len(checksums)
    }:
        raise DamagedError(f"{file} is damaged: its table of trials is not what was written.")
    rows = zip(*signals, strict=True)
    for number, trial in enumerate(tqdm(rows, f"checking {file.stem} (once)", len(signals[0]), unit="trial", delay=2)):
        wrong = _checksum(trial) != checksums[CHECKSUM * number :][:CHECKSUM]
        if wrong or not all(signal.isfinite().all() for signal in trial):
            raise DamagedError(f"{file} is damaged: trial {number} is not what was written.")
