"""What people read of the study's tables: tables.md, with the paper's own numbers apart, and a figure of the sweeps.

python docs/studies/show_tables.py figures/study      of the tables (CSV) that are there
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainvis.evaluation.bootstrap import LEAST_P, p_text
from brainvis.evaluation.publication import METADATA
from brainvis.evaluation.report import to_markdown
from brainvis.evaluation.reported import reported_table
from brainvis.files import read_json, write_aside
from brainvis.plots.style import COLOUR_OF, PALETTE, panels

TABLES = yaml.safe_load(Path(__file__).with_name("tables.yml").read_text(encoding="utf-8"))["tables"]
POINTS = 100  # of a share
GREY = COLOUR_OF["chance"]
WHOLE = 3  # seeds; a number of fewer says so
SHARES = (
    "top-1",
    "top-3",
    "top-5",
    "F1",
    "GA",
    "position",
    "size",
    "background",
    "colour",
    "shape",
    "class name",
    "caption within class",
    "pixel correlation",
)
SWEEPS = {  # table -> measure that is drawn, and its axis
    "table6": ("top-1", "test accuracy, time branch (%)"),
    "masks": ("top-1", "test accuracy, time branch (%)"),
    "table7": ("top-1", "test accuracy, frequency branch (%)"),
    "targets": ("GA", "GA of the semantic stage (%)"),
}
INTRODUCTION = """# Tables of the study

Measured on the **phantom**, which is not brain data, with preset `demo` and protocol `clean`. A number is the mean over
seeds and subjects; brackets hold 95 % intervals for which seeds and trials (whole pictures, within classes) were drawn;
differences are paired by seed and trial, in points, with p-values corrected for all differences of the same measure in
a table (Holm). A number that does not come from single trials is followed by its standard deviation over seeds (±).
Below each table of the paper is what its authors **report** for other data under another protocol.
"""


def show(folder: Path) -> None:
    """Write `tables.md` and, where a sweep is there, `sweeps.png` and `.pdf`."""
    files = {name: file for name in TABLES if (file := folder / f"{name}.csv").exists()}
    there = {name: pd.read_csv(file, keep_default_na=False, na_values=[""]) for name, file in files.items()}
    if not there:
        sys.exit(f"{folder} has no tables yet: run snakemake tables_study")
    parts = [INTRODUCTION, *(section(name, frame) for name, frame in there.items())]
    parts += [permuted(read_json(file))] if (file := folder / "permuted.json").exists() else []
    text = "\n".join(parts)
    write_aside(folder / "tables.md", lambda path: path.write_text(text, encoding="utf-8"))
    if drawn := {name: there[name] for name in SWEEPS if name in there}:
        figure = sweeps_figure(drawn)
        for kind, metadata in METADATA.items():
            draw = partial(figure.savefig, format=kind, dpi=150, metadata=metadata)
            write_aside(folder / f"sweeps.{kind}", draw)


def section(name: str, frame: pd.DataFrame) -> str:
    """A table in the paper's form, and what the paper reports."""
    families = frame.groupby("measure")["p"].count()
    cells = frame.assign(cell=[cell(line, families[line["measure"]]) for _, line in frame.iterrows()])
    measured = cells.pivot(index="row", columns="measure", values="cell")
    measured = measured.loc[frame["row"].unique(), frame["measure"].unique()].fillna("")
    measured = measured.rename_axis(index=TABLES[name]["of"]).reset_index()
    seeds = sorted({len(str(values).split()) for values in frame["of_seeds"].dropna()})
    subjects = dict.fromkeys(frame["subjects"].dropna())
    size = [f"{' or '.join(map(str, seeds))} seeds"] * bool(seeds)
    whose = {"all": "all subjects"} | {str(one): f"subject {one}" for one in range(10)}
    size += [whose.get(who, f"subjects {who.replace(' ', ' and ')}") for who in map(str, subjects)][-1:]
    against = f" Differences are from *{TABLES[name]['against']}*." if "against" in TABLES[name] else ""
    parts = [f"## {TABLES[name]['title']}", f"Measured: {', '.join(size)}.{against}", to_markdown(measured).rstrip()]
    if without := [row for row in TABLES[name].get("pretraining", ()) if row not in set(frame["row"])]:
        parts.append(f"Not run: {', '.join(without)}.")
    if name.startswith("table"):
        reported = reported_table(int(name.removeprefix("table")))
        origin = reported[["data set", "protocol", "source"]].drop_duplicates().iloc[-1]
        shown = reported.drop(columns=["kind", "data set", "protocol", "source"])
        parts += [f"**Reported, not measured here**: {', '.join(origin)}.", to_markdown(shown)]
    return "\n\n".join(parts)


