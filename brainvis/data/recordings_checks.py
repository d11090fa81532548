"""What a recording's file could do to MNE's readers, which trust what it says of itself: seen before they are asked.

They follow the tags of a FIF file in circles, unpack without end, and make room for as many samples as a header names.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import mne

from brainvis.files.reading import plain_file

UNPACKED = 50  # times as large as its file: no recording can be packed that well
SPARE = 64 * 2**20  # bytes that may be unpacked in any case
SAMPLES = 32  # numbers for each byte of the files: far more than any format has, slow channels drawn out included
LARGE = 2**27  # numbers that MNE may make room for in any case: 1 GB


def check_file(file: Path) -> None:
    """ValueError, or BrainvisError for what is no plain file, before MNE reads a recording or its events."""
    most = UNPACKED * plain_file(file) + SPARE
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
            _count(_unpacked_matlab(stream), most)


def check_header(raw: mne.io.BaseRaw) -> None:
    """ValueError if a recording says that it has more samples than its files can hold."""
    size, numbers = sum(Path(file).stat().st_size for file in raw.filenames if file), len(raw.ch_names) * raw.n_times
    packed = any(str(file).endswith(".gz") for file in raw.filenames)
    if numbers > LARGE and numbers > SAMPLES * size * (UNPACKED if packed else 1):
        raise ValueError(f"its header promises {numbers:,} samples, and its files have {size:,} bytes")


def _count(pieces: Iterator[bytes], most: int) -> None:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes, {UNPACKED} times its size")


def _check_tags(stream: IO[bytes]) -> None:
    """ValueError if a tag of a FIF file leads backwards: then its reader never ends."""
    position = 0
    while len(tag := stream.read(16)) == 16:
        _, _, size, following = struct.unpack(">4i", tag)
        following = following or position + 16 + size
        if following == -1:
            return
        if following <= position:
            raise ValueError(f"its tag at byte {position:,} leads back to byte {following:,}")
        stream.seek(position := following)


def _unpacked_matlab(stream: IO[bytes]) -> Iterator[bytes]:
    """The packed parts of a MATLAB 5 file, unpacked piece by piece."""
    order = "<" if stream.read(128)[126:128] == b"IM" else ">"
    while len(head := stream.read(8)) == 8:
        kind, size = struct.unpack(f"{order}2I", head)
        end = stream.tell() + size
        if kind == 15:  # packed by zlib
            unpack = zlib.decompressobj()
            while not unpack.eof and (packed := stream.read(min(2**16, end - stream.tell()))):
                yield unpack.decompress(packed, 2**20)
                while unpack.unconsumed_tail:
                    yield unpack.decompress(unpack.unconsumed_tail, 2**20)
        stream.seek(end)
