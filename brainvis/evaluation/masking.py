"""How well a trained `LatentMaskedModel` predicts when more or less of a trial is masked than in training."""

import torch
from torch import Tensor, nn

from brainvis.evaluation.analysis import masked_prediction, prediction_quality
from brainvis.training import predict

RATIOS = (0.1, 0.25, 0.4, 0.55, 0.75, 0.9)


def nested_masks(units: int, seed: int) -> dict[float, Tensor]:
    """Masks (unit,), true where masked, at each of `RATIOS`: units masked at one ratio stay masked at all higher ones.
    Ratios that would mask no unit, or leave none, are omitted."""
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    counts = {ratio: int(ratio * units) for ratio in RATIOS if 0 < int(ratio * units) < units}
    return {ratio: torch.zeros(units, dtype=torch.bool).index_fill(0, order[:count], True)
            for ratio, count in counts.items()}  # fmt: skip


def quality_by_ratio(model: nn.Module, trials: Tensor, masks: dict[float, Tensor]) -> dict[float, dict[str, float]]:
    """`analysis.prediction_quality` of trials (trial, channel, time) under each of `nested_masks`."""
    return {ratio: prediction_quality(masked_prediction(model, trials, mask)) for ratio, mask in masks.items()}


def tokens_of(model: nn.Module, trials: Tensor) -> Tensor:
    """The likeliest codeword of every unit in trials (trial, channel, time), without positions: (trial, unit)."""
    device = model.mask_token.device
    return predict(lambda batch: model.tokeniser(model.encoder.project(batch)).argmax(-1), trials, device=device)
