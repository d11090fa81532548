"""Kills at random moments of the smoke study, through snakemake itself: what does the same command make of the rest?

    python tests/kills.py 200 --seed 0 --json kills.json

A study is killed and started again until it is whole, then compared with one that nobody killed; then the next begins,
until the number of kills is reached. The exit code is 1 if anything was lost. `make kills` runs this.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from helpers.world import GRID, World
from safetensors import safe_open

KINDS = {
    "snakemake": "SIGKILL of snakemake alone",
    "group": "SIGKILL of snakemake and all that its terminal would reach",
    "power": "SIGKILL of every process at once",
    "interrupt": "Ctrl-C: SIGINT to snakemake and all that its terminal reaches",
    "terminate": "SIGTERM to snakemake",
    "run": "SIGKILL of the process that runs a notebook",
    "kernel": "SIGKILL of a notebook's kernel",
}
EARLIEST, LATEST = 2.0, 30.0  # seconds after the start of snakemake
PATIENCE = 5.0  # seconds in which everything has to be gone after a kill of snakemake


def content(world: World) -> dict[str, str]:
    """What a study came to, by run: metrics, arrays and weights by their values, pictures by their bytes."""
    found = {}
    for file in sorted(world.runs.rglob("*")):
        name = str(file.relative_to(world.runs))
        if file.name == "results.json":
            metrics = json.loads(file.read_text())["metrics"]
            metrics.pop("missing", None)  # commands, with the paths of this world
            for of_file in metrics.get("figures", {}).values():
                of_file.pop("commits", None)  # a copy of a checkout has none
            found[name] = json.dumps(metrics, sort_keys=True)
        elif file.suffix == ".safetensors":
            total = hashlib.sha256()
            with safe_open(file, framework="np") as arrays:
                for key in sorted(arrays.keys()):
                    array = arrays.get_tensor(key)
                    total.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
            found[name] = total.hexdigest()
        elif file.suffix == ".png":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def start(world: World, log: Path, grid=GRID) -> subprocess.Popen:
    """The command of the study, always the same, in a group of its own as a terminal gives it."""
    command = ["snakemake", "--directory", str(world.folder), "--cores", "2", "--config", *grid]
    with log.open("a") as stream:
        return subprocess.Popen(
            command, cwd=world.checkout, env=world.environment, stdout=stream, stderr=stream, start_new_session=True
        )


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that it has started, itself first."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def words(member: psutil.Process) -> list[str]:
    """The command of a living process; none of a dead one, or of a zombie."""
    try:
        return member.cmdline() if member.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def end(member: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        member.kill()


def kill(process: subprocess.Popen, kind: str, chance: random.Random) -> tuple[bool, list[str]]:
    """Kill in one of the ways of `KINDS`; gives whether there was something to kill, and who was left behind."""
    everyone = family(process)
    victims = {"run": "brainvis", "kernel": "warm.py"}
    found = [member for member in everyone[1:] if victims.get(kind) in map(os.path.basename, words(member)[:3])]
    if process.poll() is not None or (kind in victims and not found):
        return False, []
    if kind in victims:
        end(chance.choice(found))
    elif kind == "power":
        for member in everyone:
            end(member)
    elif kind in ("group", "interrupt"):
        os.killpg(process.pid, signal.SIGKILL if kind == "group" else signal.SIGINT)
    else:
        process.send_signal(signal.SIGKILL if kind == "snakemake" else signal.SIGTERM)
    for _ in range(10):  # told to end, or after the loss of a job, it waits for its other jobs
        try:
            process.wait(timeout=60)
            break
        except subprocess.TimeoutExpired:
            if kind == "interrupt":
                os.killpg(process.pid, signal.SIGINT)  # snakemake misses one now and then: a person presses again
    else:
        everyone += family(process)
    left = [member for member in psutil.wait_procs(everyone, timeout=PATIENCE)[1] if words(member)]
    names = [" ".join(words(member)[:4]) for member in left]
    for member in left:
        end(member)  # counted; it shall not disturb what follows
    return True, names


def until_whole(world: World, kills: int, chance: random.Random, count, grid=GRID, latest=LATEST) -> bool:
    """Kill a study and start it again until it is whole; False if it ends by itself with an error.

    Args:
        kills: at most so many; the rest goes undisturbed.
        count: is told of each kill: its kind, and who was left behind.
    """
    log = world.folder / "snakemake.log"
    while True:
        process, killed = start(world, log, grid), False
        kind, pause = chance.choice(list(KINDS)), chance.uniform(EARLIEST, latest)
        while process.returncode is None and not killed:
            try:
                process.wait(timeout=pause if kills else None)
            except subprocess.TimeoutExpired:
                killed, left = kill(process, kind, chance)
                pause = 0.5  # there was none of this kind at that moment
        if not killed:
            return process.returncode == 0
        kills -= 1
        count(kind, left)


def leftovers(world: World) -> list[str]:
    """Files of killed writers, and locks, that a whole study still has."""
    names = ("*.part", "*.lock", "*.checkpoint")
    return sorted(str(file.relative_to(world.folder)) for name in names for file in world.runs.rglob(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    parser.add_argument("--reference", type=Path, help="folder of a study that nobody killed, from an earlier call")
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and its children do
    tried, orphans, wrong = Counter(), Counter(), []
    figures = {"kills": 0, "survived": 0, "studies": 0, "identical": 0, "leftovers": []}
    began = time.time()

    def report() -> None:
        kinds = {k: {"tried": tried[k], "orphans": orphans[k], "what": KINDS[k]} for k in KINDS}
        figures.update(by_kind=kinds, orphans=orphans.total(), wrong=wrong, seconds=round(time.time() - began))
        if chosen.json:
            chosen.json.write_text(json.dumps(figures, indent=1) + "\n")

    def count(kind: str, left: list[str]) -> None:
        figures["kills"] += 1
        tried[kind] += 1
        orphans[kind] += len(left)
        print(
            f"kill {figures['kills']} of {chosen.kills}: {kind}" + (f", LEFT BEHIND: {left}" if left else ""),
            flush=True,
        )
        report()

    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = Path(temporary)
        reference = World(chosen.reference or folder / "reference")
        if not reference.runs.exists():
            reference.folder.mkdir(parents=True, exist_ok=True)
            assert start(reference, reference.folder / "snakemake.log").wait() == 0, "the study fails without a kill"
        right = content(reference)
        print(f"reference: {len(right)} products, {time.time() - began:.0f} s", flush=True)
        while figures["kills"] < chosen.kills and not wrong:
            world = World(folder / f"study{figures['studies']}")
            world.folder.mkdir()
            before = figures["kills"]
            if not until_whole(world, chosen.kills - before, chance, count):
                kept = Path(tempfile.mkdtemp(prefix="killed-")) / "snakemake.log"
                shutil.copy(world.folder / "snakemake.log", kept)
                wrong.append(f"study {figures['studies']} did not go on after kill {figures['kills']}: {kept}")
                figures["survived"] += max(figures["kills"] - before - 1, 0)
                break
            figures["survived"] += figures["kills"] - before
            figures["studies"] += 1
            found, left = content(world), leftovers(world)
            differing = sorted(name for name in right.keys() | found.keys() if right.get(name) != found.get(name))
            figures["identical"] += not differing
            figures["leftovers"] += left
            wrong += [f"study {figures['studies']} differs: {differing}"] if differing else []
            print(
                f"study {figures['studies']} whole, {len(found)} products, {len(differing)} differ, left: {left}",
                flush=True,
            )
            report()
            shutil.rmtree(world.folder)
    report()
    print(json.dumps(figures, indent=1))
    return int(bool(wrong or figures["orphans"]))


if __name__ == "__main__":
    sys.exit(main())
