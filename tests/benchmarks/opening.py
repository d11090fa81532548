"""Opening EEGCVPR40 and the targets of alignment: at full size with --full, else at a tenth of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from benchmarks import baseline
from benchmarks.turns import Turns, ask, compete, spread
from brainvis.data import load_dataset
from brainvis.generation.text_embeddings import build_text_embeddings
from brainvis.phantom.recording import EEG_FILE, write_eeg_file

TRIALS, TEXTS, CLASSES = 11_964, 2040, 40  # of EEGCVPR40; captions and class names
CHANNELS, SAMPLES, SHAPE = 128, 499, (77, 768)
LENGTHS = (450, 600)  # samples of a usable trial
SETTLED = 2.5  # seconds after which a file counts as unchanging
PARTS = {"full": 1, "tenth": 10, "smoke": 1500}


@dataclass(frozen=True)
class RandomEncoder:
    """As much of a backbone as text embeddings need, at Stable Diffusion 1.5's size."""

    fingerprint: str = "random"
    conditioning_shape: tuple[int, int] = SHAPE

    def text_embeddings(self, texts: list[str]) -> Tensor:
        return torch.randn(len(texts), *SHAPE)


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def write_eeg(turns: Turns, folder: str, trials: int) -> None:
    """Noise in the published files, as the phantom writes them."""
    noise, place = torch.randn(CHANNELS, 2**14), Path(folder)
    place.mkdir(parents=True, exist_ok=True)

    def records() -> Iterator[dict]:
        for trial in range(trials):
            start = trial * 7919 % (2**14 - SAMPLES)
            eeg = noise[:, start : start + SAMPLES].contiguous()
            image, subject = trial % (trials // 6 + 1), trial // (trials // 6 + 1) + 1
            yield {"eeg": eeg, "image": image, "label": image % CLASSES, "subject": subject}

    images = [f"n{image % CLASSES:08d}_{image}" for image in range(trials // 6 + 1)]
    split = {"train": list(range(0, trials, 2)), "val": list(range(1, trials, 4)), "test": list(range(3, trials, 4))}
    torch.save({"splits": [split]}, place / "block_splits_by_image_all.pth")
    write_eeg_file(place / EEG_FILE, records(), [f"n{label:08d}" for label in range(CLASSES)], images)
    turns.ready()


def write_targets(turns: Turns, folder: str, count: int) -> None:
    """The same embeddings in the package's file and in lines of text."""
    place = Path(folder)
    embedded = build_text_embeddings(RandomEncoder(), texts(count), place / "targets.safetensors")
    baseline.write_targets(place / "targets.txt", embedded.embeddings.flatten(1).float())
    turns.ready()


# Contestants; each in a process of its own, which opens once


def convert(turns: Turns, folder: str) -> None:
    for array in Path(folder).glob("*.safetensors"):
        array.unlink()
    opened(turns, folder)


def opened(turns: Turns, folder: str) -> None:
    turns.ready()
    data = load_dataset("eegcvpr40", folder=Path(folder))
    turns(1)
    del data


def opened_as_published(turns: Turns, folder: str) -> None:
    turns.ready()
    trials = baseline.open_eeg(Path(folder) / EEG_FILE, LENGTHS)
    turns(1)
    del trials


def targets(turns: Turns, folder: str, count: int, trials: int) -> None:
    """Tables of texts, and each trial's row in them."""
    names, generator = texts(count), RandomEncoder()
    turns.ready()
    embedded = build_text_embeddings(generator, names, Path(folder) / "targets.safetensors")
    coarse, fine = embedded.lookup(names[: CLASSES // 4]), embedded.lookup(names)
    rows = torch.arange(trials) % len(coarse), torch.arange(trials) % len(fine)
    turns(1)
    del rows


def targets_as_text(turns: Turns, folder: str, count: int, trials: int) -> None:
    """Both targets of each trial."""
    turns.ready()
    of_trials = [*(trial % count for trial in range(trials)), *(trial % CLASSES for trial in range(trials))]
    held = baseline.open_targets(Path(folder) / "targets.txt", of_trials)
    turns(1)
    del held


def opened_once(turns: Turns, folder: str) -> None:
    """Open it, and leave behind what an opening leaves."""
    load_dataset("eegcvpr40", folder=Path(folder))
    turns.ready()


def targets_once(turns: Turns, folder: str, count: int, trials: int) -> None:
    """Read them, so that they are known to be whole."""
    build_text_embeddings(RandomEncoder(), texts(count), Path(folder) / "targets.safetensors")
    turns.ready()


# Rows


def measurements(options) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """Conversion, opening, targets; the size is that of the data, not of a preset."""
    size = "smoke" if options.sizes == ["smoke"] else "full" if options.full else "tenth"
    yield "first opening of EEGCVPR40", size, lambda: _conversion(size, options)
    yield "opening of EEGCVPR40", size, lambda: _opening(size, options)
    yield "opening of targets", size, lambda: _targets(size, options)


def _folder(size: str, options) -> Path:
    """The data, written if they are not there."""
    folder = options.scratch / f"eeg-{size}"
    if not (folder / EEG_FILE).exists():
        arguments = {"folder": str(folder), "trials": TRIALS // PARTS[size]}
        ask(("benchmarks.opening:write_eeg", arguments), options.environment)
        time.sleep(SETTLED)
    return folder


def _conversion(size: str, options) -> dict:
    folder = str(_folder(size, options))
    contestants = {"package": ("benchmarks.opening:convert", {"folder": folder})}
    return _seconds(compete(contestants, 1, options.environment, fresh=True), {"trials": TRIALS // PARTS[size]})


def _opening(size: str, options) -> dict:
    folder = str(_folder(size, options))
    for _ in range(2):  # converted, and once found whole
        ask(("benchmarks.opening:opened_once", {"folder": folder}), options.environment)
        time.sleep(SETTLED)
    contestants = {
        "package": ("benchmarks.opening:opened", {"folder": folder}),
        "baseline": ("benchmarks.opening:opened_as_published", {"folder": folder}),
    }
    outcome = compete(contestants, options.rounds or 3, options.environment, fresh=True)
    return _seconds(outcome, {"trials": TRIALS // PARTS[size]})


def _targets(size: str, options) -> dict:
    folder, count, trials = options.scratch / f"targets-{size}", TEXTS // PARTS[size] or 1, TRIALS // PARTS[size]
    arguments = {"folder": str(folder), "count": max(count, 8)}
    if not (folder / "targets.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        ask(("benchmarks.opening:write_targets", arguments), options.environment)
        time.sleep(SETTLED)
    arguments |= {"trials": trials}
    contestants = {"package": ("benchmarks.opening:targets", arguments)}
    ask(("benchmarks.opening:targets_once", arguments), options.environment)
    needed = 8 * SHAPE[0] * SHAPE[1] * (2 * trials + count)  # bytes
    fits = needed < 0.8 * psutil.virtual_memory().available
    if fits:
        contestants["baseline"] = ("benchmarks.opening:targets_as_text", arguments)
    outcome = compete(contestants, options.rounds or (1 if size == "full" else 3), options.environment, fresh=True)
    note = "" if fits else f"the obvious way needs {needed / 1e9:.0f} GB, which are not free"
    return _seconds(outcome, {"trials": trials, "texts": arguments["count"], "note": note})


def _seconds(outcome, settings: dict) -> dict:
    """A row whose figures are seconds, not rates."""
    row = {"unit": "s", "peak": outcome.peaks, "settings": settings}
    row |= {name: spread([1 / rate for rate in rates]) for name, rates in outcome.rates.items()}
    return row | ({"times_baseline": spread(outcome.ratio("package", "baseline"))} if "baseline" in row else {})
