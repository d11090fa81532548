"""What several test modules start from: a tiny backbone with random weights, as a folder and loaded."""

import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers.tiny_backbone import write_backbone
from helpers.world import JOBS, ODD, World, copy_checkout

# Modules that take longest, ahead of all others, that no process ends with one while the rest have nothing to do; first
# what makes the study that several want, then what wants none.
LONG = ("end_to_end", "mutations", "hostile_files", "chance", "code_in_results", "running", "extensions", "offline")
LONG += ("real_data", "warm", "parallel")


def pytest_collection_modifyitems(items) -> None:
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Its folder, without a judge and a CLIP pair."""
    return write_backbone(tmp_path_factory.mktemp("backbone") / "tiny", judge=False, clip=False)


@pytest.fixture(scope="module")
def backbone(tiny):
    """Loaded on the CPU."""
    from brainvis.generation.stable_diffusion import load_stable_diffusion

    return load_stable_diffusion(tiny, "cpu", torch.float32)


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory) -> Path:
    """A copy of the checkout in a folder with an awkward name, and in it a smoke study that snakemake has run, once for
    all test modules and processes."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if folder.name.startswith("popen-") else folder) / ODD  # xdist: one a process
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            made = World(folder, checkout=copy_checkout(folder))
            assert made.planned() == JOBS
            answer = made.snakemake()
            assert answer.returncode == 0, answer.stdout + answer.stderr
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def world(smoke_study, tmp_path_factory):
    """The smoke study in folders of this test module's own."""
    folder = tmp_path_factory.mktemp("world") / ODD
    shutil.copytree(smoke_study, folder)
    return World(folder, checkout=folder)
