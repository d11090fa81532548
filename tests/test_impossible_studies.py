"""Studies that cannot work are refused when they open, in one sentence; legitimate ones go on working."""

from dataclasses import fields, is_dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints
from unittest.mock import patch

import pytest
import torch
import yaml

from brainvis.configuration import ABLATIONS, PRESETS, Configuration, configure, settings
from brainvis.data import DATASETS, DatasetError, load_dataset
from brainvis.data.audit import audit
from brainvis.evaluation.pictures import METRICS
from brainvis.files import BrainvisError
from brainvis.files.reading import SAFE_NAME
from brainvis.generation import GENERATORS
from brainvis.generation.weights import PHANTOM
from brainvis.graph import Choice
from brainvis.models import ENCODERS

SENSELESS = [  # field, value, what the sentence says besides
    ("time.unit_length", 0, "greater than or equal to 1"),
    ("time.width", -8, "greater than or equal to 1"),
    ("time.width", 2**31, "less than"),
    ("time.layers", 0, "greater than or equal to 1"),
    ("time.heads", 5, "divide width, which is 96"),
    ("time.heads", 0, "greater than or equal to 1"),
    ("time.feedforward", 0, "greater than or equal to 1"),
    ("time.dropout", 7, "less than 1"),
    ("time.dropout", 1.0, "less than 1"),
    ("time.dropout", -0.1, "greater than or equal to 0"),
    ("time.dropout", float("nan"), "finite"),
    ("time.mask_ratio", 0, "greater than 0"),
    ("time.mask_ratio", 1.0, "less than 1"),
    ("time.regressor_layers", 0, "greater than or equal to 1"),
    ("time.regressor_dropout", 1.5, "less than 1"),
    ("time.codewords", 1, "greater than or equal to 2"),
    ("time.momentum", 1.01, "less than or equal to 1"),
    ("time.momentum", -0.5, "greater than or equal to 0"),
    ("time.regression_weight", -1, "greater than or equal to 0"),
    ("time.classification_weight", float("inf"), "finite"),
    ("time.label_smoothing", 1, "less than 1"),
    ("time.pretraining.epochs", -1, "greater than or equal to 0"),
    ("time.pretraining.epochs", 2.5, "integer"),
    ("time.pretraining.learning_rate", 0, "greater than 0"),
    ("time.pretraining.learning_rate", float("nan"), "finite"),
    ("time.finetuning.batch_size", 0, "greater than or equal to 1"),
    ("time.finetuning.optimiser", "sgd", "'adam' or 'adamw'"),
    ("time.finetuning.schedule", "linear", "'constant' or 'cosine'"),
    ("time.finetuning.weight_decay", -0.01, "greater than or equal to 0"),
    ("frequency.width", 0, "greater than or equal to 1"),
    ("frequency.layers", 0, "greater than or equal to 1"),
    ("frequency.highest_frequency", 0, "greater than 0"),
    ("frequency.highest_frequency", -40.0, "greater than 0"),
    ("frequency.highest_frequency", float("inf"), "finite"),
    ("fusion.branches", [], "at least 1 item"),
    ("fusion.branches", ["time", "time"], "listed twice"),
    ("fusion.branches", ["../time"], "pattern"),
    ("fusion.branches", ["braindecode./../../x"], "pattern"),
    ("fusion.time_weights", "random", "'finetuned' or 'pretrained'"),
    ("fusion.classifier", "old", "'new' or 'branches'"),
    ("fusion.training.batch_size", -3, "greater than or equal to 1"),
    ("alignment.wide", 0, "greater than or equal to 1"),
    ("alignment.narrow", 0, "greater than or equal to 1"),
    ("alignment.targets", [], "at least 1 item"),
    ("alignment.targets", ["coarse", "coarse"], "listed twice"),
    ("alignment.targets", ["coarse", "middle"], "'coarse' or 'fine'"),
    ("alignment.mean_squared_error", "yes", "boolean"),
    ("generation.samples", 0, "greater than or equal to 1"),
    ("generation.trials", 0, "greater than or equal to 1"),
    ("generation.controls", 0, "greater than or equal to 1"),
    ("generation.semantic_steps", 0, "greater than or equal to 1"),
    ("generation.semantic_steps", 1000, "less than or equal to 999"),
    ("generation.semantic_guidance", 0.5, "greater than or equal to 1"),
    ("generation.refinement_steps", -1, "greater than or equal to 1"),
    ("generation.refinement_guidance", float("-inf"), "finite"),
    ("generation.strength", 0, "greater than 0"),
    ("generation.strength", 1.2, "less than or equal to 1"),
    ("generation.strength", 0.01, "none of the 20 refinement_steps; it must be at least 0.05"),
    ("generation.batch_size", 0, "greater than or equal to 1"),
    ("phantom.subjects", 0, "greater than or equal to 1"),
    ("phantom.images_per_class", 2, "greater than or equal to 3"),
    ("phantom.classes", 1, "greater than or equal to 2"),
    ("phantom.classes", 41, "less than or equal to 40"),
    ("phantom.design", "random", "'interleaved' or 'block'"),
    ("phantom.drift", -1, "greater than or equal to 0"),
    ("phantom.signal", float("nan"), "finite"),
    ("encoders", {"eegnet": {"dropout": float("nan")}}, "finite"),
    ("encoders", {"a/b": {}}, "pattern"),
]


