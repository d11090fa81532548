"""Small and unequal data: weighed classes, augmentation, baselines of all kinds, the better one of what was joined."""

import copy
import runpy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.oddball import write_oddball
from test_confounds import made_up
from torch import nn
from torch.nn import functional

from brainvis.configuration import Training, configure
from brainvis.data import DatasetError, load_dataset
from brainvis.data.order import class_from_place, order_note, seconds_before
from brainvis.evaluation import baselines, beside_baselines, confounds, joining
from brainvis.evaluation.features import canonical_correlations, short_time_means, tangent_vectors
from brainvis.evaluation.reported import reported_table
from brainvis.files import ROOT
from brainvis.models import new_encoder
from brainvis.models.augmentation import augmented
from brainvis.models.encoder import ClassificationObjective, class_weights, classification_objective, unequal
from brainvis.models.fusion import FusedEncoder
from brainvis.models.shallow import ShallowFBCSPNet

UNEQUAL = torch.tensor([0] * 28 + [1] * 4)


# Objective


def linear_model(outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8, outputs))


def test_equal_classes_are_trained_as_ever_to_the_last_digit():
    labels, trials, model = torch.arange(12) % 2, torch.randn(12, 3, 8), linear_model()
    objective = ClassificationObjective(labels, labels, Training(epochs=1))
    found, plain = objective(model, trials, labels), classification_objective(model, trials, labels)
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    assert objective.choose == ("accuracy", "max")


def test_unequal_classes_count_alike_in_the_loss_and_in_what_chooses():
    assert unequal(UNEQUAL) and not unequal(torch.tensor([0, 0, 1, 1, 1, 1])) and not unequal(torch.tensor([2, 2]))
    weights = class_weights(UNEQUAL, UNEQUAL)
    assert weights.mean() == pytest.approx(1) and weights[-1] == pytest.approx(7 * weights[0])
    trials, model = torch.randn(32, 3, 8), linear_model().eval()
    objective = ClassificationObjective(UNEQUAL, UNEQUAL, Training(epochs=1))
    found = objective(model, trials, UNEQUAL)
    expected = functional.cross_entropy(model(trials), UNEQUAL, weight=torch.tensor([1 / 28, 1 / 4]))
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    predicted = model(trials).argmax(1)
    recalls = [(predicted[UNEQUAL == label] == label).float().mean() for label in (0, 1)]
    assert found["balanced_accuracy"].item() == pytest.approx(sum(recalls).item() / 2)
    assert objective.choose == ("balanced_accuracy", "max")
    never = torch.tensor([[1.0, 0.0]]).expand(32, 2)
    assert objective.score(never, UNEQUAL) == pytest.approx(0.5)  # 87.5 % of trials
    off = replace(objective, training=Training(epochs=1, class_weights="none"))
    assert off(model, trials, UNEQUAL)["loss"].item() == pytest.approx(
        functional.cross_entropy(model(trials), UNEQUAL).item(), rel=1e-5
    )


def test_augmentation_moves_trials_drops_channels_and_leaves_validation_alone():
    torch.manual_seed(0)
    trials = torch.randn(64, 4, 50)
    assert augmented(trials) is trials
    moved = augmented(trials, time_shift=0.06)
    found = [
        [torch.equal(new, old.roll(by, -1)) for by in range(-3, 4)] for new, old in zip(moved, trials, strict=True)
    ]
    assert all(sum(one) == 1 for one in found) and len({one.index(True) for one in found}) == 7
    dropped = augmented(trials, channel_dropout=0.25)
    kept = dropped.abs().sum(-1) > 0
    assert kept.float().mean() == pytest.approx(0.75, abs=0.08)
    torch.testing.assert_close(dropped[kept], trials[kept] / 0.75)
    labels, model = torch.arange(64) % 2, linear_model()
    settings = Training(epochs=1, time_shift=0.25, channel_dropout=0.25)
    objective = ClassificationObjective(labels, labels, settings)
    some = trials[:, :3, :8]
    assert torch.equal(
        objective(model.eval(), some, labels)["loss"], classification_objective(model, some, labels)["loss"]
    )
    assert objective(model.train(), some, labels)["loss"] != classification_objective(model, some, labels)["loss"]


