"""Run one notebook of a study for Snakemake's rules: alone in its folder, and stopped when nobody waits for it.

Two studies that share a stage run it once, on one machine or on two nodes of a cluster. The lock is a file that its
owner touches (filelock's lease), because `flock` may not work on network file systems.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from filelock import SoftFileLease, Timeout

from brainvis.files.folders import BrainvisError
from brainvis.files.warm import WARM, kernel_spec

STARTED = "BRAINVIS_STARTED"  # start time of the study that asks for this run; set by the Snakefile, inherited by jobs
PLAN = "BRAINVIS_PLAN"  # set by the Snakefile for its jobs: they run under a snakemake process
MADE = ".made"  # the file in a run's folder that names the mark last made there
LEASE = 90  # seconds without a heartbeat after which the owner of a lock on another machine counts as dead
HEARTBEAT = 10  # seconds between heartbeats


class Stopped(BrainvisError):
    """The run was told to stop, or nobody waits for it any more."""


def run_notebook(notebook: Path, executed: Path, mark: Path, parameters: list[tuple[str, str]]) -> str:
    """Run a notebook once, even if several processes ask for it at the same time, and report what was done.

    Args:
        notebook: the notebook that papermill runs.
        executed: path of the executed notebook, with outputs.
        mark: the empty file that marks a complete run; made by the notebook, or else here.
        parameters: names and values, as for papermill's -p.

    Raises:
        Stopped: by a signal, because snakemake has died, or because another run took over the folder.
        BrainvisError: the notebook failed; the message contains its error.
    """
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # like papermill itself: no warning at each start
    started = float(os.environ.get(STARTED, time.time()))
    snakemakes = _snakemakes()
    if PLAN in os.environ and not snakemakes:  # it died while this process was starting
        raise Stopped("snakemake has died, so this run stops")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    # Snakemake removes the mark before it runs a job, even if another study has just made it. It does not touch this
    # file.
    made = mark.parent / MADE
    mark.parent.mkdir(parents=True, exist_ok=True)
    with held(mark.parent / ".running.lock", lambda: _orphaned(snakemakes)) as is_lost:
        if made.exists() and made.read_text() == mark.name and (when := made.stat().st_mtime) >= started:
            if not mark.exists():
                mark.touch()
                os.utime(mark, (when, when))  # older than what has since been built from it
            return f"{mark.parent}: made by another study in the meantime"
        made.unlink(missing_ok=True)
        others = list(mark.parent.glob("*.whole"))

        def check() -> None:
            if _orphaned(snakemakes):
                raise Stopped("snakemake has died, so this run stops")
            if is_lost():
                raise Stopped(f"another run has taken over {mark.parent}, because this one showed no sign of life")

        try:
            with _printing_to(executed.with_suffix(".log")):
                work = _execute(notebook, executed, parameters, check)
            _raise_failure(work, executed)
        finally:
            _end_children()
        if not mark.exists():  # it gathers the runs of all studies, so it is as new for the others as for this one
            for whole in (*others, mark):
                whole.touch()
        made.write_text(mark.name)
    plan = Path(os.environ.get(PLAN, ""))
    return progress(plan, mark.parent) if plan.is_file() else f"{mark.parent}: done"


@contextmanager
def held(lock: Path, orphaned: Callable[[], bool] = lambda: False) -> Iterator[Callable[[], bool]]:
    """Hold a lock that works across machines; yields a function that says whether another process has since taken it
    over.

    A lock whose owner has died is freed at once on this machine, and after `LEASE` seconds without a heartbeat on
    another machine, by the clock of the waiting process.

    Raises:
        Stopped: `orphaned` became true while this process waited.
    """
    lost: list[object] = []
    lease = SoftFileLease(
        lock, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, poll_interval=0.5, on_compromise=lost.append
    )
    before = None
    while not lease.is_locked:
        try:
            lease.acquire(timeout=1 if before is None else LEASE + 3 * HEARTBEAT, cancel_check=orphaned)
        except Timeout:
            if orphaned():
                raise Stopped("snakemake has died, so this run stops") from None
            if before is None and (owner := lease.owner):
                print(f"{lock.parent}: waiting for {owner.hostname}, process {owner.pid}", file=sys.stderr, flush=True)
            # filelock takes a dead owner's lock by swapping two names, which network file systems refuse.
            if before is not None and before == _state(lock):
                lease.force_break()
            before = _state(lock)
    try:
        yield lambda: bool(lost)
    finally:
        lease.release()


def _state(lock: Path) -> tuple[int, ...]:
    try:
        found = lock.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _execute(notebook: Path, executed: Path, parameters: list[tuple[str, str]], check: Callable[[], None]) -> Future:
    """Run papermill in a separate thread, so that this one receives signals, and call `check` once a second."""
    # Skips a second of imports, for checking URIs by a grammar that no notebook's schema uses: jsonschema works
    # without.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from papermill.cli import _resolve_type
    from traitlets.config import Config

    with TemporaryDirectory(prefix="brainvis-") as private:
        if Path(place := os.environ.get(WARM, "")).is_socket():
            kernel_spec(place, Path(private))
            os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (private, os.environ.get("JUPYTER_PATH"))))
        # Through sockets in that folder: other users of the node can listen to TCP, and a machine without a network has
        # none.
        talk = {"transport": "ipc", "ip": f"{private}/kernel"} if len(private) < 80 and os.name == "posix" else {}
        work = ThreadPoolExecutor(1).submit(
            papermill.execute_notebook,
            *(notebook, executed, {name: _resolve_type(value) for name, value in parameters}),
            kernel_name="python3",
            progress_bar=False,
            config=Config({"KernelManager": talk}),
        )
        while not wait([work], timeout=1).done:
            check()
    return work


def _raise_failure(work: Future, executed: Path) -> None:
    """Raise BrainvisError, and print the notebook's traceback, if it failed."""
    from papermill.exceptions import PapermillExecutionError

    try:
        work.result()
    except PapermillExecutionError as error:
        print(error, file=sys.stderr)
        raise BrainvisError(f"{executed}, cell [{error.exec_count}]: {error.ename}: {error.evalue}") from None


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Redirect everything that this process and its kernels print to a file: library warnings, papermill's messages."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with log.open("wb") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, own in zip((1, 2), kept, strict=True):
            os.dup2(own, number)
            os.close(own)


