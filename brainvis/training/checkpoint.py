"""Where a training that was interrupted goes on: its last two checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from brainvis.configuration import Training
from brainvis.files import WriteError, check_writable, write_aside
from brainvis.files.tensors import load_tensors

SECONDS_BETWEEN = 20.0  # at least, from one checkpoint to the next
PIECE = 256  # rows that are hashed at a time
WRITING_SHARE = 0.05  # at most, of the training's time: the `paper` alignment network makes files of 4 GB


@dataclass
class Progress:
    """A training after its last whole epoch; epochs count from 1."""

    epoch: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    lowest: float = float("inf")  # what the best epoch is chosen by, negated where the highest is the best
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False


@dataclass
class Checkpoint:
    """One training's file, and the one before it; without a path nothing is read or written.

    A file that is damaged or of another training is renamed to `<name>.previous`: never used, never lost.
    """

    path: Path | None
    identity: str
    due: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN)

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
        """The progress on disk, with model and optimiser set to it; a new one if there is none to take up."""
        if self.path is None:
            return Progress()
        # Room for the best weights, the model and two numbers a weight of the optimiser, in each of two files.
        check_writable(self.path.parent, 8 * sum(weight.nbytes for weight in model.state_dict().values()))
        for file in filter(Path.exists, (self.path, self.before)):
            try:
                content = load_tensors(file)  # which reads the checksums, as torch does not
                if content["identity"] != self.identity:
                    raise ValueError("it belongs to a training with other settings, starting weights or trials")
                progress = Progress(**content["progress"])
                if not progress.finished:
                    model.load_state_dict(content["model"])
                    optimiser.load_state_dict(content["optimiser"])
                return progress
            except Exception as error:  # a damaged file raises whatever its damage leads to
                kept = file.with_name(file.name + ".previous")
                os.replace(file, kept)
                why = (str(error).splitlines() or [""])[0][:120]
                goes_on = "starts anew" if file == self.before or not self.before.exists() else "tries the one before"
                why = f"{file} cannot be used ({type(error).__name__}: {why}); kept as {kept.name}"
                warnings.warn(f"{why}, the training {goes_on}", stacklevel=3)
        return Progress()

    @property
    def before(self) -> Path:
        """The checkpoint before the last one."""
        return self.path.with_name(self.path.name + ".before")

    def save(self, progress: Progress, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Writes if it is time to, and always at the end, when only history and best weights are kept."""
        start = time.monotonic()
        if self.path is None or (start < self.due and not progress.finished):
            return
        content = {"identity": self.identity, "progress": vars(progress)}
        if not progress.finished:
            content |= {"model": model.state_dict(), "optimiser": optimiser.state_dict()}

        def write(path: Path) -> None:
            torch.save(content, path)
            if self.path.exists():
                self.path.replace(self.before)

        try:
            write_aside(self.path, write)
        except WriteError as error:
            warnings.warn(f"no checkpoint is kept, the training goes on: {error}", stacklevel=3)
        self.due = time.monotonic() + max(SECONDS_BETWEEN, (time.monotonic() - start) / WRITING_SHARE)


def training_identity(
    model: nn.Module, train: Sequence[Tensor], validation: Sequence[Tensor], training: Training, **others: object
) -> str:
    """A hash of all that a training's result depends on: weights before it, data, settings, the models' `config`."""
    configs = [vars(module.config) for module in model.modules() if is_dataclass(getattr(module, "config", None))]
    configs = [{key: value for key, value in config.items() if not isinstance(value, Training)} for config in configs]
    settings = {"training": asdict(training), "configurations": configs, **others}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    named = [*model.state_dict().items(), *(("train", t) for t in train), *(("validation", t) for t in validation)]
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for piece in tensor.split(PIECE) if tensor.ndim else [tensor]:  # `Rows` are gathered piece by piece
            digest.update(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
