"""Trials that are gathered batch by batch: the same training as with a copy of them, and no copy."""

import mmap

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import brainvis.data.rows as data_rows
from brainvis.configuration import Training
from brainvis.data.rows import Rows
from brainvis.training import fit, predict
from brainvis.training.checkpoint import training_identity

TRAINING = Training(epochs=2, learning_rate=1e-2, batch_size=8)
WHOLE = torch.randn(600, 4, 5, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(600, generator=torch.Generator().manual_seed(1))
TRAIN, VALIDATION = ORDER[:500], ORDER[500:]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 1))


def objective(network, trials):
    return {"loss": (network(trials)[:, 0] - trials.mean((1, 2))).square().mean()}


def test_rows_are_what_a_copy_of_them_is():
    rows, copy, some = Rows(WHOLE, TRAIN), WHOLE[TRAIN], torch.tensor([3, 0, 499, 3])
    for name in ("shape", "nbytes", "dtype", "device", "ndim"):
        assert getattr(rows, name) == getattr(copy, name), name
    assert len(rows) == 500 and torch.equal(rows[some], copy[some])
    assert all(torch.equal(*pieces) for pieces in zip(rows.split(64), copy.split(64), strict=True))
    assert rows.to(None) is rows and rows.to("cpu") is rows
    assert rows.to("meta").shape == copy.shape and rows.to("meta").device.type == "meta"


def test_a_training_on_rows_is_the_one_on_a_copy():
    histories, models = [], []
    for take in (Rows, lambda whole, part: whole[part]):
        models.append(model())
        parts = [take(WHOLE, TRAIN)], [take(WHOLE, VALIDATION)]
        histories.append(fit(models[-1], objective, *parts, TRAINING, name="test", seed=1, device="cpu").epochs)
    assert histories[0] == histories[1]
    assert torch.equal(models[0][2].weight, models[1][2].weight)
    assert torch.equal(predict(models[0], Rows(WHOLE, TRAIN)), predict(models[0], WHOLE[TRAIN]))


def test_a_checkpoint_of_rows_is_one_of_these_trials():
    def identity(train, validation):
        return training_identity(model(), [train], [validation], TRAINING, seed=0)

    known = identity(WHOLE[TRAIN], WHOLE[VALIDATION])
    assert identity(Rows(WHOLE, TRAIN), Rows(WHOLE, VALIDATION)) == known
    assert identity(Rows(WHOLE, TRAIN.flip(0)), Rows(WHOLE, VALIDATION)) != known


def test_a_training_on_rows_never_holds_them_all(monkeypatch):
    most, gather = [], Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda rows, places: most.append(len(places)) or gather(rows, places))
    rows = Rows(WHOLE, TRAIN), Rows(WHOLE, VALIDATION)
    fit(model(), objective, [rows[0]], [rows[1]], TRAINING, name="test", seed=1, device="cpu")
    assert most and max(most) == TRAINING.batch_size
    with pytest.raises(ValueError, match="lengths"):
        fit(model(), objective, [rows[0], torch.zeros(3)], [rows[1]], TRAINING, name="test", seed=1, device="cpu")


def test_the_system_is_told_which_pages_of_a_mapped_array_are_wanted(tmp_path, monkeypatch):
    array, told = torch.randn(7, 3, 1500), []  # 18,000 bytes a row: rows start within pages
    save_file({"trials": array}, tmp_path / "array.safetensors")
    mapped = load_file(tmp_path / "array.safetensors")["trials"]
    advise = data_rows._advise
    monkeypatch.setattr(data_rows, "_advise", lambda *said: told.append((*said, advise(*said))))
    assert torch.equal(Rows(mapped, torch.tensor([6, 1, 4]))[torch.tensor([2, 0])], array[[4, 6]])
    for (start, size, _, refused), row in zip(told, (4, 6), strict=True):
        assert refused == 0 and start % mmap.PAGESIZE == 0
        assert start <= mapped[row].data_ptr() < start + mmap.PAGESIZE
        assert start + size == mapped[row].data_ptr() + mapped[row].nbytes
