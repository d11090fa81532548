"""The benchmark: its baseline does the same maths as the package, and it writes what it shows. No speed is asserted."""

import json

import pytest
import torch
from benchmarks import __main__ as benchmarks
from benchmarks import baseline, steps

from brainvis.configuration import PRESETS, changed

WITHOUT_CHANCE = {"dropout": 0.0, "regressor_dropout": 0.0}


@pytest.mark.parametrize("logarithms", [False, True])
@pytest.mark.parametrize("name", steps.CASES)
def test_the_baseline_has_the_packages_loss_and_gradients(name, logarithms):
    torch.manual_seed(0)
    config = changed(PRESETS["smoke"], {"time": WITHOUT_CHANCE, "frequency": {"log_amplitude": logarithms}})
    case = steps.package_case(name, "smoke", 6, config)
    model, loss = steps.baseline_model(name, "smoke", config)
    for parameter in case.model.parameters():  # scales of sublayers start at 1e-8, where no mistake would show
        if parameter.ndim == 0:
            parameter.data.fill_(0.5)
    model.load_state_dict(case.model.state_dict())
    trials = baseline.Trials(*steps.baseline_tensors(case))
    (batch,) = baseline.batches(trials, len(trials), "cpu", shuffle=False)
    torch.manual_seed(1)  # for masks and tokens
    ours = case.objective(case.model.train(), *case.tensors)["loss"]
    torch.manual_seed(1)
    theirs = loss(*batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    for name, weight in case.model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-6, msg=name)
    if hasattr(model, "update_target"):
        for encoder in (case.model.encoder, model.encoder):
            for weight in encoder.parameters():
                weight.data += 1
        case.after_step()
        model.update_target()
        for one, other in zip(case.model.state_dict().values(), model.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other)


def test_the_baseline_draws_the_packages_pictures(backbone):
    from benchmarks.pictures import taken

    from brainvis.configuration import Generation
    from brainvis.generation.cascade import noise_generator
    from brainvis.generation.sampler import PLMS

    config = Generation(semantic_steps=3, refinement_steps=4, refinement_guidance=3.0, strength=0.5)
    embedding, start = backbone.text_embeddings(["a star"]), torch.rand(1, 3, 64, 64)
    drawn = {
        "semantic": backbone.draw(embedding, [noise_generator(0, "semantic", 0, 0)], config),
        "refinement": backbone.refine(start, ["a star"], [noise_generator(0, "refinement", 0, 0)], config),
    }
    baseline.explicit(backbone.pipeline)
    for stage, picture in drawn.items():
        number, guidance, strength = taken(config, stage)
        plms = PLMS.like(backbone.pipeline.scheduler)
        times = plms.times(number, strength)
        before = start if stage == "refinement" else None
        noise = noise_generator(0, stage, 0, 0)
        obvious = baseline.draw(backbone.pipeline, plms, times, embedding, noise, guidance, before)
        torch.testing.assert_close(obvious, picture, rtol=1e-3, atol=1e-4)


def test_targets_read_from_text_are_those_written(tmp_path):
    embeddings = torch.randn(3, 8)
    baseline.write_targets(tmp_path / "targets.txt", embeddings)
    held = baseline.open_targets(tmp_path / "targets.txt", [2, 0, 2])
    assert len(held) == 3 and all(target.dtype == torch.float64 for target in held)
    torch.testing.assert_close(torch.stack(held), embeddings[[2, 0, 2]].double(), rtol=0, atol=1e-6)


def test_a_run_writes_what_it_shows(tmp_path, capsys):
    file = tmp_path / "results.json"
    usual = ["steps", "--size", "smoke", "--case", "frequency", "--rounds", "2", "--device", "cpu", "--threads", "1"]
    usual += ["--precision", "float32"]
    usual += ["--file", str(file), "--scratch", str(tmp_path)]
    assert benchmarks.main(usual) == 0
    report, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert report["machine"]["device"] == "cpu"
    assert torch.__version__.startswith(report["machine"]["versions"]["torch"])
    (row,) = report["rows"]
    assert (row["part"], row["case"], row["size"]) == ("steps", "frequency branch", "smoke")
    assert row["settings"]["precision"] == "float32"
    assert row["package"]["rounds"] == 2 and row["package"]["low"] <= row["package"]["median"] <= row["package"]["high"]
    for part in ("times_baseline", "share_of_ceiling"):
        assert row[part]["low"] > 0
    # An LSTM of width 32 reads 128 channels at each of 44 frequencies. Backward, it gives gradients of its weights and
    # states, but not of the spectrum. Two small layers are on top.
    lstm = 44 * 2 * 4 * 32 * (2 * (128 + 32) + 32)
    assert row["operations_per_unit"] == pytest.approx(lstm + 3 * 2 * 32 * (32 + 40), rel=0.01)
    assert all(peak["memory"] > peak["before"] / 2 > 0 for peak in row["peak"].values())
    for figure in (row["package"], row["times_baseline"]):
        assert f"{figure['median']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]" in shown
    assert benchmarks.main(["--show", "--file", str(file)]) == 0
    assert capsys.readouterr().out.strip() in shown


def test_what_fails_is_told_with_its_reason(tmp_path):
    from benchmarks.turns import BenchmarkError, Contestant, Environment

    with pytest.raises(BenchmarkError, match="nothing"):
        Contestant(("benchmarks.turns:nothing", {}), Environment(1, tmp_path))
