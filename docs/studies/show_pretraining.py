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
from pretraining import FEW_LABELS, KINDS, KINDS_AND_ORIGINS, STEPS, WORLDS

from brainvis.evaluation.bootstrap import LEAST_P, holm, mean_difference, mean_interval, p_text
from brainvis.evaluation.publication import METADATA
from brainvis.evaluation.report import to_markdown
from brainvis.files import read_json, write_aside, write_json
from brainvis.plots.style import PALETTE, chance_line, panels

LEVEL = 0.05
FEWEST = 3  # seeds of a comparison that is judged in words
READOUTS = {"mean_of_units": "mean over units", "all_units": "all units"}
PROBED = """A linear probe of the class, cross-validated in the training part, on the encoder before and after LMM as
released, without any fine-tuning. LMM sees no labels. Where classes were recorded in blocks under slow drift, the time
of recording gives the class away; without signal nothing else does. Means over seeds:"""
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
    kept["probes"] = probes(parts)
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


def probes(parts: list[dict]) -> dict[str, dict]:
    """Linear probes of the class before and after LMM as released, by world and readout: each seed's accuracy."""
    found: dict[str, dict] = {}
    for part in (part for part in parts if part["kind"] == "lmm"):
        for readout, before in part["probe_before"].items():
            of = found.setdefault(part["world"], {}).setdefault(readout, {"seeds": [], "before": [], "after": []})
            for key, value in (("seeds", part["seed"]), ("before", before), ("after", part["probe"][readout])):
                of[key].append(value)
    return {world: found[world] for world in WORLDS if world in found}


# Words


def text(kept: dict, parts: list[dict]) -> str:
    """All of it in tables and in sentences that are computed."""
    seeds = ", ".join(map(str, sorted({part["seed"] for part in parts})))
    chance = 1 / len(set(parts[0]["labels"]))
    sections = [INTRODUCTION.format(chance=chance, seeds=seeds), "![what pre-training is worth](pretraining.png)"]
    for world in WORLDS:
        if lines := _table(kept, world):
            sections += [f"## {_world(world).capitalize()}", to_markdown(pd.DataFrame(lines)).rstrip()]
            sections += [verdict(kept, world)]
    sections += ["## Does LMM learn the time of recording?", learned(kept["probes"])]
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
    left = len(of_world) - len(judged)
    if not judged:
        return f"Too few seeds to judge: a comparison needs {FEWEST}."
    told = (
        f"Shown to help: {helps}. Shown to harm: {harms}. Comparisons: {len(judged)}, of at least {FEWEST} seeds each"
    )
    told += f"; not judged, with fewer seeds: {left}." if left else "."
    return f"{told} p-values are corrected for {len(of_world)}." if len(of_world) > 1 else told


def learned(probes: dict[str, dict]) -> str:
    """In which worlds a linear probe of the class reads more, or less, after LMM: in every seed, of both readouts."""
    told = {"more": [], "less": [], "more or less": []}
    for world, readouts in probes.items():
        pairs = [pair for of in readouts.values() for pair in zip(of["before"], of["after"], strict=True)]
        more, less = all(a > b for b, a in pairs), all(a < b for b, a in pairs)
        seeds = len(next(iter(readouts.values()))["seeds"])
        means = (
            f"{READOUTS[readout]} {np.mean(of['before']):.3f} to {np.mean(of['after']):.3f}"
            for readout, of in readouts.items()
        )
        line = f"- *{_world(world)}* (seeds: {seeds}): {', '.join(means)}"
        told["more" if more else "less" if less else "more or less"].append(line)
    said = [PROBED]
    for which, lines in told.items():
        if lines:
            where = "by readout and seed" if which == "more or less" else "of both readouts and in every seed"
            said.append(f"The probe reads **{which}** after LMM, {where}:\n\n" + "\n".join(lines))
    return "\n\n".join(said)


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
            lines.append({"world": _world(world), "pre-training": KINDS_AND_ORIGINS[kind]} | cells)
    return to_markdown(pd.DataFrame(lines)).rstrip()


# Figure


