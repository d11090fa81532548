"""Safe reading of untrusted weights: safetensors, and files written by `torch.save`.

No code in a file is run, and nothing larger than the file is built from it. Light to import: torch is imported only to
read a file.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm.auto import tqdm

from brainvis.files.folders import readable_size
from brainvis.files.reading import plain_file, reason, refuse

if TYPE_CHECKING:
    from torch import Tensor

# Largest size in bytes of the description of a file's tensors: far above what studies need, far below what does harm.
HEADER_BYTES, PICKLE_BYTES, DIRECTORY_BYTES = 32 * 2**20, 16 * 2**20, 64 * 2**20
RECORDS, INSTRUCTIONS = 200_000, 2_000_000  # of an archive of torch.save: its tensors, and the steps that describe them
VALUES, DEPTH = 10_000_000, 100  # in one value of a pickle
LARGE = 10**9  # bytes from which progress is shown
# What torch would call for a file although it allocates memory according to a number in it, and what of that is
# allowed. Everything else is harmless, or unknown to torch, which rejects it or replaces it with a stand-in.
CALLED = {f"torch._utils.{name}" for name in ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter")}
CALLED |= {"torch.Size", "torch.device"}
COSTLY = re.compile(r"torch\.\w+|torch\._\w+\..*|torch\..*(Tensor|Storage)|.*\.bytearray")
# Pickle instructions that create a value from nothing.
PLAIN = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE"}
PLAIN |= {"SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}


def check_safetensors(path: Path) -> None:
    """Reject a safetensors file whose header is larger than the file, or than any header needed.

    Raises:
        FileNotFoundError: the file does not exist.
        BrainvisError: that, or not a plain file. Its library rejects all other errors.
    """
    size = plain_file(path)
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if size < 8 or header > size - 8:
        refuse(path, f"is not a safetensors file, or is damaged: it has {size:,} bytes. Restore it.")
    if header > HEADER_BYTES:
        refuse(path, f"has a header of {header:,} bytes, more than any file read here needs. Is it the right one?")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped; errors as in `check_safetensors`, and BrainvisError for a damaged
    file."""
    from safetensors.torch import load_file

    check_safetensors(path)
    try:
        return load_file(path)
    except Exception as error:
        refuse(path, f"is not a safetensors file, or is damaged ({reason(error)}). Restore it.", error)


