"""What people read of the study of pre-training: `pretraining.md`, a figure, and the numbers of both.

python docs/studies/show_pretraining.py figures/study/pretraining figures/study      of the parts that are there

Gains over no pre-training are paired by seed and test trial; intervals draw seeds, then whole pictures within classes.
What is said of a gain is computed from its p-value, corrected (Holm) for all that stand in the same table.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pretraining import KINDS, KINDS_AND_ORIGINS, STEPS, WORLDS

from brainvis.evaluation.bootstrap import LEAST_P, holm, mean_difference, mean_interval, p_text
from brainvis.evaluation.publication import METADATA
from brainvis.evaluation.report import to_markdown
from brainvis.files import read_json, write_aside, write_json
from brainvis.plots.style import PALETTE, chance_line, panels

LEVEL = 0.05
FEWEST = 3  # seeds of a comparison that is judged in words
INTRODUCTION = """# What pre-training is worth

The time branch of preset `demo` on the **phantom**, which is not brain data, fine-tuned after each kind of
pre-training; accuracy on test trials, chance {chance:.3f}. Seeds: {seeds}. Brackets hold 95 % intervals over seeds and
pictures.
"""


def show(folder: Path, output: Path) -> None:
    """Write `pretraining.json`, `.md`, `.png` and `.pdf` of the parts in `folder`."""
    parts = [read_json(file) for file in sorted(folder.glob("*.json"))]
    if not parts:
        sys.exit(f"{folder} has no results yet: run snakemake pretraining_study")
    kept = {"accuracy": accuracies(parts), "gain over none": gains(parts), "encoder": encoders(parts)}
    write_json(output / "pretraining.json", kept)
    write_aside(output / "pretraining.md", lambda path: path.write_text(text(kept, parts), encoding="utf-8"))
    drawn = figure(kept, 100 / len(set(parts[0]["labels"])))
    for kind, metadata in METADATA.items():
        write_aside(output / f"pretraining.{kind}", partial(drawn.savefig, format=kind, dpi=150, metadata=metadata))


# Numbers, by "world | kind | share"


def _by_name(parts: list[dict]) -> dict[tuple, dict[int, dict]]:
    """(world, kind, share) -> seed -> what was read of the test trials: `right` (trial,), `words`, their pictures
    and labels."""
    found: dict[tuple, dict[int, dict]] = {}
    for part in parts:
        for row in part["rows"]:
            read = {"right": np.array(list(row["right"])) == "1", "words": row["words"]}
            read |= {"groups": np.array(part["images"]), "strata": np.array(part["labels"])}
            found.setdefault((part["world"], part["kind"], row["share"]), {})[part["seed"]] = read
    return found


def accuracies(parts: list[dict]) -> dict[str, dict]:
    """Mean over seeds, with its interval, each seed's, and how often each word of the name is right."""
    kept = {}
    for (world, kind, share), seeds in _by_name(parts).items():
        right = np.stack([read["right"] for read in seeds.values()])  # (seed, trial)
        score = mean_interval(right, **_draws(seeds))
        words = pd.DataFrame([read["words"] for read in seeds.values()]).mean().to_dict()
        kept[f"{world} | {kind} | {share:g}"] = score | {"seeds": right.mean(1).tolist(), "words": words}
    return kept


def gains(parts: list[dict]) -> dict[str, dict]:
    """Difference to no pre-training of the same world, share, seeds and trials; p corrected within each world."""
    found, kept = _by_name(parts), {}
    for (world, kind, share), seeds in found.items():
        none = found.get((world, "none", share), {})
        if kind != "none" and (both := sorted(seeds.keys() & none.keys())):
            differences = np.stack([seeds[seed]["right"].astype(float) - none[seed]["right"] for seed in both])
            kept[f"{world} | {kind} | {share:g}"] = mean_difference(differences, **_draws(seeds)) | {"seeds": both}
    for world in WORLDS:
        family = {name: gain["p"] for name, gain in kept.items() if name.startswith(f"{world} |")}
        for name, p in holm(family).items():
            kept[name] |= {"p_holm": p, "family": len(family)}
    return kept


def _draws(seeds: dict[int, dict]) -> dict[str, np.ndarray]:
    first = next(iter(seeds.values()))
    return {"groups": first["groups"], "strata": first["strata"]}


def encoders(parts: list[dict]) -> dict[str, dict[str, float]]:
    """What pre-training did to the encoder, mean over seeds, by "world | kind": probes of both readouts before and
    after, accuracy on masked tokens beside the most frequent one, error of the regressor beside that of the mean."""
    rows = {}
    for part in parts:
        found = {f"{readout}, {when}": value for when, key in (("before", "probe_before"), ("after", "probe"))
                 for readout, value in part.get(key, {}).items()}  # fmt: skip
        found |= {name.removeprefix("validation_"): value for name, value in part.get("pretraining", {}).items()
                  if name.startswith("validation_")}  # fmt: skip
        rows.setdefault(f"{part['world']} | {part['kind']}", []).append(found)
    return {name: pd.DataFrame(seeds).mean().to_dict() for name, seeds in rows.items()}


# Words


def text(kept: dict, parts: list[dict]) -> str:
    """All of it in tables and in sentences that are computed."""
    seeds = ", ".join(map(str, sorted({part["seed"] for part in parts})))
    chance = 1 / len(set(parts[0]["labels"]))
    sections = [INTRODUCTION.format(chance=chance, seeds=seeds), "![what pre-training is worth](pretraining.png)"]
    for world in WORLDS:
        if lines := _table(kept, world):
            sections += [f"## {world.replace('_', ' ').capitalize()}", to_markdown(pd.DataFrame(lines)).rstrip()]
            sections += [verdict(kept, world)]
    sections += ["## What it did to the encoder", _of_encoders(kept)]
    return "\n\n".join(sections) + "\n"


