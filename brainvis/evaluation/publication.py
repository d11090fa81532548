"""Writes figures and tables with an index of what they show, and traces each number to its run, fingerprint and commit.

The same results give the same files, byte for byte.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from brainvis.evaluation.comparisons import MEASURES
from brainvis.evaluation.report import as_text, run_of
from brainvis.files import BrainvisError, read_json, write_aside, write_json
from brainvis.generation.pictures import Picture
from brainvis.study import Product

COMPARED = ("torch", "diffusers", "transformers", "open_clip_torch", "mne")  # packages that numbers may depend on
# For figure files; matplotlib would otherwise write these fields.
METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
INDEX, NUMBERS = "figures.json", "results.csv"
TRACED = "python -m brainvis trace"


class Publication:
    """A folder of figures (PNG and PDF) and tables, with an index of what each shows and was made from."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.index: dict[str, dict] = {}

    def add_figure(
        self, name: str, figure: Figure, caption: str, made_from: Sequence[Product], shows: Sequence[dict] = ()
    ) -> Figure:
        """Write `name`.png and .pdf, with the caveats of the runs that the figure is made from; returns it for display.

        `shows` lists its contents, see `numbers_of`, `differences_of`, `pictures_of`.
        """
        if warnings := caveats(made_from):
            figure.text(1, 0, "\n".join(warnings), ha="right", va="top", fontsize=7)
        for kind, metadata in METADATA.items():
            write = partial(figure.savefig, format=kind, dpi=200, bbox_inches="tight", metadata=metadata)
            self._add(f"{name}.{kind}", write, caption, made_from, shows)
        return figure

    def add_text(self, file: str, text: str, caption: str, made_from: Sequence[Product]) -> None:
        """Write a table or other text; `file` is its name with extension."""
        self._add(file, lambda path: path.write_text(text, encoding="utf-8"), caption, made_from)

    def write_index(self) -> dict[str, dict]:
        """Write `figures.json` and the captions; returns the index: name -> files, caption, runs, contents.

        Files listed in an older index but not in this one are removed.
        """
        before = read_json(self.folder / INDEX) if (self.folder / INDEX).exists() else {}
        files = {file for entry in self.index.values() for file in entry["files"]}
        for file in {file for entry in before.values() for file in entry["files"]} - files:
            (self.folder / Path(file).name).unlink(missing_ok=True)
        write_json(self.folder / INDEX, self.index)
        parts = []
        for name, entry in self.index.items():
            picture = f"![{name}]({name}.png)\n\n" if f"{name}.png" in entry["files"] else ""
            listed = ", ".join(f"[{file}]({file})" for file in entry["files"])
            parts.append(f"## {name}\n\n{picture}{as_text(entry['caption'])} {listed}\n")
        head = (
            f"# Figures and tables\n\nWritten by notebook 08; `{TRACED} figures/FILE` says where each number is from.\n"
        )
        text = "\n".join([head, *parts])
        write_aside(self.folder / "README.md", lambda path: path.write_text(text, encoding="utf-8"))
        return self.index

    def _add(
        self, file: str, write: Callable, caption: str, made_from: Sequence[Product], shows: Sequence[dict] = ()
    ) -> None:
        write_aside(self.folder / file, write)
        known = self.index.get(Path(file).stem, {"files": [], "made from": {}, "commits": {}, "shows": []})
        runs = known["made from"] | {run_of(product): product.results["fingerprint"] for product in made_from}
        commits = known["commits"] | {run_of(product): commit_of(product) for product in made_from}
        self.index[Path(file).stem] = {
            "files": [*known["files"], file],
            "caption": f"{caption} {_made_from(runs)}".strip(),
            "made from": dict(sorted(runs.items())),
            "commits": dict(sorted(commits.items())),
            "shows": list(shows) or known["shows"],
        }


def _made_from(runs: Mapping[str, str]) -> str:
    """The part of a caption that describes the runs."""
    if len(runs) > 3:
        return f"Made from {len(runs)} runs; {TRACED} lists them."
    return f"Made from {' and '.join(f'{run} ({mark})' for run, mark in sorted(runs.items()))}." if runs else ""


