"""Pictures written as they come: killed, damaged, foreign and refused; always those of an uninterrupted generation."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pipelines import unchecked
from PIL import Image

from brainvis.configuration import Generation
from brainvis.files import code as code_files
from brainvis.files import write_aside
from brainvis.generation import cascade as generation
from brainvis.generation import pictures
from brainvis.generation.cascade import refinement_stage, semantic_stage
from brainvis.generation.pictures import PictureError

CONFIG = Generation(samples=2, semantic_steps=2, refinement_steps=3, refinement_guidance=3.0, batch_size=4)
NAMES = ["red star", "blue ring", "jack-o'-lantern", "Ærø café", "red star"]
TRIALS = [3, 14, 15, 92, 65]  # 5 trials, 10 pictures: batches of 4, 4 and 2


@pytest.fixture(scope="module")
def embeddings(backbone):
    return backbone.text_embeddings(NAMES)


@pytest.fixture(scope="module")
def semantic(backbone, embeddings):
    """What is made without a folder."""
    return semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS)


@pytest.fixture
def made(backbone, monkeypatch):
    """How many pictures each call of the VAE's decoder made."""
    calls = []
    decode = backbone.pipeline.vae.decode
    monkeypatch.setattr(backbone.pipeline.vae, "decode", lambda x, **k: (calls.append(len(x)), decode(x, **k))[1])
    return calls


@pytest.fixture
def whole(backbone, embeddings, tmp_path):
    """A folder of an uninterrupted semantic stage."""
    semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=tmp_path)
    return tmp_path / "semantic"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_both_ways_give_the_same_pictures(backbone, embeddings, semantic, tmp_path, made):
    given = semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=tmp_path)
    assert np.array_equal(given, semantic)
    for row, trial in enumerate(TRIALS):
        for sample in range(2):
            with Image.open(tmp_path / "semantic" / f"trial-{trial:05d}_sample-{sample}.png") as picture:
                assert np.array_equal(np.asarray(picture), semantic[row, sample])
    refined = refinement_stage(backbone, semantic, NAMES, CONFIG, 0, TRIALS, folder=tmp_path)
    assert np.array_equal(refinement_stage(backbone, semantic, NAMES, CONFIG, 0, TRIALS), refined)
    made.clear()  # asked for again, nothing is made
    assert np.array_equal(semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=tmp_path), semantic)
    again = refinement_stage(backbone, semantic, NAMES, CONFIG, 0, TRIALS, folder=tmp_path)
    assert np.array_equal(again, refined) and not made


def test_the_index_says_which_picture_is_which(backbone, semantic, tmp_path):
    refinement_stage(backbone, semantic, NAMES, CONFIG, 0, TRIALS, folder=tmp_path)
    folder = tmp_path / "refinement"
    text = (folder / "index.json").read_text(encoding="utf-8")
    index = json.loads(text)
    assert "refinement stage" in index["about"] and "no safety checker" in index["about"]
    assert [entry["file"] for entry in index["pictures"]] == [
        f"trial-{trial:05d}_sample-{sample}.png" for trial in TRIALS for sample in (0, 1)
    ]
    assert {file.name for file in folder.iterdir()} == {"index.json", *(entry["file"] for entry in index["pictures"])}
    one = {"file": "trial-00092_sample-1.png", "trial": 92, "sample": 1, "prompt": "Ærø café"}
    assert index["pictures"][7] == one and "Ærø café" in text
    assert index["made_from"]["seed"] == 0 and index["made_from"]["strength"] == 0.85


KILLED = """
import os, signal, sys
import torch
from brainvis.generation import pictures
from brainvis.generation.stable_diffusion import load_stable_diffusion
from brainvis.configuration import Generation
from brainvis.generation.cascade import semantic_stage

backbone, embeddings, folder, count, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
left, write_aside = int(count), pictures.write_aside

def write(path, content, **options):
    global left

    def die(aside):
        aside.write_bytes(b"half a picture")
        os.kill(os.getpid(), signal.SIGKILL)

    if path.suffix == ".png":
        left -= 1
    write_aside(path, die if left < 0 else content, **options)

pictures.write_aside = write
config, embeddings = Generation(samples=2, semantic_steps=2, batch_size=4), torch.load(embeddings, weights_only=True)
backbone = load_stable_diffusion(backbone, "cpu", torch.float32)
semantic_stage(backbone, embeddings, config, 0, [3, 14, 15, 92, 65], folder=folder)
"""


