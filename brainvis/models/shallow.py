"""ShallowFBCSPNet: band power after temporal and spatial filters, similar to filter bank common spatial patterns.

Schirrmeister et al., "Deep learning with convolutional neural networks for EEG decoding and visualization", Human Brain
Mapping 38 (2017) 5391, section 2.4.4.
"""

import torch
from torch import Tensor, nn

from brainvis.models.encoder import Encoder


class ShallowFBCSPNet(Encoder):
    """log mean (batch norm(spatial filters of temporal filters of x))^2, with `filters` of each kind.

    `kernel` of the temporal filters, and `pooling` and `stride` of the mean, are in seconds: at the paper's 250 Hz they
    are 25, 75 and 15 samples. Filters resolve rhythms that differ by about 1 / `kernel` hertz. With `shorten`, all
    three are shortened by the same factor if a trial is too short for them.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        sfreq: float,
        n_outputs: int | None = None,
        filters: int = 40,
        kernel: float = 0.1,
        pooling: float = 0.3,
        stride: float = 0.06,
        dropout: float = 0.5,
        shorten: bool = False,
    ) -> None:
        super().__init__()
        room = n_times / sfreq / (kernel + pooling) if shorten else 1.0
        kernel, pooling, stride = (seconds * min(room, 1.0) for seconds in (kernel, pooling, stride))
        kernel, pooling, stride = (max(round(seconds * sfreq), 1) for seconds in (kernel, pooling, stride))
        if shorten:  # by the excess due to rounding
            pooling = max(min(pooling, n_times - kernel + 1), 1)
        if n_times < kernel + pooling - 1:
            needs = f"ShallowFBCSPNet needs {kernel + pooling - 1} samples; shorten its `kernel` or `pooling` (seconds)"
            raise ValueError(f"a trial of {n_times} samples at {sfreq} Hz is too short: {needs}")
        self.width = filters * ((n_times - kernel + 1 - pooling) // stride + 1)
        self.temporal = nn.Conv2d(1, filters, (1, kernel))
        self.spatial = nn.Conv2d(filters, filters, (n_chans, 1), bias=False)
        self.norm, self.pool = nn.BatchNorm2d(filters), nn.AvgPool2d((1, pooling), (1, stride))
        self.dropout = nn.Dropout(dropout)
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        power = self.pool(self.norm(self.spatial(self.temporal(trials.unsqueeze(1)))).square())  # (b, filter, 1, time)
        return self.dropout(torch.log(power.clamp(min=1e-6))).flatten(1)
