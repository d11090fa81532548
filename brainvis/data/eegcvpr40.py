"""EEGCVPR40 (Spampinato et al., CVPR 2017): the published files, and any others in their formats.

The folder holds one of `EEG_FILES`, one of `SPLIT_FILES`, and, where there are pictures,
`image/<wnid>/<image id>.JPEG` and `captions.json` (image id -> caption). `eegcvpr40.yml` chooses among them.

When it is first read, the EEG file's list of trials is converted into one array beside it, which afterwards is mapped
and not read: a safetensors file, written trial by trial, so that neither file is ever in memory as a whole, unless the
published one is older than torch 1.6. Its metadata says what it was made from and whose the trials are.
"""

import hashlib
import json
import math
import shutil
from operator import index
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from brainvis.data.classes import CLASS_NAMES, RELEASED_NAMES
from brainvis.data.dataset import SPLITS, EEGDataset
from brainvis.data.eegcvpr40_files import EEG_FILES, EEGCVPR40Settings, data_fingerprint, published_files
from brainvis.data.source import DatasetError
from brainvis.files import (
    BrainvisError,
    DamagedError,
    beside_runs,
    digest,
    file_digest,
    locked,
    read_json,
    read_only,
    readable_size,
    verified,
    write_aside,
)
from brainvis.files.tensors import load_tensors

SAMPLING_RATE = 1000.0  # hertz
FORMAT = 3  # raised when the same source and choices would give another array file
COLUMNS = ("lengths", "labels", "images", "subjects", "order")
PAGE = 4096  # bytes: trials start at the start of a page
CHECKSUM = 16  # hexadecimal digits of a trial's SHA-256
SEALED = ("made_from", "labels", "images", "table", "checksums")  # entries of the metadata, with one checksum for all


def load_published(folder: Path, settings: EEGCVPR40Settings) -> EEGDataset:
    """`load_eegcvpr40` with all its choices made."""
    _, split_file = published_files(folder, settings)
    published = read_split(split_file, settings.split_index)  # before anything that takes long
    captions, own_names = (read_json(folder / name, missing={}) for name in ("captions.json", "class_names.json"))
    stored = open_trials(folder, settings)
    splits, notes = resolve_split(split_file, settings, published, stored.table)
    usable = stored.table["usable"]
    if dropped := int((~usable).sum()):
        least, greatest = settings.lengths
        notes.insert(0, f"{dropped} of {len(usable)} trials are dropped: not {least} to {greatest} samples long.")
    image_folder = folder / "image"
    if not image_folder.is_dir():
        notes.append("There are no images: reconstruction and its judgement need the image tree (image/<wnid>/...).")
    names = {**(CLASS_NAMES if settings.names == "corrected" else RELEASED_NAMES), **own_names}
    of_trial = {name: stored.table[name][usable] for name in COLUMNS}
    if (stored.table["order"] < 0).any():
        of_trial["order"] = None
    return EEGDataset(
        name="eegcvpr40",
        trials=stored.trials,
        sampling_rate=SAMPLING_RATE,
        start=settings.window[0] / SAMPLING_RATE,
        channels=tuple(f"EEG{channel + 1:03d}" for channel in range(stored.trials.shape[1])),
        montage=None,
        image_ids=tuple(stored.images),
        class_names=tuple(names.get(wnid, wnid) for wnid in stored.wnids),
        captions=captions,
        image_folder=image_folder if image_folder.is_dir() else None,
        splits=splits,
        fingerprint=data_fingerprint(folder, settings),
        notes=tuple(notes),
        checked=True,
        **of_trial,
    )


def read_split(file: Path, split_index: int) -> dict[str, Tensor]:
    """The indices of one split as published: part -> (n,) int64; DatasetError if the file has no such split."""
    (choices,) = read_published(file, splits=list)
    if not 0 <= split_index < len(choices):
        raise DatasetError(f"{file} has no split {split_index}: choose split_index from 0 to {len(choices) - 1}.")
    try:
        indices = {name: list(map(index, choices[split_index][name])) for name in SPLITS}
    except (KeyError, IndexError, TypeError) as error:
        wrong = f"split {split_index} is not a dict of lists of whole numbers for {', '.join(SPLITS)}"
        raise DatasetError(f"{file}: {wrong}. Take the split file that belongs to the EEG file.") from error
    return {name: torch.tensor(part, dtype=torch.int64) for name, part in indices.items()}


