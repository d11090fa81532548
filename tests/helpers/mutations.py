"""Damage to files, and what becomes of it: the same content, a sentence that names the file, silence, or a traceback.

A `Kind` is one kind of file that brainvis reads, written small. It is damaged again and again, the same way each time
for the same seed, and read; then everything in its folder is as it was. No clock and no memory of checksums is faked.
"""

import hashlib
import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits

import torch
from pytest import MonkeyPatch
from torch import Tensor, nn

from brainvis.files import BrainvisError
from brainvis.generation import GENERATORS, GeneratorSource

OUTCOMES = ("correct", "clear", "silent", "raw")
BLOCK = 512  # bytes of the longest block that is damaged as a whole


@dataclass
class Kind:
    """Files of one kind, how they are read, and what else protects them."""

    name: str
    folder: Path  # of everything that reading may change
    files: Sequence[Path]  # that are damaged, one at a time
    read: Callable[[], object]  # their content, to be compared by ==
    right: list = field(default_factory=list)  # contents that are as good, such as that of the checkpoint before
    later: Callable[[], object] | None = None  # refuses other content that `read` accepts: loads a run made before
    whole: Callable[[], object] | None = None  # a slower reader that takes the turn of `read` once in `every`
    every: int = 50
    named: Callable[[Path], str] = lambda file: file.name  # what a sentence has to name
    mutations: int = int(os.environ.get("MUTATIONS", "1000"))
    # Whether `read` alone has to refuse the file or give the right content, asked once it is damaged.
    alone: Callable[[Path], bool] = lambda file: False


