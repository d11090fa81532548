"""A study's results in four rows, for the README and the end of `make reproduce`: all text is derived from numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from brainvis.evaluation.baselines import BASELINES, SHORT
from brainvis.evaluation.comparisons import LEVEL, corrected_p
from brainvis.evaluation.report import scores_of
from brainvis.files import BrainvisError, write_aside
from brainvis.study import Product

FILE = "headlines.md"
MARKS = {"results": FILE, "learned": "study/learned.md"}  # of the README -> file in the figures folder


@dataclass(frozen=True)
class Headline:
    """One row: the question, the answer for each subject, what it means, and the notebook with details."""

    asked: str
    answers: dict[int, str]
    meaning: str
    notebook: str


def headlines(means: pd.DataFrame, differences: pd.DataFrame, generation: Sequence[Product]) -> list[Headline]:
    """The rows that have numbers.

    `means` as returned by `seeds.mean_over_seeds`, `differences` as returned by `comparisons.ablation_differences`;
    `generation`: the runs of notebook 06 with the whole method, one per subject.
    """
    runs = {run.results["study"]["subject"]: run for run in generation}
    rows = [_classification(means), _generation(means, runs), _pretraining(differences), _besides(runs)]
    return [row for row in rows if row is not None]


def _classification(means: pd.DataFrame) -> Headline | None:
    fused, late = _of_full(means, "fusion", "fused.top1"), _of_full(means, "fusion", "difference.late.top1")
    if not fused:
        return None
    plain = {name: _of_full(means, "fusion", f"baselines.{name}.top1") for name in BASELINES}
    plain = {name: rows for name, rows in plain.items() if rows}
    said, best = f"Chance is {_number(next(iter(fused.values()))['chance'])}. ", {}
    for subject in fused:
        known = {name: rows[subject]["value"] for name, rows in plain.items() if subject in rows}
        best |= {subject: max(known, key=known.__getitem__)} if known else {}
    if best:
        reads = [f"{_number(plain[name][subject]['value'])} ({SHORT[name]})" for subject, name in best.items()]
        said += f"The best of {len(plain)} baselines without a network reaches {_listed(reads)}"
        ahead = [_of_full(means, "fusion", f"difference.{name}.top1").get(subject) for subject, name in best.items()]
        gains = [_gain(row) for row in ahead if row]
        said += f"; BrainVis differs from it by {_listed(gains)}. " if gains else ". "
    gains = [_gain(row) for row in late.values()]
    said += f"Training both branches jointly changes late fusion by {_listed(gains)}." if gains else ""
    answers = {subject: _interval(row) for subject, row in fused.items()}
    asked = f"How often is the right class named from EEG? Top-1 accuracy{_seeds(fused.values())}"
    return Headline(asked, answers, said.strip(), "04_fusion")


def _generation(means: pd.DataFrame, runs: dict[int, Product]) -> Headline | None:
    final = _of_full(means, "generation", "refined.generation_accuracy")
    final = final or _of_full(means, "generation", "semantic.generation_accuracy")
    if not final:
        return None
    controls = {subject: scores_of(run) for subject, run in runs.items()}
    parts = []
    for name, words in (("true_name", "told the true name"), ("average", "led by the average embedding, blind to EEG")):
        found = [scores.get(f"controls.{name}.minus_cascade") for scores in controls.values()]
        found = [_gain(score) for score in found if score]
        parts += [f"{words}, it changes by {_listed(found)}"] if found else []
    said = f"The judge ranks the class shown first among 50 (chance {_number(next(iter(final.values()))['chance'])}). "
    said += f"On the trials with controls: {'; '.join(parts)}." if parts else ""
    answers = {subject: _interval(row) for subject, row in final.items()}
    asked = f"How often do pictures show the class? Generation accuracy{_seeds(final.values())}"
    return Headline(asked, answers, said.strip(), "06_generation")


def _pretraining(differences: pd.DataFrame) -> Headline | None:
    rows = differences[(differences["ablation"] == "no_pretraining") & (differences["measure"] == "CA top-1")]
    if rows.empty:
        return None
    row = rows.iloc[0]
    shown = row["p_holm"] < LEVEL
    if shown:
        said = "costs" if row["value"] < 0 else "gains"
        meaning = f"Leaving LMM out {said} accuracy ({corrected_p(row)}, corrected for all ablations)."
    else:
        meaning = f"LMM is not shown to change accuracy ({corrected_p(row)}, corrected for all ablations)."
    asked = f"What does accuracy lose or gain without LMM pre-training?{_seeds([row])}"
    subject = int(row["subject"]) if "subject" in row else 1
    return Headline(asked, {subject: _points(row)}, meaning, "07_ablations")


def _besides(runs: dict[int, Product]) -> Headline | None:
    """What only the semantic stage can know: attributes of the picture that do not follow from its class."""
    answers, compared = {}, set()
    for subject, run in runs.items():
        parts = run.metrics.get("controls", {}).get("no_refinement", {}).get("attributes", {})
        differences = {name: score["minus_blind"] for name, score in parts.items() if "minus_blind" in score}
        if differences:
            compared |= set(differences)
            shown = [f"{name} ({_points(score)})" for name, score in differences.items() if score["low"] > 0]
            answers[subject] = _listed(shown) or "none shown"
    if not answers:
        return None
    asked = f"What comes through besides the class ({_listed(sorted(compared))})? Above blind pictures"
    meaning = "Pictures of the semantic stage against pictures drawn blind, from the average embedding; "
    meaning += "listed where the 95 % interval is above 0."
    return Headline(asked, answers, meaning, "06_generation")


def as_markdown(rows: Sequence[Headline], pages: str = "docs/notebooks") -> str:
    """A table; each row links to its notebook, rendered in the folder `pages`."""
    subjects = sorted({subject for row in rows for subject in row.answers})
    heads = ["", *(f"subject {subject}" for subject in subjects), "what it means", "notebook"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        link = f"[{row.notebook[:2]}]({pages}/{row.notebook}.md)"
        cells = [row.asked, *(row.answers.get(subject, "") for subject in subjects), row.meaning, link]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_plain(rows: Sequence[Headline], width: int = 100) -> str:
    """The same for a terminal."""
    lines = []
    for row in rows:
        lines.append(row.asked)
        lines += [f"    subject {subject}: {answer}" for subject, answer in row.answers.items()]
        lines += textwrap.wrap(row.meaning, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def write_into(readme: Path, figures: Path) -> None:
    """Put the table that notebook 08 left in `figures`, and what the studies taught, between the marks of the README.

    Raises:
        BrainvisError: the table or the marks are missing.
    """
    if not (figures / FILE).exists():
        raise BrainvisError(f"{figures / FILE} is missing: notebook 08 writes it; run snakemake first")
    text = readme.read_text(encoding="utf-8")
    for mark, file in MARKS.items():
        start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        if start not in text or end not in text:
            raise BrainvisError(f"{readme} has no lines {start} and {end}: add them where the {mark} lines are to go")
        if (figures / file).exists():  # a study of hours may not have been run
            before, after = text.split(start)[0], text.split(end)[1]
            text = f"{before}{start}\n{(figures / file).read_text(encoding='utf-8')}{end}{after}"
    write_aside(readme, lambda path: path.write_text(text, encoding="utf-8"))


def _of_full(means: pd.DataFrame, stage: str, score: str) -> dict[int, dict]:
    rows = means[(means["stage"] == stage) & (means["ablation"] == "full") & (means["score"] == score)]
    return {row["subject"]: row.to_dict() for _, row in rows.sort_values("subject").iterrows()}


def _number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _interval(row: dict) -> str:
    bounds = "" if pd.isna(row["low"]) else f" [{_number(row['low'])}, {_number(row['high'])}]"
    return f"{_number(row['value'])}{bounds}"


def _points(score: dict) -> str:
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}] points"


def _gain(score: dict) -> str:
    """A difference, and whether its interval contains 0."""
    return _points(score) + ("" if score["low"] > 0 or score["high"] < 0 else " (not shown)")


def _seeds(rows: Sequence[dict]) -> str:
    counts = sorted({int(row.get("seeds", 1)) for row in rows})
    return f" (seeds: {' and '.join(map(str, counts))})" if counts else ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))
