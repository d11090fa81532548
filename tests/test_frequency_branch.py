"""Frequency branch against a naive Fourier transform and an LSTM written out gate by gate."""

import cmath
import math

import pytest
import torch

from brainvis.configuration import PRESETS, FrequencyBranch
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.spectrum import amplitude_spectrum, frequencies


def naive_amplitudes(signal, bins):
    """|sum_t x_t exp(-2 pi i k t / n)| for k = 1 .. bins."""
    n = len(signal)
    return [
        abs(sum(x * cmath.exp(-2j * math.pi * k * t / n) for t, x in enumerate(signal))) for k in range(1, bins + 1)
    ]


@pytest.mark.parametrize("samples", [12, 13])
def test_spectrum_equals_the_definition(samples):
    trials = torch.randn(2, 3, samples, dtype=torch.float64)
    trials += 5  # a constant, which no bin may show
    spectrum = amplitude_spectrum(trials, 100.0)
    assert spectrum.shape == (2, 6, 3)
    for trial in range(2):
        for channel in range(3):
            expected = naive_amplitudes(trials[trial, channel].tolist(), 6)
            torch.testing.assert_close(spectrum[trial, :, channel], torch.tensor(expected, dtype=torch.float64))


def test_published_bins_and_the_cut():
    hertz = frequencies(440, 1000.0)
    assert len(hertz) == 220 and hertz[0] == pytest.approx(1000 / 440) and hertz[-1] == 500
    assert len(frequencies(440, 1000.0, 100.0)) == 44  # the 44th bin lies at 100 Hz exactly
    trials = torch.randn(2, 3, 440)
    full = amplitude_spectrum(trials, 1000.0)
    assert torch.equal(amplitude_spectrum(trials, 1000.0, 100.0), full[:, :44])
    sine = torch.sin(2 * math.pi * 50 * torch.arange(440) / 1000).expand(1, 1, 440)
    assert hertz[amplitude_spectrum(sine, 1000.0)[0, :, 0].argmax()] == pytest.approx(50)
    with pytest.raises(ValueError, match="below 1.0 Hz: the first is 2.27 Hz"):
        frequencies(440, 1000.0, 1.0)


def test_branch_equals_the_gates():
    torch.manual_seed(0)
    encoder = FrequencyEncoder(3, 12, 100.0, 5, FrequencyBranch(width=4)).double()
    trials = torch.randn(2, 3, 12, dtype=torch.float64)
    sigmoid = torch.sigmoid
    for row, sequence in enumerate(amplitude_spectrum(trials, 100.0)):
        hidden, cell = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for amplitudes in sequence:
            gates = encoder.lstm.weight_ih_l0 @ amplitudes + encoder.lstm.bias_ih_l0
            gates = gates + encoder.lstm.weight_hh_l0 @ hidden + encoder.lstm.bias_hh_l0
            enter, forget, candidate, leave = gates.split(4)
            cell = sigmoid(forget) * cell + sigmoid(enter) * torch.tanh(candidate)
            hidden = sigmoid(leave) * torch.tanh(cell)
        features = (encoder.output.weight @ hidden + encoder.output.bias).clamp(min=0)
        torch.testing.assert_close(encoder.embed(trials)[row], features)
        scores = encoder.classifier.weight @ features + encoder.classifier.bias
        torch.testing.assert_close(encoder(trials)[row], scores)


def test_log_amplitudes_are_standardised_by_the_trials_it_was_prepared_with():
    torch.manual_seed(0)
    config = FrequencyBranch(width=4, log_amplitude=True)
    encoder, trials = FrequencyEncoder(3, 12, 100.0, 5, config), 4 + torch.randn(600, 3, 12)
    encoder.prepare(trials)
    spectra = encoder.spectra(trials)
    torch.testing.assert_close(spectra.mean(0), torch.zeros(6, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(spectra.std(0, correction=0), torch.ones(6, 3), atol=1e-4, rtol=0)
    logarithm = (amplitude_spectrum(trials, 100.0) + 1e-6).log()
    torch.testing.assert_close(
        encoder.spectra(trials[:2]), (logarithm[:2] - logarithm.mean(0)) / logarithm.std(0, correction=0)
    )
    again = FrequencyEncoder(3, 12, 100.0, 5, config)
    again.load_state_dict(encoder.state_dict())  # a run's weights bring them along
    assert torch.equal(again(trials[:5]), encoder.eval()(trials[:5]))
    assert "mean" not in FrequencyEncoder(3, 12, 100.0).state_dict()  # the released weights have none
    encoder.prepare(torch.zeros(4, 3, 12))  # a flat channel
    assert encoder(trials).isfinite().all()


def test_dropout_acts_in_training_alone():
    encoder, trials = FrequencyEncoder(3, 12, 100.0, 5, FrequencyBranch(width=4, dropout=0.5)), torch.randn(2, 3, 12)
    assert not torch.equal(encoder.train()(trials), encoder(trials))
    assert torch.equal(encoder.eval()(trials), encoder(trials))


def test_paper_preset_has_the_published_size():
    encoder = FrequencyEncoder(128, 440, 1000.0, 40, PRESETS["paper"].frequency)
    assert encoder.frequencies == 220
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 153_768  # .1538 M in Table 7


def test_sizes_are_known_without_weights():
    with torch.device("meta"):
        encoder = FrequencyEncoder(128, 440, 1000.0, config=FrequencyBranch(highest_frequency=100.0))
    assert encoder.frequencies == 44 and encoder.lstm.weight_ih_l0.is_meta
