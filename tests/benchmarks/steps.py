"""Training steps: the package's own `fit` against the baseline's loop and against matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.ceilings import product_ceiling
from benchmarks.turns import Turns, compete, spread
from brainvis.configuration import PRESETS, Configuration, Training
from brainvis.models.alignment import AlignedEncoder, AlignmentNetwork, alignment_objective
from brainvis.models.encoder import classification_objective
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.fusion import FusedEncoder
from brainvis.models.time import LatentMaskedModel, MultiHeadAttention, TimeEncoder, masked_modeling_objective
from brainvis.training import fit

CHANNELS, SAMPLES, RATE, CLASSES = 128, 440, 1000.0, 40  # of EEGCVPR40
TRIAL = {"n_chans": CHANNELS, "n_times": SAMPLES, "sfreq": RATE}
TEXTS = {"paper": (2000, (77, 768)), "demo": (800, (16, 96)), "smoke": (10, (4, 8))}  # captions; tokens, width
CASES = ("latent masked modeling", "fine-tuning", "frequency branch", "fusion", "alignment")
STAGE = dict(zip(CASES, ("time.pretraining", "time.finetuning", "frequency", "fusion", "alignment"), strict=True))


@dataclass
class Case:
    """What one training needs."""

    model: nn.Module
    objective: Callable[..., dict[str, Tensor]]
    tensors: list[Tensor]  # trials, and what the objective wants besides
    training: Training
    after_step: Callable[[], None] = lambda: None
    coarse: Tensor | None = None  # text embeddings (class, tokens, width)
    fine: Tensor | None = None  # (caption, tokens, width)


def training_of(name: str, config: Configuration) -> Training:
    """The settings of a case's training."""
    part = config
    for field in STAGE[name].split("."):
        part = getattr(part, field)
    return part if isinstance(part, Training) else part.training


def package_case(name: str, size: str, trials: int, config: Configuration | None = None) -> Case:
    """A case as the notebooks set it up, with so many random trials."""
    config = config or PRESETS[size]
    data, labels = torch.randn(trials, CHANNELS, SAMPLES), torch.arange(trials) % CLASSES
    training = training_of(name, config)
    if name == "latent masked modeling":
        model = LatentMaskedModel(TimeEncoder(**TRIAL, config=config.time))
        return Case(model, masked_modeling_objective, [data], training, model.update_target)
    if name == "fine-tuning":
        model = TimeEncoder(**TRIAL, n_outputs=CLASSES, config=config.time)
        return Case(model, classification_objective, [data, labels], training)
    if name == "frequency branch":
        model = FrequencyEncoder(**TRIAL, n_outputs=CLASSES, config=config.frequency)
        return Case(model, classification_objective, [data, labels], training)
    fused = FusedEncoder(**TRIAL, n_outputs=CLASSES, configuration=config)
    if name == "fusion":
        return Case(fused, classification_objective, [data, labels], training)
    texts, shape = TEXTS[size]
    coarse, fine = (torch.randn(count, *shape).half() for count in (CLASSES, texts))
    model = AlignedEncoder(fused, AlignmentNetwork(fused.width + CLASSES, shape, config.alignment))
    objective = alignment_objective(coarse, fine, config.alignment)
    return Case(model, objective, [data, labels, torch.arange(trials) % texts], training, coarse=coarse, fine=fine)


def baseline_model(name: str, size: str, config: Configuration | None = None) -> tuple[nn.Module, Callable]:
    """The baseline's model of a case, and its loss of a batch."""
    config, sizes = config or PRESETS[size], (CHANNELS, SAMPLES)
    if name == "latent masked modeling":
        model = baseline.MaskedModel(*sizes, config.time)
        return model, model.loss
    if name == "alignment":
        tokens, width = TEXTS[size][1]
        model = baseline.AlignedEncoder(*sizes, RATE, config, CLASSES, tokens * width)
        return model, model.loss
    if name == "fine-tuning":
        model = baseline.TimeEncoder(*sizes, config.time, CLASSES)
    elif name == "frequency branch":
        model = baseline.FrequencyEncoder(*sizes, RATE, config.frequency, CLASSES)
    else:
        model = baseline.FusedEncoder(*sizes, RATE, config, CLASSES)
    return model, lambda trials, labels: functional.cross_entropy(model(trials), labels)


