"""Linear baselines: the space that trials span is as good as all features, and much smaller."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainvis.evaluation import baselines

TRIALS, CHANNELS, SAMPLES, RATE = 90, 16, 200, 200.0


@pytest.fixture
def oscillations():
    """Three classes, each with a rhythm of its own in some channels, under noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(TRIALS) % 3
    time = torch.arange(SAMPLES) / RATE
    phases = 6.3 * torch.rand(TRIALS, CHANNELS, 1, generator=generator)
    rhythm = torch.sin(6.2832 * (10 + 7 * labels[:, None, None]) * time + phases)
    noise = torch.randn(TRIALS, CHANNELS, SAMPLES, generator=generator)
    trials = noise + 0.6 * rhythm * (torch.arange(CHANNELS) < 4)[:, None]
    names = tuple("abc")
    data = SimpleNamespace(trials=trials, sampling_rate=RATE, labels=labels, class_names=names)
    return data, SimpleNamespace(train=torch.arange(60), test=torch.arange(60, TRIALS))


def test_turned_features_change_nothing_but_the_time(oscillations, monkeypatch):
    found = {}
    for far_more in (2, np.inf):
        monkeypatch.setattr(baselines, "FAR_MORE", far_more)
        found[far_more] = baselines.linear_baseline(*oscillations)
    turned, plain = found[2], found[np.inf]
    assert turned["features"] == plain["features"] > 10 * 60
    assert turned["inverse_penalty"] == plain["inverse_penalty"]
    torch.testing.assert_close(turned["probabilities"], plain["probabilities"], atol=2e-3, rtol=0)
    assert turned["accuracy"] > 0.5  # of chance .33: there is something to find


def test_turning_keeps_what_a_linear_model_can_see():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(20, 300)).astype(np.float32), rng.normal(size=(7, 300)).astype(np.float32)
    turned, turned_asked = baselines._prepared(known, asked)
    assert turned.shape == (20, 20) and turned_asked.shape == (7, 20)
    scale = (known - known.mean(0)) / known.std(0), (asked - known.mean(0)) / known.std(0)
    np.testing.assert_allclose(turned @ turned.T, scale[0] @ scale[0].T, atol=2e-2)
    np.testing.assert_allclose(turned_asked @ turned.T, scale[1] @ scale[0].T, atol=2e-2)
