"""Several seeds of one study: what is planned, what is gathered, and intervals that contain seeds and trials."""

import importlib.util
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from brainvis.configuration import PRESETS, configure
from brainvis.evaluation import report as tables
from brainvis.evaluation.bootstrap import interval, mean_difference, mean_interval, over_seeds
from brainvis.evaluation.comparisons import ablation_differences, in_words
from brainvis.evaluation.publication import differences_of, numbers_of
from brainvis.evaluation.scores import classification_scores, paired_difference
from brainvis.evaluation.seeds import mean_over_seeds
from brainvis.files import ROOT, BrainvisError, read_json
from brainvis.generation import GENERATORS
from brainvis.graph import STAGES, Choice, StudyError, plan
from brainvis.plots.summary import classification_figure
from brainvis.study import Study

TRIALS, CLASSES, SEEDS = 80, 8, (0, 1, 2)


# Intervals


def simulated(rng: np.random.Generator, seeds: int, deviation: float) -> np.ndarray:
    """Hits (seed, trial) around a mean of one half, of seeds whose accuracies differ."""
    return rng.random((seeds, TRIALS)) < (0.5 + deviation * rng.standard_normal(seeds)).clip(0, 1)[:, None]


@pytest.mark.parametrize(("seeds", "deviation", "least"), [(3, 0.0, 0.93), (3, 0.1, 0.85), (6, 0.1, 0.9)])
def test_intervals_contain_the_truth_although_seeds_differ(seeds, deviation, least):
    rng, covered, of_trials_alone = np.random.default_rng(1), 0, 0
    for _ in range(200):
        hits = simulated(rng, seeds, deviation).astype(float)
        found, alone = mean_interval(hits, n_bootstrap=300), mean_interval(hits.mean(0), n_bootstrap=300)
        covered += found["low"] <= 0.5 <= found["high"]
        of_trials_alone += alone["low"] <= 0.5 <= alone["high"]
    assert covered / 200 >= least
    assert not deviation or of_trials_alone / 200 < 0.75  # who leaves the seeds out is wrong far more often


def test_seeds_that_agree_change_nothing_and_one_seed_is_the_plain_interval():
    values = np.random.default_rng(0).random(TRIALS)
    assert mean_interval(values[None]) == mean_interval(values)
    assert mean_interval(np.stack([values] * 3)) == pytest.approx(mean_interval(values))
    assert mean_difference(np.stack([values] * 2)) == pytest.approx(mean_difference(values))


def test_two_seeds_draw_one_at_a_time_and_trials_are_drawn_alike():
    resampled = np.array([np.zeros(500), np.ones(500)])
    assert set(over_seeds(resampled)) == {0, 1} and interval(0.5, over_seeds(resampled))["low"] == 0
    values = np.random.default_rng(0).random(TRIALS)
    pair = np.stack([values, 1 - values])  # hard for the one, easy for the other: trials drop out of the mean alone
    assert np.ptp(over_seeds(pair.mean(0)[None])) < 1e-12


