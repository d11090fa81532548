"""Contestants that take turns: each in a process of its own, one works while the others wait, so that all meet the same
machine in the same minute, and each has a peak memory of its own.

A contestant is a function f(turns, **arguments). It prepares itself, calls `turns.ready`, then does a piece of work and
calls `turns(units)`, again and again: both return when it is its turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Who = tuple[str, dict[str, Any]]  # "module:function" and its arguments, JSON-ready


class Over(BaseException):
    """Nobody asks for more. No `Exception`: it has to come out of whatever the contestant is in."""


class BenchmarkError(RuntimeError):
    """A contestant that failed; the message has the end of what it said."""


# In the contestant's process


class Turns:
    """What a contestant says and hears."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print is no answer
        self.started = 0.0

    def ready(self, **facts: object) -> None:
        """After the preparations: facts are kept in the report."""
        _reset_peak()
        self._say({"facts": facts, "before": peak_memory()["memory"]})

    def __call__(self, units: float) -> None:
        """After a piece of work of so many units."""
        _synchronise()
        self._say({"rate": units / (time.perf_counter() - self.started)})

    def _say(self, said: dict) -> None:
        print(json.dumps(said), file=self.answers)
        if sys.stdin.readline().strip() != "go":
            raise Over
        _synchronise()
        self.started = time.perf_counter()


def _accelerator():
    """torch.cuda or torch.mps if this process computes there, else None; nothing is imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda
    return torch.mps if torch is not None and torch.backends.mps.is_available() else None


def _synchronise() -> None:
    if accelerator := _accelerator():
        accelerator.synchronize()


def _reset_peak() -> None:
    if (accelerator := _accelerator()) and hasattr(accelerator, "reset_peak_memory_stats"):
        accelerator.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Most bytes that this process has had, preparations included; on a GPU those of the GPU since it was ready."""
    import psutil

    try:  # not getrusage, which on Linux counts the parent's as well
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        found = {"memory": 1024 * int(status.split("VmHWM:")[1].split()[0])}
    except FileNotFoundError:
        memory = psutil.Process().memory_info()
        found = {"memory": getattr(memory, "peak_wset", memory.rss)}
    accelerator = _accelerator()
    if hasattr(accelerator, "max_memory_allocated"):
        found["accelerator_memory"] = accelerator.max_memory_allocated()
    return found


def main() -> None:
    """`python -m benchmarks.turns MODULE:FUNCTION ARGUMENTS`."""
    turns = Turns()
    try:
        resolve_name(sys.argv[1])(turns, **json.loads(sys.argv[2]))
    except Over:
        pass  # the usual end
    print(json.dumps(peak_memory()), file=turns.answers, flush=True)
    os._exit(0)  # at once, whatever it still holds


# In the process that asks


@dataclass
class Environment:
    """What contestants run in."""

    threads: int
    folders: Path  # data, runs and figures that contestants make
    variables: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        self.variables = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": str(self.threads),
            "HF_HUB_OFFLINE": "1",
            **{f"BRAINVIS_{name}": str(self.folders / name.lower()) for name in ("DATA", "RUNS", "FIGURES")},
        }


class Contestant:
    """A process that waits for its turns."""

    def __init__(self, who: Who, environment: Environment) -> None:
        self.who = who[0]
        self.errors = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "benchmarks.turns", who[0], json.dumps(who[1])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, env=environment.variables, text=True, **pipes)
        heard = self._hear()
        self.facts, self.before = heard["facts"], heard["before"]

    def turn(self) -> float:
        """Units a second of its next piece of work."""
        return self._tell("go")["rate"]

    def end(self) -> dict[str, int]:
        """Let it end; returns its peak memory, in the end and `before` its first turn."""
        peak = {**self._tell("end"), "before": self.before}
        self.close()
        return peak

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()

    def _tell(self, word: str) -> dict:
        print(word, file=self.process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> dict:
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip()[-2000:]
        raise BenchmarkError(f"{self.who} ended with code {self.process.returncode}:\n{said}")


def ask(who: Who, environment: Environment) -> dict:
    """The facts that a function gives to `turns.ready`."""
    contestant = Contestant(who, environment)
    contestant.end()
    return contestant.facts


@dataclass
class Outcome:
    """What contestants did in rounds, by their names."""

    rates: dict[str, list[float]]  # units a second, one a round
    facts: dict[str, dict]
    peaks: dict[str, dict[str, int]]

    def ratio(self, one: str, other: str, factor: float = 1.0) -> list[float]:
        """Of two contestants' rates, times `factor`, round by round."""
        return [factor * a / b for a, b in zip(self.rates[one], self.rates[other], strict=True)]


def compete(
    contestants: dict[str, Who],
    rounds: int,
    environment: Environment,
    fresh: bool = False,
    told: Callable = lambda facts: {},
) -> Outcome:
    """Let contestants take turns, the order reversed in every other round.

    Args:
        fresh: each turn in a new process: what is measured happens only once in a process.
        told: (contestants' facts) -> more contestants, which depend on them.
    """
    contestants = dict(contestants)
    outcome = Outcome({}, {}, {})
    with ExitStack() as stack:

        def start(name: str) -> Contestant:
            contestant = Contestant(contestants[name], environment)
            stack.callback(contestant.close)
            outcome.facts[name] = contestant.facts
            return contestant

        waiting = {} if fresh else {name: start(name) for name in contestants}
        more = told(outcome.facts)
        contestants |= more
        waiting |= {} if fresh else {name: start(name) for name in more}
        for number in range(rounds):
            for name in sorted(contestants, key=list(contestants).index, reverse=number % 2 == 1):
                contestant = start(name) if fresh else waiting[name]
                outcome.rates.setdefault(name, []).append(contestant.turn())
                if fresh or number == rounds - 1:
                    outcome.peaks[name] = contestant.end()
    return outcome


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": len(values)}


if __name__ == "__main__":
    main()