def commit_of(product: Product) -> str:
    """The commit that made a run, and whether the working tree differed from it."""
    made = product.results.get("made_with", {})
    return made.get("commit", "unknown") + (", working tree modified" if made.get("modified") else "")


def numbers_of(scores: pd.DataFrame) -> list[dict]:
    """Rows of `report.gather_scores` or `seeds.mean_over_seeds`, as the contents of a figure."""
    return [
        {"what": f"subject {row['subject'] or 'all'}, {row['ablation']}: {row['score']}", "value": _interval(row),
         "runs": list(row["runs"]) if "runs" in row else [row["run"]]}
        for _, row in scores.iterrows()
    ]  # fmt: skip


def differences_of(differences: pd.DataFrame, products: Iterable[Product]) -> list[dict]:
    """Rows of `comparisons.ablation_differences`, each with the runs that it is computed from."""
    shown, products = [], list(products)
    for _, row in differences.iterrows():
        of = [product for product in products if product.results["stage"] == MEASURES.get(row["measure"])]
        pair = [[p for p in of if p.results["study"]["ablation"] == name] for name in ("full", row["ablation"])]
        both = set.intersection(*({p.results["study"]["seed"] for p in each} for each in pair))
        runs = [run_of(p) for each in pair for p in each if p.results["study"]["seed"] in both]
        shown.append({"what": f"{row['measure']}: {row['ablation']} - full", "value": _interval(row), "runs": runs})
    return shown


def pictures_of(product: Product, files: Mapping[str, Sequence[str]]) -> list[dict]:
    """Pictures of a run: their kind -> their files, in its folder `pictures`."""
    return [
        {"what": what, "value": f"pictures/{file}", "runs": [run_of(product)]} for what in files for file in files[what]
    ]


STAGE_FOLDERS = {"semantic": "semantic", "refined": "refinement"}  # of a run's pictures
CEILING = "controls/led_by_caption/semantic"  # what the generator draws from the true caption


def ceiling_files(product: Product) -> dict[int, str]:
    """The picture of each trial drawn from its true caption: trial -> file; empty without controls."""
    found = sorted((product.folder / "pictures" / CEILING).glob("trial-*_sample-0.png"))
    return {int(file.name.split("_")[0].removeprefix("trial-")): f"{CEILING}/{file.name}" for file in found}


def read_pictures(product: Product, files: Mapping[int, str], trials: Iterable[int]) -> NDArray[np.uint8]:
    """Pictures of a run, uint8 (trial, height, width, 3)."""
    opened = [Image.open(product.folder / "pictures" / files[int(trial)]).convert("RGB") for trial in trials]
    return np.stack([np.asarray(picture) for picture in opened])


def grid_files(trials: Iterable[int], stages: Iterable[str], ceiling: Mapping[int, str]) -> dict[str, list[str]]:
    """Contents of a grid of pictures: trial and stage -> the file of its first sample."""
    listed = {}
    for trial in map(int, trials):
        for stage in stages:
            name = Picture(trial, 0, "").file
            listed[f"trial {trial}, {stage}"] = [f"{STAGE_FOLDERS[stage]}/{name}"]
        listed |= {f"trial {trial}, ceiling": [ceiling[trial]]} if trial in ceiling else {}
    return listed


def judged_names(product: Product, rows: Sequence[int]) -> dict[str, list[str]]:
    """What the judge of GA sees in the first sample of these trials of a run: stage -> names; empty without a judge."""
    names, arrays = product.metrics.get("judge_names", []), product.arrays
    judged = {stage: arrays[f"judged_{stage}"][rows, 0] for stage in STAGE_FOLDERS if f"judged_{stage}" in arrays}
    return {stage: [names[place] for place in places] for stage, places in judged.items()} if names else {}


def _interval(row: pd.Series) -> str:
    bounds = "" if pd.isna(row.get("low")) else f" [{row['low']:.4f}, {row['high']:.4f}]"
    return f"{row['value']:.4f}{bounds}"


