"""What each part of a study costs as its trials, channels, subjects, texts and pictures grow: seconds and memory.

python tests/benchmarks/scaling.py [NAME ...] [--output FILE.json]        Linux only; no name: all; minutes

Every figure is taken at 1x, 2x and 4x, each in a process of its own. The exponent is the slope of a line through the
logarithms, of seconds and of the memory that is gained: 1 is linear. docs/scale.md says what follows from them.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from brainvis.configuration import PRESETS, Training
from brainvis.data import load_dataset
from brainvis.data.audit import audit
from brainvis.data.dataset import EEGDataset
from brainvis.data.rows import Rows
from brainvis.files import write_json
from brainvis.files.once import unchanging
from brainvis.generation import load_generator
from brainvis.generation.cascade import refinement_stage, semantic_stage
from brainvis.generation.text_embeddings import build_text_embeddings, text_cosines
from brainvis.graph import Choice, plan
from brainvis.models.alignment import AlignedEncoder, AlignmentNetwork, alignment_objective
from brainvis.models.encoder import classification_objective
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.fusion import FusedEncoder
from brainvis.models.time import LatentMaskedModel, TimeEncoder, masked_modeling_objective
from brainvis.training import fit

CLASSES, SAMPLES, RATE = 40, 440, 1000.0
SMOKE, EPOCH = PRESETS["smoke"], Training(epochs=1, batch_size=64)
Work = Callable[[], object]  # what is timed, once everything that it needs is there


def training(kind: str, trials: int = 1024, channels: int = 128) -> Work:
    """One epoch, with the models of `smoke`."""
    torch.manual_seed(0)
    shape = {"n_chans": channels, "n_times": SAMPLES, "sfreq": RATE}
    signals, labels = torch.randn(trials, channels, SAMPLES), torch.randint(0, CLASSES, (trials,))
    tensors, objective = [Rows(signals, torch.randperm(trials)), labels], classification_objective
    if kind == "time":
        model, objective = LatentMaskedModel(TimeEncoder(**shape, config=SMOKE.time)), masked_modeling_objective
        tensors = tensors[:1]
    elif kind == "frequency":
        model = FrequencyEncoder(**shape, n_outputs=CLASSES, config=SMOKE.frequency)
    else:
        model = FusedEncoder(**shape, n_outputs=CLASSES, configuration=SMOKE)
    if kind == "alignment":
        model = AlignedEncoder(model, AlignmentNetwork(model.width + CLASSES, (16, 96), SMOKE.alignment))
        objective = alignment_objective(torch.randn(CLASSES, 16, 96), torch.randn(2000, 16, 96), SMOKE.alignment)
        tensors = [*tensors, torch.randint(0, 2000, (trials,))]
    few = [tensor.to(None)[torch.arange(8)] for tensor in tensors]
    fit(model, objective, few, few, EPOCH, name="first", seed=0)  # which loads what the optimiser wants
    return lambda: fit(model, objective, tensors, few, EPOCH, name=kind, seed=0)


def dataset(trials: int, subjects: int = 6) -> EEGDataset:
    """Trials of one channel and two samples: all that is not signal is there at its full size."""
    images = torch.arange(trials) % 2000
    parts = torch.randperm(trials, generator=torch.Generator().manual_seed(0)).tensor_split([trials // 10, trials // 5])
    return EEGDataset(
        name="synthetic",
        trials=torch.randn(trials, 1, 2),
        sampling_rate=RATE,
        start=0.0,
        channels=("Oz",),
        montage=None,
        labels=images // 50,
        subjects=1 + torch.arange(trials) * subjects // trials,
        images=images,
        image_ids=tuple(f"n{image:04d}" for image in range(2000)),
        class_names=tuple(f"class {label}" for label in range(CLASSES)),
        captions={},
        image_folder=None,
        splits=dict(zip(("train", "val", "test"), (parts[2], *parts[:2]), strict=True)),
        lengths=torch.full((trials,), 500),
        order=None,
        fingerprint="synthetic",
        checked=True,
    )


def opening(folder: Path, trials: int) -> Work:
    """Opens files in the published form once they are known; of two channels, for the signal itself is only mapped."""
    signal = torch.randn(2, 500)
    records = [{"eeg": signal.clone(), "image": t % 2000, "label": t % 2000 // 50, "subject": 1} for t in range(trials)]
    names = {"labels": [f"n{i}" for i in range(CLASSES)], "images": [f"n{i // 50}_{i}" for i in range(2000)]}
    torch.save({"dataset": records, **names}, folder / "eeg_5_95_std.pth")
    parts = {"train": list(range(2, trials)), "val": [0], "test": [1]}
    torch.save({"splits": [parts]}, folder / "block_splits_by_image_all.pth")
    for _ in range(2):  # the first writes the array file, the second remembers that it is whole
        time.sleep(2.1)  # files that are younger may still change: they are read again
        load_dataset("eegcvpr40", folder)
    return lambda: load_dataset("eegcvpr40", folder)


def planning(folder: Path, subjects: int) -> Work:
    """The graph of a grid, three runs a subject."""
    file = folder / "many.yml"
    file.write_text(f"start: demo\nphantom: {{subjects: {subjects}}}\n")

    def work() -> None:
        with unchanging():
            plan([Choice(subject=subject, preset=str(file)) for subject in range(1, subjects + 1)])

    return work


def texts(folder: Path, count: int) -> Work:
    """Encodes texts by drawing random numbers of the size of Stable Diffusion 1.5's, writes them and opens them."""

    class Random:
        fingerprint, conditioning_shape = "random", (77, 768)

        def text_embeddings(self, texts: list[str]) -> torch.Tensor:
            return torch.zeros(len(texts), 77, 768)

    return lambda: build_text_embeddings(Random(), [f"text {i}" for i in range(count)], folder / "texts.safetensors")


