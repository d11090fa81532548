"""The phantom's EEG against the truth that was put in, and its files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pipelines import unchecked
from scipy import stats

from brainvis.configuration import Configuration, Phantom
from brainvis.data import DATASETS, DatasetError, load_dataset
from brainvis.data.phantom import ensure_phantom, phantom_attributes, phantom_folder
from brainvis.phantom import head, recording, spectrum
from brainvis.phantom.__main__ import main
from brainvis.phantom.sources import COLOUR_BANDS, COLOUR_PAIRS, SHAPE_CODES
from brainvis.phantom.stimuli import SHOWN_CLASSES, Stimulus, render

SMALL = Phantom(subjects=2, images_per_class=4, classes=3)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small phantom and the folder of phantoms that it is in."""
    folder = tmp_path_factory.mktemp("phantoms")
    return load_dataset("phantom", folder, Configuration(phantom=SMALL), seed=3, lengths=(450, 700)), folder


def session(stimuli: list[Stimulus], labels=None) -> recording.Session:
    labels = np.arange(len(stimuli)) if labels is None else np.asarray(labels)
    return recording.Session(stimuli, labels, [f"p0_{i}" for i in range(len(stimuli))])


def record(plan: recording.Session, phantom: Phantom, seed: int = 0) -> np.ndarray:
    """Trials (trial, channel, 440) of one subject, not standardised."""
    trials = recording.record(plan, phantom, np.random.default_rng(seed))
    return np.stack([eeg[:, 20:460].numpy() for _, _, eeg in trials])


# The head


def test_lead_field_of_the_sphere():
    names, places = head.electrodes()
    assert len(names) == 128 and not set(head.NOT_EEG) & set(names)
    position = np.array([[0.0, -0.07, 0.0], [0.0, -0.07, 0.0], [0.03, -0.05, 0.02], [-0.03, -0.05, 0.02]])
    direction = np.array([[0, -1.0, 0], [2.0, 0, 0], [0.5, 0.3, -1], [-0.5, 0.3, -1]])
    field = head.lead_field(position, direction)
    assert np.allclose(field.sum(axis=0), 0, atol=1e-9 * np.abs(field).max())  # average reference
    assert names[field[:, 0].argmax()] in ("Oz", "Iz", "OI1h", "OI2h", "POz")  # a radial dipole points at its electrode
    assert 10 < field[:, 0].max() < 1000  # microvolts for 1 microampere metre: what heads give
    mirror = [int(np.linalg.norm(places * [-1, 1, 1] - place, axis=1).argmin()) for place in places]
    assert np.allclose(field[mirror, 1], -field[:, 1], atol=1e-6 * np.abs(field).max())  # tangential, to the right
    assert np.allclose(field[mirror, 2], field[:, 3], atol=1e-6 * np.abs(field).max())  # mirrored dipoles
    assert np.allclose(head.lead_field(position, -direction), -field)
    assert np.allclose((head.topographies(position, direction) ** 2).mean(axis=0), 1, atol=1e-5)
    with pytest.raises(ValueError, match="Dipole 0 is 90.0 mm"):
        head.lead_field(np.array([[0, 0, 0.09]]), np.array([[0, 0, 1.0]]))


def test_spectra_are_signals():
    rng = np.random.default_rng(0)
    noise = spectrum.random_spectra((400,), spectrum.FREQUENCIES**-0.75, rng) * spectrum.BAND_PASS
    assert spectrum.waveforms_of(noise).std() == pytest.approx(1, abs=0.02)
    wave = spectrum.bursts(2.0, 0.3, 0.03, 40.0, 0.5)
    back = spectrum.waveforms_of(spectrum.spectra_of(wave) * spectrum.delays(np.array(0.05)))
    assert np.allclose(back, spectrum.bursts(2.0, 0.35, 0.03, 40.0, 0.5), atol=1e-3)
    gain = np.interp([2, 30, 140], spectrum.FREQUENCIES, spectrum.BAND_PASS)
    assert gain[0] < 0.05 and gain[1] > 0.99 and gain[2] < 0.25


