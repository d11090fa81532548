"""Masked reconstruction of the signal: what it asks for, what it may see, and that it learns."""

import pytest
import torch

from brainvis.configuration import TimeBranch, Training
from brainvis.models.masked_signal import MaskedSignalModel, masked_signal_objective
from brainvis.models.time import TimeEncoder
from brainvis.training import fit

CONFIG = TimeBranch(unit_length=4, width=8, layers=1, heads=2, feedforward=16, regressor_layers=1, residual_scale=0.5)
MASK = torch.tensor([True, False, False, True, True])


@pytest.fixture
def model() -> MaskedSignalModel:
    torch.manual_seed(0)
    return MaskedSignalModel(TimeEncoder(3, 22, 100.0, config=CONFIG)).double().eval()


def test_it_asks_for_the_samples_of_the_masked_units_and_no_others(model):
    trials = torch.randn(6, 3, 22, dtype=torch.float64)
    with torch.no_grad():
        model.samples.weight.zero_()
        model.samples.bias.zero_()  # it says zero everywhere
    hidden = torch.cat([trials[:, :, 4 * unit : 4 * unit + 4] for unit in (0, 3, 4)], dim=2)
    losses = model.losses(trials, MASK)
    torch.testing.assert_close(losses["loss"].double(), hidden.square().mean(), rtol=1e-5, atol=0)
    mean = (hidden - hidden.mean(0)).square().mean()
    torch.testing.assert_close(losses["loss_of_mean"].double(), mean, rtol=1e-5, atol=0)


def test_what_it_says_of_a_channel_and_sample_is_compared_with_that(model):
    trials = torch.zeros(2, 3, 22, dtype=torch.float64)
    with torch.no_grad():
        model.samples.weight.zero_()
        model.samples.bias.zero_()
        model.samples.bias[1 * 4 + 2] = 1  # channel 1, the third sample of a unit
    for unit in (0, 3, 4):
        trials[:, 1, 4 * unit + 2] = 1
    assert model.losses(trials, MASK)["loss"] == 0


def test_masked_samples_do_not_reach_what_is_said(model):
    trials = torch.randn(4, 3, 22, dtype=torch.float64, requires_grad=True)
    encoded = model.encoder.transformer((model.encoder.project(trials) + model.encoder.position)[:, ~MASK])
    (encoded * torch.randn_like(encoded)).sum().backward()  # the sum of a layer norm is constant
    assert trials.grad[:, :, 0:4].abs().sum() == 0 and trials.grad[:, :, 4:12].abs().sum() > 0


def test_it_learns_what_visible_units_tell_of_hidden_ones():
    torch.manual_seed(0)
    phase = 6.28 * torch.rand(400, 1, 1)  # a sine through all channels: two units tell the rest
    trials = torch.sin(phase + 0.6 * torch.arange(20.0)).expand(400, 3, 20)
    model = MaskedSignalModel(TimeEncoder(3, 20, 100.0, config=CONFIG))
    training = Training(epochs=30, learning_rate=1e-2, batch_size=32, schedule="cosine")
    history = fit(
        model, masked_signal_objective, [trials[:300]], [trials[300:]], training, name="t", seed=0, choose=None
    )
    last = history.epochs[-1]
    assert last["validation_loss"] < 0.5 * last["validation_loss_of_mean"]
