"""Two processes train one model together, over gloo on the CPU, as one process trains it with the same batches."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import brainvis.models.time
import brainvis.training.checkpoint as checkpoints
import brainvis.training.loop as loop
from brainvis.configuration import TimeBranch, Training
from brainvis.models.encoder import classification_objective
from brainvis.models.time import LatentMaskedModel, TimeEncoder, masked_modeling_objective
from brainvis.training import TrainingError, apart, computed_in, fit
from brainvis.training.parallel import Team, processes_to_start

SIZES = {"unit_length": 4, "width": 8, "layers": 1, "heads": 2, "feedforward": 8, "regressor_layers": 1, "codewords": 5}
CALM, DROPPING = TimeBranch(**SIZES, dropout=0.0, regressor_dropout=0.0), TimeBranch(**SIZES)
TRAINING = Training(epochs=3, learning_rate=1e-2, batch_size=8, schedule="cosine")
TRIALS = torch.randn(21, 3, 24, generator=torch.Generator().manual_seed(0))  # the last batch: 5 rows, shared as 3 and 2
LABELS = (TRIALS[:, 0].mean(1) > 0).long()
NINE = slice(9)  # to validate on: of the second batch, one row, the second process has none


def classifier(config: TimeBranch = CALM) -> nn.Module:
    torch.manual_seed(0)
    return TimeEncoder(3, 24, 100.0, 2, config)


def masked(config: TimeBranch = CALM) -> LatentMaskedModel:
    torch.manual_seed(0)
    return LatentMaskedModel(TimeEncoder(3, 24, 100.0, config=config))


def train(model: nn.Module, objective, **options):
    few = (TRIALS[NINE], LABELS[NINE])
    plain = {"device": "cpu", "precision": "float32"}
    return fit(model, objective, (TRIALS, LABELS), few, TRAINING, name="test", seed=3, **plain, **options)


@pytest.fixture
def two(monkeypatch):
    """From then on, trainings on the CPU start two processes, as they start one for each of several GPUs."""

    def start() -> None:
        if sys.platform == "linux":
            monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # else it looks for the machine by its name
        monkeypatch.setattr(loop, "processes_to_start", lambda device: 1 if "WORLD_SIZE" in os.environ else 2)

    return start


def agree(one, other, terms: tuple[str, ...]) -> None:
    """Two histories have the same curves, up to the rounding of sums in another order."""
    for curve in (f"{part}_{term}" for term in terms for part in ("train", "validation")):
        assert other.curve(curve)[1] == pytest.approx(one.curve(curve)[1], rel=1e-4), curve
    assert one.best_epoch == other.best_epoch and len(other.epochs) == TRAINING.epochs


def close(one: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Softmax does not see a key's bias: its gradient is rounding alone, which Adam makes as large as any other."""
    for name, expected in one.state_dict().items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_classify_like_one(two):
    model, shared = classifier(), classifier()
    alone = train(model, classification_objective)
    assert computed_in["test"]["processes"] == 1
    two()
    torch.manual_seed(11)
    together = train(shared, classification_objective)
    after = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(3))
    assert computed_in["test"]["processes"] == 2 and not shared.training
    agree(alone, together, ("loss", "accuracy"))
    close(model, shared.state_dict())
    assert alone.epochs[-1]["train_loss"] < alone.epochs[0]["train_loss"]


def test_two_processes_pretrain_like_one(two, monkeypatch):
    """With the same masks, and tokens without noise: both draw chance anew."""
    monkeypatch.setattr(brainvis.models.time, "gumbel_arg_max", lambda scores, generator=None: scores.argmax(-1))

    def with_masks():
        calls = iter(range(1000))

        def objective(model, trials, labels):
            return model.losses(trials, model.draw_mask(torch.Generator().manual_seed(next(calls))))

        return objective

    model, shared = masked(), masked()
    alone = train(model, with_masks(), after_step=model.update_target)
    two()
    together = train(shared, with_masks(), after_step=shared.update_target)
    agree(alone, together, ("loss", "regression", "classification", "token_accuracy"))
    close(model, shared.state_dict())


def test_one_mask_serves_all_of_a_batch(two, tmp_path, monkeypatch):
    """Whatever each process drew for its own rows before: dropout and noise are there, and shares differ."""
    draw = LatentMaskedModel.draw_mask

    def recorded(self, generator=None):
        mask = draw(self, generator)
        with open(tmp_path / os.environ["RANK"], "a") as file:
            file.write(f"{mask.int().tolist()}\n")
        return mask

    monkeypatch.setattr(LatentMaskedModel, "draw_mask", recorded)
    two()
    train(masked(DROPPING), masked_modeling_objective)
    first, second = ((tmp_path / rank).read_text().splitlines() for rank in "01")
    assert first == second and len(first) == 3 * (3 + 2)
    training = [masks for start in (0, 5, 10) for masks in first[start : start + 3]]
    assert len(set(training)) > 3  # of 15 masks that there are
    assert first[3:5] == first[8:10] == first[13:15]  # validation is alike in all epochs


