"""Alignment by semantic interpolation: from EEG to the text states that Stable Diffusion is conditioned on.

Fu et al., section 2.4. The targets are last hidden states of the backbone's frozen text encoder: coarse semantics are
those of the class name, fine semantics those of a caption of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainvis.configuration import Alignment
from brainvis.fusion import TimeFrequencyEncoder


class AlignmentNetwork(nn.Module):
    """Six linear layers, wide and narrow in turn, with skips that jump over one layer.

    Args:
        inputs: width of the embedding: fused features and class scores, 1152 + 40 in the `paper` preset.
        outputs_shape: (tokens, width) of a text state: (77, 768) for Stable Diffusion 1.5.
        config: widths of the hidden layers: 4096 and 1024 in the `paper` preset, 264 million parameters in all.
    """

    def __init__(self, inputs: int, outputs_shape: tuple[int, int], config: Alignment) -> None:
        super().__init__()
        self.config = config
        self.outputs_shape = tuple(outputs_shape)
        tokens, width = self.outputs_shape
        self.wide1 = nn.Linear(inputs, config.wide)
        self.narrow1 = nn.Linear(config.wide, config.narrow)
        self.wide2 = nn.Linear(config.narrow, config.wide)
        self.narrow2 = nn.Linear(config.wide, config.narrow)
        self.wide3 = nn.Linear(config.narrow, config.wide)
        self.output = nn.Linear(config.wide, tokens * width)

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, inputs) -> predicted text states (b, tokens, width)."""
        wide = torch.tanh(self.wide1(embedding))
        narrow = torch.tanh(self.narrow1(wide))
        wide = torch.tanh(self.wide2(narrow) + wide)
        narrow = torch.tanh(self.narrow2(wide) + narrow)
        wide = torch.tanh(self.wide3(narrow) + wide)
        return self.output(wide).unflatten(1, self.outputs_shape)


class AlignedEncoder(nn.Module):
    """EEG -> text states: the fused encoder, whose features and class scores the alignment network reads.

    With `train_encoder` the fused encoder goes on learning, as in the release; without, it is frozen and never drops
    out.
    """

    def __init__(self, fused: TimeFrequencyEncoder, network: AlignmentNetwork) -> None:
        super().__init__()
        self.fused = fused
        self.network = network
        fused.requires_grad_(network.config.train_encoder)

    def train(self, mode: bool = True) -> AlignedEncoder:
        super().train(mode)
        if not self.network.config.train_encoder:
            self.fused.eval()
        return self

    def forward(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        """(b, channel, time) -> predicted text states (b, tokens, width) and class scores (b, class)."""
        features = self.fused.features(trials)
        scores = self.fused.classify(features)
        return self.network(torch.cat([features, scores], dim=1)), scores


def semantic_interpolation_loss(
    predicted: Tensor, coarse: Tensor, fine: Tensor, config: Alignment
) -> dict[str, Tensor]:
    """Sum over the targets in `config.targets` of 1 - cosine, plus the mean squared error where configured.

    The cosine is that of whole states flattened to one vector of tokens * width numbers, as in the release, not a mean
    over tokens. The prediction is drawn to both targets at once, hence "interpolation".

    Args:
        predicted, coarse, fine: text states (b, tokens, width).

    Returns:
        scalars, means over the batch: `loss`, and for both targets, whether or not they are in the loss,
        `cosine_coarse`, `cosine_fine`, `error_coarse`, `error_fine` (mean squared errors).

    Raises:
        ValueError: no target, or one that is neither "coarse" nor "fine".
    """
    targets = {"coarse": coarse, "fine": fine}
    if not config.targets or not set(config.targets) <= set(targets):
        raise ValueError(f"alignment targets {config.targets}: name at least one of {tuple(targets)}, and no other")
    predicted = predicted.float().flatten(1)  # (b, tokens * width)
    terms = {"loss": predicted.new_zeros(())}
    for name, target in targets.items():
        target = target.float().flatten(1)
        terms[f"cosine_{name}"] = functional.cosine_similarity(predicted, target, dim=1).mean()
        terms[f"error_{name}"] = functional.mse_loss(predicted, target)
        if name in config.targets:
            terms["loss"] = terms["loss"] + 1 - terms[f"cosine_{name}"]
            if config.mean_squared_error:
                terms["loss"] = terms["loss"] + terms[f"error_{name}"]
    return terms