def test_a_killed_generation_goes_on_and_ends_as_an_uninterrupted_one(
    tiny, backbone, embeddings, whole, tmp_path, made
):
    torch.save(embeddings, tmp_path / "embeddings.pt")
    arguments = [tiny, tmp_path / "embeddings.pt", tmp_path / "killed", 5, torch.get_num_threads()]
    ended = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=Path(pictures.__file__).parents[1])
    assert ended.returncode == -signal.SIGKILL
    left = contents(tmp_path / "killed" / "semantic")
    assert sum(name.startswith("trial") for name in left) == 5 and any(name.endswith(".part") for name in left)
    config = replace(CONFIG, refinement_steps=100)  # of the other stage: changes nothing here
    semantic_stage(backbone, embeddings, config, 0, TRIALS, folder=tmp_path / "killed")
    assert made == [4, 2]  # the batch that was cut short, as a whole, and the last one
    assert contents(tmp_path / "killed" / "semantic") == contents(whole)


def cut(file):
    file.write_bytes(file.read_bytes()[:-200])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-14] ^= 1  # in the checksum of the pixels, which decoding alone does not look at
    file.write_bytes(content)


def shrink(file):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)


def rename(file):
    file.replace(file.with_name("holiday.png"))


@pytest.mark.parametrize("damage", [cut, flip, shrink, rename, lambda file: file.write_bytes(b"")])
def test_a_damaged_picture_is_made_again_with_its_batch(backbone, embeddings, semantic, whole, made, damage):
    expected = contents(whole)
    damage(whole / "trial-00015_sample-1.png")
    assert np.array_equal(semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=whole.parent), semantic)
    assert made == [4]
    assert contents(whole).items() >= expected.items()


def test_progress_begins_with_the_pictures_that_are_there(backbone, embeddings, whole, monkeypatch):
    bars = []
    tqdm = generation.tqdm
    monkeypatch.setattr(generation, "tqdm", lambda **settings: bars.append(tqdm(**settings)) or bars[-1])
    (whole / "trial-00003_sample-0.png").unlink()
    semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=whole.parent)
    assert (bars[0].initial, bars[0].total, bars[0].n) == (6, 10, 10)


def others(backbone, embeddings):
    """Other generations, and what the message calls the difference."""
    wavy = embeddings.clone()
    wavy[4, 0, 0] += 1e-3
    yield "seed", (embeddings, CONFIG, 1, TRIALS)
    yield "steps", (embeddings, replace(CONFIG, semantic_steps=3), 0, TRIALS)
    yield "guidance", (embeddings, replace(CONFIG, semantic_guidance=2.0), 0, TRIALS)
    yield "batch size", (embeddings, replace(CONFIG, batch_size=5), 0, TRIALS)
    yield "text embeddings", (wavy, CONFIG, 0, TRIALS)
    yield "trials or prompts", (embeddings, CONFIG, 0, [3, 14, 15, 92, 66])
    yield "trials or prompts", (embeddings, replace(CONFIG, samples=1), 0, TRIALS)


def test_pictures_made_from_anything_else_are_replaced(backbone, embeddings, whole, tmp_path, capsys, made):
    (whole / "mine.png").write_bytes(b"a file of somebody else's")
    for number, (difference, arguments) in enumerate(others(backbone, embeddings)):
        shutil.copytree(whole, tmp_path / str(number) / "semantic")
        made.clear()
        given = semantic_stage(backbone, *arguments, folder=tmp_path / str(number))
        assert sum(made) == len(given) * given.shape[1]
        files = {file.name for file in (tmp_path / str(number) / "semantic").iterdir()}
        assert "mine.png" in files and len(files) == sum(made) + 2
        message = f"replacing 10 pictures made from something else (different {difference})"
        assert message in capsys.readouterr().out