def test_an_interrupted_training_goes_on_and_one_process_writes(two, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "WRITING_SHARE", math.inf)
    write, file = checkpoints.write_aside, tmp_path / "c.pt"

    def counted(*arguments):
        with open(tmp_path / "writers", "a") as writers:
            writers.write(f"{os.environ['RANK']}\n")
        write(*arguments)

    monkeypatch.setattr(checkpoints, "write_aside", counted)
    calls = iter(range(1000))

    def interrupted(model, *batch):
        if next(calls) == 7:
            raise OSError("the machine went down")
        return classification_objective(model, *batch)

    two()
    whole, broken, fresh = (classifier(DROPPING) for _ in range(3))
    uninterrupted = train(whole, classification_objective)
    with pytest.raises(OSError, match="the machine went down"):
        train(broken, interrupted, checkpoint=file)
    assert train(fresh, classification_objective, checkpoint=file).epochs == uninterrupted.epochs
    assert all(torch.equal(w, fresh.state_dict()[name]) for name, w in whole.state_dict().items())
    assert (tmp_path / "writers").read_text().split() == ["0"] * 3


def test_what_a_process_raises_is_raised(two):
    def turning(model, *batch):
        terms = classification_objective(model, *batch)
        return terms | {"loss": terms["loss"] * (math.nan if os.environ["RANK"] == "1" else 1.0)}

    two()
    with pytest.raises(TrainingError, match="test: the loss is nan in epoch 1 of 3, training, batch 1 of 3"):
        train(classifier(), turning)


def test_running_statistics_and_unused_weights(two):
    """Batch normalisation has statistics of its own rows in each process; a weight that nothing reads stays."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear, self.unused = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, trials):
            return self.linear(self.norm(trials).mean(2))

    torch.manual_seed(0)
    model = Normalised()
    before = model.unused.weight.clone()
    two()
    history = train(model, classification_objective)
    assert torch.equal(model.unused.weight, before) and model.norm.num_batches_tracked == 3 * history.best_epoch
    model.eval()
    with torch.no_grad():
        loss = classification_objective(model, TRIALS[NINE], LABELS[NINE])["loss"]
    assert history.kept("validation_loss") == pytest.approx(loss.item(), rel=1e-5)


SCRIPT = """
import json, os, sys, torch
sys.path.insert(0, sys.argv[1])
from test_parallel import classifier, train, classification_objective
model = classifier()
history = train(model, classification_objective)
rank = os.environ["RANK"]
torch.save({"weights": model.state_dict(), "epochs": history.epochs}, f"{sys.argv[2]}/{rank}.pt")
"""


def test_processes_that_torchrun_starts_train_together(tmp_path):
    model = classifier()
    alone = train(model, classification_objective)
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert results[0]["epochs"] == results[1]["epochs"]
    torch.testing.assert_close(results[0]["weights"], results[1]["weights"], rtol=0, atol=0)
    close(model, results[0]["weights"])
    assert results[0]["epochs"][-1]["train_loss"] == pytest.approx(alone.epochs[-1]["train_loss"], rel=1e-4)


def test_shares_cover_a_batch_once():
    class Two:
        num_processes = 2

    rows, shares = torch.arange(5), []
    for Two.process_index in (0, 1):
        shares.append(Team(torch.device("cpu"), Two()).share(rows))
    assert [(own.tolist(), counted) for own, counted in shares] == [([0, 1, 2], 3), ([3, 4], 2)]
    own, counted = Team(torch.device("cpu"), Two()).share(torch.tensor([7]))
    assert own.tolist() == [7] and counted == 0
    own, counted = Team(torch.device("cpu")).share(rows)
    assert torch.equal(own, rows) and counted == 5


def test_a_process_of_tests_has_the_threads_of_any_other():
    """Two on two cores with two threads each would wait for one another."""
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_when_processes_are_started(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert processes_to_start(None) == 3
    assert processes_to_start("cuda:1") == processes_to_start("cpu") == 1
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.warns(UserWarning, match="only one of 3 GPUs is used: CUDA was started before"):
        assert processes_to_start(None) == 1
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # somebody else has started them
    assert processes_to_start(None) == 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert processes_to_start(None) == 1


@pytest.mark.parametrize("gpus", [1, 2])
def test_what_uses_a_gpu_before_a_training_on_several_runs_apart(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.delitem(computed_in, "of texts", raising=False)

    def encode() -> tuple[int, torch.Tensor]:
        computed_in["of texts"] = {"device": "cuda"}
        return os.getpid(), torch.arange(3)

    process, encoded = apart(encode)
    assert (process == os.getpid()) == (gpus == 1)
    assert encoded.tolist() == [0, 1, 2] and computed_in["of texts"] == {"device": "cuda"}

    def fail() -> None:
        raise TrainingError("no words")

    with pytest.raises(TrainingError, match="no words"):
        apart(fail)
