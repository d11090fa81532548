"""A person's own recordings: files written here through MNE or by hand, bad input, splits, and the real SSVEP data."""

import json
import subprocess
import sys

import mne
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from brainvis.configuration import Configuration
from brainvis.data import DATASETS, DatasetError, load_dataset
from brainvis.data.recordings import split_by_session
from brainvis.data.recordings_files import find_recordings
from brainvis.data.recordings_settings import RecordingsSettings, read_settings
from brainvis.evaluation.baselines import band_power, linear_baseline, signal_to_noise
from brainvis.files import ROOT

RATE = 100.0
CHANNELS = ["Oz", "O1", "O2", "Pz"]
SETTINGS = {
    "window": [0.5, 2.5],
    "filter": [4, 40],
    "classes": {1: "rest", 2: "12 Hz"},
    "standardise": "none",
}
SSVEP = ROOT.parent / "shared" / "data" / "ssvep_exo"


def signal(trials=8, seed=0, rate=RATE, channels=4):
    """(channel, time) volts and events (sample, class 1 or 2), 3 s apart; class 2 is a 12 Hz sine of 10 microvolts."""
    rng = np.random.default_rng(seed)
    onsets = (np.arange(trials) * 3 + 1) * rate
    data = rng.normal(0, 1e-6, (channels, int((trials * 3 + 2) * rate)))
    classes = np.arange(trials) % 2 + 1
    for onset, label in zip(onsets.astype(int), classes, strict=True):
        if label == 2:
            time = np.arange(int(2.8 * rate)) / rate
            data[:, onset : onset + len(time)] += 10e-6 * np.sin(2 * np.pi * 12 * time)
    return data, list(zip(onsets.astype(int).tolist(), classes.tolist(), strict=True))


def raw_of(data, rate=RATE, channels=CHANNELS, first_sample=0):
    info = mne.create_info(list(channels), rate, "eeg")
    return mne.io.RawArray(data, info, first_samp=first_sample, verbose="ERROR")


def write_fif(file, events="file", first_sample=0, names=("1", "2"), seed=0, trials=8, rate=RATE, channels=CHANNELS):
    """A FIF recording whose events are in an -eve.fif ("file"), in annotations ("annotations") or nowhere (None)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data, found = signal(trials, seed, rate, len(channels))
    raw = raw_of(data, rate, channels, first_sample)
    if events == "annotations":
        raw.set_annotations(mne.Annotations([s / rate for s, _ in found], 0.1, [names[c - 1] for _, c in found]))
    raw.save(file, verbose="ERROR")
    if events == "file":
        table = np.array([[sample + first_sample, 0, label] for sample, label in found])
        mne.write_events(file.with_name(file.name.replace("_raw.fif", "-eve.fif")), table, verbose="ERROR")
    return data


def write_brainvision(file, seed=0):
    """The three files of BrainVision, straight from its format: header, markers, float32 microvolts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data, found = signal(seed=seed)
    (data.T * 1e6).astype("<f4").tofile(file.with_suffix(".eeg"))
    channels = "\n".join(f"Ch{i + 1}={name},,1,µV" for i, name in enumerate(CHANNELS))
    file.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={file.stem}.eeg\nMarkerFile={file.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(CHANNELS)}\nSamplingInterval={1e6 / RATE:g}\n[Binary Infos]\n"
        f"BinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    markers = "\n".join(f"Mk{i + 1}=Stimulus,S  {c},{s + 1},1,0" for i, (s, c) in enumerate(found))
    file.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={file.stem}.eeg\n[Marker Infos]\n{markers}\n",
        encoding="utf-8",
    )
    return data


def settings(folder, **changes):
    content = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not ...}
    (folder / "recordings.yml").write_text(yaml.safe_dump(content))
    return folder


def load(folder, **options):
    return load_dataset("recordings", folder=folder, **options)


def fingerprint(folder):
    return DATASETS["recordings"].fingerprint(folder, Configuration())


def has_images(folder):
    return DATASETS["recordings"].has_images(folder, Configuration())


