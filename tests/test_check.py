"""`python -m brainvis check`: what is found, what is missing, what the chosen run cannot do without."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import formats
from helpers.tiny_backbone import write_backbone
from safetensors.numpy import save_file

from brainvis.__main__ import main
from brainvis.data import DATASETS, DatasetError
from brainvis.evaluation.needs import as_text, can_start, check, rows
from brainvis.files import ROOT
from brainvis.generation import GENERATORS
from brainvis.generation.weights import WEIGHTS


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No data, no weights, and caches with nothing in them."""
    for variable in ("BRAINVIS_DATA", "TORCH_HOME", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "brainvis_data"


def state(items, start: str) -> tuple[str, str]:
    """Need and state of the one item whose name starts so."""
    (item,) = [item for item in items if item.what.startswith(start)]
    return item.need, item.state


def put(file, content: bytes = b"something"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def test_the_phantom_can_start_on_an_empty_machine():
    items = check()
    assert can_start(items)
    assert {item.what for item in items if item.need == "needed"} == {
        "phantom: simulated EEG and pictures, made on first use",
        "backbone: phantom",
    }
    assert all(item.need == "-" for item in items if item.state != "found")


def test_an_empty_machine_lacks_everything_of_the_real_data(empty_machine):
    items = check("eegcvpr40", "sd15")
    assert not can_start(items)
    for what in ("EEGCVPR40: EEG, band 5_95", "EEGCVPR40: splits, all", "backbone: Stable Diffusion 1.5"):
        assert state(items, what) == ("needed", "MISSING")
    for what in ("EEGCVPR40: 1,996 pictures", "EEGCVPR40: captions", "captioner", *_judges()):
        assert state(items, what) == ("useful", "missing")
    for what in ("EEGCVPR40: EEG, band raw", "EEGCVPR40: splits, single", "recordings of your own"):
        assert state(items, what) == ("-", "missing")
    text = as_text(items)
    for told in ("eeg_5_95_std.pth", "3.1 GB", "perceivelab", "hf download stable-diffusion-v1-5/", "brainvis caption"):
        assert told in text
    for published in WEIGHTS.values():
        assert published.file in text and published.url in text
    assert [row["state"] for row in rows(items)].count("MISSING") == 3


def _judges():
    return [f"judge: {published.name}" for published in WEIGHTS.values()]


def test_what_is_put_in_its_place_is_found(empty_machine):
    folder = empty_machine / "eegcvpr40"
    put(folder / "eeg_14_70_std.pth")
    put(folder / "block_splits_by_image_single.pth")
    put(folder / "eegcvpr40.yml", b"band: 14_70\nsplit: single_released\n")
    for published in WEIGHTS.values():
        put(empty_machine / "weights" / published.file)
    items = check("eegcvpr40")
    assert can_start(items)
    assert state(items, "EEGCVPR40: EEG, band 14_70") == ("needed", "found")
    assert state(items, "EEGCVPR40: splits, single") == ("needed", "found")
    assert state(items, "EEGCVPR40: splits, all") == ("-", "missing")
    for judge in _judges():
        assert state(items, judge)[1] == "found"

    # Pictures make captions necessary.
    put(folder / "image" / "n02389026" / "n02389026_1.JPEG")
    assert not can_start(items := check("eegcvpr40")) and state(items, "EEGCVPR40: captions") == ("needed", "MISSING")
    put(folder / "captions.json", json.dumps({"n02389026_1": "a horse"}).encode())
    assert can_start(items := check("eegcvpr40")) and state(items, "captioner") == ("-", "missing")


def test_pictures_and_captions_that_are_lacking_are_counted(empty_machine):
    folder = empty_machine / "eegcvpr40"
    about = json.dumps({"images": ["n1_1", "n1_2", "n1_3"], "labels": ["n02389026"]}).encode()
    folder.mkdir(parents=True)
    save_file({"about": np.frombuffer(about, np.uint8)}, folder / "eeg_5_95_std.trials.safetensors")
    put(folder / "captions.json", b'{"n1_2": "a horse"}')
    put(folder / "image" / "n1" / "n1_3.JPEG")
    (item,) = [item for item in check("eegcvpr40") if item.what == "EEGCVPR40: 1,996 pictures"]
    assert (item.state, item.place) == ("wrong", "2 of 3 pictures are missing, the first is n1_1")
    (item,) = [item for item in check("eegcvpr40") if item.what == "EEGCVPR40: captions"]
    assert (item.state, item.place) == ("WRONG", "2 of 3 pictures have no caption")
    put(folder / "captions.json", b"no JSON")
    assert state(check("eegcvpr40"), "EEGCVPR40: captions") == ("needed", "WRONG")


def test_wrong_settings_are_said_in_the_table(empty_machine):
    put(empty_machine / "eegcvpr40" / "eegcvpr40.yml", b"bnad: 14_70\n")
    items = check("eegcvpr40")
    assert state(items, "EEGCVPR40: EEG, band 5_95") == ("needed", "WRONG") and "bnad" in as_text(items)
    put(empty_machine / "recordings" / "recordings.yml", b"window: 3\n")
    items = check("recordings")
    assert state(items, "recordings: recordings.yml") == ("needed", "WRONG") and not can_start(items)


def test_a_backbone_of_ones_own(tmp_path):
    folder = write_backbone(tmp_path / "mine", judge=False, clip=False)
    items = check("phantom", str(folder))
    assert can_start(items)
    assert state(items, "backbone: phantom")[0] == "-"
    for judge in _judges():
        assert state(items, judge)[0] == "useful"
    items = check("phantom", str(tmp_path / "nowhere"))
    assert not can_start(items) and "unknown backbone" in as_text(items)


def test_an_unknown_data_set_is_one_sentence():
    with pytest.raises(DatasetError, match="'things'.*phantom, eegcvpr40, recordings"):
        check("things")


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--dataset", "eegcvpr40"], 1), (["--backbone", "sd15"], 1)])
def test_the_exit_code_says_whether_the_run_can_start(arguments, code, capsys):
    assert main(["check", *arguments]) == code
    assert ("cannot start without" in capsys.readouterr().out) == bool(code)


def test_it_answers_quickly_and_without_torch(tmp_path):
    code = "import sys; from brainvis.__main__ import main; main(['check']); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 10  # a second on a free machine


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["original", "nothing.pkl", "--subject", "4", "--dataset", "phantom", "--backbone", "phantom"],
            "nothing.pkl is missing.*clipfinetune_model.pkl",
        ),
        (["caption", "--dataset", "eegcvpr40"], "eeg_5_95_std.pth"),
        (["original", "nothing.pkl", "--subject", "1", "--dataset", "phantom", "--backbone", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, words, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.search("^brainvis: .*" + words, error, re.M) and "Traceback" not in error


def test_data_sets_and_generators_of_ones_own_stand_in_the_table(monkeypatch):
    def nowhere(*_):
        raise DatasetError("toys are broken")

    toy = SimpleNamespace(fingerprint=lambda *_: "abc", has_images=lambda *_: True)
    monkeypatch.setitem(DATASETS, "toy", toy)
    monkeypatch.setitem(GENERATORS, "toys", SimpleNamespace())
    items = check("toy", "toys")
    assert can_start(items) and {item.what for item in items if item.need == "needed"} == {
        "data set: toy",
        "backbone: toys",
    }
    assert state(items, "judge: CLIP") == ("useful", "missing")
    monkeypatch.setattr(toy, "fingerprint", nowhere)
    assert state(check("toy"), "data set: toy") == ("needed", "WRONG") and "broken" in as_text(check("toy"))


# Data that are opened


def published(folder, subjects=(8, 12), length=200, labels=("cat", "dog"), images=()):
    """Data of one's own in EEGCVPR40's format: other subjects, lengths, names; no pictures, unless named."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {"image": 0} if images else {}
    trials = [
        {"eeg": torch.randn(4, length), "label": trial % 2, "subject": subject} | shown
        for subject in subjects
        for trial in range(12)
    ]
    torch.save({"dataset": trials, "labels": list(labels), "images": list(images)}, folder / "eeg_5_95_std.pth")
    parts = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}
    split = {
        part: [12 * person + trial for person in range(len(subjects)) for trial in own] for part, own in parts.items()
    }
    torch.save({"splits": [split]}, folder / "block_splits_by_image_all.pth")
    (folder / "eegcvpr40.yml").write_text("sampling_rate: 250\n")


def used(said: str) -> str:
    """What a run needs or can use, of all that `check` says."""
    return said.partition("For other runs")[0]


def test_data_of_other_people_without_pictures_can_start(empty_machine, capsys):
    published(empty_machine / "eegcvpr40")
    assert main(["check", "--dataset", "eegcvpr40"]) == 0
    said = capsys.readouterr().out
    assert "'subjects=[8,12]'" in said and "ILSVRC" not in said and "captions" not in said and "judge" not in used(said)


def test_pictures_of_ones_own_are_not_imagenets(empty_machine, capsys):
    published(empty_machine / "eegcvpr40", images=["cat_1", "dog_1"])
    assert main(["check", "--dataset", "eegcvpr40"]) == 0
    said = capsys.readouterr().out
    assert "EEGCVPR40: 2 pictures" in said and "ILSVRC" not in said and "1,996" not in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [("window: [0, 300]", "the window 0:300 needs 300"), ("channels: [Oz]", "names 1 channels, but the trials have 4"),
     ("split_index: 1", "no split 1"), ("montage: biosemi64", "montage biosemi64 has no position for EEG001")],
)  # fmt: skip
def test_what_does_not_load_cannot_start(setting, words, empty_machine, capsys):
    published(empty_machine / "eegcvpr40")
    (empty_machine / "eegcvpr40" / "eegcvpr40.yml").write_text(setting)
    assert main(["check", "--dataset", "eegcvpr40"]) == 1
    said = capsys.readouterr().out
    assert words in said and "WRONG" in said and "cannot start without" in said


def recorded(folder, classes="{1: rest, 2: tap}"):
    rng = np.random.default_rng(0)
    for subject in (8, 12):
        (folder / f"S{subject}").mkdir(parents=True)
        events = [(100 * trial + 50, str(trial % 2 + 1)) for trial in range(12)]
        formats.fif(folder / f"S{subject}" / "a", rng.normal(0, 1e-5, (2, 1300)), 100.0, ["Oz", "O1"], events)
    (folder / "recordings.yml").write_text(f"window: [0.0, 0.9]\nfilter: [4, 40]\nclasses: {classes}\n")


def test_recordings_can_start_with_the_command_that_is_said(empty_machine, capsys):
    folder = empty_machine / "recordings"
    recorded(folder)
    (folder / "S8" / "b-eve.fif").write_bytes(b"events")
    assert main(["check", "--dataset", "recordings"]) == 0
    said = capsys.readouterr().out
    assert "b-eve.fif belongs to no recording" in said and "Useful items missing: 1." in said
    (arguments,) = re.findall(r'make reproduce ARGS="(.*)"', said)
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "--directory"]
    environment = os.environ | {"BRAINVIS_RUNS": str(empty_machine / "runs"), "PYTHONPATH": str(ROOT)}
    asked = [*snakemake, str(empty_machine), *shlex.split(arguments)]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_recordings_without_their_events_cannot_start(empty_machine, capsys):
    recorded(empty_machine / "recordings", "{1: rest, 3: tap}")
    assert main(["check", "--dataset", "recordings"]) == 1
    assert "no recording has the event 3" in capsys.readouterr().out


def test_a_bids_data_set_needs_no_settings(empty_machine, capsys):
    events = [(100 * trial + 50, ("face", "house")[trial % 2]) for trial in range(12)]
    volts = np.random.default_rng(0).normal(0, 1e-5, (2, 1300))
    formats.bids(empty_machine / "recordings", volts, 100.0, ["Oz", "O1"], events, lasting=0.5)
    assert main(["check", "--dataset", "recordings"]) == 0
    said = capsys.readouterr().out
    assert "1 files of a BIDS data set" in said and "recordings_example" not in said and "'subjects=[1]'" in said