def trace(file: Path) -> list[str]:
    """The origin of everything in a figure or table, as lines: what it is, its value, run, fingerprint, commit.

    Raises:
        BrainvisError: the file is not in the index of its folder.
    """
    if not (file.parent / INDEX).is_file() and file.with_suffix(".json").is_file():  # from a study that takes hours
        numbers = file.with_suffix(".json")
        command = ["git", "log", "-1", "--format=%h, %s", "--", numbers.name]
        commit = subprocess.run(command, cwd=numbers.parent, capture_output=True, text=True).stdout.strip()
        said = f"Drawn from {numbers}, written by a study in docs/studies; the README there says how."
        return [said, f"Commit: {commit or 'not committed'}"]
    if not (file.parent / INDEX).is_file():
        raise BrainvisError(f"{file.parent} has no {INDEX}, which notebook 08 writes next to the figures; run it first")
    index = read_json(file.parent / INDEX)
    entry = next((entry for entry in index.values() if file.name in entry["files"]), None)
    if entry is None:
        known = ", ".join(name for entry in index.values() for name in entry["files"])
        raise BrainvisError(f"{file.name} is not in {file.parent / INDEX}; it lists {known}")
    shows = entry.get("shows", [])
    if file.stem == Path(NUMBERS).stem:
        shows = numbers_of(pd.read_csv(file.parent / NUMBERS))
    lines = [entry["caption"], ""]
    for shown in shows:
        origins = [f"{run} {entry['made from'].get(run)}" for run in shown["runs"]]
        lines.append(f"{shown['value']}  {shown['what']}  <- {' and '.join(origins)}")
    lines += ["", "Runs (fingerprint, commit):"] if shows else ["Runs (fingerprint, commit):"]
    commits = entry.get("commits", {})
    return lines + [f"{run}  {mark}  {commits.get(run, 'unknown')}" for run, mark in entry["made from"].items()]


def to_latex(tables: Mapping[str, pd.DataFrame]) -> str:
    """Tables by title in LaTeX; needs the booktabs package and prints names unchanged."""
    parts = ["% \\usepackage{booktabs, graphicx}; written by notebook 08"]
    for title, table in tables.items():
        text = table.astype(object).fillna("").rename(columns=_escaped).map(lambda value: _escaped(str(value)))
        body = text.style.format(escape=None).hide(axis="index").to_latex(hrules=True)
        parts.append(
            f"\\begin{{table}}\n\\caption{{{_escaped(title)}}}\n\\resizebox{{\\linewidth}}{{!}}{{%\n{body}}}\n\\end{{table}}\n"
        )
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Text escaped so that LaTeX prints it unchanged."""
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(marks.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def caveats(made_from: Sequence[Product]) -> list[str]:
    """Caveats to show with the results: permuted labels, test trials, others' weights, accepted runs, uncommitted code,
    packages whose versions differ from the pinned ones or from those installed here."""
    results = [product.results for product in made_from]
    said = []
    if any(result.get("configuration", {}).get("permuted_labels") for result in results):
        said.append("PERMUTED LABELS: every score must be at chance")
    if any(result["study"]["protocol"] == "paper" for result in results):
        said.append("paper protocol: epochs chosen on TEST trials")
    if any(result.get("original") for result in results):
        said.append("original weights of the paper's authors, not trained here")
    made_with = [result.get("made_with", {}) for result in results]
    if any(made.get("modified") for made in made_with):
        said.append("made from a modified working tree")
    others = dict.fromkeys(
        f"{name} {found}" for made in made_with for name, found in made.get("not_pinned", {}).items()
    )
    said += [f"versions other than the pinned ones: {', '.join(others)}"] if others else []
    reasons = dict.fromkeys(entry["reason"] for result in results for entry in result.get("accepted") or ())
    said += [f"accepted by hand: {reason}" for reason in reasons]
    differing = []
    for name, here in ((name, version(name)) for name in COMPARED):
        others = {result.get("made_with", {}).get("packages", {}).get(name, here) for result in results} - {here}
        differing += [f"{name} {', '.join(sorted(others))} (here {here})"] if others else []
    return [*said, f"made with {', '.join(differing)}"] if differing else said
