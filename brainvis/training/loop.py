"""One training loop for all trainings: seeds, device, precision, progress, validation, checkpoint, resume."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm as text_bar
from tqdm.auto import tqdm

from brainvis.configuration import Training
from brainvis.files import BrainvisError
from brainvis.training.checkpoint import Checkpoint, Progress, training_identity
from brainvis.training.device import Precision, choose_device, choose_precision, computed_in
from brainvis.training.parallel import Team, launch, processes_to_start

Objective = Callable[..., dict[str, Tensor]]
LOOK_EVERY = 32  # losses per check on a GPU, as each check waits for it
VALIDATION = "selection"  # seeds validation; another word would draw other masks and change every score


class TrainingError(BrainvisError, RuntimeError):
    """A training that cannot continue; the message says where it stopped and what to change."""


@dataclass(frozen=True)
class History:
    """Record of a training, a dictionary per epoch: "epoch", "train_<term>", "validation_<term>", monitored values."""

    epochs: list[dict[str, float]]
    best_epoch: int  # counted from 1; 0 if nothing was trained
    seconds: float  # over all sessions if it was interrupted
    origin: str | None = None  # where the weights come from, if they are the authors'
    untrained: dict[str, float] = field(default_factory=dict)  # with the authors' weights: "validation_<term>"

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Epochs at which `name` was measured, and its values, for a plot."""
        measured = {int(epoch["epoch"]): epoch[name] for epoch in self.epochs if name in epoch}
        return list(measured), list(measured.values())

    def kept(self, name: str) -> float:
        """The value of `name` with the weights that were kept, whether or not they were trained here."""
        return (self.epochs[self.best_epoch - 1] if self.epochs else self.untrained)[name]

    @property
    def summary(self) -> str:
        """What was done, in one sentence."""
        if not self.epochs:
            whose = f" HERE: the weights are from {self.origin}" if self.origin else ": the weights are unchanged"
            return f"NOTHING WAS TRAINED{whose}."
        return f"{len(self.epochs)} epochs; the weights of epoch {self.best_epoch} are kept."


def fit(
    model: nn.Module,
    objective: Objective,
    train: Sequence[Tensor],
    validation: Sequence[Tensor],
    training: Training,
    *,
    name: str,
    seed: int,
    device: torch.device | str | None = None,
    checkpoint: Path | None = None,
    original: Callable[[nn.Module], str] | None = None,
    choose: tuple[str, str] | None = ("loss", "min"),
    after_step: Callable[[], None] | None = None,
    monitor: Callable[[nn.Module, int], dict[str, float]] | None = None,
    precision: str = "auto",
) -> History:
    """Trains `model` in place and leaves it in evaluation mode with the weights of its best or last epoch.

    Every epoch is seeded from `seed` and its number, and validation is seeded alike in all epochs, so an interrupted
    training ends with the same numbers as an uninterrupted one. Global random states are left unchanged. All GPUs are
    used if there are several, unless a device is named; see `brainvis.training.parallel`.

    Args:
        objective: (model, *batch) -> scalar tensors, batch means; "loss" is minimised, the others are recorded.
        train, validation: tensors of equal length along the first dimension, cut into batches together.
        training: epochs (0: nothing happens), learning rate, batch size, optimiser, schedule.
        name: shown on the progress bar and in errors.
        checkpoint: file to resume from and to write; at the end it holds the best weights, until someone deletes it.
        original: loads the authors' weights into the model and returns where they are from; nothing is trained then.
        choose: a term of the objective on the validation tensors, or of the monitor, with "min" or "max", to choose the
            best epoch; None: the last epoch.
        after_step: called after every optimiser step.
        monitor: (model, epoch) -> values for the history, called after each epoch in evaluation mode.
        precision: of matrix products, "auto", "float32" or "bfloat16"; see `choose_precision`.

    Raises:
        ValueError: unusable tensors, or a term to choose by that does not exist after the first epoch.
        TrainingError: a loss that is not finite; the message names the epoch and the batch.
    """
    for which, tensors in (("training", train), ("validation", validation)):
        lengths = [len(tensor) for tensor in tensors]
        if not lengths or len(set(lengths)) != 1 or lengths[0] == 0:
            raise ValueError(f"{name}: the {which} tensors have lengths {lengths}; they must be equal and at least 1")
    if choose is not None and choose[1] not in ("min", "max"):
        raise ValueError(f"{name}: cannot choose by the {choose[1]!r} of {choose[0]!r}; it must be 'min' or 'max'")
    given = {"name": name, "seed": seed, "device": device, "checkpoint": checkpoint, "choose": choose}
    given |= {"after_step": after_step, "monitor": monitor, "precision": precision}
    if original is None and training.epochs and (processes := processes_to_start(device)) > 1:

        def part() -> tuple[dict, dict[str, Tensor], dict]:
            history = fit(model, objective, train, validation, training, **given)
            return asdict(history), {key: value.cpu() for key, value in model.state_dict().items()}, computed_in[name]

        history, weights, computed_in[name] = launch(part, processes)
        model.load_state_dict(weights)
        model.eval()
        return History(**history)
    with Team.of(device) as team:
        model.to(team.device).eval()
        if original is None and training.epochs == 0:
            return History([], 0, 0.0)
        numbers = choose_precision(team.device, precision)
        computed_in[name] = asdict(numbers) | {"device": team.device.type, "processes": team.count}
        loop = _Loop(model, objective, training, name, seed, team, numbers, choose, after_step, monitor)
        forked = torch.random.fork_rng(devices=[team.device] if team.device.type == "cuda" else [])
        if original is not None:
            origin = original(model)
            with forked:
                return History([], 0, 0.0, origin, loop.validate(validation, epoch=0))
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimiser]
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = kind(learning, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)
        settings = {"name": name, "seed": seed, "choose": choose and list(choose)}
        identity = training_identity(model, train, validation, training, **settings) if checkpoint else ""
        stored = Checkpoint(checkpoint, identity)
        with team.first_ahead():  # an unusable file is set aside once
            progress = stored.load(model, optimiser)
        if not progress.finished:
            with forked:
                loop.run(progress, optimiser, loop.placed(train, validation), stored)
        model.load_state_dict(progress.best_weights)
        model.eval()
        return History(progress.epochs, progress.best_epoch, progress.seconds)


