"""Ablations against the whole method: paired, on the same trials, corrected as a family, said as computed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainvis.evaluation.comparisons import ablation_differences, in_words
from brainvis.evaluation.scores import paired_difference
from brainvis.generation import GENERATORS
from brainvis.plots.summary import differences_figure
from brainvis.study import Study

TRIALS, CLASSES = 90, 5


@pytest.fixture
def data():
    """All trials of a subject, of which the last 90 are the test trials; each picture is shown twice."""
    places = torch.arange(2 * TRIALS)
    return SimpleNamespace(labels=places // 2 % CLASSES, images=places // 2)


@pytest.fixture
def logits(data):
    rng, labels = np.random.default_rng(0), data.labels[TRIALS:].numpy()
    strength = {"full": 4.0, "no_time": 0.0, "no_frequency": 3.9, "no_pretraining": 4.0}
    return {name: rng.normal(size=(TRIALS, CLASSES)) + s * np.eye(CLASSES)[labels] for name, s in strength.items()}


@pytest.fixture
def study(tmp_path, monkeypatch, data, logits):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    source = replace(GENERATORS["phantom"], fingerprint=lambda: "the phantom backbone")
    monkeypatch.setitem(GENERATORS, "phantom", source)
    trials = torch.arange(TRIALS, 2 * TRIALS)
    for name, values in logits.items():
        arrays = {"logits": torch.as_tensor(values), "labels": data.labels[trials], "trials": trials}
        Study(ablation=name).save("fusion", {}, arrays=arrays)
    hits = torch.zeros(TRIALS, dtype=torch.float64)
    for name, accuracy in (("full", hits + 0.5), ("no_time", hits), ("no_semantic", hits + 0.5)):
        arrays = {"accuracy_refined": accuracy, "accuracy_semantic": hits + 0.25, "trials": trials}
        Study(ablation=name).save("generation", {}, arrays=arrays)
    arrays = {"accuracy_semantic": (hits + 0.25)[:40], "trials": trials[:40]}  # fewer of them, no refinement
    Study(ablation="no_refinement").save("generation", {}, arrays=arrays)
    Study(subject=2, ablation="no_time").save("generation", {}, arrays=arrays)  # somebody else's
    return Study()


def test_differences_are_those_of_the_same_trials(study, data, logits):
    table = ablation_differences(study, data).set_index(["measure", "ablation"])
    assert list(table.loc["CA top-1"].index) == ["no_time", "no_frequency", "no_pretraining"]
    labels, shown = data.labels[TRIALS:].numpy(), data.images[TRIALS:].numpy()
    p_values = {}
    for name, row in table.loc["CA top-1"].iterrows():
        expected = paired_difference(logits[name], logits["full"], labels, groups=shown)["top1"]
        assert row[["value", "low", "high", "p"]].to_dict() == pytest.approx(expected)
        accuracy = {run: np.mean(logits[run].argmax(1) == labels) for run in (name, "full")}
        assert (row["without"], row["full"]) == pytest.approx((accuracy[name], accuracy["full"]))
        assert row["trials"] == TRIALS and row["family"] == 3
        p_values[name] = row["p"]
    assert table.loc[("CA top-1", "no_time"), "p_holm"] == pytest.approx(3 * min(p_values.values()))


def test_pictures_are_compared_by_those_a_cascade_ends_with(study, data):
    table = ablation_differences(study, data).set_index(["measure", "ablation"]).loc["GA"]
    assert table["value"].to_dict() == pytest.approx({"no_time": -0.5, "no_refinement": -0.25, "no_semantic": 0.0})
    assert table["trials"].to_dict() == {"no_time": TRIALS, "no_refinement": 40, "no_semantic": TRIALS}
    assert (table["family"] == 3).all() and table.loc["no_semantic", "p_holm"] == 1


def test_words_are_points_and_say_what_is_shown(study, data):
    words = in_words(ablation_differences(study, data)).set_index(["measure", "ablation"])
    row = words.loc[("GA", "no_time")]
    assert row["difference (points)"] == "-50.0 [-50.0, -50.0]" and row["shown"] == "below the whole method"
    assert row["p, Holm"] == "< 0.003"  # three tests, each with a floor of .001
    assert words.loc[("GA", "no_semantic"), "shown"] == "not shown to differ"
    assert words.loc[("CA top-1", "no_frequency"), "shown"] == "not shown to differ"


def test_the_figure_shows_points_and_corrected_p(study, data):
    table = ablation_differences(study, data)
    for axis, (_, rows) in zip(differences_figure(table).axes, table.groupby("measure", sort=False), strict=True):
        drawn = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
        assert drawn == pytest.approx((100 * rows["value"]).tolist())
        assert len(axis.texts) == len(rows) and axis.get_xlabel().startswith("points")


def test_without_anything_to_compare_there_is_nothing(tmp_path, monkeypatch, data):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path))
    trials = torch.arange(TRIALS)
    arrays = {"logits": torch.zeros(TRIALS, CLASSES), "labels": data.labels[:TRIALS], "trials": trials}
    Study(ablation="no_time").save("fusion", {}, arrays=arrays)  # without the whole method
    Study().save("generation", {}, arrays={"trials": trials})  # without a judge
    table = ablation_differences(Study(), data)
    assert table.empty and in_words(table).empty
    assert "No ablation" in differences_figure(table).axes[0].texts[0].get_text()
