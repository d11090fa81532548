"""`EEGDataset`: what every adapter returns and every stage reads, checked once when it is created."""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn, Self

import torch
from PIL.Image import Image
from torch import Tensor

from brainvis.data.rows import Rows
from brainvis.data.source import DatasetError
from brainvis.files import BrainvisError
from brainvis.files.reading import open_picture

SPLITS = ("train", "val", "test")
PER_TRIAL = ("labels", "subjects", "images", "lengths", "order", "sessions")
NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}")  # of a picture
FEW = 20  # trials checked together
IMAGE_SUFFIXES = (".JPEG", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Partition:
    """Trials used for training, for choosing the best epoch, and for testing: indices of trials."""

    train: Tensor
    validation: Tensor
    test: Tensor
    protocol: str

    @property
    def honest(self) -> bool:
        """Whether the test trials played no part in choosing the model."""
        return not torch.isin(self.validation, self.test).any()


@dataclass(frozen=True, eq=False)
class EEGDataset:
    """Trials of all subjects and what was shown in them: the source of every number that a model needs. Raises
    DatasetError for trials that are not finite, numbers out of range, overlapping splits, tensors that do not fit, and
    invalid names of classes or pictures."""

    name: str
    trials: Tensor  # (trial, channel, time) float32
    sampling_rate: float  # hertz
    start: float  # time of the first sample in seconds, relative to stimulus onset
    channels: tuple[str, ...]
    montage: str | None  # a name for mne.channels.make_standard_montage; None: positions unknown
    labels: Tensor  # (trial,) int64
    subjects: Tensor  # (trial,) int64, as named in the files (1, 2, ...)
    images: Tensor  # (trial,) int64, index into image_ids; -1: no image
    image_ids: tuple[str, ...]
    class_names: tuple[str, ...]  # by label
    captions: dict[str, str]  # image id -> caption; may be empty
    image_folder: Path | None  # <image_folder>/<WordNet id>/<image id>.JPEG
    splits: dict[str, Tensor]  # "train", "val", "test" -> (n,) int64, indices of trials
    lengths: Tensor  # (trial,) int64, recorded samples before the window was cut
    order: Tensor | None  # (trial,) int64, position in the subject's recording; None: unknown
    fingerprint: str  # identifies what the data are made from
    notes: tuple[str, ...] = ()  # what a reader should know: dropped trials, unused trials, ...
    sessions: Tensor | None = None  # (trial,) int64, never shared between subjects; None: unknown
    before: Tensor | None = None  # (trial, channel, time) float32, up to the event; None: unknown
    flicker: tuple[float, ...] = ()  # hertz, of flickering lights
    checked: bool = False  # the adapter has checked that all trials are finite: no need to read them again

    def __post_init__(self):
        if self.trials.ndim != 3 or self.trials.dtype != torch.float32:
            found = f"{self.trials.dtype} {tuple(self.trials.shape)}"
            self._reject(f"trials must be float32 (trial, channel, time), not {found}: a mistake in the adapter")
        if not len(self):
            self._reject("no trials are left. Check the length filter and the subject")
        if len(self.channels) != self.trials.shape[1]:
            self._reject(f"{len(self.channels)} channel names for {self.trials.shape[1]} channels")
        for what, values in self._per_trial.items():
            if values.shape != (len(self),) or values.dtype != torch.int64:
                found = f"{values.dtype} {tuple(values.shape)}"
                self._reject(f"{what} must be int64 ({len(self)},), not {found}: a mistake in the adapter")
        self._check_words()
        if not self.checked:
            self._check_finite()
        if slow := [frequency for frequency in self.flicker if not 0 < frequency < self.sampling_rate / 2]:
            nyquist = f"{self.sampling_rate / 2:g} Hz, the Nyquist frequency"
            self._reject(
                f"flicker: {slow[0]:g} Hz is not between 0 and {nyquist}. Correct it, or resample to a higher rate"
            )
        self._check_range("label", self.labels, 0, len(self.class_names), "class_names")
        self._check_range("image", self.images, -1, len(self.image_ids), "image_ids")
        self._check_splits()

    @property
    def _per_trial(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in PER_TRIAL if getattr(self, name) is not None}

    def _reject(self, what: str) -> NoReturn:
        raise DatasetError(f"{self.name}: {what}.")

    def _check_words(self):
        for label, name in enumerate(self.class_names):
            if not isinstance(name, str) or not name.strip():
                self._reject(f"class {label} is called {name!r}. Give it a name: it serves as a prompt for pictures")
        for image, name in enumerate(self.image_ids):  # it becomes a folder name and a file name in that folder
            if not isinstance(name, str) or not NAME.fullmatch(name) or name.split("_")[0] in (".", ".."):
                what = "a plain file name (no folders, at most 200 characters)"
                self._reject(f"image {image} is called {str(name)[:80]!r}, which is not {what}. Rename it")
        for name, caption in self.captions.items():
            if not isinstance(caption, str):
                self._reject(f"the caption of {name} is {caption!r}, not text. Correct the captions")

    def _check_finite(self):
        # The sum of a trial is finite if and only if all its values are (apart from overflow, which isfinite then
        # settles); a mask of the whole array would take a quarter of the data's memory.
        for trial in torch.nonzero(~self.trials.sum(dim=(1, 2)).isfinite()).flatten().tolist():
            if bad := int((~self.trials[trial].isfinite()).sum()):
                what = f"trial {trial} (subject {int(self.subjects[trial])}) has {bad} values that are not finite"
                self._reject(f"{what}. Repair or remove it; nothing was loaded")

    def _check_range(self, what: str, values: Tensor, lowest: int, end: int, names: str):
        for trial in torch.nonzero((values < lowest) | (values >= end)).flatten()[:1].tolist():
            allowed = f"{names} has {end} entries (allowed: {lowest} to {end - 1})"
            self._reject(
                f"trial {trial} has {what} {int(values[trial])}, but {allowed}. Correct the {what} or the list"
            )

    def _check_splits(self):
        if tuple(self.splits) != SPLITS:
            self._reject(f"the splits are {tuple(self.splits)}, but must be {SPLITS}")
        seen = torch.zeros(len(self), dtype=torch.int64)
        for name, indices in self.splits.items():
            for wrong in indices[(indices < 0) | (indices >= len(self))][:1].tolist():
                self._reject(f"split {name} lists trial {wrong}, but there are {len(self)} trials")
            seen += torch.bincount(indices, minlength=len(self))
            for trial in torch.nonzero(seen > 1).flatten()[:1].tolist():
                what = f"trial {trial} is listed more than once in the splits (again in {name})"
                self._reject(
                    f"{what}. A test trial seen in training makes every score too good: correct the split file"
                )

    def __len__(self) -> int:
        return len(self.trials)

    def __repr__(self) -> str:
        trials, channels, samples = self.trials.shape
        signal = f"{trials} trials x {channels} channels x {samples} samples at {self.sampling_rate:g} Hz"
        shown = f"{len(self.class_names)} classes, {len(self.image_ids)} images"
        parts = ", ".join(f"{name} {len(indices)}" for name, indices in self.splits.items())
        return f"EEGDataset({self.name}: {signal}, {len(self.subjects.unique())} subjects, {shown}; {parts})"

    @property
    def has_images(self) -> bool:
        """Whether the pictures themselves are available."""
        return self.image_folder is not None

    @property
    def signature(self) -> dict[str, float]:
        """What every encoder needs to know about a trial: `n_chans`, `n_times`, and `sfreq` in hertz."""
        return {"n_chans": len(self.channels), "n_times": self.trials.shape[-1], "sfreq": self.sampling_rate}

    @cached_property
    def times(self) -> Tensor:
        """(time,) seconds relative to stimulus onset."""
        return self.start + torch.arange(self.trials.shape[-1], dtype=torch.float64) / self.sampling_rate

    def view(self, trials: Tensor) -> Rows:
        """The signals of some trials (indices), gathered batch by batch without a full copy, for `fit` and
        `predict`."""
        return Rows(self.trials, trials)

    def select(self, trials: Tensor) -> Self:
        """The data set restricted to some trials (indices, or a mask), in that order; splits are re-indexed."""
        if trials.dtype == torch.bool:
            trials = torch.nonzero(trials).flatten()
        new_index = torch.full((len(self),), -1, dtype=torch.int64)
        new_index[trials] = torch.arange(len(trials))
        moved = {name: new_index[indices] for name, indices in self.splits.items()}
        splits = {name: indices[indices >= 0] for name, indices in moved.items()}
        per_trial = {name: values[trials] for name, values in self._per_trial.items()}
        before = None if self.before is None else self.before[trials]
        return replace(self, trials=self.trials[trials], before=before, splits=splits, **per_trial)

    def of_subject(self, subject: int) -> Self:
        """The trials of one subject; DatasetError if there are none. Class names and image ids remain those of all
        subjects."""
        if not (own := self.subjects == subject).any():
            there_are = ", ".join(map(str, self.subjects.unique().tolist()))
            raise DatasetError(f"{self.name} has no subject {subject}: choose one of {there_are}.")
        return self.select(own)

    def with_permuted_labels(self, seed: int = 0) -> Self:
        """The same signals, with what was shown (class, picture and part of the split) permuted at random among each
        subject's trials. Nothing can then be learned about the class, and all counts are unchanged."""
        generator, shown = torch.Generator().manual_seed(seed), torch.arange(len(self))
        for own in self._trials_of.values():
            shown[own] = own[torch.randperm(len(own), generator=generator)]
        place = shown.argsort()  # of the trial that now shows what each trial showed
        return replace(
            self,
            labels=self.labels[shown],
            images=self.images[shown],
            splits={name: place[indices].sort().values for name, indices in self.splits.items()},
            fingerprint=f"{self.fingerprint}, permuted {seed}",
            notes=(*self.notes, "LABELS ARE PERMUTED within each subject: every score must be at chance."),
        )

    def partition(self, protocol: str) -> Partition:
        """Training, validation and test trials under a protocol; DatasetError if one of these parts has no trials.
        `clean` chooses the model on validation trials and uses the test trials once. `paper` follows the authors'
        release, for comparison only: it trains on train and val together and chooses the model on test."""
        if protocol not in ("clean", "paper"):
            raise DatasetError(f"Unknown protocol {protocol!r}: choose one of clean, paper.")
        for name in (name for name, indices in self.splits.items() if not len(indices)):
            self._reject(f"split {name} is empty. Choose another split, split_index or subject, or add trials to it")
        train, validation, test = (self.splits[name] for name in SPLITS)
        if protocol == "paper":
            train, validation = torch.cat([train, validation]), test
        return Partition(train, validation, test, protocol)

    def checked_for(self, protocol: str) -> Self:
        """This data set, if the trials of all subjects together can be used for training and testing under a protocol,
        with a note that names the subjects that cannot be studied alone. DatasetError otherwise."""
        self.check_trainable(protocol)
        reasons = [self.untrainable(protocol, subject) for subject in self._trials_of]
        alone = "; ".join(why.split(". ")[0] for why in reasons if why)
        return replace(self, notes=(*self.notes, f"Subjects that cannot be studied alone: {alone}.")) if alone else self

    def check_trainable(self, protocol: str = "clean", subject: int | None = None) -> None:
        """DatasetError if the trials of all subjects, or of one, cannot be used for training and testing."""
        if wrong := self.untrainable(protocol, subject):
            self._reject(wrong)

    def untrainable(self, protocol: str = "clean", subject: int | None = None) -> str:
        """Why the trials of all subjects, or of one, cannot be used for training under a protocol; "" if they can."""
        who = "" if subject is None else f"subject {subject}: "
        mine = torch.arange(len(self)) if subject is None else self._trials_of.get(subject, torch.arange(0))
        parts = {name: mine[self._part[mine] == number] for number, name in enumerate(SPLITS)}
        if empty := [name for name, indices in parts.items() if not len(indices)]:
            cure = "Choose another split, split_index or subject, or add trials to it"
            return f"{who}split {', '.join(empty)} is empty. {cure}"
        train = torch.cat([parts["train"], parts["val"]]) if protocol == "paper" else parts["train"]
        learnt, cure = self.labels[train].unique(), "Choose another split, or leave these classes out"
        if len(learnt) < 2:
            name = self.class_names[learnt[0]]
            return f"{who}all {len(train)} training trials are of one class, {name!r}: there is nothing to tell apart"
        if lacking := sorted(set(self.labels[mine].unique().tolist()) - set(learnt.tolist())):
            names = ", ".join(repr(self.class_names[label][:60]) for label in lacking[:5]) + ", ..." * (
                len(lacking) > 5
            )
            return f"{who}{len(lacking)} of the classes shown have no training trials: {names}. {cure}"
        if all(map(self._flat, (train[:: len(train) // FEW + 1], *train.split(FEW)))):  # a few first, then all
            return f"{who}the signal is constant in every training trial. Check the recording, or leave the subject out"
        return ""

    @cached_property
    def _trials_of(self) -> dict[int, Tensor]:
        """Trials of every subject: sorted once, to avoid a search per subject when there are a thousand."""
        subjects, counts = self.subjects.unique(return_counts=True)
        return dict(zip(subjects.tolist(), self.subjects.argsort(stable=True).split(counts.tolist()), strict=True))

    @cached_property
    def _part(self) -> Tensor:
        """(trial,) index in `SPLITS` of the part that each trial belongs to; -1: none."""
        part = torch.full((len(self),), -1, dtype=torch.int64)
        for number, name in enumerate(SPLITS):
            part[self.splits[name]] = number
        return part

    def _flat(self, trials: Tensor) -> bool:
        signals = self.trials[trials]
        return bool((signals.amax(-1) == signals.amin(-1)).all())

    def image_path(self, image: int) -> Path:
        """File of the picture with index `image`; DatasetError if there is no such picture or its file is missing."""
        if not self.has_images:
            raise DatasetError(
                f"{self.name} has no pictures. Put the picture folder (image/<id>/...) beside the EEG file."
            )
        if not 0 <= image < len(self.image_ids):
            self._reject(f"there is no picture {image}: there are {len(self.image_ids)}, numbered from 0")
        name = self.image_ids[image]
        stem = self.image_folder / name.split("_")[0] / name
        for path in (stem.with_name(name + suffix) for suffix in IMAGE_SUFFIXES):
            if path.is_file():
                return path
        trials = torch.nonzero(self.images == image).flatten().tolist()
        where = f"shown in trial {trials[0]}" if trials else "never shown"
        wrong = f"the file of picture {image} ({name}, {where}) is missing"
        wanted = f"{stem} with one of the suffixes {', '.join(IMAGE_SUFFIXES)}"
        self._reject(
            f"{wrong}: no {wanted}. Restore it, or move the whole picture folder away to work without pictures"
        )

    def image(self, image: int) -> Image:
        """The picture with index `image`, RGB; DatasetError if its file is missing or cannot be read as a picture."""
        try:
            return open_picture(self.image_path(image))
        except BrainvisError as error:
            raise DatasetError(str(error)) from error
