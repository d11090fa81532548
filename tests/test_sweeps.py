"""Sweeps and combinations of ablations: valid everywhere, changing one stage, sharing what they leave alone."""

import pytest

from brainvis.configuration import ABLATIONS, FOR_DATASET, PRESETS, SWEEPS, combined, configure
from brainvis.files import BrainvisError
from brainvis.graph import STAGES, Choice, plan

ALIGNMENT = ("targets_", "fine_weight_", "loss_", "frozen_", "alignment_")


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_valid_in_every_preset_and_changes_its_stage_alone(name):
    part = "alignment" if name.startswith(ALIGNMENT) else "time"
    for preset, dataset in [*((preset, "phantom") for preset in PRESETS), *FOR_DATASET]:
        full, swept = configure(preset, "full", dataset), configure(preset, name, dataset)
        assert {field for field in vars(full) if getattr(full, field) != getattr(swept, field)} <= {part}


def test_sweeps_have_the_values_that_they_say():
    paper, demo = ({n: configure(preset, n) for n in SWEEPS} for preset in ("paper", "demo"))
    counts = [220, 330, 660, 990]
    assert [paper[f"codewords_{count}"].time.codewords for count in counts] == counts
    assert [demo[f"codewords_{count}"].time.codewords for count in counts] == [21, 32, 64, 96]
    assert demo["codewords_none"].time.classification_weight == 0
    ratios = ["0.25", "0.5", "0.75", "0.85"]
    assert [demo[f"mask_ratio_{ratio}"].time.mask_ratio for ratio in ratios] == [float(ratio) for ratio in ratios]
    assert demo["mask_per_trial"].time.mask_per == "trial" and demo["targets_fine"].alignment.targets == ("fine",)
    assert [demo[f"fine_weight_{weight}"].alignment.fine_weight for weight in ("0.25", "4")] == [0.25, 4]
    assert not demo["loss_cosine"].alignment.mean_squared_error and not demo["frozen_encoder"].alignment.train_encoder
    slow, own = (demo[name].alignment.training.learning_rate for name in ("alignment_slower", "loss_cosine"))
    assert slow == 0.3 * own
    both = configure("demo", "targets_fine+alignment_slower").alignment
    assert both.targets == ("fine",) and both.training.learning_rate == slow
    same = {name for name, swept in demo.items() if swept == configure("demo", "full")}
    assert same == {"codewords_660", "mask_ratio_0.75", "mask_per_batch", "targets_both", "loss_cosine_mse"}


def owners(ablation):
    choice = Choice(ablation=ablation)
    return {stage: choice.owner(stage) for stage in choice.stages if choice.owner(stage) != "full"}


def test_what_a_sweep_leaves_alone_is_that_of_the_whole_method():
    behind = ["fusion", "alignment", "generation"]
    assert owners("codewords_220") == dict.fromkeys(["lmm_pretraining", *behind], "codewords_220")
    assert owners("targets_fine") == dict.fromkeys(behind[1:], "targets_fine")
    assert owners("mask_ratio_0.75") == owners("targets_both") == {}


def test_a_combination_shares_the_runs_of_its_parts():
    both = "no_time+no_semantic"
    assert owners(both) == {"fusion": "no_time", "alignment": "no_time", "generation": both}
    both = "no_frequency+codewords_220"
    mine = dict.fromkeys(["fusion", "alignment", "generation"], both)
    assert owners(both) == {"lmm_pretraining": "codewords_220"} | mine
    three = "no_frequency+codewords_220+loss_cosine"
    assert owners(three) == {"lmm_pretraining": "codewords_220", "fusion": both} | dict.fromkeys(
        ["alignment", "generation"], three
    )
    assert combined("a+b+c") == ["full", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"] and combined("full") == ["full"]
    choice = Choice(ablation="no_time+no_semantic")
    assert "-p ablation no_time+no_semantic" in choice.command("generation")
    assert "-p ablation no_time" in choice.command("fusion") and "no_semantic" not in choice.command("fusion")


def test_a_combination_is_one_plan():
    choices = [Choice(ablation=name) for name in ("full", "no_time", "no_time+no_semantic")]
    jobs = [job for job in plan(choices).values() if job.stage in STAGES]
    assert sum(job.stage == "generation" for job in jobs) == 3 and sum(job.stage == "alignment" for job in jobs) == 2


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        ("no_semantic+no_time", "in this order: 'no_time\\+no_semantic'"),
        ("no_time+no_time", "in this order: 'no_time'"),
        ("full+no_time", "in this order: 'no_time'"),
        ("no_time+", "''; choose one of: full, no_time"),
        ("mask_ratio_0.3", "mask_ratio_0.25, mask_ratio_0.5"),
        ("mask_ratio_0.25+mask_ratio_0.5", "one undoes the other"),
        ("no_time+no_frequency", "one undoes the other"),
        ("no_refinement+no_semantic", "both false"),
    ],
)
def test_combinations_that_are_none_are_refused(ablation, words):
    with pytest.raises(BrainvisError, match=words):
        Choice(ablation=ablation)


def test_the_default_grid_has_no_sweep():
    assert not set(ABLATIONS) & set(SWEEPS) and len(ABLATIONS) == 7
