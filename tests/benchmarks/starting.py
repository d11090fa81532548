"""What a person waits for before anything is computed: imports, the kernel, a notebook's frame, Snakemake's plan."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.turns import ROOT, Turns, compete, spread

NOTEBOOKS = ("02_lmm_pretraining", "06_generation")  # the lightest and the heaviest of the trainings' imports


def imported(turns: Turns, statements: str) -> None:
    """Import statements in a fresh process."""
    code = compile(statements, "imports", "exec")
    turns.ready()
    exec(code, {})
    turns(1)


def kernel(turns: Turns) -> None:
    """A kernel's start, to the first result that comes back."""
    from jupyter_client.manager import start_new_kernel

    turns.ready()
    while True:
        manager, client = start_new_kernel(kernel_name="python3")
        reply = client.execute_interactive("1 + 1", timeout=60, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply
        try:
            turns(1)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def notebook(turns: Turns, plain: bool) -> None:
    """An empty notebook, by `brainvis run` as Snakemake's rules do it, or by papermill alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": None, "id": "one"}
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        empty = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (folder / "empty.ipynb").write_text(json.dumps(empty), encoding="utf-8")
        turns.ready()
        number = 0
        while True:
            run, number = folder / f"run-{number}", number + 1
            run.mkdir()
            files = [str(folder / "empty.ipynb"), str(run / "executed.ipynb")]
            command = ["papermill", *files] if plain else ["brainvis", "run", *files, str(run / "1.whole")]
            subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
            turns(1)


def planned(turns: Turns) -> None:
    """The default study, planned and not run, in folders that are empty."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {f"BRAINVIS_{name}": folder for name in ("DATA", "RUNS", "FIGURES")}
        where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", folder]
        turns.ready()
        while True:
            command = [sys.executable, "-m", "snakemake", *where, "--cores", "1", "--dry-run", "--quiet"]
            subprocess.run(command, check=True, env=environment)
            turns(1)


def imports_of(notebook: str) -> str:
    """The import statements of a notebook."""
    content = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    found = [node for source in sources for node in ast.parse(source).body]
    return "\n".join(ast.unparse(node) for node in found if isinstance(node, ast.Import | ast.ImportFrom))


def measurements(options) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """Seconds; imports against `import torch`, a notebook against papermill alone."""
    torch = ("benchmarks.starting:imported", {"statements": "import torch"})
    whole = "from brainvis.study import Study"
    for name, statements in {
        "import brainvis": "import brainvis",
        "import of a study": whole,
        **{f"imports of notebook {name[:2]}": imports_of(name) for name in NOTEBOOKS},
    }.items():
        contestants = {"package": ("benchmarks.starting:imported", {"statements": statements}), "import torch": torch}
        yield name, "", lambda contestants=contestants: _row(contestants, options, fresh=True)
    yield "kernel to first result", "", lambda: _row({"package": ("benchmarks.starting:kernel", {})}, options)
    frames = {who: ("benchmarks.starting:notebook", {"plain": who == "baseline"}) for who in ("package", "baseline")}
    yield "empty notebook", "", lambda: _row(frames, options)
    yield "Snakemake's plan", "", lambda: _row({"package": ("benchmarks.starting:planned", {})}, options)


def _row(contestants: dict, options, fresh: bool = False) -> dict:
    outcome = compete(contestants, options.rounds or 3, options.environment, fresh)
    row = {"unit": "s", "settings": {}} | ({"peak": outcome.peaks} if fresh else {})
    row |= {name: spread([1 / rate for rate in rates]) for name, rates in outcome.rates.items()}
    if "baseline" in contestants:
        row["times_baseline"] = spread(outcome.ratio("package", "baseline"))
    if "import torch" in contestants:
        row["times_import_torch"] = spread(outcome.ratio("import torch", "package"))
    return row
