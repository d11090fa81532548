"""Every table of the paper, in form, from our own runs, and sweeps that the paper does not have; tables.yml says which.

    snakemake --cores 2 tables_study                          all of it: takes hours, resumes where it was stopped
    snakemake --cores 2 table6_study                          one table
    python docs/studies/tables.py run codewords_220 0 PARTS   one part: a change and a seed, with the runs it needs
    python docs/studies/tables.py table table6 PARTS OUT.csv  one table, from the parts that are there

`show_tables.py` makes figures and a text of them.

A part is a small file that is kept: scores, and the result of each test trial, so that differences are paired and
intervals cover seeds and trials.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from torch import Tensor

from brainvis.data.classes import attribute_hits, class_attributes
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.baselines import BASELINES
from brainvis.evaluation.bootstrap import holm, mean_difference, mean_interval
from brainvis.evaluation.joining import perfect_referee
from brainvis.evaluation.judges import judges_of
from brainvis.evaluation.pictures import Pictures, ask
from brainvis.evaluation.report import to_csv
from brainvis.files import ROOT, read_json, write_aside, write_json
from brainvis.generation import load_generator
from brainvis.graph import Choice, mark, stage_named, stage_of_branch
from brainvis.models import new_encoder
from brainvis.models.encoder import classification_objective
from brainvis.study import Product, Study
from brainvis.study.product import made_with
from brainvis.training import fit, predict

PLAN = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
PREFIXES = ("test.", "fused.", "late.", "referee.", "baselines.", "time.", "frequency.")
PREFIXES += ("retrieval.", "semantic.", "refined.")
EPOCHS_TIMED, TOPS = 2, (1, 3, 5)
COLUMNS = ["row", "measure", "value", "low", "high", "p", "p_holm"]
COLUMNS += ["deviation", "chance", "of_seeds", "subjects", "trials"]


# A part


def run(name: str, seed: int, folder: Path, preset: str = "demo") -> None:
    """Make the runs of a part that are missing and write what came of them to `folder`/<name>-<seed>.json."""
    part, found = PLAN["parts"][name], []
    ablation, losses = part.get("ablation", name), {}
    if "variants" in part:
        ablation, losses = best_of([name, *(f"{name}+{variant}" for variant in part["variants"])], preset)
    for stage in part["stages"]:
        subjects = PLAN[part.get("subjects", "subjects")] if stage_named(stage).of_subject else [1]
        for subject in subjects:
            choice = Choice(subject=subject, ablation=ablation, preset=preset, seed=seed)
            make(choice, stage)
            study = Study(subject=subject, ablation=choice.ablation, preset=preset, seed=seed)
            found.append(measured(study, stage))
    made = {"part": name, "seed": seed, "preset": preset, "runs": found, "made_with": made_with()}
    made |= {"ablation": ablation, "validation_losses": losses} if losses else {}
    write_json(folder / f"{name}-{seed}.json", made, indent=None)


def best_of(ablations: list[str], preset: str) -> tuple[str, dict[str, float]]:
    """The one whose alignment has the lowest loss on validation trials (first seed and subject), and all losses."""
    losses = {}
    for ablation in ablations:
        chosen = {"subject": PLAN["few"][0], "ablation": ablation, "preset": preset, "seed": PLAN["seeds"][0]}
        make(Choice(**chosen), "alignment")
        epochs = Study(**chosen).load("alignment").metrics["training"]
        losses[ablation] = min(epoch["validation_loss"] for epoch in epochs)
    return min(losses, key=losses.get), losses


def make(choice: Choice, stage: str) -> None:
    """Run the notebooks of `stage` and of all that it needs, as snakemake does, unless their runs are up to date."""
    for source in choice.sources(stage):
        folder, notebook = choice.folder(source), f"{stage_named(source).notebook}.ipynb"
        done = folder / mark(choice.fingerprint(source))
        if not done.exists():
            words = ["-m", "brainvis", "run", ROOT / "notebooks" / notebook, folder / notebook, done]
            parameters = shlex.split(choice.parameters(source))
            subprocess.run([sys.executable, *map(str, words), *parameters], check=True, cwd=ROOT)


def measured(study: Study, stage: str) -> dict:
    """What a table can ask of a run: its scores by name, and those of each test trial for which there are any."""
    product, trials = study.load(stage), {}
    scores = {name: score for name, score in _scores(product.metrics) if name.startswith(PREFIXES)}
    chance = {name: score["chance"] for name, score in scores.items() if "chance" in score}
    scores = {name: score["value"] for name, score in scores.items()}
    data = study.subject_data() if stage_named(stage).of_subject else study.data()
    if stage == "fusion":
        tested, trials = product.arrays["trials"], named_correctly(product.arrays)
    elif stage == "generation":
        tested = product.arrays["trials"]
        for kind in ("semantic", "refined"):
            if (accuracy := product.arrays.get(f"accuracy_{kind}")) is not None:
                trials[f"{kind}.generation_accuracy"] = [round(value, 4) for value in accuracy.tolist()]
        trials |= recovered(study, product, scores)
    elif stage == "alignment":
        tested, ranks = product.arrays["trials"], product.arrays.items()
        known = {name.partition(".")[2]: of for name, of in ranks if name.startswith("ranks.")}
        trials = {f"retrieval.{name}.top{k}": (of < k).int().tolist() for name, of in known.items() for k in (1, 5)}
    else:
        tested = data.partition(study.protocol).test
        trials, more = of_branch(study, data, stage, product)
        scores |= more
    shown = {"images": data.images[tested].tolist(), "labels": data.labels[tested].tolist()}
    who = study.subject if stage_named(stage).of_subject else 0
    made = {"stage": stage, "subject": who, "fingerprint": study.fingerprint(stage), "scores": scores, "chance": chance}
    return made | ({"trials": trials, **shown} if trials else {})


def recovered(study: Study, product: Product, scores: dict[str, float]) -> dict[str, list[float]]:
    """The share of each test trial's pictures that have an attribute of the picture shown, such as its position."""
    kinds = [kind for kind in ("semantic", "refined") if kind in product.arrays]
    judge = judges_of(load_generator(study.backbone)).classifier
    sets = (Pictures(product.arrays[kind].numpy()) for kind in (*kinds, "truth"))
    *made, shown = ask(judge, *sets) if judge else [{}]
    found = {}
    for kind, said in zip(kinds, made, strict=False):
        for attribute in said.keys() - {"class", "features"}:
            agree = said[attribute].argmax(-1) == shown[attribute].argmax(-1)[:, None]  # (trial, sample)
            name, value = f"{kind}.attributes.{attribute}", agree.double().mean().item()
            if abs(value - scores[name]) > 1e-6:
                sys.exit(
                    f"{product.folder}: {name} of the saved pictures is {value:.4f}, the run says {scores[name]:.4f}"
                )
            found[name] = agree.double().mean(1).tolist()
    return found


