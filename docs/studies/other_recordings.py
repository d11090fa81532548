"""What the time branch can be pre-trained on besides its own training trials (as table 5 of the paper): a part of them,
trials of another head, trials of other people's recordings. All come in the form of the data at hand, and as many of
them at most; every kind makes as many steps.
"""

from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import torch
from torch import Tensor

from brainvis.configuration import Configuration, Phantom, Training
from brainvis.data import load_dataset
from brainvis.data.dataset import EEGDataset, Partition
from brainvis.data.rows import Rows
from brainvis.files import BrainvisError, data_folder
from brainvis.phantom.spectrum import BAND

ORIGINS = {  # what `pretraining.KINDS` calls them
    "lmm_same_25": "LMM on 25 % of the trials",
    "lmm_same_50": "LMM on 50 % of the trials",
    "lmm_other_head": "LMM on another head",
    "lmm_both": "LMM on both heads",
    "lmm_ssvep": "LMM on SSVEP recordings",
}


def pretraining_on(
    kind: str, data: EEGDataset, partition: Partition, training: Training, recordings: Path | None = None
) -> tuple[Tensor | Rows, Training]:
    """What a kind is pre-trained on, (trial, channel, time), and for how many epochs: the steps of `training` on all
    training trials. A kind that is not in `ORIGINS` is pre-trained on these.

    `recordings` are those of "lmm_ssvep"; None: ssvep_exo in the data folder. BrainvisError: they are not there.
    """
    train = partition.train
    if kind.startswith("lmm_same_"):
        trials = data.view(train[spread(len(train), round(len(train) * int(kind.rpartition("_")[2]) / 100))])
    elif kind == "lmm_other_head":
        trials = other_head(data, len(train))
    elif kind == "lmm_both":
        trials = torch.cat([data.trials[train], other_head(data, len(train))])
    elif kind == "lmm_ssvep":
        trials = ssvep(data, recordings or data_folder("ssvep_exo"), len(train))
    else:
        trials = data.view(train)
    return trials, replace(training, epochs=max(1, round(training.epochs * len(train) / len(trials))))


def spread(there: int, wanted: int) -> Tensor:
    """`wanted` of the places 0 to `there` - 1, evenly spaced; all where there are no more."""
    return torch.arange(min(wanted, there)) * there // min(wanted, there)


def other_head(data: EEGDataset, most: int | None = None, phantom: Phantom | None = None) -> Tensor:
    """Trials (trial, channel, time) of a phantom of other people, who see other pictures: `most` of them, on the
    channels of `data`. DatasetError: it cannot be made."""
    other = load_dataset("phantom", configuration=Configuration(phantom=phantom or Phantom()), seed=1)
    trials = other.trials[spread(len(other), most or len(other))]
    return mapped(trials, positions(other.channels, other.montage), positions(data.channels, data.montage))


def ssvep(data: EEGDataset, folder: Path, most: int | None = None) -> Tensor:
    """Trials (trial, channel, time) cut one after the other from whole recordings, `<folder>/<subject>/*_raw.fif`:
    filtered as the phantom is, brought to the sampling rate of `data`, on its channels. Each channel has mean 0 and
    variance 1 in each recording, as its amplifier's level is no brain activity.

    BrainvisError: there are no recordings in the folder.
    """
    if not (files := sorted(folder.glob("*/*_raw.fif"))):
        raise BrainvisError(f"no recordings in {folder}: it must contain one folder per subject, with *_raw.fif files")
    target, samples, parts = positions(data.channels, data.montage), data.trials.shape[-1], []
    for file in files:
        raw = mne.io.read_raw_fif(file, preload=True, verbose="error").pick("eeg")
        raw.filter(*BAND, verbose="error").resample(data.sampling_rate, verbose="error")
        signal = raw.get_data()  # (channel, time)
        signal = (signal - signal.mean(1, keepdims=True)) / signal.std(1, keepdims=True)
        count = signal.shape[1] // samples
        cut = signal[:, : count * samples].reshape(len(signal), count, samples).transpose(1, 0, 2)
        some = spread(count, -(-(most or count * len(files)) // len(files)))
        own = positions(tuple(raw.ch_names), data.montage)
        parts.append(mapped(torch.from_numpy(cut[some].astype(np.float32)), own, target))
    trials = torch.cat(parts)
    return trials[spread(len(trials), most or len(trials))]


def positions(channels: tuple[str, ...], montage: str | None) -> np.ndarray:
    """Directions (channel, 3) of electrodes from the centre of the head, unit vectors.

    BrainvisError: no montage, or a channel that it does not have.
    """
    if montage is None:
        raise BrainvisError("the positions of these channels are not known: the data set names no montage")
    places = mne.channels.make_standard_montage(montage).get_positions()["ch_pos"]
    if unknown := [name for name in channels if name not in places]:
        raise BrainvisError(f"the montage {montage} has no channel {', '.join(unknown)}")
    found = np.stack([places[name] for name in channels])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def mapped(trials: Tensor, own: np.ndarray, target: np.ndarray) -> Tensor:
    """Trials (trial, channel, time) on other channels: each has the signal of the nearest electrode, by the directions
    `own` (channel, 3) and `target` (other channel, 3).

    Splines would leave the patch of scalp that was recorded: from five occipital electrodes MNE's make the forehead
    with weights of 40.
    """
    nearest = (target @ own.T).argmax(1)  # (other channel,)
    return trials if np.array_equal(nearest, np.arange(len(own))) else trials[:, torch.from_numpy(nearest)]
