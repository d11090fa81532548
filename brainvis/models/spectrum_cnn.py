"""A CNN in place of the frequency branch's LSTM: convolutions along the frequencies of the amplitude spectrum.

Fu et al., table 7, compare the two but do not describe their CNN; this one is about the same size.
"""

import torch
from torch import Tensor, nn

from brainvis.configuration import FrequencyBranch
from brainvis.models.frequency import SpectrumEncoder

DEFAULT = FrequencyBranch()
LAYERS = (2, 4, 8)  # widths of the convolutions, relative to the embedding's width
KERNEL = 3  # frequencies


class SpectrumCNN(SpectrumEncoder):
    """relu(W v + b), where v are the feature maps of three convolutions, which keep the frequency axis.

    Each is a convolution over `KERNEL` neighbouring frequencies and all channels, batch normalisation, ReLU, and max
    pooling over pairs of neighbours. At the published size (220 frequencies, width 128) the model has 5.6 million
    weights.
    """

    def __init__(
        self, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None, config: FrequencyBranch = DEFAULT
    ) -> None:
        super().__init__(n_chans, n_times, sfreq, config)
        left = self.frequencies // 2 ** len(LAYERS)
        if not left:
            few = f"{self.frequencies} frequencies are too few for a CNN that halves them {len(LAYERS)} times"
            raise ValueError(f"{few}; raise `highest_frequency` or use longer trials")
        widths = [n_chans, *(factor * config.width for factor in LAYERS)]
        layers = [
            nn.Sequential(nn.Conv1d(*pair, KERNEL, padding="same"), nn.BatchNorm1d(pair[1]), nn.ReLU(), nn.MaxPool1d(2))
            for pair in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.convolutions = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1] * left, config.width)
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        spectra = self.dropout(self.spectra(trials)).transpose(1, 2)  # (b, channel, frequency)
        return torch.relu(self.output(self.convolutions(spectra).flatten(1)))  # maps: (b, 8 width, frequency // 8)
