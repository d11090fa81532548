"""What the README says of the studies follows from their numbers, on made-up ones."""

import json
import runpy
from types import SimpleNamespace

import pandas as pd
import pytest

from brainvis.files import ROOT


@pytest.fixture(scope="module")
def learned():
    folder = ROOT / "docs" / "studies"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return SimpleNamespace(**runpy.run_path(str(folder / "learned.py")))


def gain(value, p, seeds=(0, 1, 2)):
    return {"value": value, "low": value - 0.03, "high": value + 0.03, "p_holm": p, "seeds": list(seeds)}


def test_pretraining_helps_or_harms_only_where_it_is_shown(learned):
    gains = {"interleaved | lmm | 0.25": gain(-0.09, 0.01), "interleaved | lmm | 1": gain(-0.05, 0.2),
             "interleaved | masked_signal | 1": gain(0.1, 0.3), "block | lmm | 1": gain(-0.3, 0.01),
             "interleaved | lmm_same_25 | 1": gain(0.2, 0.01)}  # fmt: skip
    said = learned.pretraining_is_worth({"gain over none": gains})
    assert "2 kinds, 5 shares of labels: shown to help: none." in said
    assert said.endswith("LMM harms at 25% (-9.0 [-12.0, -6.0] points).")
    gains["interleaved | masked_signal | 1"] = gain(0.1, 0.01)
    assert "help: masked reconstruction of the signal at 100%." in learned.pretraining_is_worth(
        {"gain over none": gains}
    )
    few = {"interleaved | lmm | 0.25": gain(-0.09, 0.01, seeds=(0, 1))}
    assert "harms" not in learned.pretraining_is_worth({"gain over none": few})


def test_lmm_learns_time_only_if_every_seed_says_so(learned):
    of = {"seeds": [0, 1], "before": [0.1, 0.2], "after": [0.8, 0.7]}
    other = {"seeds": [0, 1], "before": [0.5, 0.5], "after": [0.6, 0.7]}
    kept = {"probes": {"block_drift_0.5_no_signal": {"all_units": of, "mean_of_units": other}}, "gain over none": {}}
    said = learned.blocks_teach_time(kept)
    assert "from .150 to .750 (mean over units: .500 to .650): it learns the time" in said
    other["after"][1] = 0.49
    assert "learns" not in learned.blocks_teach_time(kept)
    kept["gain over none"]["block_drift_0.5 | lmm | 0.1"] = gain(0.3, 0.2)
    assert "points" not in learned.blocks_teach_time(kept)
    kept["gain over none"] = {f"block_drift_0.5 | lmm | {share:g}": gain(0.1, 0.2) for share in learned.STEPS}
    assert learned.blocks_teach_time(kept).endswith("Fine-tuning, with responses, is not shown to gain or lose.")
    kept["gain over none"]["block_drift_0.5 | lmm | 0.05"] = gain(0.2, 0.01)
    assert "5% of labels, it changes accuracy by +20.0 [+17.0, +23.0] points" in learned.blocks_teach_time(kept)


def test_all_of_it_is_written_from_the_tables(learned, tmp_path):
    def table(name, rows, *measures):
        lines = [{"row": row, "measure": of, "value": value} for row, value in rows.items() for of in measures]
        lines += [{"row": row, "measure": f"{of}, difference", **gain(0.25, p)} for of in measures for row, p in
                  zip(rows, (0.01, 0.3, 0.01, 0.01), strict=False)]  # fmt: skip
        pd.DataFrame(lines).to_csv(tmp_path / f"{name}.csv", index=False)

    kept = {"gain over none": {"interleaved | lmm | 0.25": gain(-0.09, 0.01)}}
    kept["probes"] = {"block_drift_0.5_no_signal": dict.fromkeys(
        ("all_units", "mean_of_units"), {"seeds": [0], "before": [0.1], "after": [0.8]})}  # fmt: skip
    (tmp_path / "pretraining.json").write_text(json.dumps(kept))
    table("layout", {"no_finetuning": 0.5, "no_frequency": 0.6, "full": 0.3, "full, refined": 0.2}, "position")
    aims = ("class names alone", "captions alone", learned.BOTH, learned.FROZEN)
    table("targets", dict.fromkeys(aims, 0.6), "GA", "position")
    stages = {f"full, {stage}": 0.7 for stage in ("semantic stage alone", "refinement stage alone", "cascade")}
    table("table4", stages, "GA")
    table("table7", {"CNN": 0.5, "LSTM": 0.1}, "top-1")
    learned.write(tmp_path)
    said = (tmp_path / "learned.md").read_text().splitlines()
    assert len(said) == 6 and all(line.startswith("- **") for line in said)
    assert "position right in .300 (semantic stage); without fine-tuning +25.0" in said[2]
    points = "+25.0 [+22.0, +28.0] points"
    assert said[2].endswith(f"without fine-tuning {points}; after refinement {points}.")
    assert f"position .600; class names alone {points}, encoder frozen {points}. GA .600; captions" in said[3]
    assert said[3].endswith(f"captions alone {points} (not shown).")
    assert f"GA .700; semantic stage alone {points}, refinement" in said[4]
    assert said[5].endswith("LSTM .100, CNN +25.0 [+22.0, +28.0] points.")
