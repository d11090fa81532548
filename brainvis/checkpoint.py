"""Where a training stands, on disk: written aside and renamed, and taken up again only by the very same training."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from brainvis.configuration import Training
from brainvis.paths import write_aside

SECONDS_BETWEEN = 20.0  # at least, from one file to the next
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


class Checkpoint:
    """One training's file. Without a path nothing is read or written.

    A file that cannot be read, or that belongs to a training with other settings, weights or trials, is never taken up
    and never lost: it is renamed to `<name>.previous`, with a warning, and the training starts from the beginning.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path = None if path is None else Path(path)
        self.identity = identity
        self.due = time.monotonic() + SECONDS_BETWEEN

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
        """The progress on disk, with model and optimiser set to it; a new one if there is none to take up."""
        if self.path is None or not self.path.exists():
            return Progress()
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, progress = content["identity"], Progress(**content["progress"])
        except Exception as error:  # a damaged file raises whatever its damage leads to
            return self._set_aside(f"cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
        if identity != self.identity:
            return self._set_aside("belongs to a training with other settings, starting weights or trials")
        if not progress.finished:
            model.load_state_dict(content["model"])
            optimiser.load_state_dict(content["optimiser"])
        return progress

    def save(self, progress: Progress, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Writes if it is time to, and always at the end, when only history and best weights are kept."""
        if self.path is None or (time.monotonic() < self.due and not progress.finished):
            return
        start = time.monotonic()
        content = {"identity": self.identity, "progress": {f.name: getattr(progress, f.name) for f in fields(progress)}}
        if not progress.finished:
            content |= {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        try:
            write_aside(self.path, lambda path: torch.save(content, path))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            warnings.warn(f"{self.path}: no checkpoint written ({error}); the training goes on", stacklevel=3)
        spent = time.monotonic() - start
        self.due = time.monotonic() + max(SECONDS_BETWEEN, spent / WRITING_SHARE)

    def _set_aside(self, why: str) -> Progress:
        kept = self.path.with_name(self.path.name + ".previous")
        os.replace(self.path, kept)
        warnings.warn(f"{self.path}: {why}; kept as {kept.name}, the training starts anew", stacklevel=4)
        return Progress()


def training_identity(
    model: nn.Module, train: Sequence[Tensor], selection: Sequence[Tensor], training: Training, **others: object
) -> str:
    """A hash of all that a training's result depends on: weights before it, data, settings, the models' `config`.

    The settings of other trainings that a configuration also holds are left out.
    """
    configurations = sorted({_describe(module.config) for module in model.modules() if hasattr(module, "config")})
    settings = {"training": asdict(training), "configurations": configurations, **others}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    named = list(model.state_dict().items())
    named += [("train", tensor) for tensor in train] + [("selection", tensor) for tensor in selection]
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe(config: object) -> str:
    if not is_dataclass(config):
        return repr(config)
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return repr({name: value for name, value in values.items() if not isinstance(value, Training)})
