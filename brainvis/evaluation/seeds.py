"""Combines runs that differ only in their seed: means over seeds, with intervals that cover seeds and trials."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainvis.evaluation.bootstrap import mean_interval
from brainvis.evaluation.scores import classification_scores, paired_difference
from brainvis.graph import stage_named
from brainvis.study import Product

RUN = ["subject", "ablation", "stage"]
NUMBERS = ["value", "low", "high", "chance", "p"]


def mean_over_seeds(scores: pd.DataFrame, runs: Iterable[Product]) -> pd.DataFrame:
    """The rows of `report.gather_scores`, with those that differ only in their seed merged: the mean, the number of
    `seeds`, and the `runs` (tuples of folders).

    If the trials of several seeds are available in these `runs` (class scores of fusion, GA), `low`, `high` and `p`
    come from a hierarchical bootstrap; other scores over several seeds have no interval. A single seed keeps its own.
    """
    of_run: dict[tuple, list[Product]] = {}
    for run in runs:
        of_run.setdefault(_key(run), []).append(run)
    resampled = {key: _resampled(same) for key, same in of_run.items() if len(same) > 1}
    rows = []
    for (*key, score), same in scores.groupby([*RUN, "score"], sort=False):
        row = same.iloc[0].to_dict() | {"seeds": len(same), "runs": tuple(same["run"])}
        if len(same) > 1:
            row |= same[["value", "chance"]].mean().to_dict() | dict.fromkeys(("low", "high", "p"))
            row |= resampled.get(tuple(key), {}).get(score, {})
        rows.append(row)
    means = pd.DataFrame(rows, columns=[*RUN, "score", *NUMBERS, "seeds", "runs"])
    return means.astype(dict.fromkeys(NUMBERS, float))


def same_trials(runs: list[Product]) -> bool:
    """Whether the runs kept the same trials, in the same order."""
    if not all("arrays.safetensors" in run.results["files"] for run in runs):
        return False
    kept = [run.arrays["trials"].tolist() if "trials" in run.arrays else None for run in runs]
    return kept[0] is not None and all(trials == kept[0] for trials in kept)


def _key(run: Product) -> tuple:
    chosen, stage = run.results["study"], run.results["stage"]
    return (chosen["subject"] if stage_named(stage).of_subject else 0, chosen["ablation"], stage)


def _resampled(runs: list[Product]) -> dict[str, dict[str, float]]:
    """Scores by name over the seeds of runs on the same trials."""
    if not same_trials(runs):
        return {}
    arrays = [run.arrays for run in runs]
    shared = set.intersection(*map(set, arrays))
    draws = {"seed": min(run.results["study"]["seed"] for run in runs)}
    draws["groups"] = arrays[0]["groups"].numpy() if "groups" in shared else None
    if runs[0].results["stage"] != "fusion":
        strata = arrays[0]["labels"].numpy() if "labels" in shared else None
        judged = {name.removeprefix("accuracy_"): _stacked(arrays, name) for name in shared if "accuracy_" in name}
        return {
            f"{stage}.generation_accuracy": mean_interval(values, strata=strata, **draws)
            for stage, values in judged.items()
        }
    labels, fused = arrays[0]["labels"].numpy(), _stacked(arrays, "logits")  # (trial,), (seed, trial, class)
    others = {name.removeprefix("logits."): _stacked(arrays, name) for name in shared if name.startswith("logits.")}
    parts = {
        name: classification_scores(values, labels, **draws) for name, values in [*others.items(), ("fused", fused)]
    }
    parts |= {f"baselines.{name}": parts[name] for name in others}
    compared = set.intersection(*(set(run.metrics.get("difference", {})) for run in runs)) & set(others)
    parts |= {f"difference.{name}": paired_difference(fused, others[name], labels, **draws) for name in compared}
    return {
        f"{name}.{score}": {key: value for key, value in found.items() if key != "chance"}  # the runs' own is better
        for name, scores in parts.items()
        for score, found in scores.items()
        if isinstance(found, dict)
    }


def _stacked(arrays: list[dict], name: str) -> NDArray:
    return np.stack([of_run[name].numpy() for of_run in arrays])
