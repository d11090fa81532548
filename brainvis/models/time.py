"""The time branch: a transformer over short units of EEG, and Latent Masked Modeling (LMM), which pre-trains it.

Fu et al., "BrainVis" (arXiv 2312.14871), section 2.1, after TimeMAE (arXiv 2303.00320). Where the paper gives no value,
ours is from the authors' release: mask ratio, weights of the losses, label smoothing, initial values.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from brainvis.configuration import TimeBranch
from brainvis.models.dropout import Dropout, dropout
from brainvis.models.encoder import Encoder

DEFAULT = TimeBranch()


class MultiHeadAttention(nn.Module):
    """softmax(Q K' / sqrt(d)) V in each of `heads` heads, which split the width."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be divided among {heads} heads; choose a divisor of {width}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Queries from `asking` (b, n, d), keys and values from `asked` (b, m, d); returns (b, n, d)."""
        parts = (self.query(asking), self.key(asked), self.value(asked))
        query, key, value = (rearrange(part, "b n (head d) -> b head n d", head=self.heads) for part in parts)
        attend = functional.scaled_dot_product_attention if asking.is_cuda else attention_by_products
        attended = attend(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return self.output(rearrange(attended, "b head n d -> b n (head d)"))


def attention_by_products(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0) -> Tensor:
    """Same as `scaled_dot_product_attention` of (b, head, n, d), (b, head, m, d), (b, head, m, d).

    For CPUs, which have no fused kernel with dropout: equally fast at `paper` size, a tenth faster at `demo` size.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (b, head, n, m)
    return dropout(scores.softmax(dim=-1), dropout_p) @ value


class TransformerLayer(nn.Module):
    """x = LayerNorm(x + a1 attention(x)), then x = LayerNorm(x + a2 W2 gelu(W1 x)).

    The scalars a are learned and start at `residual_scale`; at the release's 1e-8 a new layer is a bare LayerNorm.
    As in the release, dropout acts on the attention weights, on the feed-forward output and on each scaled sublayer.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, residual_scale: float = 1e-8) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width), Dropout(dropout)
        )
        self.scale1, self.scale2 = (nn.Parameter(torch.tensor(residual_scale)) for _ in range(2))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, asked: Tensor | None = None) -> Tensor:
        """`x` (b, n, d) attends to `asked` (b, m, d), or to itself; returns (b, n, d)."""
        x = self.norm1(x + self.dropout(self.scale1 * self.attention(x, x if asked is None else asked)))
        return self.norm2(x + self.dropout(self.scale2 * self.feedforward(x)))


class Transformer(nn.Module):
    """Transformer layers; if `asked` is given, all of them attend to it: cross-attention, as in the regressor."""

    def __init__(self, layers: int, dropout: float, config: TimeBranch) -> None:
        super().__init__()
        sizes = (config.width, config.heads, config.feedforward, dropout, config.residual_scale)
        self.layers = nn.ModuleList(TransformerLayer(*sizes) for _ in range(layers))

    def forward(self, x: Tensor, asked: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, asked)
        return x


