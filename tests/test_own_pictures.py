"""Own recordings with pictures and captions: stages 02 to 06 run on them, as on any data with pictures."""

import json

import mne
import numpy as np
import pytest
import yaml
from helpers.world import World
from PIL import Image

from brainvis.configuration import Phantom
from brainvis.phantom.stimuli import CLASS_NAMES, SHOWN_CLASSES, plan_session, render

RATE, NAMES, CLASSES = 250.0, ["Oz", "O1", "O2", "POz"], 3
PRESET = """
start: smoke
generation: {trials: 4, semantic_steps: 2, refinement_steps: 2, controls: 2}
"""


def write_recordings(folder):
    """Two sessions of one person who sees twelve pictures of the phantom, twice in each, each an event of its own."""
    rng, phantom = np.random.default_rng(0), Phantom(subjects=1, classes=CLASSES, images_per_class=4)
    session = plan_session(phantom, rng)
    for image, stimulus in zip(session.image_ids, session.stimuli, strict=True):
        place = folder / "images" / image.split("_")[0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render([stimulus], 64)[0]).save(place / f"{image}.png")
    captions = {image: one.caption for image, one in zip(session.image_ids, session.stimuli, strict=True)}
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "subject04").mkdir()
    for day in (1, 2):
        shown = np.concatenate([rng.permutation(len(session.labels)) for _ in range(2)])
        onsets = np.arange(len(shown)) * 1.2 + 0.5
        volts = rng.normal(0, 10e-6, (len(NAMES), int((onsets[-1] + 2) * RATE)))
        raw = mne.io.RawArray(volts, mne.create_info(NAMES, RATE, "eeg"), verbose="ERROR")
        raw.set_annotations(mne.Annotations(onsets, 0, [f"picture {image}" for image in shown]))
        raw.save(folder / "subject04" / f"day{day}_raw.fif", verbose="ERROR")
    names = [CLASS_NAMES[SHOWN_CLASSES[label]] for label in session.labels]
    events = [f"picture {image}" for image in range(len(names))]
    content = {"window": [0.0, 0.8], "filter": [1, 100], "classes": dict(zip(events, names, strict=True))}
    images = {"folder": "images", "events": dict(zip(events, session.image_ids, strict=True))}
    content["images"] = images | {"captions": "captions.json"}
    (folder / "recordings.yml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("own"))
    folder = made.folder / "data" / "recordings"
    folder.mkdir(parents=True)
    write_recordings(folder)
    (made.folder / "own.yml").write_text(PRESET)
    grid = ["dataset=recordings", f"preset={made.folder / 'own.yml'}", "subjects=[4]", "ablations=[full]"]
    answer = made.snakemake("--until", "06_generation", grid=grid)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return made


def results(world, stage):
    return world.results("sub-04", "full", stage, study="recordings_own")


def test_captions_of_own_pictures_are_aligned_with(world):
    aligned = results(world, "alignment")
    assert aligned["study"]["dataset"] == "recordings" and aligned["splits"]["test"] == 24
    assert "captions.json" in aligned["data"]["files"]


def test_pictures_are_drawn_for_own_recordings(world):
    made = results(world, "generation")["metrics"]
    assert made["trials"] == 4 and {"semantic", "refined"} <= made.keys()
    pictures = list((world.runs / "recordings_own/sub-04/full/generation/pictures").rglob("*.png"))
    assert len(pictures) >= 8


def test_the_recordings_were_cut_once(world):
    assert [file.name for file in (world.folder / "data" / "recordings").glob("*.safetensors")] == [
        "recordings.trials.safetensors"
    ]