def baseline_tensors(case: Case) -> list[Tensor]:
    """What the baseline holds of each trial: of alignment both targets, in double precision."""
    if case.coarse is None:
        return case.tensors
    data, labels, captions = case.tensors
    coarse, fine = (texts.flatten(1).double() for texts in (case.coarse, case.fine))
    return [data, coarse[labels], fine[captions]]


# Contestants; units are trials


def package(
    turns: Turns, case: str, size: str, batch: int, steps: int, trials: int, warm: int, device: str, precision: str
) -> None:
    """`fit`, from one optimiser step to another: whatever it does in between is in the time."""
    torch.manual_seed(0)
    made, done, seen = package_case(case, size, trials), 0, {}

    def watched(model: nn.Module, *parts: Tensor) -> dict[str, Tensor]:
        automatic = torch.is_autocast_enabled(torch.device(device).type)
        precision = torch.get_autocast_dtype(torch.device(device).type) if automatic else torch.float32
        seen["precision"] = str(precision).removeprefix("torch.")
        return made.objective(model, *parts)

    def after_step() -> None:
        nonlocal done
        made.after_step()
        done += 1
        if done == warm:
            turns.ready(parameters=sum(weight.numel() for weight in made.model.parameters()), **seen)
        elif done > warm and (done - warm) % steps == 0:
            turns(steps * batch)

    training, few = replace(made.training, epochs=1, batch_size=batch), [tensor[:1] for tensor in made.tensors]
    where = {"device": device, "precision": precision}
    fit(made.model, watched, made.tensors, few, training, name=case, seed=0, after_step=after_step, **where)


def obvious(turns: Turns, case: str, size: str, batch: int, steps: int, trials: int, warm: int, device: str) -> None:
    """The baseline's loop."""
    torch.manual_seed(0)
    made, done = package_case(case, size, trials), 0
    with torch.device("meta"):  # its weights are the package's
        model, loss = baseline_model(case, size)
    model.load_state_dict(made.model.state_dict(), assign=True)
    tensors, training = baseline_tensors(made), replace(made.training, batch_size=batch)
    del made
    counted = operations(model, loss, tensors)

    def after_step() -> None:
        nonlocal done
        if hasattr(model, "update_target"):
            model.update_target()
        done += 1
        if done == warm:
            turns.ready(operations=counted)
        elif done > warm and (done - warm) % steps == 0:
            turns(steps * batch)

    baseline.train(model, loss, baseline.Trials(*tensors), training, device, after_step)


def operations(model: nn.Module, loss: Callable, tensors: list[Tensor]) -> float:
    """Operations of matrix products and convolutions in one step, forward and backward, per trial.

    Counted in the baseline's step of two trials: the same maths, whatever the package does with it. Fourier transforms
    are not counted.
    """
    parts = [part[:2].float() if part.is_floating_point() else part[:2] for part in tensors]
    counter = FlopCounterMode(display=False)
    with counter, torch.backends.mkldnn.flags(enabled=False):  # whose LSTM is one operation that nobody counts
        loss(*parts).backward()
    model.zero_grad()
    return counter.get_total_flops() / len(parts[0])


class FusedAttention(baseline.Attention):
    """The same by torch's one operation, which may do what it likes inside."""

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        parts = self.query(asking), self.key(asked), self.value(asked)
        heads = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (b, head, n, d)
        mixed = functional.scaled_dot_product_attention(*heads, dropout_p=self.dropout.p)
        return self.output(mixed.transpose(1, 2).flatten(2))