@pytest.fixture
def folder(tmp_path):
    """Two subjects with two sessions each; in one file the recording does not start at sample 0."""
    for subject in (1, 2):
        for session in (1, 2):
            name = tmp_path / f"subject0{subject}" / f"session{session}_raw.fif"
            write_fif(name, first_sample=500 * (session - 1), seed=10 * subject + session)
    return settings(tmp_path)


def expected_trial(data, sample, window=(0.5, 2.5), band=(4, 40)):
    """The window of one event, filtered as a whole and cut by hand, in microvolts."""
    filtered = mne.filter.filter_data(data.astype(np.float64), RATE, *band, verbose="ERROR")
    return filtered[:, sample + int(window[0] * RATE) : sample + int(window[1] * RATE)] * 1e6


def test_trials_are_the_filtered_windows(folder):
    data = load(folder)
    assert data.trials.shape == (32, 4, 200) and data.sampling_rate == RATE and data.start == 0.5
    assert data.class_names == ("rest", "12 Hz") and data.channels == tuple(CHANNELS)
    assert not data.has_images and (data.images == -1).all() and data.montage is not None
    for session, trial in ((1, 3), (2, 11)):  # the second session's samples are counted from 500
        signals, events = signal(seed=10 + session)
        sample, label = events[3]
        torch.testing.assert_close(
            data.trials[trial].numpy(), expected_trial(signals, sample).astype(np.float32), atol=1e-3, rtol=1e-3
        )
        assert data.labels[trial] == label - 1
    assert data.subjects.tolist() == [1] * 16 + [2] * 16 and data.order.tolist() == [*range(16)] * 2
    assert data.lengths[0] == 300 and data.lengths[7] == 400  # to the next event; to the end of the recording


def test_annotations_event_files_and_brainvision_give_the_same(tmp_path):
    texts = {"left": "rest", "right": "12 Hz"}
    write_fif(tmp_path / "a" / "S1" / "x_raw.fif")
    write_fif(tmp_path / "b" / "1" / "x_raw.fif", events="annotations", names=("left", "right"))
    write_brainvision(tmp_path / "c" / "sub-01" / "ses-1" / "eeg" / "sub-01_ses-1_task-x_eeg.vhdr")
    one, two, three = (
        load(settings(tmp_path / name, classes=classes))
        for name, classes in (("a", SETTINGS["classes"]), ("b", texts), ("c", SETTINGS["classes"]))
    )
    for other in (two, three):
        torch.testing.assert_close(other.trials, one.trials, atol=1e-3, rtol=1e-4)
        assert torch.equal(other.labels, one.labels) and other.class_names == one.class_names
    assert find_recordings(tmp_path / "c")[0].session == "1"


def test_events_may_be_named_by_number_and_by_text_in_one_table(folder):
    expected = load(folder).labels
    assert torch.equal(load(settings(folder, classes={1: "rest", "2": "12 Hz"})).labels, expected)


def test_sessions_are_never_divided_between_training_and_test(folder):
    data = load(folder)
    second = (torch.arange(32) % 16) >= 8
    assert data.splits["test"].tolist() == torch.nonzero(second).flatten().tolist()
    # Of each class of the first session (4 trials each), the last is validation.
    assert data.splits["val"].tolist() == [6, 7, 22, 23]
    assert sorted(torch.cat(list(data.splits.values())).tolist()) == list(range(32))
    assert any("last session is the test part" in note for note in data.notes)


def test_splits_of_one_and_of_three_sessions():
    labels, notes = np.tile([0, 1], 10), []
    splits = split_by_session(labels, np.ones(20, int), np.zeros(20, int), notes)
    assert splits["train"].tolist() == list(range(12)) and splits["test"].tolist() == [16, 17, 18, 19]
    assert "only one session" in notes[0]
    splits = split_by_session(labels, np.ones(20, int), np.repeat([0, 1, 2, 3], 5))
    assert splits["train"].tolist() == list(range(10))
    assert splits["val"].tolist() == list(range(10, 15)) and splits["test"].tolist() == list(range(15, 20))
    with pytest.raises(DatasetError, match="only 2 trials of class"):
        split_by_session(np.array([0, 0, 0, 1, 1]), np.ones(5, int), np.zeros(5, int))