def initialise_linear(module: nn.Module) -> None:
    """Initialises linear layers as the release does: Xavier normal weights, every bias 0.1. For `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.constant_(module.bias, 0.1)


class TimeEncoder(Encoder):
    """Units of EEG u_i = W x_i + b (a convolution), latent units z = transformer(u + p), embedding mean_i z_i.

    In the `paper` preset, 440 samples are 110 units of width 1024. Samples left over after the last whole unit are not
    used, and neither is `sfreq`.
    """

    def __init__(
        self, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None, config: TimeBranch = DEFAULT
    ) -> None:
        super().__init__()
        self.config = config
        if n_times < config.unit_length:
            raise ValueError(
                f"a trial of {n_times} samples is shorter than one unit of {config.unit_length}; lower `unit_length`"
            )
        self.width, self.units = config.width, n_times // config.unit_length
        self.projection = nn.Conv1d(n_chans, config.width, config.unit_length, stride=config.unit_length)
        self.position = nn.Parameter(torch.randn(self.units, config.width))
        self.transformer = Transformer(config.layers, config.dropout, config)
        self.apply(initialise_linear)
        self.add_classifier(n_outputs)

    def add_classifier(self, n_outputs: int | None) -> Self:
        """Adds a classifier, initialised as in the release; see `initialise_linear`."""
        super().add_classifier(n_outputs)
        initialise_linear(self.classifier)
        return self

    def project(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> projected units without positions (b, unit, width)."""
        if not torch.is_autocast_enabled(trials.device.type):
            return rearrange(self.projection(trials), "b width unit -> b unit width")
        # Kernel equals stride, so this is a matrix product: faster in bfloat16, though it rounds differently.
        whole = trials[..., : self.units * self.config.unit_length]
        units = rearrange(whole, "b channel (unit time) -> b unit (channel time)", unit=self.units)
        return functional.linear(units, self.projection.weight.flatten(1), self.projection.bias)

    def units_of(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> latent units (b, unit, width)."""
        return self.transformer(self.project(trials) + self.position)

    def embed(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> mean of the latent units (b, width)."""
        return self.units_of(trials).mean(dim=1)


def masked_units(encoder: TimeEncoder) -> int:
    """How many units of a trial are masked: 82 of 110 at a ratio of 0.75. ValueError if all or none would be."""
    ratio, units = encoder.config.mask_ratio, encoder.units
    if not 0 < (masked := math.floor(ratio * units)) < units:
        masks = f"masks {masked} of {units} units"
        raise ValueError(f"a mask ratio of {ratio} {masks}; at least one must be masked and one visible")
    return masked


def draw_mask(encoder: TimeEncoder, generator: torch.Generator | None = None) -> Tensor:
    """(unit,) bool, true where masked; one mask for a whole batch, as in the release."""
    mask = torch.zeros(encoder.units, dtype=torch.bool)
    mask[torch.randperm(encoder.units, generator=generator)[: masked_units(encoder)]] = True
    return mask


def draw_masks(encoder: TimeEncoder, trials: int, generator: torch.Generator | None = None) -> Tensor:
    """(trial, unit) bool, true where masked; the same number of units in each trial, drawn separately."""
    return torch.stack([draw_mask(encoder, generator) for _ in range(trials)])


def units_at(units: Tensor, index: Tensor) -> Tensor:
    """Units (b, n, width) at `index`, either (m,) for all trials or (b, m) for each trial: (b, m, width)."""
    return units[:, index] if index.ndim == 1 else units[torch.arange(len(units), device=units.device)[:, None], index]


def variance_over_trials(target: Tensor, masked: Tensor) -> Tensor:
    """Mean squared distance of targets (b, m, width) from the mean over trials of the unit that each belongs to;
    `masked` (m,) or (b, m)."""
    if masked.ndim == 1:
        return target.var(dim=0, correction=0).mean()
    unit, values = masked.flatten(), target.flatten(0, 1)  # (b m,), (b m, width)
    totals = values.new_zeros(int(unit.max()) + 1, values.shape[1]).index_add_(0, unit, values)
    means = totals / unit.bincount(minlength=len(totals)).clamp(min=1)[:, None]
    return (values - means[unit]).square().mean()


@dataclass(frozen=True)
class MaskedPrediction:
    """LMM's inputs, targets and outputs for a batch; `masked` and `visible` index units of all trials, or of each."""

    masked: Tensor  # (m,) or (b, m)
    visible: Tensor  # (v,) or (b, v)
    regressed: Tensor  # (b, m, width), the regressor's output, or the predictor's
    target: Tensor  # (b, m, width), the target encoder's output, the target for `regressed`
    tokens: Tensor  # (b, m), the codewords of the masked units
    token_scores: Tensor  # (b, m, codeword), predicted from the regressor's output, before the softmax


class LatentMaskedModel(nn.Module):
    """LMM: predicts the latent units and codewords of the masked units m of a trial from the visible units v.

        z_v = transformer(u_v + p_v)          the encoder sees visible units only
        r_m = regressor(t + p_m, z_v)         the mask token t, with positions, queries the visible units
        y_m = target(u_m + p_m)               target encoder: moving average of the encoder's transformer
        c_m = argmax(C u_m + Gumbel noise)    token of each masked unit, by the linear tokeniser C
        loss = 4 mean (r_m - y_m)^2 + 2 cross-entropy(C r_m, c_m)

    The target encoder sees masked units only, as in the release, and uses no dropout, so its targets are deterministic.
    No gradient passes through y_m and c_m; C learns only through C r_m. Call `update_target` after every step.

    Variants, after data2vec (Baevski et al., arXiv 2202.03555): with `target_sees` "all" the target encoder reads all
    units of a trial, so that a target depends on its context; with `target_standardised` each dimension of the targets
    has mean 0 and variance 1 over the masked units of a batch, which rules out a collapse, and P r_m, with an
    additional linear layer P, replaces r_m in the first loss.
    """

    def __init__(self, encoder: TimeEncoder) -> None:
        super().__init__()
        self.config = config = encoder.config
        self.encoder = encoder
        self.target_encoder = copy.deepcopy(encoder.transformer).requires_grad_(False)
        self.mask_token = nn.Parameter(torch.randn(config.width))
        self.regressor = Transformer(config.regressor_layers, config.regressor_dropout, config)
        self.tokeniser = nn.Linear(config.width, config.codewords)
        self.predictor = nn.Linear(config.width, config.width) if config.target_standardised else nn.Identity()
        self.regressor.apply(initialise_linear)
        self.tokeniser.apply(initialise_linear)
        self.predictor.apply(initialise_linear)
        self.masked_units = masked_units(encoder)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.target_encoder.eval()
        return self

    def draw_mask(self, generator: torch.Generator | None = None) -> Tensor:
        """Like the function of the same name."""
        return draw_mask(self.encoder, generator)

    def losses(self, trials: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> dict:
        """Both losses of trials (b, channel, time), and statistics of codebook use, as scalars.

        `mask`, bool, is (unit,) for all trials or (b, unit). If None, it is drawn as `mask_per` says by `generator`, on
        the CPU, as are the tokens. Returns `loss` = regression_weight * `regression` + classification_weight *
        `classification`; `regression_of_mean`, the regression loss when each target is predicted by its mean over the
        trials; `token_accuracy`, the masked-token accuracy, and `token_chance`, the accuracy of always predicting the
        most frequent token; `codewords_used`, the number of different codewords; `perplexity` of the tokens (1 if all
        are the same).
        """
        if mask is None:
            per_trial = self.config.mask_per == "trial"
            mask = draw_masks(self.encoder, len(trials), generator) if per_trial else self.draw_mask(generator)
        prediction = self.predict(trials, mask, partial(gumbel_arg_max, generator=generator))
        scores, tokens, config = prediction.token_scores.flatten(0, 1), prediction.tokens.flatten(), self.config
        regression = functional.mse_loss(prediction.regressed.float(), prediction.target.float())
        classification = functional.cross_entropy(scores.float(), tokens, label_smoothing=config.label_smoothing)
        # Not with bincount, which forces a GPU synchronisation.
        counts = torch.zeros(config.codewords, device=tokens.device)
        counts.index_add_(0, tokens, torch.ones(1, device=tokens.device).expand(len(tokens)))
        return {
            "loss": config.regression_weight * regression + config.classification_weight * classification,
            "regression": regression,
            "classification": classification,
            "regression_of_mean": variance_over_trials(prediction.target.float(), prediction.masked),
            "token_accuracy": (scores.argmax(dim=-1) == tokens).float().mean(),
            "token_chance": counts.max() / len(tokens),
            "codewords_used": (counts > 0).float().sum(),
            "perplexity": torch.special.entr(counts / counts.sum()).sum().exp(),
        }

    def predict(self, trials: Tensor, mask: Tensor, draw: Callable[[Tensor], Tensor] | None = None) -> MaskedPrediction:
        """The inputs of the losses for trials (b, channel, time). `draw` picks the tokens, by default the most likely.

        ValueError: a mask that is not bool, has a shape other than `losses` takes, or does not fit the trials' units.
        """
        if mask.dtype != torch.bool or mask.shape not in ((units := self.encoder.units,), (len(trials), units)):
            shapes = f"({self.encoder.units},) or ({len(trials)}, {self.encoder.units})"
            raise ValueError(f"the mask must be bool and {shapes}, not {mask.dtype} {tuple(mask.shape)}")
        if len(counts := mask.sum(-1).unique()) > 1:
            raise ValueError(f"the mask hides {counts.tolist()} units; it must hide the same number in every trial")
        places = (where.nonzero()[:, -1].view(*mask.shape[:-1], -1) for where in (mask, ~mask))
        masked, visible = (place.to(trials.device, non_blocking=True) for place in places)  # (m,) or (b, m); (v,) ...
        projected = self.encoder.project(trials)  # (b, unit, width)
        placed = projected + self.encoder.position
        encoded = self.encoder.transformer(units_at(placed, visible))  # (b, v, width)
        with torch.no_grad():
            if self.config.target_sees == "masked":
                target = self.target_encoder(units_at(placed, masked))  # (b, m, width)
            else:
                target = units_at(self.target_encoder(placed), masked)
            if self.config.target_standardised:
                deviation, mean = torch.std_mean(target.float(), dim=(0, 1))
                target = (target.float() - mean) / (deviation + 1e-6)
        queries = self.mask_token + self.encoder.position[masked]  # (m, width) or (b, m, width)
        queries = queries if queries.ndim == 3 else repeat(queries, "m width -> b m width", b=len(trials))
        regressed = self.regressor(queries, asked=encoded)
        # detach, not no_grad: under no_grad, autocast would cache weights that no gradient reaches
        codes = self.tokeniser(units_at(projected, masked).detach()).detach()
        tokens = codes.argmax(dim=-1) if draw is None else draw(codes)
        scores = self.tokeniser(regressed)
        return MaskedPrediction(masked, visible, self.predictor(regressed), target, tokens, scores)

    def update_target(self) -> None:
        """target = momentum * target + (1 - momentum) * encoder, for all parameters at once."""
        parts = (self.target_encoder, self.encoder.transformer)
        get_ema_multi_avg_fn(self.config.momentum)(*(list(part.parameters()) for part in parts), None)


def gumbel_arg_max(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(..., codeword) -> (...): arg-max of scores + Gumbel(0, 1) noise, that is, a draw from softmax(scores)."""
    scores = scores.float()
    noise = torch.empty_like(scores, device=generator.device if generator else scores.device)
    noise = -noise.exponential_(generator=generator).log()  # minus the log of an exponential draw is Gumbel
    return (scores + noise.to(scores.device)).argmax(dim=-1)


def masked_modeling_objective(model: LatentMaskedModel, trials: Tensor, *_: Tensor) -> dict[str, Tensor]:
    """Both losses of Latent Masked Modeling; labels, if any, are not looked at."""
    return model.losses(trials)