def load_tensors(path: Path, old: bool = False, stand_in: type | None = None) -> Any:
    """The content of a `torch.save` file, with tensors mapped from it; no code in it is run (`weights_only`).

    Before torch reads it, the archive is checked: the checksum of every record (which torch itself ignores), no
    compression, no overlap, nothing that builds more than the file holds. Afterwards: no tensor has more elements than
    the file holds.

    Args:
        old: also accept a file from before torch 1.6: not an archive, without checksums, and read as a whole.
        stand_in: replaces all classes and functions that torch does not know; None: they are rejected.

    Raises:
        FileNotFoundError: the file does not exist.
        BrainvisError: the file is damaged, truncated, not from `torch.save`, or asks for anything else.
    """
    import torch

    size = plain_file(path)
    try:
        archive = zipfile.is_zipfile(path)
        if not (archive or old):
            raise ValueError(
                "it is cut short, or was written before torch 1.6 (2020) and must be saved again elsewhere, "
                "with a newer torch"
            )
        check_archive(path) if archive else _check_old(path)
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if stand_in else []
        with torch.serialization.safe_globals([(type(stand_in.__name__, (stand_in,), {}), name) for name in foreign]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
        check_tensors(content, size)
    except Exception as error:  # a damaged pickle can fail in any way
        asked = re.search(r"GLOBAL (\S+)", str(error))  # torch itself advises running it
        said = f"it asks for GLOBAL {asked[1]}, which is code, not weights" if asked else reason(error)
        said = "its description of the tensors is damaged" if isinstance(error, KeyError | IndexError) else said
        refuse(path, f"is not a valid torch.save file: {said}. Fetch it again.", error)
    return content


def check_archive(path: Path) -> None:
    """ValueError for a zip archive not written by `torch.save`, or changed since: see `load_tensors`."""
    with path.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view of it
        _check_directory(content)
        with zipfile.ZipFile(stream) as archive:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise ValueError("it is a TorchScript program; save only its state dict")
        if not records or records[0].header_offset or len({record.filename for record in records}) < len(records):
            raise ValueError("its list of records is damaged")
        if len({record.filename.partition("/")[0] for record in records}) > 1:
            raise ValueError("it is an archive of another kind")
        total = sum(record.file_size for record in records)
        bar = tqdm(total=total, desc=f"checking {path.name}", unit="B", unit_scale=True, disable=total < LARGE)
        view, end = memoryview(content), 0
        with bar:
            for record in records:
                end = _check_record(record, view, end)
                bar.update(record.file_size)


def _check_directory(content: mmap.mmap) -> None:
    """ValueError if the archive's directory is too large to be read."""
    place = content.rfind(b"PK\x05\x06", max(0, len(content) - 2**16 - 22))
    (count, size) = struct.unpack("<HI", content[place + 10 : place + 16])
    if size == 2**32 - 1 or count == 2**16 - 1:
        locator = content.rfind(b"PK\x06\x06", max(0, place - 2**16), place)
        count, size = struct.unpack("<Q", content[locator + 32 : locator + 40])[0], size
        size = struct.unpack("<Q", content[locator + 40 : locator + 48])[0]
    if size > DIRECTORY_BYTES * 4 or count > RECORDS:
        raise ValueError(f"it has {count:,} records, listed in {size:,} bytes: too many")


def _check_record(record: zipfile.ZipInfo, content: memoryview, end: int) -> int:
    """Where the record ends; ValueError if it is incomplete, or starts before `end`."""
    name = record.filename
    if record.compress_type or record.compress_size != record.file_size or record.flag_bits & 1:
        raise ValueError(f"its record {name} is compressed or encrypted; torch.save does neither")
    head = content[record.header_offset : record.header_offset + 30]
    if record.header_offset < end or len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise ValueError(f"its record {name} is not where it should be, or overlaps another")
    named, extra = struct.unpack("<HH", head[26:30])
    begin = record.header_offset + 30
    stored = bytes(content[begin : begin + named])
    begin, finish = begin + named + extra, begin + named + extra + record.file_size
    if stored != record.orig_filename.encode("utf-8" if record.flag_bits & 0x800 else "cp437"):
        raise ValueError(f"its record {name} has a different name in its own header")
    if finish > len(content) or zlib.crc32(content[begin:finish]) != record.CRC:
        raise ValueError(f"the checksum of its record {name} is wrong: its content has changed")
    if name.endswith(".pkl"):
        if record.file_size > PICKLE_BYTES:
            raise ValueError(
                f"it describes its tensors in {record.file_size:,} bytes; at most {PICKLE_BYTES:,} are read"
            )
        check_pickle(io.BytesIO(content[begin:finish]))
    return finish


def _check_old(path: Path) -> None:
    """The same checks for a file from before torch 1.6: five pickles, then the numbers."""
    with path.open("rb") as stream:
        for _ in range(5):
            check_pickle(stream)


class _Value:
    """Result of a pickle instruction: how many values it contains, how deeply nested, and the name it refers to."""

    __slots__ = ("weight", "depth", "name")

    def __init__(self, parts: Iterable[_Value] = (), name: str = "") -> None:
        self.weight, self.depth, self.name = 1, 1, name
        self.add(parts)

    def add(self, parts: Iterable[_Value]) -> None:
        for part in parts:
            self.weight += part.weight
            self.depth = max(self.depth, part.depth + 1)
        if self.weight > VALUES or self.depth > DEPTH:
            raise ValueError(f"it nests values more than {DEPTH} levels deep, or more than {VALUES:,} of them")


def check_pickle(stream: IO[bytes]) -> None:
    """ValueError for a pickle that calls anything that allocates memory according to a number, or nests values without
    limit.

    Its instructions are inspected, not executed. A few bytes can make a tuple of 2 ** 40 tuples, on which Python's
    `hash` or `repr` never ends, or one nested so deeply that they crash.
    """
    stack: list[_Value] = []
    marks: list[int] = []  # positions in the stack
    memo: dict[int, _Value] = {}

    def popped() -> list:
        """All values above the last mark, which is removed too."""
        place = marks.pop()
        parts = stack[place:]
        del stack[place:]
        return parts

    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        name = operation.name
        if count > INSTRUCTIONS:
            raise ValueError(f"it describes its tensors in more than {INSTRUCTIONS:,} instructions: too many")
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in PLAIN:
            stack.append(_Value())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_Value(name=argument.replace(" ", ".")))
        elif name == "TUPLE":
            stack.append(_Value(popped()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [_Value(stack[-int(name[-1]) :])]
        elif name in ("APPENDS", "SETITEMS"):
            parts = popped()
            stack[-1].add(parts)
        elif name in ("APPEND", "BUILD", "SETITEM"):
            parts = [stack.pop() for _ in range(1 + (name == "SETITEM"))]
            stack[-1].add(parts)
        elif name in ("REDUCE", "NEWOBJ"):
            given, called = stack.pop(), stack.pop().name
            if called not in CALLED and (not called or COSTLY.fullmatch(called)):
                raise ValueError(f"it calls {called or 'something it built itself'}, which weights never need")
            stack.append(_Value([given]))
        elif name == "BINPERSID":
            stack[-1] = _Value()
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"it contains the instruction {name}, which torch.save never writes")


def check_tensors(content: Any, size: int) -> None:
    """ValueError for tensors in `content`, at any depth, that claim to be larger than a file of `size` bytes can
    hold."""
    import torch

    waiting, seen, total = [content], set(), 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, str | int | float):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                raise ValueError(f"it has a tensor that is not made of plain numbers ({value.layout}, {value.dtype})")
            total += value.numel() * value.element_size()
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"its tensor of shape {tuple(value.shape)} has fewer numbers than its shape requires")
            if total > 2 * size:  # twice: two layers may share their weights
                raise ValueError(f"its tensors claim to have more than {readable_size(2 * size)}")
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        waiting += getattr(value, "__dict__", {}).values() if not isinstance(value, torch.Tensor | type) else ()
