"""What else the time branch is pre-trained on: other heads and recordings, in the form of the data at hand."""

import runpy
from dataclasses import replace
from types import SimpleNamespace

import mne
import numpy as np
import pytest
import torch

from brainvis.configuration import PRESETS, Phantom, Training
from brainvis.data import load_dataset
from brainvis.files import ROOT, BrainvisError

SMALL = Phantom(subjects=1, images_per_class=4, classes=8)
OCCIPITAL = ["Oz", "O1", "O2", "PO3", "POz", "PO7", "PO8", "PO4"]


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "studies" / "other_recordings.py")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINVIS_DATA", str(tmp_path_factory.mktemp("data")))
        yield load_dataset("phantom", configuration=replace(PRESETS["smoke"], phantom=SMALL))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two recordings of eight occipital channels: 6 s at 256 Hz, a sine of 10 Hz in Oz, 20 Hz elsewhere, and drift."""
    folder = tmp_path_factory.mktemp("ssvep")
    time = np.arange(6 * 256) / 256
    for subject in (1, 2):
        signal = 1e-5 * np.sin(2 * np.pi * np.where(np.arange(8) == 0, 10, 20)[:, None] * time)
        noise = 1e-7 * np.random.default_rng(subject).standard_normal(signal.shape)
        raw = mne.io.RawArray(signal + noise + 1e-4 * time, mne.create_info(OCCIPITAL, 256.0, "eeg"), verbose="error")
        (folder / f"subject0{subject}").mkdir()
        raw.save(folder / f"subject0{subject}" / "one_raw.fif", verbose="error")
    return folder


def test_a_channel_of_the_same_position_is_itself(study, data):
    everywhere = study.positions(data.channels, data.montage)
    trials = torch.randn(3, 128, 5, generator=torch.Generator().manual_seed(0))
    assert study.mapped(trials, everywhere, everywhere) is trials
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(study.mapped(trials[:, order], everywhere[order], everywhere), trials)
    found = study.mapped(torch.arange(8.0)[None, :, None], study.positions(tuple(OCCIPITAL), data.montage), everywhere)
    places = dict(zip(data.channels, found.flatten().tolist(), strict=True))
    assert {name: places[name] for name in OCCIPITAL} == dict(zip(OCCIPITAL, range(8), strict=True))
    assert places["F7"] == OCCIPITAL.index("PO7") and places["F8"] == OCCIPITAL.index("PO8")  # on its own side


def test_another_head_has_other_trials_of_the_same_form(study, data):
    other = study.other_head(data, 20, SMALL)
    assert other.shape == (20, *data.trials.shape[1:])
    assert not any(torch.equal(one, mine) for one in other for mine in data.trials)
    whole = load_dataset("phantom", configuration=replace(PRESETS["smoke"], phantom=SMALL), seed=1)
    assert torch.equal(other[0], whole.trials[0]) and torch.equal(other[10], whole.trials[len(whole) // 2])


def test_recordings_become_trials_on_these_channels_at_this_rate(study, data, recordings):
    trials = study.ssvep(data, recordings)
    assert trials.shape == (2 * (6000 // 440), 128, 440) and trials.dtype == torch.float32
    spectrum = torch.fft.rfft(trials[6] * torch.hann_window(440), n=4400).abs()  # bins of 1000 / 4400 hertz
    for name, hertz in (("Oz", 10), ("O1", 20)):
        assert spectrum[data.channels.index(name)].argmax() * 1000 / 4400 == pytest.approx(hertz, abs=0.5)
    assert trials.var(dim=(0, 2)).mean() == pytest.approx(1, abs=0.1) and trials.mean().abs() < 0.1  # drift is gone
    some = study.ssvep(data, recordings, 5)
    assert len(some) == 5 and any(torch.equal(some[-1], one) for one in trials[13:])  # of every recording


def test_absent_recordings_are_said(study, data, tmp_path):
    with pytest.raises(BrainvisError, match=r"no recordings in .*_raw.fif"):
        study.ssvep(data, tmp_path)
    with pytest.raises(BrainvisError, match="no recordings in .*ssvep_exo"):  # of the data folder
        study.pretraining_on("lmm_ssvep", data, data.partition("clean"), Training(1))
    with pytest.raises(BrainvisError, match="names no montage"):
        study.positions(data.channels, None)
    with pytest.raises(BrainvisError, match="no channel O9"):
        study.positions(("Oz", "O9"), data.montage)


def test_every_kind_makes_as_many_steps(study, data, recordings):
    train = data.partition("clean").train
    study.other_head.__globals__["Phantom"] = lambda: SMALL
    for kind, share in {"lmm": 1, "lmm_same_25": 0.25, "lmm_same_50": 0.5, "lmm_other_head": 1, "lmm_both": 2}.items():
        trials, training = study.pretraining_on(kind, data, data.partition("clean"), Training(12))
        assert len(trials) == pytest.approx(share * len(train), abs=1), kind
        assert training.epochs * len(trials) == pytest.approx(12 * len(train), abs=len(trials) / 2), kind
    trials, training = study.pretraining_on("lmm_ssvep", data, data.partition("clean"), Training(12), recordings)
    assert len(trials) == min(26, len(train)) and training.epochs == round(12 * len(train) / len(trials))
    both, _ = study.pretraining_on("lmm_both", data, data.partition("clean"), Training(12))
    assert torch.equal(both[: len(train)], data.trials[train]) and set(study.ORIGINS) >= {"lmm_ssvep", "lmm_both"}
