"""Record the phantom: pictures shown to subjects, one trial each, in the files and formats of EEGCVPR40."""

import io
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from tqdm.auto import tqdm

from brainvis.configuration import Phantom
from brainvis.files import check_writable, file_digests, write_json, write_sealed
from brainvis.phantom import phantom_identity, published_form
from brainvis.phantom.head import MONTAGE, electrodes
from brainvis.phantom.published_form import PublishedForm
from brainvis.phantom.sources import GAINS, OngoingEEG, PictureResponses, Subject
from brainvis.phantom.spectrum import BAND, BAND_PASS, SAMPLING_RATE, waveforms_of
from brainvis.phantom.stimuli import CLASS_NAMES, SHOWN_CLASSES, WNIDS, Session, plan_session, render

EEG_FILE = "eeg_5_95_std.pth"
MANIFEST = "phantom.json"  # what the phantom is, and a checksum of each of its files
ATTRIBUTES = ("shape", "colour", "size", "position", "background")
RESOLUTION = 64  # pixels
TRIAL = 4 * 128 * 500  # bytes, approximately
BATCH = 100  # trials generated at once: 37 MB of signal
PAUSE = 10.0  # seconds of rest between two blocks
SPLITS = 6  # in the file of splits over all subjects, as published
HELD_OUT = 0.15  # of each class's images, for validation and for test each


def write_phantom(folder: Path, phantom: Phantom, seed: int, form: PublishedForm | None = None) -> None:
    """Generate a phantom and write it to `folder`, which appears only when complete; `form` adds the quirks of
    EEGCVPR40's publication. ValueError: sizes that make no data set. FileExistsError: `folder` already exists."""
    sizes = phantom.subjects >= 1 and phantom.images_per_class >= 3 and 1 <= phantom.classes <= len(SHOWN_CLASSES)
    if not (sizes and phantom.design in ("interleaved", "block") and phantom.drift >= 0 and phantom.signal >= 0):
        raise ValueError(
            f"No such phantom: {phantom}. Allowed are subjects from 1, images_per_class from 3 (one for each split), "
            f"classes 1 to {len(SHOWN_CLASSES)}, design interleaved or block, drift and signal from 0."
        )
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: delete it or choose another folder.")
    # The EEG twice, as the file is written from a scratch file, and once more for the array made from it.
    check_writable(folder.parent, 3 * phantom.subjects * phantom.classes * phantom.images_per_class * TRIAL)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    try:
        _write(aside, phantom, seed, form)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(folder: Path, phantom: Phantom, seed: int, form: PublishedForm | None) -> None:
    picture_seed, split_seed, *subject_seeds = np.random.SeedSequence(seed).spawn(2 + phantom.subjects)
    session = plan_session(phantom, np.random.default_rng(picture_seed))
    rng = np.random.default_rng(split_seed)
    if form is None:
        there, lengths = np.ones((phantom.subjects, len(session.labels)), bool), [None] * phantom.subjects
        single, *_ = splits = [split_by_image(session.labels, rng) for _ in range(SPLITS)]
        trial = np.arange(there.size).reshape(there.shape)  # its index in the file, (subject, image)
        everyone = [{name: trial[:, part].ravel().tolist() for name, part in split.items()} for split in splits]
    else:
        session = published_form.published_session(session, form, rng)
        there = published_form.published_trials(phantom.subjects, len(session.labels), form, rng)
        lengths = published_form.published_lengths(there, form, rng)
        everyone, single = published_form.published_splits(session.labels, there, form, SPLITS, rng)
    torch.save({"splits": everyone}, folder / "block_splits_by_image_all.pth")
    torch.save({"splits": [single]}, folder / "block_splits_by_image_single.pth")

    suffix, options = (".png", {}) if form is None else (".JPEG", {"quality": 95, "subsampling": 0})
    shown = dict(zip(session.image_ids, session.stimuli, strict=True))
    for name, stimulus in shown.items():
        place = folder / "image" / name.split("_")[0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render([stimulus], RESOLUTION)[0]).save(place / f"{name}{suffix}", **options)
    names = {WNIDS[index]: CLASS_NAMES[index] for index in SHOWN_CLASSES[: phantom.classes]}
    truth = {image: {name: getattr(stimulus, name) for name in ATTRIBUTES} for image, stimulus in shown.items()}
    write_json(folder / "class_names.json", names)
    write_json(folder / "captions.json", {image: stimulus.caption for image, stimulus in shown.items()})
    write_json(folder / "attributes.json", truth)

    def trials() -> Iterator[dict]:
        for index, subject_seed in enumerate(tqdm(subject_seeds, desc="phantom EEG", unit="subject")):
            rng = np.random.default_rng(subject_seed)
            for image, order, eeg in record(session, phantom, rng, lengths[index]):
                trial = {"eeg": eeg, "image": image, "label": int(session.labels[image]), "subject": index + 1}
                if there[index, image]:
                    yield trial if form is not None else trial | {"order": order}  # no order was published

    write_eeg_file(folder / EEG_FILE, trials(), list(names), session.image_ids)
    made = {"gains": GAINS, "sampling_rate": SAMPLING_RATE, "band": BAND, "montage": MONTAGE}
    made["channels"] = electrodes()[0]
    files = file_digests(sorted(file for file in folder.rglob("*") if file.is_file()))
    made["files"] = {file.relative_to(folder).as_posix(): sha256 for file, sha256 in files.items()}
    write_sealed(folder / MANIFEST, json.loads(json.dumps(phantom_identity(phantom, seed) | made)))


