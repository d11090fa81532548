"""Metrics on cases with known answers, and against independent implementations."""

import json
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg, stats
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity as skimage_ssim
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from brainvis.image_metrics import (
    clip_similarity,
    evaluate_images,
    frechet_distance,
    inception_score,
    judge_images,
    pixel_correlation,
    readout,
    square,
    structural_similarity,
)
from brainvis.metrics import (
    classification_scores,
    confusion_matrix,
    mean_interval,
    n_way_accuracy,
    n_way_expectation,
    paired_difference,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def noisy_logits(rng, labels, classes, signal):
    return rng.normal(size=(len(labels), classes)) + signal * np.eye(classes)[labels]


# Classification


@pytest.mark.parametrize("classes", [6, 40])
def test_scores_equal_scikit_learn_and_torchmetrics(rng, classes):
    labels = rng.integers(0, classes - 1, 150)  # the last class never occurs
    logits = noisy_logits(rng, labels, classes, 1.5)
    scores = classification_scores(logits, torch.as_tensor(labels), n_bootstrap=10)
    tensors = torch.as_tensor(logits), torch.as_tensor(labels)
    for k in (1, 3, 5):
        value = scores[f"top{k}"]["value"]
        assert value == pytest.approx(top_k_accuracy_score(labels, logits, k=k, labels=range(classes)))
        assert value == pytest.approx(float(multiclass_accuracy(*tensors, classes, average="micro", top_k=k)))
        assert scores[f"top{k}"]["chance"] == k / classes
    macro = scores["macro_f1"]["value"]
    assert macro == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert macro == pytest.approx(float(multiclass_f1_score(*tensors, classes, average="macro")), abs=1e-6)


def test_scores_of_a_case_counted_by_hand():
    logits = np.array([[3, 2, 1, 0.5], [3, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0]])
    scores = classification_scores(logits, [0, 1, 3, 3])
    assert scores["top1"]["value"] == 0.5
    assert scores["top3"]["value"] == 0.75
    assert scores["top5"] == {"value": 1, "low": 1, "high": 1, "chance": 1}
    # class 0: 1 hit of 3 predicted, 1 right: F1 1/2; class 1: 0; class 3: 1 of 1 predicted, of 2 right: 2/3
    assert scores["macro_f1"]["value"] == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)


def test_equal_logits_are_no_knowledge():
    labels = np.arange(20) % 10
    assert classification_scores(np.zeros((20, 10)), labels)["top1"]["value"] == 0.1
    assert classification_scores(np.zeros((20, 10)), labels)["top5"]["value"] == 0.5


def test_bootstrap_intervals_match_a_plain_loop(rng):
    labels = rng.integers(0, 5, 60)
    logits = noisy_logits(rng, labels, 5, 1.0)
    scores = classification_scores(logits, labels, n_bootstrap=4000)
    plain = []
    for _ in range(500):
        drawn = rng.integers(0, 60, 60)
        predicted = logits[drawn].argmax(1)
        plain.append((np.mean(predicted == labels[drawn]), f1_score(labels[drawn], predicted, average="macro")))
    low, high = np.percentile(plain, (2.5, 97.5), axis=0)
    for name, index in (("top1", 0), ("macro_f1", 1)):
        assert scores[name]["low"] == pytest.approx(low[index], abs=0.04)
        assert scores[name]["high"] == pytest.approx(high[index], abs=0.04)


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    covered = 0
    for trial in range(200):
        interval = mean_interval(rng.random(100) < 0.4, n_bootstrap=500, seed=trial)
        covered += interval["low"] <= 0.4 <= interval["high"]
    assert 0.90 <= covered / 200 <= 0.99


