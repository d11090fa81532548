"""The frequency branch: an LSTM that reads the amplitude spectrum frequency by frequency (Fu et al., section 2.2).

`SpectrumEncoder` is shared with `brainvis.models.spectrum_cnn`, which reads the same spectrum.
"""

import torch
from torch import Tensor, nn

from brainvis.configuration import FrequencyBranch
from brainvis.models.encoder import Encoder
from brainvis.models.spectrum import amplitude_spectrum, frequencies

DEFAULT = FrequencyBranch()
SMALLEST = 1e-6  # amplitude; keeps the logarithm finite where a filter removed everything


class SpectrumEncoder(Encoder):
    """Reads the amplitude spectrum of a trial: raw amplitudes, as in the release, or, with `log_amplitude`, their
    logarithm, standardised per frequency and channel over the trials passed to `prepare`."""

    def __init__(self, n_chans: int, n_times: int, sfreq: float, config: FrequencyBranch) -> None:
        super().__init__()
        self.config, self.width, self.sfreq = config, config.width, sfreq
        self.frequencies = len(frequencies(n_times, sfreq, config.highest_frequency))
        if config.log_amplitude:
            self.register_buffer("mean", torch.zeros(self.frequencies, n_chans))
            self.register_buffer("deviation", torch.ones(self.frequencies, n_chans))
        self.dropout = nn.Dropout(config.dropout)

    @torch.no_grad()
    def prepare(self, trials: Tensor) -> None:
        """Mean and standard deviation of each log amplitude over trials (trial, channel, time), if it reads them."""
        if not self.config.log_amplitude:
            return
        total, squares = torch.zeros(2, *self.mean.shape, dtype=torch.float64)
        for batch in trials.split(256):
            values = self._log_amplitudes(batch).double()
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = total / len(trials)
        self.mean.copy_(mean)
        self.deviation.copy_((squares / len(trials) - mean.square()).clamp(min=1e-12).sqrt())

    def spectra(self, trials: Tensor) -> Tensor:
        """The network's input: (b, channel, time) -> (b, frequency, channel)."""
        if self.config.log_amplitude:
            return (self._log_amplitudes(trials) - self.mean) / self.deviation
        return amplitude_spectrum(trials, self.sfreq, self.config.highest_frequency)

    def _log_amplitudes(self, trials: Tensor) -> Tensor:
        return (amplitude_spectrum(trials, self.sfreq, self.config.highest_frequency) + SMALLEST).log()


class FrequencyEncoder(SpectrumEncoder):
    """relu(W h + b), where h is the LSTM's state after the highest frequency.

    Amplitudes of 0.5 s of EEG are so large and so similar that what all trials have in common saturates the gates: it
    takes hundreds of epochs to get past this, unless the LSTM reads standardised logarithms.
    """

    def __init__(
        self, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None, config: FrequencyBranch = DEFAULT
    ) -> None:
        super().__init__(n_chans, n_times, sfreq, config)
        self.lstm = nn.LSTM(n_chans, config.width, config.layers, batch_first=True)
        self.output = nn.Linear(config.width, config.width)
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        states, _ = self.lstm(self.dropout(self.spectra(trials)))
        return torch.relu(self.output(states[:, -1]))  # states: (b, frequency, width)