def permuted(found: dict) -> str:
    """What each classifier reads where labels are permuted, and whether chance is within the interval."""
    top1 = "{value:.3f} [{low:.3f}, {high:.3f}]"
    rows = {
        name: [top1.format(**score), "yes" if score["at_chance"] else "NO"] for name, score in found["top1"].items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["top-1", f"chance, {found['chance']:.3f}, within"])
    size = f"{len(found['seeds'])} seeds, {len(found['subjects'])} subjects, {found['trials']} test trials"
    shown = to_markdown(table.rename_axis(index="classifier").reset_index())
    return f"\n## The pipeline on permuted labels\n\nStages 01 to 04: {size}.\n\n{shown}"


def cell(line: pd.Series, family: int) -> str:
    """A number as people read it: with its interval, or its deviation over seeds; a difference with p, corrected for a
    family of so many."""
    if line["measure"].endswith(", difference"):
        points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(POINTS * line[key] for key in ("value", "low", "high")))
        return f"{points}, {p_text(line['p_holm'], family * LEAST_P)}"
    digits = 3 if line["measure"] in SHARES else 2
    if not pd.isna(line["low"]):
        shown = "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(line[key] for key in ("value", "low", "high")), d=digits)
        seeds = len(str(line["of_seeds"]).split())
        return shown if seeds >= WHOLE else f"{shown} (seeds: {seeds})"
    spread = "" if pd.isna(line["deviation"]) or not line["deviation"] else f" ± {line['deviation']:.{digits}f}"
    return f"{line['value']:.{digits}f}{spread}"


def sweeps_figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """A panel a sweep: the mean of each value with its interval, each seed beside it, and chance."""
    columns = 2 if len(tables) > 1 else 1
    rows = -(-len(tables) // columns)
    figure, axes = panels(rows, columns, height=2.6 * rows, width=4.8 * columns, squeeze=False)
    for place, (name, frame) in zip(axes.flat, tables.items(), strict=False):
        sweep_panel(place, name, frame)
    for place in list(axes.flat)[len(tables) :]:
        place.remove()
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def sweep_panel(axes: Axes, name: str, frame: pd.DataFrame) -> None:
    measure, axis = SWEEPS[name]
    lines = frame[frame["measure"] == measure].reset_index(drop=True)
    for place, line in lines.iterrows():
        seeds = POINTS * np.array(str(line["of_seeds"]).split(), float)
        names = {} if place else {"seeds": "one seed", "mean": "mean, 95 % interval over seeds and trials"}
        axes.plot(seeds, np.full(len(seeds), place + 0.18), "o", color=GREY, markersize=3, label=names.get("seeds"))
        value, low, high = (POINTS * line[key] for key in ("value", "low", "high"))
        reach = [[value - low], [high - value]]
        axes.errorbar(value, place, xerr=reach, fmt="o", color=PALETTE[0], capsize=3, label=names.get("mean"))
    if not pd.isna(chance := lines["chance"].iloc[0]):
        axes.axvline(POINTS * chance, color=GREY, linestyle="--", linewidth=1, label="chance")
    labels = [str(row).replace(", ", ",\n") for row in lines["row"]]
    axes.set_yticks(range(len(lines)), labels)
    axes.set_ylim(len(lines) - 0.4, -0.7)
    axes.set_xlim(left=0)
    axes.set(xlabel=axis, ylabel=TABLES[name]["of"], title=TABLES[name]["title"].split(", ")[0].split(" (")[0])


if __name__ == "__main__":
    show(Path(sys.argv[1]))