# What drives what: without noise (the same seed with and without signal differs by the responses alone)


def responses(stimuli: list[Stimulus]) -> np.ndarray:
    plan = session(stimuli)
    return record(plan, Phantom(signal=1)) - record(plan, Phantom(signal=0))


def energy(difference: np.ndarray) -> np.ndarray:
    """(440,) energy over channels at each time, up to 35 Hz or so, where evoked responses are."""
    smooth = np.apply_along_axis(np.convolve, -1, difference, np.hanning(27) / np.hanning(27).sum(), "same")
    return (smooth**2).sum(axis=0)


@pytest.mark.parametrize(
    ("attribute", "values", "window"),
    [("position", (0, 8), (0.07, 0.14)), ("shape", (0, 5), (0.09, 0.32)), ("background", (0, 3), (0.14, 0.46))],
)
def test_attribute_acts_in_its_window(attribute, values, window):
    base = Stimulus(shape=1, colour=0, size=1, position=4, background=1)
    one, other = (replace(base, **{attribute: value}) for value in values)
    count = 60
    signals = responses([one] * count + [other] * count)
    difference = energy(signals[:count].mean(0) - signals[count:].mean(0))
    times = np.arange(20, 460) / 1000
    inside = difference[(times >= window[0]) & (times <= window[1])].sum() / difference.sum()
    assert inside > 0.8, inside


def test_larger_is_stronger_and_earlier():
    base = Stimulus(shape=1, colour=0, size=0, position=4, background=0)
    count = 60
    signals = responses([base] * count + [replace(base, size=2)] * count)
    small, large = signals[:count].mean(0)[:, :130], signals[count:].mean(0)[:, :130]  # up to 150 ms
    assert np.linalg.norm(large) > 1.15 * np.linalg.norm(small)
    shifts = range(-15, 16)
    best = max(shifts, key=lambda shift: (np.roll(large, shift, -1)[:, 20:110] * small[:, 20:110]).sum())
    assert 7 <= best <= 13  # 10 ms


def test_shape_codes_differ_in_half_of_their_elements_and_not_in_energy():
    codes = SHAPE_CODES.reshape(10, -1)
    assert np.array_equal(codes @ codes.T, codes.shape[1] * np.eye(10))
    assert np.array_equal(np.abs(SHAPE_CODES), np.ones_like(SHAPE_CODES))


def test_induced_colour_averages_out_of_the_evoked_response_and_is_in_the_spectrum():
    # Two colours whose pairs of bands complement each other; all else is the same. With noise, as recorded.
    first, second = 0, 5
    assert not set(COLOUR_PAIRS[first]) & set(COLOUR_PAIRS[second])
    count = 150
    stimuli = [Stimulus(1, colour, 1, 4, 0) for colour in (first, second) for _ in range(count)]
    trials = record(session(stimuli), Phantom())
    power = np.abs(np.fft.rfft(trials)) ** 2  # (trial, channel, frequency), by 2.27 Hz
    frequencies = np.fft.rfftfreq(440, 1e-3)
    for band, centre in enumerate(COLOUR_BANDS):
        near = np.abs(frequencies - centre) < 4
        in_band = np.log(power[..., near].sum(-1)).mean(-1)  # (trial,)
        with_band, without = in_band[:count], in_band[count:]
        if band in COLOUR_PAIRS[second]:
            with_band, without = without, with_band
        assert stats.ttest_ind(with_band, without, alternative="greater").pvalue < 1e-6, centre

    flat = trials.reshape(2 * count, -1)
    products = flat @ flat.T  # the squared norm of any weighted sum of trials follows from these

    def difference(order: np.ndarray) -> float:
        weights = np.where(order < count, 1.0, -1.0) / count
        return float(weights @ products @ weights)

    rng = np.random.default_rng(0)
    chance = [difference(rng.permutation(2 * count)) for _ in range(199)]
    rank = sum(value >= difference(np.arange(2 * count)) for value in chance)
    assert rank >= 10, "the average over trials tells the colours apart"  # p >= 0.05


