"""What a run leaves, what it goes on from, and what a person writes for it: one small file of each kind."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from pytest import MonkeyPatch
from torch import nn

from brainvis.configuration import configure
from brainvis.files import checksums, file_digests
from brainvis.generation import pictures
from brainvis.study import Study
from brainvis.training.checkpoint import Checkpoint, Progress
from helpers.mutations import Kind, kind, light, plain

# What a run leaves


def run(folder: Path, patch: MonkeyPatch) -> tuple[Study, Callable[[], object]]:
    """A study with a run of its last stage, and what reads all of that."""
    choice, module = light(patch), nn.Linear(5, 7)
    study = Study(**choice)
    drawn = [pictures.Picture(trial, 0, f"a red star, {trial}") for trial in range(3)]
    for stage in ("semantic", "refined"):
        place = pictures.PictureFolder(study.pictures / stage, drawn, (8, 8, 3), {"seed": 0}, "pictures")
        place.write(slice(None), np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    metrics = {"accuracy": 0.25, "names": ["Ω", "red star"], "curve": [1.5, 2.5e-7]}
    arrays = {"embeddings": torch.randn(6, 3), "trials": torch.arange(6)}
    study.save("generation", metrics, weights={"fused": module}, arrays=arrays, notes=("a note",))

    def read() -> object:
        found = Study(**choice).load("generation")
        images = [file.read_bytes() for file in sorted(study.pictures.glob("*/*"))]
        return plain([found.results, found.arrays, found.load_weights("fused", nn.Linear(5, 7)), images])

    return study, read


def of_run(*patterns: str) -> Callable[[Path, MonkeyPatch], Kind]:
    def build(folder: Path, patch: MonkeyPatch) -> Kind:
        study, read = run(folder, patch)
        place = study.folder("generation")
        return Kind("", folder, sorted(file for pattern in patterns for file in place.glob(pattern)), read)

    return build


kind("results.json")(of_run("results.json"))
kind("weights of a run")(of_run("fused.safetensors"))
kind("arrays of a run")(of_run("arrays.safetensors"))
kind("pictures of a run, and their index")(of_run("pictures/*/*"))


@kind("pictures while they are drawn, and their index")
def drawing(folder: Path, patch: MonkeyPatch) -> Kind:
    place, images = folder / "semantic", np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    drawn = [pictures.Picture(trial, 0, f"a red star, {trial}") for trial in range(4)]

    def opened() -> pictures.PictureFolder:
        return pictures.PictureFolder(place, drawn, (8, 8, 3), {"seed": 0, "weights": "abc"}, "pictures")

    def read() -> object:
        kept, found = opened(), np.zeros_like(images)
        for one in range(len(drawn)):
            if not kept.read(slice(one, one + 1), found[one : one + 1]):
                kept.write(slice(one, one + 1), images[one : one + 1])  # drawn anew
                found[one] = images[one]
        return found.tobytes(), (place / "index.json").read_bytes()

    opened().write(slice(None), images)
    return Kind("", folder, sorted(place.iterdir()), read)


def training(folder: Path) -> tuple[Checkpoint, Callable[[], object], list]:
    """A training with two checkpoints, what takes it up, and contents: the last, the one before, a new start."""
    checkpoint = Checkpoint(folder / "time.checkpoint", "this training", due=0.0)

    def new() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        return model, torch.optim.AdamW(model.parameters())

    def content(progress: Progress, model: nn.Module, optimiser: torch.optim.Optimizer) -> object:
        return plain([vars(progress), model, optimiser.state_dict()])

    model, optimiser = new()
    contents = [content(Progress(), model, optimiser)]
    for epoch in (1, 2):
        model(torch.randn(5, 4)).square().mean().backward()
        optimiser.step()
        best = {name: value.clone() for name, value in model.state_dict().items()}
        progress = Progress(epoch, [{"loss": 1.0}] * epoch, epoch, 0.5, best, 1.0)
        checkpoint.due = 0.0
        checkpoint.save(progress, model, optimiser)
        contents.append(content(progress, model, optimiser))

    def read() -> object:
        model, optimiser = new()
        return content(checkpoint.load(model, optimiser), model, optimiser)

    return checkpoint, read, contents[::-1]


@kind("checkpoint, and the one before")
def checkpoints(folder: Path, patch: MonkeyPatch) -> Kind:
    checkpoint, read, contents = training(folder)
    return Kind("", folder, [checkpoint.path, checkpoint.before], read, contents[:2])


@kind("checkpoint without one before")
def lone_checkpoint(folder: Path, patch: MonkeyPatch) -> Kind:
    checkpoint, read, (last, _, new) = training(folder)
    checkpoint.before.unlink()
    return Kind("", folder, [checkpoint.path], read, [last, new])


@kind("preset of one's own")
def preset(folder: Path, patch: MonkeyPatch) -> Kind:
    file = folder / "mine.yml"
    own = {
        "start": "smoke",
        "time": {"pretraining": {"epochs": 3, "learning_rate": 1.5e-4, "optimiser": "adam"}, "dropout": 0.25},
        "fusion": {"branches": ["time", "frequency"], "time_weights": "pretrained", "classifier": "new"},
        "generation": {"samples": 2, "semantic_guidance": 1.5, "trials": None},
        "phantom": {"design": "block"},
    }
    file.write_text("# a small study\n" + yaml.safe_dump(own))
    choice = light(patch) | {"preset": str(file)}
    Study(**choice).save("generation", {"accuracy": 1})

    def read() -> object:
        return asdict(configure(str(file), "full"))

    return Kind("", folder, [file], read, later=lambda: Study(**choice).load("generation"))


@kind("memory of checksums (.checked.json)")
def memory(folder: Path, patch: MonkeyPatch) -> Kind:
    files = [folder / name for name in ("good.bin", "damaged.bin", "replaced.bin")]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 400_000)  # so large that they are remembered on disk
    time.sleep(checksums.SETTLED + 0.1)
    file_digests(files)
    for file in files[1:]:  # as long and, as far as its own time tells, as old as before
        state = file.stat()
        if file.stem == "replaced":
            file.unlink()
        file.write_bytes(b"\xff" * 400_000)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    def read() -> object:
        checksums._memories.clear()  # as in a new process
        assert file_digests(files) == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        return True  # whatever is remembered

    return Kind("", folder, [checksums.runs_folder() / checksums.MEMORY], read)
