"""Fusion, the alignment network and the loss of semantic interpolation, against plain references."""

import math

import pytest
import torch

from brainvis.alignment import AlignedEncoder, AlignmentNetwork, semantic_interpolation_loss
from brainvis.configuration import PRESETS, Alignment, FrequencyBranch, TimeBranch
from brainvis.frequency_branch import FrequencyEncoder
from brainvis.fusion import TimeFrequencyEncoder
from brainvis.time_branch import TimeEncoder

TIME = TimeBranch(unit_length=4, width=6, layers=1, heads=2, feedforward=8)


def fused(branches=("time", "frequency")) -> TimeFrequencyEncoder:
    torch.manual_seed(0)
    time = TimeEncoder(3, 20, TIME) if "time" in branches else None
    frequency = FrequencyEncoder(3, 20, 100.0, FrequencyBranch(width=4)) if "frequency" in branches else None
    return TimeFrequencyEncoder(time, frequency, classes=5).double()


@pytest.fixture
def trials() -> torch.Tensor:
    return torch.randn(2, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_fusion_joins_both_branches_and_trains_them(trials):
    model = fused().eval()
    features = model.features(trials)
    assert model.width == 10 and features.shape == (2, 10)
    latent = model.time(trials)
    for row in range(2):
        for i in range(6):
            assert features[row, i].item() == pytest.approx(sum(unit[i].item() for unit in latent[row]) / 5)
    torch.testing.assert_close(features[:, 6:], model.frequency.features(trials))
    for row in range(2):
        for c in range(5):
            weights = model.classifier.weight[c].tolist()
            expected = sum(w * f for w, f in zip(weights, features[row].tolist(), strict=True))
            assert model(trials)[row, c].item() == pytest.approx(expected + model.classifier.bias[c].item())
    model(trials).square().sum().backward()
    assert model.time.projection.weight.grad.abs().sum() > 0
    assert model.frequency.lstm.weight_ih_l0.grad.abs().sum() > 0


def test_either_branch_may_be_missing(trials):
    for branch, width in (("time", 6), ("frequency", 4)):
        model = fused((branch,)).eval()
        assert model.width == width and model(trials).shape == (2, 5)
        torch.testing.assert_close(model.features(trials), getattr(model, branch).features(trials))
    with pytest.raises(ValueError, match="at least one"):
        TimeFrequencyEncoder(None, None, 5)


def test_alignment_network_equals_the_equations():
    torch.manual_seed(0)
    network = AlignmentNetwork(15, (2, 3), Alignment(wide=8, narrow=4)).double()

    def linear(name, x):
        weight, bias = getattr(network, name).weight.tolist(), getattr(network, name).bias.tolist()
        return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    embedding = torch.randn(3, 15, dtype=torch.float64)
    for row, x in enumerate(embedding.tolist()):
        h1 = [math.tanh(v) for v in linear("wide1", x)]
        h2 = [math.tanh(v) for v in linear("narrow1", h1)]
        h3 = [math.tanh(v + skip) for v, skip in zip(linear("wide2", h2), h1, strict=True)]
        h4 = [math.tanh(v + skip) for v, skip in zip(linear("narrow2", h3), h2, strict=True)]
        h5 = [math.tanh(v + skip) for v, skip in zip(linear("wide3", h4), h3, strict=True)]
        flat = linear("output", h5)
        expected = torch.tensor([flat[:3], flat[3:]], dtype=torch.float64)
        torch.testing.assert_close(network(embedding)[row], expected)


def test_paper_preset_has_the_published_size():
    with torch.device("meta"):
        network = AlignmentNetwork(1024 + 128 + 40, (77, 768), PRESETS["paper"].alignment)
    sizes = [1192, 4096, 1024, 4096, 1024, 4096, 77 * 768]
    expected = sum(a * b + b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert round(expected / 1e6) == 264


@pytest.mark.parametrize("learning", [True, False])
def test_aligned_encoder_reads_features_and_scores(trials, learning):
    encoder = fused()
    network = AlignmentNetwork(15, (2, 3), Alignment(wide=8, narrow=4, train_encoder=learning)).double()
    model = AlignedEncoder(encoder, network).train()
    assert encoder.training == learning  # a frozen encoder must not drop out
    model.eval()
    states, scores = model(trials)
    torch.testing.assert_close(scores, encoder(trials))
    torch.testing.assert_close(states, network(torch.cat([encoder.features(trials), scores], dim=1)))
    states.square().sum().backward()
    assert all((parameter.grad is not None) == learning for parameter in encoder.parameters())


@pytest.mark.parametrize("targets", [("coarse", "fine"), ("coarse",), ("fine",)])
@pytest.mark.parametrize("squared", [True, False])
def test_interpolation_loss_equals_the_equations(targets, squared):
    torch.manual_seed(0)
    states = dict(zip(("predicted", "coarse", "fine"), torch.randn(3, 4, 2, 3), strict=True))
    flat = {name: [[v for token in state for v in token] for state in x.tolist()] for name, x in states.items()}

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    expected = 0.0
    for name in targets:
        for p, t in zip(flat["predicted"], flat[name], strict=True):
            expected += (1 - dot(p, t) / math.sqrt(dot(p, p) * dot(t, t))) / 4
            if squared:
                expected += sum((x - y) ** 2 for x, y in zip(p, t, strict=True)) / 6 / 4
    config = Alignment(targets=targets, mean_squared_error=squared)
    losses = semantic_interpolation_loss(**states, config=config)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert set(losses) == {"loss", "cosine_coarse", "cosine_fine", "error_coarse", "error_fine"}
    same = semantic_interpolation_loss(states["fine"], states["coarse"], states["fine"].half(), config)
    assert same["cosine_fine"].item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("targets", [(), ("middle",)])
def test_unknown_targets_are_refused(targets):
    x = torch.randn(1, 2, 3)
    with pytest.raises(ValueError, match="coarse"):
        semantic_interpolation_loss(x, x, x, Alignment(targets=targets))
