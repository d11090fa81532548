"""Whether the audits of notebook 01 raise their flags before a score is too good, and only then: on the phantom.

A small phantom (2 subjects, 20 classes, 12 pictures of each), recorded under drift from 0 to 1, interleaved and in
blocks, from 20 seeds: every audit of `brainvis.evaluation.confounds`. Two of them are classifiers that a study might
report: a ridge regression on the whole trial, and one on the trial before, which is blind to what is shown.
What drift in a block design adds to their accuracy owes nothing to the brain. Each point takes seconds and is
kept, so that the study resumes where it was stopped.

Twenty seeds cannot tell a rate of false alarms of 5 % from one of 15 %. So false alarms are also counted on a thousand
recordings of noise, in the interleaved orders of as many seeds, which takes two minutes (`audit_noise.json`).

    snakemake --cores 2 audits_study                                    all of it
    python docs/studies/calibrate_audits.py --output FOLDER --minutes 3     as often as needed
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.random import SeedSequence, default_rng
from scipy import stats
from tqdm.auto import tqdm

from brainvis.configuration import Phantom
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation import confounds
from brainvis.evaluation.publication import METADATA
from brainvis.files import ROOT, code_digest, digest, write_json
from brainvis.phantom.head import electrodes
from brainvis.phantom.recording import presentation_order, record, split_by_image
from brainvis.phantom.sources import GAINS
from brainvis.phantom.stimuli import plan_session
from brainvis.plots.data import calibration_figure

SIZE = {"subjects": 2, "classes": 20, "images_per_class": 12}
DRIFTS = {  # relative to the ongoing EEG
    "block": (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0),
    "interleaved": (0.0, 0.1, 0.25, 0.5, 1.0),
}
SEEDS = 20
NOISE_SEEDS, NOISE_CHANNELS = 1000, 4
WINDOW = slice(20, 460)  # samples, as EEGCVPR40's


def recorded(phantom: Phantom, seed: int, noise: bool = False) -> EEGDataset:
    """The trials of a phantom, standardised by channel, without files; `noise`: a few channels of nothing else."""
    pictures, splits, *subject_seeds = SeedSequence(seed).spawn(2 + phantom.subjects)
    session, rng = plan_session(phantom, default_rng(pictures)), default_rng(splits)
    count, trials, order = len(session.labels), [], []
    for own in map(default_rng, subject_seeds):
        if noise:
            order += np.argsort(presentation_order(session.labels, phantom.design, own)).tolist()
            trials += torch.from_numpy(own.standard_normal((count, NOISE_CHANNELS, 440), np.float32))
            continue
        for _, place, eeg in record(session, phantom, own):
            trials.append(eeg[:, WINDOW].clone())
            order.append(place)
    trials = torch.stack(trials)
    trials = (trials - trials.mean((0, 2), keepdim=True)) / trials.std((0, 2), keepdim=True)
    one, images = split_by_image(session.labels, rng), torch.arange(count).repeat(phantom.subjects)
    return EEGDataset(
        name="phantom", trials=trials, sampling_rate=1000.0, start=0.02,
        channels=electrodes()[0][: trials.shape[1]], montage=None,
        labels=torch.from_numpy(session.labels).repeat(phantom.subjects), images=images, captions={},
        subjects=torch.arange(1, phantom.subjects + 1).repeat_interleave(count), image_folder=None,
        image_ids=tuple(session.image_ids), class_names=tuple(map(str, range(phantom.classes))),
        splits={part: torch.nonzero(torch.isin(images, torch.tensor(which))).flatten() for part, which in one.items()},
        lengths=torch.full((len(trials),), 500), order=torch.tensor(order), fingerprint="",
    )  # fmt: skip


def point(design: str, drift: float, seed: int, noise: bool = False) -> dict:
    """All audits of one phantom, or of noise in its order, with their flags."""
    data = recorded(Phantom(**SIZE, design=design, drift=drift), seed, noise)
    found = confounds.audits(data, torch.cat([data.splits["train"], data.splits["val"]]), seed)
    flags = confounds.flags(found)
    own = {name: {**audit.score, "flag": flags.get(name, audit.p <= confounds.LEVEL)} for name, audit in found.items()}
    return {"design": design, "drift": drift, "seed": seed, "audits": own}


def false_alarms(seeds: int) -> dict:
    """How many recordings of noise, in interleaved orders, raise a flag, with a 95 % interval, and by audit."""
    raised = [point("interleaved", 0.0, seed, noise=True)["audits"] for seed in tqdm(range(seeds), desc="noise")]
    family = [name for name in confounds.CONFOUNDS if name in raised[0]]
    count = sum(any(own[name]["flag"] for name in family) for own in raised)
    interval = stats.binomtest(count, seeds).proportion_ci(method="exact")
    by_audit = {name: sum(own[name]["flag"] for own in raised) for name in family}
    made = {"recordings": seeds, "with_any_flag": count, "share": count / seeds, "by_audit": by_audit}
    return made | {"low": round(interval.low, 4), "high": round(interval.high, 4), "level": confounds.LEVEL}


def summary(points: list[dict]) -> dict:
    """Of each audit, design and drift, over seeds: mean value and chance, how often it raised its flag, and what was
    gained against the same seed without drift, in points of accuracy, with the 95 % interval of its mean."""
    rows, at = [], {(p["design"], p["drift"], p["seed"]): p["audits"] for p in points}
    for design, drifts in DRIFTS.items():
        for drift in drifts:
            seeds = [seed for seed in range(SEEDS) if (design, drift, seed) in at and (design, 0.0, seed) in at]
            if not seeds:
                continue
            for name in at[design, drift, seeds[0]]:
                own = [at[design, drift, seed][name] for seed in seeds]
                gains = 100 * np.array(
                    [at[design, drift, s][name]["value"] - at[design, 0.0, s][name]["value"] for s in seeds]
                )
                reach = (
                    stats.t.ppf(0.975, len(seeds) - 1) * gains.std(ddof=1) / len(seeds) ** 0.5
                    if len(seeds) > 1
                    else None
                )
                row = {"design": design, "drift": drift, "audit": name, "seeds": len(seeds)}
                row |= {key: round(float(np.mean([one[key] for one in own])), 4) for key in ("value", "chance")}
                row |= {"flags": sum(one["flag"] for one in own), "gain": round(float(gains.mean()), 2)}
                rows.append(row | {"gain_reach": None if reach is None else round(float(reach), 2)})
    any_flag = [
        any(a["flag"] for n, a in own.items() if n in confounds.CONFOUNDS)
        for (d, *_), own in at.items()
        if d == "interleaved"
    ]
    return {
        "phantom": {**SIZE, "gains": GAINS}, "exchanges": confounds.EXCHANGES, "level": confounds.LEVEL,
        "family": [name for name in confounds.CONFOUNDS if any(row["audit"] == name for row in rows)],
        "interleaved_recordings": len(any_flag), "interleaved_with_any_flag": sum(any_flag), "rows": rows,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Compute what is missing, then summarise what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the points, which are kept")
    parser.add_argument(
        "--figures", type=Path, default=ROOT / "figures" / "study", help="folder for the summary and the figure"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no point after this many minutes")
    parser.add_argument("--processes", type=int, default=1, help="points computed at once (default 1)")
    chosen = parser.parse_args(arguments)
    chosen.figures.mkdir(parents=True, exist_ok=True)
    begin, code = time.monotonic(), code_digest("brainvis.evaluation.confounds", "brainvis.phantom.recording")
    file = chosen.output / f"points-{digest([SIZE, GAINS, code])[:8]}.jsonl"  # of this code alone
    chosen.output.mkdir(parents=True, exist_ok=True)
    points = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(point["design"], point["drift"], point["seed"]) for point in points}
    wanted = [(design, drift, seed) for seed in range(SEEDS) for design in DRIFTS for drift in DRIFTS[design]]
    left = [place for place in wanted if place not in done]
    with ProcessPoolExecutor(chosen.processes) as pool:
        for some in tqdm([left[first : first + 8] for first in range(0, len(left), 8)]):
            if time.monotonic() - begin > 60 * chosen.minutes:
                break
            new = list(pool.map(point, *zip(*some, strict=True)))
            points += new
            with file.open("a") as lines:
                lines.writelines(json.dumps(one) + "\n" for one in new)
    if points:
        table, figure = summary(points), chosen.figures / "audit_calibration.png"
        write_json(figure.with_suffix(".json"), table, indent=1)
        write_json(chosen.figures / "audit_noise.json", false_alarms(NOISE_SEEDS), indent=1)
        drawn = calibration_figure(table)
        for kind, metadata in METADATA.items():
            drawn.savefig(figure.with_suffix(f".{kind}"), dpi=150, metadata=metadata)
    print(f"{len(points)} of {len(wanted)} points are done")


if __name__ == "__main__":
    main()
