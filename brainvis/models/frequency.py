"""The frequency branch: an LSTM reads the amplitude spectrum, frequency by frequency (Fu et al., section 2.2)."""

import torch
from torch import Tensor, nn

from brainvis.configuration import FrequencyBranch
from brainvis.models.encoder import Encoder
from brainvis.models.spectrum import amplitude_spectrum, frequencies

DEFAULT = FrequencyBranch()


class FrequencyEncoder(Encoder):
    """relu(W h + b), where h is the LSTM's state after the highest frequency."""

    def __init__(
        self, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None, config: FrequencyBranch = DEFAULT
    ) -> None:
        super().__init__()
        self.config, self.width, self.sfreq = config, config.width, sfreq
        self.frequencies = len(frequencies(n_times, sfreq, config.highest_frequency))
        self.lstm = nn.LSTM(n_chans, config.width, config.layers, batch_first=True)
        self.output = nn.Linear(config.width, config.width)
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        states, _ = self.lstm(amplitude_spectrum(trials, self.sfreq, self.config.highest_frequency))
        return torch.relu(self.output(states[:, -1]))  # states: (b, frequency, width)
