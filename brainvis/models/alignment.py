"""Alignment by semantic interpolation: from EEG to the text embeddings that condition Stable Diffusion.

Fu et al., section 2.4. The targets are last hidden states of the backbone's frozen text encoder: coarse semantics from
the class name, fine semantics from a caption of the picture.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainvis.configuration import Alignment
from brainvis.models.fusion import FusedEncoder


class AlignmentNetwork(nn.Module):
    """Six linear layers W, alternately wide and narrow, with skip connections over one layer: maps x to W6 h5, where

        h1 = tanh(W1 x)   h2 = tanh(W2 h1)   h3 = tanh(W3 h2 + h1)   h4 = tanh(W4 h3 + h2)   h5 = tanh(W5 h4 + h3)

    x has `inputs` values, the fused embedding and the class scores: 1152 + 40 in the `paper` preset, where the hidden
    layers have 4096 and 1024 units. `shape` (tokens, width) of a text embedding is (77, 768) for Stable Diffusion 1.5.
    """

    def __init__(self, inputs: int, shape: tuple[int, int], config: Alignment) -> None:
        super().__init__()
        self.config, self.shape = config, tuple(shape)
        hidden = (config.wide, config.narrow, config.wide, config.narrow, config.wide)
        self.layers = nn.ModuleList(nn.Linear(*widths) for widths in pairwise((inputs, *hidden, math.prod(shape))))

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs) -> predicted text embeddings (b, tokens, width)."""
        w1, w2, w3, w4, w5, w6 = self.layers
        h1 = torch.tanh(w1(x))
        h2 = torch.tanh(w2(h1))
        h3 = torch.tanh(w3(h2) + h1)
        h4 = torch.tanh(w4(h3) + h2)
        h5 = torch.tanh(w5(h4) + h3)
        return w6(h5).unflatten(1, self.shape)


class AlignedEncoder(nn.Module):
    """EEG -> text embeddings: the network reads the embedding and class scores of a fused encoder with a classifier.

    With `train_encoder` the encoder keeps learning, as in the release; otherwise it is frozen, without dropout.
    """

    def __init__(self, fused: FusedEncoder, network: AlignmentNetwork) -> None:
        super().__init__()
        self.fused, self.network = fused, network
        fused.requires_grad_(network.config.train_encoder)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.network.config.train_encoder:
            self.fused.eval()
        return self

    def forward(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        """(b, channel, time) -> predicted text embeddings (b, tokens, width) and class scores (b, class)."""
        embedding = self.fused.embed(trials)
        scores = self.fused.classifier(embedding)
        return self.network(torch.cat([embedding, scores], dim=1)), scores


def semantic_interpolation_loss(
    predicted: Tensor, coarse: Tensor, fine: Tensor, config: Alignment
) -> dict[str, Tensor]:
    """Sum over `config.targets` of 1 - cos(target, prediction), plus the mean squared error if configured; the caption
    terms are weighted by `config.fine_weight`.

    The cosine is computed between whole flattened text embeddings (b, tokens, width), as in the release, not averaged
    over tokens. The prediction is drawn to both targets at once, hence "interpolation". Returns batch means: `loss`,
    and for both targets, whether or not they are in the loss, `cosine_coarse`, `cosine_fine`, `error_coarse`,
    `error_fine`.
    """
    targets = {"coarse": coarse, "fine": fine}
    if not config.targets or not set(config.targets) <= set(targets):
        raise ValueError(f"alignment targets are {config.targets}; they must be one or more of {tuple(targets)}")
    predicted = predicted.float().flatten(1)  # (b, tokens * width)
    terms = {"loss": predicted.new_zeros(())}
    for name, target in targets.items():
        target = target.float().flatten(1)
        terms[f"cosine_{name}"] = functional.cosine_similarity(predicted, target, dim=1).mean()
        terms[f"error_{name}"] = functional.mse_loss(predicted, target)
        if name in config.targets:
            weight = config.fine_weight if name == "fine" else 1.0
            terms["loss"] = terms["loss"] + weight - weight * terms[f"cosine_{name}"]
            if config.mean_squared_error:
                terms["loss"] = terms["loss"] + weight * terms[f"error_{name}"]
    return terms


def alignment_objective(coarse: Tensor, fine: Tensor, config: Alignment) -> Callable[..., dict[str, Tensor]]:
    """Semantic interpolation between text embeddings of class names (class, tokens, width) and captions (caption, ...).

    A batch holds row indices into these tables. The tables move to the model's device with the first batch and keep
    their precision: 241 MB in half precision for EEGCVPR40 and Stable Diffusion 1.5. The loss converts one batch at a
    time.
    """

    def objective(model: AlignedEncoder, trials: Tensor, labels: Tensor, captions: Tensor) -> dict[str, Tensor]:
        nonlocal coarse, fine
        predicted, _ = model(trials)  # (b, tokens, width)
        coarse, fine = coarse.to(predicted.device), fine.to(predicted.device)
        return semantic_interpolation_loss(predicted, coarse[labels], fine[captions], config)

    return objective
