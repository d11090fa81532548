"""Files of data sets, one small one of each kind: EEGCVPR40, phantoms, recordings."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import mne
import numpy as np
import torch
import yaml
from PIL import Image
from pytest import MonkeyPatch

from brainvis.configuration import Phantom
from brainvis.data import load_dataset, phantom, stored
from brainvis.data.eegcvpr40_files import EEG_FILES
from brainvis.files import BrainvisError, file_digests, read_json, read_sealed
from brainvis.phantom import recording
from brainvis.study import Study
from helpers.mutations import Kind, kind, light, plain

# EEGCVPR40

WNIDS = ["n04069434", "n03272010"]
IMAGES = [f"{WNIDS[image // 6]}_{image}" for image in range(12)]
SETTINGS = "window: [4, 36]\nlengths: [30, 60]\nsplit: all\nsplit_index: 0\nnames: corrected\nband: 5_95\n"


def published(folder: Path, legacy: bool = False, pictures: bool = True) -> Path:
    """A folder like the published one, of two subjects, 24 trials, 3 channels."""
    place, rng = folder / "data" / "eegcvpr40", torch.Generator().manual_seed(0)
    place.mkdir(parents=True)
    trials = [
        {"eeg": torch.randn(3, 40, generator=rng), "image": image, "label": image // 6, "subject": subject}
        for subject in (1, 2)
        for image in range(len(IMAGES))
    ]
    parts = {"train": [0, 1, 2, 6, 7, 8], "val": [3, 9], "test": [4, 5, 10, 11]}
    split = {name: [12 * subject + image for subject in (0, 1) for image in part] for name, part in parts.items()}
    eeg = {"dataset": trials, "labels": WNIDS, "images": IMAGES}
    torch.save(eeg, place / EEG_FILES["5_95"], _use_new_zipfile_serialization=not legacy)
    torch.save({"splits": [split] * 2}, place / "block_splits_by_image_all.pth")
    (place / "eegcvpr40.yml").write_text(SETTINGS)
    (place / "captions.json").write_text(json.dumps({image: f"a red thing, café {image}" for image in IMAGES}))
    (place / "class_names.json").write_text(json.dumps({WNIDS[0]: "reflex camera", WNIDS[1]: "Ω \u00e9 guitar"}))
    for number, image in enumerate(IMAGES if pictures else []):
        file = place / "image" / image.split("_")[0] / f"{image}{('.JPEG', '.png')[number % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 100, 200)).save(file, quality=90)
    return place


def read_data() -> object:
    """All that a run reads of EEGCVPR40 but the pictures."""
    data = load_dataset("eegcvpr40")
    columns = [data.labels, data.subjects, data.images, data.lengths, data.splits]
    words = [data.image_ids, data.class_names, data.captions, data.start]
    return plain([hashlib.sha256(data.trials.contiguous().numpy()).hexdigest(), *columns, *words])


def checksum_of_record_is_wrong(file: Path) -> bool:
    """Whether a zip archive has a record that is not what was written into it."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is not None
    except Exception:  # no zip archive any more
        return False


def of_eegcvpr40(name: str, legacy: bool = False) -> Callable[[Path, MonkeyPatch], Kind]:
    def build(folder: Path, patch: MonkeyPatch) -> Kind:
        place, choice = published(folder, legacy, pictures=False), {"dataset": "eegcvpr40", **light(patch)}
        Study(**choice).save("exploration", {"trials": 24})
        read_data()  # converts
        return Kind(
            "",
            folder,
            [place / name],
            read_data,
            later=lambda: Study(**choice).load("exploration"),
            alone=checksum_of_record_is_wrong,
        )

    return build


kind("published EEG (.pth, zip)")(of_eegcvpr40(EEG_FILES["5_95"]))
kind("published EEG (.pth, before torch 1.6)")(of_eegcvpr40(EEG_FILES["5_95"], legacy=True))
kind("split (.pth)")(of_eegcvpr40("block_splits_by_image_all.pth"))
kind("captions.json")(of_eegcvpr40("captions.json"))
kind("class_names.json")(of_eegcvpr40("class_names.json"))
kind("eegcvpr40.yml")(of_eegcvpr40("eegcvpr40.yml"))


def of_pictures(place: Path, folder: Path, choice: dict[str, str]) -> Kind:
    """Pictures that were shown: the data set says the folder of a class, which has one digest."""
    Study(**choice).save("exploration", {"trials": 24})
    data = load_dataset(choice["dataset"])

    def read() -> object:
        return [data.image(image).tobytes() for image in range(len(data.image_ids))]

    def later() -> None:
        Study(**choice).load("exploration")

    return Kind("", folder, sorted(place.glob("*/*")), read, later=later, named=lambda file: file.parent.name)


