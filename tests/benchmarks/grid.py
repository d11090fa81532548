"""Whole studies through Snakemake: seconds of each stage; growth with trials, subjects, ablations and seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.turns import ROOT, spread

ABLATIONS = ("full", "no_time", "no_frequency", "no_refinement")
START = {"subjects": 1, "ablations": 1, "seeds": 1, "trials": 1}
CORES = 2


def measurements(options) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """The study of a size, as it is by default (`demo` alone: others take hours, or say little), then grids of `smoke`
    that are once, twice and four times as large in one respect."""
    if "demo" in options.sizes:
        yield "default study", "demo", lambda: studied({"preset": "demo"})
    for what in START:
        for times in (1, 2, 4):
            yield f"study, {what} x {times}", "smoke", lambda what=what, times=times: grown(what, times)


def grown(what: str, times: int) -> dict:
    """A study of `smoke` with `times` as many of one thing; its wall clock in all, Snakemake's starts included."""
    size = START | {what: times}
    with tempfile.TemporaryDirectory() as name:
        # An image a class and part of the split at least; more of them are more trials.
        preset = Path(name) / "grown.yml"
        world = {"subjects": max(2, size["subjects"]), "images_per_class": 6 * size["trials"]}
        preset.write_text(json.dumps({"start": "smoke", "phantom": world}), encoding="utf-8")
        subjects, ablations = list(range(1, size["subjects"] + 1)), list(ABLATIONS[: size["ablations"]])
        grid = {"preset": str(preset), "subjects": subjects, "ablations": ablations}
        rows = [studied(grid | {"seed": seed}, Path(name)) for seed in range(size["seeds"])]
    total = sum(row["package"]["median"] for row in rows)
    return rows[0] | {"package": spread([total]), "settings": {"note": f"{CORES} cores; {json.dumps(size)}"}}


def studied(grid: dict, folder: Path | None = None) -> dict:
    """Seconds of a study from nothing, wall clock; of each of its notebooks, summed over runs, in `stages`."""
    with tempfile.TemporaryDirectory() as name:
        folder = folder or Path(name)
        places = {f"BRAINVIS_{what.upper()}": str(folder / what) for what in ("data", "runs", "figures")}
        where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", str(CORES)]
        choices = [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in grid.items()]
        command = [sys.executable, "-m", "snakemake", *where, "--quiet", "all", "--config", *choices]
        before, start = set(folder.rglob("*.ipynb")), time.monotonic()
        done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the study failed: {done.stderr[-2000:]}")
        seconds, stages = time.monotonic() - start, defaultdict(list)
        for notebook in set(folder.rglob("*.ipynb")) - before:
            executed = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]
            stages[notebook.stem].append(executed["duration"])
        of_stages = {stage: {"runs": len(all_of), "seconds": sum(all_of)} for stage, all_of in sorted(stages.items())}
        note = "; ".join(
            f"{stage[:2]}: {one['runs']} x {one['seconds'] / one['runs']:.0f} s" for stage, one in of_stages.items()
        )
        return {
            "unit": "s",
            "package": spread([seconds]),
            "stages": of_stages,
            "settings": {"note": f"{CORES} cores; {note}"},
        }
