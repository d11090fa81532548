"""Diffusion over one batch of latents: noise, the PLMS sampler, classifier-free guidance, latents to pictures.

Noise is drawn on the CPU and summed in single precision, so results on different devices and in different number types
differ only by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Settings for removing noise."""

    steps: int
    guidance: float  # scale of classifier-free guidance; 1 means none
    strength: float = 1.0  # fraction of the steps taken; below 1 they start from a picture

    def start(self, pipeline: StableDiffusionPipeline) -> tuple[PLMS, Tensor]:
        """A sampler before its first step, and the time steps it will take; ValueError for none or too many."""
        plms = PLMS.like(pipeline.scheduler)
        longest = plms.config.num_train_timesteps - 1  # time step 0 is not among them
        if not 1 <= self.steps <= longest:
            raise ValueError(f"the number of steps is {self.steps}; it must be from 1 to {longest}")
        if not (0 < self.strength <= 1 and plms.taken(self.steps, self.strength) >= 1):
            wrong = "leaves no step to take, or is not between 0 and 1"
            raise ValueError(f"a strength of {self.strength} with {self.steps} steps {wrong}")
        return plms, plms.times(self.steps, self.strength)


def starting_noise(pipeline: StableDiffusionPipeline, noise: list[torch.Generator]) -> Tensor:
    """Latents of pure noise: (b, c, h, w) float32."""
    unet = pipeline.unet.config
    shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
    return torch.cat([torch.randn(shape, generator=source) for source in noise]).to(pipeline.device)


def under_noise(
    pipeline: StableDiffusionPipeline, pictures: Tensor, noise: list[torch.Generator], sampling: Sampling
) -> Tensor:
    """Latents (b, c, h, w) of pictures (b, 3, height, width) in [0, 1], with the noise of the first time step added."""
    vae = pipeline.vae
    codes = [  # one by one, each with its own draw
        vae.encode((2 * picture[None] - 1).to(pipeline.device, pipeline.dtype)).latent_dist.sample(source)
        for picture, source in zip(pictures, noise, strict=True)
    ]
    clean = vae.config.scaling_factor * torch.cat(codes).float()
    plms, times = sampling.start(pipeline)
    return plms.add_noise(clean, starting_noise(pipeline, noise), times[:1])


def denoise(
    pipeline: StableDiffusionPipeline, latents: Tensor, embeddings: Tensor, empty: Tensor | None, sampling: Sampling
) -> Tensor:
    """Remove the noise from latents (b, c, h, w), guided by text embeddings (b, tokens, width).

    `empty` (1, tokens, width) is the embedding of the empty text, which guidance moves away from; None: no guidance.
    """
    embeddings = embeddings.to(pipeline.device, pipeline.dtype)
    if empty is not None:
        embeddings = torch.cat([empty.to(embeddings).expand_as(embeddings), embeddings])  # (2 b, tokens, width)
    plms, times = sampling.start(pipeline)
    for time in times:
        noisy = latents.to(pipeline.dtype)
        noisy = noisy if empty is None else torch.cat([noisy, noisy])  # (2 b, c, h, w)
        predicted = pipeline.unet(noisy, time, encoder_hidden_states=embeddings, return_dict=False)[0].float()
        if empty is not None:
            without, led = predicted.chunk(2)  # (b, c, h, w) each
            predicted = without + sampling.guidance * (led - without)
        latents = plms.step(predicted, time, latents).prev_sample
    return latents


def decode(pipeline: StableDiffusionPipeline, latents: Tensor) -> Tensor:
    """Pictures of latents (b, c, h, w): (b, 3, height, width) float32 in [0, 1]; NaN where not finite."""
    vae = pipeline.vae
    decoded = vae.decode((latents / vae.config.scaling_factor).to(pipeline.dtype), return_dict=False)[0].float()
    return torch.where(decoded.isfinite(), (decoded / 2 + 0.5).clamp(0, 1), torch.nan)


class PLMS(PNDMScheduler):
    """Pseudo linear multistep sampling (Liu et al. 2022, equations 9, 12 and 13) for either kind of prediction.

    The multistep formulas extrapolate the noise. diffusers extrapolates whatever the network predicts and converts the
    result to noise using the current picture. For velocity this is correct only to first order: at 20 steps, pictures
    lose a tenth of their contrast. Here each prediction is converted to noise before the formulas are applied.
    """

    velocity = False

    @classmethod
    def like(cls, scheduler) -> PLMS:
        """PLMS with the noise schedule and prediction type of another scheduler."""
        predicts = scheduler.config.prediction_type
        if predicts not in ("epsilon", "v_prediction"):
            raise ValueError(f"the backbone predicts {predicts!r}; PLMS needs one that predicts noise or velocity")
        plms = cls.from_config(scheduler.config, skip_prk_steps=True, prediction_type="epsilon")
        plms.velocity = predicts == "v_prediction"
        return plms

    @staticmethod
    def taken(steps: int, strength: float) -> int:
        """How many steps a strength takes, rounded down; 0.29 of 100 is 29, despite floating-point error."""
        return int(round(steps * strength, 6))

    def times(self, steps: int, strength: float = 1.0) -> Tensor:
        """The last fraction `strength` of the time steps, (n,), descending, the second twice; configures the sampler.

        PLMS has no history at its first step, so it takes the second time step twice: t0, t1, t1, t2, ... diffusers'
        own image-to-image drops the first entries of its list, including the repeated one, and from there on is one
        time step ahead of the picture. This leaves noise in the picture, more so with fewer steps.
        """
        self.set_timesteps(steps)
        every = torch.cat([self.timesteps[:1], self.timesteps[2:]])  # (steps,), each once; a lone step is not repeated
        kept = every[steps - self.taken(steps, strength) :]
        return torch.cat([kept[:2], kept[1:]])

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, return_dict: bool = True):
        """One step: noise = sqrt(alpha) velocity + sqrt(1 - alpha) sample, then the multistep formula."""
        if self.velocity:
            alpha = self.alphas_cumprod[timestep]
            model_output = alpha.sqrt() * model_output + (1 - alpha).sqrt() * sample
        return super().step(model_output, timestep, sample, return_dict)
