"""What was learned, in a few sentences for the README: `learned.md`, computed from the studies' numbers.

python docs/studies/learned.py figures/study      needs pretraining.json and some tables (CSV) there

`python -m brainvis readme` puts the sentences into the README.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from pretraining import KINDS, STEPS
from show_pretraining import FEWEST, LEVEL

from brainvis.files import read_json, write_aside

FILE, TABLES = "learned.md", ("layout", "targets", "table4", "table7")
BOTH, FROZEN = "both targets, cosine and squared error", "both targets, encoder frozen"
NO_SIGNAL, FEW_LABELS = "block_drift_0.5_no_signal", "block_drift_0.5"


def pretraining_is_worth(kept: dict) -> str:
    """Where classes are interleaved: the shares of labels at which a kind of pre-training helps, or LMM harms."""
    gains = {tuple(name.split(" | ")): gain for name, gain in kept["gain over none"].items()}
    judged = {
        (kind, float(share)): gain
        for (world, kind, share), gain in gains.items()
        if world == "interleaved" and kind in KINDS and len(gain["seeds"]) >= FEWEST
    }
    shown = {name: gain for name, gain in judged.items() if gain["p_holm"] < LEVEL}
    helps = [f"{KINDS[kind]} at {share:.0%}" for (kind, share), gain in shown.items() if gain["value"] > 0]
    of_lmm = {share: gain for (kind, share), gain in shown.items() if kind == "lmm" and gain["value"] < 0}
    harms = [f"{share:.0%} ({points(gain)})" for share, gain in of_lmm.items()]
    kinds = len({kind for kind, _ in judged})
    said = f"**Pre-training**, interleaved classes, {kinds} kinds, {len(STEPS)} shares of labels: "
    said += f"shown to help: {', '.join(helps) or 'none'}."
    return f"{said} LMM harms at {' and '.join(harms)}." if harms else said


def blocks_teach_time(kept: dict) -> str:
    """Where each class has a block: what a probe reads before and after LMM, and what few labels gain from it."""
    probes = kept["probes"][NO_SIGNAL]
    read = {
        readout: " to ".join(number(np.mean(of[when])) for when in ("before", "after"))
        for readout, of in probes.items()
    }
    every = all(a > b for of in probes.values() for b, a in zip(of["before"], of["after"], strict=True))
    said = "**In blocks** under slow drift, nothing evoked, LMM takes a linear probe of class from "
    said += f"{read['all_units']} (mean over units: {read['mean_of_units']})"
    said += ": it learns the time of recording." if every else "."
    gains = {share: kept["gain over none"].get(f"{FEW_LABELS} | lmm | {share:g}") for share in STEPS}
    judged = {share: gain for share, gain in gains.items() if gain and len(gain["seeds"]) >= FEWEST}
    shown = {share: gain for share, gain in judged.items() if gain["p_holm"] < LEVEL}
    if shown:
        share, gain = max(shown.items(), key=lambda pair: abs(pair[1]["value"]))
        said += f" With responses and {share:.0%} of labels, it changes accuracy by {points(gain)}."
    elif len(judged) == len(STEPS):
        said += " Fine-tuning, with responses, is not shown to gain or lose."
    return said


def layout_survives(layout: pd.DataFrame) -> str:
    """What of the layout pictures keep: without fine-tuning, after refinement."""
    read, change = _reader(layout), _changes(layout)
    said = f"**Layout**: position right in {read('full', 'position')} (semantic stage); "
    said += f"without fine-tuning {change('no_finetuning', 'position')}"
    return said + f"; after refinement {change('full, refined', 'position')}."


def targets_are_worth(table: pd.DataFrame) -> str:
    """What pictures of the semantic stage lose if alignment has one target, or an encoder that does not follow."""
    read, change = _reader(table), _changes(table)
    said = f"**Alignment**, subject 1, semantic stage: position {read(BOTH, 'position')}; class names alone "
    said += f"{change('class names alone', 'position')}, encoder frozen {change(FROZEN, 'position')}. "
    return said + f"GA {read(BOTH, 'GA')}; captions alone {change('captions alone', 'GA')}."


def cascade_is_worth(table: pd.DataFrame) -> str:
    """GA of the cascade, and without each of its stages."""
    read, change = _reader(table), _changes(table)
    one, other = (change(f"full, {stage} stage alone", "GA") for stage in ("semantic", "refinement"))
    return f"**Cascade**: GA {read('full, cascade', 'GA')}; semantic stage alone {one}, refinement alone {other}."


def spectrum_is_worth(table: pd.DataFrame) -> str:
    """What an LSTM and a CNN read of the same spectrum."""
    read, change = _reader(table), _changes(table)
    return f"**Spectrum**: LSTM {read('LSTM', 'top-1')}, CNN {change('CNN', 'top-1')}."


def points(line: dict) -> str:
    """A difference as people read it."""
    return "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * line[key] for key in ("value", "low", "high")))


def number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _line(table: pd.DataFrame, row: str, measure: str) -> dict:
    return table[(table["row"] == row) & (table["measure"] == measure)].iloc[-1].to_dict()


def _reader(table: pd.DataFrame) -> Callable[[str, str], str]:
    return lambda row, measure: number(_line(table, row, measure)["value"])


def _changes(table: pd.DataFrame) -> Callable[[str, str], str]:
    """A row's difference; "not shown" where its corrected p is not below the level."""

    def change(row: str, measure: str) -> str:
        line = _line(table, row, f"{measure}, difference")
        return points(line) + ("" if line["p_holm"] < LEVEL else " (not shown)")

    return change


def write(folder: Path) -> None:
    """Write `learned.md` beside the numbers that it is computed from."""
    kept, tables = read_json(folder / "pretraining.json"), {}
    for name in TABLES:
        tables[name] = pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])
    sentences = [pretraining_is_worth(kept), blocks_teach_time(kept), layout_survives(tables["layout"])]
    sentences += [targets_are_worth(tables["targets"]), cascade_is_worth(tables["table4"])]
    sentences += [spectrum_is_worth(tables["table7"])]
    text = "".join(f"- {sentence}\n" for sentence in sentences)
    write_aside(folder / FILE, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
