"""Whether the phantom's backbone draws what it is told: the judge looks at what it generates."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor

from .backbone_training import as_tensor, attributes, draw
from .judge import Judge, judged
from .stimuli import CLASS_NAMES, SHAPES, Stimulus, render


def generate(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    guidance: float = 1.0,
    steps: int = 25,
    seed: int = 0,
    images: Tensor | None = None,
    strength: float = 0.85,
    batch_size: int = 32,
) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1] for n prompts; of an image-to-image pipeline, from `images` of that shape."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for start in range(0, len(prompts), batch_size):
        extra = {} if images is None else {"image": images[start : start + batch_size], "strength": strength}
        made.append(
            pipeline(
                list(prompts[start : start + batch_size]),
                guidance_scale=guidance,
                num_inference_steps=steps,
                generator=generator,
                output_type="pt",
                **extra,
            ).images
        )
    return torch.cat(made)


def accuracy(judge: Judge, images: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    """Share of pictures (n, 3, 64, 64) judged right, by attribute; class also by its shape and its colour."""
    answers = judged(judge, images)
    right = {name: (answers[name] == truth[name]).float().mean().item() for name in truth}
    shapes = len(SHAPES)
    right["shape"] = (answers["class"] % shapes == truth["class"] % shapes).float().mean().item()
    right["colour"] = (answers["class"] // shapes == truth["class"] // shapes).float().mean().item()
    return right


def described(figures: dict[str, float]) -> str:
    """Figures in one line: shares in per cent, the peak signal-to-noise ratio in dB."""
    return ", ".join(f"{name} {value if name == 'psnr' else 100 * value:.1f}" for name, value in figures.items())


def judge_renders(judge: Judge, count: int, seed: int = 101) -> dict[str, float]:
    """The judge on renderings of held-out combinations."""
    stimuli = draw(count, seed, held_out=True)
    return accuracy(judge, as_tensor(render(stimuli)), attributes(stimuli))


@torch.no_grad()
def judge_reconstructions(vae, judge: Judge, count: int, seed: int = 102) -> dict[str, float]:
    """The judge on the VAE's reconstructions of held-out combinations, and their peak signal-to-noise ratio (dB)."""
    stimuli = draw(count, seed, held_out=True)
    images = as_tensor(render(stimuli))
    made = torch.cat(
        [
            vae.decode(vae.encode(2 * batch - 1).latent_dist.sample(torch.Generator().manual_seed(seed))).sample
            for batch in images.split(64)
        ]
    )
    made = (made / 2 + 0.5).clamp(0, 1)
    ratio = -10 * (made - images).square().mean((1, 2, 3)).log10().mean().item()
    return accuracy(judge, made, attributes(stimuli)) | {"psnr": ratio}


def from_captions(
    pipeline: StableDiffusionPipeline, judge: Judge, count: int, guidance: float, steps: int, seed: int = 103
) -> dict[str, float]:
    """Pictures from captions of held-out combinations."""
    stimuli = draw(count, seed, held_out=True)
    return accuracy(judge, generate(pipeline, [s.caption for s in stimuli], guidance, steps, seed), attributes(stimuli))


def from_names(
    pipeline: StableDiffusionPipeline, judge: Judge, count: int, guidance: float, steps: int, seed: int = 104
) -> dict[str, float]:
    """Pictures from class names alone, all classes equally often."""
    classes = torch.arange(count) % len(CLASS_NAMES)
    images = generate(pipeline, [CLASS_NAMES[i] for i in classes], guidance, steps, seed)
    return accuracy(judge, images, {"class": classes})


def from_pictures(
    pipeline: StableDiffusionPipeline,
    judge: Judge,
    count: int,
    guidance: float,
    steps: int,
    strength: float = 0.85,
    seed: int = 105,
) -> dict[str, float]:
    """Image-to-image from held-out renderings of one class with the name of another as the prompt.

    Class is judged against the name; position and background against the picture that it started from.
    """
    stimuli: list[Stimulus] = draw(count, seed, held_out=True)
    truth = attributes(stimuli)
    shift = torch.from_numpy(np.random.default_rng(seed).integers(1, len(CLASS_NAMES), count))
    wanted = (truth["class"] + shift) % len(CLASS_NAMES)
    refiner = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    names = [CLASS_NAMES[i] for i in wanted]
    images = generate(refiner, names, guidance, steps, seed, as_tensor(render(stimuli)), strength)
    truth = {"class": wanted, "position": truth["position"], "background": truth["background"]}
    return accuracy(judge, images, truth)
