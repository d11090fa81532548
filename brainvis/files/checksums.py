"""Digests of values and of files."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

WHOLE = 64 * 2**20  # bytes; of a larger file samples are hashed
SAMPLES, SAMPLE, END = 256, 2**14, 2**21  # samples of a large file, bytes in each, bytes at its end


def digest(description: object) -> str:
    """Twelve hexadecimal digits that stand for any JSON-ready value."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits that stand for a file's content.

    Files over 64 MiB are sampled: size, 256 evenly spaced blocks of 16 KiB, and the last 2 MiB, where files that torch
    saved have the checksums of all that is in them.
    """
    state = path.stat()
    return _file_digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)  # a plan asks for the same files once for each of its runs; a file that changed is read again
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        total = hashlib.sha256(str(size).encode())
        for sample in range(SAMPLES):
            stream.seek(sample * (size - SAMPLE) // (SAMPLES - 1))
            total.update(stream.read(SAMPLE))
        stream.seek(-END, os.SEEK_END)
        total.update(stream.read())
        return total.hexdigest()[:16]
