"""The calibration of the audits: points that are kept, and a summary that says what they say."""

import json

import calibrate_audits
import numpy as np
import pytest
import torch

from brainvis.configuration import Phantom
from brainvis.evaluation import confounds


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(calibrate_audits, "SIZE", {"subjects": 1, "classes": 4, "images_per_class": 12})
    monkeypatch.setattr(calibrate_audits, "DRIFTS", {"block": (0.0, 1.0), "interleaved": (0.0,)})
    monkeypatch.setattr(calibrate_audits, "SEEDS", 2)
    monkeypatch.setattr(calibrate_audits, "NOISE_SEEDS", 3)


def test_points_are_kept_and_summarised(small, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "points"), "--figures", str(tmp_path / "figures")]
    calibrate_audits.main([*arguments, "--minutes", "0"])
    assert "0 of 6 points" in capsys.readouterr().out
    calibrate_audits.main(arguments)
    (file,) = (tmp_path / "points").iterdir()
    before = file.read_text()
    calibrate_audits.main(arguments)
    assert file.read_text() == before and len(before.splitlines()) == 6
    table = json.loads((tmp_path / "figures" / "audit_calibration.json").read_text())
    assert (tmp_path / "figures" / "audit_calibration.png").stat().st_size > 10_000
    rows = {(row["design"], row["drift"], row["audit"]): row for row in table["rows"]}
    assert len(rows) == 3 * 5 and table["family"] == ["time alone", "succession", "slow drift"]
    points = {(p["design"], p["drift"], p["seed"]): p["audits"] for p in map(json.loads, before.splitlines())}
    moved, still = ([points["block", drift, seed]["slow drift"]["value"] for seed in (0, 1)] for drift in (1.0, 0.0))
    row = rows["block", 1.0, "slow drift"]
    assert row["flags"] == 2 and row["value"] == pytest.approx(np.mean(moved), abs=1e-4)
    assert row["gain"] == pytest.approx(100 * np.mean(np.subtract(moved, still)), abs=0.01)
    assert rows["block", 0.0, "slow drift"]["gain"] == 0 and table["interleaved_recordings"] == 2
    raised = [any(points["interleaved", 0.0, s][name]["flag"] for name in table["family"]) for s in (0, 1)]
    assert table["interleaved_with_any_flag"] == sum(raised)
    noise = json.loads((tmp_path / "figures" / "audit_noise.json").read_text())
    own = [calibrate_audits.point("interleaved", 0.0, seed, noise=True)["audits"] for seed in range(3)]
    assert noise["by_audit"] == {name: sum(one[name]["flag"] for one in own) for name in table["family"]}
    assert noise["recordings"] == 3 and 0 <= noise["low"] <= noise["share"] <= noise["high"] <= 1


def test_the_recording_is_that_of_the_phantom():
    data = calibrate_audits.recorded(Phantom(subjects=2, classes=4, images_per_class=4, design="block"), 0)
    assert data.trials.shape == (32, 128, 440) and data.trials.std((0, 2)).sub(1).abs().max() < 1e-3
    own = data.subjects == 2
    labels = data.labels[own][data.order[own].argsort()]
    assert (labels.reshape(4, 4) == labels[::4, None]).all()  # each class in one block
    beyond = 1 - 3 / 15  # always the same class, of which a shuffled order has 3 of the 15 other trials next
    assert confounds.audits(data, torch.arange(len(data)))["succession"].value == pytest.approx(beyond)