def preset(folder, content: dict, name: str = "mine.yml") -> str:
    (folder / name).write_text(yaml.safe_dump({"start": "demo", **content}))
    return str(folder / name)


def nested(path: str, value: object) -> dict:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize(("path", "value", "allowed"), SENSELESS, ids=lambda part: str(part)[:40])
def test_a_senseless_value_is_refused_in_a_sentence(tmp_path, path, value, allowed):
    with pytest.raises(BrainvisError) as refusal:
        Choice(preset=preset(tmp_path, nested(path, value)))
    said = str(refusal.value)
    shown = value[-1] if isinstance(value, list) and value and allowed != "listed twice" else value
    shown = "a/b" if "a/b" in str(shown) else shown
    assert said.startswith(f"preset {tmp_path}") and "mine.yml: " in said and "\n" not in said
    assert path in said and allowed in said, said
    assert str(shown) in said.replace(".0", "") or str(shown) in said or repr(shown) in said, said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"generation": {"semantic": False, "refinement": False}}, "generation.semantic and refinement are both false"),
        ({"time": {"regression_weight": 0, "classification_weight": 0}}, "time.regression_weight and .* both 0"),
        ({"encoders": {"time": {"width": 8}}}, "encoders.time: the settings of this branch belong under `time`"),
        (
            {"fusion": {"time_weights": "pretrained"}},
            "fusion.classifier is 'branches', .* no classifier; set classifier to 'new'",
        ),
        ({"time": {"width": 100, "heads": 3}}, "time.heads is 3; it must divide width, which is 100"),
    ],
)
def test_values_that_do_not_go_together_are_refused(tmp_path, content, words):
    with pytest.raises(BrainvisError, match="mine.yml: " + words):
        Choice(preset=preset(tmp_path, content))


def test_an_ablation_that_leaves_nothing_of_a_preset_is_named(tmp_path):
    own = preset(tmp_path, {"generation": {"semantic": False}})
    assert Choice(preset=own).configuration.generation.refinement
    with pytest.raises(BrainvisError, match="ablation no_refinement of preset .*mine.yml.*both false"):
        Choice(preset=own, ablation="no_refinement")


def parts_of(kind: type = Configuration) -> set[type]:
    types = [hint for hint in get_type_hints(kind).values() if is_dataclass(hint)]
    return {kind}.union(*map(parts_of, types))


def limited(hint: object) -> bool:
    """Whether a type says which of its values are possible."""
    if hasattr(hint, "__metadata__"):  # Annotated
        return True
    if get_origin(hint) is Literal or hint in (bool, type(None)) or is_dataclass(hint):
        return True
    return bool(get_args(hint)) and get_origin(hint) not in (list, dict, tuple) and all(map(limited, get_args(hint)))


def test_every_field_says_which_values_it_can_have():
    kinds = parts_of()
    assert len(kinds) == 8 and settings.Training in kinds
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        assert {field.name for field in fields(kind)} == set(hints)
        assert not [name for name, hint in hints.items() if not limited(hint)], kind
    assert not limited(int) and not limited(float | None) and not limited(tuple[str, ...]) and not limited(str)


def test_every_preset_is_possible_under_every_ablation_and_for_every_data_set():
    for start in PRESETS:
        for ablation in ABLATIONS:
            for dataset in ("phantom", "eegcvpr40", "recordings"):
                configure(start, ablation, dataset)