def test_a_copied_recording_is_left_out(folder):
    """The public SSVEP files have one: a training trial of one subject must not be a test trial of another."""
    source = folder / "subject01" / "session2_raw.fif"
    copy = mne.io.read_raw_fif(source, preload=True, verbose="ERROR")
    (folder / "subject03").mkdir()
    copy.save(folder / "subject03" / "session1_raw.fif", verbose="ERROR")  # same samples, other bytes in the header
    events = mne.read_events(folder / "subject01" / "session2-eve.fif")
    mne.write_events(folder / "subject03" / "session1-eve.fif", events, verbose="ERROR")
    write_fif(folder / "subject03" / "session2_raw.fif", seed=99)
    data = load(folder)
    assert len(data) == 40 and any("same samples" in note and "subject03" in note for note in data.notes)


def test_standardise_resample_notch_and_overlap(folder):
    data = load(settings(folder, standardise="channel", resample=50, filter=[4, 20], notch=15, window=[0.0, 3.5]))
    assert data.trials.shape == (32, 4, 175) and data.sampling_rate == 50
    assert 0.7 < data.trials.std() < 1.3
    assert any("standardised" in note for note in data.notes) and any("next trial" in note for note in data.notes)
    power = torch.fft.rfft(data.trials).abs().mean((0, 1))
    assert power[52] < 0.25 * power[45]  # 15 Hz was notched, 13 Hz was not


def test_trials_marked_bad_are_left_out(tmp_path):
    file = tmp_path / "1" / "a_raw.fif"
    write_fif(file, events="annotations")
    raw = mne.io.read_raw_fif(file, preload=True, verbose="ERROR")
    raw.annotations.append(8.0, 0.5, "BAD_movement")  # inside the window of trial 2, whose event is at 7 s
    raw.save(file, overwrite=True, verbose="ERROR")
    data = load(settings(tmp_path))
    assert len(data) == 7 and data.labels.tolist() == [0, 1, 1, 0, 1, 0, 1]
    assert any("1 trials are left out" in note for note in data.notes)


def test_channels_common_to_all_recordings(folder):
    write_fif(folder / "subject02" / "session3_raw.fif", seed=5, channels=["O2", "Oz", "Cz"])
    data = load(folder)
    assert data.channels == ("Oz", "O2") and any("O1" in note and "left out" in note for note in data.notes)
    signals, events = signal(seed=5, channels=3)
    torch.testing.assert_close(
        data.trials[-8].numpy(), expected_trial(signals, events[0][0])[[1, 0]].astype(np.float32), atol=1e-3, rtol=1e-3
    )
    with pytest.raises(DatasetError, match="O1 not found in .*session3"):
        load(settings(folder, channels=["O1", "Oz"]))