def pictures(trials: int) -> Work:
    """Both stages, with the phantom's backbone and the steps of `smoke`."""
    generator = load_generator("phantom", "cpu")
    embeddings = generator.text_embeddings(["a red disc"]).expand(trials, -1, -1)

    def work() -> None:
        drawn = semantic_stage(generator, embeddings, SMOKE.generation, 0)
        refinement_stage(generator, drawn, ["red disc"] * trials, SMOKE.generation, 0)

    return work


# name -> (what grows, its values, what is done with one of them and a folder)
MEASURED: dict[str, tuple[str, tuple[int, ...], Callable[[int, Path], Work]]] = {
    "plan": ("subjects", (500, 1000, 2000), lambda n, folder: planning(folder, n)),
    "open": ("trials", (5_000, 10_000, 20_000), lambda n, folder: opening(folder, n)),
    "check, 6 subjects": ("trials", (250_000, 500_000, 1_000_000), lambda n, _: lambda: check(dataset(n))),
    "check, 500,000 trials": ("subjects", (250, 500, 1000), lambda n, _: lambda: check(dataset(500_000, n))),
    "audit": ("trials", (50_000, 100_000, 200_000), lambda n, _: lambda: audit(dataset(n))),
    **{
        f"{kind} epoch, {what}": (what, values, lambda n, _, kind=kind, what=what: training(kind, **{what: n}))
        for kind in ("time", "frequency", "fusion", "alignment")
        for what, values in (("trials", (512, 1024, 2048)), ("channels", (32, 64, 128)))
    },
    "text embeddings": ("texts", (1000, 2000, 4000), lambda n, folder: texts(folder, n)),
    "cosines of all texts": (
        "texts",
        (500, 1000, 2000),
        lambda n, _: lambda: text_cosines(*[torch.ones(n, 77, 768, dtype=torch.half)] * 2),
    ),
    "pictures": ("trials", (8, 16, 32), lambda n, _: pictures(n)),
}


def check(data: EEGDataset) -> None:
    """What every stage does with a data set that it has opened, and with that of one subject."""
    data.checked_for("clean").of_subject(1)


def measure(name: str, size: int) -> dict[str, float]:
    """Seconds and the most memory that was gained, in megabytes, in a process of its own."""
    answers, answer = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BRAINVIS_RUNS"] = str(Path(folder) / "runs")
            timed = MEASURED[name][2](size, Path(folder))
            Path("/proc/self/clear_refs").write_text("5")  # the most memory it had, from now on
            before, start = memory("VmRSS"), time.perf_counter()
            timed()
            answer.send({"seconds": time.perf_counter() - start, "megabytes": memory("VmHWM") - before})

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    answer.close()
    try:
        return answers.recv()
    except EOFError:
        raise SystemExit(f"{name} at {size}: the process ended without an answer, see above") from None
    finally:
        process.join()


def memory(what: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1000


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = ([math.log(max(value, 1e-9)) for value in column] for column in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {'; '.join(MEASURED)}")
    parser.add_argument("--output", type=Path, help="a JSON file, to which these figures are added")
    arguments = parser.parse_args()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    found = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    for name in arguments.names or MEASURED:
        grows, sizes, _ = MEASURED[name]
        measured = [measure(name, size) for size in sizes]
        columns = {unit: [round(one[unit], 3) for one in measured] for unit in ("seconds", "megabytes")}
        slopes = {unit: round(exponent(sizes, column), 2) for unit, column in columns.items()}
        found[name] = {"grows": grows, "sizes": sizes, **columns, "exponent": slopes, "machine": machine}
        print(f"{name:28} {grows:9} {sizes}: {columns['seconds']} s, {columns['megabytes']} MB; {slopes}", flush=True)
        if arguments.output:
            write_json(arguments.output, found)


if __name__ == "__main__":
    sys.exit(main())