def progress(plan: Path, folder: Path) -> str:
    """What has just been done and what is left of the study: "12 of 27  04_fusion, subject 1, full; ...".

    The remaining time is estimated from how long each notebook's runs have taken, at the pace of this study so far.
    """
    _, *jobs = json.loads(plan.read_text(encoding="utf-8"))
    this = next((job for job in jobs if Path(job["folder"]) == folder), None)
    if this is None:
        return f"{folder}: done"
    started, took, missing, worked = float(os.environ.get(STARTED, 0)), {}, [], 0.0
    for job in jobs:
        whole = Path(job["folder"], f"{job['fingerprint']}.whole")
        if job is not this and not whole.exists():
            missing.append(job["notebook"])
        elif (results := whole.with_name("results.json")).exists():
            seconds = json.loads(results.read_text(encoding="utf-8")).get("seconds", 0)
            took.setdefault(job["notebook"], []).append(seconds)
            worked += seconds if results.stat().st_mtime >= started else 0
    means = {notebook: sum(times) / len(times) for notebook, times in took.items()}
    usual = sum(means.values()) / max(len(means), 1)
    left = sum(means.get(notebook, usual) for notebook in missing) * (time.time() - started) / max(worked, 1)
    *_, study, who, ablation, _ = folder.parts
    _, _, seed = study.partition("_seed-")
    subject = who.removeprefix("sub-").lstrip("0")
    what = [this["notebook"], "all subjects" if subject == "all" else f"subject {subject}", ablation]
    what += [f"seed {seed.partition('_')[0]}"] if seed else []
    after = f"about {max(1, round(left / 60))} min left" if missing else "all runs are complete"
    return f"{len(jobs) - len(missing):>3} of {len(jobs)}  {', '.join(what)}; {after}"


def _on_signal(number: int, frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)  # once is enough: what follows takes only a moment
    raise Stopped(f"stopped by {signal.Signals(number).name}")


def _snakemakes() -> list[psutil.Process]:
    """The snakemake processes for which this one works: on a cluster a job has its own, under one that waits."""
    found = []
    for parent in psutil.Process().parents():
        try:
            words = [Path(word).name for word in parent.cmdline()[:3]]
        except psutil.Error:
            continue
        found += [parent] if "snakemake" in words else []
    return found


def _orphaned(snakemakes: list[psutil.Process]) -> bool:
    try:
        return not all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in snakemakes)
    except psutil.NoSuchProcess:
        return True


def _end_children() -> None:
    """End the kernel and everything it started; if the notebook ended by itself, nothing is left to end."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            child.kill()
    psutil.wait_procs(children, timeout=10)
