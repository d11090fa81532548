"""The sampler: time steps, PLMS from the start and from the middle, against cases with known answers."""

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline
from helpers.pipelines import stock
from helpers.tiny_backbone import TOKENS, WIDTH

from brainvis.generation.sampler import PLMS, Sampling, denoise
from brainvis.generation.stable_diffusion import CONFIGURATION


def stable_diffusion_plms():
    return PLMS.like(PNDMScheduler.from_pretrained(CONFIGURATION / "scheduler", local_files_only=True))


def test_stable_diffusion_takes_the_time_steps_of_the_original_plms():
    """50 steps of 1000: 981, 961, ..., 1, the second twice; 85 of 100 begin at 841, the 85th from the end."""
    plms = stable_diffusion_plms()
    assert plms.times(50).tolist() == [981, 961, 961, *range(941, 0, -20)]
    assert plms.times(100, 0.85).tolist() == [841, 831, 831, *range(821, 0, -10)]
    assert plms.taken(100, 0.85) == 85
    # The root of beta rises evenly from that of 0.00085 to that of 0.012; sampling ends at the first level of noise.
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    np.testing.assert_allclose(plms.alphas_cumprod.numpy(), alphas, rtol=1e-4)
    assert float(plms.final_alpha_cumprod) == float(plms.alphas_cumprod[0])
    assert not plms.velocity


@pytest.mark.parametrize(
    ("steps", "strength", "taken"),
    [(20, 0.85, 17), (4, 0.85, 3), (10, 1.0, 10), (10, 0.1, 1), (1, 1.0, 1), (100, 0.29, 29), (100, 0.57, 57)],
)
def test_time_steps_of_image_to_image(steps, strength, taken):
    once = [1 + (1000 // steps) * i for i in range(taken)][::-1]
    assert stable_diffusion_plms().times(steps, strength).tolist() == once[:2] + once[1:]


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="predicts 'sample'"):
        PLMS.like(PNDMScheduler(prediction_type="sample"))


def velocity_of_gaussian_data(scheduler, deviation):
    """The exact v-prediction for latents drawn from a normal distribution around zero.

    With x_t = sqrt(a) x_0 + sqrt(1 - a) noise and x_0 ~ N(0, s^2): E[x_0 | x_t] = sqrt(a) s^2 x_t / (a s^2 + 1 - a),
    E[noise | x_t] = sqrt(1 - a) x_t / (a s^2 + 1 - a), v = sqrt(a) noise - sqrt(1 - a) x_0.
    """

    def velocity(sample, step, *arguments, **settings):
        a = scheduler.alphas_cumprod[int(step)]
        return (((a * (1 - a)).sqrt() * (1 - deviation**2) / (a * deviation**2 + 1 - a)) * sample,)

    return velocity


def solution_of_gaussian_data(scheduler, first, deviation):
    """How much the probability flow, solved exactly, scales a latent from step `first` to the end."""
    start, end = scheduler.alphas_cumprod[first], scheduler.final_alpha_cumprod
    return ((end * deviation**2 + 1 - end) / (start * deviation**2 + 1 - start)).sqrt()


NOISE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def relative_error(backbone, monkeypatch):
    """Distance of sampled latents from the exact solution that starts at the same noise, with a known network."""
    plms, deviation = PLMS.like(backbone.pipeline.scheduler), 0.6
    monkeypatch.setattr(backbone.pipeline.unet, "forward", velocity_of_gaussian_data(plms, deviation))

    def error(sampled, start, first):
        exact = start * solution_of_gaussian_data(plms, first, deviation)
        return float((sampled - exact).norm() / exact.norm())

    return error


def ours(backbone, steps, strength=1.0):
    """Sampled latents, the noise they began with, and the first time step."""
    sampling = Sampling(steps, 1.0, strength)
    plms, times = sampling.start(backbone.pipeline)
    start = NOISE if strength == 1 else (1 - plms.alphas_cumprod[times[0]]).sqrt() * NOISE  # under it, a zero picture
    return denoise(backbone.pipeline, start, torch.zeros(1, TOKENS, WIDTH), None, sampling), start, times[0]


def of_diffusers(pipeline, steps, strength=None):
    settings = {} if strength is None else {"image": torch.zeros(1, 4, 8, 8), "strength": strength}
    settings |= {"generator": torch.manual_seed(0), "output_type": "latent", "guidance_scale": 1.0}
    sampled = pipeline(prompt_embeds=torch.zeros(1, TOKENS, WIDTH), num_inference_steps=steps, **settings).images
    first, alphas = int(pipeline.scheduler.timesteps[0]), pipeline.scheduler.alphas_cumprod
    if strength is None:
        return sampled, NOISE, first
    first = int(pipeline.get_timesteps(steps, strength, "cpu")[0][0])
    return sampled, (1 - alphas[first]).sqrt() * NOISE, first


@pytest.mark.parametrize(("steps", "strength", "bar"), [(20, 0.5, 0.015), (100, 0.85, 0.0003)])
def test_plms_from_the_middle_solves_a_case_with_a_known_answer(backbone, relative_error, steps, strength, bar):
    """Ours ends where the exact solution does; diffusers' time steps leave noise."""
    error = relative_error(*ours(backbone, steps, strength))
    assert error < bar
    theirs = of_diffusers(stock(StableDiffusionImg2ImgPipeline, backbone), steps, strength)
    assert relative_error(*theirs) > 1.5 * error


def test_velocity_is_turned_into_noise_before_it_is_extrapolated(backbone, relative_error):
    """Text-to-image reaches the exact solution as closely as with a network that predicts the noise."""
    assert relative_error(*ours(backbone, 20)) < 0.015
    assert relative_error(*ours(backbone, 50)) < 0.003
    assert relative_error(*of_diffusers(backbone.pipeline, 20)) > 0.05


def test_a_network_that_predicts_noise_is_sampled_as_diffusers_does(backbone):
    settings = {**backbone.pipeline.scheduler.config, "prediction_type": "epsilon"}
    theirs, ours = PNDMScheduler.from_config(settings), PLMS.like(PNDMScheduler.from_config(settings))
    generator = torch.manual_seed(0)
    latents = [torch.randn(2, 4, 8, 8, generator=generator)] * 2
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(8)
    for step in theirs.timesteps:
        predicted = torch.randn(2, 4, 8, 8, generator=generator)
        latents = [
            scheduler.step(predicted, step, x).prev_sample for scheduler, x in zip((theirs, ours), latents, strict=True)
        ]
    assert torch.equal(*latents)