def resolve_split(
    file: Path, settings: EEGCVPR40Settings, published: dict[str, Tensor], table: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The split as indices of usable trials, from those published and the columns of all recorded trials, and what is
    to be said about it; DatasetError if a trial is not there."""
    subjects, usable = table["subjects"], table["usable"]
    lists, reading = [torch.arange(len(subjects))], "as published: places in the list of all trials"
    if settings.split.endswith("_released"):
        lists = [torch.nonzero(subjects == subject).flatten() for subject in subjects.unique()]
        reading = "the released code's reading: places in each subject's own list of trials"
    new_index = torch.cumsum(usable, 0) - 1
    splits, parts, beyond = {}, [], 0
    for name, indices in published.items():
        for wrong in indices[(indices < 0) | (indices >= len(subjects))][:1].tolist():
            what = f"names trial {wrong}, but before the length filter there are {len(subjects)} trials"
            which = f"{file}: split {settings.split_index}, {name}"
            raise DatasetError(f"{which}, {what}. Take the split file that belongs to the EEG file.")
        named = torch.cat([trials[indices[indices < len(trials)]] for trials in lists])
        beyond += len(lists) * len(indices) - len(named)
        splits[name] = new_index[named[usable[named]]]
        more = len(named) - len(splits[name])
        parts.append(f"{name} {len(splits[name])} trials" + (f" ({more} more have an unusable length)" if more else ""))
    notes = [f"Split {settings.split!r}, number {settings.split_index} ({reading}): {'; '.join(parts)}."]
    if beyond:
        what = f"{beyond} numbers of the split lie beyond the end of a subject's own list and are left out"
        notes.append(f"{what} (the released code would stop there).")
    subjects, images = subjects[usable], table["images"][usable]
    unused = torch.ones(len(subjects), dtype=torch.bool)
    unused[torch.cat(list(splits.values()))] = False
    if count := int(unused.sum()):
        own = {subject: unused[subjects == subject] for subject in subjects.unique().tolist()}
        whose = ", ".join(f"subject {subject} {int(which.sum())} of {len(which)}" for subject, which in own.items())
        notes.append(f"{count} of {len(unused)} usable trials are in no part of the split and stay unused: {whose}.")
    train, *held_out = (images[splits[name]].unique() for name in SPLITS)
    val, test = (int(torch.isin(part, train).sum()) for part in held_out)
    if val or test:
        what = f"{test} pictures of the test part and {val} of the validation part are also in the training part"
        notes.append(f"{what}, seen by another subject: scores over all subjects may be too good.")
    return splits, notes


class Trials(NamedTuple):
    """What the array file holds, mapped: processes share its pages, and writing to the tensors never reaches it."""

    trials: Tensor  # (usable trial, channel, time) float32
    table: dict[str, Tensor]  # of the whole published list: `COLUMNS` int64 (-1: unknown) and "usable", bool
    wnids: list[str]  # by label
    images: list[str]


def open_trials(folder: Path, settings: EEGCVPR40Settings) -> Trials:
    """The trials of the published file, which one of several processes converts, if that is to be done. DatasetError: a
    file or trial that is not what it should be, no room on the disk, a folder that cannot be written."""
    source = folder / EEG_FILES[settings.band]
    (start, end), (least, greatest) = settings.window, settings.lengths
    place = beside_runs("data") / folder.name if read_only(folder) else folder
    target = place / f"{source.stem}.samples{start}-{end}.lengths{least}-{greatest}.safetensors"
    made_from = digest([FORMAT, file_digest(source), settings.band, settings.window, settings.lengths])
    if (trials := _mapped(target, made_from, told=True)) is not None:
        return trials
    try:
        with locked(target):
            if (trials := _mapped(target, made_from)) is None:  # another process may have made it while this one waited
                _convert(source, target, settings, made_from)
                trials = _mapped(target, made_from)
    except OSError as error:
        cure = f"Make {place} writable, or make a folder of links to the published files and name that above it"
        raise DatasetError(f"{target} could not be written ({error}). {cure} in BRAINVIS_DATA.") from error
    return trials


def _mapped(file: Path, made_from: str, told: bool = False) -> Trials | None:
    """The content of an array file, None if there is none that is whole, unchanged and made from this; it is said if
    it is damaged, unless it was or will be `told`."""
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("made_from") != made_from:
                return None
            trials = stored.get_tensor("trials")
        verified(file, "trials", lambda: _check(file, trials, metadata))
    except DamagedError as error:
        if not told:
            tqdm.write(f"{error} It is converted anew.")
        return None
    except (FileNotFoundError, SafetensorError, KeyError):
        return None
    table, wnids, images = (json.loads(metadata[name]) for name in ("table", "labels", "images"))
    return Trials(trials, {name: torch.tensor(column) for name, column in table.items()}, wnids, images)


def check_array(file: Path) -> None:
    """Read an array file against its checksums; DamagedError if it is not what was written."""
    try:
        with safe_open(file, "pt") as stored:
            _check(file, stored.get_tensor("trials"), stored.metadata())
    except (SafetensorError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} is damaged: it is no whole array file.") from error


def _check(file: Path, trials: Tensor, metadata: dict[str, str]) -> None:
    """DamagedError for an array file that is not what was written, or has values that are not finite."""
    checksums = metadata["checksums"]
    if trials.dtype != torch.float32 or trials.ndim != 3:
        raise DamagedError(f"{file} is damaged: its trials are {trials.dtype} {tuple(trials.shape)}.")
    if metadata["sealed"] != digest([metadata[name] for name in SEALED]) or len(checksums) != CHECKSUM * len(trials):
        raise DamagedError(f"{file} is damaged: its table of trials is not what was written.")
    for number, trial in enumerate(tqdm(trials, desc=f"{file.stem}, checked once", unit="trial", delay=2)):
        wrong = _checksum(trial) != checksums[CHECKSUM * number :][:CHECKSUM]
        if wrong or not trial.isfinite().all():
            raise DamagedError(f"{file} is damaged: trial {number} is not what was written.")


def _checksum(trial: Tensor) -> str:
    return hashlib.sha256(trial.contiguous().numpy()).hexdigest()[:CHECKSUM]


def read_published(file: Path, **kinds: type) -> list:
    """The entries of these names and kinds in a file of `torch.save`, without running any code that may be in it;
    DatasetError if the file cannot be read, or has not all of them."""
    try:
        content = load_tensors(file, old=True)
    except (BrainvisError, OSError) as error:
        raise DatasetError(f"{file} cannot be read: {str(error).removeprefix(f'{file} ')}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds a {type(content).__name__}, not a dict: it is no file of EEGCVPR40.")
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            there = ", ".join(map(str, content)) or "nothing"
            raise DatasetError(f"{file} has no {kind.__name__} {key!r} (it has {there}). Fetch the right file.")
    return [content[key] for key in kinds]


def _row(record, first, names: dict[str, list]) -> tuple[int, ...]:
    """`COLUMNS` of a trial, which must be like the `first`; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}, not a dict")
    eeg = record.get("eeg")
    if not isinstance(eeg, Tensor) or eeg.ndim != 2 or not eeg.is_floating_point():
        raise ValueError("has no `eeg`, a tensor of floats (channel, time)")
    if len(eeg) != (channels := len(first["eeg"])):
        raise ValueError(f"has {len(eeg)} channels, the first trial {channels}")
    row = {}
    for key in ("label", "image", "subject"):
        value = record.get(key)
        row[key] = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(row[key], int):
            raise ValueError(f"has no whole number {key!r}, but {value!r}")
    for key, known in names.items():
        if not 0 <= row[key] < len(known):
            raise ValueError(f"has {key} {row[key]}, but the file names {len(known)} of them (0 to {len(known) - 1})")
    if row["subject"] < 1:
        raise ValueError(f"has subject {row['subject']}; subjects are numbered from 1")
    order = record.get("order")
    return eeg.shape[1], *row.values(), order if isinstance(order, int) else -1