@pytest.mark.parametrize("name", ["a;touch INJECTED;", "-rf", ".hidden", "my preset", "$(id)", "ä", "a\nb", "x" * 201])
def test_a_name_that_becomes_a_folder_is_plain(tmp_path, name):
    with pytest.raises(BrainvisError, match="becomes a folder name.*Rename it") as refusal:
        Choice(preset=preset(tmp_path, {}, f"{name}.yml"))
    assert "\n" not in str(refusal.value)
    assert Choice(preset=preset(tmp_path, {}, "A-plain_name.2.yml")).name == "phantom_A-plain_name.2"


@pytest.mark.parametrize("value", ["x" * 5000, "a\0b.yml", "~nobody-here/x.yml", 5, None, ["demo"], {"a": 1}, True])
def test_what_is_no_preset_at_all_is_one_sentence(value):
    with pytest.raises(BrainvisError, match="preset is .*paper, demo, smoke"):
        Choice(preset=value)


def test_a_backbone_whose_name_is_no_folders_is_refused(tmp_path):
    for name in ("a b", "$(touch INJECTED)", "x;y"):
        (tmp_path / name).symlink_to(PHANTOM)
        with pytest.raises(BrainvisError, match="backbone .*becomes a folder name.*Rename it"):
            Choice(backbone=str(tmp_path / name))
    (tmp_path / "plain.1").symlink_to(PHANTOM)
    assert Choice(backbone=str(tmp_path / "plain.1")).name == "phantom_plain.1"


@pytest.mark.parametrize("value", ["x" * 5000, "a\0b", "~nobody-here/x", 5, None, ["sd15"], "no such\nfolder"])
def test_what_is_no_backbone_at_all_is_one_sentence(value):
    with pytest.raises(BrainvisError, match="backbone "):
        Choice(backbone=value)


@pytest.mark.parametrize("field", ["dataset", "ablation", "protocol", "subject"])
def test_a_list_is_no_choice(field):
    with pytest.raises(BrainvisError, match=f"{field} is "):
        Choice(**{field: ["full"]})


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "0"])
def test_a_seed_that_a_library_refuses_is_refused_at_once(seed):
    with pytest.raises(BrainvisError, match="seed is .*at least 0 and below"):
        Choice(seed=seed)


def test_safe_names_are_the_same_everywhere():
    assert SAFE_NAME in settings.Branch.__metadata__[0].metadata[0].pattern


# Data from which nothing can be learned


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Two subjects, three classes; trials 0 to 35 are subject 1's, of each class six for training."""
    with patch.dict(DATASETS), patch.dict(ENCODERS), patch.dict(GENERATORS), patch.dict(METRICS):  # left as they were
        from helpers.toy import load
    return load(tmp_path_factory.mktemp("toy"), None)


def without(data, part: str, keep) -> object:
    """The data with fewer trials in one part of the split."""
    own = data.splits[part]
    return replace(data, splits={**data.splits, part: own[keep(own)]})


def test_what_can_be_learned_goes_on_working(toy):
    for protocol in ("clean", "paper"):
        toy.check_trainable(protocol)
        for subject in (1, 2):
            toy.check_trainable(protocol, subject)
        assert toy.checked_for(protocol) is toy


@pytest.mark.parametrize("start", ["smoke", "demo"])
def test_the_phantom_can_be_learned(start, tmp_path):
    small = replace(configure(start, "full").phantom, subjects=2, images_per_class=3, classes=2)
    data = load_dataset("phantom", tmp_path, replace(configure(start, "full"), phantom=small))
    for protocol in ("clean", "paper"):
        assert data.checked_for(protocol).notes == data.notes


def test_one_subject_may_have_all_the_trials_of_a_split(toy):
    single = toy
    for part in ("train", "val", "test"):
        single = without(single, part, lambda own: toy.subjects[own] == 2)
    said = single.checked_for("clean").notes[-1]
    assert said == "Subjects that cannot be studied alone: subject 1: split train, val, test is empty."
    single.check_trainable("clean", 2)
    with pytest.raises(DatasetError, match="toy: subject 1: split train, val, test is empty. Choose another split"):
        single.check_trainable("clean", 1)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_empty_part_is_refused(toy, part):
    with pytest.raises(DatasetError, match=f"split {part} is empty"):
        without(toy, part, lambda own: own < 0).checked_for("clean")


