"""Measures how fast brainvis is: against `baseline`, the same maths the obvious way, and against what this machine can
do. Every figure is a ratio within a run in which contestants take turns; nothing is asserted.

make benchmark                                        all parts, demo and paper size: ten minutes on two idle cores
make benchmark ARGS="steps --size paper --case fusion"
make benchmark ARGS="steps --size paper --case masked --batch 64 --precision float32"
make benchmark ARGS=--full                            the data at full size, every training, ViT-H/14: hours on a CPU
make benchmark ARGS=grid                               whole studies through snakemake, a quarter of an hour
make benchmark ARGS=--show                            the table of what was measured so far

Each row is in the JSON file as soon as it is measured; an interrupted run goes on with --resume.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from benchmarks.turns import ROOT, Environment, ask

PARTS = ("ceilings", "steps", "opening", "pictures", "starting")
BY_NAME = ("grid",)  # whole studies take a quarter of an hour: only when they are named
SIZES = ("demo", "paper", "smoke")
LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "numpy", "snakemake")


@dataclass
class Options:
    """What a part asks for when it measures."""

    sizes: list[str]
    device: str
    environment: Environment
    scratch: Path  # weights and data that are made for this, and kept
    full: bool
    precision: str  # of trainings: "auto", "float32" or "bfloat16"
    rounds: int | None  # None: what suits the case
    batch: int | None
    steps: int | None


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all of these), grid")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["demo", "paper"])
    parser.add_argument("--case", nargs="+", help="only rows whose names have one of these words")
    parser.add_argument("--full", action="store_true", help="data and judges at full size, which takes long on a CPU")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of trainings")
    parser.add_argument("--threads", type=int, default=_threads(), help="default: OMP_NUM_THREADS, else all cores")
    for name, what in (("rounds", "turns of each"), ("batch", "trials in a step"), ("steps", "steps in a turn")):
        parser.add_argument(f"--{name}", type=int, help=f"{what} (default: what suits the case)")
    folder = ROOT / "build" / "benchmarks"
    parser.add_argument("--file", type=Path, default=folder / "results.json", help="JSON (default %(default)s)")
    parser.add_argument("--scratch", type=Path, default=folder, help="for weights and data, up to 12 GB (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="leave out what the file has already")
    parser.add_argument("--show", action="store_true", help="measure nothing, print the file's table")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - {*PARTS, *BY_NAME}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS + BY_NAME)}")
    if chosen.show:
        print(table(json.loads(chosen.file.read_text(encoding="utf-8"))))
        return 0
    chosen.scratch.mkdir(parents=True, exist_ok=True)
    environment = Environment(chosen.threads, chosen.scratch.resolve())
    found = ask(("benchmarks.__main__:machine", {"device": chosen.device}), environment)
    kept = ("sizes", "full", "precision", "rounds", "batch", "steps")
    choices = {name: getattr(chosen, name if name != "sizes" else "size") for name in kept}
    options = Options(device=found["device"], environment=environment, scratch=chosen.scratch.resolve(), **choices)
    report = {"machine": found | {"threads": chosen.threads}, "rows": []}
    if chosen.file.exists() and (before := json.loads(chosen.file.read_text(encoding="utf-8"))):
        if before["machine"] == report["machine"]:
            report = before
        else:
            aside = chosen.file.with_suffix(".before.json")
            chosen.file.replace(aside)
            print(f"Measured on another machine or with other versions: moved to {aside}", file=sys.stderr)
    for part in chosen.parts or PARTS:
        for case, size, measure in import_module(f"benchmarks.{part}").measurements(options):
            there = [row for row in report["rows"] if (row["part"], row["case"], row["size"]) == (part, case, size)]
            if (chosen.case and not any(word in case for word in chosen.case)) or (chosen.resume and there):
                continue
            print(f"{part}: {case}, {size} ...", end="", file=sys.stderr, flush=True)
            start = time.monotonic()
            row = {"part": part, "case": case, "size": size, **measure()}
            print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
            report["rows"] = [row if old in there else old for old in report["rows"]] + ([] if there else [row])
            chosen.file.parent.mkdir(parents=True, exist_ok=True)
            chosen.file.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(table(report), f"\nAll figures: {chosen.file}", sep="\n")
    return 0


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(os.environ.get("OMP_NUM_THREADS") or cores)


def machine(turns, device: str | None) -> None:
    """Facts: what it is measured on."""
    import torch

    from brainvis.training import choose_device

    chosen = choose_device(device)
    gpu = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None
    turns.ready(
        device=str(chosen),
        gpu=gpu,
        processor=_processor(),
        cores=os.cpu_count(),
        amx=chosen.type == "cpu" and torch.cpu._is_amx_tile_supported(),
        system=platform.platform(),
        python=platform.python_version(),
        versions={name: version(name) for name in LIBRARIES},
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(report: dict) -> str:
    """The rows as Markdown."""
    about = report["machine"]
    head = (
        "measured",
        "size",
        "brainvis",
        "times the obvious way",
        "share of the ceiling",
        "memory",
        "the obvious",
        "",
    )
    lines = [head]
    for row in report["rows"]:
        memory = [_memory(row.get("peak", {}).get(who)) for who in ("package", "baseline")]
        ratios = _spread(row.get("times_baseline")), _spread(row.get("share_of_ceiling"), percent=True)
        lines.append(
            (row["case"], row["size"], f"{_spread(row['package'])} {row['unit']}", *ratios, *memory, _note(row))
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    where = about["gpu"] or f"{about['processor']}, {'with' if about['amx'] else 'without'} AMX"
    where += f"; {about['threads']} threads; torch {about['versions']['torch']}"
    what = (
        "Medians of rounds in turns [lowest, highest]; memory: the most that a process had, torch and Python included"
    )
    return "\n".join([*(f"| {line} |" for line in lines), "", f"{where}. {what}."])


def _spread(figure: dict | None, percent: bool = False) -> str:
    """Median, and lowest and highest of several rounds."""
    if figure is None:
        return ""
    median, low, high = (f"{figure[key]:.0%}" if percent else f"{figure[key]:.3g}" for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]" if figure["rounds"] > 1 else median


def _note(row: dict) -> str:
    """What else there is to say."""
    others = [key for key in row if key.startswith("times_") and key != "times_baseline"]
    said = [f"{_spread(row[key])} times {key.removeprefix('times_').replace('_', ' ')}" for key in others]
    return "; ".join(filter(None, [*said, row["settings"].get("note", "")]))


def _memory(peak: dict | None) -> str:
    return f"{peak.get('accelerator_memory', peak['memory']) / 1e9:.2f} GB" if peak else ""


if __name__ == "__main__":
    sys.exit(main())
