"""The training loop: seeds, resume, best epoch, refusals; against a plain loop where there is one to write."""

import math

import pytest
import torch
from torch import nn

import brainvis.training.checkpoint as checkpoints
import brainvis.training.device as devices
from brainvis.configuration import Alignment, Configuration, Fusion, TimeBranch, Training
from brainvis.models.alignment import AlignedEncoder, AlignmentNetwork, semantic_interpolation_loss
from brainvis.models.fusion import FusedEncoder
from brainvis.models.time import LatentMaskedModel, TimeEncoder
from brainvis.training import TrainingError, choose_device, choose_precision, computed_in, fit, predict

TRAINING = Training(epochs=4, learning_rate=1e-2, batch_size=8, schedule="cosine")
TIME = TimeBranch(unit_length=4, width=8, layers=1, heads=2, feedforward=8, regressor_layers=1, codewords=5)


@pytest.fixture(autouse=True)
def every_epoch_is_written(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "WRITING_SHARE", math.inf)


def data(rows: int = 20, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 3, generator=generator)
    return inputs, (inputs[:, 0] > inputs[:, 1]).long()


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def objective(model, inputs, labels):
    scores = model(inputs)
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": nn.functional.cross_entropy(scores, labels), "accuracy": accuracy}


def run(model, objective=objective, training=TRAINING, seed=3, **options):
    return fit(model, objective, data(), data(9, 1), training, name="test", seed=seed, device="cpu", **options)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(weights, other[name]) for name, weights in a.state_dict().items())


def interrupted(at: int, inner=objective):
    """The objective, which fails in its call number `at`, as a killed process would."""
    calls = 0

    def failing(model, *batch):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return inner(model, *batch)

    return failing


def test_equals_a_plain_loop():
    """Without dropout and with one batch an epoch, order and chance do not matter."""
    training = Training(epochs=5, learning_rate=1e-2, batch_size=20, schedule="cosine", weight_decay=0.1)
    fitted, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(fitted.state_dict())
    history = run(fitted, training=training, choose=("accuracy", "max"), precision="float32")
    rates = [1e-2] + [1e-2 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4)]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    inputs, labels = data()
    accuracies, states = [], []
    for step, rate in enumerate(rates, 1):
        loss = nn.functional.cross_entropy(plain(inputs), labels)
        assert history.epochs[step - 1]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        with torch.no_grad():
            for parameter, gradient, (first, second) in zip(plain.parameters(), gradients, moments, strict=True):
                first.mul_(0.9).add_(0.1 * gradient)
                second.mul_(0.999).add_(0.001 * gradient**2)
                parameter.mul_(1 - rate * 0.1)  # AdamW: decay apart from the gradient
                corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
                parameter.sub_(rate * first / (1 - 0.9**step) / corrected)
        test_inputs, test_labels = data(9, 1)
        accuracies.append((plain(test_inputs).argmax(1) == test_labels).float().mean().item())
        states.append({name: weights.clone() for name, weights in plain.state_dict().items()})
    assert history.curve("validation_accuracy")[1] == pytest.approx(accuracies)
    assert history.best_epoch == accuracies.index(max(accuracies)) + 1
    torch.testing.assert_close(fitted.state_dict(), states[history.best_epoch - 1])


def test_means_weigh_batches_by_their_rows():
    """20 rows in batches of 8: the last batch has 4."""

    def mean_of_inputs(model, inputs, labels):
        return {"loss": model(inputs).sum() * 0 + inputs.mean(), "rows": torch.tensor(float(len(inputs)))}

    record = run(small_model(), mean_of_inputs).epochs[0]
    assert record["train_loss"] == pytest.approx(data()[0].mean().item(), abs=1e-6)
    assert record["validation_loss"] == pytest.approx(data(9, 1)[0].mean().item(), abs=1e-6)
    assert record["train_rows"] == pytest.approx((8 * 8 + 8 * 8 + 4 * 4) / 20)


