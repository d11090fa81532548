"""Kernels that begin as copies of one process: what they share with it, and that they end with whoever asked."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers.world import SURROUNDINGS, kernels

from brainvis.files import warm

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are forked on Linux alone")
CODE = """
import json, os, sys, time
known = [name for name in sys.modules if name.split(".")[0] == "brainvis"]
before = time.monotonic()

import mine
if heavy:
    import brainvis.generation.stable_diffusion
import numpy, torch
seconds_of_imports = time.monotonic() - before
about = {"pid": os.getpid(), "parent": os.getppid(), "known": known, "path": sys.path, "seconds": seconds_of_imports,
         "mine": mine.value, "folder": os.getcwd(), "random": [numpy.random.rand(), torch.rand(1).item()],
         "environment": dict(os.environ)}
with open("about.jsonl", "a") as file:
    file.write(json.dumps(about) + "\\n")
time.sleep(seconds)
"""


FIGURES = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
plt.close(figure)
figure
"""


def server(place: str) -> psutil.Process:
    return next(process for process in psutil.Process().children() if place in process.cmdline())


@pytest.fixture(scope="module")
def place():
    """The server that all tests of this process share."""
    place = kernels()[warm.WARM]
    wait_for(Path(place).is_socket)
    return place


@pytest.fixture
def folder(tmp_path):
    """With a notebook that tells about its kernel, and a module of its own."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("seconds = 0\nheavy = True", CODE, FIGURES)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "toy.ipynb")
    (tmp_path / "mine.py").write_text("value = 1")
    return tmp_path


def begin(folder: Path, place: str, seconds: int = 0, heavy: bool = True, **environment: str) -> subprocess.Popen:
    given = {**SURROUNDINGS, warm.WARM: place, **environment}
    words = ["-m", "brainvis", "run", "toy.ipynb", "run/toy.ipynb", "run/0a.whole", "-p", "seconds", str(seconds)]
    words += ["-p", "heavy", str(heavy)]
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=given, stderr=subprocess.PIPE, text=True)


def told(folder: Path) -> list[dict]:
    file = folder / "about.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run(folder: Path, place: str, heavy: bool = True, **environment: str) -> tuple[dict, str]:
    """What the kernel tells, and what was said."""
    process = begin(folder, place, heavy=heavy, **environment)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return told(folder)[-1], said + (folder / "run" / "toy.log").read_text()


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def test_a_kernel_has_the_libraries_and_reads_our_code_anew(place, folder):
    first, said = run(folder, place)
    assert "without the warm server" not in said and first["parent"] == server(place).pid
    assert first["known"] == []  # so that it reads brainvis as it is now
    assert first["seconds"] < 5 and first["folder"] == str(folder)
    (folder / "mine.py").write_text("value = 22")
    second, _ = run(folder, place)
    assert (first["mine"], second["mine"]) == (1, 22)
    assert first["random"] != second["random"]
    assert first["pid"] != second["pid"] and not psutil.pid_exists(first["pid"])


def shown(folder: Path) -> list[set[str]]:
    """What kinds of output each code cell of the executed notebook has."""
    cells = nbformat.read(folder / "run" / "toy.ipynb", as_version=4).cells
    outputs = [cell.outputs for cell in cells if cell.cell_type == "code"]
    return [{kind for output in of_cell for kind in output.get("data", {})} for of_cell in outputs]


def test_it_is_as_a_kernel_from_nothing(place, folder):
    forked, said = run(folder, place, BRAINVIS_ANYTHING="1")
    figures = shown(folder)
    alone, _ = run(folder, "no such place")
    assert figures == shown(folder) and "image/png" in figures[-1]
    assert forked["path"] == alone["path"]
    # What libraries leave in the environment when they are imported is there, too, of those that were not.
    names = {name for name in {**forked["environment"], **alone["environment"]} if not name.startswith("KMP_")}
    changed = {name for name in names if forked["environment"].get(name) != alone["environment"].get(name)}
    assert "without the warm server" not in said
    assert changed <= {"BRAINVIS_ANYTHING", warm.WARM, "JPY_PARENT_PID", "JUPYTER_PATH", "JPY_SESSION_NAME"}


def test_another_environment_gets_a_kernel_from_nothing(place, folder):
    about, said = run(folder, place, heavy=False, OMP_NUM_THREADS="2", HF_HOME="elsewhere")
    assert about["parent"] != server(place).pid
    assert "without the warm server: its environment differs in HF_HOME OMP_NUM_THREADS" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_kernel_ends_with_whoever_asked(place, folder, number):
    process = begin(folder, place, seconds=60)
    wait_for(lambda: told(folder))
    process.send_signal(number)
    process.communicate(timeout=20)
    wait_for(lambda: not psutil.pid_exists(told(folder)[0]["pid"]), 20)
    assert server(place).is_running()


def test_the_server_and_its_kernels_end_with_the_study(folder):
    study = "import time; from brainvis.files import warm; print(warm.start(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", study], env=SURROUNDINGS, stdout=subprocess.PIPE, text=True)
    place = process.stdout.readline().strip()
    wait_for(Path(place).is_socket)
    started = psutil.Process(process.pid).children()
    run_of_it = begin(folder, place, seconds=60)
    wait_for(lambda: told(folder))
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs([*started, psutil.Process(told(folder)[0]["pid"])], timeout=20)
    assert not alive and not Path(place).parent.exists()
    run_of_it.communicate(timeout=60)
    assert run_of_it.returncode  # its kernel died


def test_where_a_fork_is_not_safe_there_is_no_server(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert warm.start() is None