def figure(kept: dict, chance: float) -> Figure:
    """Accuracy by share of labels and kind, in two worlds; of LMM in all worlds, the gain over none with all labels and
    the probe before and after."""
    drawn, axes = panels(2, 2, height=7.6, width=11)
    for place, world in zip(axes[0], FEW_LABELS, strict=True):
        _shares(place, kept, world, chance)
    _gains(axes[1, 0], kept)
    _probes(axes[1, 1], kept["probes"], chance)
    return drawn


def _gains(axes: Axes, kept: dict) -> None:
    worlds = {world: kept["gain over none"].get(f"{world} | lmm | 1") for world in WORLDS}
    worlds = {world: gain for world, gain in worlds.items() if gain}
    for place, gain in enumerate(worlds.values()):
        value, low, high = (100 * gain[key] for key in ("value", "low", "high"))
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color=PALETTE[0], capsize=3)
    axes.axvline(0, color="black", linewidth=1)
    _rows(axes, [f"{_world(world)} (seeds: {len(gain['seeds'])})" for world, gain in worlds.items()])
    axes.set(xlabel="LMM as released - no pre-training (points)", title="fine-tuned, all labels")


def _probes(axes: Axes, probes: dict[str, dict], chance: float) -> None:
    """A row a world: each seed's probe of all units before (hollow) and after LMM (filled); `chance` in percent."""
    for place, readouts in enumerate(probes.values()):
        of = readouts["all_units"]
        for before, after in zip(of["before"], of["after"], strict=True):
            axes.annotate(
                "", (100 * after, place), (100 * before, place), arrowprops={"arrowstyle": "->", "alpha": 0.4}
            )
        for values, filled in ((of["before"], "none"), (of["after"], PALETTE[0])):
            label = None if place else "after LMM" if filled != "none" else "before"
            rows, shown = np.full(len(values), place), 100 * np.array(values)
            axes.plot(shown, rows, "o", color=PALETTE[0], markerfacecolor=filled, markersize=5, label=label)
    axes.axvline(chance, color="grey", linestyle="--", linewidth=1, label=f"chance ({chance:g})")
    _rows(axes, [_world(world) for world in probes])
    axes.set(xlabel="linear probe of the class, all units (%)", title="before fine-tuning, one mark a seed")
    axes.set_xlim(left=0)
    axes.legend(fontsize=7, loc="upper right")


def _rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_ylabel("recording")


def _shares(axes: Axes, kept: dict, world: str, chance: float) -> None:
    """Accuracy by share of labels in a world, a line for each kind."""
    for place, (kind, colour) in enumerate(zip(KINDS, PALETTE, strict=False)):
        names = {share: f"{world} | {kind} | {share:g}" for share in STEPS}
        points = {share: kept["accuracy"][name] for share, name in names.items() if name in kept["accuracy"]}
        x = 100 * np.array(list(points)) * 1.04 ** (place - 2.5)  # beside each other
        if points:
            _bars(axes, x, list(points.values()), colour, f"{KINDS[kind]} (seeds: {_count(points)})")
    chance_line(axes, chance)
    axes.set(xscale="log", xlabel="labelled trials (%)", ylabel="test accuracy (%)", title=_world(world))
    axes.set_xticks([100 * share for share in STEPS], [f"{100 * share:g}" for share in STEPS])
    axes.minorticks_off()
    if (top := axes.get_ylim()[1]) < 70:
        axes.set_ylim(top=1.35 * top)  # room for the names
    axes.legend(fontsize=7, loc="upper left")


def _world(name: str) -> str:
    """A world as people read it: "block, drift 0.5, no signal"."""
    return name.replace("_no_signal", ", no signal").replace("_drift_", ", drift ")


def _count(points: dict) -> str:
    counts = sorted({len(point["seeds"]) for point in points.values()})
    return " to ".join(map(str, counts)) if counts else "0"


def _bars(axes: Axes, x: np.ndarray, points: list[dict], colour: str, label: str) -> None:
    values = 100 * np.array([[point[key] for key in ("value", "low", "high")] for point in points]).reshape(-1, 3)
    reach = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
    axes.errorbar(x, values[:, 0], reach, fmt="o-", color=colour, label=label, capsize=2, markersize=4, linewidth=1)


if __name__ == "__main__":
    show(Path(sys.argv[1]), Path(sys.argv[2]))
