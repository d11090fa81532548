"""The phantom in the published form of EEGCVPR40: counts, lengths, splits, and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brainvis.configuration import Phantom
from brainvis.data import load_dataset
from brainvis.phantom import recording, spectrum
from brainvis.phantom.__main__ import main
from brainvis.phantom.published_form import (
    FADE,
    PublishedForm,
    joined,
    published_lengths,
    published_splits,
    published_trials,
    stretches_needed,
)
from brainvis.phantom.stimuli import Stimulus


def test_published_counts_at_full_size():
    rng, form = np.random.default_rng(0), PublishedForm()
    labels = rng.permutation(np.repeat(np.arange(40), 50)[form.lost_images :])
    there = published_trials(6, len(labels), form, rng)
    assert there.sum() == 11965 and len(labels) == 1996
    missing = np.sort(6 - there.sum(0))[::-1]
    assert missing[0] == 4 and (missing == 1).sum() == 7
    lengths = published_lengths(there, form, rng)[there]
    assert lengths.min() == 491 and lengths.max() == 1527 and (lengths >= 700).sum() == 10
    assert np.bincount(lengths).argmax() == 499 and abs(lengths.mean() - 511.6) < 1
    everyone, single = published_splits(labels, there, form, 6, rng)
    assert {part: len(trials) for part, trials in everyone[0].items()} == {"train": 7970, "val": 1998, "test": 1997}
    assert {part: len(trials) for part, trials in single.items()} == {"train": 669, "val": 167, "test": 164}
    assert sorted(sum(single.values(), [])) == list(range(1000))
    image = np.nonzero(there)[1]  # of each trial in the list
    for split in everyone:
        assert sorted(sum(split.values(), [])) == list(range(11965))
        images = [set(image[trials]) for trials in split.values()]
        assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])
        assert all(len(set(labels[list(part)])) == 40 for part in images)


def test_long_trials_go_on_as_they_began():
    rng = np.random.default_rng(0)
    pieces = list(rng.standard_normal((3, 2000, spectrum.SAMPLES)).astype(np.float32))
    signal = joined(pieces, 1527)
    assert signal.shape == (2000, 1527) and stretches_needed(1527) == 3
    seam = slice(spectrum.SAMPLES - FADE, spectrum.SAMPLES)
    assert np.array_equal(signal[:, : seam.start], pieces[0][:, : seam.start])
    assert np.allclose(signal[:, seam].std(0), 1, atol=0.08)  # neither louder nor softer in between
    assert np.array_equal(signal[:, seam.stop : seam.stop + 9], pieces[1][:, FADE : FADE + 9])

    plan = recording.Session([Stimulus(1, 0, 1, 4, 0)] * 8, np.arange(8), [f"p0_{i}" for i in range(8)])
    lengths = np.array([500, 700, 1527, 640, 500, 500, 500, 500])
    usual, long = (
        [eeg for _, _, eeg in recording.record(plan, Phantom(), np.random.default_rng(0), lengths=wanted)]
        for wanted in (np.full(8, 500), lengths)
    )
    for short, trial, length in zip(usual, long, lengths, strict=True):
        assert trial.shape == (128, length) and torch.equal(short, trial[:, :500])  # the others are as they were
    loudness = long[2].std(1)
    assert 0.5 < (long[2][:, 1200:].std(1) / loudness).median() < 1.5


def test_published_form_in_files(tmp_path):
    form = PublishedForm(lost_images=2, gaps=(2, 1), long_trials=2, held_out=(6, 5), single=(6, 2, 2))
    phantom = Phantom(subjects=3, images_per_class=5, classes=3)
    recording.write_phantom(tmp_path / "published", phantom, 0, form=form)
    assert not list((tmp_path / "published").glob("*.scratch"))
    file = torch.load(tmp_path / "published" / "eeg_5_95_std.pth", weights_only=True)
    assert len(file["images"]) == 13 and len(file["dataset"]) == 36
    assert all(set(trial) == {"eeg", "image", "label", "subject"} for trial in file["dataset"])
    assert [trial["subject"] for trial in file["dataset"]] == sorted(trial["subject"] for trial in file["dataset"])
    assert all(trial["eeg"].untyped_storage().nbytes() == trial["eeg"].nbytes for trial in file["dataset"])
    every = torch.cat([trial["eeg"] for trial in file["dataset"]], dim=1)
    torch.testing.assert_close(every.std(1), torch.ones(128), atol=1e-3, rtol=0)
    data = load_dataset("eegcvpr40", folder=tmp_path / "published", lengths=(450, 1600))
    assert data.order is None and data.image_path(0).suffix == ".JPEG"
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 25, "val": 6, "test": 5}
    pictures = [set(data.images[part].tolist()) for part in data.splits.values()]
    assert not (pictures[0] & pictures[1] or pictures[0] & pictures[2] or pictures[1] & pictures[2])
    assert all(
        data.class_names[data.labels[data.images == i][0]] in data.captions[data.image_ids[i]] for i in range(13)
    )


def test_published_form_has_its_own_size(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "mine"), "--published-form", "--subjects", "2"])
    assert "leave out subjects" in capsys.readouterr().err and not list(tmp_path.iterdir())
