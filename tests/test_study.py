"""Choices, fingerprints, folders, what is shared between ablations, and what is saved and loaded."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from brainvis.configuration import ABLATIONS, PRESETS, configure
from brainvis.data import DATASETS
from brainvis.files import BrainvisError, OriginalError, read_sealed, sealed_origin, write_sealed
from brainvis.files.once import unchanging
from brainvis.graph import STAGES, Choice, plan
from brainvis.study import Study, StudyError


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ({"dataset": "eeg"}, "phantom, eegcvpr40, recordings"),
        ({"subject": 9}, "1, 2, 3, 4"),
        ({"subject": "1"}, "1, 2, 3, 4"),
        ({"subject": True}, "1, 2, 3, 4"),
        ({"ablation": "no_tim"}, "no_time"),
        ({"preset": "big"}, "paper, demo, smoke"),
        ({"protocol": "dirty"}, "clean, paper"),
        ({"seed": -1}, "at least 0 and below"),
        ({"seed": 1.5}, "whole number, at least 0"),
        ({"backbone": "sd99"}, "phantom"),
    ],
)
def test_wrong_choices_are_refused_with_the_allowed_ones(choice, allowed):
    with pytest.raises(Exception, match=allowed) as refusal:
        Study(**choice)
    assert str(next(iter(choice.values()))) in str(refusal.value)


def preset_file(folder, text):
    file = folder / "mine.yml"
    file.write_text(text)
    return str(file)


def test_a_preset_of_ones_own_changes_what_it_names_and_nothing_else(tmp_path):
    text = """
        start: demo
        time: {pretraining: {epochs: 3}}
        fusion: {branches: [time]}
        generation: {strength: 1, trials: null}
    """
    study, demo = Study(preset=preset_file(tmp_path, text)), configure("demo", "full")
    own = study.configuration
    assert own.time.pretraining == replace(demo.time.pretraining, epochs=3)
    assert own.time == replace(demo.time, pretraining=own.time.pretraining)
    assert own.fusion == replace(demo.fusion, branches=("time",))
    assert own.generation == replace(demo.generation, strength=1.0) and type(own.generation.strength) is float
    assert (own.frequency, own.alignment, own.phantom) == (demo.frequency, demo.alignment, demo.phantom)
    assert study.name == "phantom_mine" and study.folder("fusion") != Study().folder("fusion")
    assert study.fingerprint("frequency_branch") == Study().fingerprint("frequency_branch")
    assert study.fingerprint("lmm_pretraining") != Study().fingerprint("lmm_pretraining")
    assert f"-p preset {tmp_path}" in study.command("fusion")
    ablated = Study(preset=study.preset, ablation="no_refinement").configuration
    assert not ablated.generation.refinement and ablated.generation.strength == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time: {width: 8}", "where it starts.*paper, demo, smoke"),
        ("start: large", "where it starts.*paper, demo, smoke"),
        ("start: demo\ntme: {width: 8}", "no field tme.*time, frequency"),
        ("start: demo\ntime: {widht: 8}", "no field time.widht.*unit_length, width"),
        ("start: demo\ntime: {pretraining: 3}", "time.pretraining is 3.*epochs"),
        ("start: demo\ntime: {width: wide}", "time.width is 'wide'.*96"),
        ("start: demo\ntime: {width: true}", "time.width is True"),
        ("start: demo\nfusion: {branches: time}", "fusion.branches is 'time'"),
        ("start: demo\ntime: [1, 2", "cannot be read as plain YAML"),
        ("- start: demo", "where it starts"),
    ],
)
def test_a_wrong_preset_file_is_one_sentence(tmp_path, text, words):
    with pytest.raises(BrainvisError, match="(?s)mine.yml.*" + words):
        Study(preset=preset_file(tmp_path, text))


def test_a_preset_file_may_not_take_the_folder_of_a_preset(tmp_path):
    (tmp_path / "paper.yml").write_text("start: paper")
    with pytest.raises(BrainvisError, match="'paper' is a built-in preset .* rename the file"):
        Study(preset=str(tmp_path / "paper.yml"))


def test_planning_a_study_does_not_wait_for_torch():
    plan = "from brainvis.graph import Choice, plan; plan([Choice()])"
    check = f"import sys; {plan}; sys.exit(bool({{'torch', 'transformers', 'mne'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_every_ablation_changes_exactly_what_it_names():
    for preset in PRESETS:
        full = configure(preset, "full")
        for name, ablation in ABLATIONS.items():
            changed = configure(preset, name)
            parts = {part for part in vars(full) if getattr(full, part) != getattr(changed, part)}
            assert parts == set(ablation.changes), name


@pytest.mark.parametrize(
    ("ablation", "own"),
    [
        ("full", set(STAGES)),
        ("no_refinement", {"generation"}),
        ("no_semantic", {"generation"}),
        ("no_time", {"fusion", "alignment", "generation"}),
        ("no_finetuning", {"fusion", "alignment", "generation"}),
        ("no_pretraining", {"lmm_pretraining", "fusion", "alignment", "generation"}),
    ],
)
def test_an_ablation_owns_only_what_it_changes(ablation, own):
    study = Study(ablation=ablation)
    assert {stage for stage in study.stages if study.owner(stage) == ablation} == own


def test_the_default_grid_shares_what_it_can():
    studies = [Study(subject=subject) for subject in (1, 2)] + [Study(ablation=name) for name in ABLATIONS]
    jobs = plan(studies)
    counts = {stage: sum(job.stage == stage for job in jobs.values()) for stage in STAGES}
    assert counts == {
        "exploration": 1,
        "lmm_pretraining": 2,  # full and no_pretraining
        "frequency_branch": 1,
        "fusion": 6,  # two subjects, and four ablations that change it
        "alignment": 6,
        "generation": 8,
    }
    for job in jobs.values():
        assert all(source in jobs for source in job.built_from)


def test_fingerprints_follow_what_a_stage_depends_on():
    study = Study()
    assert study.fingerprint("fusion") != Study(subject=2).fingerprint("fusion")
    assert study.fingerprint("lmm_pretraining") == Study(subject=2).fingerprint("lmm_pretraining")
    for other in (Study(seed=1), Study(protocol="paper"), Study(preset="smoke")):
        own = set(STAGES) - ({"exploration"} if other.seed else set())  # of the data alone
        assert all(study.fingerprint(stage) != other.fingerprint(stage) for stage in own)
        assert study.folder("fusion") != other.folder("fusion")  # nothing is overwritten by another choice


def test_a_product_comes_back_as_it_was_saved(runs):
    study, model = Study(), nn.Linear(3, 2)
    study.folder("fusion").mkdir(parents=True)
    study.checkpoint("fusion", "fused").write_bytes(b"half")
    study.save("fusion", {"accuracy": torch.tensor(0.5)}, weights={"fused": model}, arrays={"labels": torch.arange(4)})
    product = study.load("fusion")
    assert product.folder == runs / "phantom" / "sub-01" / "full" / "fusion"
    assert product.metrics == {"accuracy": 0.5}
    assert torch.equal(product.load_weights("fused", nn.Linear(3, 2)).weight, model.weight)
    assert torch.equal(product.arrays["labels"], torch.arange(4))
    assert sorted(file.name for file in product.folder.iterdir()) == sorted(
        [
            f"{study.fingerprint('fusion')}.whole",
            "arrays.safetensors",
            "fused.safetensors",
            "results.json",
        ]
    )
    recorded = product.results
    assert recorded["built_from"] == {need: study.fingerprint(need) for need in ("lmm_pretraining", "frequency_branch")}
    assert recorded["made_with"]["packages"]["torch"] and recorded["protocol"].startswith("clean")


def test_an_ablation_finds_the_run_that_it_shares():
    Study().save("alignment", {"value": 1})
    assert Study(ablation="no_refinement").load("alignment").metrics == {"value": 1}
    with pytest.raises(StudyError, match="no_time"):
        Study(ablation="no_time").load("alignment")


def test_a_missing_run_is_one_sentence_with_the_command():
    with pytest.raises(StudyError, match=r"papermill notebooks/04_fusion\.ipynb .*-p subject 2"):
        Study(subject=2, preset="smoke").load("fusion")


def test_a_stale_run_names_both_fingerprints_and_the_command():
    study = Study()
    study.save("fusion", {})
    file = study.folder("fusion") / "results.json"
    write_sealed(file, read_sealed(file) | {"fingerprint": "0123456789ab"})
    with pytest.raises(StudyError) as refusal:
        study.load("fusion")
    for part in ("0123456789ab", study.fingerprint("fusion"), "papermill"):
        assert part in str(refusal.value)
    file.write_text("{")
    with pytest.raises(StudyError, match="damaged"):
        study.load("fusion")


def test_a_save_that_dies_leaves_no_run_behind(monkeypatch):
    study = Study()
    study.save("fusion", {"old": True})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("brainvis.study.study.save_file", die)
    with pytest.raises(KeyboardInterrupt):
        study.save("fusion", {"new": True}, arrays={"labels": torch.arange(4)})
    with pytest.raises(StudyError, match="has not been run"):
        study.load("fusion")
    assert not [file for file in os.listdir(study.folder("fusion")) if file.startswith(".")]


def test_results_hold_no_number_that_json_cannot():
    with pytest.raises(ValueError):
        Study().save("fusion", {"loss": float("nan")})


def test_gather_finds_every_run_that_is_up_to_date():
    Study().save("fusion", {"who": 1})
    Study(subject=2).save("fusion", {"who": 2})
    Study(ablation="no_time").save("fusion", {"who": "no_time"})
    Study(preset="smoke").save("fusion", {"who": "another study"})
    stale = Study(subject=3).folder("fusion")
    Study(subject=3).save("fusion", {"who": 3})
    write_sealed(stale / "results.json", read_sealed(stale / "results.json") | {"fingerprint": "x"})
    assert sorted(str(product.metrics["who"]) for product in Study().gather("fusion")) == ["1", "2", "no_time"]


def test_a_damaged_result_of_another_run_is_named(runs):
    Study().save("fusion", {"value": 1})
    other = Study(subject=2)
    other.save("fusion", {"value": 2})
    file = other.folder("fusion") / "results.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(StudyError, match="sub-02.*damaged"):
        Study().gather("fusion")


def put_original_weights(study, sha256: str) -> dict:
    origin = {"file": "timefreqmodel.pkl", "sha256": sha256, "kind": "fused", "stands_in": "", "weights": "0" * 64}
    file = study.folder("fusion") / "fused.original.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.zeros(1)}, file, metadata=sealed_origin(origin))
    return file


def test_original_weights_are_part_of_what_a_run_is_made_from(runs):
    study = Study(protocol="paper")
    before = {stage: study.fingerprint(stage) for stage in STAGES}
    assert study.original("fusion", "fused") is None
    file = put_original_weights(study, "0" * 64)
    assert study.original("fusion", "fused") is not None
    changed = {stage for stage in STAGES if study.fingerprint(stage) != before[stage]}
    assert changed == {"fusion", "alignment", "generation"}
    assert study.with_ablation("no_refinement").owner("alignment") == "full"
    study.save("fusion", {"value": 1})
    assert study.load("fusion").results["original"] == {"fused": "the authors' timefreqmodel.pkl (sha256 000000000000)"}
    put_original_weights(study, "1" * 64)
    with pytest.raises(StudyError, match="made from something else"):
        study.load("fusion")
    assert file.exists()
    file.unlink()
    assert {stage: study.fingerprint(stage) for stage in STAGES} == before


def test_original_weights_that_do_not_say_where_they_are_from_are_refused_in_a_sentence(runs):
    study = Study(protocol="paper")
    file = put_original_weights(study, "0" * 64)
    for spoil in (
        lambda: save_file({"weight": torch.zeros(1)}, file),  # no word of its origin
        lambda: save_file({"weight": torch.zeros(1)}, file, metadata={"file": "timefreqmodel.pkl"}),
        lambda: file.write_bytes(file.read_bytes()[:20]),
    ):
        spoil()
        with pytest.raises(OriginalError, match=r"fused.original.safetensors is damaged; write it again: python -m"):
            study.fingerprint("fusion")


def test_a_branch_has_its_own_stage(tmp_path):
    text = "start: demo\nfusion: {branches: [frequency, eegnet]}\nencoders: {eegnet: {dropout: 0.1}}"
    study = Study(preset=preset_file(tmp_path, text))
    assert study.stages == ["exploration", "frequency_branch", "eegnet_branch", "fusion", "alignment", "generation"]
    assert study.needs("fusion") == ("frequency_branch", "eegnet_branch")
    assert "-p branch eegnet" in study.command("eegnet_branch") and "03_frequency_branch" in study.command(
        "eegnet_branch"
    )
    assert not any("-p branch" in study.parameters(stage) for stage in ("frequency_branch", "fusion"))
    assert study.fingerprint("frequency_branch") == Study().fingerprint("frequency_branch")
    other = Study(preset=preset_file(tmp_path, text.replace("0.1", "0.2")))
    changed = {stage for stage in study.stages if study.fingerprint(stage) != other.fingerprint(stage)}
    assert changed == {"eegnet_branch", "fusion", "alignment", "generation"}
    counts = [job.stage for job in plan([study]).values()]
    assert counts == [*study.stages, "ablations", "figures"]


def test_a_precision_that_is_asked_for_enters_every_stage_that_computes(tmp_path):
    study = Study(preset=preset_file(tmp_path, "start: demo\nprecision: auto"))
    assert all(study.fingerprint(stage) == Study().fingerprint(stage) for stage in STAGES)
    fingerprints = {stage: {study.fingerprint(stage)} for stage in STAGES}
    for precision in ("float32", "bfloat16"):
        study = Study(preset=preset_file(tmp_path, f"start: demo\nprecision: {precision}"))
        for stage in STAGES:
            fingerprints[stage].add(study.fingerprint(stage))
    assert {stage: len(found) for stage, found in fingerprints.items()} == dict.fromkeys(STAGES, 3) | {"exploration": 1}
    with pytest.raises(BrainvisError, match="precision is 'half'; .*'float32' or 'bfloat16'"):
        Study(preset=preset_file(tmp_path, "start: demo\nprecision: half"))


def test_permuted_labels_are_other_data_for_every_stage(tmp_path):
    study = Study(preset=preset_file(tmp_path, "start: smoke\npermuted_labels: true"))
    honest = Study(preset=preset_file(tmp_path, "start: smoke\npermuted_labels: false"))
    assert all(honest.fingerprint(stage) == Study(preset="smoke").fingerprint(stage) for stage in STAGES)
    assert not any(honest.fingerprint(stage) == study.fingerprint(stage) for stage in STAGES)
    data = replace(study, preset=preset_file(tmp_path, "start: smoke\npermuted_labels: true")).data()
    assert any("LABELS ARE PERMUTED" in note for note in data.notes)
    assert not torch.equal(data.labels, Study(preset="smoke").data().labels)


def test_a_branch_that_no_table_has_is_refused(tmp_path):
    with pytest.raises(BrainvisError, match="'eggnet'.*time, frequency, spectrum_cnn, eegnet, shallow"):
        Study(preset=preset_file(tmp_path, "start: demo\nfusion: {branches: [time, eggnet]}"))


def test_runs_of_other_code_are_accepted_by_hand_and_it_is_recorded():
    study = Study()
    study.save("fusion", {"value": 1})
    file, fingerprint = study.folder("fusion") / "results.json", study.fingerprint("fusion")
    write_sealed(file, read_sealed(file) | {"fingerprint": "0123456789ab", "code": "ba9876543210"})
    (file.parent / f"{fingerprint}.whole").rename(file.parent / "0123456789ab.whole")
    with pytest.raises(StudyError, match="made from different code"):
        study.load("fusion")
    assert study.accept("a rename") == [f"phantom/sub-01/full/fusion: accepted (0123456789ab counts as {fingerprint})"]
    entry = {"reason": "a rename", "fingerprint": "0123456789ab", "code": "ba9876543210"}
    assert study.load("fusion").results["accepted"] == [entry]
    assert [mark.name for mark in file.parent.glob("*.whole")] == [f"{fingerprint}.whole"]
    assert study.accept("again") == ["Nothing to accept: every run is up to date."]
    results = read_sealed(file)
    older = {key: value for key, value in results.items() if key not in ("chosen", "code")}
    write_sealed(file, older | {"fingerprint": "0123456789ab"})
    assert "NOT accepted" in study.accept("the same")[0]
    with pytest.raises(StudyError, match="made from something else"):
        study.load("fusion")
    file.write_text(json.dumps(older))  # of an earlier version
    assert "NOT accepted" in study.accept("the same")[0]
    with pytest.raises(StudyError, match="has no checksum: it was written by an earlier version"):
        study.load("fusion")


def test_a_branch_of_braindecode_is_refused_at_once_where_that_is_not_installed(tmp_path, monkeypatch):
    file = preset_file(tmp_path, "start: demo\nfusion: {branches: [braindecode.EEGConformer]}")
    monkeypatch.setattr("brainvis.models.find_spec", lambda name: None)
    with pytest.raises(StudyError, match="needs braindecode, which is not installed"):
        Study(preset=file)
    monkeypatch.setattr("brainvis.models.find_spec", lambda name: object())
    assert Study(preset=file).stages[1] == "braindecode.EEGConformer_branch"


def test_a_plan_looks_at_each_thing_once_and_the_next_plan_looks_again(monkeypatch, tmp_path):
    source, asked, said = DATASETS["phantom"], [], ["before"]

    def fingerprint(*arguments):
        asked.append(said[-1])
        return said[-1]

    monkeypatch.setitem(DATASETS, "phantom", replace(source, fingerprint=fingerprint))
    file = preset_file(tmp_path, "start: demo\nphantom: {subjects: 40}")

    def planned():
        asked.clear()
        with unchanging():
            jobs = plan([Choice(subject=subject, preset=file) for subject in range(1, 41)])
        return {run: job.fingerprint for run, job in jobs.items()}

    first = planned()
    assert len(first) == 3 + 3 * 40 + 2 and asked == ["before"]
    assert planned() == first
    said.append("after")
    second = planned()
    assert asked == ["after"] and not set(first.values()) & set(second.values())
    choice = Choice(subject=7, preset=file)  # nothing is kept beyond: it asks for itself
    assert choice.fingerprint("fusion") == second[choice.readable("fusion")] and asked == ["after", "after"]
    preset_file(tmp_path, "start: demo\nphantom: {subjects: 40}\nfusion: {training: {epochs: 1}}")
    third = planned()
    changed = {run for run in second if second[run] != third[run]}
    assert {Path(run).name for run in changed} == {"fusion", "alignment", "generation", "ablations", "figures"}


def test_pictures_are_recorded_from_folders_of_any_name(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path))
    folder = Study().pictures / "between_0.25"
    folder.mkdir(parents=True)
    (folder / "trial-1.png").write_bytes(b"a picture")
    assert [*Study().save("generation", {})["files"]] == ["pictures/between_0.25/trial-1.png"]
