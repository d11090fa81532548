"""The common data set, and the adapter of EEGCVPR40 on small files with every fault that files have."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import brainvis.data
from brainvis.configuration import Configuration, Phantom
from brainvis.data import DATASETS, DatasetError, Source, load_dataset
from brainvis.data.classes import CLASS_NAMES
from brainvis.data.dataset import EEGDataset
from brainvis.files import BrainvisError

WNIDS = ["n02389026", "n03888257", "n03584829"]
CHANNELS, SUBJECTS, IMAGES = 4, 2, 4  # images a class
EEG_FILE, SPLIT_FILE = "eeg_5_95_std.pth", "block_splits_by_image_all.pth"


@pytest.fixture
def content() -> dict:
    """A small, faultless EEG file: 2 subjects x 12 images, trial value = 100 x subject + image, plus its time."""
    images = [f"{wnid}_{number}" for wnid in WNIDS for number in range(IMAGES)]
    records = []
    for subject in range(1, SUBJECTS + 1):
        for image in range(len(images)):
            length = 491 + image
            eeg = 100 * subject + image + torch.arange(length) / 1000 + torch.zeros(CHANNELS, 1)
            records.append({"eeg": eeg, "image": image, "label": image // IMAGES, "subject": subject})
    return {"dataset": records, "labels": WNIDS, "images": images}


@pytest.fixture
def splits() -> list[dict]:
    """Two splits by image; the second leaves images out."""
    per_split = [
        {"train": [0, 1, 4, 5, 8, 9], "val": [2, 6, 10], "test": [3, 7, 11]},
        {"train": [0, 1, 4], "val": [2], "test": [3]},
    ]
    return [{name: [s * 12 + i for s in range(2) for i in part] for name, part in split.items()} for split in per_split]


def write(folder: Path, content: dict, splits, eeg_file: str = EEG_FILE, images: bool = True) -> Path:
    torch.save(content, folder / eeg_file)
    torch.save({"splits": splits}, folder / SPLIT_FILE)
    for name in content["images"] if images else []:
        place = folder / "image" / name.split("_")[0]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 5)).save(place / f"{name}.JPEG")
    return folder


def fingerprint(folder: Path, **options) -> str:
    return DATASETS["eegcvpr40"].fingerprint(folder, Configuration(), **options)


def fails(folder: Path, *words: str, **options) -> None:
    """Loading must fail with a message that holds all the words."""
    with pytest.raises(DatasetError) as caught:
        load_dataset("eegcvpr40", folder=folder, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_faultless_files(tmp_path, content, splits):
    data = load_dataset("eegcvpr40", folder=write(tmp_path, content, splits))
    assert data.trials.shape == (24, CHANNELS, 440) and data.trials.dtype == torch.float32
    assert data.start == 0.02 and data.sampling_rate == 1000 and data.times[-1].item() == pytest.approx(0.459)
    expected = 100 * data.subjects + data.images + 0.02  # of the first sample
    torch.testing.assert_close(data.trials[:, 0, 0], expected.float())
    assert data.class_names == tuple(CLASS_NAMES[wnid] for wnid in WNIDS)
    assert data.labels.tolist() == [image // IMAGES for image in data.images.tolist()]
    assert data.lengths.tolist() == (491 + data.images).tolist()
    (note,) = data.notes
    assert "'all', number 0" in note and "train 12 trials; val 6 trials; test 6 trials" in note
    assert data.order is None and not data.captions and data.checked
    assert data.image(3).mode == "RGB" and data.image_path(3).name == "n02389026_3.JPEG"
    for name, part in data.splits.items():
        assert part.tolist() == splits[0][name]


def test_options(tmp_path, content, splits):
    write(tmp_path, content, splits)
    data = load_dataset("eegcvpr40", folder=tmp_path, window=(0, 100), lengths=(495, 499))
    assert data.trials.shape == (10, CHANNELS, 100) and data.images.unique().tolist() == [4, 5, 6, 7, 8]
    assert "14 of 24 trials are dropped" in data.notes[0]
    for name, part in data.splits.items():  # re-indexed: the same pictures on the same side
        assert set(data.images[part].tolist()) == {i for i in splits[0][name] if 4 <= i <= 8}
    second = load_dataset("eegcvpr40", folder=tmp_path, split_index=1)
    assert "14 of 24 usable trials are in no part" in second.notes[1]


def test_files_older_than_zip_archives(tmp_path, content, splits):
    write(tmp_path, content, splits)
    new = load_dataset("eegcvpr40", folder=tmp_path)
    torch.save(content, tmp_path / EEG_FILE, _use_new_zipfile_serialization=False)
    assert torch.equal(load_dataset("eegcvpr40", folder=tmp_path).trials, new.trials)


def test_without_images_and_with_names(tmp_path, content, splits):
    write(tmp_path, content, splits, images=False)
    (tmp_path / "class_names.json").write_text(json.dumps({WNIDS[0]: "nag"}))
    (tmp_path / "captions.json").write_text(json.dumps({"n02389026_0": "a nag"}))
    data = load_dataset("eegcvpr40", folder=tmp_path)
    assert not data.has_images and "no pictures" in data.notes[-1]
    assert data.class_names[0] == "nag" and data.captions["n02389026_0"] == "a nag"
    with pytest.raises(DatasetError, match="no pictures. Put the picture folder"):
        data.image_path(0)
    (tmp_path / "captions.json").write_text("{")
    with pytest.raises(BrainvisError, match="captions.json.* not JSON"):
        load_dataset("eegcvpr40", folder=tmp_path)


def test_missing_image_names_its_file_and_trial(tmp_path, content, splits):
    data = load_dataset("eegcvpr40", folder=write(tmp_path, content, splits))
    (tmp_path / "image/n03888257/n03888257_1.JPEG").unlink()
    with pytest.raises(DatasetError, match=r"n03888257_1.*trial 5.*Restore"):
        data.image(5)
    (tmp_path / "image/n03888257/n03888257_2.JPEG").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"n03888257_2.JPEG cannot be read"):
        data.image(6)
    with pytest.raises(DatasetError, match="no picture 12"):
        data.image(12)


def test_truncated_and_foreign_files(tmp_path, content, splits):
    write(tmp_path, content, splits)
    whole = (tmp_path / EEG_FILE).read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], b"no torch file at all", whole[:-20]):
        (tmp_path / EEG_FILE).write_bytes(part)
        fails(tmp_path, EEG_FILE, "cannot be read", "Fetch it again")
    torch.save(content, tmp_path / EEG_FILE, _use_new_zipfile_serialization=False)
    whole = (tmp_path / EEG_FILE).read_bytes()
    (tmp_path / EEG_FILE).write_bytes(whole[: len(whole) // 2])
    fails(tmp_path, EEG_FILE, "cannot be read")
    torch.save(torch.zeros(3), tmp_path / EEG_FILE)
    fails(tmp_path, EEG_FILE, "Tensor, not a dict")
    torch.save({"weights": 1}, tmp_path / EEG_FILE)
    fails(tmp_path, EEG_FILE, "'dataset'", "weights")
    torch.save({**content, "dataset": []}, tmp_path / EEG_FILE)
    fails(tmp_path, EEG_FILE, "no trials")
    (tmp_path / EEG_FILE).unlink()
    fails(tmp_path, EEG_FILE, "is missing")


def test_pickled_code_is_not_run(tmp_path, content, splits):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "attacked",)

    write(tmp_path, {**content, "extra": Attack()}, splits)
    fails(tmp_path, EEG_FILE, "cannot be read")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"label": 3}, ("label 3", "0 to 2")),
        ({"label": -1}, ("label -1",)),
        ({"image": 12}, ("image 12", "0 to 11")),
        ({"subject": 0}, ("subject 0",)),
        ({"subject": "one"}, ("'subject'", "'one'")),
        ({"eeg": None}, ("`eeg`",)),
        ({"eeg": torch.zeros(5, 500)}, ("5 channels", "4")),
        ({"eeg": torch.full((4, 500), float("nan"))}, ("not finite",)),
        ({"eeg": torch.cat([torch.zeros(4, 400), torch.full((4, 100), float("inf"))], 1)}, ("not finite",)),
        ({"eeg": torch.zeros(4, 455)}, ("455 samples", "20:460")),
    ],
)
def test_faulty_trial_is_named(tmp_path, content, splits, fault, words):
    content["dataset"][17].update(fault)
    fails(write(tmp_path, content, splits), EEG_FILE, "trial 17", *words)


def test_faulty_splits(tmp_path, content, splits):
    write(tmp_path, content, splits)
    fails(tmp_path, "no split 2", "0 to 1", split_index=2)
    fails(tmp_path, "no split -1", split_index=-1)
    splits[0]["val"].append(24)
    write(tmp_path, content, splits)
    fails(tmp_path, SPLIT_FILE, "val", "trial 24", "24 trials")
    splits[0]["val"][-1] = splits[0]["test"][0]
    write(tmp_path, content, splits)
    fails(tmp_path, "trial 3 is listed more than once", "test")
    splits[0] = {"train": [0], "test": [1]}
    write(tmp_path, content, splits)
    fails(tmp_path, SPLIT_FILE, "split 0", "val")
    (tmp_path / SPLIT_FILE).unlink()
    fails(tmp_path, SPLIT_FILE, "is missing")


def test_unknown_names(tmp_path):
    with pytest.raises(DatasetError, match="choose one of phantom, eegcvpr40, recordings"):
        load_dataset("eegcvpr41")
    fails(tmp_path, "band is '1_40'", "'5_95', '14_70', '55_95' or 'raw'", band="1_40")
    fails(tmp_path, "split is 'some'", "'all_released' or 'single_released'", split="some")
    fails(tmp_path, EEG_FILE, "is missing")


def test_empty_window_and_filter(tmp_path, content, splits):
    write(tmp_path, content, splits)
    fails(tmp_path, "window is (30, 30)", "less than the second", window=(30, 30))
    fails(tmp_path, "no trial has 700 to 800 samples", lengths=(700, 800))


def make(**changes) -> EEGDataset:
    """Ten faultless trials of subjects 3 and 5, with changes."""
    fields = {
        "name": "test", "trials": torch.arange(10.0)[:, None, None].expand(10, 2, 5).clone(), "sampling_rate": 100.0,
        "start": 0.0, "channels": ("a", "b"), "montage": None, "labels": torch.arange(10) % 2,
        "subjects": torch.tensor([3, 5] * 5), "images": torch.full((10,), -1), "image_ids": (),
        "class_names": ("left", "right"), "captions": {}, "image_folder": None,
        "splits": {"train": torch.arange(6), "val": torch.tensor([7, 6]), "test": torch.tensor([8, 9])},
        "lengths": torch.full((10,), 5), "order": torch.arange(10), "fingerprint": "f",
    }  # fmt: skip
    return EEGDataset(**{**fields, **changes})


def test_subject_keeps_trials_with_their_splits():
    data = make().of_subject(5)
    assert data.trials[:, 0, 0].tolist() == [1, 3, 5, 7, 9] and data.order.tolist() == [1, 3, 5, 7, 9]
    assert {name: part.tolist() for name, part in data.splits.items()} == {"train": [0, 1, 2], "val": [3], "test": [4]}
    with pytest.raises(DatasetError, match="no subject 4: choose one of 3, 5"):
        make().of_subject(4)


def test_permuted_labels_exchange_what_was_shown_within_each_subject(tmp_path, content, splits):
    data = load_dataset("eegcvpr40", folder=write(tmp_path, content, splits))
    mixed = data.with_permuted_labels()
    assert mixed.trials is data.trials and torch.equal(mixed.lengths, data.lengths)  # signals stay where they are
    assert torch.equal(mixed.subjects, data.subjects)
    shown = (100 * mixed.subjects + mixed.images).tolist()
    recorded = mixed.trials[:, 0, 0].int().tolist()
    assert shown != recorded and sorted(shown) == sorted(recorded)  # every subject sees every picture once, as before
    assert mixed.labels.tolist() == [image // IMAGES for image in mixed.images.tolist()]  # the class of its picture
    for name, part in data.splits.items():  # a picture stays in its part, for every subject
        pairs = (list(zip(d.subjects[p].tolist(), d.images[p].tolist(), strict=True))
                 for d, p in ((data, part), (mixed, mixed.splits[name])))  # fmt: skip
        assert len(set(map(tuple, map(sorted, pairs)))) == 1
    assert mixed.fingerprint != data.fingerprint and "PERMUTED" in mixed.notes[-1]
    assert torch.equal(mixed.labels, data.with_permuted_labels().labels)
    assert not torch.equal(mixed.labels, data.with_permuted_labels(1).labels)


def test_protocols():
    clean, paper = make().partition("clean"), make().partition("paper")
    assert clean.honest and not paper.honest
    assert clean.validation.tolist() == [7, 6] and paper.train.tolist() == [0, 1, 2, 3, 4, 5, 7, 6]
    assert paper.validation.tolist() == paper.test.tolist() == clean.test.tolist() == [8, 9]
    with pytest.raises(DatasetError, match="clean, paper"):
        make().partition("fast")
    with pytest.raises(DatasetError, match="split val is empty"):
        make(splits={"train": torch.arange(6), "val": torch.arange(0), "test": torch.arange(6, 8)}).partition("clean")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": torch.zeros(10, 2, 5, dtype=torch.float64)}, "float32"),
        ({"trials": torch.zeros(0, 2, 5)}, "no trials are left"),
        (
            {"trials": torch.cat([torch.zeros(9, 2, 5), torch.full((1, 2, 5), float("nan"))])},
            "trial 9 .subject 5. has 10",
        ),
        ({"channels": ("a",)}, "1 channel names for 2"),
        ({"labels": torch.full((10,), 2)}, "trial 0 has label 2"),
        ({"labels": torch.zeros(9, dtype=torch.int64)}, "labels must be"),
        ({"order": torch.zeros(10)}, "order must be"),
        ({"images": torch.zeros(10, dtype=torch.int64)}, "trial 0 has image 0"),
        ({"splits": {"train": torch.arange(6)}}, "splits are"),
        (
            {"splits": {"train": torch.tensor([10]), "val": torch.arange(1), "test": torch.arange(1, 2)}},
            "lists trial 10",
        ),
        (
            {"splits": {"train": torch.tensor([4, 4]), "val": torch.arange(1), "test": torch.arange(1, 2)}},
            "trial 4 is listed more than once",
        ),
        (
            {"splits": {"train": torch.arange(3), "val": torch.tensor([2]), "test": torch.tensor([5])}},
            "trial 2 is listed more than once",
        ),
    ],
)
def test_dataset_rejects(changes, message):
    with pytest.raises(DatasetError, match=message):
        make(**changes)


def test_large_finite_values_are_no_fault():
    make(trials=torch.full((10, 2, 5), 3e38))  # their sum overflows


def test_trials_that_the_adapter_has_checked_are_not_read_again():
    unread = torch.full((10, 2, 5), float("nan"))
    assert len(make(trials=unread, checked=True).of_subject(3)) == 5


def test_fingerprint_follows_content_and_options(tmp_path, content, splits):
    write(tmp_path, content, splits)
    first = fingerprint(tmp_path)
    assert first == load_dataset("eegcvpr40", folder=tmp_path).fingerprint
    assert first != fingerprint(tmp_path, split_index=1)
    content["dataset"][5]["eeg"][2, 7] += 1e-3
    write(tmp_path, content, splits)
    assert first != fingerprint(tmp_path)


def test_reading_the_table_needs_no_torch():
    code = (
        "import sys; from brainvis.data import DATASETS; from brainvis.configuration import Configuration; "
        "print(DATASETS['phantom'].fingerprint(None, Configuration())); "
        "heavy = {'torch', 'mne', 'pandas', 'sklearn', 'transformers', 'diffusers'}; "
        "assert not heavy & set(sys.modules)"
    )
    assert len(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) > 8
    assert list(DATASETS) == ["phantom", "eegcvpr40", "recordings"]


def test_subjects_and_images_are_known_before_anything_is_read(tmp_path):
    known = {name: (source.subjects, source.has_images) for name, source in DATASETS.items()}
    small = Configuration(phantom=Phantom(subjects=2))
    subjects, has_images = known["phantom"]
    assert subjects(tmp_path, small) == (1, 2) and has_images(tmp_path, small)
    subjects, has_images = known["eegcvpr40"]
    assert subjects(tmp_path, small) == (1, 2, 3, 4, 5, 6) and not has_images(tmp_path, small)
    (tmp_path / "image").mkdir()
    assert has_images(tmp_path, small) and not known["recordings"][1](tmp_path, small)


def test_a_data_set_from_outside_is_one_line(tmp_path, monkeypatch):
    """As somebody would add their own; `load_dataset` and the table are all that the rest of the package asks."""

    def load(folder: Path, configuration: Configuration, shift: float = 0.0) -> EEGDataset:
        data = make(name="toy", fingerprint=fingerprint(folder, configuration, shift))
        return replace(data, trials=data.trials + shift)

    def fingerprint(folder: Path, configuration: Configuration, shift: float = 0.0) -> str:
        return f"{folder.name} {configuration.phantom.subjects} {shift}"

    monkeypatch.setattr(brainvis.data, "DATASETS", dict(DATASETS))
    brainvis.data.DATASETS["toy"] = Source(
        load=load, fingerprint=fingerprint, subjects=lambda folder, configuration: (3, 5),
        has_images=lambda folder, configuration: False,
    )  # fmt: skip
    data = load_dataset("toy", tmp_path, shift=2.0)
    assert data.name == "toy" and data.trials[0, 0, 0] == 2 and len(data.of_subject(5)) == 5
    assert data.fingerprint == f"{tmp_path.name} {Phantom().subjects} 2.0"
    assert load_dataset("toy").fingerprint == "toy 4 0.0"  # data/toy, and the configuration as it is without changes
    assert load_dataset("toy", configuration=Configuration(phantom=Phantom(subjects=9))).fingerprint == "toy 9 0.0"
    with pytest.raises(DatasetError, match="choose one of phantom, eegcvpr40, recordings, toy"):
        load_dataset("tay")
