"""Masked reconstruction of the signal, the baseline for LMM. It predicts the samples of masked units instead of their
codewords and latent units, after the temporal masked signal modeling of DreamDiffusion (Bai et al., arXiv 2306.16934)
and masked autoencoders (He et al., arXiv 2111.06377).
"""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from brainvis.models.time import TimeEncoder, Transformer, draw_mask, initialise_linear


class MaskedSignalModel(nn.Module):
    """Predicts the samples x_m of the masked units m of a trial from the visible units v.

        z_v = transformer(u_v + p_v)          the encoder sees visible units only
        r_m = decoder(t + p_m, z_v)           the mask token t, with positions, queries the visible units
        loss = mean (S r_m - x_m)^2           a linear layer S maps to all channels and samples of a unit

    Encoder, masks and decoder (called regressor there) are those of LMM: only the target differs.
    """

    def __init__(self, encoder: TimeEncoder) -> None:
        super().__init__()
        self.config = config = encoder.config
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.randn(config.width))
        self.decoder = Transformer(config.regressor_layers, config.regressor_dropout, config)
        self.samples = nn.Linear(config.width, encoder.projection.in_channels * config.unit_length)
        self.decoder.apply(initialise_linear)
        self.samples.apply(initialise_linear)

    def losses(self, trials: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> dict:
        """`loss` of trials (b, channel, time), and `loss_of_mean`, the loss when each sample is predicted by its mean
        over the trials; `mask` (unit,) bool as in LMM."""
        mask = draw_mask(self.encoder, generator) if mask is None else mask
        masked, visible = (where.nonzero().flatten().to(trials.device, non_blocking=True) for where in (mask, ~mask))
        placed = self.encoder.project(trials) + self.encoder.position  # (b, unit, width)
        encoded = self.encoder.transformer(placed[:, visible])
        queries = repeat(self.mask_token + self.encoder.position[masked], "m width -> b m width", b=len(trials))
        said = self.samples(self.decoder(queries, asked=encoded))  # (b, m, channel * time)
        whole = trials[..., : self.encoder.units * self.config.unit_length]
        wanted = rearrange(whole, "b channel (unit time) -> b unit (channel time)", unit=self.encoder.units)[:, masked]
        wanted = wanted.float()
        return {
            "loss": functional.mse_loss(said.float(), wanted),
            "loss_of_mean": wanted.var(dim=0, correction=0).mean(),
        }


def masked_signal_objective(model: MaskedSignalModel, trials: Tensor, *_: Tensor) -> dict[str, Tensor]:
    """The loss of masked reconstruction; labels, if any, are ignored."""
    return model.losses(trials)