def named_correctly(arrays: dict[str, Tensor]) -> dict[str, list[int]]:
    """For each test trial, whether the class shown is among the 1, 3 and 5 most likely: as BrainVis, each branch,
    late fusion, a perfect referee between the branches and each baseline say."""
    logits = {"fused": arrays["logits"]}
    for name, of in arrays.items():
        kind, _, whose = name.partition(".")
        if kind == "logits" and whose:
            logits[f"baselines.{whose}" if whose in BASELINES else whose] = of
    if branches := [logits[name] for name in ("time", "frequency") if name in logits]:
        logits["referee"] = perfect_referee(branches, arrays["labels"])
    hits = {name: of.topk(max(TOPS), dim=1).indices == arrays["labels"][:, None] for name, of in logits.items()}
    return {f"{name}.top{k}": of[:, :k].any(1).int().tolist() for name, of in hits.items() for k in TOPS}


def of_branch(study: Study, data: EEGDataset, stage: str, product: Product) -> tuple[dict[str, list], dict[str, float]]:
    """Which test trials a branch alone names correctly, and each word of their names; its size, and how long one epoch
    of its training takes."""
    branch = "time" if stage == stage_of_branch("time") else stage.removesuffix("_branch")
    model = new_encoder(branch, study.configuration, **data.signature, n_outputs=len(data.class_names))
    partition = data.partition(study.protocol)
    study.load_branch(branch, model)
    predicted, labels = predict(model, data.view(partition.test)).argmax(1), data.labels[partition.test]
    hits = {"test.top1": predicted == labels}
    hits |= {
        f"test.{place}": attribute_hits(predicted, labels, words)
        for place, words in class_attributes(data.class_names).items()
    }
    trials = {name: of.int().tolist() for name, of in hits.items()}
    found = (predicted == labels).double().mean().item()
    if abs(found - product.metrics["test"]["top1"]["value"]) > 2 / len(labels):
        sys.exit(f"{product.folder}: the saved weights get {found:.4f} of the test trials right, not what the run says")
    if branch == "time":
        return trials, {}
    training = study.configuration.frequency.training
    timed = [[data.view(part), data.labels[part]] for part in (partition.train, partition.validation)]
    brief = replace(training, epochs=EPOCHS_TIMED)
    history = fit(model, classification_objective, *timed, brief, name="timing", seed=study.seed)
    size = sum(weight.numel() for weight in model.parameters()) / 1e6
    return trials, {"test.parameters": size, "test.seconds": history.seconds / EPOCHS_TIMED}