def test_scores_are_repeatable(rng):
    labels = rng.integers(0, 4, 30)
    logits = noisy_logits(rng, labels, 4, 1.0)
    assert classification_scores(logits, labels, seed=3) == classification_scores(logits, labels, seed=3)
    assert classification_scores(logits, labels, seed=3) != classification_scores(logits, labels, seed=4)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 3], "labels run from 0 to 3, but there are 3 classes"),
        (np.zeros((2, 3)), [0, -1], "labels run from -1"),
        (np.zeros((2, 3)), [0], r"logits \(2, 3\) and labels \(1,\)"),
        (np.zeros((0, 3)), [], r"logits \(0, 3\)"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), [0, 1], "logits of trial 1 are not finite"),
    ],
)
def test_scores_refuse_what_does_not_fit(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(logits, labels)


def test_confusion_matrix_is_right_by_predicted(rng):
    labels = rng.integers(0, 7, 100)
    logits = noisy_logits(rng, labels, 7, 1.0)
    counts = confusion_matrix(logits, labels)
    assert np.array_equal(counts, sklearn_confusion(labels, logits.argmax(1), labels=range(7)))


def test_paired_difference_sees_what_both_classifiers_share(rng):
    labels = rng.integers(0, 4, 200)
    worse = noisy_logits(rng, labels, 4, 1.0)
    better = worse.copy()
    lost = np.flatnonzero(worse.argmax(1) != labels)[:20]
    better[lost] = 10 * np.eye(4)[labels[lost]]  # right wherever the other is, and on 20 trials more
    difference = paired_difference(better, worse, labels)["top1"]
    assert difference["value"] == pytest.approx(0.1)
    assert difference["p"] < 0.001
    # the difference is a proportion of 20 of 200 trials
    expected = 1.96 * np.sqrt(0.1 * 0.9 / 200)
    assert (difference["high"] - difference["low"]) / 2 == pytest.approx(expected, rel=0.15)
    reverse = paired_difference(worse, better, labels)["top1"]
    assert reverse["value"] == pytest.approx(-0.1)


def test_paired_difference_of_a_classifier_with_itself_is_nothing(rng):
    labels = rng.integers(0, 4, 50)
    logits = noisy_logits(rng, labels, 4, 1.0)
    for score in paired_difference(logits, logits, labels).values():
        assert score == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_paired_difference_of_equally_good_classifiers_has_uniform_p(rng):
    ps = []
    for trial in range(100):
        labels = rng.integers(0, 3, 200)
        a, b = (noisy_logits(rng, labels, 3, 1.0) for _ in range(2))
        ps.append(paired_difference(a, b, labels, n_bootstrap=300, seed=trial)["top1"]["p"])
    assert np.mean(np.array(ps) < 0.05) < 0.14
    assert np.mean(np.array(ps) < 0.5) > 0.3


# n-way accuracy


def test_n_way_accuracy_of_perfect_and_of_worst_pictures(rng):
    truth = rng.normal(size=(10, 12))
    best = n_way_accuracy(truth[:, None].repeat(3, 1), truth, ways=5)
    assert (best["value"], best["low"], best["high"], best["exact"]) == (1, 1, 1, 1)
    assert n_way_accuracy(-truth[:, None], truth, ways=5)["value"] == 0
    assert best["chance"] == 0.2


def test_n_way_expectation_is_the_average_over_all_draws(rng):
    from itertools import combinations

    generated, truth = rng.normal(size=(6, 2, 7)), rng.normal(size=(6, 7))
    exact = n_way_expectation(generated, truth, ways=4)
    for trial, label in enumerate(truth.argmax(1)):
        others = [c for c in range(7) if c != label]
        for sample in range(2):
            logits = generated[trial, sample]
            wins = [all(logits[c] < logits[label] for c in drawn) for drawn in combinations(others, 3)]
            assert len(wins) == comb(6, 3)
            assert exact[trial, sample] == pytest.approx(np.mean(wins))


def test_sampled_n_way_accuracy_approaches_its_expectation(rng):
    labels = rng.integers(0, 60, 40)
    truth = noisy_logits(rng, labels, 60, 10)
    generated = rng.normal(size=(40, 2, 60)) + 2.0 * np.eye(60)[labels][:, None]
    result = n_way_accuracy(generated, truth, ways=20, repeats=400)
    exact = n_way_expectation(generated, truth, 20)
    assert result["exact"] == pytest.approx(exact.mean())
    spread = np.sqrt((exact * (1 - exact)).sum() / 400) / exact.size
    assert abs(result["value"] - result["exact"]) < 4 * spread
    assert 0.2 < result["value"] < 0.9
    assert result == n_way_accuracy(generated, truth, ways=20, repeats=400)


def test_n_way_accuracy_with_all_classes_is_top_1(rng):
    generated, truth = rng.normal(size=(30, 1, 8)), rng.normal(size=(30, 8))
    generated[:15, 0] += truth[:15]
    expected = np.mean(generated[:, 0].argmax(1) == truth.argmax(1))
    assert n_way_accuracy(generated, truth, ways=8, repeats=2)["value"] == pytest.approx(expected)


def test_n_way_accuracy_of_noise_is_chance(rng):
    result = n_way_accuracy(rng.normal(size=(400, 2, 60)), rng.normal(size=(400, 60)), ways=50, repeats=10)
    assert result["low"] < 0.02 < result["high"]


def test_n_way_interval_is_over_trials_not_samples(rng):
    truth = rng.normal(size=(50, 10))
    one = truth[:, None] * rng.choice([-1, 1], (50, 1, 1))  # half right, half wrong, all samples of a trial alike
    many = n_way_accuracy(one.repeat(20, 1), truth, ways=5)
    few = n_way_accuracy(one, truth, ways=5)
    assert (many["low"], many["high"]) == pytest.approx((few["low"], few["high"]))


def test_n_way_accuracy_refuses_more_ways_than_classes(rng):
    with pytest.raises(ValueError, match="50 ways, but the judge knows 40 classes; choose 2 to 40"):
        n_way_accuracy(rng.normal(size=(2, 1, 40)), rng.normal(size=(2, 40)))
    with pytest.raises(ValueError, match="do not fit"):
        n_way_accuracy(rng.normal(size=(2, 1, 40)), rng.normal(size=(3, 40)), ways=5)


# Sets of pictures


def test_inception_score_of_known_cases():
    certain = 50 * torch.eye(8).repeat(5, 1)  # each class equally often, without doubt
    assert inception_score(certain)["value"] == pytest.approx(8, rel=1e-5)
    assert inception_score(certain[:1].repeat(20, 1))["value"] == pytest.approx(1)
    assert inception_score(torch.zeros(20, 8))["value"] == pytest.approx(1)
    assert inception_score(certain)["images"] == 40


def test_inception_score_of_vanishing_probabilities_is_a_number():
    logits = torch.tensor([[3000.0, 0, 0], [0, 3000, 0]]).repeat(4, 1)  # the third class is at exp(-3000)
    assert inception_score(logits)["value"] == pytest.approx(2)


def test_inception_score_equals_its_formula_and_leaves_the_random_state(rng):
    logits = torch.as_tensor(rng.normal(size=(50, 6)) * 2)
    p = torch.softmax(logits, 1).numpy()
    expected = np.exp(np.mean([stats.entropy(row, p.mean(0)) for row in p]))
    before = torch.get_rng_state()
    assert inception_score(logits)["value"] == pytest.approx(expected)
    assert inception_score(logits, splits=5) == inception_score(logits, splits=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_frechet_distance_equals_its_formula(rng):
    a = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 0.7
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * linalg.sqrtm(ca @ cb).real)
    result = frechet_distance(torch.as_tensor(a), torch.as_tensor(b), "none")
    assert result["value"] == pytest.approx(expected, rel=1e-6)
    assert (result["images"], result["images_shown"], result["features"]) == (300, 200, 6)
    assert result["note"] == ""


def test_frechet_distance_of_a_set_with_itself_is_zero_and_of_a_shifted_one_the_shift(rng):
    features = torch.as_tensor(rng.normal(size=(100, 5)))
    assert frechet_distance(features, features, "none")["value"] == pytest.approx(0, abs=1e-8)
    assert frechet_distance(features + 2, features, "none")["value"] == pytest.approx(5 * 2**2)


def test_frechet_distance_warns_of_too_few_pictures(rng):
    features = torch.as_tensor(rng.normal(size=(8, 8)))
    note = frechet_distance(features, features, "judge")["note"]
    assert "8 generated and 8 shown pictures with 8 features" in note


# Pictures against the one shown


@pytest.fixture
def pictures(rng):
    """Shown (5, 32, 32, 3), smooth, and generated (5, 2, 32, 32, 3): the same under noise."""
    coarse = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    shown = np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse])
    noisy = shown[:, None] + rng.normal(0, 25, (5, 2, 32, 32, 3))
    return shown, noisy.clip(0, 255).astype(np.uint8)


