"""The table of encoders; EEGNet and ShallowFBCSPNet against the published sizes and slow references."""

import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from brainvis.configuration import PRESETS, Configuration, Fusion
from brainvis.models import ENCODERS, EncoderError, encoder_class, new_encoder
from brainvis.models.eegnet import EEGNet
from brainvis.models.encoder import Encoder, classification_objective
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.fusion import FusedEncoder
from brainvis.models.shallow import ShallowFBCSPNet
from brainvis.models.time import TimeEncoder

SMOKE = PRESETS["smoke"]
SHAPE = (5, 440, 1000.0)


def with_options(**encoders):
    """A configuration that has options for encoders of the table."""
    return SimpleNamespace(time=SMOKE.time, frequency=SMOKE.frequency, encoders=encoders)


class Mean(Encoder):
    """A person's own: the mean over time, scaled."""

    def __init__(self, n_chans, n_times, sfreq, n_outputs=None, scale=1.0):
        super().__init__()
        self.width, self.scale = n_chans, scale
        self.add_classifier(n_outputs)

    def embed(self, trials):
        return self.scale * trials.mean(dim=2)


@pytest.mark.parametrize("name", ENCODERS)
def test_all_encoders_have_one_signature(name):
    torch.manual_seed(0)
    encoder, trials = new_encoder(name, SMOKE, *SHAPE), torch.randn(3, 5, 440)
    assert isinstance(encoder, Encoder) and encoder.classifier is None
    assert encoder.embed(trials).shape == encoder(trials).shape == (3, encoder.width)
    assert encoder.add_classifier(7) is encoder and encoder(trials).shape == (3, 7)
    again = new_encoder(name, SMOKE, *SHAPE, 7)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(trials), encoder.eval()(trials))
    losses = classification_objective(encoder.train(), trials, torch.tensor([0, 6, 3]))
    losses["loss"].backward()
    assert set(losses) == {"loss", "accuracy"}
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def test_sizes_come_from_the_configuration():
    assert new_encoder("time", SMOKE, *SHAPE).config is SMOKE.time
    assert new_encoder("frequency", SMOKE, *SHAPE).config is SMOKE.frequency
    assert new_encoder("eegnet", with_options(eegnet={"filters": 4}), *SHAPE).width == 4 * 2 * 13
    assert TimeEncoder(*SHAPE).width == 1024 and FrequencyEncoder(*SHAPE).width == 128
    with pytest.raises(EncoderError, match="encoders.eegnet: .*'colour'.*filters: int = 8"):
        new_encoder("eegnet", with_options(eegnet={"colour": 4}), *SHAPE)


def test_a_class_of_ones_own_is_one_line(monkeypatch):
    monkeypatch.setitem(ENCODERS, "mine", Mean)
    assert encoder_class("mine") is Mean
    trials = torch.randn(2, 5, 440)
    torch.testing.assert_close(
        new_encoder("mine", with_options(mine={"scale": 2.0}), *SHAPE)(trials), 2 * trials.mean(2)
    )
    fused = FusedEncoder(*SHAPE, 3, replace(SMOKE, fusion=Fusion(("mine", "frequency", "shallow"))))
    assert list(fused.branches) == ["mine", "frequency", "shallow"] and fused.width == 5 + 32 + 40
    parts = [branch.embed(trials) for branch in fused.eval().branches.values()]
    assert torch.equal(fused.embed(trials), torch.cat(parts, dim=1)) and fused(trials).shape == (2, 3)


def test_an_unknown_name_lists_the_table():
    with pytest.raises(
        EncoderError, match=r"'nope'. Choose one of time, frequency, spectrum_cnn, eegnet, shallow,.*ENCODERS\['mine'\]"
    ):
        encoder_class("nope")


def test_the_table_is_light():
    code = "import sys, brainvis.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Lawhern et al., Table 3: channels, samples at 128 Hz, kernel, classes, parameters of EEGNet-8,2 and ShallowConvNet.