def class_information(signal_gain: float) -> tuple[float, float]:
    """Share of points (channel, time), and of (channel, frequency), at which four classes differ with p < 0.01."""
    stimuli = [
        Stimulus(shape, colour, 1, 4, 0) for shape, colour in ((0, 1), (1, 0), (2, 4), (3, 5)) for _ in range(50)
    ]
    trials = record(session(stimuli, np.repeat(np.arange(4), 50)), Phantom(signal=signal_gain), seed=1)
    spectra = np.log(np.abs(np.fft.rfft(trials))[..., 2:44])
    shares = []
    for values in (trials[..., ::4], spectra):
        p = stats.f_oneway(*np.split(values.reshape(len(values), -1), 4)).pvalue
        shares.append(float((p < 0.01).mean()))
    return shares[0], shares[1]


def test_classes_are_there_with_signal_and_not_without():
    evoked, spectral = class_information(1.0)
    assert evoked > 0.05 and spectral > 0.1
    evoked, spectral = class_information(0.0)
    assert evoked < 0.02 and spectral < 0.02


def test_subjects_differ_but_not_too_much():
    plan = session([Stimulus(1, 0, 1, 2, 0)] * 30)
    one, other = (
        (record(plan, Phantom(), seed) - record(plan, Phantom(signal=0), seed)).mean(0)[:, 50:120].ravel()
        for seed in (1, 2)
    )
    assert 0.5 < np.corrcoef(one, other)[0, 1] < 0.995


# Noise, artefacts, drift


def test_noise_looks_like_eeg():
    trials = record(session([Stimulus(1, 0, 1, 4, 0)] * 200), Phantom(signal=0))
    power = (np.abs(np.fft.rfft(trials)) ** 2).mean((0, 1))
    frequency = np.fft.rfftfreq(440, 1e-3)

    def at(hertz: float) -> float:
        return power[np.abs(frequency - hertz).argmin()]

    assert at(7) > at(20) > at(40) > at(80) > 10 * at(200)
    assert at(50) > 1.5 * (at(43) + at(57)) / 2  # the line
    occipital = head.electrodes()[0].index("Oz")
    spectrum_there = (np.abs(np.fft.rfft(trials[:, occipital])) ** 2).mean(0)
    assert spectrum_there[np.abs(frequency - 10.2).argmin()] > 1.5 * spectrum_there[np.abs(frequency - 17).argmin()]
    correlation = np.corrcoef(trials.transpose(1, 0, 2).reshape(128, -1))
    places = head.electrodes()[1]
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    near, far = (distance > 0) & (distance < 0.025), distance > 0.12
    assert np.abs(correlation[near]).mean() > 2 * np.abs(correlation[far]).mean()


def test_drift_gives_the_time_of_recording_away():
    labels = np.repeat(np.arange(6), 25)
    plan = session([Stimulus(1, 0, 1, 4, 0)] * len(labels), labels)  # all the same picture: only time can tell

    def f_ratio(design: str, drift: float) -> float:
        """Median over channels of the variance of trial means between labels against that within."""
        means = record(plan, Phantom(signal=0, design=design, drift=drift)).mean(-1)
        return float(np.median(stats.f_oneway(*np.split(means, 6)).statistic))

    assert f_ratio("block", 1.0) > 10
    assert f_ratio("interleaved", 1.0) < 3 and f_ratio("block", 0.0) < 3


def test_orders():
    labels = np.repeat(np.arange(5), 8)
    rng = np.random.default_rng(0)
    block = labels[recording.presentation_order(labels, "block", rng)]
    assert (np.diff(block) != 0).sum() == 4 and block.tolist() != sorted(block)
    mixed = recording.presentation_order(labels, "interleaved", rng)
    assert sorted(mixed) == list(range(40)) and (np.diff(labels[mixed]) != 0).sum() > 20
    assert np.diff(recording.onset_times(labels)).tolist().count(recording.PAUSE + 0.5) == 4


# Files


