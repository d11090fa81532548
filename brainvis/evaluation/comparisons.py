"""Ablations against the whole method: differences paired by seed and trial, each measure corrected as one family."""

import pandas as pd

from brainvis.configuration import ABLATIONS
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.bootstrap import LEAST_P, LEVEL, holm, mean_difference, p_text
from brainvis.evaluation.report import gather_runs
from brainvis.study import Product, Study

MEASURES = {"CA top-1": "fusion", "GA": "generation"}  # measure -> the stage whose runs hold it


def score_of_trials(product: Product) -> pd.Series | None:
    """The score of each test trial, by trial: right or wrong for a run of fusion; GA of the final pictures for a run of
    generation, None if it had no judge for GA."""
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
    """How each ablation of a subject differs from `full`: one row each, for every measure that has runs.

    `data` are this subject's trials: resamples draw whole pictures within classes. Columns: `measure`, `ablation`,
    `full` and `without` (means over the `seeds` and `trials` that both have), `value` (without - full) with `low`,
    `high` and `p`, and `p_holm`, corrected for the comparisons of the same measure, of which there are `family`.
    """
    rows = []
    for measure, stage in MEASURES.items():
        scores: dict[str, dict[int, pd.Series]] = {}  # ablation -> seed -> score of each trial
        for run in gather_runs(study, stage):
            chosen = run.results["study"]
            if chosen["subject"] == study.subject and (score := score_of_trials(run)) is not None:
                scores.setdefault(chosen["ablation"], {})[chosen["seed"]] = score
        whole = scores.pop("full", {})
        ordered = [name for name in ABLATIONS if scores.get(name, {}).keys() & whole.keys()]
        found = {name: _difference(scores[name], whole, data, study.seed) for name in ordered}
        found = {name: row for name, row in found.items() if row["trials"]}
        corrected = holm({name: row["p"] for name, row in found.items()})
        rows += [
            {"measure": measure, "ablation": name, **row, "p_holm": corrected[name], "family": len(found)}
            for name, row in found.items()
        ]
    columns = ["measure", "ablation", "seeds", "trials", "full", "without", "value", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*columns, "family"])


def _difference(score: dict[int, pd.Series], whole: dict[int, pd.Series], data: EEGDataset, seed: int) -> dict:
    seeds = sorted(score.keys() & whole.keys())
    pair = [pd.DataFrame({one: scores[one] for one in seeds}) for scores in (score, whole)]  # (trial, seed)
    pair = [scores.dropna() for scores in pair]
    trials = pair[0].index.intersection(pair[1].index).sort_values()
    without, full = (scores.loc[trials].to_numpy().T for scores in pair)  # (seed, trial)
    if not len(trials):
        return {"seeds": len(seeds), "trials": 0}
    draws = {"groups": data.images[trials], "strata": data.labels[trials], "seed": seed}
    means = {"seeds": len(seeds), "trials": len(trials), "full": full.mean(), "without": without.mean()}
    return means | mean_difference(without - full, **draws)


def verdict(row: pd.Series) -> str:
    """The result of a row of `ablation_differences`, in a word or two."""
    if row["p_holm"] >= LEVEL:
        return "not shown to differ"
    return "above the whole method" if row["value"] > 0 else "below the whole method"


def corrected_p(row: pd.Series) -> str:
    """Its corrected p, formatted for readers."""
    return p_text(row["p_holm"], row["family"] * LEAST_P)


def in_words(differences: pd.DataFrame) -> pd.DataFrame:
    """`ablation_differences` as a table for readers: differences in points, with intervals."""
    points = "{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    cells = [
        {
            "measure": row["measure"],
            "ablation": row["ablation"],
            "seeds": row["seeds"],
            "trials": row["trials"],
            "full": f"{row['full']:.3f}",
            "without": f"{row['without']:.3f}",
            "difference (points)": points.format(**{key: 100 * row[key] for key in ("value", "low", "high")}),
            "p, Holm": corrected_p(row).removeprefix("p ").removeprefix("= "),
            "shown": verdict(row),
        }
        for _, row in differences.iterrows()
    ]
    columns = ["measure", "ablation", "seeds", "trials", "full", "without", "difference (points)", "p, Holm", "shown"]
    return pd.DataFrame(cells, columns=columns)
