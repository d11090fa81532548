"""Dropout whose random numbers cost a CPU little: torch's own takes a sixth of a small transformer's step for them.

Only where matrix products are in bfloat16: in float32 a seed goes on giving the numbers that it gave before.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

BITS = 16  # of a random number; the probability is rounded to a multiple of 2^-16


def dropout(x: Tensor, p: float) -> Tensor:
    """Each value of `x` is 0 with probability `p`, below 1, else x / (1 - p); as `functional.dropout` in training."""
    if p == 0 or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return functional.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # four numbers each
    numbers = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = numbers >= round(p * 2**BITS) - 2 ** (BITS - 1)
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


class Dropout(nn.Module):
    """`dropout` while the model learns, nothing otherwise."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
