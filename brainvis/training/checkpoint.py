"""The last two checkpoints of a training, from which it resumes after an interruption."""

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

SECONDS_BETWEEN = 20.0  # minimum interval between two checkpoints
PIECE = 256  # rows hashed at a time
WRITING_SHARE = 0.05  # largest share of the training time: the `paper` alignment network writes files of 4 GB


@dataclass
class Progress:
    """The state of a training after its last complete epoch; epochs count from 1."""

    epoch: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    lowest: float = float("inf")  # the quantity that chooses the best epoch, negated if higher is better
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False


@dataclass
class Checkpoint:
    """A training's checkpoint file and the one before it; without a path nothing is read or written.

    A file that is damaged or belongs to another training is renamed to `<name>.previous`: never used, never lost.
    """

    path: Path | None
    identity: str
    due: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN)

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
        """The progress on disk, with model and optimiser restored to it; a new one if there is nothing to resume."""
        if self.path is None:
            return Progress()
        # Room for the best weights, the model and two optimiser values per weight, in each of the two files.
        check_writable(self.path.parent, 8 * sum(weight.nbytes for weight in model.state_dict().values()))
        for file in filter(Path.exists, (self.path, self.before)):
            try:
                content = load_tensors(file)  # verifies the checksums, which torch does not
                if content["identity"] != self.identity:
                    raise ValueError("it belongs to a training with different settings, initial weights or trials")
                progress = Progress(**content["progress"])
                if not progress.finished:
                    model.load_state_dict(content["model"])
                    optimiser.load_state_dict(content["optimiser"])
                return progress
            except Exception as error:  # a damaged file can raise anything
                kept = file.with_name(file.name + ".previous")
                os.replace(file, kept)
                why = (str(error).splitlines() or [""])[0][:120]
                goes_on = "starts over" if file == self.before or not self.before.exists() else "tries the previous one"
                why = f"{file} cannot be used ({type(error).__name__}: {why}); it is kept as {kept.name}"
                warnings.warn(f"{why}, and the training {goes_on}", stacklevel=3)
        return Progress()

    @property
    def before(self) -> Path:
        """The checkpoint before the last one."""
        return self.path.with_name(self.path.name + ".before")

    def save(self, progress: Progress, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Writes if a checkpoint is due, and always at the end, when only the history and the best weights are kept."""
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
            warnings.warn(f"no checkpoint was saved, but the training continues: {error}", stacklevel=3)
        self.due = time.monotonic() + max(SECONDS_BETWEEN, (time.monotonic() - start) / WRITING_SHARE)


def training_identity(
    model: nn.Module, train: Sequence[Tensor], validation: Sequence[Tensor], training: Training, **others: object
) -> str:
    """A hash of all that a training's result depends on: initial weights, data, settings, and the models' `config`."""
    configs = [vars(module.config) for module in model.modules() if is_dataclass(getattr(module, "config", None))]
    configs = [{key: value for key, value in config.items() if not isinstance(value, Training)} for config in configs]
    settings = {"training": asdict(training), "configurations": configs, **others}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    named = [*model.state_dict().items(), *(("train", t) for t in train), *(("validation", t) for t in validation)]
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for piece in tensor.split(PIECE) if tensor.ndim else [tensor]:  # gathers `Rows` piece by piece
            digest.update(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
