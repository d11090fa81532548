"""Digests of values and of files, and a record of which files have been verified.

A file is read in full once. From then on, its size, times and inode show whether it is unchanged. This record is kept
beside the runs and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from brainvis.files.folders import BrainvisError, runs_folder
from brainvis.files.reading import read_json
from brainvis.files.writing import WriteError, write_json

MEMORY = ".checked.json"  # in the folder of all runs
BLOCK = 2**20  # bytes read at a time
LARGE = 2**28  # bytes; reading more than that shows its progress
WORTH = 2**20  # bytes; the record is saved once at least this much has been read
SETTLED = 2.0  # seconds; a more recent file could still change without a new time stamp


class DamagedError(BrainvisError):
    """A file that is not what was written; the message names it."""


class UnsealedError(DamagedError):
    """A file without a checksum: written by an earlier version."""


def digest(description: object) -> str:
    """Twelve hexadecimal digits that identify any JSON-ready value."""
    return _sha256(description)[:12]


def file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits that identify a file's entire content."""
    return file_digests([path])[path][:16]


def file_digests(files: Iterable[Path], title: str = "checksums", watched: bool = False) -> dict[Path, str]:
    """SHA-256 of files, 64 hexadecimal digits each; unchanged files are not read again.

    `title` is shown on the progress bar. For `watched` files, it is reported if their content differs from the last
    reading.
    """
    memory, found = _memory(), {}
    states = {file: _state(file) for file in files}
    new = [file for file, state in states.items() if memory.found(file, state, "sha256") is None]
    size = sum(states[file][0] for file in new)
    with tqdm(total=size, desc=title, unit="B", unit_scale=True, disable=size < LARGE) as bar:
        for file in new:
            found[file] = _read_digest(file, bar)
            before = memory.learn(file, states[file], "sha256", found[file])
            if watched and before not in (None, found[file]):
                tqdm.write(f"{file} has changed since it was last read.")
    memory.write()
    return {file: found.get(file) or memory.found(file, state, "sha256") for file, state in states.items()}


def verified(file: Path, what: str, check: Callable[[], None]) -> None:
    """Have `check` read a file against its own checksums, unless this very file has already passed; `what`
    distinguishes checks. Errors from `check` are passed on."""
    remembered(file, what, lambda: check() or "passed")


def remembered(file: Path, what: str, ask: Callable[[], str]) -> str:
    """The answer of `ask` about a file; it is asked again only after the file has changed. `what` distinguishes
    questions."""
    memory, state = _memory(), _state(file)
    if (said := memory.found(file, state, what)) is None:
        said = ask()
        memory.learn(file, state, what, said)
        memory.write()
    return said


def read_all_again() -> None:
    """Forget which files have been read: each is read again, once."""
    _memories.clear()
    (runs_folder() / MEMORY).unlink(missing_ok=True)


def write_sealed(path: Path, content: dict) -> None:
    """Write JSON with a checksum of its content; values must survive a JSON round trip."""
    write_json(path, {**content, "sha256": _sha256(content)})


def read_sealed(path: Path) -> dict:
    """The content that `write_sealed` wrote, without the checksum.

    Raises:
        FileNotFoundError: no file.
        UnsealedError: it has no checksum.
        BrainvisError: it is damaged, or its content is not what was written.
    """
    content = read_json(path)
    if (seal := content.pop("sha256", None)) is None:
        raise UnsealedError(f"{path} has no checksum: it was written by an earlier version, or was edited.")
    if seal != _sha256(content):
        raise DamagedError(f"{path} is damaged or was edited: it does not match its own checksum.")
    return content


def _sha256(description: object) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()


def _read_digest(file: Path, bar: tqdm) -> str:
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
            bar.update(len(block))
    return total.hexdigest()


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


@dataclass
class _Memory:
    """What is known about files, by path: their state at the time, and the answer of each check."""

    file: Path
    known: dict[str, dict] = field(default_factory=dict)
    unwritten: dict[str, int] = field(default_factory=dict)  # bytes

    def found(self, file: Path, state: list[int], what: str) -> str | None:
        """The answer of `what` for a file in this state."""
        entry = self.known.get(str(file.absolute()), {})
        return entry.get(what) if entry.get("state") == state else None

    def learn(self, file: Path, state: list[int], what: str, said: str) -> str | None:
        """Record the answer, unless the file is so recent that it may still change; returns the previous answer."""
        name = str(file.absolute())
        entry = self.known.get(name, {})
        if state == _state(file) and max(state[1:3]) / 1e9 < time.time() - SETTLED:
            self.known[name] = (entry if entry.get("state") == state else {"state": state}) | {what: said}
            self.unwritten[name] = state[0]
        return entry.get(what)

    def write(self) -> None:
        """Save new entries, merged with what other processes have written in the meantime."""
        if sum(self.unwritten.values()) < WORTH:
            return
        with suppress(WriteError):  # a folder that cannot be written to: everything is read again next time
            write_sealed(self.file, _stored(self.file) | {name: self.known[name] for name in self.unwritten})
        self.unwritten.clear()


_memories: dict[Path, _Memory] = {}  # by file: each folder of runs has its own


def _memory() -> _Memory:
    file = runs_folder() / MEMORY
    if file not in _memories:
        _memories[file] = _Memory(file, _stored(file))
    return _memories[file]


def _stored(file: Path) -> dict[str, dict]:
    """The record on disk; a damaged one counts as empty."""
    with suppress(BrainvisError, OSError):
        return read_sealed(file)
    return {}
