"""Results know their code: what a change runs again, what it leaves alone, and what a person accepts by hand."""

import re
import shutil

import pytest
from helpers.world import World

AFTER = {"07_ablations": 1, "08_figures": 1}  # gather whatever was made anew
BUILT_ON_TIME = {"04_fusion": 2, "05_alignment": 2, "06_generation": 3}  # `no_time` has nothing of it


@pytest.fixture
def edited(world, tmp_path):
    return world.edited(tmp_path)


def edit(world, file, old, new):
    path = world.checkout / file
    text = path.read_text()
    assert re.search(old, text), f"{file} no longer has {old!r}"
    path.write_text(re.sub(old, new, text, count=1))


def test_another_folder_is_no_other_code(edited):
    assert edited.planned() == {}


CHANGES = {
    "a loss": (
        "brainvis/models/time.py",
        r"functional\.mse_loss\(",
        "2 * functional.mse_loss(",
        {"02_lmm_pretraining": 1, **BUILT_ON_TIME, **AFTER},
    ),
    "the other branch": (
        "brainvis/models/frequency.py",
        r"torch\.relu\(",
        "torch.nn.functional.gelu(",
        None,
    ),
    "a metric of pictures": (
        "brainvis/evaluation/pictures.py",
        r"sigma=1\.5",
        "sigma=2.5",
        {"06_generation": 4, **AFTER},
    ),
    "a mask ratio": (
        "brainvis/configuration/settings.py",
        r"mask_ratio: (.*) = 0\.75",
        r"mask_ratio: \1 = 0.5",
        {"02_lmm_pretraining": 1, **BUILT_ON_TIME, **AFTER},
    ),
    "a split": (
        "brainvis/data/dataset.py",
        r"torch\.cat\(\[train, validation\]\)",
        "torch.cat([validation, train])",
        {"01_data_exploration": 1, "02_lmm_pretraining": 1, "03_frequency_branch": 1, "04_fusion": 3, "05_alignment": 3,
         "06_generation": 4, **AFTER},
    ),
    "a cell": (
        "notebooks/05_alignment.ipynb",
        r"len\(order\) // 2",
        "len(order) // 3",
        {"05_alignment": 3, "06_generation": 4, **AFTER},
    ),
    "a comment and a docstring": (
        "brainvis/models/time.py",
        r'(class TimeEncoder\(\w+\):\n    """)',
        r"# a comment\n\1Words. ",
        {},
    ),
    "a plot": ("brainvis/plots/training.py", r"height=3\.4", "height=3.5", {}),
    "a table": ("brainvis/evaluation/report.py", r'"CA top-1"', '"CA, top-1"', {}),
    "a sentence": ("notebooks/02_lmm_pretraining.ipynb", "Labels are not used", "Nobody uses labels", {}),
    "a parameter typed into a notebook": ("notebooks/04_fusion.ipynb", "subject = 1", "subject = 2", {}),
    "another encoder": ("brainvis/models/eegnet.py", r"0\.5\b", "0.4", {}),
    "another data set": ("brainvis/data/recordings.py", r"0\.25", "0.2", {}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_runs_again_what_is_built_on_it_and_nothing_else(edited, change):
    file, old, new, expected = CHANGES[change]
    edit(edited, file, old, new)
    if expected is None:
        assert "02_lmm_pretraining" not in edited.planned() and edited.planned()["03_frequency_branch"] == 1
    else:
        assert edited.planned() == expected


def test_a_run_of_other_code_is_refused_with_the_command(edited):
    edit(edited, "brainvis/models/time.py", r"functional\.mse_loss\(", "2 * functional.mse_loss(")
    answer = edited.run("papermill", "notebooks/05_alignment.ipynb", "-", "-p", "preset", "smoke")
    assert answer.returncode != 0
    assert "was made from different code" in answer.stderr and "papermill notebooks/04_fusion.ipynb" in answer.stderr


@pytest.fixture
def own(smoke_study, tmp_path):
    """An edited checkout and a study of this test's own, whose runs it may change."""
    shutil.copytree(smoke_study, tmp_path / "study")
    return World(tmp_path / "study").edited(tmp_path / "checkout")


def test_somebody_who_knows_better_accepts_what_was_made_and_it_is_recorded(own):
    before = own.results("sub-all", "full", "lmm_pretraining")
    edit(own, "brainvis/models/time.py", r"functional\.mse_loss\(", "1 * functional.mse_loss(")
    assert own.planned()["02_lmm_pretraining"] == 1
    answer = own.run("python", "-m", "brainvis", "accept", "--preset", "smoke", "--reason", "times one")
    assert answer.returncode == 0, answer.stderr
    assert own.planned() in ({}, AFTER)  # the tables are made again: they say that something was accepted
    results = own.results("sub-all", "full", "lmm_pretraining")
    entry = {"reason": "times one", "fingerprint": before["fingerprint"], "code": before["code"]}
    assert results["accepted"] == [entry]
    assert results["fingerprint"] != before["fingerprint"] and results["metrics"] == before["metrics"]


def test_another_choice_cannot_be_accepted(own):
    edit(own, "brainvis/configuration/settings.py", r"mask_ratio: (.*) = 0\.75", r"mask_ratio: \1 = 0.5")
    answer = own.run("python", "-m", "brainvis", "accept", "--preset", "smoke", "--reason", "it is the same")
    assert answer.returncode == 0 and "lmm_pretraining: NOT accepted" in answer.stdout
    assert "accepted" not in own.results("sub-all", "full", "lmm_pretraining")
    assert own.planned()["02_lmm_pretraining"] == 1
