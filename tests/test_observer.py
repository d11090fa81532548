"""The ideal observer: chance where nothing is, all where much is, and it reads the very trials of the files."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.random import default_rng

from brainvis.configuration import Configuration, Phantom
from brainvis.data import load_dataset
from brainvis.data.phantom import phantom_attributes
from brainvis.phantom import observer, sources
from brainvis.phantom.sources import COLOUR_PAIRS, OngoingEEG, PictureResponses, Subject

SMALL = Phantom(subjects=2, images_per_class=6, classes=20)
ATTRIBUTES = ("shape", "colour", "size", "position", "background")


GAINS = {"onset": 1.0, "position": 3.2, "shape": 0.44, "colour": 0.9, "background": 2.2}  # the signals below are faint


@pytest.fixture(scope="module", autouse=True)
def gains():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "GAINS", dict(GAINS))
        yield


@pytest.fixture(scope="module")
def clear(gains):
    return observer.ceiling(SMALL, 3, 2)


def test_nothing_evoked_is_chance():
    found = observer.ceiling(Phantom(**{**vars(SMALL), "signal": 0.0}), 3, 1)
    for name, values in found.log_likelihoods.items():
        assert np.ptp(values, axis=1) == pytest.approx(0, abs=1e-6), name  # every level is as likely as another
    chance = found.accuracy()
    assert chance["class"] == chance["class by shape"] == chance["class by colour"] == 1 / 20


def test_what_the_phantom_says_is_read_and_less_of_it_less_well(clear):
    best = clear.accuracy()
    assert min(best[name] for name in (*ATTRIBUTES, "class")) > 0.9
    faint = observer.ceiling(Phantom(**{**vars(SMALL), "signal": 0.08}), 3, 2).accuracy()
    for name, chance in {"shape": 0.1, "colour": 1 / 3, "position": 1 / 9, "class": 1 / 20}.items():
        assert 1.5 * chance < faint[name] < best[name] - 0.05, name


def test_one_attribute_alone_tells_the_class_as_often_as_it_is_shared(clear):
    shapes, colours = clear.classes.T
    assert clear.accuracy()["class by shape"] <= np.mean([1 / (shapes == shape).sum() for shape in shapes]) + 1e-9
    assert clear.accuracy()["class by colour"] == pytest.approx(
        np.mean([1 / (colours == colour).sum() for colour in colours]), abs=0.02
    )


def test_likelihoods_are_calibrated():
    """What it holds for likely with 70 % is so in about 70 % of trials: the noise it assumes is the noise there is."""
    found = observer.ceiling(Phantom(subjects=1, images_per_class=10, classes=40, signal=0.08), 0, 1)
    for name in ("shape", "colour", "position"):
        values = found.log_likelihoods[name][:, np.unique(found.truth[name])]
        chances = np.exp(values - np.logaddexp.reduce(values, axis=1, keepdims=True))
        told, right = chances.max(1).mean(), found.accuracy()[name]
        assert told == pytest.approx(right, abs=0.08), name


def test_expected_responses_are_those_that_are_recorded():
    rng = default_rng(0)
    head = Subject(rng)
    responses, ongoing = PictureResponses(head, rng), OngoingEEG(head, rng)
    reader = observer._Observer(responses, ongoing, 1.0, default_rng(0))
    shown = {"shape": 7, "colour": 2, "size": 2, "position": 5, "background": 1}
    expected = [
        sum(parts[name][shown[name]] for name in ("shape", "position", "background"))
        for size, parts in reader.evoked
        if size == shown["size"]
    ]
    many = {name: np.full(400, level) for name, level in shown.items()}
    recorded = reader._source_bins(responses.spectra(many, default_rng(1)))
    evoked = np.ones(recorded.shape[1], bool)
    evoked[responses.colour] = False
    expected, recorded_mean = np.mean(expected, axis=0)[evoked], recorded.mean(0)[evoked]
    assert np.abs(expected - recorded_mean).max() < 0.03 * np.abs(recorded_mean).max()
    # Bursts: the power in the bins of the two bands of the colour, and hardly any in those of the others.
    power = (np.abs(recorded[:, responses.colour]) ** 2).mean((0, 1))  # (bin,), of a source
    for band, (bins, covariance) in enumerate(zip(reader.bands, reader.bursts, strict=True)):
        known = np.trace(covariance).real
        if band in COLOUR_PAIRS[shown["colour"]]:
            assert power[bins].sum() == pytest.approx(known, rel=0.15)
        else:
            assert power[bins].sum() < 0.03 * known


def test_images_are_those_of_the_files(tmp_path, clear):
    data = load_dataset("phantom", tmp_path, Configuration(phantom=SMALL), seed=3).of_subject(2)
    truth = phantom_attributes(data)
    for name in ATTRIBUTES:
        assert (clear.truth[name][data.images] == truth[name].numpy()).all()
    assert (clear.truth["class"][data.images] == data.labels.numpy()).all()
    test = data.images[data.partition("clean").test].numpy()
    right = clear.logits[test].argmax(1) == data.labels[data.partition("clean").test].numpy()
    assert clear.accuracy(test)["class"] == right.mean() and len(test) < len(clear.logits)


def test_command_line_takes_other_gains(monkeypatch, capsys):
    monkeypatch.setattr(sources, "GAINS", dict(GAINS))
    monkeypatch.setattr(observer, "Phantom", lambda **changes: Phantom(**{**vars(SMALL), **changes}))
    observer.main(["shape=0", "--seed", "3"])
    said = capsys.readouterr().out
    assert "'shape': 0.0" in said and float(re.search(r"shape ([.\d]+)", said)[1]) == pytest.approx(0.1, abs=0.06)
    with pytest.raises(SystemExit):
        observer.main(["smell=1"])
    assert "there is no gain smell; the gains are onset" in capsys.readouterr().err
    with pytest.raises(ValueError, match="subjects 1 to 2, not 3"):
        observer.ceiling(SMALL, 0, 3)
