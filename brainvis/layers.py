"""The transformer layer of the time branch: post-norm, with a learnable scalar on every sublayer."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of `heads` heads over a width that they divide.

    Written out rather than through `scaled_dot_product_attention`: with dropout, as in training, it is a little
    faster forward and backward on one CPU thread at this project's sizes (see `tests/benchmarks`).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads; choose a divisor of {width}")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Queries from `asking` (b, n, d), keys and values from `asked` (b, m, d); returns (b, n, d)."""
        split = "b n (head d) -> b head n d"
        query = rearrange(self.query(asking), split, head=self.heads)
        key = rearrange(self.key(asked), split, head=self.heads)
        value = rearrange(self.value(asked), split, head=self.heads)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (b, head, n, m)
        weights = functional.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        return self.output(rearrange(weights @ value, "b head n d -> b n (head d)"))


class ScaledResidual(nn.Module):
    """LayerNorm(x + dropout(scale * sublayer)): the scale starts at 1e-8, so a new layer begins as a bare LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1e-8))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, sublayer: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.scale * sublayer))


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward network, each inside a `ScaledResidual`.

    Self-attention in the encoders; cross-attention in the regressor, where `asked` are the visible units. Dropout acts,
    as in the release, on the attention weights, on the feed-forward output and on each scaled sublayer.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width), nn.Dropout(dropout)
        )
        self.after_attention = ScaledResidual(width, dropout)
        self.after_feedforward = ScaledResidual(width, dropout)

    def forward(self, x: Tensor, asked: Tensor | None = None) -> Tensor:
        """`x` (b, n, d) attends to `asked` (b, m, d), or to itself; returns (b, n, d)."""
        x = self.after_attention(x, self.attention(x, x if asked is None else asked))
        return self.after_feedforward(x, self.feedforward(x))


class Transformer(nn.Module):
    """A stack of transformer layers, all of which attend to `asked` where it is given."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(width, heads, feedforward, dropout) for _ in range(layers))

    def forward(self, x: Tensor, asked: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, asked)
        return x


def initialise_linear(module: nn.Module) -> None:
    """Linear layers as the release starts them: Xavier normal weights, every bias 0.1. For `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.constant_(module.bias, 0.1)
