"""EEGCVPR40 (Spampinato et al., CVPR 2017): the published files, and any others in their formats.

The folder holds one of `EEG_FILES`, one of `SPLIT_FILES`, and, if there are pictures, `image/<wnid>/<image id>.JPEG`
and `captions.json` (image id -> caption). `eegcvpr40.yml` chooses among them, and gives what the files do not contain:
sampling rate, channels, montage.

On first use, the EEG file's list of trials is converted into an array file beside it (see `stored`). Neither file is
ever held in memory as a whole, unless the published one predates torch 1.6.
"""

import math
from collections.abc import Iterator
from operator import index
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from brainvis.data.classes import CLASS_NAMES, RELEASED_NAMES
from brainvis.data.dataset import SPLITS, EEGDataset
from brainvis.data.eegcvpr40_files import (
    EEG_FILES,
    EEGCVPR40Settings,
    array_file,
    data_fingerprint,
    made_from,
    published_files,
)
from brainvis.data.source import DatasetError
from brainvis.data.stored import Stored, check_room, stored, write_trials
from brainvis.files import BrainvisError, read_json
from brainvis.files.tensors import load_tensors

WINDOW, LENGTHS = (20, 460), (450, 600)  # of the published files: samples of a trial, recorded lengths of usable trials
USUAL = (0.9, 1.2)  # ... of files with other lengths, as fractions of the median length: as in the published files
COLUMNS = ("lengths", "labels", "images", "subjects", "order")


def load_published(folder: Path, settings: EEGCVPR40Settings) -> EEGDataset:
    """`load_eegcvpr40` with all settings resolved."""
    _, split_file = published_files(folder, settings)
    published = read_split(split_file, settings.split_index)  # before anything that takes long
    captions, own_names = (read_json(folder / name, missing={}) for name in ("captions.json", "class_names.json"))
    trials, about = open_trials(folder, settings)
    trials, table = trials["trials"], {name: torch.tensor(column) for name, column in about["table"].items()}
    channels = _channels(settings, trials.shape[1])
    splits, notes = resolve_split(split_file, settings, published, table)
    usable, (least, greatest), (start, end) = table["usable"], about["lengths"], about["window"]
    if dropped := int((~usable).sum()):
        notes.insert(
            0, f"{dropped} of {len(usable)} trials are dropped, as they are not {least} to {greatest} samples long."
        )
    if not (settings.window or (start, end) == WINDOW):
        notes.append(f"Samples {start} to {end} of each trial are kept; set `window` in eegcvpr40.yml to keep others.")
    image_folder = folder / "image"
    if about["images"] and not image_folder.is_dir():
        notes.append(
            "There are no pictures: reconstruction and its evaluation need the picture folder (image/<wnid>/...)."
        )
    names = {**(CLASS_NAMES if settings.names == "corrected" else RELEASED_NAMES), **own_names}
    of_trial = {name: table[name][usable] for name in COLUMNS}
    if (table["order"] < 0).any():
        of_trial["order"] = None
    return EEGDataset(
        name="eegcvpr40",
        trials=trials,
        sampling_rate=settings.sampling_rate,
        start=start / settings.sampling_rate,
        channels=channels,
        montage=settings.montage,
        image_ids=tuple(about["images"]),
        class_names=tuple(names.get(wnid, wnid) for wnid in about["labels"]),
        captions=captions,
        image_folder=image_folder if image_folder.is_dir() else None,
        splits=splits,
        fingerprint=data_fingerprint(folder, settings),
        notes=tuple(notes),
        checked=True,
        **of_trial,
    )


def _channels(settings: EEGCVPR40Settings, count: int) -> tuple[str, ...]:
    """Names of `count` channels; DatasetError if too many or too few are given, or the montage lacks one."""
    names = settings.channels or tuple(f"EEG{channel + 1:03d}" for channel in range(count))
    if len(names) != count:
        raise DatasetError(
            f"eegcvpr40.yml names {len(names)} channels, but the trials have {count}. Name each channel once."
        )
    if settings.montage is not None:
        import mne  # imported here: not needed without a montage

        if settings.montage not in (known := mne.channels.get_builtin_montages()):
            raise DatasetError(f"eegcvpr40.yml: montage is {settings.montage!r}. Choose one of {', '.join(known)}.")
        placed = mne.channels.make_standard_montage(settings.montage).ch_names
        if lacking := [name for name in names if name not in placed]:
            wrong = (
                f"montage {settings.montage} has no position for {', '.join(lacking[:5])}{', ...' * (len(lacking) > 5)}"
            )
            raise DatasetError(
                f"eegcvpr40.yml: {wrong}. Name the `channels` as the montage does, or leave `montage` out."
            )
    return names