def mutated(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and other bytes than these. Every second mutation of a text leaves a text, which is more easily
    taken for a good one."""
    known = OF_TEXT if rng.random() < 0.5 and _is_text(content) else MUTATIONS
    while True:
        done = rng.choice(list(known))
        if (result := known[done](content, rng)) != content:
            return done, result


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _place(content: bytes, rng: random.Random, most: int = BLOCK) -> tuple[int, int]:
    """Where a block begins and ends."""
    length = rng.randint(1, min(most, len(content)))
    start = rng.randint(0, len(content) - length)
    return start, start + length


def _flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _zero(content: bytes, rng: random.Random) -> bytes:
    start, end = _place(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    start, end = _place(content, rng, most=rng.choice((1, 2, 4, 16, BLOCK)))
    return content[:start] + rng.randbytes(end - start) + content[end:]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + rng.randbytes(rng.choice((1, 2, 4, 16, BLOCK))) + content[place:]


def _double(content: bytes, rng: random.Random) -> bytes:
    start, end = _place(content, rng)
    return content[:end] + content[start:]


def _swap(content: bytes, rng: random.Random) -> bytes:
    length = rng.randint(1, max(1, min(BLOCK, len(content) // 2)))
    first = rng.randint(0, max(0, len(content) - 2 * length))
    second = rng.randint(first + length, max(first + length, len(content) - length))
    one, other = content[first : first + length], content[second : second + length]
    return content[:first] + other + content[first + length : second] + one + content[second + length :]


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit flipped": _flip,
    "a block zeroed": _zero,
    "bytes overwritten": _overwrite,
    "cut short": lambda content, rng: content[: rng.randrange(len(content))],
    "emptied": lambda content, rng: b"",
    "bytes inserted": _insert,
    "a block doubled": _double,
    "two blocks swapped": _swap,
    "garbage appended": lambda content, rng: content + rng.randbytes(rng.randint(1, BLOCK)),
}


def _replace(content: bytes, rng: random.Random) -> bytes:
    """A digit or letter becomes another."""
    place = rng.choice([place for place, byte in enumerate(content) if chr(byte).isalnum() and byte < 128])
    like = next(kind for kind in (digits, ascii_lowercase, ascii_uppercase) if chr(content[place]) in kind)
    return content[:place] + rng.choice(like).encode() + content[place + 1 :]


def _of_lines(content: bytes, rng: random.Random, lose: bool) -> bytes:
    """A line, or in a file of one line what is between two commas, is lost or changes places with another."""
    mark = b"\n" if content.count(b"\n") > 2 else b","
    lines = content.split(mark)
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return mark.join(lines[:first] + lines[first + lose :])


OF_TEXT: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a character replaced": _replace,
    "a line lost": partial(_of_lines, lose=True),
    "two lines swapped": partial(_of_lines, lose=False),
}


@dataclass
class Survey:
    """What became of a kind's mutations."""

    counts: Counter
    wrong: list[str]  # what was silent or raw, in words


def survey(kind: Kind) -> Survey:
    """Damage a kind of file `kind.mutations` times."""
    rng, found = random.Random(zlib.crc32(kind.name.encode())), Survey(Counter(), [])
    kept = _Kept(kind.folder)
    right = [kind.read(), *kind.right]
    right_whole = [kind.whole(), *kind.right] if kind.whole else []
    if kind.later:
        kind.later()
    kept.restore()
    contents = {file: file.read_bytes() for file in kind.files}
    for number in range(kind.mutations):
        file = rng.choice(kind.files)
        done, damaged = mutated(contents[file], rng)
        whole = kind.whole is not None and number % kind.every == 0
        kept.damage(file, damaged)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # "... It is converted anew.", and bars
            outcome, said = _outcome(kind, file, kind.whole if whole else kind.read, right_whole if whole else right)
        kept.restore()
        found.counts[outcome] += 1
        if outcome in OUTCOMES[2:]:
            found.wrong.append(f"{outcome}: {kind.name}, mutation {number}: {file.name}, {done}: {said}")
    return found


def _outcome(kind: Kind, file: Path, read: Callable[[], object], right: list) -> tuple[str, str]:
    """One of `OUTCOMES`, and what was said."""
    said = "other content, without a word"
    try:
        if read() in right:
            return "correct", ""
        if kind.alone(file):
            return "silent", said
    except BrainvisError as error:
        said = _sentence(error)
        if kind.named(file) in said:
            return "clear", said
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    if kind.later is None:
        return ("silent" if said.startswith("other content") else "raw"), said
    try:
        kind.later()
    except BrainvisError as error:
        return ("clear" if kind.named(file) in _sentence(error) else "raw"), f"{said}; then: {_sentence(error)}"
    except Exception as error:
        return "raw", f"{said}; then {type(error).__name__}: {error}"
    return "silent", said


def _sentence(error: BrainvisError) -> str:
    """What is said, without the command below it: that may have the file's name whatever is wrong."""
    return str(error).partition("\n  mkdir ")[0]


class _Kept:
    """A folder as it is now: files, and links, which stand for files too large to be written again and again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.links = {file: os.readlink(file) for file in folder.rglob("*") if file.is_symlink()}
        files = (file for file in folder.rglob("*") if file.is_file() and file not in self.links)
        self.contents = {file: file.read_bytes() for file in files}
        self.states = {file: self._state(file) for file in self.contents}

    @staticmethod
    def _state(file: Path) -> tuple[int, ...]:
        state = file.lstat()
        return state.st_ino, state.st_mtime_ns, state.st_size

    @staticmethod
    def damage(file: Path, content: bytes) -> None:
        if file.is_symlink():
            file.unlink()
        file.write_bytes(content)

    def restore(self) -> None:
        """Everything as it was; what was not there is removed."""
        there = {Path(place, name) for place, _, names in os.walk(self.folder) for name in names}
        for file in there - self.contents.keys() - self.links.keys():
            file.unlink()
        for file, content in self.contents.items():
            if file not in there or self._state(file) != self.states[file]:
                file.parent.mkdir(parents=True, exist_ok=True)
                if file not in there or file.read_bytes() != content:
                    file.write_bytes(content)
                self.states[file] = self._state(file)
        for link, target in self.links.items():
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        places = {parent for file in (*self.contents, *self.links) for parent in file.parents}
        for place in [place for place in self.folder.iterdir() if place.is_dir() and place not in places]:
            shutil.rmtree(place)


def table(surveys: dict[str, Counter]) -> str:
    """Kinds and outcomes as a Markdown table."""
    total = sum(surveys.values(), Counter())
    lines = [f"| file | mutations | {' | '.join(OUTCOMES)} |", "|---|" + "--:|" * (1 + len(OUTCOMES))]
    for name, counts in [*surveys.items(), ("all", total)]:
        lines.append(f"| {name} | {counts.total():,} | {' | '.join(f'{counts[one]:,}' for one in OUTCOMES)} |")
    return "\n".join(lines)


# What builds kinds: their table, and what they share

KINDS: dict[str, Callable[[Path, MonkeyPatch], Kind]] = {}


def kind(name: str):
    """Puts what builds a `Kind` into the table."""

    def put(build: Callable[..., Kind]) -> Callable[..., Kind]:
        KINDS[name] = lambda folder, patch: replace(build(folder, patch), name=name)
        return build

    return put


def plain(value: object) -> object:
    """Values that == compares, bit by bit."""
    if isinstance(value, Tensor):
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(content).hexdigest()
    if isinstance(value, nn.Module):
        return plain(value.state_dict())
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def light(patch: MonkeyPatch) -> dict[str, str]:
    """A study's parameters with a generator that has no files, so that fingerprints cost little."""
    patch.setitem(GENERATORS, "light", GeneratorSource(GENERATORS["phantom"].load, lambda: "light 1"))
    return {"preset": "smoke", "backbone": "light"}