def test_seeds_decide_everything_and_leave_the_outside_alone():
    models = [small_model() for _ in range(3)]
    torch.manual_seed(11)
    first = run(models[0])
    after = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(3))
    second, third = run(models[1]), run(models[2], seed=4)
    assert first.epochs == second.epochs and same_weights(models[0], models[1])
    assert first.epochs != third.epochs and not same_weights(models[0], models[2])


@pytest.mark.parametrize("at", [3, 8, 12, 19])  # an epoch has 3 training batches and 2 of validation
def test_resumed_training_is_bit_identical(tmp_path, at):
    whole, broken = small_model(), small_model()
    uninterrupted = run(whole, checkpoint=tmp_path / "whole.pt")
    file = tmp_path / "folder" / "broken.pt"
    with pytest.raises(KeyboardInterrupt):
        run(broken, interrupted(at), checkpoint=file)
    fresh = small_model()
    calls = []
    resumed = run(fresh, lambda *args: calls.append(1) or objective(*args), checkpoint=file)
    assert len(calls) == 20 - 5 * ((at - 1) // 5)
    assert resumed.epochs == uninterrupted.epochs and resumed.best_epoch == uninterrupted.best_epoch
    assert same_weights(fresh, whole)
    assert not list(file.parent.glob("*.part"))


def test_resumed_pretraining_keeps_the_target_encoder(tmp_path):
    trials = torch.randn(20, 3, 24, generator=torch.Generator().manual_seed(0))

    def pretrain(objective, file):
        torch.manual_seed(0)
        model = LatentMaskedModel(TimeEncoder(3, 24, 100.0, config=TIME))
        history = fit(model, objective, [trials], [trials[:9]], TRAINING, name="LMM", seed=0, device="cpu",
                      checkpoint=file, after_step=model.update_target)  # fmt: skip
        return model, history

    def losses(model, batch):
        return model.losses(batch)

    whole, history = pretrain(losses, None)
    with pytest.raises(KeyboardInterrupt):
        pretrain(interrupted(13, losses), tmp_path / "c.pt")
    resumed, again = pretrain(losses, tmp_path / "c.pt")
    assert again.epochs == history.epochs and same_weights(whole, resumed)
    start = LatentMaskedModel(TimeEncoder(3, 24, 100.0, config=TIME)).target_encoder
    assert not same_weights(whole.target_encoder, start)
    assert {"train_regression", "validation_classification", "validation_perplexity"} <= set(history.epochs[0])


def test_finished_training_returns_at_once(tmp_path):
    first, second = small_model(), small_model()
    history = run(first, checkpoint=tmp_path / "c.pt")
    again = run(second, interrupted(1), checkpoint=tmp_path / "c.pt")
    assert again == history and same_weights(first, second)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert "optimiser" not in content


@pytest.mark.parametrize("change", ["seed", "weights", "settings", "data", "damaged", "foreign"])
def test_another_checkpoint_is_set_aside_never_used(tmp_path, change):
    file, model, expected = tmp_path / "c.pt", small_model(), small_model()
    run(small_model(), seed=5 if change == "seed" else 3, checkpoint=file)
    training = TRAINING
    if change == "weights":
        with torch.no_grad():
            for either in (model, expected):
                either[0].bias.add_(1)
    if change == "settings":
        training = Training(epochs=4, learning_rate=2e-2, batch_size=8, schedule="cosine")
    if change == "damaged":
        file.write_bytes(file.read_bytes()[:-300])
    if change == "foreign":
        torch.save({"weights": torch.zeros(3)}, file)
    before, train = file.read_bytes(), data(seed=2 if change == "data" else 0)
    (tmp_path / "c.pt.before").unlink()
    with pytest.warns(UserWarning, match="c.pt.previous, and the training starts over"):
        fit(model, objective, train, data(9, 1), training, name="test", seed=3, device="cpu", checkpoint=file)
    fit(expected, objective, train, data(9, 1), training, name="test", seed=3, device="cpu")
    assert same_weights(model, expected)
    assert (tmp_path / "c.pt.previous").read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_goes_on(tmp_path, damage):
    file, model, expected, resumed = tmp_path / "c.pt", small_model(), small_model(), []
    with pytest.raises(KeyboardInterrupt):
        run(small_model(), interrupted(13), checkpoint=file)
    content = bytearray(file.read_bytes())
    if damage == "flipped":  # one bit of a weight: torch alone would read another number
        place = content.find(small_model().state_dict()["0.weight"].numpy().tobytes()[:0] + b"data/0") + 128
        content[place] ^= 1
    file.write_bytes({"empty": b"", "cut": content[:-300], "flipped": bytes(content)}[damage])

    def counted(model, *batch):
        resumed.append(1)
        return objective(model, *batch)

    with pytest.warns(UserWarning, match="c.pt.previous, and the training tries the previous one"):
        run(model, counted, checkpoint=file)
    whole = []
    run(expected, lambda model, *batch: whole.append(1) or objective(model, *batch))
    assert same_weights(model, expected) and len(resumed) < len(whole)


def test_identity_follows_the_model_configuration_but_not_other_trainings(tmp_path):
    def identity(**changes):
        torch.manual_seed(0)
        config = TimeBranch(**{**vars(TIME), **changes})
        model = LatentMaskedModel(TimeEncoder(3, 24, 100.0, config=config))
        return checkpoints.training_identity(model, data(), data(), TRAINING, seed=0)

    assert identity() == identity(finetuning=Training(epochs=1))
    assert identity() != identity(label_smoothing=0.1)


def test_a_full_disk_does_not_end_a_training(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert len(run(small_model(), checkpoint=tmp_path / "c.pt").epochs) == 4


def test_checkpoints_are_not_written_all_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 1000.0)
    with pytest.raises(KeyboardInterrupt):
        run(small_model(), interrupted(19), checkpoint=tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()
    run(small_model(), checkpoint=tmp_path / "c.pt")
    assert (tmp_path / "c.pt").exists()


def test_best_epoch_is_chosen_on_the_validation_tensors():
    """The validation loss follows a script; training goes on regardless."""
    model, states, script = small_model(), [], iter([3.0, 1.0, 2.0, 1.0])

    def scripted(model, inputs, labels):
        terms = objective(model, inputs, labels)
        if model.training:
            return terms
        states.append({name: weights.clone() for name, weights in model.state_dict().items()})
        return terms | {"loss": torch.tensor(next(script))}

    history = fit(model, scripted, data(), data(8, 1), TRAINING, name="test", seed=0, device="cpu")
    assert history.best_epoch == 2 and not model.training
    assert history.curve("validation_loss") == ([1, 2, 3, 4], [3.0, 1.0, 2.0, 1.0])
    torch.testing.assert_close(model.state_dict(), states[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("at", "where"), [(7, "epoch 2 of 4, training, batch 2 of 3"), (10, "epoch 2 of 4, validation")]
)
def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path, at, where):
    calls = 0

    def turning(model, *batch):
        nonlocal calls
        calls += 1
        terms = objective(model, *batch)
        return terms | {"loss": terms["loss"] * (math.nan if calls == at else 1.0)}

    with pytest.raises(TrainingError, match=f"test: the loss is nan in {where}.*learning rate"):
        run(small_model(), turning, checkpoint=tmp_path / "c.pt")
    stored = torch.load(tmp_path / "c.pt", weights_only=True)
    assert stored["progress"]["epoch"] == 1 and all(torch.isfinite(w).all() for w in stored["model"].values())


def test_no_epochs_leave_the_model_as_it_is(tmp_path):
    model = small_model()
    history = run(model, training=Training(epochs=0), checkpoint=tmp_path / "c.pt")
    assert history.epochs == [] and history.best_epoch == 0 and same_weights(model, small_model())
    assert not list(tmp_path.iterdir())


def forbidden(*_):
    raise AssertionError("something was trained")


def test_original_weights_are_loaded_and_nothing_is_trained(tmp_path):
    def noisy(model, *batch):
        return objective(model, *batch) | {"noise": torch.rand(())}

    def original(model):
        model.load_state_dict(donor.state_dict())
        return "the authors' theirs.pkl"

    donor, model = small_model(), small_model()
    expected = run(donor, noisy, checkpoint=tmp_path / "donor.pt")
    torch.manual_seed(11)
    history = run(
        model, noisy, original=original, checkpoint=tmp_path / "c.pt", after_step=forbidden, monitor=forbidden
    )
    after = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(3))
    assert same_weights(model, donor) and not model.training
    assert (history.epochs, history.best_epoch, history.seconds) == ([], 0, 0.0)
    assert history.curve("validation_loss") == ([], [])
    assert history.origin == "the authors' theirs.pkl"
    assert history.origin in history.summary and "NOTHING WAS TRAINED HERE" in history.summary
    assert not (tmp_path / "c.pt").exists()
    for term in ("validation_loss", "validation_accuracy", "validation_noise"):  # as they are measured after an epoch
        assert history.kept(term) == expected.kept(term) == expected.epochs[expected.best_epoch - 1][term]


def test_without_original_weights_it_says_what_was_trained():
    history = run(small_model())
    assert history.origin is None
    assert history.summary == f"4 epochs; the weights of epoch {history.best_epoch} are kept."
    assert "NOTHING WAS TRAINED" in run(small_model(), training=Training(epochs=0)).summary


def test_the_last_epoch_is_kept_where_nothing_is_to_choose_by():
    best, last = small_model(), small_model()
    training = Training(epochs=6, learning_rate=2.0, batch_size=4)  # so high that the loss goes up again
    chosen = run(best, training=training)
    history = run(last, training=training, choose=None)
    assert chosen.best_epoch < 6 and history.best_epoch == 6 and history.epochs == chosen.epochs
    assert not all(map(torch.equal, best.parameters(), last.parameters()))


def test_an_epoch_is_chosen_by_what_the_monitor_reads():
    def monitor(model, epoch):
        return {"probe": [0.1, 0.3, 0.2, 0.3][epoch - 1]}

    assert run(small_model(), choose=("probe", "max"), monitor=monitor).best_epoch == 2
    with pytest.raises(ValueError, match="no 'probe' to choose by"):  # after the first epoch, not after the last
        run(small_model(), choose=("probe", "max"), monitor=lambda _, epoch: {"probe": 0.1} if epoch == 4 else {})


def test_monitor_reads_the_model_in_evaluation_mode():
    def monitor(model, epoch):
        assert not model.training and not torch.is_grad_enabled()
        return {"probe": epoch / 10} if epoch % 2 == 0 else {}

    history = run(small_model(), monitor=monitor)
    assert history.curve("probe") == ([2, 4], [0.2, 0.4])
    assert run(small_model()).curve("train_loss") == history.curve("train_loss")


def test_frozen_parameters_stay():
    model = small_model()
    model[0].requires_grad_(False)
    run(model)
    assert same_weights(model[0], small_model()[0]) and not same_weights(model[3], small_model()[3])


def test_alignment_learns_both_targets():
    torch.manual_seed(0)
    labels = torch.arange(32) % 4
    trials = torch.randn(4, 3, 24)[labels] + 0.3 * torch.randn(32, 3, 24)
    coarse = torch.randn(4, 2, 3)[labels]
    fine = coarse + 0.3 * torch.randn(32, 2, 3)
    config = Alignment(wide=32, narrow=16)
    configuration = Configuration(time=TIME, fusion=Fusion(branches=("time",), training=TRAINING))
    fused = FusedEncoder(3, 24, 100.0, 4, configuration)
    model = AlignedEncoder(fused, AlignmentNetwork(8 + 4, (2, 3), config))

    def aligned(model, trials, coarse, fine):
        return semantic_interpolation_loss(model(trials)[0], coarse, fine, config)

    rows = (trials, coarse, fine)
    history = fit(model, aligned, rows, rows, Training(epochs=60, learning_rate=5e-3), name="alignment", seed=0)
    first, best = history.epochs[0], history.epochs[history.best_epoch - 1]
    for target in ("coarse", "fine"):
        assert first[f"validation_cosine_{target}"] < 0.7 and best[f"validation_cosine_{target}"] > 0.9


def test_settings_that_cannot_work_are_refused():
    for setting, words in (
        ({"optimiser": "sgd"}, "'adam' or 'adamw'"),
        ({"schedule": "step"}, "'constant' or 'cosine'"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"learning_rate": math.nan}, "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            Training(**{"epochs": 1, **setting})
    with pytest.raises(ValueError, match="'least'"):
        run(small_model(), choose=("loss", "least"))
    with pytest.raises(ValueError, match="no 'f1' to choose by"):
        run(small_model(), choose=("f1", "max"))
    with pytest.raises(ValueError, match=r"validation tensors have lengths \[0, 0\]"):
        fit(small_model(), objective, data(), data(0), TRAINING, name="test", seed=0)
    with pytest.raises(ValueError, match=r"training tensors have lengths \[20, 9\]"):
        fit(small_model(), objective, (data()[0], data(9)[1]), data(), TRAINING, name="test", seed=0)


def test_predict_joins_batches_and_restores_the_mode():
    model = small_model().train()
    inputs, _ = data()
    joined = predict(model, inputs, batch_size=7)
    assert model.training and not joined.requires_grad
    torch.testing.assert_close(joined, model.eval()(inputs))
    pair = predict(lambda x, y: (x + y, x - y), inputs, inputs, batch_size=6)
    torch.testing.assert_close(pair, (2 * inputs, 0 * inputs))
    torch.testing.assert_close(predict(model.forward, inputs), joined)


def test_device_and_precision(monkeypatch):
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device().type == "cpu"
    with pytest.raises(ValueError, match="device 'cuda' is not available on this machine; choose one of .'cpu'"):
        choose_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps" and choose_precision(torch.device("mps")).precision == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device().type == "cuda"
    with pytest.raises(ValueError, match="cuda:1"):
        choose_device("cuda:1")
    for has, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has: has)
        assert choose_precision(torch.device("cuda")).precision == precision


def test_precision_on_cpus(monkeypatch):
    """AMX decides, but for convolutions; then what the CPU can; only then is anything measured."""
    cpu, gains = torch.device("cpu"), []
    monkeypatch.setattr(devices, "bfloat16_gain", lambda convolutions: gains.pop())
    for amx, can, convolutions, gain, chosen, why in (
        (True, {}, False, None, "bfloat16", "AMX"),
        (True, {}, True, 0.8, "float32", "convolutions on this CPU are not 1.5 times"),
        (False, {"avx2": True}, False, None, "float32", "no bfloat16 instructions"),
        (False, {"avx512_bf16": True}, False, 1.4, "float32", "not 1.5 times"),
        (False, {"avx512_bf16": True}, False, 1.6, "bfloat16", "at least 1.5 times"),
        (False, {"bf16": True}, True, 1.6, "bfloat16", "at least 1.5 times"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can)
        gains[:] = [] if gain is None else [gain]
        found = choose_precision(cpu, "auto", convolutions)
        assert found.precision == chosen and why in found.why and not gains
    assert choose_precision(cpu, "float32").why == "requested"
    with pytest.raises(ValueError, match="precision is 'half'"):
        choose_precision(cpu, "half")


@pytest.mark.parametrize("convolutions", [False, True])
def test_the_gain_is_measured_once(monkeypatch, convolutions):
    devices.bfloat16_gain.cache_clear()
    monkeypatch.setattr(devices, "SECONDS", 0.01)
    before = torch.get_rng_state()
    gain = devices.bfloat16_gain(convolutions)
    assert gain > 0 and devices.bfloat16_gain(convolutions) == gain
    assert torch.equal(torch.get_rng_state(), before)
    devices.bfloat16_gain.cache_clear()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_computed_in(precision):
    seen = set()

    def looking(model, inputs, labels):
        seen.add(str(model[0](inputs).dtype).removeprefix("torch."))
        return objective(model, inputs, labels)

    model = small_model()
    run(model, looking, precision=precision)
    assert seen == {precision}
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
    assert computed_in["test"] == {"precision": precision, "why": "requested", "device": "cpu", "processes": 1}