def test_images_and_captions(folder):
    pictures = folder / "stimuli"
    for name in ("star", "circle"):
        (pictures / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(pictures / name / f"{name}_01.png")
    (folder / "captions.json").write_text(json.dumps({"star_01": "a star", "circle_01": "a circle"}))
    images = {"folder": "stimuli", "events": {1: "star_01", 2: "circle_01"}, "captions": "captions.json"}
    data = load(settings(folder, images=images))
    assert data.has_images and data.captions["star_01"] == "a star" and data.image(int(data.images[0])).size == (8, 8)
    assert torch.equal(data.images, data.labels) and any("also shown in training" in note for note in data.notes)
    assert has_images(folder)
    for changes, message in (
        ({"events": {1: "star_01"}}, "same events; only one of them has 2"),
        ({"folder": "nowhere"}, "recordings.yml: the key images.folder is 'nowhere'; it must be an existing folder"),
        ({"captions": "none.json"}, "images.captions is 'none.json'; it must be an existing JSON file"),
        ({"file": "x"}, "unknown key images.file; the keys are folder, events, captions"),
        ({"folder": ...}, "the key images.folder is missing"),
    ):
        changed = {key: value for key, value in {**images, **changes}.items() if value is not ...}
        with pytest.raises(DatasetError, match=message):
            load(settings(folder, images=changed))
        assert not has_images(folder)
    with pytest.raises(DatasetError, match="the key images is 'stimuli'; it must be a table with folder and events"):
        load(settings(folder, images="stimuli"))


def test_settings_elsewhere_and_linked_subjects(folder, tmp_path_factory):
    """The data may be read only: subject folders as links, or the settings at another place."""
    other = tmp_path_factory.mktemp("linked")
    for subject in ("subject01", "subject02"):
        (other / subject).symlink_to(folder / subject)
    linked = load(settings(other))
    (folder / "recordings.yml").rename(folder / "kept.yml")
    elsewhere = load(folder, settings=folder / "kept.yml")
    assert torch.equal(linked.trials, elsewhere.trials) and linked.fingerprint == elsewhere.fingerprint


def test_fingerprint_follows_settings_and_bytes_and_is_cheap(folder):
    first = fingerprint(folder)
    assert first == fingerprint(folder) == load(folder).fingerprint
    settings(folder, window=[0.5, 2.0])
    second = fingerprint(folder)
    write_fif(folder / "subject02" / "session3_raw.fif", seed=3)
    third = fingerprint(folder)
    assert len({first, second, third}) == 3
    program = (
        "import sys; from pathlib import Path; from brainvis.configuration import Configuration; "
        f"from brainvis.data import DATASETS; source, folder = DATASETS['recordings'], Path({str(folder)!r}); "
        "source.fingerprint(folder, Configuration()), source.subjects(folder, Configuration()); "
        "sys.exit('torch' in sys.modules or 'mne' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": [1, 2]}, "unknown key windows"),
        ({"window": ...}, "key window is missing"),
        ({"window": [2.0, 2.0]}, r"window is \[2.0, 2.0\]; it must be .* the first less than the second"),
        ({"window": "2-5"}, "two numbers"),
        ({"window": [0.5, 20.0]}, r"session1_raw.fif: trial 2 \(event 1 at 7.000 s\).*beyond the recording"),
        ({"window": [-2.0, 1.0]}, r"trial 0 .*beyond the recording"),
        ({"filter": [5, 50]}, "50 Hz is not below the Nyquist frequency of .*, 50 Hz"),
        ({"filter": [5, 30], "resample": 50}, "Nyquist frequency of .*, 25 Hz.*resample to a higher rate"),
        ({"filter": [-1, 30]}, r"filter is \[-1, 30\]; it must be two frequencies .* not negative"),
        ({"notch": "mains"}, "positive number"),
        ({"classes": {1: "rest", 9: "tap"}}, r"no recording has the event 9; the recordings have 1 \(16 times\)"),
        ({"classes": {1: "rest"}}, "two different class names"),
        ({"classes": {True: "rest", 2: "tap"}}, "must be quoted"),
        ({"channels": []}, "list of names"),
        ({"standardise": "trial"}, "'channel' or 'none'"),
    ],
)
def test_settings_that_cannot_be_meant(folder, changes, message):
    with pytest.raises(DatasetError, match=message):
        load(settings(folder, **changes))


def test_settings_missing_or_not_plain(tmp_path):
    write_fif(tmp_path / "1" / "a_raw.fif")
    with pytest.raises(DatasetError, match="recordings_example.yml"):
        load(tmp_path)
    (tmp_path / "recordings.yml").write_text("window: !!python/object/apply:os.mkdir [executed]")
    with pytest.raises(DatasetError, match="cannot be read as plain YAML"):
        load(tmp_path)
    (tmp_path / "recordings.yml").write_text("")
    with pytest.raises(DatasetError, match="the key window is missing"):
        load(tmp_path)


def test_folders_and_files_that_cannot_be_used(folder):
    with pytest.raises(DatasetError, match="does not exist"):
        load(folder / "nowhere", settings=folder / "recordings.yml")
    (folder / "empty").mkdir()
    with pytest.raises(DatasetError, match="No recordings in"):
        load(folder / "empty", settings=folder / "recordings.yml")
    (folder / "empty").rmdir()
    (folder / "subject02").rename(folder / "S1")
    with pytest.raises(DatasetError, match="both subject 1"):
        load(folder)
    (folder / "S1").rename(folder / "anna")
    with pytest.raises(DatasetError, match="anna holds recordings"):
        load(folder)
    (folder / "anna").rename(folder / "subject02")
    broken = folder / "subject02" / "session1_raw.fif"
    broken.write_bytes(b"not EEG")
    with pytest.raises(DatasetError, match="cannot read .*session1_raw.fif"):
        load(folder)
    write_fif(folder / "subject02" / "session3_raw.fif", events=None)
    broken.unlink()
    with pytest.raises(DatasetError, match="session3_raw.fif has no events"):
        load(folder)