@kind("pictures of EEGCVPR40")
def eegcvpr40_pictures(folder: Path, patch: MonkeyPatch) -> Kind:
    return of_pictures(published(folder) / "image", folder, {"dataset": "eegcvpr40", **light(patch)})


@kind("converted EEG")
def converted(folder: Path, patch: MonkeyPatch) -> Kind:
    place = published(folder, pictures=False)
    read_data()
    return Kind("", folder, list(place.glob("*.safetensors")), read_data)


@kind("converted EEG that cannot be converted anew")
def unwritable(folder: Path, patch: MonkeyPatch) -> Kind:
    place = published(folder, pictures=False)
    read_data()

    @contextmanager
    def refused(path: Path):
        raise PermissionError(13, "Permission denied")
        yield

    patch.setattr(stored, "locked", refused)
    return Kind("", folder, list(place.glob("*.safetensors")), read_data)


# The phantom


@kind("files of a phantom")
def phantoms(folder: Path, patch: MonkeyPatch) -> Kind:
    sizes, write = Phantom(subjects=1, images_per_class=3, classes=2), recording.write_phantom
    place = phantom.ensure_phantom(folder / "phantom", sizes, 0)
    original = {file.relative_to(place): file.read_bytes() for file in place.rglob("*") if file.is_file()}
    made = []

    def write_again(again: Path, *_: object) -> None:
        """Generates it, which gives the same files, some times; else writes these."""
        made.append(again)
        if len(made) % 25 == 1:
            return write(again, sizes, 0)
        for file, content in original.items():
            (again / file).parent.mkdir(parents=True, exist_ok=True)
            (again / file).write_bytes(content)

    patch.setattr(recording, "write_phantom", write_again)

    def read() -> object:
        if wrong := phantom.changed_file(place):
            raise BrainvisError(f"{wrong} is not what was generated")  # as `check --deep` says it
        return "whole"

    def whole() -> object:
        found = phantom.ensure_phantom(folder / "phantom", sizes, 0)
        files = {file.relative_to(found): sha for file, sha in file_digests(found.rglob("*.*")).items()}
        return files | {Path("phantom.json"): read_sealed(found / "phantom.json")}

    return Kind("", folder, [place / file for file in original], read, whole=whole, every=10)


# Recordings


def recordings(folder: Path) -> Path:
    place, rng = folder / "data" / "recordings", np.random.default_rng(0)
    own = {
        "window": [0.5, 1.5],
        "filter": [4, 40],
        "classes": {1: "rest", 2: "12 Hz"},
        "channels": ["Oz", "O1"],
        "standardise": "none",
        "images": {"folder": "shown", "events": {1: "still_1", 2: "moving_2"}, "captions": "captions.json"},
    }
    (place / "subject01").mkdir(parents=True)
    (place / "captions.json").write_text(json.dumps({"still_1": "a lamp", "moving_2": "a lamp that flickers"}))
    for number, image in enumerate(("still_1", "moving_2")):
        file = place / "shown" / image.split("_")[0] / f"{image}.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (16, 16), (90 * number, 100, 200)).save(file)
    raw = mne.io.RawArray(rng.normal(0, 1e-6, (2, 1800)), mne.create_info(["Oz", "O1"], 100.0, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations(np.arange(8) * 2.0 + 0.5, 0.1, ["1", "2"] * 4))
    raw.save(place / "subject01" / "a_raw.fif", verbose="ERROR")
    (place / "recordings.yml").write_text(yaml.safe_dump(own))
    return place


def of_recordings(pattern: str) -> Callable[[Path, MonkeyPatch], Kind]:
    def build(folder: Path, patch: MonkeyPatch) -> Kind:
        place, choice = recordings(folder), light(patch) | {"dataset": "recordings"}
        Study(**choice).save("exploration", {"trials": 8})

        def read() -> object:
            return Study(**choice).data_fingerprint

        def whole() -> object:
            data = load_dataset("recordings")
            columns = [data.trials, data.labels, data.images, data.splits, data.sampling_rate]
            return plain([*columns, data.class_names, data.channels, data.image_ids, data.captions])

        def later() -> None:
            Study(**choice).load("exploration")

        if pattern == "captions.json":
            read = partial(read_json, place / pattern)
        return Kind("", folder, list(place.rglob(pattern)), read, later=later, whole=whole)

    return build


kind("recordings.yml")(of_recordings("recordings.yml"))
kind("a recording (.fif)")(of_recordings("*.fif"))
kind("captions of recordings")(of_recordings("captions.json"))


@kind("pictures of recordings")
def recordings_pictures(folder: Path, patch: MonkeyPatch) -> Kind:
    return of_pictures(recordings(folder) / "shown", folder, {"dataset": "recordings", **light(patch)})