def write_eeg_file(file: Path, trials: Iterable[dict], labels: list[str], images: list[str]) -> None:
    """Save the trials ("eeg": float32 (channel, time), and what else belongs to each), with every channel scaled to
    mean zero and variance one over all of them, as published. A scratch file of the same size holds them meanwhile."""
    rows, total, squares = [], 0.0, 0.0
    with tempfile.TemporaryFile(dir=file.parent) as scratch:
        for trial in trials:
            eeg = trial["eeg"]
            scratch.write(eeg.numpy())
            total = total + eeg.sum(dim=1, dtype=torch.float64)
            squares = squares + eeg.double().square().sum(dim=1)
            rows.append({**trial, "eeg": eeg.shape})
        samples = sum(row["eeg"][1] for row in rows)
        mean = total / samples
        scale = (squares / samples - mean**2).rsqrt().float()[:, None]
        scratch.flush()
        pages, position = mmap.mmap(scratch.fileno(), 0), 0
        for row in rows:
            shape = row["eeg"]
            eeg = torch.frombuffer(pages, dtype=torch.float32, count=shape.numel(), offset=position)
            position += eeg.nbytes
            row["eeg"] = eeg.reshape(shape).sub_(mean.float()[:, None]).mul_(scale)
            _give_back(pages)
        with _Sparing(file, "wb") as target:
            target.pages = pages
            torch.save({"dataset": rows, "labels": labels, "images": images}, target)


class _Sparing(io.FileIO):
    """A file whose content comes from mapped `pages`, which are released as they are written."""

    def write(self, data: bytes) -> int:
        _give_back(self.pages)
        return super().write(data)


def _give_back(pages: mmap.mmap) -> None:
    """Let the system reclaim memory: the content of the pages is in the file."""
    if hasattr(pages, "madvise"):  # not on Windows
        pages.madvise(mmap.MADV_DONTNEED)


def split_by_image(labels: np.ndarray, rng: Generator) -> dict[str, list[int]]:
    """A split of images, with the same share of each class in each part."""
    by_class = []  # (val, test, train)
    for label in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == label))
        held_out = max(1, round(HELD_OUT * len(images)))
        by_class.append(np.split(images, [held_out, 2 * held_out]))
    val, test, train = (np.sort(np.concatenate(part)).tolist() for part in zip(*by_class, strict=True))
    return {"train": train, "val": val, "test": test}


def presentation_order(labels: np.ndarray, design: str, rng: Generator) -> np.ndarray:
    """Images in the order in which a subject sees them: fully mixed, or each class in one block."""
    if design == "interleaved":
        return rng.permutation(len(labels))
    blocks = rng.permutation(np.unique(labels))
    return np.concatenate([rng.permutation(np.flatnonzero(labels == block)) for block in blocks])


def onset_times(labels: np.ndarray) -> np.ndarray:
    """Onsets of the pictures in seconds: one every half second, with a pause after as many as one class has
    pictures."""
    position = np.arange(len(labels))
    return 0.5 * position + PAUSE * (position // np.bincount(labels).max())


def trial_lengths(count: int, rng: Generator) -> np.ndarray:
    """Recorded samples per trial: mostly about 500, with one in a hundred so long that a length filter drops it."""
    lengths = np.minimum(491 + rng.geometric(1 / 12, count), 560)
    return np.where(rng.random(count) < 0.01, rng.integers(605, 700, count), lengths)


def record(
    session: Session, phantom: Phantom, rng: Generator, lengths: np.ndarray | None = None
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """One subject's trials, by image: (image, position in the recording, float32 (channel, time)). `lengths` (image,)
    are in samples; None draws them. A trial longer than one period continues with EEG without responses."""
    subject = Subject(rng)
    responses, ongoing = PictureResponses(subject, rng), OngoingEEG(subject, rng)
    mixing = np.concatenate([responses.topographies, ongoing.topographies], axis=1)  # (channel, source)
    count = len(session.labels)
    order = np.argsort(presentation_order(session.labels, phantom.design, rng))  # position of each image
    potentials, powers = ongoing.drift(onset_times(session.labels), phantom.drift, rng)
    usual = trial_lengths(count, rng)  # always drawn: what follows must not depend on `lengths`
    lengths = usual if lengths is None else lengths
    attributes = {name: np.array([getattr(stimulus, name) for stimulus in session.stimuli]) for name in ATTRIBUTES}
    (later,) = rng.spawn(1)  # for what follows a long trial; draws nothing from the others

    def scalp(sources: np.ndarray, topographies: np.ndarray, rng: Generator) -> np.ndarray:
        # Mixing complex spectra with real weights means mixing their real and imaginary parts, side by side.
        spectra = (topographies @ sources.view(np.float32)).view(np.complex64)  # (trial, channel, frequency)
        spectra += ongoing.sensor_noise(len(sources), rng)
        return waveforms_of(spectra * BAND_PASS)  # (trial, channel, SAMPLES)

    for start in range(0, count, BATCH):
        batch = np.arange(start, min(start + BATCH, count))
        driven = responses.spectra({name: values[batch] for name, values in attributes.items()}, rng)
        driven *= np.float32(phantom.signal)
        running = ongoing.spectra(len(batch), powers[order[batch]], rng)
        signals = scalp(np.concatenate([driven, running], axis=1), mixing, rng)  # sources (trial, source, frequency)
        for image, signal in zip(batch.tolist(), signals, strict=True):
            place = order[image]
            if (more := published_form.stretches_needed(lengths[image]) - 1) > 0:
                following = ongoing.spectra(more, powers[[place] * more], later)
                stretches = [signal, *scalp(following, ongoing.topographies, later)]
                signal = published_form.joined(stretches, lengths[image])
            signal = signal[:, : lengths[image]] + potentials[place, :, None]
            yield image, int(place), torch.from_numpy(signal)