def test_recordings_that_differ_in_sampling_rate(folder):
    write_fif(folder / "subject02" / "session3_raw.fif", seed=7, rate=200.0)
    with pytest.raises(DatasetError, match="differ in sampling rate.*resample: 100"):
        load(folder)
    assert load(settings(folder, resample=100)).trials.shape == (40, 4, 200)


def test_linear_baselines_find_what_is_there_and_nothing_in_noise(tmp_path):
    for session in (1, 2):
        write_fif(tmp_path / "1" / f"{session}_raw.fif", seed=session, trials=40)
    data = load(settings(tmp_path))
    partition = data.partition("clean")
    for frequencies in (None, [12.0]):
        found = linear_baseline(data, partition, frequencies, highest=20)
        assert found["accuracy"] > 0.9 and found["p_value"] < 1e-4 and found["chance"] == 0.5
        assert found["logits"].shape == (40, 2)
        torch.testing.assert_close(found["probabilities"].sum(1), torch.ones(40))
        right = found["predictions"] == data.labels[partition.test]
        assert found["accuracy"] == pytest.approx(right.float().mean().item())
    data.trials.copy_(torch.randn(data.trials.shape, generator=torch.Generator().manual_seed(0)))
    assert linear_baseline(data, partition)["p_value"] > 0.001


def test_spectral_features_of_a_sine():
    time, generator = torch.arange(300) / 100, torch.Generator().manual_seed(0)
    sine = 3.0 * torch.sin(2 * torch.pi * 10 * time) + 0.01 * torch.randn(2, 3, 300, generator=generator)
    bands = band_power(sine, 100.0, highest=20).unflatten(1, (3, 20))
    assert (bands.argmax(-1) == 9).all()  # the tenth band is 10 Hz
    ratios = signal_to_noise(sine, 100.0, [10.0, 15.0]).unflatten(1, (3, 4))  # 10, 20, 15, 30 Hz
    assert (ratios[..., 0] > 10).all() and (ratios[..., 1:] < 3).all()  # a noise bin alone may well be near nought
    with pytest.raises(ValueError, match="Nyquist"):
        signal_to_noise(sine, 100.0, [60.0])
    assert signal_to_noise(sine, 100.0, [30.0]).shape == (2, 3)  # 60 Hz cannot be there


@pytest.mark.skipif(not SSVEP.is_dir(), reason="the real recordings are not here")
def test_real_ssvep_recordings(tmp_path):
    """As the README recommends: link the subject folders, copy the settings, go."""
    for subject in sorted(SSVEP.glob("subject*")):
        (tmp_path / subject.name).symlink_to(subject)
    (tmp_path / "recordings.yml").write_text((ROOT / "brainvis" / "data" / "ssvep_exo.yml").read_text())
    data = load(tmp_path)
    assert len(data.subjects.unique()) == 7 and len(data.channels) == 8 and len(data.class_names) == 4
    assert len(data.splits["test"]) == 7 * 32 and data.trials.shape[-1] == 5 * data.sampling_rate
    assert any("subject07/20120711-153308_raw.fif holds the same samples" in note for note in data.notes)
    assert any("same order" in note for note in data.notes)
    found = linear_baseline(data, data.partition("clean"), frequencies=[13, 17, 21])
    assert found["accuracy"] > 0.5 and found["p_value"] < 1e-9


def test_the_examples_are_valid(tmp_path):
    for name in ("recordings_example.yml", "ssvep_exo.yml"):
        values = read_settings(tmp_path, ROOT / "brainvis" / "data" / name)
        assert values.window[0] < values.window[1] and len(set(values.classes.values())) >= 2
    example = (ROOT / "brainvis" / "data" / "recordings_example.yml").read_text()
    for name in RecordingsSettings.model_fields:  # every setting is explained
        assert f"{name}:" in example
