"""Studies of hours, made small: each part leaves a file, figures are of what is there, snakemake knows the rest."""

import json
import runpy
from types import SimpleNamespace

import pytest
import torch
from helpers.world import World

from brainvis.configuration import PRESETS, Phantom
from brainvis.files import ROOT


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study of pre-training at smoke size."""
    folder = ROOT / "docs" / "studies"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        content = runpy.run_path(str(folder / "pretraining.py"))
        shown = runpy.run_path(str(folder / "show_pretraining.py"))
    small = {name: Phantom(subjects=1, images_per_class=4, classes=8, design=name) for name in ("interleaved", "block")}
    globals_of_it = content["run"].__globals__
    shown["show"].__globals__["STEPS"] = globals_of_it["STEPS"]
    globals_of_it |= {"BASE": PRESETS["smoke"], "STEPS": {0.5: 4, 1.0: 4}, "RATES": (1e-3, 3e-3)}
    globals_of_it["WORLDS"].clear()
    globals_of_it["WORLDS"].update(small)
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINVIS_DATA", str(folder / "data"))
        parts = [(kind, seed, "interleaved") for seed in (0, 1) for kind in ("none", "lmm", "masked_signal")]
        parts += [(kind, 0, "block") for kind in ("none", "lmm")]
        parts += [(kind, 0, "interleaved") for kind in ("lmm_data2vec", "lmm_same_50")]
        for kind, seed, world in parts:
            content["run"](kind, seed, world, folder)
    return SimpleNamespace(folder=folder, **(shown | content))


def test_a_part_says_what_was_chosen_and_which_trials_are_right(study):
    made = json.loads((study.folder / "lmm-0-interleaved.json").read_text())
    assert [row["share"] for row in made["rows"]] == [0.5, 1.0] and "probe" in made and "pretraining" in made
    for row in made["rows"]:
        assert row["test"] == pytest.approx(row["right"].count("1") / len(row["right"]))
        assert row["validation"][f"{row['rate']:g}"] == max(row["validation"].values())
        assert row["words"] and all(row["test"] <= share <= 1 for share in row["words"].values())
    assert "probe" not in json.loads((study.folder / "none-0-interleaved.json").read_text())
    for name in ("lmm-0-block", "lmm_same_50-0-interleaved"):
        assert len(json.loads((study.folder / f"{name}.json").read_text())["rows"]) == 1  # all labels


def test_what_is_shown_is_of_what_is_there_and_pairs_seeds(study, tmp_path):
    study.show(study.folder, tmp_path)
    kept = json.loads((tmp_path / "pretraining.json").read_text())
    both = [json.loads((study.folder / f"{kind}-{seed}-interleaved.json").read_text())["rows"][1]["test"]
            for kind in ("lmm", "none") for seed in (0, 1)]  # fmt: skip
    gain = kept["gain over none"]["interleaved | lmm | 1"]
    assert gain["value"] == pytest.approx((sum(both[:2]) - sum(both[2:])) / 2) and gain["seeds"] == [0, 1]
    assert kept["accuracy"]["interleaved | lmm | 1"]["seeds"] == pytest.approx(both[:2])
    assert kept["gain over none"]["interleaved | lmm_data2vec | 1"]["seeds"] == [0]
    assert (tmp_path / "pretraining.png").stat().st_size > 10_000
    words = (tmp_path / "pretraining.md").read_text()
    assert f"{gain['value'] * 100:+.1f} [" in words and "masked reconstruction of the signal" in words
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no results yet"):
        study.show(tmp_path / "empty", tmp_path)


def test_what_is_said_of_a_gain_follows_from_its_p(study):
    def kept(p):
        gain = {"value": 0.1, "low": 0.05, "high": 0.15, "p": p, "p_holm": p, "family": 1, "seeds": [0, 1, 2]}
        return {"gain over none": {"interleaved | lmm | 1": gain}}

    assert "Shown to help: LMM as released (100%). Shown to harm: none." in study.verdict(kept(0.01), "interleaved")
    assert "Shown to help: none. Shown to harm: none." in study.verdict(kept(0.2), "interleaved")
    few = kept(0.01)
    few["gain over none"]["interleaved | lmm | 1"]["seeds"] = [0, 1]
    assert study.verdict(few, "interleaved").startswith("Too few seeds to judge")
    few["gain over none"]["interleaved | lmm | 0.5"] = kept(0.01)["gain over none"]["interleaved | lmm | 1"]
    assert "not judged, with fewer seeds: 1." in study.verdict(few, "interleaved")


def test_what_is_said_of_the_probes_holds_in_every_seed_and_of_both_readouts(study):
    def probes(before, after):
        return {"mean_of_units": {"seeds": [0, 1], "before": before, "after": after},
                "all_units": {"seeds": [0, 1], "before": [0.1, 0.1], "after": [0.3, 0.3]}}  # fmt: skip

    more = study.learned({"block_drift_1": probes([0.2, 0.2], [0.4, 0.6])})
    assert "reads **more** after LMM" in more and "**less**" not in more
    assert "- *block, drift 1* (seeds: 2): mean over units 0.200 to 0.500, all units 0.100 to 0.300" in more
    mixed = study.learned({"block": probes([0.2, 0.2], [0.4, 0.1])})
    assert "reads **more or less** after LMM, by readout and seed" in mixed
    kept = study.probes([json.loads(file.read_text()) for file in sorted(study.folder.glob("*.json"))])
    part = json.loads((study.folder / "lmm-1-interleaved.json").read_text())
    of = kept["interleaved"]["all_units"]
    assert (of["before"][1], of["after"][1]) == (part["probe_before"]["all_units"], part["probe"]["all_units"])


def test_a_share_of_the_labels_has_every_class_and_whole_pictures(study):
    labels, images = torch.arange(120) // 30, torch.arange(120) // 3
    data = SimpleNamespace(labels=labels, images=images)
    for share, count in ((0.05, 1), (0.1, 1), (0.5, 5), (1.0, 10)):
        rows = study.labelled(data, torch.arange(120), share, seed=0)
        assert torch.equal(labels[rows].bincount(), torch.full((4,), 3 * count))
        assert (images[rows].bincount(minlength=40) % 3 == 0).all()


def test_snakemake_knows_the_parts(tmp_path):
    world = World(tmp_path)
    answer = world.snakemake("--dry-run", "study")
    assert answer.returncode == 0 and "pretraining_part        66" in answer.stdout + answer.stderr
    place = world.figures / "study" / "pretraining"
    place.mkdir(parents=True)
    (place / "lmm-0-interleaved.json").write_text("{}")
    answer = world.snakemake("--dry-run", "study")
    assert "pretraining_part        65" in answer.stdout + answer.stderr
