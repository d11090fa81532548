"""Tables that compare networks with baselines and confounds, over the fusion runs of all subjects.

Pooled scores cover the test trials of all subjects, each predicted by the models trained for its subject.
"""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from brainvis.evaluation import baselines
from brainvis.evaluation.evidence import balanced_accuracy, p_above_chance
from brainvis.study import Product

NAMES = {"fused": "fused", "late": "late fusion", "time": "time branch", "frequency": "frequency branch"}
POOLED = "pooled"


def pooled_table(runs: Iterable[Product], seed: int = 0) -> pd.DataFrame:
    """One row each: scores on all test trials with intervals, chance and p, as in `baselines.table`. Empty if no run
    kept class scores."""
    if not (parts := _parts(runs)):
        return pd.DataFrame()
    labels = torch.cat([labels for _, labels, _ in parts.values()])
    groups, first = [], 0
    for _, _, own in parts.values():  # group numbers are per subject
        groups.append(torch.where(own < 0, -1, own + first))
        first = int(groups[-1].max().clamp(min=first - 1)) + 1
    shared = [name for name in next(iter(parts.values()))[0] if all(name in logits for logits, _, _ in parts.values())]
    together = {name: torch.cat([logits[name] for logits, _, _ in parts.values()]) for name in shared}
    scores = baselines.scored(together, labels, torch.cat(groups), seed)
    plain = {name: score for name, score in scores.items() if name in baselines.SHORT}
    networks = {NAMES.get(name, name): score for name, score in scores.items() if name not in plain}
    table = baselines.table(plain, networks).fillna("")
    return table.rename_axis(f"{len(labels)} test trials of {len(parts)} subjects").reset_index()


def subjects_table(runs: Iterable[Product], seed: int = 0) -> pd.DataFrame:
    """One row each, one column per subject: balanced accuracy, with p in brackets."""
    columns = {}
    for subject, (logits, labels, groups) in _parts(runs).items():
        cells = {}
        for name, values in logits.items():
            told = values.argmax(1)
            score = balanced_accuracy(told, labels)
            p = p_above_chance(told, labels, groups, seed)["p"]
            cells[(NAMES | baselines.SHORT).get(name, name)] = f"{score:.3f} ({'-' if p is None else f'{p:.2g}'})"
        columns[f"subject {subject}"] = cells
    return pd.DataFrame(columns).fillna("").rename_axis("balanced accuracy (p)").reset_index()


def _parts(runs: Iterable[Product]) -> dict[int, tuple[dict[str, Tensor], Tensor, Tensor]]:
    """For each subject's run of the whole method with the lowest seed: class scores by name, labels, groups."""
    found: dict[int, tuple[dict[str, Tensor], Tensor, Tensor]] = {}
    for run in sorted(runs, key=lambda run: (run.results["study"]["subject"], run.results["study"]["seed"])):
        chosen = run.results["study"]
        whole = chosen["ablation"] == "full" and "arrays.safetensors" in run.results["files"]
        if not whole or chosen["subject"] in found:
            continue
        arrays = run.arrays
        logits = {"fused": arrays["logits"]}
        logits |= {name.removeprefix("logits."): arrays[name] for name in arrays if name.startswith("logits.")}
        first = [name for name in NAMES if name in logits]
        last = [name for name in baselines.SHORT if name in logits]
        order = [*first, *(name for name in logits if name not in {*first, *last}), *last]
        groups = arrays.get("groups", torch.full_like(arrays["labels"], -1))
        found[chosen["subject"]] = ({name: logits[name] for name in order}, arrays["labels"], groups)
    return found