def plain_ssim(first, second):
    """Map of SSIM, (height, width, 3), from equation 13 of Wang et al. 2004, with mirrored borders."""

    def smooth(image):
        return gaussian_filter(image, (1.5, 1.5, 0), truncate=3.5, mode="mirror")

    mean_1, mean_2 = smooth(first), smooth(second)
    covariance = smooth(first * second) - mean_1 * mean_2
    variances = smooth(first**2) - mean_1**2 + smooth(second**2) - mean_2**2
    return ((2 * mean_1 * mean_2 + 0.01**2) * (2 * covariance + 0.03**2)) / (
        (mean_1**2 + mean_2**2 + 0.01**2) * (variances + 0.03**2)
    )


def test_structural_similarity_equals_its_formula_and_scikit_image(pictures):
    shown, generated = pictures
    values = structural_similarity(generated, shown)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for trial in range(5):
        for sample in range(2):
            pair = shown[trial] / 255, generated[trial, sample] / 255
            expected = plain_ssim(*pair)
            assert values[trial, sample] == pytest.approx(expected.mean(), abs=1e-4)
            without_border = skimage_ssim(*pair, data_range=1.0, channel_axis=2, **settings)
            assert expected[5:-5, 5:-5].mean() == pytest.approx(without_border, abs=1e-6)
    np.testing.assert_allclose(structural_similarity(shown[:, None], shown), 1, atol=1e-6)


