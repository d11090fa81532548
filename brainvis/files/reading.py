"""Safe reading of untrusted files: JSON, YAML, pictures; weights are in `tensors`.

Whatever a file contains, it runs no code, exhausts neither time nor memory, and is rejected with one sentence that
names it. Light to import: Pillow is imported only to read a picture.
"""

from __future__ import annotations

import io
import json
import math
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from brainvis.files.folders import BrainvisError

if TYPE_CHECKING:
    from PIL.Image import Image

# Largest size in bytes of a file, or of a part of it: far above what studies need, far below what does harm.
JSON_BYTES, YAML_BYTES, PICTURE_BYTES = 16 * 2**20, 4 * 2**20, 256 * 2**20
YAML_VALUES, YAML_DEPTH = 200_000, 50
PIXELS, SCANS = 64_000_000, 10  # of a picture; how often a progressive JPEG may draw that many
FORMATS = ("JPEG", "PNG")


# Names used as folders and in commands.
SAFE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
UNSAFE = (
    "its name becomes a folder name, which may have at most 200 characters (letters from a to z, digits, `.`, `_` and "
    "`-`) and must not start with `.` or `-`. Rename it"
)


def safe_name(name: str) -> bool:
    """Whether a folder may have this name; if not, `UNSAFE` says why."""
    return re.fullmatch(SAFE_NAME, name) is not None


def refuse(path: Path, wrong: str, cause: BaseException | None = None) -> NoReturn:
    """Raise BrainvisError: `path` and what is wrong with it."""
    raise BrainvisError(f"{path} {wrong}") from cause


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def plain_file(path: Path, most: int | None = None) -> int:
    """Size in bytes of a file, which must not be a device, pipe or folder and may have at most `most` bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        BrainvisError: it is something else, or too large.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # circular links, or an invalid name
        refuse(path, f"cannot be read: {reason(error)}. Repair or remove it.", error)
    if not stat.S_ISREG(state.st_mode):
        refuse(path, "is not a regular file, but a folder, a pipe or a device. Put the file itself there.")
    if most is not None and state.st_size > most:
        refuse(path, f"has {state.st_size:,} bytes; such a file may have at most {most:,}. Is it the right one?")
    return state.st_size


def read_text(path: Path, most: int, kind: str = "text") -> str:
    """A text file, in UTF-8 and of at most `most` bytes; `kind` names it in messages."""
    plain_file(path, most)
    try:
        with path.open("rb") as stream:
            return stream.read(most).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(path, f"is damaged: it is not {kind} ({reason(error)}). Repair or remove it.", error)


def read_json(path: Path, missing: dict | None = None) -> dict:
    """A dictionary from a JSON file; `missing`, if given, replaces a file that does not exist.

    Raises:
        FileNotFoundError: the file does not exist, and `missing` is not given.
        BrainvisError: the file holds something else, a duplicate key, or an invalid number.
    """
    try:
        text = read_text(path, JSON_BYTES, "JSON")
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    try:
        content = json.loads(text, parse_constant=_no_number, parse_float=_number, object_pairs_hook=_table)
    except (ValueError, RecursionError) as error:
        refuse(path, f"is damaged: it is not JSON ({reason(error)}). Repair or remove it.", error)
    if not isinstance(content, dict):
        refuse(path, f"holds a value of type {type(content).__name__}, not a dictionary. Repair or remove it.")
    return content


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _number(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _no_number(text[:40])


def _table(pairs: list[tuple[str, Any]]) -> dict:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:80]!r} appears twice")
    return table


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader, in C if available; a duplicate key is an error."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise ValueError(f"line {node.start_mark.line + 1}: a key appears twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file: plain values only, without anchors and aliases, which can expand without limit.

    Raises:
        BrainvisError: it is not a YAML file, or contains an anchor or alias.
    """
    text, depth = read_text(path, YAML_BYTES, "plain YAML"), 0
    try:
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1
                raise ValueError(f"line {line}: anchors (&) and aliases (*) are not allowed; write their values out")
            if depth > YAML_DEPTH or count > YAML_VALUES:
                raise ValueError(f"it has more than {YAML_DEPTH} levels or {YAML_VALUES:,} values")
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # PyYAML passes on any error of Python's own types
        said = " ".join(str(error).split())[:300] or type(error).__name__
        refuse(path, f"cannot be read as plain YAML: {said}", error)


def open_picture(path: Path) -> Image:
    """Decode a picture file in one of `FORMATS`, as RGB.

    Raises:
        FileNotFoundError: the file does not exist.
        BrainvisError: it is not such a picture, is damaged, or has more than `PIXELS` pixels.
    """
    from PIL import Image

    plain_file(path, PICTURE_BYTES)
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            pixels = math.prod(picture.size)
            paints = content.count(b"\xff\xda") if picture.format != "PNG" else 1
            if pixels > PIXELS or pixels * paints > PIXELS * SCANS:
                raise ValueError(f"{picture.width} x {picture.height} pixels, drawn {paints} times, are too many")
            return picture.convert("RGB")
    except Exception as error:  # Pillow raises various errors for damaged files
        refuse(path, f"cannot be read as a picture ({reason(error)}). Restore it.", error)
