"""EEGNet: temporal filters, spatial filters for each of them, and a separable convolution.

Lawhern et al., "EEGNet: a compact convolutional neural network for EEG-based brain-computer interfaces", J. Neural Eng.
15 (2018) 056013, Table 2.
"""

from torch import Tensor, nn

from brainvis.models.encoder import Encoder


class EEGNet(Encoder):
    """EEGNet-8,2: F1 = 8 temporal filters (`filters`), D = 2 spatial filters for each (`depth`), F2 = F1 D separable
    ones.

    Both temporal kernels span half a second, the second at sfreq / 4, after the first pooling. `dropout` is .5 because
    training and test trials come from the same subjects here; across subjects the paper uses .25.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        sfreq: float,
        n_outputs: int | None = None,
        filters: int = 8,
        depth: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if n_times < 4 * 8:
            raise ValueError(f"a trial of {n_times} samples is too short for EEGNet, which needs at least 4 * 8 = 32")
        maps, long, short = filters * depth, max(round(sfreq / 2), 1), max(round(sfreq / 8), 1)
        self.width = maps * (n_times // 4 // 8)
        self.temporal = nn.Sequential(
            nn.ZeroPad2d(((long - 1) // 2, long // 2, 0, 0)),  # keeps the length of a trial
            nn.Conv2d(1, filters, (1, long), bias=False),
            nn.BatchNorm2d(filters),
        )
        self.spatial = nn.Conv2d(filters, maps, (n_chans, 1), groups=filters, bias=False)
        self.pool = nn.Sequential(nn.BatchNorm2d(maps), nn.ELU(), nn.AvgPool2d((1, 4)), nn.Dropout(dropout))
        self.separable = nn.Sequential(
            nn.ZeroPad2d(((short - 1) // 2, short // 2, 0, 0)),
            nn.Conv2d(maps, maps, (1, short), groups=maps, bias=False),
            nn.Conv2d(maps, maps, 1, bias=False),
            nn.Sequential(nn.BatchNorm2d(maps), nn.ELU(), nn.AvgPool2d((1, 8)), nn.Dropout(dropout), nn.Flatten()),
        )
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        self.spatial.weight.data.renorm_(2, 0, 1.0)  # the paper's constraint: no filter's norm exceeds 1
        maps = self.spatial(self.temporal(trials.unsqueeze(1)))  # (b, F1, channel, time) -> (b, F1 D, 1, time)
        return self.separable(self.pool(maps))

    def forward(self, trials: Tensor) -> Tensor:
        if self.classifier is not None:
            self.classifier.weight.data.renorm_(2, 0, 0.25)  # likewise for each class: at most .25
        return super().forward(trials)
