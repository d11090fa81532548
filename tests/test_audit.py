"""The audit: what is planted is found, by content and not by name, and nothing else is."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from brainvis.data.audit import audit, identical_trials, missing_trials, picture_contents
from brainvis.data.dataset import EEGDataset

IMAGES, SUBJECTS = 6, 3


def make(folder: Path | None = None, **changes) -> EEGDataset:
    """Three subjects see six pictures, two of them in each part of the split."""
    images = torch.arange(IMAGES).repeat(SUBJECTS)
    trials = torch.randn(len(images), 5, 20, generator=torch.Generator().manual_seed(0))
    names = tuple(f"n{image // 2}_{image}" for image in range(IMAGES))
    if folder is not None:
        for image, name in enumerate(names):
            save(folder, name, picture(image))
    parts = {"train": (0, 1), "val": (2, 3), "test": (4, 5)}
    fields = {
        "name": "test", "trials": trials, "sampling_rate": 100.0, "start": 0.0, "channels": tuple("abcde"),
        "montage": None, "labels": images // 2, "subjects": torch.arange(1, 4).repeat_interleave(IMAGES),
        "images": images, "image_ids": names, "class_names": ("x", "y", "z"), "captions": {}, "image_folder": folder,
        "splits": {part: torch.nonzero(torch.isin(images, torch.tensor(which))).flatten()
                   for part, which in parts.items()},
        "lengths": torch.full((len(images),), 20), "order": None, "fingerprint": "f",
    }  # fmt: skip
    return EEGDataset(**{**fields, **changes})


def picture(seed: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def save(folder: Path, name: str, content: Image.Image, suffix: str = ".png") -> None:
    place = folder / name.split("_")[0]
    place.mkdir(parents=True, exist_ok=True)
    content.save(place / f"{name}{suffix}")


def test_nothing_is_found_where_nothing_is(tmp_path):
    found = audit(make(tmp_path))
    assert set(found.counts.values()) == {0}
    assert "no score is too good for that reason" in found.verdict
    assert [row["for example"] for row in found.rows] == [""] * len(found.rows)


def test_identical_recordings_are_told_apart_by_where_they_are(tmp_path):
    data = make(tmp_path)
    trials = data.trials.clone()
    trials[1] = trials[0]  # one subject, one part, two pictures
    trials[6 + 2] = trials[12 + 2]  # two subjects, one picture
    trials[6 + 5] = trials[3]  # two subjects, val and test
    trials[16, 2] = trials[17, 2]  # the channel that is looked at first, but not the others
    found = audit(replace(data, trials=trials))
    assert identical_trials(replace(data, trials=trials)) == [[0, 1], [3, 11], [8, 14]]
    assert found.counts["identical_trials"] == 3 and found.counts["identical_across_subjects"] == 2
    assert found.counts["identical_across_pictures"] == 2 and found.counts["identical_across_parts"] == 1
    (example,) = found.findings["identical_across_parts"].examples
    assert example == "trial 3 (subject 1, n1_3, val) = trial 11 (subject 2, n2_5, test)"
    assert found.verdict == "TEST SCORES MAY BE TOO GOOD. the same trial in two parts of the split: 1."


def test_recordings_that_no_part_uses_leak_nothing():
    data = make()
    trials = data.trials.clone()
    trials[4] = trials[0]
    splits = {**data.splits, "test": data.splits["test"][1:]}  # trial 4 is in no part
    found = audit(replace(data, trials=trials, splits=splits))
    assert found.counts["identical_trials"] == 1 and found.counts["identical_across_parts"] == 0
    assert "n2_4, unused" in found.findings["identical_trials"].examples[0]


def test_pictures_are_compared_by_what_they_show(tmp_path):
    data = make(tmp_path)
    save(tmp_path, "n2_4", picture(0))  # in test, the same as n0_0 in train
    (tmp_path / "n0/n0_1.png").unlink()
    save(tmp_path, "n0_1", Image.open(tmp_path / "n1/n1_2.png"), ".JPEG")  # another format: other pixels
    (tmp_path / "n1/n1_3.png").write_bytes(b"damaged")
    found = audit(data)
    assert found.counts["identical_pictures"] == 1 and found.counts["pictures_across_parts"] == 1
    assert found.findings["identical_pictures"].examples == ("n0_0 = n2_4",)
    assert found.findings["pictures_across_parts"].examples == ("n0_0 = n2_4 in train and test",)
    assert found.findings["pictures_without_file"].examples == ("n1_3",)
    assert "pictures in two parts of the split: 1" in found.verdict
    contents, missing = picture_contents(data)
    assert contents.tolist() == [0, 1, 2, 3, 0, 5] and missing == ["n1_3"]


def test_the_same_pixels_in_another_shape_are_another_picture(tmp_path):
    data = make(tmp_path)
    for name, size in (("n0_0", (4, 6)), ("n2_5", (6, 4))):
        save(tmp_path, name, Image.fromarray(np.zeros((*size, 3), np.uint8)))
    assert audit(data).counts["identical_pictures"] == 0


def test_one_picture_in_two_parts_is_found_without_files():
    data = make()
    splits = {**data.splits, "train": torch.cat([data.splits["train"], torch.tensor([4])])}
    splits["test"] = splits["test"][splits["test"] != 4]
    found = audit(replace(data, splits=splits))
    assert found.findings["pictures_across_parts"].examples == ("n2_4 in train and test",)
    assert "identical_pictures" not in found.counts  # nobody can look


def test_gaps_are_listed_by_picture(tmp_path):
    data = make(tmp_path).select(torch.tensor([trial for trial in range(18) if trial not in (2, 8, 12)]))
    assert missing_trials(data) == [(1, 2), (2, 2), (3, 0)]
    found = audit(data)
    assert found.counts["missing_trials"] == 3 and found.counts["pictures_not_for_all"] == 2
    assert found.findings["pictures_not_for_all"].examples == (
        "n1_2: no usable trial of subject 1, 2",
        "n0_0: no usable trial of subject 3",
    )
    assert "no score is too good" in found.verdict


def test_trials_without_pictures():
    found = audit(make(images=torch.full((18,), -1), image_ids=()))
    assert set(found.counts.values()) == {0}


@pytest.mark.parametrize("flat", [False, True])
def test_quick_enough(flat):
    trials = torch.zeros(3000, 16, 100) if flat else torch.randn(3000, 16, 100)
    data = make(
        trials=trials, labels=torch.zeros(3000, dtype=torch.int64), subjects=torch.ones(3000, dtype=torch.int64),
        images=torch.full((3000,), -1), lengths=torch.full((3000,), 20), channels=tuple(map(str, range(16))),
    )  # fmt: skip
    start = time.process_time()
    assert len(identical_trials(data)) == int(flat)
    assert time.process_time() - start < 2


def test_no_trial_is_missing_where_every_picture_is_shown_once(tmp_path):
    data = make(tmp_path)
    once = data.select(torch.arange(18)[data.images % len(data.subjects.unique()) == data.subjects - 1])
    assert len(once.subjects.unique()) > 1 and missing_trials(once) == []
    assert audit(once).counts["missing_trials"] == audit(once).counts["pictures_not_for_all"] == 0
