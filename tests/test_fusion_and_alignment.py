"""Fusion, the alignment network and the loss of semantic interpolation, against plain references."""

import math

import pytest
import torch

from brainvis.configuration import PRESETS, Alignment, Configuration, FrequencyBranch, Fusion, TimeBranch
from brainvis.evaluation.joining import late_fusion, perfect_referee
from brainvis.models import new_encoder
from brainvis.models.alignment import (
    AlignedEncoder,
    AlignmentNetwork,
    alignment_objective,
    semantic_interpolation_loss,
)
from brainvis.models.fusion import FusedEncoder

TIME = TimeBranch(unit_length=4, width=6, layers=1, heads=2, feedforward=8)


def fused(branches=("time", "frequency")) -> FusedEncoder:
    torch.manual_seed(0)
    config = Configuration(time=TIME, frequency=FrequencyBranch(width=4), fusion=Fusion(branches))
    return FusedEncoder(3, 20, 100.0, 5, config).double()


@pytest.fixture
def trials() -> torch.Tensor:
    return torch.randn(2, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_fusion_joins_both_branches_and_trains_them(trials):
    model = fused().eval()
    features = model.embed(trials)
    time, frequency = model.branches.values()
    assert list(model.branches) == ["time", "frequency"] and model.width == 10 and features.shape == (2, 10)
    latent = time.units_of(trials)
    for row in range(2):
        for i in range(6):
            assert features[row, i].item() == pytest.approx(sum(unit[i].item() for unit in latent[row]) / 5)
    torch.testing.assert_close(features[:, 6:], frequency.embed(trials))
    for row in range(2):
        for c in range(5):
            weights = model.classifier.weight[c].tolist()
            expected = sum(w * f for w, f in zip(weights, features[row].tolist(), strict=True))
            assert model(trials)[row, c].item() == pytest.approx(expected + model.classifier.bias[c].item())
    model(trials).square().sum().backward()
    assert time.projection.weight.grad.abs().sum() > 0
    assert frequency.lstm.weight_ih_l0.grad.abs().sum() > 0


def test_either_branch_may_be_missing(trials):
    for branch, width in (("time", 6), ("frequency", 4)):
        model = fused((branch,)).eval()
        assert model.width == width and model(trials).shape == (2, 5)
        torch.testing.assert_close(model.embed(trials), model.branches[branch].embed(trials))
    with pytest.raises(ValueError, match="at least 1 item"):
        fused(())


def test_the_classifiers_of_the_branches_make_late_fusion(trials):
    model = fused()
    alone = {
        name: new_encoder(name, Configuration(time=TIME, frequency=FrequencyBranch(width=4)), 3, 20, 100.0, 5)
        for name in ("frequency", "time")  # in another order than the model's
    }
    opinions = [encoder.double().eval()(trials) for encoder in alone.values()]
    assert model.start_from(alone, classifier=True) is model
    scores = model.eval()(trials)
    torch.testing.assert_close(scores, sum(opinions))
    torch.testing.assert_close(scores.softmax(1), late_fusion(opinions).softmax(1))
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="'frequency' has no classifier"):
        model.start_from({"time": alone["time"]}, classifier=True)
    kept = model.classifier.weight.clone()
    model.start_from({"time": alone["time"].add_classifier(None)})
    assert torch.equal(model.classifier.weight, kept)


def test_late_fusion_adds_log_probabilities():
    first, second = torch.tensor([[0.7, 0.2, 0.1]]).log() + 5, torch.tensor([[0.1, 0.6, 0.3]]).log() - 2
    expected = torch.tensor([[0.07, 0.12, 0.03]]).log()
    torch.testing.assert_close(late_fusion([first, second]), expected)
    torch.testing.assert_close(late_fusion([first]).exp(), torch.tensor([[0.7, 0.2, 0.1]]))


def test_a_perfect_referee_is_right_wherever_anybody_is():
    opinions, labels = torch.randn(3, 200, 5), torch.randint(5, (200,))
    ranks = (opinions >= opinions.gather(2, labels.expand(3, -1)[..., None])).sum(2)  # 1 is best
    chosen = perfect_referee(opinions, labels)
    own = (chosen >= chosen[torch.arange(200), labels][:, None]).sum(1)
    assert torch.equal(own, ranks.amin(0)) and set(own.tolist()) > {1, 2}
    assert torch.equal(chosen.argmax(1) == labels, (opinions.argmax(2) == labels).any(0))
    assert torch.equal(perfect_referee(opinions[:1], labels), opinions[0])


def test_alignment_network_equals_the_equations():
    torch.manual_seed(0)
    network = AlignmentNetwork(15, (2, 3), Alignment(wide=8, narrow=4)).double()

    def linear(number, x):
        weight, bias = network.layers[number - 1].weight.tolist(), network.layers[number - 1].bias.tolist()
        return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    embedding = torch.randn(3, 15, dtype=torch.float64)
    for row, x in enumerate(embedding.tolist()):
        h1 = [math.tanh(v) for v in linear(1, x)]
        h2 = [math.tanh(v) for v in linear(2, h1)]
        h3 = [math.tanh(v + skip) for v, skip in zip(linear(3, h2), h1, strict=True)]
        h4 = [math.tanh(v + skip) for v, skip in zip(linear(4, h3), h2, strict=True)]
        h5 = [math.tanh(v + skip) for v, skip in zip(linear(5, h4), h3, strict=True)]
        flat = linear(6, h5)
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
    torch.testing.assert_close(states, network(torch.cat([encoder.embed(trials), scores], dim=1)))
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


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 4.0])
def test_captions_count_as_often_as_they_weigh(weight):
    predicted, coarse, fine = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(0)).unbind()
    both = semantic_interpolation_loss(predicted, coarse, fine, Alignment(fine_weight=weight))["loss"].item()
    alone = {name: semantic_interpolation_loss(predicted, coarse, fine, Alignment(targets=(name,)))["loss"].item()
             for name in ("coarse", "fine")}  # fmt: skip
    assert both == pytest.approx(alone["coarse"] + weight * alone["fine"], rel=1e-5)
    assert Alignment().fine_weight == 1


@pytest.mark.parametrize("targets", [(), ("middle",)])
def test_unknown_targets_are_refused(targets):
    x = torch.randn(1, 2, 3)
    with pytest.raises(ValueError, match="at least 1 item|coarse"):
        semantic_interpolation_loss(x, x, x, Alignment(targets=targets))


def test_the_objective_looks_texts_up_in_its_tables(trials):
    network = AlignmentNetwork(15, (2, 3), Alignment(wide=8, narrow=4)).double()
    model = AlignedEncoder(fused(), network).eval()
    coarse, fine = torch.randn(5, 2, 3).half(), torch.randn(7, 2, 3).half()
    labels, captions = torch.tensor([4, 1]), torch.tensor([6, 0])
    losses = alignment_objective(coarse, fine, network.config)(model, trials, labels, captions)
    expected = semantic_interpolation_loss(model(trials)[0], coarse[[4, 1]], fine[[6, 0]], network.config)
    assert losses == expected
