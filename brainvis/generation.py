"""The cascade: the semantic stage makes pictures from predicted text states, the refinement stage makes them sharp.

The starting noise of a picture depends on the seed, the stage, its trial and its sample alone: the batch it is made
in, and which other trials are asked for, never change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor
from tqdm.auto import tqdm

from .backbone import Backbone, as_tensor
from .configuration import Generation

STAGES = {"semantic": 0, "refinement": 1}  # part of the seed of a picture's noise


def semantic_stage(
    backbone: Backbone,
    states: Tensor,
    config: Generation,
    seed: int,
    trials: Sequence[int] | None = None,
) -> np.ndarray:
    """Pictures from predicted text states: PLMS, conditioned on the states themselves.

    Args:
        backbone: the frozen model.
        states: (trial, tokens, width) predicted text states.
        config: `samples`, `semantic_steps`, `semantic_guidance` (1: no classifier-free guidance), `batch_size`.
        seed: with a trial's number, decides the noise.
        trials: number of each trial; None: 0, 1, 2, ...

    Returns:
        uint8 (trial, sample, height, width, 3).

    Raises:
        ValueError: states of another shape than the backbone's, or trial numbers that do not fit them.
    """
    if states.ndim != 3 or tuple(states.shape[1:]) != backbone.states_shape:
        raise ValueError(
            f"states have shape {tuple(states.shape)}; backbone {backbone.name!r} needs (trial, "
            f"{', '.join(map(str, backbone.states_shape))}). Were they predicted for another backbone?"
        )
    if not torch.isfinite(states).all():
        raise ValueError(f"states of trial {int((~torch.isfinite(states)).nonzero()[0, 0])} are not finite")
    pipeline = _text_to_image(backbone)
    empty = _empty_text(backbone, config.semantic_guidance)

    def make(trial: np.ndarray, sample: np.ndarray, noise: list[torch.Generator]) -> np.ndarray:
        return pipeline(
            **_conditions(backbone, states[trial], empty),
            num_inference_steps=config.semantic_steps,
            guidance_scale=config.semantic_guidance,
            generator=noise,
            output_type="np",
        ).images

    return _generate("semantic", make, backbone, len(states), config, seed, trials)


def refinement_stage(
    backbone: Backbone,
    images: np.ndarray | None,
    class_names: Sequence[str],
    config: Generation,
    seed: int,
    trials: Sequence[int] | None = None,
) -> np.ndarray:
    """Pictures refined by image-to-image generation, prompted with the name of the predicted class.

    Args:
        backbone: the frozen model.
        images: uint8 (trial, sample, height, width, 3) from the semantic stage. None: text-to-image from the names
            alone, with as many steps and the same guidance (the ablation `no_semantic`).
        class_names: name of the predicted class of each trial.
        config: `refinement_steps`, `refinement_guidance`, `strength`, `batch_size`; `samples` where `images` is None.
        seed: with a trial's number, decides the noise.
        trials: number of each trial; None: 0, 1, 2, ...

    Returns:
        uint8 (trial, sample, height, width, 3).

    Raises:
        ValueError: names, images and trial numbers do not fit each other, or the strength leaves no step to take.
    """
    if images is not None and (images.ndim != 5 or len(images) != len(class_names) or images.dtype != np.uint8):
        raise ValueError(
            f"images are {images.dtype} {images.shape}; needed are uint8 (trial, sample, height, width, 3) "
            f"with a trial for each of the {len(class_names)} class names"
        )
    if images is not None and not (int(config.refinement_steps * config.strength) >= 1 and config.strength <= 1):
        raise ValueError(
            f"strength {config.strength} of {config.refinement_steps} steps leaves none to take or is above 1"
        )
    pipeline = _text_to_image(backbone) if images is None else _image_to_image(backbone)
    names = list(dict.fromkeys(class_names))
    states = backbone.text_states(names)  # each name once, not once a picture
    name_of_trial = np.array([names.index(name) for name in class_names], int)
    empty = _empty_text(backbone, config.refinement_guidance)

    def make(trial: np.ndarray, sample: np.ndarray, noise: list[torch.Generator]) -> np.ndarray:
        start = {} if images is None else {"image": as_tensor(images[trial, sample]), "strength": config.strength}
        return pipeline(
            **start,
            **_conditions(backbone, states[name_of_trial[trial]], empty),
            num_inference_steps=config.refinement_steps,
            guidance_scale=config.refinement_guidance,
            generator=noise,
            output_type="np",
        ).images

    samples = config.samples if images is None else images.shape[1]
    return _generate("refinement", make, backbone, len(class_names), config, seed, trials, samples)


def noise_generator(seed: int, stage: str, trial: int, sample: int) -> torch.Generator:
    """Source of all random numbers that one picture needs; on the CPU, so that every device gives the same noise."""
    state = np.random.SeedSequence([seed, STAGES[stage], int(trial), int(sample)]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))  # manual_seed takes 63 bits


def _generate(
    stage: str,
    make: Callable[[np.ndarray, np.ndarray, list[torch.Generator]], np.ndarray],
    backbone: Backbone,
    count: int,
    config: Generation,
    seed: int,
    trials: Sequence[int] | None,
    samples: int | None = None,
) -> np.ndarray:
    """Run `make` over batches of pictures: rows (b,), samples (b,), noise -> float (b, height, width, 3) in [0, 1]."""
    trials = range(count) if trials is None else trials
    if len(trials) != count:
        raise ValueError(f"{len(trials)} trial numbers for {count} trials")
    samples = samples or config.samples
    row, sample = (index.ravel() for index in np.indices((count, samples)))  # of every picture
    pictures: list[np.ndarray] = []
    with tqdm(total=len(row), desc=f"{stage} stage", unit="image") as bar, torch.inference_mode():
        for start in range(0, len(row), config.batch_size):
            batch = slice(start, start + config.batch_size)
            noise = [noise_generator(seed, stage, trials[i], j) for i, j in zip(row[batch], sample[batch], strict=True)]
            made = make(row[batch], sample[batch], noise)
            pictures.append((made * 255).round().astype(np.uint8))
            bar.update(len(made))
    if not pictures:
        return np.empty((count, samples, backbone.resolution, backbone.resolution, 3), np.uint8)
    return np.concatenate(pictures).reshape(count, samples, *pictures[0].shape[1:])


def _empty_text(backbone: Backbone, guidance: float) -> Tensor | None:
    """States of the empty text, away from which classifier-free guidance leads; None where there is no guidance."""
    return backbone.text_states([""]) if guidance > 1 else None


def _conditions(backbone: Backbone, states: Tensor, empty: Tensor | None) -> dict[str, Tensor]:
    states = states.to(backbone.device, backbone.dtype)
    if empty is None:
        return {"prompt_embeds": states}
    return {"prompt_embeds": states, "negative_prompt_embeds": empty.to(states).expand_as(states)}


# The samplers


def _text_to_image(backbone: Backbone) -> StableDiffusionPipeline:
    return _sharing(StableDiffusionPipeline, backbone)


def _image_to_image(backbone: Backbone) -> StableDiffusionImg2ImgPipeline:
    return _sharing(PLMSImageToImage, backbone)


def _sharing(kind: type, backbone: Backbone):
    """A pipeline over the backbone's own networks, with a PLMS sampler of its own (samplers keep a state)."""
    # Built from the components, as `from_pipe` would convert all weights to float32.
    scheduler = PLMS.like(backbone.pipeline.scheduler)
    pipeline = kind(**{**backbone.pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class PLMS(PNDMScheduler):
    """Pseudo linear multistep sampling (Liu et al. 2022, equations 9, 12 and 13) for either kind of prediction.

    The multistep formulas extrapolate the noise. diffusers extrapolates whatever the network predicts and turns the
    result into noise with the current picture, which for velocity is right to first order only: at 20 steps, pictures
    lose a tenth of their contrast. Here each prediction becomes noise before the formulas see it.
    """

    velocity = False

    @classmethod
    def like(cls, scheduler) -> PLMS:
        """PLMS over the noise schedule of another scheduler, for a network that predicts the same as there."""
        plms = cls.from_config(scheduler.config, skip_prk_steps=True, prediction_type="epsilon")
        plms.velocity = scheduler.config.prediction_type == "v_prediction"
        return plms

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, return_dict: bool = True):
        """One step: noise = sqrt(alpha) velocity + sqrt(1 - alpha) sample, then the multistep formula."""
        if self.velocity:
            alpha = self.alphas_cumprod[timestep]
            model_output = alpha.sqrt() * model_output + (1 - alpha).sqrt() * sample
        return super().step(model_output, timestep, sample, return_dict)


class PLMSImageToImage(StableDiffusionImg2ImgPipeline):
    """Image-to-image generation whose time steps PLMS can follow.

    PLMS has no history at its first step, so it takes the second time step twice: t0, t1, t1, t2, ... diffusers
    starts mid-way by dropping the first entries of that list, the repeated one with them. The sampler then still takes
    its second call for a repetition and is one time step ahead of the picture from there on: noise is left in it, the
    more the fewer steps there are.
    """

    def get_timesteps(self, num_inference_steps: int, strength: float, device) -> tuple[Tensor, int]:
        """The last `strength` of the time steps, the second of them twice."""
        every = self.scheduler.timesteps  # (steps + 1,), descending
        every = torch.cat([every[:1], every[2:]])  # (steps,) each once; a single step has no repetition
        kept = every[num_inference_steps - int(num_inference_steps * strength) :]
        return torch.cat([kept[:2], kept[1:]]), len(kept)