def _scores(metrics: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every {"value": ...} below `metrics`, with its path."""
    for name, value in metrics.items():
        if isinstance(value, dict) and isinstance(value.get("value"), (int, float)):
            yield path + name, value
        elif isinstance(value, dict):
            yield from _scores(value, f"{path}{name}.")


# A table


def table(name: str, folder: Path, seeds: list[int] | None = None) -> pd.DataFrame:
    """A table's measured rows from the parts in `folder`: one line a number, `COLUMNS`, with intervals over seeds and
    trials, or the standard deviation over seeds where a number is none of single trials."""
    plan, lines = PLAN["tables"][name], []
    seeds = PLAN["seeds"] if seeds is None else seeds
    everyone = PLAN[plan.get("subjects", "subjects")]
    groups = [[one] for one in everyone] * bool(plan.get("by_subject")) + [everyone]
    for label, part, stage, prefix in plan["rows"]:
        of_part = [read_json(folder / f"{part}-{seed}.json")["runs"] for seed in seeds]
        against = next((row for row in plan["rows"] if row[0] == plan.get("against") != label), None)
        others = against and [read_json(folder / f"{against[1]}-{seed}.json")["runs"] for seed in seeds]
        for subjects in groups:
            for measure, path in plan["measures"].items():
                where, _, score = path.rpartition(":")
                ask = (where or stage, score if where else f"{prefix}.{score}", subjects)
                line = estimated(of_part, *ask)
                row = f"{label}, subject {subjects[0]}" if len(groups) > 1 and subjects != everyone else label
                lines.append({"row": row, "measure": measure} | line)
                if others and "low" in line:
                    than = (where or against[2], score if where else f"{against[3]}.{score}", subjects)
                    difference = estimated(of_part, *ask, others=others, than=than)
                    lines.append({"row": row, "measure": f"{measure}, difference"} | difference)
    for family in {line["measure"] for line in lines if "p" in line}:  # all differences of a measure in this table
        of_family = [line for line in lines if line["measure"] == family]
        corrected = holm({line["row"]: line["p"] for line in of_family})
        for line in of_family:
            line["p_holm"] = corrected[line["row"]]
    before = pretrained(plan["pretraining"], folder) if "pretraining" in plan else []
    return pd.DataFrame([*before, *lines], columns=COLUMNS)


def pretrained(kinds: dict[str, str], folder: Path) -> list[dict]:
    """Accuracy of the fine-tuned time branch after each kind of pre-training, from the study of it."""
    known = read_json(folder.parent / "pretraining.json")["accuracy"]
    scores = {label: known.get(f"interleaved | {kind} | 1") for label, kind in kinds.items()}
    return [
        {"row": label, "measure": "top-1", "subjects": "all"}
        | {key: score[key] for key in ("value", "low", "high")}
        | {"of_seeds": " ".join(f"{value:.4f}" for value in score.get("seeds", []))}
        for label, score in scores.items()
        if score
    ]


def estimated(parts: list, stage: str, score: str, subjects: list[int], others=None, than=None) -> dict:
    """A score of each seed's runs of a stage, or its difference from that of `others`: mean over seeds and subjects."""
    runs = [_runs(of_seed, stage, subjects) for of_seed in parts]
    said = {"subjects": "all" if not runs[0][0]["subject"] else " ".join(map(str, subjects))}
    said |= {"chance": runs[0][0]["chance"].get(score)} if others is None else {}
    if score in runs[0][0].get("trials", {}):
        values, shown = _trials(runs, score)
        if others is not None:
            other, same = _trials([_runs(of_seed, than[0], subjects) for of_seed in others], than[1])
            if not np.array_equal(shown, same):
                sys.exit(f"{stage} and {than[0]} were not tested on the same trials")
            values = values - other
        of_seeds = values.mean(1)
        ask = mean_interval if others is None else mean_difference
        said |= ask(values, groups=shown[0], strata=shown[1]) | {"trials": values.shape[1]}
    else:
        of_seeds = np.array([np.mean([run["scores"][score] for run in of_seed]) for of_seed in runs])
        said |= {"value": of_seeds.mean()}
    spread = of_seeds.std(ddof=1) if len(of_seeds) > 1 else np.nan
    return said | {"deviation": spread, "of_seeds": " ".join(f"{value:.4f}" for value in of_seeds)}


def _runs(of_seed: list[dict], stage: str, subjects: list[int]) -> list[dict]:
    found = [run for run in of_seed if run["stage"] == stage and run["subject"] in (0, *subjects)]
    if not found:
        sys.exit(f"a part has no run of {stage} for subjects {subjects}: tables.yml must name it")
    return found


def _trials(runs: list[list[dict]], score: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (seed, trial) of all subjects' trials, and what these showed: (image and label, trial)."""
    shown = [[np.concatenate([run[what] for run in of_seed]) for what in ("images", "labels")] for of_seed in runs]
    if any(not np.array_equal(shown[0], other) for other in shown):
        sys.exit(f"{score}: seeds were not tested on the same trials")
    return np.stack([np.concatenate([run["trials"][score] for run in of_seed]) for of_seed in runs]), shown[0]


def write(name: str, folder: Path, output: Path) -> None:
    """A table as CSV."""
    text = to_csv(table(name, folder))
    write_aside(output, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("name", choices=PLAN["parts"])
    one.add_argument("seed", type=int)
    one.add_argument("folder", type=Path)
    one.set_defaults(do=run)
    written = commands.add_parser("table")
    written.add_argument("name", choices=PLAN["tables"])
    written.add_argument("folder", type=Path)
    written.add_argument("output", type=Path)
    written.set_defaults(do=write)
    arguments = vars(parser.parse_args())
    arguments.pop("do")(**arguments)
