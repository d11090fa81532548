"""`python -m brainvis run`: one run at a time whoever asks, taken over from the dead, and gone with its snakemake."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from filelock import SoftFileLease
from helpers.world import World
from kills import content, leftovers, until_whole

from brainvis.files import running
from brainvis.files.running import held

CODE = """
import json, os, sys, time
from pathlib import Path
from brainvis.files import running
running.LEASE, running.HEARTBEAT = 2.0, 0.3
"""
HOLD = f"""{CODE}
folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with running.held(folder / ".running.lock") as is_lost:
    (folder / f"{{name}}.entered").write_text(str(time.time()))
    time.sleep(seconds)
    (folder / f"{{name}}.left").write_text(json.dumps([time.time(), is_lost()]))
"""
NFS = "import filelock._soft\nfilelock._soft.exchange_names = lambda *names: False\n"
ELSEWHERE = "import socket\nsocket.gethostname = lambda: 'elsewhere'\n"


@pytest.fixture
def started(tmp_path):
    """Starts Python code in a process, and ends it with the test."""
    processes = []

    def start(code: str, *arguments: object, **more) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        processes.append(subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **more))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition, seconds=30.0):
    end = time.time() + seconds
    while time.time() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def entered(folder: Path, name: str):
    return wait_for((folder / f"{name}.entered").exists) and float((folder / f"{name}.entered").read_text())


def left(folder: Path, name: str):
    wait_for((folder / f"{name}.left").exists)
    time.sleep(0.1)
    return json.loads((folder / f"{name}.left").read_text())


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(running, "LEASE", 2.0)
    monkeypatch.setattr(running, "HEARTBEAT", 0.3)


def test_one_at_a_time(started, tmp_path):
    for name in "abcd":
        started(HOLD, tmp_path, name, 0.5)
    spans = sorted((entered(tmp_path, name), left(tmp_path, name)[0]) for name in "abcd")
    assert all(out <= into for (_, out), (into, _) in zip(spans, spans[1:], strict=False))
    assert not any(left(tmp_path, name)[1] for name in "abcd")  # and nobody lost it
    wait_for(lambda: not list(tmp_path.glob(".*lock*")))


def test_the_lock_of_a_process_that_died_here_is_free_at_once(started, tmp_path):
    owner = started(HOLD, tmp_path, "dead", 60)
    entered(tmp_path, "dead")
    owner.kill()
    owner.wait()
    assert (tmp_path / ".running.lock").exists()
    began = time.time()
    with held(tmp_path / ".running.lock"):
        assert time.time() - began < 1.5


def test_a_living_owner_elsewhere_is_waited_for(started, tmp_path, short, capsys):
    started(ELSEWHERE + HOLD, tmp_path, "other", 5)
    entered(tmp_path, "other")
    with held(tmp_path / ".running.lock"):
        assert left(tmp_path, "other")[1] is False
    assert "waiting for elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("file_system", ["", NFS])
def test_an_owner_elsewhere_without_a_sign_of_life_is_taken_over_by_one(started, tmp_path, file_system):
    owner = started(ELSEWHERE + HOLD, tmp_path, "dead", 60)
    entered(tmp_path, "dead")
    owner.kill()
    owner.wait()
    died = time.time()
    for name in "abc":
        started(file_system + HOLD, tmp_path, name, 0.7)
    spans = sorted((entered(tmp_path, name), left(tmp_path, name)[0]) for name in "abc")
    assert spans[0][0] > died + 1.0
    assert all(out <= into for (_, out), (into, _) in zip(spans, spans[1:], strict=False))


def test_who_was_taken_over_hears_of_it(started, tmp_path, short):
    owner = started(ELSEWHERE + HOLD, tmp_path, "stopped", 6)
    entered(tmp_path, "stopped")
    owner.send_signal(signal.SIGSTOP)  # as a machine that sleeps
    with held(tmp_path / ".running.lock"):
        owner.send_signal(signal.SIGCONT)
        assert left(tmp_path, "stopped")[1] is True
        assert isinstance(SoftFileLease(tmp_path / ".running.lock", lease_duration=2.0).owner.pid, int)  # ours stays


@pytest.fixture
def notebook(tmp_path):
    """A notebook that counts how often it was run, sleeps, and fails if it is told to."""
    code = (
        "from pathlib import Path; import os, time; "
        "open('count', 'a').write(f'{os.getpid()} '); time.sleep(seconds)\n"
        "if fail: raise ValueError('the answer is ' + str(fail))"
    )
    cells = [nbformat.v4.new_code_cell("seconds = 0\nfail = 0"), nbformat.v4.new_code_cell(code)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "toy.ipynb")
    return tmp_path / "toy.ipynb"


def command(notebook: Path, *parameters: str) -> list[str]:
    given = [word for pair in zip(parameters[::2], parameters[1::2], strict=True) for word in ("-p", *pair)]
    return [sys.executable, "-m", "brainvis", "run", str(notebook), "run/toy.ipynb", "run/0a.whole", *given]


def run(notebook: Path, *parameters: str, **environment: str) -> subprocess.CompletedProcess:
    where = {"cwd": notebook.parent, "env": os.environ | environment}
    return subprocess.run(command(notebook, *parameters), capture_output=True, text=True, **where)


def kernels(folder: Path) -> list[int]:
    """Processes that ran the notebook and are still there."""
    pids = (folder / "count").read_text().split() if (folder / "count").exists() else []
    return [pid for pid in map(int, pids) if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_a_run_that_another_study_has_made_meanwhile_is_not_repeated(notebook):
    began, folder = str(time.time()), notebook.parent / "run"
    assert "done" in run(notebook, BRAINVIS_STARTED=began).stdout
    assert (folder / "0a.whole").exists() and (folder / "toy.ipynb").exists()
    when = (folder / "0a.whole").stat().st_mtime
    (folder / "0a.whole").unlink()  # as the other snakemake does before it starts the job
    assert "another study" in run(notebook, BRAINVIS_STARTED=began).stdout
    assert abs((folder / "0a.whole").stat().st_mtime - when) < 0.1
    assert len((notebook.parent / "count").read_text().split()) == 1
    assert (
        "done" in run(notebook, BRAINVIS_STARTED=str(time.time())).stdout
    )  # a study of later: it was asked to repeat it
    assert len((notebook.parent / "count").read_text().split()) == 2


def test_what_kernels_print_goes_to_the_log_of_the_run(notebook):
    made = nbformat.read(notebook, as_version=4)
    made.cells.append(nbformat.v4.new_code_cell("os.write(1, b'chatter of a library'); os.write(2, b'a warning')"))
    nbformat.write(made, notebook)
    answer = run(notebook)
    assert answer.returncode == 0 and "chatter" not in answer.stdout + answer.stderr
    log = (notebook.parent / "run" / "toy.log").read_text()
    assert "chatter of a library" in log and "a warning" in log


def test_progress_says_what_is_done_and_what_is_left(tmp_path, monkeypatch):
    """Two fusions took a minute each, two more and a generation are left; the study runs two at a time."""
    monkeypatch.setenv(running.STARTED, str(time.time() - 60))
    jobs, study = [], tmp_path / "phantom_seed-1"
    for number, (stage, notebook) in enumerate([("fusion", "04_fusion")] * 4 + [("generation", "06_generation")]):
        folder = study / f"sub-{number + 1:02}" / "full" / stage
        folder.mkdir(parents=True)
        jobs.append({"folder": str(folder), "notebook": notebook, "fingerprint": "0a"})
        if number < 2:
            (folder / "0a.whole").touch()
            (folder / "results.json").write_text('{"seconds": 60}')
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(["table", *jobs]))
    said = running.progress(plan, Path(jobs[1]["folder"]))
    assert said == "  2 of 5  04_fusion, subject 2, full, seed 1; about 2 min left"  # three minutes of work, by two
    for job in jobs:
        Path(job["folder"], "0a.whole").touch()
    assert running.progress(plan, Path(jobs[4]["folder"])).endswith("; all runs are complete")
    assert running.progress(plan, tmp_path / "another").endswith("another: done")


def test_it_does_not_start_for_a_snakemake_that_died_meanwhile(notebook):
    answer = run(notebook, BRAINVIS_PLAN="plan.json")
    assert answer.returncode != 0 and "snakemake has died" in answer.stderr
    assert not list(notebook.parent.rglob("*.whole"))


def test_an_error_is_one_sentence_at_the_end(notebook):
    answer = run(notebook, "fail", "42")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr
    assert answer.stderr.splitlines()[-1] == "brainvis: run/toy.ipynb, cell [3]: ValueError: the answer is 42"
    assert not list((notebook.parent / "run").glob("*.whole"))
    answer = run(notebook.with_name("none.ipynb"))
    assert answer.returncode == 1 and answer.stderr.startswith("brainvis: run/toy.ipynb cannot be run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_kernel_too(notebook, number):
    process = subprocess.Popen(
        command(notebook, "seconds", "60"), cwd=notebook.parent, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: kernels(notebook.parent))
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode != 0
    wait_for(lambda: not kernels(notebook.parent), 5)
    if number != signal.SIGKILL:
        assert f"stopped by {number.name}" in said
        assert not list((notebook.parent / "run").glob(".*lock"))
    assert run(notebook).returncode == 0  # and whoever comes next goes on


def test_it_ends_with_its_snakemake(notebook, started):
    snakemake = notebook.parent / "snakemake"  # what stands in for it: only its name counts
    snakemake.write_text("import subprocess, sys\nsubprocess.run(sys.argv[1:])")
    words = [str(snakemake), *command(notebook, "seconds", "60")]
    parent = subprocess.Popen([sys.executable, *words], cwd=notebook.parent, start_new_session=True)
    wait_for(lambda: kernels(notebook.parent))
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert len(gone) >= 2 and not alive
    assert not list((notebook.parent / "run").glob(".*lock"))


def test_a_study_goes_on_after_kills(smoke_study, tmp_path):
    """Snakemake's own kills, few and early; `make kills` does many."""
    folder = tmp_path / "my study's"
    shutil.copytree(smoke_study, folder)
    right, world, kinds = content(World(smoke_study)), World(folder), []
    for stage in ("fusion", "alignment", "generation"):
        shutil.rmtree(world.runs / "phantom_smoke" / "sub-02" / "full" / stage)
    orphans = []
    whole = until_whole(
        world, 3, random.Random(0), lambda kind, left: (kinds.append(kind), orphans.extend(left)), latest=6.0
    )
    assert whole and len(kinds) == 3
    assert not orphans and not [file for file in leftovers(world) if not file.endswith(".lock")]  # of the dead: free
    assert content(world) == right
