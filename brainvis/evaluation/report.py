"""Gathers the `results.json` of all runs into tables.

A long table has one row per number, with the run it comes from; all others are rearranged from it, so no number is
computed or copied twice.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from brainvis.configuration import ABLATIONS
from brainvis.evaluation.pictures import METRICS
from brainvis.evaluation.reported import reported_table
from brainvis.evaluation.scores import confusion_matrix
from brainvis.files import BrainvisError, runs_folder
from brainvis.graph import STAGES, stage_named
from brainvis.study import Product, Study, StudyError

# Score -> its column in tables for readers, number of digits shown.
CLASSIFICATION = {"top1": ("CA top-1", 3), "top3": ("CA top-3", 3), "top5": ("CA top-5", 3)}
CLASSIFICATION |= {"balanced_accuracy": ("balanced", 3), "auc": ("AUC", 3), "macro_f1": ("F1", 3)}
NUMBERS = ("value", "low", "high", "chance", "p")  # of a score
# Columns for pictures: these first, then every other metric that has a title.
FIRST = ("generation_accuracy", "inception_score", "fid", "clip_similarity", "ssim", "pixel_correlation")
IDENTITY = ["subject", "ablation", "protocol"]  # columns
HEADS = ("subject", "ablation", "pictures of")
NARROW = (*HEADS, "seeds, classifier", "CA top-1", "seeds, pictures", "GA", "FID", "2-way CLIP")


def gather_scores(study: Study) -> pd.DataFrame:
    """Every score of every run for this study's data set, preset, protocol and backbone, of all seeds: one row each.

    A score is any {"value": ...} in a run's metrics. Columns: `subject` (0: all subjects), `ablation` that owns the
    run, `stage`, `score` (its path in the metrics, "fused.top1"), `value`, `low` and `high` (95 % interval),
    `chance`, `p`, and where it comes from: `data set`, `preset`, `seed`, `protocol`, `run` (folder), `fingerprint`.
    """
    columns = ["subject", "ablation", "stage", "score", *NUMBERS, "data set", "preset", "seed", "protocol", "run"]
    rows = [row for product in gather_runs(study) for row in _rows(product)]
    frame, keys = pd.DataFrame(rows, columns=[*columns, "fingerprint"]), ["stage", "subject", "ablation", "seed"]
    order = {name: place for place, name in enumerate([*STAGES, *study.stages, *ABLATIONS])}
    return frame.sort_values(keys, key=lambda key: key.map(order).fillna(key), kind="stable", ignore_index=True)


def gather_runs(study: Study, *stages: str) -> list[Product]:
    """The up-to-date runs of these stages, or of all; the runs of sweeps and combinations have separate tables
    (docs/studies)."""
    found = (run for stage in stages or dict.fromkeys([*STAGES, *study.stages]) for run in study.gather(stage))
    return [run for run in found if run.results["study"]["ablation"] in ABLATIONS]


def run_of(product: Product) -> str:
    """A run's folder, relative to the folder of all runs."""
    return product.folder.relative_to(runs_folder()).as_posix()


def networks_of(products: Iterable[Product], score: str) -> str:
    """The networks that a score of these runs is based on, in words."""
    parts = [part for product in products for part in product.metrics.values() if isinstance(part, dict)]
    found = {part[score]["network"] for part in parts if "network" in part.get(score, ())}
    return ", ".join(sorted(found)) or "nobody"


def _rows(product: Product) -> Iterator[dict]:
    results, chosen = product.results, product.results["study"]
    subject = chosen["subject"] if stage_named(results["stage"]).of_subject else 0
    origin = {key: chosen[key] for key in ("ablation", "preset", "seed", "protocol")}
    origin |= {"subject": subject, "data set": chosen["dataset"], "run": run_of(product)}
    origin |= {key: results[key] for key in ("stage", "fingerprint")}
    for name, score in _scores(product.metrics):
        yield origin | {"score": name} | {key: score.get(key) for key in NUMBERS}


def scores_of(product: Product) -> dict[str, dict]:
    """The scores of a run by their path in its metrics, such as "fused.top1"."""
    return dict(_scores(product.metrics))