@dataclass
class _Loop:
    """One training, epoch by epoch."""

    model: nn.Module
    objective: Objective
    training: Training
    name: str
    seed: int
    team: Team
    precision: Precision
    choose: tuple[str, str] | None
    after_step: Callable[[], None] | None
    monitor: Callable[[nn.Module, int], dict[str, float]] | None

    def placed(self, *parts: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Moves all data to a CUDA device with room to spare: gathering batches there saves a copy in every step."""
        device, size = self.team.device, sum(tensor.nbytes for part in parts for tensor in part)
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 2:
            return list(parts)
        return [[tensor.to(device) for tensor in part] for part in parts]

    def run(self, progress: Progress, optimiser: torch.optim.Optimizer, parts, stored: Checkpoint) -> None:
        """Trains from `progress` to the last epoch; afterwards `progress` holds everything."""
        epochs = self.training.epochs
        shared = self.team.sharing(self.objective, self.model)
        # A process started from a notebook cannot draw the notebook's own progress bar.
        bar_of = tqdm if self.team.count == 1 else partial(text_bar, disable=self.team.index > 0)
        with bar_of(total=epochs, initial=progress.epoch, desc=self.name, unit="epoch") as bar:
            for epoch in range(progress.epoch + 1, epochs + 1):
                start = time.monotonic()
                record = {"epoch": epoch} | self.train(parts[0], epoch, optimiser, shared)
                record |= self.validate(parts[1], epoch)
                if self.monitor is not None:
                    torch.manual_seed(_derived_seed(self.seed, "monitor"))
                    with torch.no_grad():
                        record |= {key: float(value) for key, value in self.monitor(self.model, epoch).items()}
                progress.epoch, progress.finished = epoch, epoch == epochs
                progress.epochs.append(record)
                if (merit := self.merit(record)) < progress.lowest:
                    progress.lowest, progress.best_epoch = merit, epoch
                    state = self.model.state_dict().items()
                    for key, value in state:  # overwrites the previous best: 1 GB in the `paper` alignment network
                        if key not in progress.best_weights:
                            progress.best_weights[key] = torch.empty_like(value, device="cpu")
                        progress.best_weights[key].copy_(value)
                progress.seconds += time.monotonic() - start
                if self.team.index == 0:
                    stored.save(progress, self.model, optimiser)
                losses = {part: f"{record[f'{part}_loss']:.3g}" for part in ("train", "validation")}
                bar.set_postfix(losses | {"best": progress.best_epoch})
                bar.update()

    def merit(self, record: dict[str, float]) -> float:
        """The quantity that chooses the epoch, lower is better; infinite before the last epoch if that one is kept."""
        if self.choose is None:
            return 0.0 if record["epoch"] == self.training.epochs else math.inf
        name, kind = self.choose
        if (value := record.get(f"validation_{name}", record.get(name))) is None:
            raise ValueError(f"{self.name}: there is no {name!r} to choose by; choose one of {sorted(record)}")
        return -value if kind == "max" else value

    def train(self, tensors: Sequence[Tensor], epoch: int, optimiser, objective: Objective) -> dict[str, float]:
        """One epoch of training; returns means of the objective's terms."""
        torch.manual_seed(_derived_seed(self.seed, epoch))
        self.model.train()
        batches = torch.randperm(len(tensors[0])).to(tensors[0].device).split(self.training.batch_size)

        def step(loss: Tensor, batch: int) -> None:
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(self.training, (epoch - 1) * len(batches) + batch, len(batches))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if self.after_step is not None:
                self.after_step()

        record = self._pass("train", tensors, batches, epoch, objective, step)
        self.team.share_buffers(self.model)
        return record

    @torch.no_grad()
    def validate(self, tensors: Sequence[Tensor], epoch: int) -> dict[str, float]:
        """Means of the objective's terms on the validation tensors."""
        torch.manual_seed(_derived_seed(self.seed, VALIDATION))
        self.model.eval()
        batches = torch.arange(len(tensors[0]), device=tensors[0].device).split(self.training.batch_size)
        return self._pass("validation", tensors, batches, epoch, self.objective)

    def _pass(
        self,
        part: str,
        tensors: Sequence[Tensor],
        batches: Sequence[Tensor],
        epoch: int,
        objective: Objective,
        step: Callable[[Tensor, int], None] | None = None,
    ) -> dict[str, float]:
        """Means over all rows: a small last batch is weighted by its size."""
        totals: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        for number, rows in enumerate(batches):
            own, counted = self.team.share(rows)
            batch = [tensor[own.to(tensor.device)].to(self.team.device) for tensor in tensors]
            self._seed_share(part, epoch, number)
            with self.precision.context(self.team.device):
                terms = objective(self.model, *batch)
            losses.append(terms["loss"].detach())
            if self.team.device.type == "cpu" or len(losses) == LOOK_EVERY or number + 1 == len(batches):
                self._check_finite(losses, part, epoch, number, len(batches))
                losses = []
            if step is not None:
                step(terms["loss"] * (counted * self.team.count / len(rows)), number)
            for key, value in terms.items():
                totals[key] = totals.get(key, 0.0) + value.detach().float() * counted
        sums = self.team.sums(totals)
        return {f"{part}_{key}": total.item() / len(tensors[0]) for key, total in sums.items()}

    def _seed_share(self, part: str, epoch: int, number: int) -> None:
        """Makes CPU draws, such as the masks of LMM, the same in all processes, whatever each has drawn for its own
        rows before; draws on each process's own GPU differ."""
        if self.team.count > 1:
            purpose = f"{epoch if part == 'train' else VALIDATION}/{number}"
            torch.manual_seed(_derived_seed(self.seed, purpose))
            if self.team.device.type == "cuda":
                torch.cuda.manual_seed(_derived_seed(self.seed, f"{purpose}/{self.team.index}"))

    def _check_finite(self, losses: list[Tensor], part: str, epoch: int, number: int, count: int) -> None:
        """TrainingError if one of the latest losses, up to batch `number`, is not finite."""
        values = torch.stack(losses)
        if values.isfinite().all():
            return
        first = int((~values.isfinite()).nonzero()[0])
        raise TrainingError(
            f"{self.name}: the loss is {values[first].item()} in epoch {epoch} of {self.training.epochs}, "
            f"{'training' if part == 'train' else part}, batch {number + 2 - len(losses) + first} of {count}. Look for "
            f"huge values in the trials, or lower the learning rate (now {self.training.learning_rate})."
        )


def _learning_rate(training: Training, step: int, steps: int) -> float:
    """Rate of a step, counted from 0, with `steps` per epoch. Cosine: linear warm-up for one epoch, then decay to 0."""
    if training.schedule == "constant":
        return training.learning_rate
    if step < steps:
        return training.learning_rate * (step + 1) / steps
    done = (step - steps + 1) / (steps * (training.epochs - 1))
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def predict(
    function: Callable, *tensors: Tensor, batch_size: int = 64, device: torch.device | str | None = None
) -> Tensor | tuple[Tensor, ...]:
    """Applies `function` to batches of `tensors`, without gradients, in full precision; joins the results on the CPU.

    Args:
        function: a module or a method of one, which is put in evaluation mode during the call, or anything else that
            takes tensors on `device` (by default the module's) and returns a tensor or a tuple of tensors.
    """
    module = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    module = module if isinstance(module, nn.Module) else nn.Module()
    learning, own = module.training, next((parameter.device for parameter in module.parameters()), None)
    device = choose_device(device or own)
    batches = zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)
    try:
        module.eval()
        pieces = [function(*(piece.to(device) for piece in batch)) for batch in batches]
    finally:
        module.train(learning)
    if isinstance(pieces[0], tuple):
        return tuple(torch.cat([piece.cpu() for piece in part]) for part in zip(*pieces, strict=True))
    return torch.cat([piece.cpu() for piece in pieces])


def _derived_seed(seed: int, purpose: int | str) -> int:
    """Unrelated seeds for related purposes; Python's generator hashes the given text."""
    return random.Random(f"{seed}/{purpose}").getrandbits(63)
