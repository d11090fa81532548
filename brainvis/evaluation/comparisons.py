"""Ablations against the whole method on the same trials: paired differences, each measure's corrected as one family."""

import numpy as np
import pandas as pd

from brainvis.configuration import ABLATIONS
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.bootstrap import LEAST_P, holm, mean_difference, p_text
from brainvis.evaluation.report import gather_runs
from brainvis.study import Product, Study

MEASURES = {"CA top-1": "fusion", "GA": "generation"}  # and the stage whose runs hold it
LEVEL = 0.05  # of a family, after the correction


def score_of_trials(product: Product) -> pd.Series | None:
    """The score of each test trial, by trial: right or wrong of a run of fusion; GA of the final pictures of a run of
    generation, None where no judge of GA was there."""
    arrays = product.arrays
    if product.results["stage"] == "fusion":
        scores = (arrays["logits"].argmax(1) == arrays["labels"]).double()
    else:
        kept = [arrays[name] for name in ("accuracy_refined", "accuracy_semantic") if name in arrays]
        if not kept:
            return None
        scores = kept[0]
    return pd.Series(scores.numpy(), index=arrays["trials"].numpy())


def ablation_differences(study: Study, data: EEGDataset) -> pd.DataFrame:
    """What each ablation of a subject changes against `full`: a row each, of every measure that runs are there for.

    `data` are this subject's trials: resamples draw whole pictures, within classes. Columns: `measure`, `ablation`,
    `full` and `without` (means over the `trials` that both have), `value` (without - full) with `low`, `high` and `p`,
    and `p_holm`, corrected for the comparisons of the same measure, of which there are `family`.
    """
    rows = []
    for measure, stage in MEASURES.items():
        runs = {run.results["study"]["ablation"]: run for run in gather_runs(study, stage) if _is_of(run, study)}
        scores = {name: score_of_trials(runs[name]) for name in ABLATIONS if name in runs}
        scores = {name: score for name, score in scores.items() if score is not None}
        whole = scores.pop("full", pd.Series(dtype=float))
        found = {name: _difference(score, whole, data, study.seed) for name, score in scores.items()}
        found = {name: row for name, row in found.items() if row["trials"]}
        corrected = holm({name: row["p"] for name, row in found.items()})
        rows += [
            {"measure": measure, "ablation": name, **row, "p_holm": corrected[name], "family": len(found)}
            for name, row in found.items()
        ]
    columns = ["measure", "ablation", "trials", "full", "without", "value", "low", "high", "p", "p_holm", "family"]
    return pd.DataFrame(rows, columns=columns)


def _is_of(run: Product, study: Study) -> bool:
    return run.results["study"]["subject"] == study.subject


def _difference(score: pd.Series, whole: pd.Series, data: EEGDataset, seed: int) -> dict:
    trials = np.intersect1d(score.index, whole.index)
    means = {"trials": len(trials), "full": whole[trials].mean(), "without": score[trials].mean()}
    if not len(trials):
        return means
    draws = {"groups": data.images[trials], "strata": data.labels[trials], "seed": seed}
    return means | mean_difference((score[trials] - whole[trials]).to_numpy(), **draws)


def verdict(row: pd.Series) -> str:
    """What a row of `ablation_differences` shows, in a word or two."""
    if row["p_holm"] >= LEVEL:
        return "not shown to differ"
    return "more than the whole method" if row["value"] > 0 else "less than the whole method"


def corrected_p(row: pd.Series) -> str:
    """Its corrected p as people read it."""
    return p_text(row["p_holm"], row["family"] * LEAST_P)


def in_words(differences: pd.DataFrame) -> pd.DataFrame:
    """`ablation_differences` as a table that people read: differences in points, with intervals."""
    points = "{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    cells = [
        {
            "measure": row["measure"],
            "ablation": row["ablation"],
            "trials": row["trials"],
            "full": f"{row['full']:.3f}",
            "without": f"{row['without']:.3f}",
            "difference (points)": points.format(**{key: 100 * row[key] for key in ("value", "low", "high")}),
            "p, Holm": corrected_p(row).removeprefix("p ").removeprefix("= "),
            "shown": verdict(row),
        }
        for _, row in differences.iterrows()
    ]
    columns = ["measure", "ablation", "trials", "full", "without", "difference (points)", "p, Holm", "shown"]
    return pd.DataFrame(cells, columns=columns)