# Their filters against eye movements and their pooling are those of the paper at 128 Hz, in round numbers.
@pytest.mark.parametrize(
    ("channels", "samples", "eegnet", "shallow"), [(64, 128, 2258, 104_002), (64, 192, 2322, 104_722)]
)
def test_published_numbers_of_parameters(channels, samples, eegnet, shallow):
    def count(model):
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(EEGNet(64, samples, 128.0, 2)) == eegnet
    assert count(ShallowFBCSPNet(64, samples, 128.0, 2, pooling=35 / 128, stride=7 / 128)) == shallow
    published = ShallowFBCSPNet(22, 1125, 250.0, 4)
    assert (published.temporal.kernel_size, published.pool.kernel_size, published.pool.stride) == (
        (1, 25), (1, 75), (1, 15)
    )  # fmt: skip


def shaken(model):
    """Weights, averages and variances that matter."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model.double().eval()


def normed(norm, x, channel):
    """Batch normalisation as it is after training."""
    mean, variance = norm.running_mean[channel].item(), norm.running_var[channel].item()
    return (x - mean) / (variance + 1e-5) ** 0.5 * norm.weight[channel].item() + norm.bias[channel].item()


def along_time(x, kernel, left):
    """sum_k kernel_k x_(t + k - left), where x is zero outside of the trial."""
    return [sum(w * x[t + k - left] for k, w in enumerate(kernel) if 0 <= t + k - left < len(x)) for t in range(len(x))]


def pooled(x, length, stride):
    return [sum(x[t : t + length]) / length for t in range(0, len(x) - length + 1, stride)]


def elu(x):
    return x if x > 0 else torch.tensor(x).expm1().item()


def test_eegnet_equals_the_equations():
    torch.manual_seed(0)
    model, trial = shaken(EEGNet(3, 70, 16.0, 4, filters=2)), torch.randn(3, 70, dtype=torch.float64)
    _, temporal, norm1 = model.temporal
    norm2, (_, depthwise, pointwise, (norm3, *_)) = model.pool[0], model.separable
    maps = []
    for m in range(4):
        f = m // 2  # two spatial filters for each temporal one
        spatial = model.spatial.weight[m, 0, :, 0]
        spatial = (spatial / max(spatial.norm().item(), 1.0)).tolist()
        rows = [along_time(x.tolist(), temporal.weight[f, 0, 0].tolist(), left=3) for x in trial]
        x = [normed(norm2, sum(s * normed(norm1, v, f) for s, v in zip(spatial, values, strict=True)), m)
             for values in zip(*rows, strict=True)]  # fmt: skip
        maps.append(along_time(pooled([elu(v) for v in x], 4, 4), depthwise.weight[m, 0, 0].tolist(), left=0))
    features = []
    for o, weights in enumerate(pointwise.weight[:, :, 0, 0].tolist()):
        x = [normed(norm3, sum(w * v for w, v in zip(weights, values, strict=True)), o)
             for values in zip(*maps, strict=True)]  # fmt: skip
        features += pooled([elu(v) for v in x], 8, 8)
    features = torch.tensor(features, dtype=torch.float64)
    torch.testing.assert_close(model.embed(trial[None])[0], features, check_dtype=False, rtol=1e-6, atol=1e-6)
    weight = model.classifier.weight
    weight = weight / (weight.norm(dim=1, keepdim=True) / 0.25).clamp(min=1)
    torch.testing.assert_close(model(trial[None])[0], weight @ features + model.classifier.bias, rtol=1e-6, atol=1e-6)


def test_norms_of_eegnet_stay_limited_in_training():
    torch.manual_seed(0)
    model, trials, labels = EEGNet(5, 64, 64.0, 3), torch.randn(8, 5, 64), torch.arange(8) % 3
    optimiser = torch.optim.SGD(model.parameters(), lr=20.0)
    for _ in range(3):
        optimiser.zero_grad()
        classification_objective(model, trials, labels)["loss"].backward()
        optimiser.step()
    assert model.spatial.weight.flatten(1).norm(dim=1).max() > 1 and model.classifier.weight.norm(dim=1).max() > 0.25
    model(trials)
    assert model.spatial.weight.flatten(1).norm(dim=1).max() <= 1.0001
    assert model.classifier.weight.norm(dim=1).max() <= 0.2501


def test_shallow_equals_the_equations():
    torch.manual_seed(0)
    model = shaken(ShallowFBCSPNet(3, 60, 50.0, filters=4))  # 5, 15 and 3 samples
    trial = torch.randn(3, 60, dtype=torch.float64)
    expected = []
    for f in range(4):
        x = []
        for t in range(56):
            window = trial[:, t : t + 5]
            filtered = [[(w * row).sum().item() + b.item() for row in window]
                        for w, b in zip(model.temporal.weight[:, 0, 0], model.temporal.bias, strict=True)]  # fmt: skip
            total = (model.spatial.weight[f, :, :, 0] * torch.tensor(filtered, dtype=torch.float64)).sum().item()
            x.append(normed(model.norm, total, f) ** 2)
        expected += pooled(x, 15, 3)
    expected = torch.tensor(expected, dtype=torch.float64).log()
    torch.testing.assert_close(model(trial[None])[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "sfreq", "least"), [(EEGNet, 128.0, 32), (EEGNet, 1000.0, 32), (ShallowFBCSPNet, 250.0, 99)]
)
def test_any_length_that_fits(kind, sfreq, least):
    for samples in range(least, least + 40, 3):
        encoder = kind(2, samples, sfreq)
        assert encoder(torch.randn(2, 2, samples)).shape == (2, encoder.width)
    with pytest.raises(ValueError, match=f"a trial of {least - 1} samples.*{least}"):
        kind(2, least - 1, sfreq)


class StubModel(nn.Linear):
    """With the signature of braindecode's models."""

    def __init__(self, n_outputs=None, n_chans=None, n_times=None, sfreq=None, att_depth=6):
        super().__init__(n_times, n_outputs)
        self.seen = n_chans, n_times, sfreq, att_depth

    def forward(self, x):
        return super().forward(x).mean(dim=1)