def _scores(metrics: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every {"value": ...} below `metrics`, with its path."""
    for name, value in metrics.items():
        if isinstance(value, dict) and isinstance(value.get("value"), (int, float)):
            yield path + name, value
        elif isinstance(value, dict):
            yield from _scores(value, f"{path}{name}.")


def find(scores: pd.DataFrame, study: Study, stage: str, score: str) -> pd.Series | None:
    """The row of one score for this study's subject and ablation, whichever run it shares; None if there is none."""
    subject = study.subject if stage_named(stage).of_subject else 0
    wanted = {"subject": subject, "ablation": study.owner(stage), "stage": stage, "score": score}
    rows = scores[(scores[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return rows.iloc[0] if len(rows) else None


def studies_with_runs(study: Study, scores: pd.DataFrame) -> list[Study]:
    """One study per subject and ablation that has its own run: `full` first, by subject, then the others."""
    runs = scores[scores["stage"].map(lambda stage: stage_named(stage).of_subject).astype(bool)]
    pairs, order = set(zip(runs["subject"].tolist(), runs["ablation"], strict=True)), list(ABLATIONS)
    pairs = sorted(pairs, key=lambda pair: (order.index(pair[1]), pair[0]))
    return [replace(study, subject=subject, ablation=ablation) for subject, ablation in pairs]


def compared_subject(study: Study, scores: pd.DataFrame) -> int:
    """The subject whose ablations are compared: the one with the most, or the lowest-numbered one among equals."""
    counts = Counter(variant.subject for variant in studies_with_runs(study, scores))
    return min(counts, key=lambda subject: (-counts[subject], subject), default=study.subject)


def missing_runs(study: Study) -> pd.DataFrame:
    """Runs of every ablation that this study's subject lacks or that are out of date, with the command for each."""
    rows = []
    for ablation in ABLATIONS:
        try:
            variant = study.with_ablation(ablation)
        except BrainvisError:  # it would leave nothing of this preset
            continue
        for name in variant.stages:
            if variant.owner(name) == variant.ablation:
                try:
                    variant.load(name)
                except StudyError:
                    rows.append({"ablation": variant.ablation, "stage": name, "command": variant.command(name)})
    return pd.DataFrame(rows, columns=["ablation", "stage", "command"])


# Tables for readers: cells are text, a number with its 95 % interval if any: "0.431 [0.390, 0.472]". `scores` are
# those of one seed, or means over seeds (`seeds.mean_over_seeds`): each table says over how many.


def main_table(study: Study, scores: pd.DataFrame) -> pd.DataFrame:
    """Subject and ablation x classification, of the possibly shared classifier, and final pictures; `full` first."""
    rows = []
    for variant in studies_with_runs(study, scores):
        kind = "refined" if variant.configuration.generation.refinement else "semantic"
        pictures = _cells(scores, variant, "generation", kind, _picture_columns(), "seeds, pictures")
        classified = _cells(scores, variant, "fusion", "fused", CLASSIFICATION, "seeds, classifier")
        rows.append(_identity(variant) | classified | pictures)
    return _table(rows, [*IDENTITY, "seeds, classifier", "seeds, pictures"], CLASSIFICATION | _picture_columns())


def classification_table(study: Study, scores: pd.DataFrame) -> pd.DataFrame:
    """Classification by ablation of the encoder (as in table 3), next to what the paper reports for it."""
    own = [variant for variant in studies_with_runs(study, scores) if variant.owner("fusion") == variant.ablation]
    rows = [_identity(variant) | _cells(scores, variant, "fusion", "fused", CLASSIFICATION) for variant in own]
    measured = _table(rows, [*IDENTITY, "seeds"], CLASSIFICATION)
    return _beside_reported(measured, 3, study.dataset, ["ablation"], ["top-1"])


def pictures_table(study: Study, scores: pd.DataFrame) -> pd.DataFrame:
    """Pictures by ablation of the encoder and of the cascade (as in table 4), next to what the paper reports.

    The semantic stage alone is read from the run whose cascade starts from it; the refinement stage alone is the
    ablation `no_semantic`.
    """
    rows = []
    for variant in studies_with_runs(study, scores):
        for kind, words in {"semantic": "semantic stage alone", "refined": "cascade"}.items():
            if find(scores, variant, "generation", f"{kind}.ssim") is None or variant.ablation == "no_refinement":
                continue  # `no_refinement` repeats the semantic stage of `full`, see the notebook's check
            row = _identity(variant) | {"ablation": variant.owner("fusion")}
            row["pictures of"] = words if variant.configuration.generation.semantic else "refinement stage alone"
            rows.append(row | _cells(scores, variant, "generation", kind, _picture_columns()))
    measured = _table(rows, [*IDENTITY, "seeds", "pictures of"], _picture_columns())
    return _beside_reported(measured, 4, study.dataset, ["ablation", "pictures of"], ["GA", "IS", "FID"])


def narrow(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of one of these tables that fit on a page, behind what each row is of; `results.md` has them all."""
    shown = table[[name for name in table if name in NARROW or name.startswith("REPORTED")]]
    return shown.set_index([name for name in HEADS if name in shown])


def _identity(study: Study) -> dict:
    protocol = study.protocol if study.protocol == "clean" else f"{study.protocol}: epoch chosen on TEST trials"
    return dict(zip(IDENTITY, (study.subject, study.ablation, protocol), strict=True))


def _picture_columns() -> dict[str, tuple[str, int]]:
    """Evaluated again each time: a user may have added a metric."""
    metrics = {name: METRICS[name] for name in [*FIRST, *METRICS]}
    return {name: (metric.title, metric.digits) for name, metric in metrics.items() if metric.title}


def _cells(
    scores: pd.DataFrame, study: Study, stage: str, part: str, columns: dict, seeds: str = "seeds"
) -> dict[str, str]:
    """The cells of one row for the scores of `part`, empty if one is missing, and the number of `seeds`."""
    cells, counts = {}, []
    for score, (title, digits) in columns.items():
        row = find(scores, study, stage, f"{part}.{score}")
        cells[title] = "" if row is None else f"{row['value']:.{digits}f}"
        if row is not None and not pd.isna(row["low"]):
            cells[title] += f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        counts += [] if row is None else [int(row.get("seeds", 1))]
    return cells | {seeds: str(max(counts, default=""))}


def _table(rows: list[dict], first: list[str], columns: dict) -> pd.DataFrame:
    """Rows as a table, without the columns of scores that no row has; top-1 and F1 stay."""
    frame = pd.DataFrame(rows, columns=[*first, *(title for title, _ in columns.values())])
    rare = [title for name, (title, _) in columns.items() if name not in ("top1", "macro_f1")]
    return frame.drop(columns=[title for title in rare if not frame[title].any()])


def _beside_reported(
    measured: pd.DataFrame, number: int, dataset: str, keys: list[str], columns: list[str]
) -> pd.DataFrame:
    """Add the numbers of the paper's table on the right, under names that say so, with data, protocol and source; no
    numbers if they do not apply to the data set."""
    reported = reported_table(number, dataset)
    if reported.empty:
        return measured
    origin = reported["data set"] + ", average of subjects; " + reported["protocol"] + "; " + reported["source"]
    reminder = {f"REPORTED, not measured: {name}": reported[name].map("{:.4f}".format) for name in columns}
    reminder["reported for"] = origin
    return measured.merge(reported[keys].assign(**reminder), how="left", on=keys).fillna("")


def frequent_errors(logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], count: int = 8) -> pd.DataFrame:
    """A classifier's most frequent errors, `shown` as `predicted` in how many `trials`; ties in class order."""
    matrix = confusion_matrix(logits, labels)
    np.fill_diagonal(matrix, 0)
    rows, columns = matrix.nonzero()
    errors = pd.DataFrame({"shown": rows, "predicted": columns, "trials": matrix[rows, columns]})
    errors = errors.sort_values("trials", ascending=False, kind="stable", ignore_index=True)[:count]
    names = dict(enumerate(class_names))
    return errors.assign(shown=errors["shown"].map(names), predicted=errors["predicted"].map(names))


def to_markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; values that are not text are written as Python writes them, missing values as nothing.

    Characters with a meaning in Markdown or HTML are shown literally.
    """

    def cells(values: Iterable) -> str:
        texts = ["" if pd.isna(value) else as_text(str(value)) for value in values]
        return "| " + " | ".join(texts) + " |"

    rule = "|" + " --- |" * len(frame.columns)
    rows = (cells(row) for row in frame.astype(object).itertuples(index=False))
    return "\n".join([cells(frame.columns), rule, *rows]) + "\n"


def as_text(words: str) -> str:
    """Text that Markdown shows literally; an underscore inside a name, as in no_time, is not markup."""
    words = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`|$*~!#]|(?<=\])\(|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", words)


def to_csv(frame: pd.DataFrame) -> str:
    """A table as CSV, with numbers at full precision."""
    return frame.to_csv(index=False, lineterminator="\n")
