"""EEGCVPR40: conversion into an array file, choices, and the two readings of its splits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import brainvis.data
from brainvis.configuration import Configuration
from brainvis.data import DATASETS, DatasetError, eegcvpr40, load_dataset, stored
from brainvis.data.classes import CLASS_NAMES, IMAGENET_INDICES, RELEASED_NAMES
from brainvis.data.eegcvpr40_files import EEG_FILES, EEGCVPR40Settings
from brainvis.files import WriteError

ROOT = Path(__file__).resolve().parent.parent
WNIDS = ["n04069434", "n03272010", "n02124075"]
CHANNELS, IMAGES = 4, 12
SPLIT = {"train": [0, 1, 4, 5, 8, 9], "val": [2, 6, 10], "test": [3, 7, 11]}


def eeg(subject: int, image: int, length: int) -> torch.Tensor:
    """Signals (channel, time) of which every value tells subject, image, channel and sample."""
    return 100.0 * subject + image + torch.arange(CHANNELS)[:, None] / 10 + torch.arange(length) / 10000


def records(subjects: int = 2) -> list[dict]:
    """One trial of each subject and image, subject by subject."""
    return [
        {"eeg": eeg(subject, image, 491 + image), "image": image, "label": image // 4, "subject": subject}
        for subject in range(1, subjects + 1)
        for image in range(IMAGES)
    ]


def write(folder: Path, trials: list[dict] | None = None, band: str = "5_95", **extra) -> Path:
    images = [f"{WNIDS[image // 4]}_{image}" for image in range(IMAGES)]
    trials = records() if trials is None else trials
    torch.save({"dataset": trials, "labels": WNIDS, "images": images, **extra}, folder / EEG_FILES[band])
    everyone = {part: [s * IMAGES + i for s in range(2) for i in images] for part, images in SPLIT.items()}
    torch.save({"splits": [everyone] * 6}, folder / "block_splits_by_image_all.pth")
    torch.save({"splits": [SPLIT]}, folder / "block_splits_by_image_single.pth")
    return folder


def load(folder: Path, **options):
    return load_dataset("eegcvpr40", folder=folder, **options)


def fingerprint(folder: Path, **options) -> str:
    return DATASETS["eegcvpr40"].fingerprint(folder, Configuration(), **options)


def arrays(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.safetensors"))


# Conversion


def test_array_file_holds_the_kept_trials_and_the_second_opening_does_not_read_the_source(tmp_path, monkeypatch):
    first = load(write(tmp_path), lengths=(493, 600))
    assert arrays(tmp_path) == ["eeg_5_95_std.lengths493-600.safetensors"]
    for trial in range(len(first)):
        expected = eeg(int(first.subjects[trial]), int(first.images[trial]), 460)[:, 20:]
        assert torch.equal(first.trials[trial], expected)
    about = eegcvpr40.open_trials(tmp_path, EEGCVPR40Settings(lengths=(493, 600))).about
    usable = [trial for trial, known in enumerate(about["table"]["usable"]) if known]
    assert usable == [*range(2, 12), *range(14, 24)] and len(about["table"]["lengths"]) == 24
    assert set(about["table"]["order"]) == {-1}

    monkeypatch.setattr(eegcvpr40, "_convert", None)
    again = load(tmp_path, lengths=(493, 600))
    assert torch.equal(again.trials, first.trials) and again.fingerprint == first.fingerprint
    assert {name: part.tolist() for name, part in again.splits.items()} == {
        name: part.tolist() for name, part in first.splits.items()
    }


def test_each_choice_has_its_own_array_file(tmp_path):
    write(tmp_path)
    short = load(tmp_path, window=(100, 200))
    assert torch.equal(short.trials, load(tmp_path).trials[:, :, 80:180])
    assert len(arrays(tmp_path)) == 2
    load(tmp_path, split_index=3)  # shapes no array
    assert len(arrays(tmp_path)) == 2


def test_changed_source_is_converted_anew(tmp_path):
    write(tmp_path)
    load(tmp_path)
    trials = records()
    trials[5]["eeg"] = trials[5]["eeg"] + 1
    write(tmp_path, trials)
    assert torch.equal(load(tmp_path).trials[5], eeg(1, 5, 460)[:, 20:] + 1) and len(arrays(tmp_path)) == 1


def test_damaged_array_file_is_made_anew(tmp_path):
    expected = load(write(tmp_path)).trials.clone()
    file = tmp_path / arrays(tmp_path)[0]
    whole = file.read_bytes()
    for damaged in (b"", whole[:50], whole[: len(whole) // 2], b"x" * 1000):
        file.unlink()
        file.write_bytes(damaged)
        assert torch.equal(load(tmp_path).trials, expected)
    assert file.read_bytes() == whole


def test_writing_to_the_trials_never_reaches_the_file(tmp_path):
    data = load(write(tmp_path))
    before = (tmp_path / arrays(tmp_path)[0]).read_bytes()
    data.trials.zero_()
    assert (tmp_path / arrays(tmp_path)[0]).read_bytes() == before
    assert load(tmp_path).trials.abs().sum() > 0


def test_pages_are_mapped_and_not_copied(tmp_path):
    data = load(write(tmp_path))
    at = data.trials.data_ptr()
    assert at % os.sysconf("SC_PAGE_SIZE") == 0
    maps = Path("/proc/self/maps")
    if maps.is_file():
        (line,) = [
            line for line in maps.read_text().splitlines()
            if int(line.split("-")[0], 16) <= at < int(line.split("-")[1].split()[0], 16)
        ]  # fmt: skip
        assert line.endswith(arrays(tmp_path)[0]) and "p" in line.split()[1]  # private: what is written stays here


def test_faults_are_found_while_converting_and_leave_no_array_file(tmp_path):
    trials = records()
    trials[17]["eeg"][2, 100] = float("nan")
    write(tmp_path, trials)
    with pytest.raises(DatasetError, match="trial 17 has 1 values that are not finite"):
        load(tmp_path)
    assert not arrays(tmp_path) and not list(tmp_path.glob(".*.part"))


def test_choices_that_cannot_be_are_refused_before_the_conversion(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(eegcvpr40, "_convert", lambda *arguments: pytest.fail("converted"))
    for options, words in (
        ({"split_index": 6}, "no split 6: choose split_index from 0 to 5"),
        ({"split": "single", "split_index": 1}, "no split 1"),
        ({"window": (20, 20)}, r"window is \(20, 20\); it must be two whole numbers"),
        ({"lengths": (600, 450)}, r"lengths is \(600, 450\); it must be .* not greater than the second"),
        ({"names": "mine"}, "names is 'mine'; it must be 'corrected' or 'released'"),
        ({"windows": (20, 460)}, "eegcvpr40: unknown key windows; the keys are band, window"),
    ):
        with pytest.raises(DatasetError, match=words):
            load(tmp_path, **options)


def test_full_disk_and_unwritable_folder_are_one_clear_error(tmp_path, monkeypatch):
    write(tmp_path)
    usage = stored.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda folder: usage._replace(free=10**4))
    with pytest.raises(DatasetError, match="Not enough disk space.*0.0 MB is free.*BRAINVIS_DATA"):
        load(tmp_path)
    monkeypatch.undo()

    def refuse(folder):
        raise WriteError(f"{folder} cannot be written to: Permission denied.")

    monkeypatch.setattr("brainvis.files.writing.check_writable", refuse)
    with pytest.raises(DatasetError, match="cannot be written.*Make .* writable"):
        load(tmp_path)


def convert_in_process(folder: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from brainvis.data import load_dataset; "
        "print('ready', flush=True); "
        "print(load_dataset('eegcvpr40', folder=Path(sys.argv[1])).trials.double().sum().item())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_killed_conversion_is_cleared_away_and_two_processes_share_one(tmp_path, capsys):
    write(tmp_path, records() * 100)
    process = convert_in_process(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.part")) and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob(".*.part")) and not arrays(tmp_path)  # killed in the middle

    other = convert_in_process(tmp_path)
    assert other.stdout.readline() == b"ready\n"
    here = load(tmp_path).trials.double().sum().item()
    there, errors = other.communicate()
    assert other.returncode == 0 and float(there) == here, errors
    assert (b"(once)" in errors) + ("(once)" in capsys.readouterr().err) == 1  # one of them has converted
    assert len(arrays(tmp_path)) == 1 and not list(tmp_path.glob(".*.part"))


# Bands


@pytest.mark.parametrize("band", ["14_70", "55_95"])
def test_filtered_bands(tmp_path, band):
    data = load(write(tmp_path, band=band), band=band)
    assert torch.equal(data.trials[3], eeg(1, 3, 460)[:, 20:])
    with pytest.raises(DatasetError, match="eeg_5_95_std.pth is missing"):
        load(tmp_path)


def test_raw_band_is_standardised_by_its_own_statistics(tmp_path):
    means, deviations = torch.tensor([1.0, 200.0, -3.0, 0.0]), torch.tensor([2.0, 0.5, 1.0, 7.0])
    write(tmp_path, band="raw", means=means, stddevs=deviations)
    data = load(tmp_path, band="raw")
    expected = (eeg(2, 7, 460)[:, 20:] - means[:, None]) / deviations[:, None]
    torch.testing.assert_close(data.trials[19], expected, rtol=0, atol=0)
    for fault in ({"means": means[:3]}, {"stddevs": deviations * 0}, {"means": means / 0}):
        write(tmp_path, band="raw", **{"means": means, "stddevs": deviations, **fault})
        with pytest.raises(DatasetError, match=f"{next(iter(fault))} are not 4 finite numbers"):
            load(tmp_path, band="raw")
    write(tmp_path, band="raw", means=means)
    with pytest.raises(DatasetError, match="no Tensor 'stddevs'"):
        load(tmp_path, band="raw")


# eegcvpr40.yml


def test_settings_file_chooses_and_arguments_win(tmp_path):
    write(tmp_path, band="14_70")
    settings = tmp_path / "eegcvpr40.yml"
    settings.write_text("band: 14_70\nwindow: [0, 100]\nsplit: single\nnames: released\n")  # YAML reads 1470
    data = load(tmp_path)
    assert data.trials.shape == (24, CHANNELS, 100) and data.class_names[0] == "eflex camera"
    assert data.subjects[data.splits["train"]].unique().tolist() == [1]
    assert data.fingerprint == fingerprint(tmp_path)
    assert load(tmp_path, window=(0, 50)).trials.shape[-1] == 50
    explicit = dict(band="14_70", window=(0, 100), split="single", names="released")
    settings.unlink()
    assert fingerprint(tmp_path, **explicit) == data.fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "windows: [0, 1]",
            "unknown key windows; the keys are band, window, lengths, split, split_index, names, sampling_rate",
        ),
        ("band: 5_96", "band is 596; it must be '5_95', '14_70'"),
        ("split: some", "split is 'some'; it must be 'all', 'single', 'all_released' or 'single_released'"),
        ("window: 20", "window is 20; it must be two whole numbers"),
        ("lengths: [450, 600.5]", r"lengths is \[450, 600.5\]; it must be two whole numbers"),
        ("split_index: first", "split_index is 'first'; it must be a whole number"),
        ("- band", "holds no settings"),
        ("band: [", "cannot be read as plain YAML"),
    ],
)
def test_wrong_settings_are_named(tmp_path, text, words):
    write(tmp_path)
    (tmp_path / "eegcvpr40.yml").write_text(text)
    for read in (load, fingerprint):
        with pytest.raises(DatasetError, match=words) as caught:
            read(tmp_path)
        assert "eegcvpr40.yml" in str(caught.value)


def test_example_says_what_is_taken_without_it():
    text = (Path(brainvis.data.__file__).parent / "eegcvpr40_example.yml").read_text()
    assert EEGCVPR40Settings(**yaml.safe_load(text)) == EEGCVPR40Settings()
    for line in EEGCVPR40Settings.model_fields:  # each is explained, commented out where there is no such value
        assert f"\n{line}: " in text or f"\n# {line}: " in text


# Splits


def test_single_split_in_both_readings(tmp_path):
    # The second subject saw the pictures in another order, so that its own list puts other pictures on each side.
    trials = records()
    trials[12:] = trials[18:] + trials[12:18]
    write(tmp_path, trials)
    published = load(tmp_path, split="single")
    assert published.splits["test"].tolist() == SPLIT["test"]  # places in the list of all trials, whoever saw them
    split, unused, _ = published.notes  # the last one: there are no pictures
    assert "as published" in split and "train 6 trials; val 3 trials; test 3 trials" in split
    assert "12 of 24 usable trials are in no part" in unused and "subject 1: 0 of 12, subject 2: 12 of 12" in unused

    released = load(tmp_path, split="single_released")
    test = released.splits["test"]
    assert (
        released.images[test].tolist() == [3, 7, 11, 9, 1, 5] and released.subjects[test].tolist() == [1] * 3 + [2] * 3
    )
    assert "each subject's own list" in released.notes[0] and "test 6 trials" in released.notes[0]
    assert "pictures of the test part" in released.notes[1] and "too good" in released.notes[1]
    assert published.fingerprint != released.fingerprint


def test_released_reading_counts_before_the_length_filter(tmp_path):
    trials = records()
    trials[0]["eeg"] = eeg(1, 0, 700)  # is dropped, and keeps its place
    write(tmp_path, trials)
    data = load(tmp_path, split="single_released")
    assert data.images[data.splits["train"]].tolist() == [1, 4, 5, 8, 9, 0, 1, 4, 5, 8, 9]
    assert "1 of 24 trials are dropped" in data.notes[0]
    assert "train 11 trials (1 more have an unusable length)" in data.notes[1]


def test_places_beyond_a_subjects_own_list_are_dropped_and_counted(tmp_path):
    write(tmp_path)
    data = load(tmp_path, split="all_released")  # places 12 to 23 are no trials of a subject who has 12
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 12, "val": 6, "test": 6}
    assert "24 numbers in the split lie beyond the end" in data.notes[1]


# Names


def test_two_tables_of_forty_names():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES.values())) == len(RELEASED_NAMES) == 40
    assert list(CLASS_NAMES) == list(RELEASED_NAMES) == list(IMAGENET_INDICES)
    assert all(name == name.strip() and "," not in name for name in CLASS_NAMES.values())
    released = {
        "n04069434": "eflex camera", "n02124075": "cat ", "n03775071": "mitten,glove",
        "n02106662": "german shepherd dog", "n02951358": "canoe or kayak",
    }  # fmt: skip
    assert released.items() <= RELEASED_NAMES.items()


def test_released_names_are_a_choice(tmp_path):
    write(tmp_path)
    assert load(tmp_path).class_names == ("reflex camera", "electric guitar", "Egyptian cat")
    assert load(tmp_path, names="released").class_names == ("eflex camera", "electric guitar", "cat ")
    assert fingerprint(tmp_path) != fingerprint(tmp_path, names="released")
    (tmp_path / "class_names.json").write_text(json.dumps({WNIDS[0]: "camera"}))
    assert load(tmp_path, names="released").class_names == ("camera", "electric guitar", "cat ")


def test_fingerprint_needs_no_torch(tmp_path):
    write(tmp_path)
    code = (
        "import sys; from pathlib import Path; from brainvis.configuration import Configuration; "
        "from brainvis.data import DATASETS; folder = Path(sys.argv[1]); "
        "print(DATASETS['eegcvpr40'].fingerprint(folder, Configuration())); assert 'torch' not in sys.modules"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert answer.stdout.strip() == load(tmp_path).fingerprint


# Other data in the same format


def other(folder: Path, length: int = 200, **trial) -> Path:
    """Trials of subjects 7 to 9, each of its own length, which is about `length`."""
    trials = [
        {**record, "subject": subject, "eeg": record["eeg"][:, : length + number % 3], **trial}
        for subject in (7, 8, 9)
        for number, record in enumerate(records(1))
    ]
    return write(folder, trials)


def test_subjects_are_those_of_the_file(tmp_path):
    subjects = DATASETS["eegcvpr40"].subjects
    assert subjects(tmp_path, Configuration()) == (1, 2, 3, 4, 5, 6)  # published, until the file is there
    assert subjects(other(tmp_path), Configuration()) == (7, 8, 9)
    assert load(tmp_path).of_subject(9).subjects.unique().tolist() == [9]


def test_subjects_are_asked_of_an_unchanged_file_once(tmp_path, monkeypatch):
    monkeypatch.setattr("brainvis.files.checksums.SETTLED", -1.0)  # files may be as young as they like
    assert DATASETS["eegcvpr40"].subjects(other(tmp_path), Configuration()) == (7, 8, 9)
    monkeypatch.setattr(eegcvpr40, "subjects_of", lambda source: pytest.fail("asked again"))
    assert DATASETS["eegcvpr40"].subjects(tmp_path, Configuration()) == (7, 8, 9)


def test_sampling_rate_channels_and_montage_are_settings(tmp_path):
    (other(tmp_path) / "eegcvpr40.yml").write_text(
        "sampling_rate: 250\nchannels: [Oz, O1, O2, Pz]\nmontage: colin27_1020\nwindow: [25, 150]\n"
    )
    data = load(tmp_path)
    assert data.sampling_rate == 250 and data.start == 0.1 and data.times[-1].item() == pytest.approx(0.596)
    assert data.channels == ("Oz", "O1", "O2", "Pz") and data.montage == "colin27_1020"
    for fault, words in (
        ({"channels": ["Oz", "O1"]}, "names 2 channels, but the trials have 4"),
        ({"channels": ["Oz", "O1", "O2", "P?"]}, "montage colin27_1020 has no position for P?"),
        ({"montage": "mine"}, "montage is 'mine'. Choose one of fsaverage_1005"),
        ({"sampling_rate": 0}, "sampling_rate is 0; it must be a positive number in hertz"),
    ):
        with pytest.raises(DatasetError, match=words.replace("?", r"\?")):
            load(tmp_path, **fault)


@pytest.mark.parametrize("length", [64, 200, 900])
def test_trials_of_other_lengths_need_no_settings(tmp_path, length):
    write(tmp_path, [record | {"eeg": eeg(1, 0, length + place % 3)} for place, record in enumerate(records())])
    data = load(tmp_path)
    assert data.trials.shape == (24, CHANNELS, length) and data.start == 0
    assert any(f"Samples 0 to {length} of each trial are kept" in note for note in data.notes)


def test_files_without_pictures(tmp_path):
    trials = [{key: value for key, value in record.items() if key != "image"} for record in records()]
    write(tmp_path, trials)
    content = torch.load(tmp_path / EEG_FILES["5_95"], weights_only=True)
    torch.save(content | {"images": []}, tmp_path / EEG_FILES["5_95"])
    data = load(tmp_path)
    assert (data.images == -1).all() and not data.image_ids and not any("images" in note for note in data.notes)