def _table(kept: dict, world: str) -> list[dict[str, str]]:
    lines = []
    for kind, title in KINDS_AND_ORIGINS.items():
        line = {"pre-training": title, "seeds": 0}
        for share in STEPS:
            if score := kept["accuracy"].get(name := f"{world} | {kind} | {share:g}"):
                shown = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**score)
                gain = kept["gain over none"].get(name)
                line["seeds"] = max(line["seeds"], len(score["seeds"]))
                line[f"{share:.0%} of labels"] = shown + (f"; {points(gain)}" if gain else "")
        lines += [line] if len(line) > 2 else []
    return lines


def points(gain: dict) -> str:
    """A gain as people read it."""
    told = "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * gain[key] for key in ("value", "low", "high")))
    return f"{told}, {p_text(gain['p_holm'], gain['family'] * LEAST_P)}"


def verdict(kept: dict, world: str) -> str:
    """Which kinds are shown to help or to harm in a world, and at which shares. A gain of fewer than `FEWEST` seeds
    shows nothing of a kind, however narrow its interval over trials."""
    of_world = {name: gain for name, gain in kept["gain over none"].items() if name.startswith(f"{world} |")}
    if not of_world:
        return "There is nothing to compare yet."
    judged = {name: gain for name, gain in of_world.items() if len(gain["seeds"]) >= FEWEST}
    said = {"helps": [], "harms": []}
    for name, gain in judged.items():
        if gain["p_holm"] < LEVEL:
            _, kind, share = name.split(" | ")
            said["helps" if gain["value"] > 0 else "harms"].append(f"{KINDS_AND_ORIGINS[kind]} ({float(share):.0%})")
    helps, harms = (", ".join(said[which]) or "none" for which in ("helps", "harms"))
    told = f"Of {len(judged)} comparisons with at least {FEWEST} seeds: shown to help, {helps}; shown to harm, {harms}."
    left = len(of_world) - len(judged)
    told += f" Not judged, with fewer seeds: {left}." if left else ""
    return f"{told} p-values are corrected for all {len(of_world)}."


def _of_encoders(kept: dict) -> str:
    titles = {"mean_of_units, before": "probe of the mean, before", "mean_of_units, after": "after"}
    titles |= {"all_units, before": "probe of all units, before", "all_units, after": "after "}
    titles |= {"token_accuracy": "masked-token accuracy", "token_chance": "most frequent token"}
    lines = []
    for name, found in kept["encoder"].items():
        world, kind = name.split(" | ")
        if kind != "none":
            cells = {title: f"{found[key]:.3f}" for key, title in titles.items() if not pd.isna(found.get(key, np.nan))}
            error = found.get("regression", np.nan) / found.get("regression_of_mean", np.nan)
            cells |= {} if pd.isna(error) else {"error / that of the mean": f"{error:.2f}"}
            lines.append({"world": world.replace("_", " "), "pre-training": KINDS_AND_ORIGINS[kind]} | cells)
    return to_markdown(pd.DataFrame(lines)).rstrip()


# Figure


def figure(kept: dict, chance: float) -> Figure:
    """Accuracy by share of labels and kind; gain of LMM over none with all labels, by world."""
    drawn, (left, right) = panels(1, 2, height=3.8, width=11)
    for place, (kind, colour) in enumerate(zip(KINDS, PALETTE, strict=False)):
        names = {share: f"interleaved | {kind} | {share:g}" for share in STEPS}
        points = {share: kept["accuracy"][name] for share, name in names.items() if name in kept["accuracy"]}
        x = 100 * np.array(list(points)) * 1.04 ** (place - 2.5)  # beside each other
        _bars(left, x, list(points.values()), colour, f"{KINDS[kind]} (seeds: {_count(points)})")
    chance_line(left, chance)
    left.set(xscale="log", xlabel="labelled trials (%)", ylabel="test accuracy (%)", title="fine-tuned time branch")
    left.set_xticks([100 * share for share in STEPS], [f"{100 * share:g}" for share in STEPS])
    left.minorticks_off()
    left.legend(fontsize=7)
    worlds = {world: kept["gain over none"].get(f"{world} | lmm | 1") for world in WORLDS}
    worlds = {world: gain for world, gain in worlds.items() if gain}
    for place, gain in enumerate(worlds.values()):
        value, low, high = (100 * gain[key] for key in ("value", "low", "high"))
        right.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color=PALETTE[0], capsize=3)
    right.axvline(0, color="black", linewidth=1)
    labels = [f"{world.replace('_', ' ')} (seeds: {len(gain['seeds'])})" for world, gain in worlds.items()]
    right.set_yticks(range(len(worlds)), labels)
    right.set_ylim(len(worlds) - 0.5, -0.5)
    right.set(xlabel="LMM as released - no pre-training (points)", ylabel="recording", title="all labels")
    return drawn


def _count(points: dict) -> str:
    counts = sorted({len(point["seeds"]) for point in points.values()})
    return " to ".join(map(str, counts)) if counts else "0"


def _bars(axes: Axes, x: np.ndarray, points: list[dict], colour: str, label: str) -> None:
    values = 100 * np.array([[point[key] for key in ("value", "low", "high")] for point in points]).reshape(-1, 3)
    reach = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
    axes.errorbar(x, values[:, 0], reach, fmt="o-", color=colour, label=label, capsize=2, markersize=4, linewidth=1)


if __name__ == "__main__":
    show(Path(sys.argv[1]), Path(sys.argv[2]))
