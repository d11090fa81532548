"""Dropout with random numbers that are cheap on a CPU: torch's own take a sixth of a small transformer's step.

Used only where matrix products are in bfloat16: in float32 a seed keeps giving the same numbers as before.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

BITS = 16  # per random number; the probability is rounded to a multiple of 2^-16


def dropout(x: Tensor, p: float) -> Tensor:
    """Each value of `x` becomes 0 with probability `p` < 1, else x / (1 - p): like `functional.dropout` in training."""
    if p == 0 or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return functional.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # four random numbers each
    numbers = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = numbers >= round(p * 2**BITS) - 2 ** (BITS - 1)
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


class Dropout(nn.Module):
    """`dropout` in training mode, the identity otherwise."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