def test_pixel_correlation_equals_numpy(pictures, monkeypatch):
    shown, generated = pictures
    monkeypatch.setattr("brainvis.image_metrics.BLOCK", 2)
    matrix = pixel_correlation(generated, shown)
    for i in range(5):
        for j in range(5):
            expected = np.mean([np.corrcoef(g.ravel(), shown[j].ravel())[0, 1] for g in generated[i]])
            assert matrix[i, j] == pytest.approx(expected)
    inverted = pixel_correlation((255 - shown)[:, None], shown)
    np.testing.assert_allclose(np.diagonal(inverted), -1)
    assert (pixel_correlation(np.full_like(generated, 9), shown) == 0).all()


class FakeClip:
    """The mean colour and brightness as unit-length features."""

    def image_features(self, images):
        means = torch.as_tensor(images).double().mean((1, 2)) + 1
        return torch.nn.functional.normalize(means, dim=-1).float()


def test_clip_similarity_is_the_mean_cosine_over_samples(pictures):
    shown, generated = pictures
    matrix = clip_similarity(FakeClip(), generated, shown)
    cosine = torch.nn.functional.cosine_similarity
    for i in range(5):
        for j in range(5):
            features = FakeClip().image_features(generated[i]), FakeClip().image_features(shown[j : j + 1])
            assert matrix[i, j] == pytest.approx(float(cosine(*features).mean()), abs=1e-6)


def test_readout_of_answers_that_agree_disagree_or_know_nothing(rng):
    truth = torch.as_tensor(np.arange(60) % 9)
    right = readout(truth[:, None].repeat(1, 2), truth, 9, 2000)
    assert right["value"] == 1
    assert right["p"] == pytest.approx(1 / 2001)
    assert right["chance"] == pytest.approx(np.mean(np.bincount(truth.numpy()) @ np.bincount(truth.numpy()) / 60**2))
    constant = readout(torch.full((60, 2), 4), truth, 9, 500)  # always the same answer: right as often as it is shown
    assert constant["value"] == constant["chance"]
    assert constant["p"] == 1


def test_readout_is_not_fooled_by_samples_that_are_alike(rng):
    """Whole trials are permuted: without information p is uniform, however alike the samples of a trial are."""
    ps = []
    for seed in range(100):
        truth = torch.as_tensor(rng.integers(0, 4, 30))
        made = torch.as_tensor(rng.integers(0, 4, (30, 1))).expand(-1, 10)
        ps.append(readout(made, truth, 4, 200, seed)["p"])
    assert np.mean(np.array(ps) < 0.05) < 0.13
    assert np.mean(np.array(ps) < 0.5) > 0.3


def test_readout_p_agrees_with_the_exact_distribution():
    """Two levels, one sample: matches under permutation are hypergeometric."""
    truth = torch.as_tensor([0] * 10 + [1] * 10)
    made = truth.clone()
    made[[0, 1, 2, 10, 11, 12]] = 1 - made[[0, 1, 2, 10, 11, 12]]  # 14 of 20 agree, 10 answers of each kind
    result = readout(made[:, None], truth, 2, 20_000)
    exact = stats.hypergeom(20, 10, 10).sf(6)  # 7 or more of the ten answers "0" fall on trials of kind 0
    assert result["value"] == 0.7
    assert result["chance"] == 0.5
    assert result["p"] == pytest.approx(exact, abs=0.01)


