"""What several test modules start from: a tiny backbone with random weights, as a folder and loaded."""

import brainvis  # noqa: F401  # isort: skip  (ahead of torch: it says how many threads a process has)

import compileall
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers.locked import locked_world
from helpers.tiny_backbone import write_backbone
from helpers.world import GRID, JOBS, ODD, World, copy_checkout

# Modules that take longest, ahead of all others, that no process ends with one while the rest have nothing to do; first
# what makes the study that several want, then what wants none.
LONG = ("end_to_end", "mutations", "hostile_files", "running", "chance", "extensions", "real_data", "code_in_results")
LONG += ("warm", "backbone", "parallel")


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
def locked_study(tmp_path_factory) -> Path:
    """A smoke study that snakemake has run once for all test modules and processes, on a machine that is locked down
    where that is allowed. In the folder: its checkout, in a folder with an awkward name; `written`; `answer.json`."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if folder.name.startswith("popen-") else folder) / "locked"  # xdist: one a process
    with FileLock(f"{folder}.lock"):
        if not (folder / "answer.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            checkout = copy_checkout(folder / ODD)
            compileall.compile_dir(checkout / "brainvis", quiet=1)  # a locked checkout keeps nothing that is compiled
            assert World(folder / "plan", checkout=checkout).planned() == JOBS
            world, lock = locked_world(folder / "written", checkout)
            where = ["--directory", str(world.runs), "--cores", "2"]
            answer = world.run(*lock, sys.executable, "-m", "snakemake", *where, "--config", *GRID)
            assert answer.returncode == 0, answer.stdout + answer.stderr
            (folder / "answer.json").write_text(json.dumps({"locked": bool(lock)}))
    return folder


@pytest.fixture(scope="session")
def smoke_study(locked_study) -> Path:
    """The smoke study with its checkout, as if it had been made there."""
    folder = locked_study.with_name(ODD)
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_checkout(folder)
            written = locked_study / "written"
            (study,) = (written / "runs").glob("phantom_*")
            shutil.copytree(study, folder / "runs" / study.name)
            for name in ("data", "figures"):  # among the runs of a checkout that cannot be written to
                shutil.copytree(written / ("" if (written / name).exists() else "runs") / name, folder / name)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def world(smoke_study, tmp_path_factory):
    """The smoke study in folders of this test module's own."""
    folder = tmp_path_factory.mktemp("world") / ODD
    shutil.copytree(smoke_study, folder)
    return World(folder, checkout=folder)
