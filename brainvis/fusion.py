"""The time-frequency encoder: both branches side by side, one linear layer on top (Fu et al., section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brainvis.frequency_branch import FrequencyEncoder
from brainvis.time_branch import TimeEncoder


class TimeFrequencyEncoder(nn.Module):
    """Joins the branches' features; both go on learning.

    Args:
        time: the time branch, 1024 features in the `paper` preset; None leaves it out (an ablation).
        frequency: the frequency branch, 128 features; None leaves it out.
        classes: classes to tell apart.
    """

    def __init__(self, time: TimeEncoder | None, frequency: FrequencyEncoder | None, classes: int) -> None:
        super().__init__()
        if time is None and frequency is None:
            raise ValueError("the time-frequency encoder needs at least one of its branches")
        self.time = time
        self.frequency = frequency
        self.classes = classes
        self.width = sum(branch.width for branch in (time, frequency) if branch is not None)
        self.classifier = nn.Linear(self.width, classes)

    def features(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> time features, then frequency features (b, width)."""
        branches = (branch for branch in (self.time, self.frequency) if branch is not None)
        return torch.cat([branch.features(trials) for branch in branches], dim=1)

    def classify(self, features: Tensor) -> Tensor:
        """(b, width) -> class scores (b, class), before the softmax."""
        return self.classifier(features)

    def forward(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> class scores (b, class), before the softmax."""
        return self.classify(self.features(trials))