def test_a_class_without_training_trials_is_refused(toy):
    lacking = without(toy, "train", lambda own: toy.labels[own] != 2)
    with pytest.raises(DatasetError, match="1 of the classes shown have no training trials: 'blue disc'"):
        lacking.checked_for("clean")
    lacking.check_trainable("paper")  # validation trials of that class train there
    of_one = without(toy, "train", lambda own: (toy.labels[own] != 2) | (toy.subjects[own] == 1))
    assert "alone: subject 2: 1 of the classes" in of_one.checked_for("clean").notes[-1]


def test_names_of_classes_that_are_never_shown_do_not_matter(toy):
    replace(toy, class_names=(*toy.class_names, "never shown")).check_trainable("clean", 1)


def test_one_training_trial_or_one_class_are_refused(toy):
    with pytest.raises(DatasetError, match="all 1 training trials are of one class, 'red disc'"):
        without(toy, "train", lambda own: own == 0).check_trainable("clean")
    with pytest.raises(DatasetError, match="all 36 training trials are of one class"):
        replace(toy, labels=torch.zeros_like(toy.labels)).check_trainable("clean")


def test_a_signal_that_is_constant_everywhere_is_refused(toy):
    for flat in (torch.zeros_like(toy.trials), toy.trials[:, :, :1].expand_as(toy.trials).clone()):
        with pytest.raises(DatasetError, match="the signal is constant in every training trial"):
            replace(toy, trials=flat).check_trainable("clean")
    dead = toy.trials.clone()
    dead[toy.subjects == 2] = 0
    with pytest.raises(DatasetError, match="subject 2: the signal is constant"):
        replace(toy, trials=dead).check_trainable("clean", 2)
    almost = torch.zeros_like(toy.trials)
    almost[toy.splits["train"][1], 0, 0] = 1  # not among those that are looked at first
    replace(toy, trials=almost).check_trainable("clean")


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/b", "..", ".", "", "..\\x", "a\0b", ".._x", "._x", "x" * 201, 5, None, "a\nb"],
)
def test_image_ids_never_leave_their_folder(toy, name):
    with pytest.raises(DatasetError, match="toy: image 3 is called .*plain file name.*Rename it"):
        replace(toy, image_ids=(*toy.image_ids[:3], name, *toy.image_ids[4:]))


def test_a_picture_may_be_a_link_that_its_owner_placed(toy, tmp_path):
    name = toy.image_ids[0]
    (tmp_path / name.split("_")[0]).mkdir()
    (tmp_path / name.split("_")[0] / f"{name}.png").symlink_to(toy.image_path(0))
    assert replace(toy, image_folder=tmp_path).image(0).size == (16, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ("red disc", " ", "blue disc")}, "class 1 is called ' '"),
        ({"class_names": ("red disc", 7, "blue disc")}, "class 1 is called 7"),
        ({"captions": {"toy0_00": 5}}, "the caption of toy0_00 is 5"),
    ],
)
def test_names_and_captions_are_words(toy, change, words):
    with pytest.raises(DatasetError, match=words):
        replace(toy, **change)


# What is said, not refused


def test_dead_and_clipped_channels_and_odd_scales_are_said(toy):
    counts = audit(toy).counts
    assert (counts["constant_channels"], counts["clipped_channels"], counts["impossible_scales"]) == (0, 0, 0)
    trials = toy.trials.clone()
    trials[toy.subjects == 1, 2] = 0.5
    trials[:, 4] = trials[:, 4].clamp(-0.5, 2)
    findings = audit(replace(toy, trials=trials)).findings
    assert findings["constant_channels"].examples == ("subject 1, T2",)
    assert findings["clipped_channels"].examples == ("subject 1, T4", "subject 2, T4")
    for factor in (1e-6, 1e5):  # volts; microvolts taken for volts
        found = audit(replace(toy, trials=toy.trials * factor)).findings["impossible_scales"]
        assert found.count == 2 and "subject 1: standard deviation" in found.examples[0]
    trials = toy.trials.clone()
    trials[toy.subjects == 2] *= 50
    assert audit(replace(toy, trials=trials)).counts["impossible_scales"] == 1  # unlike the other
    assert not any(audit(replace(toy, trials=trials)).findings[name].leak for name in counts if "scales" in name)
