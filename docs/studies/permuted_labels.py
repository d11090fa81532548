"""What the whole pipeline reaches where there is nothing to learn: stages 01 to 04 on permuted labels.

    snakemake --cores 2 permuted_study       runs them (a quarter of an hour), and writes figures/study/permuted.json
    python docs/studies/permuted_labels.py --gather figures/study/permuted.json      from the runs that are there

What was shown (class, picture and part of the split) is permuted once between each subject's trials; three seeds train.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from brainvis.evaluation.bootstrap import mean_interval
from brainvis.evaluation.seeds import same_trials
from brainvis.files import ROOT, BrainvisError, write_json
from brainvis.study import Product, Study

PRESET = Path(__file__).with_name("permuted.yml")
SEEDS, SUBJECTS = (0, 1, 2), (1, 2)


def run(preset: Path, cores: int) -> None:
    """Make the runs that are missing or out of date."""
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(cores)]
    choice = [f"preset={preset}", f"seeds={[*SEEDS]}", f"subjects={[*SUBJECTS]}", "ablations=[full]"]
    subprocess.run([*snakemake, "--until", "04_fusion", "--config", *choice], check=True)


def gathered(study: Study) -> dict:
    """Accuracy of each classifier of notebook 04, mean over seeds and the trials of all subjects, with its interval.

    Resamples draw seeds, then whole pictures within classes; a picture that several subjects saw is drawn for all.
    `at_chance`: the interval contains one in as many as there are classes. BrainvisError: there are no runs.
    """
    by_subject: dict[int, list[Product]] = {}
    for product in study.gather("fusion"):
        by_subject.setdefault(product.results["study"]["subject"], []).append(product)
    seeds = {subject: [p.results["study"]["seed"] for p in runs] for subject, runs in by_subject.items()}
    first = next(iter(seeds.values()), [])
    if not first or any(own != first for own in seeds.values()) or not all(map(same_trials, by_subject.values())):
        raise BrainvisError(f"seeds of each subject: {seeds}; run the same for all of them: snakemake permuted_study")
    arrays = [runs[0].arrays for runs in by_subject.values()]
    labels, groups = (np.concatenate([of[name].numpy() for of in arrays]) for name in ("labels", "groups"))
    chance, found = 1 / arrays[0]["logits"].shape[1], {}
    for name in ["logits", *sorted(name for name in arrays[0] if name.startswith("logits."))]:
        hits = [  # (subject)(seed, trial)
            np.stack([(run.arrays[name].argmax(1) == run.arrays["labels"]).double().numpy() for run in runs])
            for runs in by_subject.values()
        ]
        score = mean_interval(np.concatenate(hits, axis=1), groups=groups, strata=labels)
        title = name.removeprefix("logits").removeprefix(".") or "fused"
        found[title] = score | {"at_chance": bool(score["low"] <= chance <= score["high"])}
    size = {"seeds": first, "subjects": sorted(by_subject), "trials": len(labels)}
    return {"labels": "permuted", "chance": chance, **size, "top1": found}


def main(arguments: list[str] | None = None) -> None:
    """Run the study, unless it is only to be gathered, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--preset", type=Path, default=PRESET, help="a preset with permuted labels")
    parser.add_argument("--cores", type=int, default=2, help="notebooks run at once (default 2)")
    parser.add_argument("--gather", action="store_true", help="run nothing, only gather")
    chosen = parser.parse_args(arguments)
    if not chosen.gather:
        run(chosen.preset, chosen.cores)
    found = gathered(Study(preset=str(chosen.preset)))
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.output, found, indent=1)
    for name, score in found["top1"].items():
        print(f"{name}: {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}], chance {found['chance']:.3f}")


if __name__ == "__main__":
    main()