def attention(turns: Turns, kind: str, size: str, batch: int, steps: int, device: str) -> None:
    """Attention of all units of a trial to themselves, with dropout, forward and backward."""
    config, kinds = PRESETS[size].time, {"baseline": baseline.Attention, "fused": FusedAttention}
    layer = kinds.get(kind, MultiHeadAttention)(config.width, config.heads, config.dropout).to(device).train()
    units = torch.randn(batch, SAMPLES // config.unit_length, config.width, device=device, requires_grad=True)
    for number in count():
        for _ in range(steps):
            layer(units, units).sum().backward()
        turns(steps * batch) if number else turns.ready()


def read(turns: Turns, trials: int, batch: int, device: str) -> None:
    """Batches as `fit` gathers them: rows of one array."""
    data, rows = torch.randn(trials, CHANNELS, SAMPLES), torch.randperm(trials).split(batch)
    turns.ready()
    while True:
        for part in rows:
            data[part].to(device)
        turns(trials)


def read_one_by_one(turns: Turns, trials: int, batch: int, device: str) -> None:
    """Batches as the baseline's loader makes them."""
    data = baseline.Trials(torch.randn(trials, CHANNELS, SAMPLES))
    turns.ready()
    while True:
        for _ in baseline.batches(data, batch, device):
            pass
        turns(trials)


# Rows


def measurements(options) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """A row a case and size; attention alone; the data that an epoch hands over."""
    for size in options.sizes:
        slow = size == "paper" and options.device == "cpu" and not options.full
        for case in CASES:
            if slow and case in ("fine-tuning", "fusion"):  # a minute each; alignment has both inside
                continue
            yield case, size, lambda case=case, size=size: _step(case, size, options)
        yield "attention", size, lambda size=size: _attention(size, options)
        yield "batches of an epoch", size, lambda size=size: _reading(size, options)


def settings(case: str, size: str, options) -> dict[str, int]:
    """Batch size, steps in a turn, rounds: so large that figures are steady, so small that somebody waits for them."""
    batch = training_of(case, PRESETS[size]).batch_size
    slow = size == "paper" and options.device == "cpu" and case != "frequency branch"
    if slow:
        batch = 16  # of the published 128: a step takes seconds
    steps, rounds = (1, 2) if slow else (4, 5) if size == "paper" and options.device == "cpu" else (10, 7)
    chosen = {"batch": options.batch or batch, "steps": options.steps or steps}
    rounds, warm = options.rounds or rounds, 1 if options.device == "cpu" else 5
    if size == "smoke":
        chosen = {"batch": 4, "steps": 1}
    return chosen | {"rounds": rounds, "warm": warm}


def _step(case: str, size: str, options) -> dict:
    chosen = settings(case, size, options)
    rounds = chosen.pop("rounds")
    trials = (chosen["warm"] + rounds * chosen["steps"] + 1) * chosen["batch"]
    arguments = {"case": case, "size": size, "trials": trials, "device": options.device, **chosen}
    contestants = {
        "package": ("benchmarks.steps:package", arguments | {"precision": options.precision}),
        "baseline": ("benchmarks.steps:obvious", arguments),
    }

    def ceiling(facts: dict) -> dict:
        return {"ceiling": product_ceiling(size, facts["package"]["precision"], options.device)}

    outcome = compete(contestants, rounds, options.environment, told=ceiling)
    counted = outcome.facts["baseline"]["operations"]
    return {
        "unit": "trials/s",
        "package": spread(outcome.rates["package"]),
        "baseline": spread(outcome.rates["baseline"]),
        "times_baseline": spread(outcome.ratio("package", "baseline")),
        "share_of_ceiling": spread(outcome.ratio("package", "ceiling", counted)),
        "ceiling_gflops": spread([rate / 1e9 for rate in outcome.rates["ceiling"]]),
        "operations_per_unit": counted,
        "peak": {name: outcome.peaks[name] for name in contestants},
        "bytes_of_trials": 4 * trials * CHANNELS * SAMPLES,
        "settings": {**chosen, **outcome.facts["package"]},
    }


def _attention(size: str, options) -> dict:
    chosen = settings("fine-tuning", size, options)
    arguments = {"size": size, "batch": chosen["batch"], "steps": chosen["steps"], "device": options.device}
    kinds = ("package", "baseline", "fused")
    contestants = {kind: ("benchmarks.steps:attention", {"kind": kind, **arguments}) for kind in kinds}
    outcome = compete(contestants, chosen["rounds"], options.environment)
    return {
        "unit": "trials/s",
        "package": spread(outcome.rates["package"]),
        "baseline": spread(outcome.rates["baseline"]),
        "times_baseline": spread(outcome.ratio("package", "baseline")),
        "times_fused": spread(outcome.ratio("package", "fused")),
        "settings": arguments,
    }


def _reading(size: str, options) -> dict:
    trials = {"smoke": 8}.get(size, 1024)
    arguments = {"trials": trials, "batch": settings(CASES[0], size, options)["batch"], "device": options.device}
    contestants = {
        "package": ("benchmarks.steps:read", arguments),
        "baseline": ("benchmarks.steps:read_one_by_one", arguments),
    }
    outcome = compete(contestants, options.rounds or 5, options.environment)
    return {
        "unit": "trials/s",
        "package": spread(outcome.rates["package"]),
        "baseline": spread(outcome.rates["baseline"]),
        "times_baseline": spread(outcome.ratio("package", "baseline")),
        "settings": arguments,
    }