def logits_of(hits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class scores (seed, trial, class) that name the right class where `hits`, else the next."""
    return np.eye(CLASSES)[np.where(hits, labels, (labels + 1) % CLASSES)]


def test_classifiers_of_several_seeds_are_scored_and_compared_together():
    rng, labels = np.random.default_rng(0), np.arange(TRIALS) % CLASSES
    hits, other = simulated(rng, 3, 0.1), simulated(rng, 3, 0.1)
    logits, others = logits_of(hits, labels), logits_of(other, labels)
    together, alone = classification_scores(logits, labels), [classification_scores(one, labels) for one in logits]
    for score in ("top1", "top3", "macro_f1"):
        assert together[score]["value"] == pytest.approx(np.mean([one[score]["value"] for one in alone]))
    expected = mean_interval(hits, strata=labels)
    assert together["top1"] == pytest.approx(expected | {"chance": 1 / CLASSES})
    paired = paired_difference(logits, others, labels)["top1"]
    assert paired == pytest.approx(mean_difference(hits * 1.0 - other, strata=labels))
    assert paired_difference(logits, logits, labels)["top1"]["low"] == 0
    assert together == classification_scores(logits, labels)  # the same seeds, the same digits
    with pytest.raises(ValueError, match="same seeds"):
        paired_difference(logits, others[:2], labels)


# Plan


def test_later_seeds_run_up_to_a_stage_and_share_the_look_at_the_data():
    whole = [Choice(preset="smoke", subject=subject) for subject in (1, 2)]
    others = [replace(choice, seed=seed) for seed in (1, 2) for choice in whole]
    jobs = plan(whole, others)
    counts = {stage: sum(job.stage == stage for job in jobs.values()) for stage in STAGES}
    assert counts == {
        "exploration": 1, "lmm_pretraining": 3, "frequency_branch": 3, "fusion": 6, "alignment": 2, "generation": 2,
    }  # fmt: skip
    assert all(source in jobs for job in jobs.values() for source in job.built_from)
    assert sum("seed-2" in folder for folder in jobs) == 4  # 02, 03, and 04 of two subjects
    whole_grid = plan([*whole, *others])
    assert sum(job.stage == "generation" for job in whole_grid.values()) == 6
    summary = next(job for job in jobs.values() if job.stage == "figures")
    assert set(summary.built_from) == {folder for folder, job in jobs.items() if job.stage in STAGES}
    with pytest.raises(StudyError, match="fusio.*exploration, lmm_pretraining"):
        plan(whole, others, until="fusio")


def test_what_no_seed_changes_is_one_run():
    one, other = Choice(preset="smoke"), Choice(preset="smoke", seed=3)
    assert one.fingerprint("exploration") == other.fingerprint("exploration")
    assert one.folder("exploration") == other.folder("exploration") and "seed" not in other.parameters("exploration")
    assert one.fingerprint("fusion") != other.fingerprint("fusion") and "-p seed 3" in other.parameters("fusion")


# Runs of three seeds, put together


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Subject 1 with three seeds of `full`, two of `no_time`, and pictures of the first seed alone."""
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    source = replace(GENERATORS["phantom"], fingerprint=lambda: "the phantom backbone")
    monkeypatch.setitem(GENERATORS, "phantom", source)
    rng, labels = np.random.default_rng(0), torch.arange(TRIALS) % CLASSES
    hits = {name: simulated(rng, len(SEEDS), 0.1) for name in ("full", "no_time")}
    for ablation, seeds in (("full", SEEDS), ("no_time", SEEDS[:2])):
        for seed in seeds:
            fused = logits_of(hits[ablation][seed][None], labels.numpy())[0]
            time = logits_of(hits[ablation][seed - 1][None], labels.numpy())[0]
            arrays = {"logits": fused, "logits.time": time, "labels": labels, "trials": torch.arange(TRIALS)}
            kept = {name: classification_scores(one, labels) for name, one in (("time", time), ("fused", fused))}
            kept |= {"difference": {"time": paired_difference(fused, time, labels)}, "other": {"value": float(seed)}}
            Study(ablation=ablation, seed=seed).save("fusion", kept, arrays=arrays | {"groups": torch.arange(TRIALS)})
    Study().save("generation", {"refined": {"fid": {"value": 9.0}}}, arrays={"trials": torch.arange(TRIALS)})
    Study(preset="smoke", seed=1).save("fusion", {"other": {"value": 7.0}})  # another study
    Study(seed=1, protocol="paper").save("fusion", {"other": {"value": 7.0}})
    return Study(), hits, labels


def test_all_seeds_of_a_study_are_found_and_no_others(study):
    assert study[0].seeds == [0, 1, 2] and Study(seed=2).seeds == [0, 1, 2] and Study(preset="smoke").seeds == [0, 1]
    found = [(run.results["study"]["ablation"], run.results["study"]["seed"]) for run in study[0].gather("fusion")]
    assert sorted(found) == [("full", 0), ("full", 1), ("full", 2), ("no_time", 0), ("no_time", 1)]
    scores = tables.gather_scores(study[0])
    assert sorted(scores.query("ablation == 'full' and score == 'other'")["value"]) == [0, 1, 2]
    assert set(scores["seed"]) == {0, 1, 2} and "seed" in tables.to_csv(scores).splitlines()[0].split(",")


def test_means_are_over_seeds_and_intervals_contain_them(study):
    (study, hits, labels), draws = study, {"groups": np.arange(TRIALS)}
    means = mean_over_seeds(tables.gather_scores(study), tables.gather_runs(study))
    assert not means.duplicated(["subject", "ablation", "stage", "score"]).any()
    rows = means.set_index(["ablation", "score"])
    fused, difference = rows.loc[("full", "fused.top1")], rows.loc[("full", "difference.time.top1")]
    expected = mean_interval(hits["full"], strata=labels, **draws)
    assert fused[["value", "low", "high"]].to_dict() == pytest.approx(expected) and fused["seeds"] == 3
    expected = mean_difference(hits["full"] * 1.0 - hits["full"][[-1, 0, 1]], strata=labels, **draws)
    assert difference[["value", "low", "high", "p"]].to_dict() == pytest.approx(expected)
    unknown, single = rows.loc[("full", "other")], rows.loc[("full", "refined.fid")]
    assert (unknown["value"], unknown["seeds"]) == (1, 3) and np.isnan(unknown["low"])  # its trials are not kept
    assert (single["value"], single["seeds"]) == (9, 1)
    shown = numbers_of(means[means["score"] == "fused.top1"])
    assert [len(entry["runs"]) for entry in shown] == [3, 2] and "seed-2" in shown[0]["runs"][2]


def test_tables_say_of_how_many_seeds(study):
    means = mean_over_seeds(tables.gather_scores(study[0]), tables.gather_runs(study[0]))
    main = tables.main_table(study[0], means).set_index("ablation")
    assert main["seeds, classifier"].to_dict() == {"full": "3", "no_time": "2"}
    assert main["seeds, pictures"].to_dict() == {"full": "1", "no_time": ""}
    assert tables.classification_table(study[0], means)["seeds"].tolist() == ["3", "2"]
    assert tables.pictures_table(study[0], means)["seeds"].tolist() == []
    row = means.query("ablation == 'full' and score == 'fused.top1'").iloc[0]
    assert main.loc["full", "CA top-1"] == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def test_ablations_are_paired_by_seed_and_trial(study):
    study, hits, labels = study
    data = pd.Series({"labels": labels, "images": torch.arange(TRIALS)})
    (row,) = ablation_differences(study, data).to_dict("records")
    pair = hits["no_time"][:2] * 1.0 - hits["full"][:2]
    expected = mean_difference(pair, strata=labels, groups=np.arange(TRIALS))
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert (row["seeds"], row["trials"], row["full"]) == (2, TRIALS, pytest.approx(hits["full"][:2].mean()))
    assert in_words(pd.DataFrame([row]))["seeds"].tolist() == [2]
    (shown,) = differences_of(pd.DataFrame([row]), study.gather("fusion"))
    assert len(shown["runs"]) == 4 and not any("seed-2" in run for run in shown["runs"])


def test_the_figure_has_a_point_a_seed(study):
    scores = tables.gather_scores(study[0])
    means = mean_over_seeds(scores, tables.gather_runs(study[0]))
    axis = classification_figure(means, {1: TRIALS}, scores).axes[0]
    points = sorted(y for line in axis.lines if line.get_marker() == "." for y in line.get_ydata())
    wanted = scores[(scores["ablation"] == "full") & scores["score"].isin(["fused.top1", "time.top1"])]
    assert points == pytest.approx(sorted(100 * wanted["value"]))


# Permuted labels


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "studies" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_permuted_labels_give_chance_with_an_interval(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    script, (preset, file) = load_script("permuted_labels"), (tmp_path / "permuted.yml", tmp_path / "permuted.json")
    assert configure(str(script.PRESET), "full") == replace(PRESETS["demo"], permuted_labels=True)
    preset.write_text("start: smoke\npermuted_labels: true")
    with pytest.raises(BrainvisError, match="snakemake permuted_study"):
        script.gathered(Study(preset=str(preset)))
    rng, labels = np.random.default_rng(0), torch.arange(TRIALS) % CLASSES
    for subject, seed in ((1, 0), (1, 1), (2, 0), (2, 1)):
        guess, knows = torch.as_tensor(rng.normal(size=(TRIALS, CLASSES))), torch.eye(CLASSES)[labels]
        arrays = {"logits": guess, "logits.time": knows, "labels": labels, "groups": torch.arange(TRIALS)}
        arrays |= {"trials": torch.arange(TRIALS)}
        Study(preset=str(preset), subject=subject, seed=seed).save("fusion", {}, arrays=arrays)
    script.main([str(file), "--preset", str(preset), "--gather"])
    found = read_json(file)
    assert (found["seeds"], found["subjects"], found["trials"]) == ([0, 1], [1, 2], 2 * TRIALS)
    fused, time = found["top1"]["fused"], found["top1"]["time"]
    assert fused["at_chance"] and fused["low"] < found["chance"] == 1 / CLASSES < fused["high"]
    assert time["value"] == 1 and not time["at_chance"]
