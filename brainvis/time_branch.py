"""The time branch: a transformer over short units of EEG, and Latent Masked Modeling (LMM), which pre-trains it.

Fu et al., "BrainVis" (arXiv 2312.14871), section 2.1, after TimeMAE (arXiv 2303.00320). Where the paper is silent the
authors' release decides: mask ratio, weights of the losses, label smoothing, initial values.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from brainvis.configuration import TimeBranch
from brainvis.layers import Transformer, initialise_linear


class TimeEncoder(nn.Module):
    """Units of EEG -> latent units: convolution, learned positions, transformer.

    Args:
        channels: EEG channels of a trial.
        samples: time samples of a trial; what is left over after the last whole unit is not read.
        config: sizes; `paper` makes 110 units of width 1024 from 440 samples.
    """

    def __init__(self, channels: int, samples: int, config: TimeBranch) -> None:
        super().__init__()
        if samples < config.unit_length:
            raise ValueError(
                f"a trial of {samples} samples holds no unit of {config.unit_length}; "
                "give longer trials or a smaller `unit_length`"
            )
        self.config = config
        self.width = config.width
        self.units = samples // config.unit_length
        self.projection = nn.Conv1d(channels, config.width, config.unit_length, stride=config.unit_length)
        self.position = nn.Parameter(torch.randn(self.units, config.width))
        self.transformer = Transformer(config.layers, config.width, config.heads, config.feedforward, config.dropout)
        self.apply(initialise_linear)

    def project(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> projected units without positions (b, unit, width)."""
        return rearrange(self.projection(trials), "b width unit -> b unit width")

    def forward(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> latent units (b, unit, width)."""
        return self.transformer(self.project(trials) + self.position)

    def features(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> mean over the latent units (b, width); what classifiers and linear probes read."""
        return self(trials).mean(dim=1)


class TimeClassifier(nn.Module):
    """Fine-tuning of the time branch: one linear layer on the encoder's features."""

    def __init__(self, encoder: TimeEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.width, classes)
        self.classifier.apply(initialise_linear)

    def forward(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> class scores (b, class), before the softmax."""
        return self.classifier(self.encoder.features(trials))


@dataclass(frozen=True)
class MaskedPrediction:
    """What LMM sees, wants and says about a batch; `masked` and `visible` index the units of a trial."""

    masked: Tensor  # (m,)
    visible: Tensor  # (v,)
    regressed: Tensor  # (b, m, width), the regressor's output
    target: Tensor  # (b, m, width), the target encoder's output
    tokens: Tensor  # (b, m), the codewords that the masked units have
    token_scores: Tensor  # (b, m, codeword), those that the regressor's output predicts, before the softmax


class LatentMaskedModel(nn.Module):
    """LMM: from the visible units of a trial, say what the latent units and codewords of the masked ones are.

    The encoder sees visible units only. The regressor's queries are the mask token plus the positions of the masked
    units; it attends to the encoded visible units. Its output is compared with two targets:

    - The target encoder's output, by mean squared error. The target encoder is an exponential moving average of the
      encoder's transformer. As in the release it sees the masked units alone, projected, with their positions. It
      never drops out here, so that its targets do not depend on chance.
    - The tokens of the masked units, by cross-entropy. The tokeniser is one linear layer to `codewords` scores; read
      on the projected units without positions, a Gumbel arg-max picks each unit's token. No gradient passes through
      that choice. The same layer reads the regressor's output, and this reading is all that trains it.

    Trains: projection, positions, encoder, mask token, regressor, tokeniser. Call `update_target` after every step.
    """

    def __init__(self, encoder: TimeEncoder, config: TimeBranch) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.target_encoder = copy.deepcopy(encoder.transformer).requires_grad_(False)
        self.mask_token = nn.Parameter(torch.randn(config.width))
        self.regressor = Transformer(
            config.regressor_layers, config.width, config.heads, config.feedforward, config.regressor_dropout
        )
        self.tokeniser = nn.Linear(config.width, config.codewords)
        self.regressor.apply(initialise_linear)
        self.tokeniser.apply(initialise_linear)
        self.masked_units = math.floor(config.mask_ratio * encoder.units)  # 82 of 110 at a ratio of 0.75
        if not 0 < self.masked_units < encoder.units:
            raise ValueError(
                f"a mask ratio of {config.mask_ratio} masks {self.masked_units} of {encoder.units} units; "
                "at least one must be masked and one visible"
            )

    def train(self, mode: bool = True) -> LatentMaskedModel:
        super().train(mode)
        self.target_encoder.eval()
        return self

    def draw_mask(self, generator: torch.Generator | None = None) -> Tensor:
        """(unit,) bool, true where masked: one draw serves a whole batch, as in the release."""
        mask = torch.zeros(self.encoder.units, dtype=torch.bool)
        mask[torch.randperm(self.encoder.units, generator=generator)[: self.masked_units]] = True
        return mask

    def losses(
        self, trials: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Both losses of a batch and how the codebook is used.

        Args:
            trials: (b, channel, time).
            mask: (unit,) bool; drawn if not given.
            generator: of the mask and the tokens, on the CPU; torch's own if not given.

        Returns:
            scalars: `loss` = regression_weight * `regression` + classification_weight * `classification`;
            `token_accuracy`; `codewords_used`, how many different tokens this batch has; `perplexity` of its tokens
            (1: all the same, `codewords`: all equally frequent).
        """
        mask = self.draw_mask(generator) if mask is None else mask
        prediction = self._predict(trials, mask, lambda scores: gumbel_arg_max(scores, generator))
        scores, tokens = prediction.token_scores.flatten(0, 1), prediction.tokens.flatten()
        regression = functional.mse_loss(prediction.regressed.float(), prediction.target.float())
        classification = functional.cross_entropy(scores.float(), tokens, label_smoothing=self.config.label_smoothing)
        counts = torch.bincount(tokens, minlength=self.config.codewords).float()
        return {
            "loss": self.config.regression_weight * regression + self.config.classification_weight * classification,
            "regression": regression,
            "classification": classification,
            "token_accuracy": (scores.argmax(dim=-1) == tokens).float().mean(),
            "codewords_used": (counts > 0).float().sum(),
            "perplexity": torch.special.entr(counts / counts.sum()).sum().exp(),
        }

    def predict(self, trials: Tensor, mask: Tensor) -> MaskedPrediction:
        """For pictures: as the losses see it, but each token is the likeliest one, without the Gumbel noise."""
        return self._predict(trials, mask, lambda scores: scores.argmax(dim=-1))

    def _predict(self, trials: Tensor, mask: Tensor, pick_tokens) -> MaskedPrediction:
        if mask.shape != (self.encoder.units,) or mask.dtype != torch.bool:
            raise ValueError(f"the mask must be bool and ({self.encoder.units},), not {mask.dtype} {tuple(mask.shape)}")
        masked = mask.nonzero().flatten().to(trials.device)
        visible = (~mask).nonzero().flatten().to(trials.device)
        projected = self.encoder.project(trials)  # (b, unit, width)
        placed = projected + self.encoder.position
        encoded = self.encoder.transformer(placed[:, visible])  # (b, v, width)
        with torch.no_grad():
            target = self.target_encoder(placed[:, masked])  # (b, m, width)
        queries = repeat(self.mask_token + self.encoder.position[masked], "m width -> b m width", b=len(trials))
        regressed = self.regressor(queries, asked=encoded)
        # detach, not no_grad: under no_grad autocast would keep a copy of the weights that no gradient reaches
        tokens = pick_tokens(self.tokeniser(projected[:, masked].detach()).detach())
        return MaskedPrediction(masked, visible, regressed, target, tokens, self.tokeniser(regressed))

    @torch.no_grad()
    def update_target(self) -> None:
        """target = momentum * target + (1 - momentum) * encoder, parameter by parameter."""
        pairs = zip(self.target_encoder.parameters(), self.encoder.transformer.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, 1 - self.config.momentum)


def gumbel_arg_max(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(..., codeword) -> (...): arg-max of scores + Gumbel(0, 1) noise, that is, a draw from softmax(scores)."""
    scores = scores.float()
    noise = torch.empty_like(scores, device=generator.device if generator else scores.device)
    noise = -noise.exponential_(generator=generator).log()  # minus the log of an exponential draw is Gumbel
    return (scores + noise.to(scores.device)).argmax(dim=-1)