def test_round_trip(small):
    data, folder = small
    assert data.name == "phantom" and data.trials.shape == (24, 128, 440) and data.start == 0.02
    assert data.montage == "brainproducts-RNP-BA-128" and data.channels == head.electrodes()[0]
    assert data.class_names == ("red square", "red triangle", "red cross")
    assert data.subjects.tolist() == [1] * 12 + [2] * 12 and data.images.tolist() == list(range(12)) * 2
    for subject in (1, 2):
        assert sorted(data.of_subject(subject).order.tolist()) == list(range(12))
    assert data.of_subject(1).order.tolist() != data.of_subject(2).order.tolist()
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 12, "val": 6, "test": 6}
    for name, part in data.splits.items():  # by image, every class on every side
        assert set(data.images[part].tolist()) == set(data.images[part[: len(part) // 2]].tolist())
        assert data.labels[part].unique().tolist() == [0, 1, 2], name
    truth = phantom_attributes(data)
    for trial in (0, 7, 23):
        image = data.images[trial]
        words = data.captions[data.image_ids[image]]
        assert data.class_names[data.labels[trial]] in words
        shown = {name: int(values[trial]) for name, values in truth.items()}
        assert Stimulus(**shown).caption == words
        assert shown["colour"] * 10 + shown["shape"] == SHOWN_CLASSES[data.labels[trial]]
    plan = recording.plan_session(SMALL, np.random.default_rng(np.random.SeedSequence(3).spawn(1)[0]))
    assert np.array_equal(np.asarray(data.image(5)), render([plan.stimuli[5]], recording.RESOLUTION)[0])
    place = phantom_folder(folder, SMALL, 3)
    assert [f.name for f in folder.iterdir()] == [place.name]
    again = load_dataset("eegcvpr40", folder=place, lengths=(450, 700))
    assert torch.equal(again.trials, data.trials)
    single = load_dataset("eegcvpr40", folder=place, lengths=(450, 700), split="single_released")
    assert {n: p.tolist() for n, p in single.splits.items()} == {n: p.tolist() for n, p in data.splits.items()}


def test_file_is_standardised_and_lengths_vary(small):
    _, folder = small
    file = torch.load(phantom_folder(folder, SMALL, 3) / "eeg_5_95_std.pth", weights_only=True)
    every = torch.cat([trial["eeg"] for trial in file["dataset"]], dim=1)
    torch.testing.assert_close(every.mean(1), torch.zeros(128), atol=1e-4, rtol=0)
    torch.testing.assert_close(every.std(1), torch.ones(128), atol=1e-3, rtol=0)
    assert every.dtype == torch.float32
    assert all(trial["eeg"].untyped_storage().nbytes() == trial["eeg"].nbytes for trial in file["dataset"])
    lengths = recording.trial_lengths(20000, np.random.default_rng(0))
    assert lengths.min() >= 491 and 495 <= np.median(lengths) <= 505 and lengths.max() < spectrum.SAMPLES
    assert 0.005 < ((lengths < 450) | (lengths > 600)).mean() < 0.02
    splits = torch.load(phantom_folder(folder, SMALL, 3) / "block_splits_by_image_all.pth", weights_only=True)["splits"]
    assert len(splits) == 6 and len({str(split) for split in splits}) == 6
    sizes = {
        name: len(p) for name, p in recording.split_by_image(np.repeat([0, 1], 20), np.random.default_rng(0)).items()
    }
    assert sizes == {"train": 28, "val": 6, "test": 6}  # 14, 3, 3 of each class


def test_same_seed_same_bytes_other_seed_other_data(small, tmp_path):
    data, folder = small
    recording.write_phantom(tmp_path / "again", SMALL, 3)
    first = phantom_folder(folder, SMALL, 3)
    for file in first.rglob("*"):
        if file.is_file() and file.suffix not in (".pth", ".safetensors", ".lock"):
            assert file.read_bytes() == (tmp_path / "again" / file.relative_to(first)).read_bytes(), file
    again = load_dataset("eegcvpr40", folder=tmp_path / "again", lengths=(450, 700))
    assert torch.equal(again.trials, data.trials)
    other = load_dataset("phantom", folder, Configuration(phantom=SMALL), seed=4, lengths=(450, 700))
    assert not torch.equal(other.trials, data.trials)
    variants = ((SMALL, 3), (SMALL, 4), (replace(SMALL, drift=0.5), 3))
    fingerprint = DATASETS["phantom"].fingerprint
    assert len({fingerprint(folder, Configuration(phantom=phantom), seed=seed) for phantom, seed in variants}) == 3


WHO_MADE_IT = """
import sys
from brainvis.configuration import Configuration, Phantom
from brainvis.phantom import phantom_identity
print(phantom_identity(Phantom(), 0)["code"], sorted({"torch", "mne"} & set(sys.modules)))
"""


def test_identity_knows_the_code_and_is_light(tmp_path):
    def identity(**changes: tuple[str, str]) -> list[str]:
        """Of a copy of the package in which one text is replaced by another, by module."""
        shutil.rmtree(tmp_path / "brainvis", ignore_errors=True)
        code_only = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / "brainvis", tmp_path / "brainvis", ignore=code_only)
        for module, (before, after) in changes.items():
            file = tmp_path / "brainvis" / "phantom" / f"{module}.py"
            assert before in file.read_text()
            file.write_text(file.read_text().replace(before, after))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.check_output([sys.executable, "-c", WHO_MADE_IT], env=environment, cwd=tmp_path).split()

    as_is = identity()
    assert as_is[1:] == [b"[]"]
    assert identity(sources=("BLINK = 6.0", "BLINK = 6.0  # very large")) == as_is
    assert identity(judge=("num_features: int = 128", "num_features: int = 64")) == as_is
    assert identity(sources=("BLINK = 6.0", "BLINK = 5.0")) != as_is
    assert identity(sources=("POSITION_LATENCY = 0.100", "POSITION_LATENCY = 0.110")) != as_is
    assert identity(sources=('"position": 3.2', '"position": 3.1')) != as_is


@pytest.mark.parametrize(
    "change",
    [{"subjects": 0}, {"images_per_class": 2}, {"classes": 41}, {"design": "random"}, {"drift": -1}, {"signal": -0.1}],
)
def test_impossible_sizes(change, tmp_path):
    with pytest.raises(DatasetError, match=next(iter(change))):
        load_dataset("phantom", tmp_path, Configuration(phantom=unchecked(SMALL, **change)))
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def run_in_process(folder: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from brainvis.configuration import Phantom; "
        "from brainvis.data.phantom import ensure_phantom; "
        "print(ensure_phantom(Path(sys.argv[1]), Phantom(subjects=2, images_per_class=3, classes=2), 0))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, stderr=subprocess.DEVNULL)


def test_killed_generation_leaves_nothing_half_written_and_two_processes_share_one(tmp_path):
    process = run_in_process(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(tmp_path.glob(".*.tmp")) and not list(tmp_path.glob("[!.]*"))  # killed in the middle

    other = run_in_process(tmp_path)
    made_here = ensure_phantom(tmp_path, Phantom(subjects=2, images_per_class=3, classes=2), 0)
    assert other.wait() == 0
    assert list(tmp_path.glob("[!.]*")) == [made_here]
    assert not list(tmp_path.glob(".*.tmp"))
    assert json.loads((made_here / "phantom.json").read_text())["phantom"]["classes"] == 2


def test_command_line(tmp_path, capsys):
    sizes = ["--subjects", "1", "--images-per-class", "3", "--classes", "2", "--design", "block"]
    main([str(tmp_path / "mine"), *sizes])
    assert "load_dataset" in capsys.readouterr().out
    data = load_dataset("eegcvpr40", folder=tmp_path / "mine", lengths=(450, 700))
    assert len(data) == 6
    order = data.labels[data.order.argsort()].tolist()
    assert order in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])  # block design
    with pytest.raises(SystemExit):
        main([str(tmp_path / "mine"), *sizes])
    assert "is there already" in capsys.readouterr().err