def test_square_cuts_the_centre_and_resizes():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (200, 100, 50)
    fitted = square([Image.fromarray(wide), Image.fromarray(wide[:, :, 0])], 10)
    assert fitted.shape == (2, 10, 10, 3)
    assert (fitted[0, 2:8, 2:8] == (200, 100, 50)).all()
    assert (fitted[1, 2:8, 2:8] == 200).all()


# All of them together


class FakeJudge(torch.nn.Module):
    """Reads the class from red, the position from green: values of 4 are one level."""

    def __init__(self):
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(40.0))

    def features(self, images):
        return images.mean((2, 3))

    def forward(self, images):
        red, green, _ = (self.features(images) * 255 / 4).T
        levels = torch.arange(60.0)
        near = [-(level[:, None] - levels[:count]).abs() * self.sharpness for level, count in ((red, 60), (green, 9))]
        return dict(zip(("class", "position"), near, strict=True))


@pytest.fixture
def coded(rng):
    """Pictures of one colour that the fake judge can read, (24, 16, 16, 3)."""
    classes, positions = rng.permutation(60)[:24], np.arange(24) % 9
    colours = np.stack([4 * classes, 4 * positions, rng.integers(0, 256, 24)], 1)
    return np.broadcast_to(colours[:, None, None], (24, 16, 16, 3)).astype(np.uint8)


def fake_backbone(judge=True, clip=True):
    return SimpleNamespace(name="fake", judge=FakeJudge() if judge else None, clip=FakeClip() if clip else None)


def test_judge_images_does_not_depend_on_the_batch(coded):
    first, features = judge_images(FakeJudge(), coded, batch_size=5)
    second, _ = judge_images(FakeJudge(), coded)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(features, torch.as_tensor(coded[:, 0, 0]).float() / 255)


def test_evaluation_of_perfect_pictures(coded):
    results = evaluate_images(fake_backbone(), coded[:, None].repeat(2, 1), coded, n_permutations=500)
    assert results["generation_accuracy"]["value"] == 1
    assert results["inception_score"]["value"] == pytest.approx(24, rel=1e-3)  # as many certain classes
    assert results["fid"]["value"] == pytest.approx(0, abs=1e-2)
    assert results["fid"]["extractor"] == "judge of backbone fake"
    assert results["attributes"]["position"]["value"] == 1
    assert results["attributes"]["position"]["p"] < 0.01
    assert results["clip_similarity"]["value"] == pytest.approx(1)
    assert results["clip_similarity"]["unrelated"] < 1
    assert results["ssim"]["value"] == pytest.approx(1)
    assert results["notes"] == []
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    again = evaluate_images(fake_backbone(), coded[:, None].repeat(2, 1), coded, n_permutations=500)
    assert again == results


def test_evaluation_of_pictures_of_other_trials(coded):
    results = evaluate_images(fake_backbone(), np.roll(coded, 1, axis=0)[:, None], coded, n_permutations=500)
    assert results["generation_accuracy"]["value"] == 0
    assert results["inception_score"]["value"] == pytest.approx(24, rel=1e-3)  # blind to what was shown
    assert results["attributes"]["position"]["p"] > 0.5


def test_inception_score_never_sees_the_pictures_shown(coded):
    generated = coded[:1, None].repeat(24, 0)  # one picture, again and again
    assert evaluate_images(fake_backbone(), generated, coded, n_permutations=9)["inception_score"]["value"] == (
        pytest.approx(1, abs=1e-4)
    )


def test_metrics_that_lack_their_network_are_left_out_and_named(coded):
    results = evaluate_images(fake_backbone(judge=False, clip=False), coded[:, None], coded)
    assert not {"generation_accuracy", "inception_score", "fid", "attributes", "clip_similarity"} & set(results)
    assert "ssim" in results
    assert "has no judge" in results["notes"][0]
    assert "has no CLIP pair" in results["notes"][1]


def test_too_few_pictures_for_fid_are_noted(coded):
    results = evaluate_images(fake_backbone(), coded[:3, None], coded[:3], n_permutations=9)
    assert "FID of 3 generated and 3 shown pictures with 3 features" in results["notes"][0]


def test_evaluation_refuses_pictures_that_do_not_fit(coded):
    with pytest.raises(ValueError, match="do not fit"):
        evaluate_images(fake_backbone(), coded[:, None, :8], coded)
    with pytest.raises(ValueError, match="have to be"):
        evaluate_images(fake_backbone(), coded[:, None] / 255, coded)
