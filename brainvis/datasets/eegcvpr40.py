"""EEGCVPR40 (Spampinato et al., CVPR 2017): the published files, and any others in their formats.

Expected in the folder: one of the EEG files of `BANDS`, `block_splits_by_image_all.pth` or `..._single.pth`, and, where
there are pictures, `image/<wnid>/<image id>.JPEG` and `captions.json` (image id -> caption).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from brainvis.datasets.base import SPLITS, EEGDataset
from brainvis.datasets.errors import DatasetError
from brainvis.datasets.wordnet import CLASS_NAMES

BANDS = {
    "5_95": "eeg_5_95_std.pth",
    "14_70": "eeg_14_70_std.pth",
    "55_95": "eeg_55_95_std.pth",
    "raw": "eeg_signals_raw_with_mean_std.pth",
}
SPLIT_FILES = {"all": "block_splits_by_image_all.pth", "single": "block_splits_by_image_single.pth"}
SAMPLING_RATE = 1000.0  # hertz


def load_eegcvpr40(
    folder: Path,
    *,
    band: str = "5_95",
    window: tuple[int, int] = (20, 460),
    lengths: tuple[int, int] = (450, 600),
    split: str = "all",
    split_index: int = 0,
) -> EEGDataset:
    """Read the published files.

    Args:
        folder: where they are.
        band: which EEG file, one of `BANDS`; the raw one is standardised by its own means and stddevs.
        window: first and end sample that are kept of each trial.
        lengths: least and greatest number of recorded samples of a usable trial; the others are dropped.
        split: "all" (indices into the list of all trials) or "single" (indices into each subject's own list).
        split_index: which of the file's splits.

    Raises:
        DatasetError: a file that is missing or not what it should be, a trial that cannot be used.
    """
    eeg_file, split_file = _files(folder, band, split)
    if not 0 <= window[0] < window[1]:
        raise DatasetError(f"Window {window[0]}:{window[1]} is empty: give (first, end) with 0 <= first < end.")
    content = _read(eeg_file)
    records, wnids, image_ids = (_entry(content, key, eeg_file) for key in ("dataset", "labels", "images"))
    if not records:
        raise DatasetError(f"{eeg_file} holds no trials. Fetch it again.")
    means = stddevs = None
    if band == "raw":
        means, stddevs = (_entry(content, key, eeg_file, Tensor).float().reshape(-1, 1) for key in ("means", "stddevs"))

    table = [
        _check_trial(trial, record, records[0], wnids, image_ids, eeg_file) for trial, record in enumerate(records)
    ]
    table = torch.tensor(table, dtype=torch.int64)  # (recorded trial, 4): length, label, image, subject
    usable = (table[:, 0] >= lengths[0]) & (table[:, 0] <= lengths[1])
    kept = torch.nonzero(usable).flatten()
    if not len(kept):
        raise DatasetError(f"{eeg_file}: no trial has {lengths[0]} to {lengths[1]} samples. Widen `lengths`.")
    splits, notes = _splits(split_file, split, split_index, table[:, 3], usable)
    shared = torch.isin(table[kept, 2][splits["test"]].unique(), table[kept, 2][splits["train"]]).sum()
    if shared:
        notes.append(f"{shared} images are in the training part for some subjects and in the test part for others.")
    dropped = len(table) - len(kept)
    if dropped:
        notes.insert(0, f"{dropped} of {len(table)} trials are dropped: not {lengths[0]} to {lengths[1]} samples long.")

    trials = torch.empty(len(kept), records[0]["eeg"].shape[0], window[1] - window[0])
    orders = [record.get("order") for record in records]
    for row, trial in enumerate(kept.tolist()):
        trials[row] = _cut(records[trial]["eeg"], trial, window, eeg_file)
        records[trial] = None  # a file that is not memory-mapped would otherwise be held twice
        if means is not None:
            trials[row].sub_(means).div_(stddevs)
    known_order = all(isinstance(order, int) for order in orders)

    image_folder = folder / "image" if (folder / "image").is_dir() else None
    if image_folder is None:
        notes.append("There are no images: reconstruction and its judgement need the image tree (image/<wnid>/...).")
    names = _read_json(folder / "class_names.json") or CLASS_NAMES
    return EEGDataset(
        name="eegcvpr40",
        trials=trials,
        sampling_rate=SAMPLING_RATE,
        start=window[0] / SAMPLING_RATE,
        channels=tuple(f"EEG{channel + 1:03d}" for channel in range(trials.shape[1])),
        montage=None,
        labels=table[kept, 1],
        subjects=table[kept, 3],
        images=table[kept, 2],
        image_ids=tuple(image_ids),
        class_names=tuple(names.get(wnid, wnid) for wnid in wnids),
        captions=_read_json(folder / "captions.json"),
        image_folder=image_folder,
        splits=splits,
        lengths=table[kept, 0],
        order=torch.tensor(orders, dtype=torch.int64)[kept] if known_order else None,
        fingerprint=eegcvpr40_fingerprint(
            folder, band=band, window=window, lengths=lengths, split=split, split_index=split_index
        ),
        notes=tuple(notes),
    )


def eegcvpr40_fingerprint(folder: Path, *, band: str = "5_95", split: str = "all", **options) -> str:
    """Hash of the options and of samples from the files: their size, their end, and 256 blocks between.

    A file that torch saved ends with the checksums of all that is in it, so that the end alone tells two apart.
    """
    digest = hashlib.sha256()
    defaults = {"window": (20, 460), "lengths": (450, 600), "split_index": 0}
    digest.update(json.dumps({**defaults, **options, "band": band, "split": split}, sort_keys=True).encode())
    optional = [folder / "captions.json", folder / "class_names.json"]
    for file in [*_files(folder, band, split), *(file for file in optional if file.is_file())]:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            for block in range(256):
                stream.seek(size * block // 256)
                digest.update(stream.read(4096))
            stream.seek(max(0, size - 2**21))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _files(folder: Path, band: str, split: str) -> tuple[Path, Path]:
    if band not in BANDS:
        raise DatasetError(f"Unknown band {band!r}: choose one of {', '.join(BANDS)}.")
    if split not in SPLIT_FILES:
        raise DatasetError(f"Unknown split {split!r}: choose one of {', '.join(SPLIT_FILES)}.")
    files = folder / BANDS[band], folder / SPLIT_FILES[split]
    for file in files:
        if not file.is_file():
            raise DatasetError(f"{file} is missing. Put the published files of EEGCVPR40 into {folder}.")
    return files


def _read(file: Path) -> dict:
    """What `torch.save` wrote, without running any code that may be in it."""
    try:
        # Files older than torch 1.6 are not zip archives and cannot be memory-mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DatasetError(
            f"{file} cannot be read: it is cut short, or it is no file of EEGCVPR40 ({reason[:200]}). Fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds a {type(content).__name__}, not a dict: it is no file of EEGCVPR40.")
    return content


def _entry(content: dict, key: str, file: Path, kind: type = list):
    value = content.get(key)
    if not isinstance(value, kind):
        raise DatasetError(
            f"{file} has no {kind.__name__} {key!r} (it has {', '.join(map(str, content)) or 'nothing'}): it is no "
            "file of EEGCVPR40. Fetch the right one."
        )
    return value


def _check_trial(trial: int, record, first, wnids: list, image_ids: list, file: Path) -> tuple[int, int, int, int]:
    """Length, label, image and subject of a trial, if they are what they should be."""

    def reject(what: str):
        raise DatasetError(f"{file}: trial {trial} {what}. Repair or remove this trial, or fetch the file again.")

    if not isinstance(record, dict):
        reject(f"is a {type(record).__name__}, not a dict")
    eeg = record.get("eeg")
    if not isinstance(eeg, Tensor) or eeg.ndim != 2 or not eeg.is_floating_point():
        reject("has no `eeg`, a tensor of floats (channel, time)")
    if eeg.shape[0] != first["eeg"].shape[0]:
        reject(f"has {eeg.shape[0]} channels, the first trial {first['eeg'].shape[0]}")
    for key in ("label", "image", "subject"):
        if isinstance(record.get(key), Tensor) and record[key].numel() == 1:
            record[key] = record[key].item()
        if not isinstance(record.get(key), int):
            reject(f"has no whole number {key!r}, but {record.get(key)!r}")
    for key, names in (("label", wnids), ("image", image_ids)):
        if not 0 <= record[key] < len(names):
            reject(f"has {key} {record[key]}, but the file names {len(names)} of them (0 to {len(names) - 1})")
    if record["subject"] < 1:
        reject(f"has subject {record['subject']}; subjects are numbered from 1")
    return eeg.shape[1], record["label"], record["image"], record["subject"]


def _cut(eeg: Tensor, trial: int, window: tuple[int, int], file: Path) -> Tensor:
    if eeg.shape[1] < window[1]:
        raise DatasetError(
            f"{file}: trial {trial} has {eeg.shape[1]} samples, the window {window[0]}:{window[1]} needs {window[1]}. "
            f"Give a shorter window, or drop such trials with lengths=({window[1]}, ...)."
        )
    cut = eeg[:, window[0] : window[1]]
    if not cut.isfinite().all():
        bad = int((~cut.isfinite()).sum())
        raise DatasetError(
            f"{file}: trial {trial} has {bad} values that are not finite (NaN or infinite). Repair or remove this "
            "trial; nothing was loaded."
        )
    return cut


def _splits(
    file: Path, split: str, split_index: int, subjects: Tensor, usable: Tensor
) -> tuple[dict[str, Tensor], list[str]]:
    """The chosen split as indices of the usable trials, and what is to be said about it."""
    choices = _entry(_read(file), "splits", file)
    if not 0 <= split_index < len(choices):
        raise DatasetError(f"{file} has no split {split_index}: choose split_index from 0 to {len(choices) - 1}.")
    chosen = choices[split_index]
    if not isinstance(chosen, dict) or any(
        not isinstance(chosen.get(name), list) or not all(isinstance(index, int) for index in chosen[name])
        for name in SPLITS
    ):
        raise DatasetError(
            f"{file}: split {split_index} is not a dict of lists of whole numbers for {', '.join(SPLITS)}. "
            "Take the split file that belongs to the EEG file."
        )
    new_index = torch.cumsum(usable, 0) - 1
    # "single" was made for one subject: its indices count that subject's trials.
    lists = [torch.arange(len(subjects))]
    if split == "single":
        lists = [torch.nonzero(subjects == subject).flatten() for subject in subjects.unique()]
    splits = {}
    for name in SPLITS:
        indices = torch.tensor(chosen[name], dtype=torch.int64)
        for trials in lists:
            wrong = indices[(indices < 0) | (indices >= len(trials))]
            if len(wrong):
                raise DatasetError(
                    f"{file}: split {split_index}, {name}, names trial {int(wrong[0])}, but there are {len(trials)} "
                    "trials (counted before the length filter). Take the split file that belongs to the EEG file."
                )
        whole = torch.cat([trials[indices] for trials in lists])
        splits[name] = new_index[whole[usable[whole]]]
    unused = int(usable.sum()) - sum(len(indices) for indices in splits.values())
    notes = [f"{unused} of {int(usable.sum())} trials are in no part of the split and stay unused."] if unused else []
    return splits, notes


def _read_json(file: Path) -> dict[str, str]:
    """A dict from a JSON file, empty if there is none."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is no JSON file ({error}). Repair or remove it.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds a {type(content).__name__}, not a dict. Repair or remove it.")
    return content
