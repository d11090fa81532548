"""The cascade: the semantic stage makes pictures from predicted text embeddings; the refinement stage sharpens them.

The noise of a picture depends only on seed, stage, trial and sample, never on the batch it is made in or on which other
trials are requested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from brainvis.configuration import Generation
from brainvis.files import BrainvisError, code_digest
from brainvis.generation import Generator
from brainvis.generation.pictures import Picture, PictureFolder, as_tensor

# Rows (b,) and samples (b,) of a batch and the noise of each picture -> pictures (b, 3, height, width) in [0, 1].
Make = Callable[[np.ndarray, np.ndarray, list[torch.Generator]], Tensor]
STAGE_SEEDS = {"semantic": 0, "refinement": 1}  # part of the seed of a picture's noise
# Modules that a generator imports but that do not draw: judges, and code that finds, loads and stores.
NOT_DRAWING = tuple(f"brainvis.generation.{name}" for name in ("checkpoints", "clip", "pictures", "weights"))
NOT_DRAWING += ("brainvis.phantom", "brainvis.configuration", "brainvis.files", "brainvis.training")


class GenerationError(BrainvisError):
    """Pictures that cannot be made; the message names the trial and says what to change."""


def semantic_stage(
    generator: Generator,
    embeddings: Tensor,
    config: Generation,
    seed: int,
    trials: Sequence[int] | None = None,
    *,
    folder: Path | None = None,
) -> np.ndarray:
    """Pictures from predicted text embeddings (trial, tokens, width): (trial, 77, 768) for Stable Diffusion 1.5.

    `seed` determines the noise, together with each trial's number in `trials` (None: 0, 1, 2, ...). Each picture is
    saved in `semantic/` in `folder` as soon as it is made; an existing picture is not made again.

    Returns uint8 (trial, sample, height, width, 3), with or without a folder. There is no safety checker. ValueError
    for embeddings whose shape is not the generator's, and for unusable trial numbers or settings; BrainvisError if the
    folder cannot hold the pictures, or a picture is not finite.
    """
    shape = tuple(generator.conditioning_shape)
    if embeddings.ndim != 3 or tuple(embeddings.shape[1:]) != shape:
        raise ValueError(
            f"embeddings have shape {tuple(embeddings.shape)}; generator {generator.name!r} needs (trial, "
            f"{', '.join(map(str, shape))}). Were they predicted for another generator?"
        )
    trials = _numbers(trials, len(embeddings))
    if not (finite := torch.isfinite(embeddings).flatten(1).all(1)).all():
        raise ValueError(f"the embeddings of trial {trials[int((~finite).nonzero()[0])]} are not finite")

    def make(row: np.ndarray, sample: np.ndarray, noise: list[torch.Generator]) -> Tensor:
        return generator.draw(embeddings[row], noise, config)

    made_from = {"stage": "semantic", "seed": int(seed), "batch_size": config.batch_size, "strength": 1.0}
    made_from |= {"steps": config.semantic_steps, "guidance": config.semantic_guidance}
    made_from |= {"text_embeddings": _digest(embeddings)}
    plan = [(trial, "predicted text embeddings") for trial in trials]
    return _generate(generator, make, plan, config.samples, made_from, folder)


def refinement_stage(
    generator: Generator,
    images: np.ndarray | None,
    class_names: Sequence[str],
    config: Generation,
    seed: int,
    trials: Sequence[int] | None = None,
    *,
    folder: Path | None = None,
) -> np.ndarray:
    """Pictures refined by image-to-image generation, prompted with the name of the predicted class.

    `images` are uint8 (trial, sample, height, width, 3) from the semantic stage; None: text-to-image from the names
    alone, with the same number of steps and the same guidance (the ablation `no_semantic`). Otherwise as in
    `semantic_stage`.
    """
    count, side = len(class_names), generator.resolution
    if images is not None and (images.dtype, *images.shape[:1], *images.shape[2:]) != (np.uint8, count, side, side, 3):
        raise ValueError(
            f"images are {images.dtype} {images.shape}; they must be uint8 (trial, sample, {side}, {side}, 3), "
            f"with one trial for each of the {count} class names"
        )
    trials = _numbers(trials, count)
    for trial, name in zip(trials, class_names, strict=True):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the class name of trial {trial} is {name!r}; a prompt needs words")

    def make(row: np.ndarray, sample: np.ndarray, noise: list[torch.Generator]) -> Tensor:
        pictures = None if images is None else as_tensor(images[row, sample])
        return generator.refine(pictures, [class_names[number] for number in row], noise, config)

    strength, samples = (1.0, config.samples) if images is None else (config.strength, images.shape[1])
    made_from = {"stage": "refinement", "seed": int(seed), "batch_size": config.batch_size, "strength": strength}
    made_from |= {"steps": config.refinement_steps, "guidance": config.refinement_guidance}
    made_from |= {"starting_pictures": None if images is None else _digest(images)}
    return _generate(generator, make, list(zip(trials, class_names, strict=True)), samples, made_from, folder)


def noise_generator(seed: int, stage: str, trial: int, sample: int) -> torch.Generator:
    """Source of all random numbers of one picture; on the CPU, so that the noise is the same on every device."""
    state = np.random.SeedSequence([seed, STAGE_SEEDS[stage], int(trial), int(sample)]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))  # manual_seed takes 63 bits


def _generate(
    generator: Generator, make: Make, plan: list[tuple[int, str]], samples: int, made_from: dict, folder: Path | None
) -> np.ndarray:
    """Run `make` over batches of pictures: `samples` of each (trial, prompt) of `plan`."""
    stage, seed, batch_size = made_from["stage"], made_from["seed"], made_from["batch_size"]
    if min(samples, batch_size) < 1:
        raise ValueError(f"{samples} samples in batches of {batch_size}; both must be at least 1")
    if check := getattr(generator, "check", None):  # before removing other pictures
        check(made_from["steps"], made_from["strength"])
    planned = [Picture(trial, sample, prompt) for trial, prompt in plan for sample in range(samples)]
    row, sample = np.divmod(np.arange(len(planned)), samples)  # of every picture
    shape = (generator.resolution, generator.resolution, 3)
    pictures = np.empty((len(planned), *shape), np.uint8)
    # Rounding depends on the batch, so the batches are the same in every attempt.
    missing = [slice(start, min(start + batch_size, len(row))) for start in range(0, len(row), batch_size)]
    kept = None
    if folder is not None:
        about = f"Pictures of the {stage} stage, generated by brainvis with {generator.name}; "
        about += "no safety checker has examined them."
        kept = PictureFolder(Path(folder) / stage, planned, shape, made_from | _drawn_by(generator), about)
        missing = [batch for batch in missing if not kept.read(batch, pictures[batch])]
    there = len(row) - sum(batch.stop - batch.start for batch in missing)
    bar = tqdm(total=len(row), initial=there, desc=f"{stage} stage", unit="picture")
    with bar, torch.inference_mode():
        for batch in missing:
            noise = [noise_generator(seed, stage, one.trial, one.sample) for one in planned[batch]]
            drawn = make(row[batch], sample[batch], noise)
            finite = torch.isfinite(drawn).flatten(1).all(1).cpu().numpy()
            if not finite.all():
                first = planned[batch][int(np.argmin(finite))]
                raise GenerationError(
                    f"{stage} stage: sample {first.sample} of trial {first.trial} is not finite (computed in "
                    f"{generator.dtype}): the text embeddings are far outside their usual range or, in half precision, "
                    "numbers overflowed; load the generator with torch.bfloat16 or torch.float32"
                )
            pictures[batch] = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            if kept is not None:
                kept.write(batch, pictures[batch])
            bar.update(len(drawn))
    return pictures.reshape(len(plan), samples, *shape)


def _numbers(trials: Sequence[int] | None, count: int) -> list[int]:
    """Numbers of `count` trials."""
    trials = range(count) if trials is None else trials
    numbers = [number.item() if hasattr(number, "item") else number for number in trials]  # also NumPy's and torch's
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} trial numbers for {count} trials")
    if wrong := [number for number in numbers if type(number) is not int or number < 0]:
        raise ValueError(f"a trial number is {wrong[0]!r}; it must be a whole number, 0 or greater")
    return numbers


def _drawn_by(generator: Generator) -> dict[str, str | int]:
    """What pictures depend on besides seed, batch size and the stage's settings."""
    modules = {"brainvis.generation.cascade", type(generator).__module__} - {"__main__"}
    return {
        "generator": generator.fingerprint,
        "resolution": generator.resolution,
        "number_type": getattr(generator, "number_type", str(generator.dtype)),
        "device": torch.device(generator.device).type,
        "versions": " ".join(f"{name} {version(name)}" for name in ("torch", "diffusers")),
        "code": code_digest(*modules, leave_out=NOT_DRAWING),
    }


def _digest(content: Tensor | np.ndarray) -> str:
    """Sixteen hexadecimal digits that identify type, shape and values."""
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    for of_trial in content:  # one by one: starting pictures are hundreds of megabytes
        digest.update(torch.as_tensor(of_trial).cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