def _convert(source: Path, target: Path, settings: EEGCVPR40Settings, made_from: str) -> None:
    statistics = {"means": Tensor, "stddevs": Tensor} if settings.band == "raw" else {}
    records, wnids, images, *statistics = read_published(source, dataset=list, labels=list, images=list, **statistics)
    if not records:
        raise DatasetError(f"{source} holds no trials. Fetch it again.")
    rows = []
    for trial, record in enumerate(records):
        try:
            rows.append(_row(record, records[0], {"label": wnids, "image": images}))
        except ValueError as error:
            cure = "Repair or remove this trial, or fetch the file again"
            raise DatasetError(f"{source}: trial {trial} {error}. {cure}.") from error
    table = dict(zip(COLUMNS, torch.tensor(rows, dtype=torch.int64).T, strict=True))
    channels = len(records[0]["eeg"])
    mean, deviation = statistics or (torch.zeros(channels), torch.ones(channels))
    for name, values, least in (("means", mean, -math.inf), ("stddevs", deviation, 0)):
        if values.numel() != channels or not (values.isfinite() & (values > least)).all():
            what = f"{channels} finite numbers{' above 0' * (least == 0)}, one a channel"
            raise DatasetError(f"{source}: {name} are not {what} (shape {tuple(values.shape)}). Fetch the file again.")
    mean, deviation = (values.float().reshape(-1, 1) for values in (mean, deviation))  # (channel, 1)

    (start, end), (least, greatest) = settings.window, settings.lengths
    table["usable"] = (table["lengths"] >= least) & (table["lengths"] <= greatest)
    kept = torch.nonzero(table["usable"]).flatten()
    if not len(kept):
        raise DatasetError(f"{source}: no trial has {least} to {greatest} samples. Widen `lengths`.")
    for trial in kept[table["lengths"][kept] < end][:1].tolist():
        wrong = f"trial {trial} has {int(table['lengths'][trial])} samples, the window {start}:{end} needs {end}"
        raise DatasetError(f"{source}: {wrong}. Shorten it, or drop such trials with lengths=({end}, ...).")
    shape = (len(kept), channels, end - start)
    size = 4 * math.prod(shape)  # bytes
    target.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.parent).free) < size * 1.01 + 2**20:
        wrong = f"There is no room for {target}: it takes {readable_size(size)}, and {readable_size(free)} are free"
        raise DatasetError(f"{wrong}. Make some, or move the data and let BRAINVIS_DATA name the folder above.")
    content = {"labels": wnids, "images": images, "table": {name: column.tolist() for name, column in table.items()}}
    metadata = {"made_from": made_from, **{name: json.dumps(value) for name, value in content.items()}}

    def head(checksums: str) -> bytes:  # as long for these checksums as for any others
        metadata["checksums"] = checksums
        metadata["sealed"] = digest([metadata[name] for name in SEALED])
        header = {"__metadata__": metadata, "trials": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % PAGE)  # the format allows blanks there
        return len(text).to_bytes(8, "little") + text

    def write(path: Path) -> None:  # by hand: the library of safetensors writes only what is in memory as a whole
        checksums = []
        with path.open("wb") as stream:
            stream.write(head("-" * CHECKSUM * len(kept)))
            for trial in tqdm(kept.tolist(), desc=f"{source.name}, read once", unit="trial"):
                cut = (records[trial]["eeg"][:, start:end].float() - mean) / deviation
                records[trial] = None  # a file that is not memory-mapped is given back as it is written
                if bad := int((~cut.isfinite()).sum()):
                    wrong = f"trial {trial} has {bad} values that are not finite (NaN or infinite)"
                    raise DatasetError(f"{source}: {wrong}. Repair or remove this trial; nothing was loaded.")
                stream.write(cut.contiguous().numpy())
                checksums.append(_checksum(cut))
            stream.seek(0)
            stream.write(head("".join(checksums)))

    write_aside(target, write)
