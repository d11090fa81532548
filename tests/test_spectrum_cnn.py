"""The CNN in the place of the frequency branch's LSTM, against convolutions written out, and as a branch of a study."""

import pytest
import torch

from brainvis.configuration import PRESETS, FrequencyBranch, changed
from brainvis.files import BrainvisError
from brainvis.graph import Choice
from brainvis.models import new_encoder
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.spectrum import amplitude_spectrum
from brainvis.models.spectrum_cnn import SpectrumCNN


def size(model) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_it_equals_the_equations():
    torch.manual_seed(0)
    model = SpectrumCNN(2, 17, 100.0, 3, FrequencyBranch(width=2)).double()  # 8 frequencies
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) - 0.4 if tensor.ndim > 1 else torch.rand_like(tensor))
    model.eval()
    trials = torch.randn(2, 2, 17, dtype=torch.float64)
    for trial, found in zip(amplitude_spectrum(trials, 100.0), model(trials), strict=True):
        maps = trial.T.tolist()  # (channel, frequency)
        for convolution, norm, *_ in model.convolutions:
            made = []
            for o in range(convolution.out_channels):
                line = []
                for f in range(len(maps[0])):
                    total = convolution.bias[o].item()
                    for i, row in enumerate(maps):
                        for k in range(3):
                            if 0 <= f + k - 1 < len(row):
                                total += convolution.weight[o, i, k].item() * row[f + k - 1]
                    deviation = (norm.running_var[o].item() + 1e-5) ** 0.5
                    value = (total - norm.running_mean[o].item()) / deviation
                    line.append(max(0.0, value * norm.weight[o].item() + norm.bias[o].item()))
                made.append([max(line[f], line[f + 1]) for f in range(0, len(line) - 1, 2)])
            maps = made
        features = torch.tensor([value for row in maps for value in row], dtype=torch.float64)
        embedding = (model.output.weight @ features + model.output.bias).clamp(min=0)
        torch.testing.assert_close(found, model.classifier.weight @ embedding + model.classifier.bias)


def test_its_size_and_that_of_the_lstm_are_about_the_published_ones():
    cnn, lstm = (new_encoder(name, PRESETS["paper"], 128, 440, 1000.0, 40) for name in ("spectrum_cnn", "frequency"))
    convolutions = sum(3 * a * b + 3 * b for a, b in ((128, 256), (256, 512), (512, 1024)))  # weights, bias, norm
    assert size(cnn) == convolutions + 27 * 1024 * 128 + 128 + 40 * 129  # published: 5.14 million
    assert size(lstm) == 153_768 and cnn.frequencies == 220  # published: 0.1538 million


def test_it_reads_what_the_frequency_branch_reads():
    config = FrequencyBranch(width=4, highest_frequency=100.0, log_amplitude=True)
    trials = torch.randn(6, 3, 440)
    both = SpectrumCNN(3, 440, 1000.0, config=config), FrequencyEncoder(3, 440, 1000.0, config=config)
    for model in both:
        model.prepare(trials)
    assert torch.equal(*(model.spectra(trials) for model in both)) and both[0].spectra(trials).shape == (6, 44, 3)
    assert both[0].eval().embed(trials).shape == (6, 4)


def test_too_few_frequencies_are_refused():
    with pytest.raises(ValueError, match="7 frequencies are too few.*raise `highest_frequency`"):
        SpectrumCNN(2, 14, 100.0)


def test_it_is_a_branch_with_the_settings_of_the_frequency_branch(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))

    def mine(settings):
        (tmp_path / "mine.yml").write_text(f"start: demo\n{settings}")
        return Choice(preset=str(tmp_path / "mine.yml"))

    plain, stage = mine("frequency: {}"), "spectrum_cnn_branch"
    assert "-p branch spectrum_cnn" in plain.command(stage)
    assert mine("frequency: {highest_frequency: 50.0}").fingerprint(stage) != plain.fingerprint(stage)
    assert mine("time: {width: 48}").fingerprint(stage) == plain.fingerprint(stage) == Choice().fingerprint(stage)
    with pytest.raises(BrainvisError, match="encoders.spectrum_cnn: .* belong under `frequency`"):
        changed(PRESETS["demo"], {"encoders": {"spectrum_cnn": {"width": 3}}})
