"""Two-way identification against a slow double loop, and on cases with known answers."""

import numpy as np
import pytest
import torch

from brainvis.evaluation import identification as module
from brainvis.evaluation.identification import correlations, identification, two_way
from brainvis.evaluation.judges import Judge


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def judge(batch_size=5):
    """Its features are the pixels, as a map of several dimensions."""

    def look(images):
        return {"features": torch.as_tensor(images).float()}

    return Judge("pixels", lambda: look, lambda: "0123456789abcdef", batch_size=batch_size)


@pytest.fixture
def pictures(rng):
    """Shown (7, 6, 6, 3) and generated (7, 3, 6, 6, 3), a little like them."""
    shown = rng.integers(0, 256, (7, 6, 6, 3))
    noisy = 0.2 * shown[:, None] + 0.8 * rng.integers(0, 256, (7, 3, 6, 6, 3))
    return noisy.astype(np.uint8), shown.astype(np.uint8)


def slow(generated, shown):
    """One pair of trials after the other."""
    rates = np.zeros(generated.shape[:2])
    for trial, samples in enumerate(generated):
        for sample, picture in enumerate(samples):
            own = np.corrcoef(picture.ravel(), shown[trial].ravel())[0, 1]
            others = [np.corrcoef(picture.ravel(), s.ravel())[0, 1] for i, s in enumerate(shown) if i != trial]
            rates[trial, sample] = np.mean([1.0 if own > other else 0.0 for other in others])
    return rates


def test_it_equals_a_slow_double_loop(pictures):
    generated, shown = pictures
    expected = slow(generated, shown)
    assert 0.55 < expected.mean() < 0.98  # neither trivial nor lost
    similarity, width = correlations(judge(), generated, shown)
    np.testing.assert_allclose(two_way(similarity), expected, atol=1e-12)
    result = identification(judge(), generated, shown)
    assert width == result["features"] == 108
    assert result["value"] == pytest.approx(expected.mean())
    assert result["low"] <= result["value"] <= result["high"]
    assert (result["chance"], result["trials"], result["samples"]) == (0.5, 7, 3)
    assert (result["network"], result["weights"]) == ("pixels", "0123456789abcdef")
    assert identification(judge(), generated, shown) == result
    features = judge().look(generated.reshape(-1, 6, 6, 3), shown)
    features = tuple(said["features"] for said in features)
    assert identification(judge(), generated, shown, features=features)["value"] == result["value"]


def test_blocks_and_batches_do_not_change_it(pictures, monkeypatch):
    whole, _ = correlations(judge(), *pictures)
    monkeypatch.setattr(module, "MEMORY", 3 * 8 * 108)  # three pictures at a time
    asked = []
    counting = judge(batch_size=2)
    blocks, _ = correlations(Judge("pixels", lambda: counted(counting.load(), asked), str, batch_size=2), *pictures)
    np.testing.assert_allclose(blocks, whole, atol=1e-12)
    assert max(asked) == 2  # never more than a batch
    assert sum(asked) == 1 + 7 + 3 * 21  # generated pictures once for each of three blocks


def counted(look, asked):
    def counting(images):
        asked.append(len(images))
        return look(images)

    return counting


def test_perfect_and_reversed_pictures(pictures):
    _, shown = pictures
    assert identification(judge(), shown[:, None], shown)["value"] == 1
    assert identification(judge(), 255 - shown[:, None], shown)["value"] == 0


def test_ties_count_half(pictures):
    _, shown = pictures
    same = np.repeat(shown[:1], 4, axis=0)  # one picture, shown in four trials
    assert identification(judge(), pictures[0][:4], same)["value"] == 0.5
    uniform = np.full((7, 2, 6, 6, 3), 77, np.uint8)  # like nothing
    assert identification(judge(), uniform, shown)["value"] == 0.5
    twice = np.concatenate([shown[:1], shown[:1], shown[1:3]])
    rates = two_way(correlations(judge(), twice[:, None], twice)[0])[:, 0]
    np.testing.assert_allclose(rates, [2.5 / 3, 2.5 / 3, 1, 1])


def test_without_information_it_is_at_chance(rng):
    generated, shown = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((60, 2, 4, 4, 3), (60, 4, 4, 3)))
    result = identification(judge(), generated, shown)
    assert result["low"] < 0.5 < result["high"]
    assert result["high"] - result["low"] < 0.3