def test_another_prompt_start_or_backbone_replaces_refined_pictures(tmp_path, backbone, semantic, made):
    refinement_stage(backbone, semantic, NAMES, CONFIG, 0, TRIALS, folder=tmp_path)
    brighter = semantic.copy()
    brighter[0, 0, 0, 0] ^= 1
    for arguments in (
        (replace(backbone, fingerprint="another"), semantic, NAMES, CONFIG),
        (backbone, brighter, NAMES, CONFIG),
        (backbone, brighter, ["blue ring", *NAMES[1:]], CONFIG),
        (backbone, None, ["blue ring", *NAMES[1:]], CONFIG),
    ):
        made.clear()
        refinement_stage(*arguments, 0, TRIALS, folder=tmp_path)
        assert made == [4, 4, 2]


def test_other_sampling_code_replaces_pictures_and_another_judge_does_not(
    backbone, embeddings, whole, made, capsys, monkeypatch, request
):
    code_of = code_files._code_of
    request.addfinalizer(code_files.code_digest.cache_clear)

    def another(changed):
        monkeypatch.setattr(
            code_files, "_code_of", lambda module: ("another", []) if module == changed else code_of(module)
        )
        code_files.code_digest.cache_clear()
        made.clear()
        semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=whole.parent)
        return made

    for module in ("phantom.judge", "phantom.stimuli", "generation.clip", "generation.weights", "training"):
        assert not another(f"brainvis.{module}")
    for module in ("cascade", "sampler", "stable_diffusion"):
        assert another(f"brainvis.generation.{module}") == [4, 4, 2]
        assert "made from something else (different code)" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "[]", '{"made_from": 3}'])
def test_pictures_without_a_readable_index_are_replaced(backbone, embeddings, whole, made, capsys, content):
    expected = contents(whole)
    (whole / "index.json").write_text(content)
    semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=whole.parent)
    assert made == [4, 4, 2] and contents(whole) == expected
    assert "replacing 10 pictures that have no readable index" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_made(backbone, embeddings, tmp_path, made):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PictureError, match="file/semantic cannot be written to"):
        semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=tmp_path / "file")
    with pytest.raises(PictureError, match="trial-00003_sample-0.png would be written twice"):
        semantic_stage(backbone, embeddings, CONFIG, 0, [3, 14, 3, 92, 65], folder=tmp_path)
    assert not made


def test_settings_that_cannot_work_are_refused_before_other_pictures_are_removed(
    backbone, embeddings, semantic, whole, made
):
    refinement_stage(backbone, semantic, NAMES, CONFIG, 0, TRIALS, folder=whole.parent)
    before = contents(whole), contents(whole.parent / "refinement")
    made.clear()
    for steps in (0, 1000):
        with pytest.raises(ValueError, match=f"the number of steps is {steps}; it must be from 1 to 999"):
            wrong = unchecked(CONFIG, semantic_steps=steps)
            semantic_stage(backbone, embeddings, wrong, 0, TRIALS, folder=whole.parent)
    with pytest.raises(ValueError, match="strength of 0.1 with 3 steps leaves no step"):
        wrong = unchecked(CONFIG, strength=0.1)
        refinement_stage(backbone, semantic, NAMES, wrong, 0, TRIALS, folder=whole.parent)
    assert (contents(whole), contents(whole.parent / "refinement")) == before and not made
    refinement_stage(backbone, None, NAMES, wrong, 0, TRIALS, folder=whole.parent)  # from names alone it has no say


def test_a_full_disk_keeps_what_was_written(backbone, embeddings, semantic, tmp_path, monkeypatch, made):
    def refuse(aside):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(path, write, **options):
        write_aside(path, refuse if path.name == "trial-00015_sample-0.png" else write, **options)

    monkeypatch.setattr(pictures, "write_aside", full)
    with pytest.raises(PictureError, match="trial-00015_sample-0.png cannot be written: .*No space left.*run again"):
        semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("semantic/trial*"))) == 4
    assert np.array_equal(semantic_stage(backbone, embeddings, CONFIG, 0, TRIALS, folder=tmp_path), semantic)