def read_split(file: Path, split_index: int) -> dict[str, Tensor]:
    """The indices of one split as published: part -> (n,) int64; DatasetError if the file has no such split."""
    (choices,) = read_published(file, splits=list)
    if not 0 <= split_index < len(choices):
        raise DatasetError(f"{file} has no split {split_index}: choose split_index from 0 to {len(choices) - 1}.")
    try:
        indices = {name: list(map(index, choices[split_index][name])) for name in SPLITS}
    except (KeyError, IndexError, TypeError) as error:
        wrong = f"split {split_index} is not a dict with lists of whole numbers for {', '.join(SPLITS)}"
        raise DatasetError(f"{file}: {wrong}. Use the split file that belongs to the EEG file.") from error
    return {name: torch.tensor(part, dtype=torch.int64) for name, part in indices.items()}


def resolve_split(
    file: Path, settings: EEGCVPR40Settings, published: dict[str, Tensor], table: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The split as indices of usable trials, from the published indices and the columns of all recorded trials, and the
    notes on it; DatasetError if a trial does not exist."""
    subjects, usable = table["subjects"], table["usable"]
    lists, reading = [torch.arange(len(subjects))], "as published: positions in the list of all trials"
    if settings.split.endswith("_released"):
        lists = [torch.nonzero(subjects == subject).flatten() for subject in subjects.unique()]
        reading = "as the released code reads them: positions in each subject's own list of trials"
    new_index = torch.cumsum(usable, 0) - 1
    splits, parts, beyond = {}, [], 0
    for name, indices in published.items():
        for wrong in indices[(indices < 0) | (indices >= len(subjects))][:1].tolist():
            what = f"lists trial {wrong}, but there are {len(subjects)} trials before the length filter"
            which = f"{file}: part {name} of split {settings.split_index}"
            raise DatasetError(f"{which} {what}. Use the split file that belongs to the EEG file.")
        named = torch.cat([trials[indices[indices < len(trials)]] for trials in lists])
        beyond += len(lists) * len(indices) - len(named)
        splits[name] = new_index[named[usable[named]]]
        more = len(named) - len(splits[name])
        parts.append(f"{name} {len(splits[name])} trials" + (f" ({more} more have an unusable length)" if more else ""))
    notes = [f"Split {settings.split!r}, number {settings.split_index} ({reading}): {'; '.join(parts)}."]
    if beyond:
        what = f"{beyond} numbers in the split lie beyond the end of a subject's own list and are left out"
        notes.append(f"{what} (the released code would stop there).")
    subjects, images = subjects[usable], table["images"][usable]
    unused = torch.ones(len(subjects), dtype=torch.bool)
    unused[torch.cat(list(splits.values()))] = False
    if count := int(unused.sum()):
        own = {subject: unused[subjects == subject] for subject in subjects.unique().tolist()}
        whose = ", ".join(f"subject {subject}: {int(which.sum())} of {len(which)}" for subject, which in own.items())
        notes.append(f"{count} of {len(unused)} usable trials are in no part of the split and stay unused ({whose}).")
    train, *held_out = (images[splits[name]].unique() for name in SPLITS)
    val, test = (int(torch.isin(part, train).sum()) for part in held_out)
    if val or test:
        what = f"{test} pictures of the test part and {val} of the validation part are also in the training part"
        notes.append(f"{what}, seen by another subject: scores over all subjects may be too good.")
    return splits, notes


def open_trials(folder: Path, settings: EEGCVPR40Settings) -> Stored:
    """The trials of the published file, converted by one of several processes if necessary. DatasetError: an invalid
    file or trial, a full disk, or a folder that is not writable."""
    source, target = folder / EEG_FILES[settings.band], array_file(folder, settings)
    key = made_from(folder, settings)
    return stored(target, key, lambda: _convert(source, target, settings, key))


def subjects_of(source: Path) -> list[int]:
    """The subjects whose trials a published EEG file holds; DatasetError if it cannot be read."""
    (records,) = read_published(source, dataset=list)
    return sorted({value for record in records if isinstance(value := _number(record, "subject"), int)})


def read_published(file: Path, **kinds: type) -> list:
    """The entries with these names and types in a `torch.save` file, read without running any code that it may contain;
    DatasetError if the file cannot be read or lacks one of them."""
    try:
        content = load_tensors(file, old=True)
    except (BrainvisError, OSError) as error:
        raise DatasetError(f"{file} cannot be read: {str(error).removeprefix(f'{file} ')}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds a {type(content).__name__}, not a dict: it is not an EEGCVPR40 file.")
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            there = ", ".join(map(str, content)) or "nothing"
            raise DatasetError(f"{file} has no {kind.__name__} {key!r} (it has {there}). Download the right file.")
    return [content[key] for key in kinds]


def _number(record: object, key: str) -> object:
    """An entry of a trial; a one-element tensor is returned as a number."""
    value = record.get(key) if isinstance(record, dict) else None
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _row(record, first, names: dict[str, list]) -> tuple[int, ...]:
    """`COLUMNS` of a trial, which must have the same form as `first`; ValueError says what is wrong with it. If the
    file names no pictures, a trial needs none."""
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}, not a dict")
    eeg = record.get("eeg")
    if not isinstance(eeg, Tensor) or eeg.ndim != 2 or not eeg.is_floating_point():
        raise ValueError("has no `eeg` tensor of floats (channel, time)")
    if len(eeg) != (channels := len(first["eeg"])):
        raise ValueError(f"has {len(eeg)} channels, but the first trial has {channels}")
    row = {key: _number(record, key) for key in ("label", "image", "subject")}
    if not names["image"]:
        row["image"] = -1
    for key, value in row.items():
        if not isinstance(value, int):
            raise ValueError(f"has {key!r} set to {value!r}, which is not a whole number")
    for key, known in names.items():
        if known and not 0 <= row[key] < len(known):
            raise ValueError(f"has {key} {row[key]}, but the file lists {len(known)} (0 to {len(known) - 1})")
    if row["subject"] < 1:
        raise ValueError(f"has subject {row['subject']}, but subjects are numbered from 1")
    order = record.get("order")
    return eeg.shape[1], *row.values(), order if isinstance(order, int) else -1


def choose_samples(settings: EEGCVPR40Settings, lengths: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window, and minimum and maximum length of usable trials, in samples: those of the settings; otherwise the
    published values if most trials (trial,) are as long as in the published files, otherwise the samples that trials of
    a usual length have."""
    middle = int(lengths.sort().values[len(lengths) // 2])
    published = LENGTHS[0] <= middle <= LENGTHS[1]
    usual = LENGTHS if published else (math.ceil(USUAL[0] * middle), math.floor(USUAL[1] * middle))
    least, greatest = settings.lengths or usual
    usable = lengths[(lengths >= least) & (lengths <= greatest)]
    window = settings.window or (WINDOW if published or not len(usable) else (0, int(usable.min())))
    return window, (least, greatest)


def _convert(source: Path, target: Path, settings: EEGCVPR40Settings, key: str) -> None:
    statistics = {"means": Tensor, "stddevs": Tensor} if settings.band == "raw" else {}
    records, wnids, images, *statistics = read_published(source, dataset=list, labels=list, images=list, **statistics)
    if not records:
        raise DatasetError(f"{source} holds no trials. Download it again.")
    rows = []
    for trial, record in enumerate(records):
        try:
            rows.append(_row(record, records[0], {"label": wnids, "image": images}))
        except ValueError as error:
            cure = "Repair or remove this trial, or download the file again"
            raise DatasetError(f"{source}: trial {trial} {error}. {cure}.") from error
    table = dict(zip(COLUMNS, torch.tensor(rows, dtype=torch.int64).T, strict=True))
    channels = len(records[0]["eeg"])
    mean, deviation = statistics or (torch.zeros(channels), torch.ones(channels))
    for name, values, least in (("means", mean, -math.inf), ("stddevs", deviation, 0)):
        if values.numel() != channels or not (values.isfinite() & (values > least)).all():
            what = f"{channels} finite numbers{' above 0' * (least == 0)}, one per channel"
            raise DatasetError(
                f"{source}: {name} are not {what} (shape {tuple(values.shape)}). Download the file again."
            )
    mean, deviation = (values.float().reshape(-1, 1) for values in (mean, deviation))  # (channel, 1)

    (start, end), (least, greatest) = window, lengths = choose_samples(settings, table["lengths"])
    table["usable"] = (table["lengths"] >= least) & (table["lengths"] <= greatest)
    kept = torch.nonzero(table["usable"]).flatten()
    if not len(kept):
        raise DatasetError(f"{source}: no trial has {least} to {greatest} samples. Widen `lengths`.")
    for trial in kept[table["lengths"][kept] < end][:1].tolist():
        wrong = f"trial {trial} has {int(table['lengths'][trial])} samples, but the window {start}:{end} needs {end}"
        raise DatasetError(f"{source}: {wrong}. Shorten the window, or drop such trials with lengths=({end}, ...).")
    check_room(target, 4 * len(kept) * channels * (end - start))

    def trials() -> Iterator[tuple[Tensor]]:
        for trial in tqdm(kept.tolist(), desc=f"reading {source.name} (once)", unit="trial"):
            cut = (records[trial]["eeg"][:, start:end].float() - mean) / deviation
            records[trial] = None  # frees memory as it is written, if the file is not memory-mapped
            if bad := int((~cut.isfinite()).sum()):
                wrong = f"trial {trial} has {bad} values that are not finite (NaN or infinite)"
                raise DatasetError(f"{source}: {wrong}. Repair or remove this trial; nothing was loaded.")
            yield (cut,)

    about = {"labels": wnids, "images": images, "window": window, "lengths": lengths}
    about["table"] = {name: column.tolist() for name, column in table.items()}
    write_trials(target, key, trials(), lambda: about)
