"""Checks of recording files before MNE reads them, because its readers trust what a file says about itself.

The readers follow the tags of a FIF file in circles, decompress without limit, and allocate as many samples as a header
states.
"""

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from brainvis.files.reading import plain_file

UNPACKED = 50  # times as large as its file: no recording compresses that well
SPARE = 64 * 2**20  # bytes that may always be decompressed
SAMPLES = 32  # numbers per byte of the files: far more than in any format, even with slow channels upsampled
LARGE = 2**27  # numbers that MNE may always allocate: 1 GB
TABLE_BYTES = 64 * 2**20
HDF5 = b"\x89HDF"


def check_file(file: Path) -> None:
    """ValueError, or BrainvisError for anything but a plain file, before MNE reads a recording, epochs or events."""
    most = UNPACKED * plain_file(file) + SPARE
    for beside in file.parent.iterdir():  # a header may refer to other files, none of which may block
        if not beside.is_dir() and beside.name[0] != ".":
            plain_file(beside)
    if file.name.lower().endswith(".gz"):
        with gzip.open(file) as stream:
            _count(iter(lambda: stream.read(2**20), b""), most)
        with gzip.open(file) as stream:
            _check_tags(stream)
    elif file.suffix.lower() == ".fif":
        with file.open("rb") as stream:
            _check_tags(stream)
    elif file.suffix.lower() == ".set":
        with file.open("rb") as stream:
            if stream.read(len(HDF5)) == HDF5:
                _check_hdf5(file, most)
            else:
                stream.seek(0)
                _count(_unpacked_matlab(stream), most)


def check_header(files: Iterable[Path | str | None], numbers: int) -> None:
    """ValueError if a recording in `files` claims more numbers than the files can hold."""
    files = [Path(file) for file in files if file]
    size, packed = sum(plain_file(file) for file in files), any(file.name.endswith(".gz") for file in files)
    if numbers > LARGE and numbers > SAMPLES * size * (UNPACKED if packed else 1):
        raise ValueError(f"its header promises {numbers:,} samples, but its files have only {size:,} bytes")


def check_table(file: Path) -> None:
    """ValueError for a BIDS table that would take too much memory: its reader pads every cell to the longest."""
    plain_file(file, TABLE_BYTES)
    lines = file.read_bytes().split(b"\n")
    cells = max(line.count(b"\t") + 1 for line in lines) * len(lines)
    longest = max(len(cell) for line in lines for cell in line.split(b"\t"))
    if cells * longest > LARGE:
        raise ValueError(f"its table {file.name} has {cells:,} cells of up to {longest:,} bytes, too many to read")


def _check_hdf5(file: Path, most: int) -> None:
    """ValueError for a MATLAB 7.3 file whose arrays are too large or lie in other files."""
    try:
        import h5py  # MNE reads such files if pymatreader is installed, which brings h5py
    except ImportError:
        raise ValueError("it is a MATLAB 7.3 file: pip install pymatreader, or save it as version 7") from None
    total = 0

    def add(name: str, found: object) -> None:
        nonlocal total
        if isinstance(found, h5py.Dataset):
            total += found.size * found.dtype.itemsize if found.shape is not None else 0
            if found.external:
                raise ValueError(f"its array {name} is stored in another file")
            if total > most:
                raise ValueError(f"it unpacks to more than {most:,} bytes, {UNPACKED} times its size")

    with h5py.File(file, "r") as content:
        content.visititems(add)


def _count(pieces: Iterator[bytes], most: int) -> None:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes, {UNPACKED} times its size")


def _check_tags(stream: IO[bytes]) -> None:
    """ValueError if a tag of a FIF file points backwards: its reader would never finish."""
    position = 0
    while len(tag := stream.read(16)) == 16:
        _, _, size, following = struct.unpack(">4i", tag)
        following = following or position + 16 + size
        if following == -1:
            return
        if following <= position:
            raise ValueError(f"its tag at byte {position:,} points back to byte {following:,}")
        stream.seek(position := following)


def _unpacked_matlab(stream: IO[bytes]) -> Iterator[bytes]:
    """The compressed parts of a MATLAB 5 file, decompressed piece by piece."""
    order = "<" if stream.read(128)[126:128] == b"IM" else ">"
    while len(head := stream.read(8)) == 8:
        kind, size = struct.unpack(f"{order}2I", head)
        end = stream.tell() + size
        if kind == 15:  # compressed by zlib
            unpack = zlib.decompressobj()
            while not unpack.eof and (packed := stream.read(min(2**16, end - stream.tell()))):
                yield unpack.decompress(packed, 2**20)
                while unpack.unconsumed_tail:
                    yield unpack.decompress(unpack.unconsumed_tail, 2**20)
        stream.seek(end)
