"""Metrics of pictures on cases with known answers, and against independent implementations."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg, stats
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity as skimage_ssim

from brainvis.evaluation.judges import Judge, Judges, judges_of
from brainvis.evaluation.pictures import (
    METRICS,
    Metric,
    Pictures,
    accuracy_by_prediction,
    agreement_with,
    ask,
    cosine_similarity,
    evaluate_pictures,
    frechet_distance,
    inception_score,
    pixel_correlation,
    readout,
    square,
    structural_similarity,
    unrelated_pairs,
)
from brainvis.evaluation.scores import evenly, n_way_accuracy, spread_over_classes
from brainvis.phantom.stimuli import CLASS_NAMES


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
    assert inception_score(logits) == inception_score(logits)
    assert torch.equal(torch.get_rng_state(), before)


def test_frechet_distance_equals_its_formula(rng):
    a = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 0.7
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * linalg.sqrtm(ca @ cb).real)
    result = frechet_distance(torch.as_tensor(a), torch.as_tensor(b))
    assert result["value"] == pytest.approx(expected, rel=1e-6)
    assert (result["images"], result["images_shown"], result["features"]) == (300, 200, 6)
    assert result["note"] == ""


def test_frechet_distance_of_a_set_with_itself_is_zero_and_of_a_shifted_one_the_shift(rng):
    features = torch.as_tensor(rng.normal(size=(100, 5)))
    assert frechet_distance(features, features)["value"] == pytest.approx(0, abs=1e-8)
    assert frechet_distance(features + 2, features)["value"] == pytest.approx(5 * 2**2)


def test_frechet_distance_warns_of_too_few_pictures(rng):
    features = torch.as_tensor(rng.normal(size=(8, 8)))
    note = frechet_distance(features, features)["note"]
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
    monkeypatch.setattr("brainvis.evaluation.pictures.BLOCK", 2)
    matrix = pixel_correlation(generated, shown)
    for i in range(5):
        for j in range(5):
            expected = np.mean([np.corrcoef(g.ravel(), shown[j].ravel())[0, 1] for g in generated[i]])
            assert matrix[i, j] == pytest.approx(expected)
    inverted = pixel_correlation((255 - shown)[:, None], shown)
    np.testing.assert_allclose(np.diagonal(inverted), -1)
    assert (pixel_correlation(np.full_like(generated, 9), shown) == 0).all()


def test_cosine_similarity_is_the_mean_over_samples(rng):
    shown = torch.nn.functional.normalize(torch.as_tensor(rng.normal(size=(4, 6))))
    made = torch.nn.functional.normalize(torch.as_tensor(rng.normal(size=(8, 6))))  # two samples a trial
    matrix = cosine_similarity(made.view(4, 2, 6), shown)
    for i in range(4):
        for j in range(4):
            pair = torch.nn.functional.cosine_similarity(made[2 * i : 2 * i + 2], shown[j])
            assert matrix[i, j] == pytest.approx(float(pair.mean()))


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


def evaluate(judges, generated, shown, **settings):
    return evaluate_pictures(*(Pictures(pixels, judges, **settings) for pixels in (generated, shown)))


class FakeJudge(torch.nn.Module):
    """Reads the class from red, the position from green: values of 4 are one level."""

    class_names = tuple(f"class {i}" for i in range(60))
    fingerprint = "feedfeedfeedfeed"

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


class FakeClip:
    """The mean colour and brightness as unit-length features."""

    def image_features(self, images):
        means = torch.as_tensor(images).double().mean((1, 2)) + 1
        return torch.nn.functional.normalize(means, dim=-1).float()


@pytest.fixture
def coded(rng):
    """Pictures of one colour that the fake judge can read, (24, 16, 16, 3)."""
    classes, positions = rng.permutation(60)[:24], np.arange(24) % 9
    colours = np.stack([4 * classes, 4 * positions, rng.integers(0, 256, 24)], 1)
    return np.broadcast_to(colours[:, None, None], (24, 16, 16, 3)).astype(np.uint8)


def fake_judges():
    """Those of a backbone that comes with a judge and a CLIP pair."""
    return judges_of(SimpleNamespace(name="fake", judge=FakeJudge(), clip=FakeClip(), fingerprint="beefbeefbeefbeef"))


def test_the_judges_answers_do_not_depend_on_the_batch(coded):
    judge = fake_judges().classifier
    (first,), (second,) = judge.look(coded), replace(judge, batch_size=5).look(coded)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first["features"], torch.as_tensor(coded[:, 0, 0]).float() / 255)


def test_answers_are_by_trial_and_sample_and_given_once(coded):
    judges, shifted = fake_judges(), np.roll(coded, 1, axis=0)[:, None]
    sets = [Pictures(pixels, judges, n_permutations=9) for pixels in (coded[:, None].repeat(2, 1), shifted, coded)]
    made, rolled, truth = ask(judges.classifier, *sets)
    assert made.keys() == truth.keys() == {"class", "position", "features"}
    assert made["class"].shape == (24, 2, 60) and rolled["class"].shape == (24, 1, 60)
    sharp = {"atol": 0.01, "rtol": 0}  # as single precision is not
    torch.testing.assert_close(made["class"][:, 1], truth["class"], **sharp)
    torch.testing.assert_close(rolled["class"][1:, 0], truth["class"][:-1], **sharp)
    assert evaluate_pictures(*sets[1:]) == evaluate(judges, shifted, coded, n_permutations=9)
    assert ask(judges.classifier, sets[2])[0] is truth  # the pictures shown are looked at once for all stages


def test_evaluation_of_perfect_pictures(coded):
    results = evaluate(fake_judges(), coded[:, None].repeat(2, 1), coded, n_permutations=500)
    assert results["generation_accuracy"]["value"] == 1
    assert results["inception_score"]["value"] == pytest.approx(24, rel=1e-3)  # as many certain classes
    assert results["fid"]["value"] == pytest.approx(0, abs=1e-2)
    origin = {"network": "judge of backbone fake", "weights": "feedfeedfeedfeed"}
    for name in ("generation_accuracy", "inception_score", "fid", "two_way_judge"):
        assert origin.items() <= results[name].items()
    assert results["two_way_clip"]["network"] == results["clip_similarity"]["network"] == "CLIP pair of backbone fake"
    assert results["two_way_judge"]["value"] > 0.99  # two of the colours differ in contrast alone
    assert results["two_way_judge"]["chance"] == 0.5
    assert results["attributes"]["position"]["value"] == 1
    assert results["attributes"]["position"]["p"] < 0.01
    assert results["clip_similarity"]["value"] == pytest.approx(1)
    assert results["clip_similarity"]["unrelated"] < 1
    assert results["ssim"]["value"] == pytest.approx(1)
    assert results["notes"] == []
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    again = evaluate(fake_judges(), coded[:, None].repeat(2, 1), coded, n_permutations=500)
    assert again == results


def test_evaluation_of_pictures_of_other_trials(coded):
    results = evaluate(fake_judges(), np.roll(coded, 1, axis=0)[:, None], coded, n_permutations=500)
    assert results["generation_accuracy"]["value"] < 0.02  # not 0: the one class that beats it may not be drawn
    assert results["inception_score"]["value"] == pytest.approx(24, rel=1e-3)  # blind to what was shown
    assert results["attributes"]["position"]["p"] > 0.5


def test_measures_of_likeness_stand_beside_unrelated_pairs_of_both_kinds(coded):
    """The fourth trial was shown the picture of the first once more: the two are no unrelated pair."""
    shown, classes = coded[[0, 1, 2, 0]], np.array([0, 0, 1, 0])
    truth = Pictures(shown, fake_judges(), classes=classes)
    kinds = unrelated_pairs(truth)
    assert np.argwhere(kinds["same_class"]).tolist() == [[0, 1], [1, 0], [1, 3], [3, 1]]
    assert np.argwhere(kinds["other_class"]).tolist() == [[0, 2], [1, 2], [2, 0], [2, 1], [2, 3], [3, 2]]
    made = Pictures(shown[:, None], fake_judges())
    results = evaluate_pictures(made, truth)
    colours = torch.as_tensor(FakeClip().image_features(shown))
    for kind, pairs in kinds.items():
        assert results["clip_similarity"][kind] == pytest.approx((colours @ colours.T).numpy()[pairs].mean(), abs=1e-6)
    pairs = structural_similarity(made.pixels[[0, 1, 0]], shown[[1, 0, 1]])  # the third trial is alone in its class
    assert results["ssim"]["same_class"] == pytest.approx(pairs.mean())
    alone = evaluate_pictures(made, Pictures(shown, fake_judges(), classes=np.arange(4)))["ssim"]
    assert "same_class" not in alone and results["ssim"]["other_class"] < 1 == results["ssim"]["value"]


def test_inception_score_never_sees_the_pictures_shown(coded):
    generated = coded[:1, None].repeat(24, 0)  # one picture, again and again
    assert evaluate(fake_judges(), generated, coded, n_permutations=9)["inception_score"]["value"] == (
        pytest.approx(1, abs=1e-4)
    )


def test_metrics_that_lack_their_network_are_left_out_and_named(coded):
    nobody = Judges(missing=("Alas, no network.",))
    results = evaluate(nobody, coded[:, None], coded)
    assert set(results) == {"trials", "samples", "ssim", "pixel_correlation", "notes"}
    assert results["notes"] == ["Alas, no network."]


def test_a_metric_of_ones_own_is_one_line_in_the_table(coded, monkeypatch):
    def brightness(generated, shown):
        return generated.interval((generated.pixels.mean((2, 3, 4)) - shown.pixels.mean((1, 2, 3))[:, None]).mean(1))

    monkeypatch.setitem(METRICS, "contrast", Metric(lambda made, shown: {"value": made.pixels.std() / 255}, "contrast"))
    monkeypatch.setitem(METRICS, "brightness", Metric(brightness, "brightness", digits=1))
    monkeypatch.setitem(METRICS, "never", Metric(lambda made, shown: None, "never"))
    monkeypatch.setitem(METRICS, "by_eye", Metric(lambda made, shown: ask(None, made, shown), "by eye"))
    results = evaluate(Judges(), coded[:, None].repeat(2, 1), coded)
    assert set(results) == {"trials", "samples", "ssim", "pixel_correlation", "contrast", "brightness", "notes"}
    assert results["contrast"] == {"value": coded.std() / 255}
    assert results["brightness"] == {"value": 0, "low": 0, "high": 0}


def test_a_judge_looks_once_at_each_set_of_pictures(coded):
    looked = []

    def look(images):
        looked.append(len(images))
        return {"features": FakeClip().image_features(images)}

    clip = Judge("CLIP", lambda: look, lambda: "0" * 16, batch_size=100)
    evaluate(Judges(clip=clip, identification={"CLIP": clip}), coded[:, None].repeat(2, 1), coded)
    assert looked == [48, 24]


def test_weights_that_are_not_the_published_ones_are_noted(coded):
    clip = Judge("CLIP", lambda: lambda images: {"features": FakeClip().image_features(images)}, lambda: "0" * 16,
                 key="clip")  # fmt: skip
    results = evaluate(Judges(clip=clip, identification={"CLIP": clip}), coded[:, None], coded)
    assert results["clip_similarity"]["weights"] == "0" * 16
    assert (
        len(results["notes"]) == 1 and "begins with 0000" in results["notes"][0] and "9ce2e8a8" in results["notes"][0]
    )


def test_one_trial_alone_has_nobody_to_be_taken_for(coded):
    results = evaluate(fake_judges(), coded[:1, None].repeat(2, 1), coded[:1], n_permutations=9)
    assert not any(name.startswith("two_way") for name in results) and "fid" not in results
    assert "ssim" in results and "single trial" in results["notes"][0]


def test_too_few_pictures_for_fid_are_noted(coded):
    results = evaluate(fake_judges(), coded[:3, None], coded[:3], n_permutations=9)
    assert "FID of 3 generated and 3 shown pictures with 3 features" in results["notes"][0]


def test_evaluation_refuses_pictures_that_do_not_fit(coded):
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(fake_judges(), coded[:, None, :8], coded)
    with pytest.raises(ValueError, match="they must be"):
        evaluate(fake_judges(), coded[:, None] / 255, coded)


# Which trials are drawn, and what pictures say of the classifier of EEG


def sure(classes, count=60):
    """Of a judge that is sure of these classes: (..., count)."""
    return {"class": torch.nn.functional.one_hot(torch.as_tensor(classes), count).float()}


def test_trials_are_spread_over_classes():
    labels = torch.tensor([5, 5, 5, 0, 0, 3, 3, 3, 3])
    assert spread_over_classes(labels, 3).tolist() == [0, 3, 5]
    assert spread_over_classes(labels, 4).tolist() == [0, 3, 4, 5]  # the lowest class gets the odd one
    assert spread_over_classes(labels, 8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    for all_of_them in (None, 9, 99):
        assert spread_over_classes(labels, all_of_them).tolist() == list(range(9))


def test_rows_are_evenly_spaced():
    assert evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert evenly(np.array([4, 7]), 5) == [4, 7]
    assert evenly([], 5) == []


def test_the_split_adds_up_to_the_whole():
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 60, 30)
    right = rng.random(30) < 0.5
    made = np.where(right[:, None] & (rng.random((30, 2)) < 0.8), shown[:, None], rng.integers(0, 60, (30, 2)))
    judge = Judge("sure", None, str)
    sets = [Pictures(classes, Judges(judge), answers={"sure": sure(classes)}) for classes in (made, shown)]
    split = accuracy_by_prediction(*sets, right)
    assert {name: part["trials"] for name, part in split.items()} == {"right": right.sum(), "wrong": (~right).sum()}
    whole = n_way_accuracy(sure(made)["class"], sure(shown)["class"], 50)["exact"]
    assert sum(part["exact"] * part["trials"] for part in split.values()) / 30 == pytest.approx(whole)
    assert split["right"]["value"] > 0.6 > 0.2 > split["wrong"]["value"]
    assert accuracy_by_prediction(*sets, right | True).keys() == {"right"}


def test_pictures_that_show_the_predicted_class():
    judged = np.array([[0, 1], [2, 2]])
    agreement = agreement_with([CLASS_NAMES[0], CLASS_NAMES[2]], judged, CLASS_NAMES)
    assert (agreement["value"], agreement["chance"]) == (0.75, 1 / 60)
    assert agreement_with([CLASS_NAMES[0], "unicorn"], judged, CLASS_NAMES) is None
