"""The study's tables: what tables.yml names is there, and each number comes from the parts, on made-up ones."""

import json
import re
import runpy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.world import World

from brainvis.evaluation.bootstrap import holm, mean_difference, mean_interval
from brainvis.files import ROOT
from brainvis.files.once import unchanging
from brainvis.graph import Choice, stage_named

TOPS = ("top1", "top3", "top5", "macro_f1", "seconds", "parameters")
ATTRIBUTES = tuple(f"attributes.{name}" for name in ("position", "size", "background"))
PICTURES = ("generation_accuracy", "inception_score", "fid", *ATTRIBUTES)
LABELS = np.arange(12) // 3
WITHIN = "caption within class"
JOINED, PLAIN = ("fused", "time", "frequency", "late", "referee"), ("band_power", "short_time_means", "covariances")


def scripts():
    folder = ROOT / "docs" / "studies"
    both = {name: runpy.run_path(str(folder / f"{name}.py")) for name in ("show_tables", "tables")}
    return SimpleNamespace(**both["show_tables"] | both["tables"])


def made_up(stage, subject, rng):
    """A run of 12 trials."""
    made = {"stage": stage, "subject": subject, "chance": {}}
    if stage == "alignment":
        trials = {f"retrieval.{text}.top1": rng.integers(0, 2, 12).tolist() for text in ("class name", WITHIN)}
        made |= {"scores": {name: np.mean(of) for name, of in trials.items()}, "trials": trials}
        return made | {"images": list(range(12)), "labels": LABELS.tolist()}
    if stage == "generation":
        kinds, paths = ("semantic", "refined"), (*PICTURES, "pixel_correlation")
        known = ("generation_accuracy", *ATTRIBUTES)
        trials = {f"{kind}.{name}": np.round(rng.random(12), 4).tolist() for kind in kinds for name in known}
    else:
        kinds, paths = (
            (*JOINED, *(f"baselines.{name}" for name in PLAIN)) if stage == "fusion" else ("test",),
            TOPS,
        )
        hits = [f"{kind}.{top}" for kind in kinds for top in (TOPS[:3] if stage == "fusion" else TOPS[:1])]
        hits += ["test.first word", "test.second word"] * (kinds == ("test",))
        trials = {name: rng.integers(0, 2, 12).tolist() for name in hits}
    scores = {f"{kind}.{path}": rng.random() for kind in kinds for path in paths}
    made |= {"scores": scores, "chance": dict.fromkeys(trials, 0.25), "trials": trials}
    return made | {"images": list(range(12)), "labels": LABELS.tolist()}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Made-up parts of all that tables.yml names, whose trials are known, and the tables of them."""
    content, rng, folder = scripts(), np.random.default_rng(0), tmp_path_factory.mktemp("study")
    (folder / "parts").mkdir()
    plan = content.PLAN
    for name, part in plan["parts"].items():
        of_subjects = plan[part.get("subjects", "subjects")]
        for seed in plan["seeds"]:
            asked = [(stage, of_subjects if stage_named(stage).of_subject else [0]) for stage in part["stages"]]
            runs = [made_up(stage, subject, rng) for stage, subjects in asked for subject in subjects]
            (folder / "parts" / f"{name}-{seed}.json").write_text(json.dumps({"runs": runs}))
    accuracy = {f"interleaved | {kind} | 1": {"value": 0.3, "low": 0.2, "high": 0.4} for kind in ("lmm", "none")}
    (folder / "pretraining.json").write_text(json.dumps({"accuracy": accuracy}))
    for name in plan["tables"]:
        content.write(name, folder / "parts", folder / f"{name}.csv")
    return SimpleNamespace(place=folder, **vars(content))


def of_parts(study, name, stage, score, subject=0):
    """A score, or its values in single trials, of each seed."""
    found = []
    for seed in range(3):
        runs = json.loads((study.place / "parts" / f"{name}-{seed}.json").read_text())["runs"]
        (run,) = [run for run in runs if run["stage"] == stage and run["subject"] == subject]
        found.append(run["trials"][score] if score in run.get("trials", {}) else run["scores"][score])
    return np.array(found)


def lines(study, table, row, measure):
    frame = pd.read_csv(study.place / f"{table}.csv", keep_default_na=False, na_values=[""], dtype={"row": str})
    return [values for _, values in frame.iterrows() if (values["row"], values["measure"]) == (row, measure)]


def line(study, *what):
    (found,) = lines(study, *what)
    return found


def test_all_that_is_named_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path))
    content = scripts()
    plan = content.PLAN
    for name, part in plan["parts"].items():
        choice = Choice(ablation=part.get("ablation", name))
        with unchanging():
            owners = {choice.owner(stage) for stage in part["stages"]}
        assert choice.ablation in owners, f"{name} asks for no run of its own"
    for table in plan["tables"].values():
        rows = [label for label, *_ in table["rows"]]
        assert all(isinstance(label, str) for label in rows) and table.get("against", rows[0]) in rows
        for label, part, stage, prefix in table["rows"]:
            assert stage in plan["parts"][part]["stages"], label
            assert f"{prefix}.".startswith(content.PREFIXES), f"{label}: parts do not keep scores of {prefix}"
    assert Choice(ablation="codewords_660").owner("lmm_pretraining") == "full"  # which stands for it in table 6


def test_a_number_is_the_mean_over_seeds_and_trials_with_an_interval(study):
    found = line(study, "table6", "220", "top-1")
    values = of_parts(study, "codewords_220", "lmm_pretraining", "test.top1")
    assert found["value"] == pytest.approx(values.mean()) and found["trials"] == 12 and found["subjects"] == "all"
    known = mean_interval(values, groups=np.arange(12), strata=LABELS)  # seeds, and trials
    assert {key: found[key] for key in known} == pytest.approx(known) and found["chance"] == 0.25
    assert [float(value) for value in found["of_seeds"].split()] == pytest.approx(values.mean(1), abs=1e-4)
    whole = of_parts(study, "full", "lmm_pretraining", "test.top1")
    rows = {row: of_parts(study, f"codewords_{row}", "lmm_pretraining", "test.top1") for row in ("220", "330", "990")}
    rows["0"] = of_parts(study, "codewords_none", "lmm_pretraining", "test.top1")
    known = {row: mean_difference(of - whole, groups=np.arange(12), strata=LABELS) for row, of in rows.items()}
    corrected = holm({row: score["p"] for row, score in known.items()})  # one family
    for row, score in known.items():
        found = line(study, "table6", row, "top-1, difference")
        assert {key: found[key] for key in score} == pytest.approx(score)
        assert found["p_holm"] == pytest.approx(corrected[row])
    assert not lines(study, "table6", "660", "top-1, difference")  # with which the others are compared


def test_subjects_are_averaged_and_stand_by_themselves_where_asked(study):
    score = "refined.generation_accuracy"
    ga = {who: of_parts(study, "full", "generation", score, who) for who in (1, 2)}
    assert line(study, "table1", "BrainVis", "GA")["value"] == pytest.approx(np.mean(list(ga.values())))
    for who in (1, 2):
        found = line(study, "table1", f"BrainVis, subject {who}", "GA")
        assert found["value"] == pytest.approx(ga[who].mean()) and found["subjects"] == str(who)
    fid = sum(of_parts(study, "full", "generation", "refined.fid", who) for who in (1, 2)) / 2
    found = line(study, "table1", "BrainVis", "FID")
    assert found["value"] == pytest.approx(fid.mean()) and found["deviation"] == pytest.approx(fid.std(ddof=1))
    assert np.isnan(found["low"])  # no number of single trials
    few = of_parts(study, "targets_fine", "generation", "semantic.generation_accuracy", 1)
    assert line(study, "targets", "captions alone", "GA")["value"] == pytest.approx(few.mean())
    score = f"retrieval.{WITHIN}.top1"
    fine, both = (of_parts(study, name, "alignment", score, 1) for name in ("targets_fine", "full"))
    assert line(study, "targets", "captions alone", WITHIN)["value"] == pytest.approx(fine.mean())
    found = line(study, "targets", "captions alone", f"{WITHIN}, difference")
    assert found["value"] == pytest.approx((fine - both).mean())


def test_parts_that_do_not_fit_are_refused(study, tmp_path):
    for file in (study.place / "parts").glob("*"):
        (tmp_path / file.name).write_text(file.read_text())
    changed = json.loads((tmp_path / "codewords_220-1.json").read_text())
    changed["runs"][0]["images"][0] = 7
    (tmp_path / "codewords_220-1.json").write_text(json.dumps(changed))
    with pytest.raises(SystemExit, match="seeds were not tested on the same trials"):
        study.table("table6", tmp_path)
    (tmp_path / "codewords_220-1.json").write_text(json.dumps({"runs": []}))
    with pytest.raises(SystemExit, match="no run of lmm_pretraining"):
        study.table("table6", tmp_path)


def test_people_read_measured_and_reported_apart(study, tmp_path):
    scores = {name: {"value": value, "low": 0.0, "high": 0.05} for name, value in (("fused", 0.02), ("time", 0.0625))}
    known = {"seeds": [0, 1, 2], "subjects": [1, 2], "trials": 24, "chance": 0.025, "top1": scores}
    for name, score in scores.items():
        score["at_chance"] = name == "fused"
    (study.place / "permuted.json").write_text(json.dumps(known))
    study.show(study.place)
    text, _, end = (study.place / "tables.md").read_text().partition("## The pipeline on permuted labels")
    assert "3 seeds, 2 subjects, 24 test trials" in end and "chance, 0.025, within" in end
    assert "| fused | 0.020 [0.000, 0.050] | yes |" in end and "| time | 0.062 [0.000, 0.050] | NO |" in end
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    assert len(sections) == len(study.PLAN["tables"])
    for number, section in enumerate(sections[:7], start=1):
        measured, reported = section.split("**Reported, not measured here**")
        assert "3 seeds" in measured and "EEGCVPR40" in reported and f"table {number}" in reported
    six = sections[5].split("**Reported")
    assert "0.4382" in six[1] and "0.4382" not in six[0]
    found, difference = (line(study, "table6", "220", measure) for measure in ("top-1", "top-1, difference"))
    assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found) in six[0]
    points = {key: 100 * difference[key] for key in ("value", "low", "high")}
    assert "{value:+.1f} [{low:+.1f}, {high:+.1f}], p ".format(**points) in six[0]
    assert "0.300 [0.200, 0.400]" in sections[4]  # of the study of pre-training
    assert "Not run: 25 % of the same, " in sections[4] and "SSVEP recordings" in sections[4]
    assert (study.place / "sweeps.png").stat().st_size > 20_000 and (study.place / "sweeps.pdf").exists()
    with pytest.raises(SystemExit, match="no tables yet: run snakemake tables_study"):
        study.show(tmp_path)


def test_snakemake_knows_the_parts(tmp_path):
    world = World(tmp_path)

    def planned():
        answer = world.snakemake("--dry-run", "table6_study")
        assert answer.returncode == 0, answer.stderr
        return dict(re.findall(r"^(\w+)\s+(\d+)$", answer.stdout + answer.stderr, re.M))

    assert planned()["table_part"] == "15"
    place = world.figures / "study" / "parts"
    place.mkdir(parents=True)
    for name in ("full-0", "codewords_220-0"):
        (place / f"{name}.json").write_text("{}")
    assert planned()["table_part"] == "13"  # what is there is not made again, and asks for no run


def test_a_part_says_what_its_runs_say_and_makes_those_that_it_lacks(world, monkeypatch, tmp_path):
    for name, value in world.environment.items():
        if name.startswith("BRAINVIS_"):
            monkeypatch.setenv(name, value)
    content, commands = scripts(), []
    recorded = SimpleNamespace(run=lambda words, **_: commands.append(words))
    monkeypatch.setitem(content.make.__globals__, "subprocess", recorded)
    content.run("full", 0, tmp_path, preset="smoke")
    assert not commands  # all of them are there
    found = {(run["stage"], run["subject"]): run for run in json.loads((tmp_path / "full-0.json").read_text())["runs"]}
    assert len(found) == 8
    for (stage, subject), run in found.items():
        known = world.results(f"sub-{subject:02d}" if subject else "sub-all", "full", stage)
        assert run["fingerprint"] == known["fingerprint"]
        score, part = {"fusion": ("fused.top1", "fused"), "generation": ("refined.generation_accuracy", "refined")}.get(
            stage, ("test.top1", "test")
        )
        if stage == "alignment":
            for name, text in ((name, f"retrieval.{name}.top1") for name in ("class name", "caption", WITHIN)):
                value = known["metrics"]["retrieval"][name]["top1"]["value"]
                assert run["scores"][text] == value == pytest.approx(np.mean(run["trials"][text]))
            continue
        value = known["metrics"][part][score.partition(".")[2]]["value"]
        assert run["scores"][score] == value == pytest.approx(np.mean(run["trials"][score]), abs=1e-4)
        assert len(run["trials"][score]) == len(run["images"]) == len(run["labels"])
    joined = found["fusion", 1]
    for name in (f"{of}.{top}" for of in (*JOINED, *(f"baselines.{name}" for name in PLAIN)) for top in TOPS[:2]):
        assert np.mean(joined["trials"][name]) == pytest.approx(joined["scores"][name]), name
    timed = found["frequency_branch", 0]["scores"]
    assert timed["test.seconds"] > 0 and timed["test.parameters"] < 0.3
    content.make(Choice(preset="smoke", ablation="codewords_220"), "lmm_pretraining")
    (words,) = commands  # notebook 01 is shared
    notebook, _, done = words[4:7]
    assert notebook.endswith("02_lmm_pretraining.ipynb") and "/codewords_220/" in done and done.endswith(".whole")
    assert words[7:] == ["-p", "ablation", "codewords_220", "-p", "preset", "smoke"]


def test_a_variant_is_chosen_by_its_loss_on_validation_trials_of_the_first_seed(monkeypatch):
    content, asked = scripts(), []
    losses = {"targets_fine": [0.5, 0.3, 0.9], "targets_fine+alignment_slower": [0.6, 0.2]}

    def opened(ablation, seed, subject, **_):
        asked.append((ablation, seed, subject))
        training = [{"validation_loss": loss} for loss in losses[ablation]]
        return SimpleNamespace(load=lambda stage: SimpleNamespace(metrics={"training": training}))

    monkeypatch.setitem(content.best_of.__globals__, "make", lambda choice, stage: None)
    monkeypatch.setitem(content.best_of.__globals__, "Study", opened)
    best, known = content.best_of(list(losses), "demo")
    assert best == "targets_fine+alignment_slower" and known == {"targets_fine": 0.3, best: 0.2}
    assert asked == [(name, 0, 1) for name in losses]


def test_parts_say_which_variant_was_chosen():
    """Of the committed parts: the one with the lower loss, the same for all seeds."""
    content, folder = scripts(), ROOT / "figures" / "study" / "parts"
    for name in (name for name, part in content.PLAN["parts"].items() if "variants" in part):
        found = [json.loads((folder / f"{name}-{seed}.json").read_text()) for seed in content.PLAN["seeds"]]
        losses = found[0]["validation_losses"]
        assert len(losses) == 2 and {part["ablation"] for part in found} == {min(losses, key=losses.get)}
