"""Two-way identification: is a generated picture more like the picture shown than like that of another trial?

As in the papers on THINGS, after MindEye: pictures are compared by the Pearson correlation of a network's features. All
pairs of trials are compared, without sampling.
"""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from brainvis.evaluation.bootstrap import mean_interval
from brainvis.evaluation.judges import Judge

MEMORY = 2**30  # bytes that the features of shown pictures may take at a time
TIE = 1e-6  # correlations closer than this are equal: networks compute in single precision


def identification(
    judge: Judge,
    generated: NDArray,
    shown: NDArray,
    seed: int = 0,
    features: tuple[Tensor, Tensor] | None = None,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> dict:
    """The share of other trials that a picture beats by a judge's features, averaged over samples, then over trials.

    Pictures are uint8, generated (trial, sample, height, width, 3) and shown (trial, height, width, 3), at least two
    trials; `features` are theirs, (trial x sample, ...) and (trial, ...), if the judge has already looked; groups and
    strata (trial,) as in `bootstrap.resample_weights`. Returns
    {"value", "low", "high", "chance", "trials", "samples", "features", "network", "weights"}.
    """
    trials, samples = generated.shape[:2]
    if features is None:
        similarity, width = correlations(judge, generated, shown)
    else:
        made, target = map(_standardised, features)
        similarity, width = (made @ target.T).view(trials, samples, -1).numpy(), target.shape[1]
    score = mean_interval(two_way(similarity).mean(1), seed=seed, groups=groups, strata=strata)
    return {**score, "chance": 0.5, "trials": trials, "samples": samples, "features": width, **judge.origin}


def two_way(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of other trials' pictures less like a generated one than its own, (trial, sample); a tie counts half.

    `similarity` is (trial, sample, trial): generated picture against picture shown.
    """
    trials = len(similarity)
    own = similarity[np.arange(trials), :, np.arange(trials)]  # (trial, sample)
    ahead = own[..., None] - similarity  # (trial, sample, trial)
    beaten = np.where(np.abs(ahead) <= TIE, 0.5, ahead > 0)
    return (beaten.sum(2) - 0.5) / (trials - 1)  # excluding itself, which is a tie


def correlations(judge: Judge, generated: NDArray[np.uint8], shown: NDArray[np.uint8]) -> tuple[NDArray, int]:
    """Pearson correlation of features, (trial, sample, trial), and the number of features.

    AlexNet's second layer has 184,512 features, 1.5 MB per picture: those of shown pictures are held in blocks of at
    most `MEMORY` bytes (727 pictures), and generated pictures are processed again for each block.
    """
    see, (trials, samples) = judge.load(), generated.shape[:2]
    width = _standardised(see(shown[:1])["features"]).shape[1]
    block = max(1, MEMORY // (8 * width))
    flat = rearrange(generated, "t s h w c -> (t s) h w c")
    similarity = torch.empty(len(flat), len(shown), dtype=torch.float64)
    for first in range(0, len(shown), block):
        target = [_standardised(said["features"]) for said in judge.batches(see, shown[first : first + block])]
        target, row = torch.cat(target).T, 0  # (feature, block)
        for said in judge.batches(see, flat):
            made = _standardised(said["features"])  # (batch, feature)
            similarity[row : row + len(made), first : first + block] = made @ target
            row += len(made)
    return similarity.view(trials, samples, len(shown)).numpy(), width


def _standardised(features: Tensor) -> Tensor:
    """Features (n, ...), centred and of unit length, (n, feature) float64; zeros if all are equal."""
    values = features.flatten(1).double()
    values = values - values.mean(1, keepdim=True)
    length = values.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-9, values / length, 0.0)
