"""The authors' checkpoints installed in a study: which trainings they fill, and what is never touched."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.released import FILES, SIZES, configuration, our_models, released_models, save_all
from torch import nn

from brainvis.configuration import Configuration
from brainvis.models.original import (
    OriginalError,
    convert,
    describe,
    install,
    load_original,
    read,
    read_origin,
    write_original,
)


@dataclass(frozen=True)
class SmallStudy:
    """What `install` asks of a study; configuration and data have the sizes of the small files."""

    root: Path
    subject: int = 4
    protocol: str = "paper"
    ablation: str = "full"
    dataset: str = "phantom"
    backbone: str = "phantom"
    configuration: Configuration = configuration(SIZES)

    def folder(self, stage):
        shared = stage in ("lmm_pretraining", "frequency_branch")
        return self.root / ("sub-all" if shared else f"sub-{self.subject:02d}") / stage

    def readable(self, stage):
        return str(self.folder(stage))

    def original_file(self, stage, name):
        return self.folder(stage) / f"{name}.original.safetensors"

    def data(self):
        trials = torch.zeros(1, SIZES.channels, SIZES.samples)
        return SimpleNamespace(trials=trials, sampling_rate=1000.0, class_names=("c",) * SIZES.classes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_all(released_models(SIZES), tmp_path_factory.mktemp("small"))


@pytest.fixture
def study(tmp_path):
    return SmallStudy(tmp_path / "runs")


TARGETS = [("lmm_pretraining", "pretrained"), ("lmm_pretraining", "finetuned"), ("frequency_branch", "frequency"),
           ("fusion", "fused"), ("alignment", "aligned")]  # fmt: skip


def origins(study):
    return {name: read_origin(study.original_file(stage, name)) for stage, name in TARGETS}


def test_all_files_fill_all_stages(study, files):
    said = "\n".join(install(study, list(files.values())))
    ours = our_models(SIZES)
    for stage, name in TARGETS:
        origin, expected = read_origin(study.original_file(stage, name)), our_models(SIZES)[name]
        assert (origin["file"], origin["kind"], origin["stands_in"]) == (FILES[name], name, "")
        assert load_original(study.original_file(stage, name), ours[name]) == describe(origin)
        convert(read(files[name]), expected)
        weights = expected.state_dict()
        assert all(torch.equal(weight, weights[key]) for key, weight in ours[name].state_dict().items())
    assert "Still to train: none" in said and "4 are assumed" in said and "momentum_encoder" in said


@pytest.mark.parametrize(
    ("kind", "filled", "trains"),
    [
        ("pretrained", {"pretrained": ""}, "finetuned frequency fused aligned"),
        ("finetuned", {"pretrained": "pre-training", "finetuned": ""}, "frequency fused aligned"),
        ("frequency", {"frequency": ""}, "pretrained finetuned fused aligned"),
        ("fused", {"pretrained": "pre-training", "finetuned": "fine-tuning", "frequency": "frequency", "fused": ""},
         "aligned"),
        ("aligned", {"pretrained": "pre-training", "finetuned": "fine-tuning", "frequency": "frequency",
                     "fused": "fusion", "aligned": ""}, ""),
    ],
)  # fmt: skip
def test_any_one_file_fills_all_stages_up_to_it(study, files, kind, filled, trains):
    said = install(study, [files[kind]])
    found = {name: origin for name, origin in origins(study).items() if origin}
    assert set(found) == set(filled)
    for name, words in filled.items():
        assert found[name]["kind"] == kind and words in found[name]["stands_in"]
        assert bool(words) == bool(found[name]["stands_in"])
        assert ("further by" in describe(found[name])) == bool(words)
    if kind == "aligned":
        assert found["fused"]["stands_in"].endswith(
            "the weights after fusion, and were trained further by alignment, on one subject"
        )
        assert "by fine-tuning, then fusion, then alignment, on one" in found["pretrained"]["stands_in"]
        load_original(study.original_file(dict((n, s) for s, n in TARGETS)[name], name), our_models(SIZES)[name])
    stages = {name: f"{stage} ({name})" for stage, name in TARGETS}
    assert f"Still to train: {', '.join(stages[name] for name in trains.split()) or 'none'}." in said[-1]


def test_what_is_right_replaces_what_stands_in_and_never_the_other_way(study, files):
    install(study, [files["aligned"]])
    install(study, [files["fused"]])
    assert {name: origin["kind"] for name, origin in origins(study).items()} == {
        "pretrained": "fused", "finetuned": "fused", "frequency": "fused", "fused": "fused", "aligned": "aligned"
    }  # fmt: skip
    install(study, [files["finetuned"]])
    said = install(study, [files["fused"]])
    assert origins(study)["finetuned"]["kind"] == "finetuned" and origins(study)["frequency"]["kind"] == "fused"
    assert any("finetuned: unchanged, from" in sentence for sentence in said)


def test_other_subjects_share_the_branches_only(study, files):
    said = install(study, [files["fused"]])
    other = replace(study, subject=2)
    assert study.original_file("fusion", "fused") != other.original_file("fusion", "fused")
    assert study.original_file("frequency_branch", "frequency") == other.original_file("frequency_branch", "frequency")
    assert any("No file states its subject: 4 is assumed, as given" in sentence for sentence in said)


def test_weights_trained_here_are_left_alone(study, files):
    folder = study.folder("lmm_pretraining")
    folder.mkdir(parents=True)
    results = folder / "results.json"
    results.write_text(json.dumps({"metrics": {"origin": {"pretrained": "a file", "finetuned": None}}}))
    with pytest.raises(OriginalError, match="trained here; move it away first"):
        install(study, [files["finetuned"], files["frequency"]])
    assert not any(origins(study).values())  # nothing is written unless all of it can be
    said = install(study, [files["fused"]])
    assert not origins(study)["finetuned"] and origins(study)["pretrained"]["kind"] == "fused"
    assert any("finetuned: " in sentence and "stays as it is" in sentence for sentence in said)


def test_studies_that_the_weights_do_not_belong_to_are_refused(study, files):
    for change, words in (({"protocol": "clean"}, "chose their epochs on the test trials.*protocol=paper"),
                          ({"ablation": "no_time"}, "whole method")):  # fmt: skip
        with pytest.raises(OriginalError, match=words):
            install(replace(study, **change), [files["fused"]])
    with pytest.raises(OriginalError, match="are both 'fused'"):
        install(study, [files["fused"], files["fused"]])


def test_text_states_of_another_backbone_are_refused(study, tmp_path):
    sizes = replace(SIZES, tokens=77, text=768, wide=4, narrow=2)
    file = save_all(released_models(sizes), tmp_path / "files")["aligned"]
    with pytest.raises(OriginalError, match="77 x 768.*backbone=sd15"):
        install(study, [file])


def test_weights_know_where_they_come_from(study, files, tmp_path):
    path = study.original_file("frequency_branch", "frequency")
    assert read_origin(path) == {}
    install(study, [files["frequency"]])
    first = read_origin(path)
    other = save_all(released_models(SIZES, seed=1), tmp_path / "other")
    install(study, [other["frequency"]])
    assert read_origin(path)["sha256"] != first["sha256"]
    assert describe(first).startswith("the authors' lstm__subject0_epoch_900.pth (sha256 ")
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:50], b"", b"not weights at all"):
        path.write_bytes(damaged)
        with pytest.raises(OriginalError, match="damaged.*brainvis original"):
            load_original(path, our_models(SIZES)["frequency"])


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    path, origin = tmp_path / "x.original.safetensors", {"file": "a", "sha256": "b", "kind": "fused", "stands_in": ""}
    for weights, words in (
        (nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 7)), r"1.weight is \(7, 16\) \(expected \(2, 16\)\)"),
        (nn.Linear(3, 2), "6 parameters of Sequential: 0.weight is missing"),
    ):
        write_original(path, weights, origin)
        model = nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 2))
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        with pytest.raises(OriginalError, match=words):
            load_original(path, model)
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_weights_in_one_piece_of_memory_are_written(tmp_path):
    """As cuDNN lays out an LSTM, and where two names have one parameter."""
    flat, donor, model = torch.arange(12.0), nn.Linear(4, 2), nn.Linear(4, 2)
    donor.weight.data, donor.bias.data = flat[:8].view(2, 4), flat[8:10]
    donor.same, model.same = donor.bias, nn.Parameter(torch.zeros(2))
    write_original(tmp_path / "x.original.safetensors", donor, {"file": "", "sha256": "", "kind": "", "stands_in": ""})
    load_original(tmp_path / "x.original.safetensors", model)
    assert torch.equal(model.weight, donor.weight) and torch.equal(model.same, flat[8:10])
