"""Folders, atomic writes, locks and hashes: all that touches a disk in more than one place."""

from brainvis.files.checksums import digest, file_digest
from brainvis.files.code import code_digest, source_digest
from brainvis.files.folders import (
    ROOT,
    BrainvisError,
    OriginalError,
    data_folder,
    figures_folder,
    readable_path,
    readable_size,
    resolve,
    runs_folder,
    weights_folder,
)
from brainvis.files.writing import locked, read_json, read_origin, write_aside, write_json

__all__ = [
    "ROOT",
    "BrainvisError",
    "OriginalError",
    "code_digest",
    "data_folder",
    "digest",
    "figures_folder",
    "file_digest",
    "locked",
    "read_json",
    "read_origin",
    "readable_path",
    "readable_size",
    "resolve",
    "runs_folder",
    "source_digest",
    "weights_folder",
    "write_aside",
    "write_json",
]