@pytest.fixture
def stub(monkeypatch):
    package, models = ModuleType("braindecode"), ModuleType("braindecode.models")
    package.models, models.EEGConformer = models, StubModel
    monkeypatch.setitem(sys.modules, "braindecode", package)
    monkeypatch.setitem(sys.modules, "braindecode.models", models)


def test_models_of_braindecode_are_encoders(stub):
    options = with_options(**{"braindecode.EEGConformer": {"att_depth": 2, "width": 9}})
    encoder = new_encoder("braindecode.EEGConformer", options, *SHAPE, 3)
    assert encoder.model.seen == (*SHAPE, 2) and encoder.width == 9
    trials = torch.randn(2, 5, 440)
    torch.testing.assert_close(encoder(trials), encoder.classifier(encoder.model(trials)))
    assert new_encoder("braindecode.EEGConformer", SMOKE, *SHAPE).width == 128
    with pytest.raises(EncoderError, match="no model 'Nope'"):
        encoder_class("braindecode.Nope")
    fused = FusedEncoder(*SHAPE, 3, replace(SMOKE, fusion=Fusion(("time", "braindecode.EEGConformer"))))
    assert list(fused.branches) == ["time", "braindecode_EEGConformer"] and fused.width == 32 + 128


def test_without_braindecode_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "braindecode", None)
    monkeypatch.delitem(sys.modules, "braindecode.models", raising=False)
    with pytest.raises(EncoderError, match="braindecode.EEGConformer: braindecode cannot be imported .*braindecode"):
        encoder_class("braindecode.EEGConformer")


def test_the_default_configuration_names_entries():
    assert all(name in ENCODERS for name in Configuration().fusion.branches)
