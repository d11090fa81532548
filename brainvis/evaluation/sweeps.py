"""The effect of the cascade's two knobs, and the pictures between two texts: a few trials under different settings.

One sample per trial, from the same noise throughout, so that pictures in a row differ only by the setting. Settings
that the run has already drawn are drawn again: the noise of a picture depends on seed, trial and sample, and the
batches here are different.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from brainvis.configuration import Generation
from brainvis.evaluation.judges import Judges
from brainvis.evaluation.pictures import Pictures, ask
from brainvis.evaluation.text_line import between_texts
from brainvis.generation import Generator
from brainvis.generation.cascade import refinement_stage, semantic_stage

STRENGTHS = (0.2, 0.4, 0.6, 0.85, 1.0)  # of image-to-image: how much of the semantic picture is replaced by noise
GUIDANCES = (1.0, 2.0, 3.0, 5.0, 7.5)


def strength_sweep(
    generator: Generator,
    start: NDArray[np.uint8],
    names: Sequence[str],
    config: Generation,
    seed: int,
    trials: Sequence[int],
    folder: Path | None = None,
) -> dict[float, NDArray[np.uint8]]:
    """Refined pictures at each of `STRENGTHS` with at least one step: strength -> uint8 (trial, height, width, 3).

    `start` (trial, height, width, 3) are pictures of the semantic stage, `names` (trial,) the names refinement gets.
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
    """Refined pictures at each guidance scale of `GUIDANCES`; otherwise as in `strength_sweep`."""
    settings = {one: replace(config, samples=1, refinement_guidance=one) for one in GUIDANCES}
    return _refined(generator, start, names, settings, "guidance", seed, trials, folder)


def _refined(generator, start, names, settings: Mapping[float, Generation], what, seed, trials, folder) -> dict:
    return {
        value: refinement_stage(
            generator, start[:, None], names, config, seed, trials, folder=folder and folder / _named(what, value)
        )[:, 0]
        for value, config in settings.items()
    }


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
            generator, embeddings, one, seed, trials, folder=folder and folder / _named("between", place)
        )[:, 0]
        for place, embeddings in between_texts(coarse, fine).items()
    }


def names_seen(
    judges: Judges, known: Sequence[str], pictures: Mapping[object, NDArray[np.uint8]]
) -> dict[object, list[str]]:
    """The class that the judge of generation accuracy sees in pictures (trial, height, width, 3), by their keys.

    `known` are the names of its classes. Empty without a judge.
    """
    if not (judges.classifier and pictures):
        return {}
    answers = ask(judges.classifier, *(Pictures(made[:, None], judges) for made in pictures.values()))
    return {key: [known[place] for place in said["class"][:, 0].argmax(-1).tolist()]
            for key, said in zip(pictures, answers, strict=True)}  # fmt: skip


def _named(what: str, value: float) -> str:
    """Name of a folder, without a dot, which only file names have."""
    return f"{what}_{value:g}".replace(".", "_")