def test_shallow_filters_become_shorter_where_a_trial_has_no_room():
    options = {"kernel": 1.0, "pooling": 2.0, "stride": 0.5, "shorten": True}
    for samples in (20, 51, 102, 640):
        model = ShallowFBCSPNet(8, samples, 128.0, 2, **options)
        assert model(torch.randn(3, 8, samples)).shape == (3, 2)
    assert ShallowFBCSPNet(8, 640, 128.0, 2, **options).temporal.kernel_size == (1, 128)
    with pytest.raises(ValueError, match="too short"):
        ShallowFBCSPNet(8, 102, 128.0, 2, **options | {"shorten": False})


# Features and baselines


def test_each_feature_sees_what_it_is_made_for():
    rate, time = 128.0, torch.arange(256) / 128
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    noise = torch.randn(60, 4, 256, generator=generator)
    phase = 6.28 * torch.rand(60, 1, 1, generator=generator)
    flicker = torch.sin(6.2832 * torch.where(labels == 1, 13.0, 17.0)[:, None, None] * time + phase)
    found = canonical_correlations(noise + 0.5 * flicker, rate, [13.0, 17.0])
    assert ((found[:, 0] > found[:, 1]).long() == labels).float().mean() > 0.95
    assert short_time_means(noise, rate).shape == (60, 4 * 50)
    ramp = short_time_means(time.expand(1, 1, -1), rate)[0]
    assert ramp.diff().min() > 0 and ramp.mean() == pytest.approx(time.mean().item(), abs=1e-3)
    assert short_time_means(torch.randn(2, 500, 256), rate).shape == (2, 2000)  # bins are longer
    train = torch.arange(40)
    assert tangent_vectors(noise, train, rate).shape == (60, 10)
    assert tangent_vectors(noise, train, rate, [13.0, 17.0]).shape == (60, 36)
    assert tangent_vectors(torch.randn(9, 40, 60), torch.arange(6), rate).shape == (9, 32 * 33 // 2)


@pytest.fixture(scope="module")
def oddball(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oddball")
    write_oddball(folder)
    return load_dataset("recordings", folder)


def test_targets_of_one_in_eight_are_judged_by_balance_and_found_by_what_reads_waveforms(oddball):
    assert oddball.labels.bincount().tolist() == [280, 40] and oddball.before.shape[1:] == (8, 27)
    one = oddball.of_subject(1)
    partition = one.partition("clean")
    labels = one.labels[partition.test]
    scores = baselines.scored(baselines.baselines(one, partition, 30.0), labels)
    assert set(scores) == {"band_power", "short_time_means", "covariances", "place", "before_onset"}
    means = scores["short_time_means"]
    assert means["auc"]["value"] > 0.85 and means["balanced_accuracy"]["value"] > 0.7
    assert means["top1"]["chance"] == pytest.approx(0.875, abs=0.02)
    assert means["evidence"]["p"] < 0.01 < scores["place"]["evidence"]["p"]
    assert scores["before_onset"]["evidence"]["p"] > 0.01
    assert baselines.best_of(scores) == "short_time_means" and "something to learn" in baselines.verdict(scores)
    table = baselines.table(scores, {})
    assert table.loc["place in the session", "kind"] == "reads no response"
    assert table.loc["by chance", "balanced accuracy"] == "0.500"
    worse = {"balanced_accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
    assert "Ahead: the baseline (short_time_means)" in baselines.ahead(scores, "fused", worse)


def test_where_no_baseline_is_above_chance_that_is_said(tmp_path):
    write_oddball(tmp_path, subjects=1, response=0.0, seed=5)
    data = load_dataset("recordings", tmp_path)
    partition = data.partition("clean")
    scores = baselines.scored(baselines.baselines(data, partition, 30.0), data.labels[partition.test])
    assert baselines.verdict(scores).startswith("NOTHING TO LEARN, as far as this amount of data shows: none of 3")


def test_a_flicker_that_the_signal_cannot_hold_is_refused(oddball):
    with pytest.raises(DatasetError, match="flicker: 70 Hz is not between 0 and 64 Hz, the Nyquist frequency"):
        replace(oddball, flicker=(13.0, 70.0))


def test_tables_have_networks_baselines_and_confounds_of_each_subject_and_pooled():
    rng = np.random.default_rng(0)
    runs = []
    for subject in (2, 1):
        labels = torch.arange(40) % 2
        good, none = (torch.tensor(rng.normal(size=(40, 2)) + gain * np.eye(2)[labels]) for gain in (3, 0))
        arrays = {
            "logits": good,
            "logits.late": good,
            "logits.band_power": none,
            "logits.place": none,
            "labels": labels,
        }
        study = {"subject": subject, "seed": 0, "ablation": "full"}
        results = {"study": study, "files": {"arrays.safetensors": ""}}
        runs.append(SimpleNamespace(results=results, arrays=arrays))
    pooled = beside_baselines.pooled_table(runs)
    assert pooled.columns[0] == "80 test trials of 2 subjects"
    rows = pooled.set_index(pooled.columns[0])
    assert list(rows.index[:2]) == ["fused", "late fusion"] and rows.index[-1] == "by chance"
    assert rows.loc["fused", "p"] == "0.0002" and rows.loc["by chance", "accuracy"] == "0.500"
    assert rows.loc["place in the session", "kind"] == "reads no response"
    each = beside_baselines.subjects_table(runs).set_index("balanced accuracy (p)")
    assert list(each.columns) == ["subject 1", "subject 2"] and each.loc["fused", "subject 2"].endswith("(0.0002)")
    runs[0].results["study"]["ablation"] = "no_time"
    assert "40 test trials of 1 subjects" in beside_baselines.pooled_table(runs).columns
    assert beside_baselines.pooled_table([]).empty


def test_nothing_that_was_reported_stands_beside_own_recordings():
    for number in (1, 3, 4):
        assert len(reported_table(number, "phantom")) and reported_table(number, "recordings").empty


# Order and what was before


def test_a_shared_order_is_measured_even_if_one_session_differs():
    rng = np.random.default_rng(0)
    shared = rng.permutation(np.arange(32) % 4)
    sessions, order = np.repeat(np.arange(18), 32), np.tile(np.arange(32), 18)
    labels = np.concatenate([shared if one < 13 else rng.permutation(shared) for one in range(18)])
    value, null = class_from_place(labels, order, sessions)
    assert value > 0.7 and null.mean() == pytest.approx(0.25, abs=0.03)
    note = order_note(labels, order, sessions)
    assert note.startswith("Sessions show the classes partly in the same order") and "by chance 25%" in note
    assert "Every session shows" in order_note(np.tile(shared, 18), order, sessions)
    mixed = np.concatenate([rng.permutation(shared) for _ in range(18)])
    assert order_note(mixed, order, sessions) is None
    assert class_from_place(shared, np.arange(32), np.zeros(32, int)) is None


def test_what_was_before_the_event_has_room_or_is_left_out(oddball):
    values = type("Values", (), {"window": (0.0, 0.8)})
    assert seconds_before([np.array([3.0, 4.5, 6.0])], values) == pytest.approx(0.7)
    assert seconds_before([np.array([3.0, 9.0])], values) == 1.0
    assert seconds_before([np.array([3.0, 3.9])], values) == 0.0
    assert oddball.of_subject(2).before.shape[0] == 160
    assert oddball.sessions.unique().tolist() == [0, 1]


def test_the_audit_reads_before_the_event_where_recordings_have_it():
    data = made_up(seed=2)
    patterns = torch.randn(6, 8, 1, generator=torch.Generator().manual_seed(0))
    before = torch.randn(len(data), 8, 40, generator=torch.Generator().manual_seed(1))
    everything = torch.arange(len(data))
    quiet = confounds.audits(replace(data, before=before), everything)
    loud = confounds.audits(replace(data, before=before + patterns[data.labels]), everything)
    assert not confounds.flags(quiet)["before onset"] and confounds.flags(loud)["before onset"]
    placed = replace(data, sessions=data.subjects - 1, order=made_up(seed=2, block=True).order)
    assert confounds.flags(confounds.audits(placed, everything))["place in session"]


# The better one


@pytest.fixture(scope="module")
def joined(oddball):
    one, configuration = oddball.of_subject(1), configure("smoke", "full")
    torch.manual_seed(0)
    made = (new_encoder(name, configuration, **one.signature, n_outputs=2) for name in configuration.fusion.branches)
    branches = dict(zip(configuration.fusion.branches, made, strict=True))
    return one, configuration, branches, FusedEncoder(**one.signature, n_outputs=2, configuration=configuration)


def test_rivals_of_joint_training_are_late_fusion_and_each_branch(joined):
    data, _, branches, model = joined
    some = data.trials[:5]
    found = joining.rivals(model, branches)
    assert list(found) == [joining.LATE, "time", "frequency"]
    with torch.no_grad():
        alone = {name: branch.eval()(some) for name, branch in branches.items()}
        for name, scores in alone.items():
            torch.testing.assert_close(found[name].eval()(some), scores)
        late = found[joining.LATE].eval()(some).log_softmax(1)
    torch.testing.assert_close(late, joining.late_fusion(alone.values()).log_softmax(1))
    bare = new_encoder("time", joined[1], **data.signature)
    assert joining.rivals(model, branches | {"time": bare}) == {}


def test_joint_training_has_to_be_better_than_all_that_it_joins():
    assert joining.better_one({joining.LATE: 0.5, "time": 0.4, joining.JOINT: 0.51}) == joining.JOINT
    assert joining.better_one({joining.LATE: 0.5, "time": 0.4, joining.JOINT: 0.5}) == joining.LATE
    assert joining.better_one({joining.LATE: 0.5, "time": 0.7, joining.JOINT: 0.6}) == "time"
    assert joining.better_one({joining.JOINT: 0.6}) == joining.JOINT == joining.better_one({})
    assert joining.better_one({joining.LATE: 0.0}) == joining.LATE  # no epoch was better than the beginning


def test_few_validation_trials_are_each_left_out_once_of_joint_training(joined):
    data, configuration, branches, model = joined
    partition = data.partition("clean")
    few = replace(partition, validation=partition.validation[:6])
    settings = replace(configuration.fusion.training, epochs=1)
    labels = data.labels[few.validation]
    objective = ClassificationObjective(data.labels[few.train], labels, settings)
    begin = copy.deepcopy(model).start_from(branches, classifier=True)
    before = copy.deepcopy(begin.state_dict())
    found = joining.left_out(begin, objective, data, few, seed=0)
    assert found.shape == (6, 2) and (found.abs().sum(1) > 0).all()
    assert all(torch.equal(value, before[name]) for name, value in begin.state_dict().items())
    data.labels[few.validation[0]] = 1 - data.labels[few.validation[0]]  # its own label has no part in its scores
    again = joining.left_out(begin, objective, data, few, seed=0)
    data.labels[few.validation[0]] = 1 - data.labels[few.validation[0]]
    torch.testing.assert_close(again[0], found[0])
    assert not torch.equal(again, found)


def test_the_validation_trials_of_all_subjects_choose_among_rivals_and_joint_training_has_to_gain(joined, oddball):
    data, _, branches, model = joined
    few = replace(data.partition("clean"), validation=data.partition("clean").validation[:6])
    labels = data.labels[few.validation]
    objective = ClassificationObjective(data.labels[few.train], labels, Training(epochs=1))
    rivals = joining.rivals(model, branches)
    right = torch.eye(2)[labels]
    best, wrong = (
        joining.with_all_subjects(rivals, logits, objective, oddball, data, few) for logits in (right, 1 - right)
    )
    shown = oddball.partition("clean").validation
    for name, rival in rivals.items():
        with torch.no_grad():
            scores = rival.eval()(oddball.trials[shown])
        assert best[name] == wrong[name] == pytest.approx(objective.score(scores, oddball.labels[shown]))
    assert joining.better_one(wrong) != joining.JOINT
    assert best[joining.JOINT] - wrong[joining.JOINT] == pytest.approx(1)


# The page


def test_the_page_is_written_from_runs_and_says_what_their_numbers_say(tmp_path, monkeypatch):
    study = runpy.run_path(str(ROOT / "docs" / "studies" / "small_data.py"))
    labels = torch.arange(60) % 2
    know = torch.eye(2)[labels] * 4 - 2
    arrays = {"logits": -know, "logits.late": -know, "logits.covariances": know, "logits.place": know, "labels": labels}
    results = {"study": {"subject": 1, "seed": 3, "ablation": "full"}, "files": {"arrays.safetensors": ""}}
    results["made_with"] = {"machine": "a machine"}
    metrics = {"fused_is": "late fusion", "compared_on": "validation, n = 40"}
    runs = [SimpleNamespace(results=results, arrays=arrays, metrics=metrics)]
    told = study["told"](runs)
    assert "The best network, fused, reaches 0.000, below the interval of the best baseline" in told
    assert "late fusion 1" in told and "Seeds: 3. Machine: a machine" in told
    assert "from the place in the session: 1.000, above chance (0.500)" in told
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mine -->\nold\n<!-- /mine -->\nafter\n")
    monkeypatch.setitem(study["write"].__globals__, "runs_of", lambda name: runs)
    study["write"]({"mine": "recordings"}, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- mine -->\n| 60 test trials of 1 subjects |") and text.endswith("\nafter\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="has no marks"):
        study["write"]({"other": "recordings"}, page)
