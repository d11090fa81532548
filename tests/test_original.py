"""The authors' checkpoints in our models, against the authors' models stated again in `released`."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.released import (
    PAPER,
    SIZES,
    ReleasedAligned,
    ReleasedFrequency,
    ReleasedFused,
    ReleasedTime,
    configuration,
    our_models,
    released_models,
    save_all,
    save_module,
)

from brainvis.configuration import TimeBranch
from brainvis.models.original import OriginalError, Released, convert, load_original, read, write_original
from brainvis.models.time import gumbel_arg_max

WIDE = replace(PAPER, layers=1, regressor_layers=1, wide=64, narrow=32, tokens=2, text=4)  # the published widths
ORIGIN = {"file": "a", "sha256": "b", "kind": "frequency", "stands_in": ""}


@pytest.fixture(scope="module", params=[SIZES, WIDE], ids=["small", "published widths"])
def world(request, tmp_path_factory):
    """Sizes, the authors' models, their files, and ours with the files' weights."""
    sizes = request.param
    theirs = released_models(sizes, each_its_own=sizes is SIZES)
    files = save_all(theirs, tmp_path_factory.mktemp("files"))
    ours = our_models(sizes)
    for kind, file in files.items():
        released = read(file)
        assert released.kind == kind
        convert(released, ours[kind].eval())
    for model in (*ours.values(), *theirs.values()):
        model.double()  # at the published widths float32 alone differs by 1.1e-5 between two orders of summation
    trials = torch.randn(3, sizes.channels, sizes.samples, dtype=torch.float64)
    return SimpleNamespace(sizes=sizes, theirs=theirs, ours=ours, files=files, trials=trials)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_all(released_models(SIZES), tmp_path_factory.mktemp("small"))


def close(actual, expected):
    """In float64, or nearly so where losses are taken in float32, or where files are compared as they are."""
    tolerance = 1e-9 if actual.dtype == expected.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


@torch.no_grad()
def test_latent_units_and_both_losses(world):
    model, theirs, trials = world.ours["pretrained"], world.theirs["pretrained"], world.trials
    x = trials.transpose(1, 2)
    close(model.encoder.units_of(trials), theirs.latent(x))
    order = torch.randperm(model.encoder.units)  # the authors' units come in a random order, ours in that of time
    masked, visible = order[: model.masked_units], order[model.masked_units :]
    mask = torch.zeros(model.encoder.units, dtype=torch.bool).index_fill(0, masked, True)
    tokens = torch.zeros(len(x), model.encoder.units, dtype=torch.int64)
    codes = theirs.tokenizer.center(theirs.units(x))
    tokens[:, mask] = gumbel_arg_max(codes[:, mask], torch.Generator().manual_seed(3))
    regressed, target, error, entropy = theirs.pretrain(x, visible, masked, tokens)
    prediction = model.predict(trials, mask)
    in_time = masked.argsort()
    close(prediction.regressed, regressed[:, in_time])
    close(prediction.target, target[:, in_time])
    assert torch.equal(prediction.tokens, codes[:, mask].argmax(-1))
    losses = model.losses(trials, mask, torch.Generator().manual_seed(3))
    close(losses["regression"], error)
    close(losses["classification"], entropy)
    close(losses["loss"], 4 * error + 2 * entropy)


@torch.no_grad()
def test_classifiers_of_both_branches(world):
    x = world.trials.transpose(1, 2)
    features, scores = world.theirs["finetuned"](x)
    close(world.ours["finetuned"].embed(world.trials), features)
    close(world.ours["finetuned"](world.trials), scores)
    scores, features = world.theirs["frequency"](x)
    close(world.ours["frequency"].embed(world.trials), features)
    close(world.ours["frequency"](world.trials), scores)


@torch.no_grad()
def test_fused_and_aligned_encoders(world):
    x = world.trials.transpose(1, 2)
    features, scores = world.theirs["fused"](x)
    close(world.ours["fused"].embed(world.trials), features)
    close(world.ours["fused"](world.trials), scores)
    states, scores = world.ours["aligned"](world.trials)
    close(states.flatten(1), world.theirs["aligned"](x))
    close(scores, world.theirs["aligned"].pretrained_model(x)[1])


@torch.no_grad()
def test_the_parts_inside_later_files(files):
    ours, trials = our_models(SIZES), torch.randn(3, SIZES.channels, SIZES.samples)
    x = trials.transpose(1, 2)
    theirs = released_models(SIZES)
    insides = {"finetuned": theirs["finetuned"], "fused": theirs["fused"].pretrained_model_time,
               "aligned": theirs["aligned"].pretrained_model.pretrained_model_time}  # fmt: skip
    for kind, time in insides.items():
        for name in ("pretrained", "finetuned"):
            convert(read(files[kind]), ours[name].eval())
        close(ours["finetuned"](trials), time(x)[1])
        close(ours["pretrained"].encoder.units_of(trials), time.latent(x))
        assert torch.equal(ours["pretrained"].mask_token, time.mask_token)
    inside = theirs["aligned"].pretrained_model
    convert(read(files["aligned"]), ours["frequency"])
    close(ours["frequency"](trials), inside.pretrained_model_freq(x)[0])
    convert(read(files["aligned"]), ours["fused"].eval())
    close(ours["fused"](trials), inside(x)[1])


def test_published_files_have_the_published_shapes():
    """Names and shapes alone: all parameters of the `paper` preset are in a file of the published sizes."""
    assert configuration(PAPER).time == TimeBranch()
    with torch.device("meta"):
        inside = ReleasedFused(PAPER, ReleasedTime(PAPER), ReleasedFrequency(PAPER))
        theirs, ours = ReleasedAligned(PAPER, inside), our_models(PAPER)
    parameters = {name: torch.empty(value.shape, device="meta") for name, value in theirs.state_dict().items()}
    for kind, model in ours.items():
        released = Released(Path("clipfinetune_model.pkl"), "aligned", parameters, "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "isfinite", lambda tensor: torch.ones(1))  # nothing has a value here
            assert len(convert(released, model)) == len(model.state_dict()), kind
    counted = sum(parameter.numel() for name, parameter in theirs.named_parameters() if name.startswith("fc"))
    assert counted == sum(parameter.numel() for parameter in ours["aligned"].network.parameters())


def test_the_name_of_a_file_does_not_matter(tmp_path, files):
    for kind, file in files.items():
        renamed = tmp_path / f"{kind}.bin"
        renamed.write_bytes(file.read_bytes())
        assert read(renamed).kind == kind
    older = tmp_path / "older.pkl"
    torch.save(torch.load(files["fused"], weights_only=True), older, _use_new_zipfile_serialization=False)
    with pytest.raises(OriginalError, match="older.pkl was rejected.*written before torch 1.6"):
        read(older)


def test_files_saved_on_a_gpu(tmp_path, monkeypatch):
    """Their tensors say so, and cuDNN keeps the weights of an LSTM in one piece of memory."""
    models = released_models(SIZES)
    for lstm in (models["frequency"].lstm, models["fused"].pretrained_model_freq.lstm):
        flat = torch.cat([parameter.flatten() for parameter in lstm.parameters()])
        for parameter, piece in zip(lstm.parameters(), flat.split([p.numel() for p in lstm.parameters()]), strict=True):
            parameter.data = piece.view_as(parameter)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    files, trials = save_all(models, tmp_path), torch.randn(2, SIZES.channels, SIZES.samples)
    ours = our_models(SIZES)
    for kind in ("frequency", "fused"):
        assert b"cuda:0" in files[kind].read_bytes()
        donor = our_models(SIZES)[kind]
        convert(read(files[kind]), donor)
        write_original(tmp_path / kind, donor, ORIGIN)
        assert load_original(tmp_path / kind, ours[kind].eval()) == "the authors' a (sha256 b)"
    close(ours["frequency"](trials), models["frequency"](trials.transpose(1, 2))[0])
    close(ours["fused"](trials), models["fused"](trials.transpose(1, 2))[1])


def test_the_names_that_were_used(files):
    released = read(files["finetuned"])
    rest = released.parameters.keys() - convert(released, our_models(SIZES)["finetuned"])
    assert {name.split(".")[0] for name in rest} == {
        "momentum_encoder", "mask_token", "tokenizer", "reg", "channelmapping", "dimmapping"
    }  # fmt: skip


def resaved(files, kind, path, change):
    parameters = torch.load(files[kind], weights_only=True)
    change(parameters)
    torch.save(parameters, path)
    return path


@pytest.mark.parametrize(
    ("sizes", "kind", "words"),
    [
        ({"codewords": 9}, "pretrained", r"tokenizer.center.weight is \(7, 16\) \(expected \(9, 16\)\)"),
        ({"layers": 1}, "finetuned", r"encoder.TRMs.1.* \(expected none\)"),
        ({"layers": 3}, "fused", r"transformer.layers.2.\S+ is missing"),
        ({"regressor_layers": 1}, "pretrained", r"reg.layers.1.* \(expected none\)"),
        ({"classes": 4}, "fused", r"fc01.weight is \(6, 28\) \(expected \(4, 28\)\)"),
        ({"channels": 3}, "frequency", r"lstm.weight_ih_l0 is \(48, 5\) \(expected \(48, 3\)\)"),
        ({"samples": 40}, "finetuned", r"position.pe.weight is \(6, 16\) \(expected \(10, 16\)\)"),
        ({"lstm": 5}, "fused", r"lstm.weight_ih_l0 is \(48, 5\) \(expected \(20, 5\)\)"),
        ({"narrow": 4}, "aligned", r"fc02.weight is \(10, 40\) \(expected \(4, 40\)\).*preset=paper"),
    ],
)
def test_other_sizes_are_named(files, sizes, kind, words):
    with pytest.raises(OriginalError, match=words):
        convert(read(files[kind]), our_models(replace(SIZES, **sizes))[kind])


def test_a_smaller_model_inside_is_not_cut_out_silently(files):
    """More layers in the file than in the model: every name of the model is there, and yet it does not fit."""
    with pytest.raises(OriginalError, match="encoder.TRMs.1.* \\(expected none\\)"):
        convert(read(files["aligned"]), our_models(replace(SIZES, layers=1))["finetuned"])


def test_renamed_and_broken_parameters_are_named(files, tmp_path):
    def rename(parameters):
        parameters["encoder.TRMs.0.attn.query.weight"] = parameters.pop("encoder.TRMs.0.attn.linear_layers.0.weight")

    with pytest.raises(OriginalError, match="attention.query.weight is missing.*TRMs.0.attn.query.weight is"):
        convert(read(resaved(files, "finetuned", tmp_path / "a", rename)), our_models(SIZES)["finetuned"])

    def break_one(parameters):
        parameters["predict_head.bias"][2] = torch.nan

    with pytest.raises(OriginalError, match="not finite in predict_head.bias"):
        convert(read(resaved(files, "finetuned", tmp_path / "b", break_one)), our_models(SIZES)["finetuned"])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_foreign_files_are_refused_and_nothing_is_run(files, tmp_path):
    def write(name, content):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    trap = tmp_path / "trap"
    evil = tmp_path / "evil.pkl"
    evil.write_bytes(pickle.dumps(Evil(str(trap))))
    half = tmp_path / "half.pkl"
    half.write_bytes(files["fused"].read_bytes()[:-2000])
    (tmp_path / "words").write_text("not a checkpoint")
    module = released_models(SIZES)["frequency"]
    module.lstm.trap = Evil(str(trap))
    save_module(module, tmp_path / "module")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(files["frequency"].read_bytes()[:-500])
    for file, words in (
        (tmp_path / "absent", "is missing.*timefreqmodel.pkl"),
        (half, "half.pkl was rejected"),
        (cut, "cut.pth was rejected"),
        (tmp_path / "words", "rejected"),
        (evil, "rejected"),
        (write("inside.pkl", {"fc01.weight": Evil(str(trap))}), "rejected, and nothing in it was run"),
        (write("list.pkl", [torch.zeros(2)]), "no model parameters"),
        (
            write("other.pkl", {"conv1.weight": torch.zeros(2), "epoch": torch.zeros(1)}),
            "has unknown parameters: conv1.weight, epoch.*timefreqmodel.pkl",
        ),
        (write("optimiser.pkl", {"state": {}, "param_groups": []}), "no model parameters"),
    ):
        with pytest.raises(OriginalError, match=words):
            read(file)
    assert read(tmp_path / "module").kind == "frequency"  # its weights are read, the trap beside them is not sprung
    assert not trap.exists()
