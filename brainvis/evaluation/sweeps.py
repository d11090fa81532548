"""What the cascade's two knobs do, and what lies between two texts: a few trials drawn again under other settings.

One sample a trial, from the same noise throughout, so that pictures in a row differ by the setting alone. Settings that
the run has drawn already are drawn again all the same: the noise of a picture depends on seed, trial and sample, and
the batches here are others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainvis.configuration import Generation
from brainvis.generation import Generator
from brainvis.generation.cascade import refinement_stage, semantic_stage
from brainvis.generation.text_embeddings import text_cosines

STRENGTHS = (0.2, 0.4, 0.6, 0.85, 1.0)  # of image-to-image: how much of the semantic picture noise replaces
GUIDANCES = (1.0, 2.0, 3.0, 5.0, 7.5)
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # between the embedding of a class name and that of a caption


def strength_sweep(
    generator: Generator,
    start: NDArray[np.uint8],
    names: Sequence[str],
    config: Generation,
    seed: int,
    trials: Sequence[int],
    folder: Path | None = None,
) -> dict[float, NDArray[np.uint8]]:
    """Refined pictures at each of `STRENGTHS` that leaves a step to take: strength -> uint8 (trial, height, width, 3).

    `start` (trial, height, width, 3) are pictures of the semantic stage, `names` (trial,) what refinement is told.
    """
    possible = [one for one in STRENGTHS if round(one * config.refinement_steps, 6) >= 1]
    settings = {one: replace(config, samples=1, strength=one) for one in possible}
    return _refined(generator, start, names, settings, "strength", seed, trials, folder)


def guidance_sweep(
    generator: Generator,
    start: NDArray[np.uint8],
    names: Sequence[str],
    config: Generation,
    seed: int,
    trials: Sequence[int],
    folder: Path | None = None,
) -> dict[float, NDArray[np.uint8]]:
    """Refined pictures at each guidance scale of `GUIDANCES`; all else as in `strength_sweep`."""
    settings = {one: replace(config, samples=1, refinement_guidance=one) for one in GUIDANCES}
    return _refined(generator, start, names, settings, "guidance", seed, trials, folder)


def _refined(generator, start, names, settings: Mapping[float, Generation], what, seed, trials, folder) -> dict:
    return {
        value: refinement_stage(
            generator, start[:, None], names, config, seed, trials, folder=folder and folder / f"{what}_{value:g}"
        )[:, 0]
        for value, config in settings.items()
    }


def between_texts(coarse: Tensor, fine: Tensor) -> dict[float, Tensor]:
    """Points of the straight line from coarse to fine embeddings, each (trial, tokens, width), at `PLACES`."""
    coarse, fine = coarse.float(), fine.float()
    return {place: (1 - place) * coarse + place * fine for place in PLACES}


def line_pictures(
    generator: Generator,
    coarse: Tensor,
    fine: Tensor,
    config: Generation,
    seed: int,
    trials: Sequence[int],
    folder: Path | None = None,
) -> dict[float, NDArray[np.uint8]]:
    """What the semantic stage draws between class name and caption: place -> uint8 (trial, height, width, 3)."""
    one = replace(config, samples=1)
    return {
        place: semantic_stage(
            generator, embeddings, one, seed, trials, folder=folder and folder / f"between_{place:g}"
        )[:, 0]
        for place, embeddings in between_texts(coarse, fine).items()
    }


def line_geometry(coarse: Tensor, fine: Tensor) -> dict[str, list[float]]:
    """Along the same line, means over trials: `place`; cosines with both ends, `cosine_coarse` and `cosine_fine`; the
    `length` of a point relative to that of the ends, which is 1 where all point the same way.

    With a cosine c between ends of equal length the middle has the length sqrt((1 + c) / 2), and that cosine with both.
    """
    ends = {"cosine_coarse": coarse.float(), "cosine_fine": fine.float()}
    sizes = [end.flatten(1).norm(dim=1) for end in ends.values()]
    found = {"place": [], "cosine_coarse": [], "cosine_fine": [], "length": []}
    for place, point in between_texts(coarse, fine).items():
        found["place"].append(place)
        expected = (1 - place) * sizes[0] + place * sizes[1]
        found["length"].append((point.flatten(1).norm(dim=1) / expected).mean().item())
        for name, end in ends.items():
            pairs = [text_cosines(point[[row]], end[[row]]) for row in range(len(point))]
            found[name].append(torch.cat(pairs).mean().item())
    return found
