"""The cascade: shared weights, noise by trial and sample alone, guidance, PLMS from the middle, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline
from tiny_backbone import RESOLUTION, TOKENS, WIDTH, write_backbone

from brainvis.backbone import as_tensor, load_backbone
from brainvis.configuration import Generation
from brainvis.generation import (
    PLMS,
    _image_to_image,
    _text_to_image,
    noise_generator,
    refinement_stage,
    semantic_stage,
)

CONFIG = Generation(samples=2, semantic_steps=4, refinement_steps=6, refinement_guidance=3.0, batch_size=4)
NAMES = ["red star", "blue ring", "red star"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_backbone(write_backbone(tmp_path_factory.mktemp("backbone") / "tiny", judge=False, clip=False), "cpu")


@pytest.fixture(scope="module")
def states(backbone):
    return backbone.text_states(["a red star", "a blue ring", "green square"])


@pytest.fixture(scope="module")
def semantic(backbone, states):
    return semantic_stage(backbone, states, CONFIG, seed=0)


@pytest.fixture
def unet_batches(backbone):
    """Batch size of every call of the UNet."""
    calls = []
    hook = backbone.pipeline.unet.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    yield calls
    hook.remove()


def assert_same_pictures(first, second):
    """Equal up to the last bit of a colour, where floating point sums of another order may round differently."""
    assert first.shape == second.shape
    assert np.abs(first.astype(int) - second).max() <= 1


def assert_other_pictures(first, second):
    assert np.abs(first.astype(int) - second).mean() > 2


# The semantic stage


def test_semantic_stage_makes_every_sample_of_every_trial(semantic):
    assert semantic.shape == (3, 2, RESOLUTION, RESOLUTION, 3)
    assert semantic.dtype == np.uint8
    assert_other_pictures(semantic[:, 0], semantic[:, 1])
    assert_other_pictures(semantic[0], semantic[1])


def plain_plms(backbone, states, latents, steps):
    """PLMS written from the paper (Liu et al. 2022): Adams-Bashforth on the noise, one step of Heun to begin with."""
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    size = 1000 // steps
    times = [1 + size * i for i in range(steps)][::-1]

    def alpha(time):
        return alphas[max(time, 0)]  # "set_alpha_to_one" is off: the end is the schedule's first noise level

    def noise(x, time):
        with torch.no_grad():
            velocity = backbone.pipeline.unet(x.float(), torch.tensor(time), states).sample.double()
        return alpha(time).sqrt() * velocity + (1 - alpha(time)).sqrt() * x

    def move(x, e, time):
        a, b = alpha(time), alpha(time - size)
        clean = (x - (1 - a).sqrt() * e) / a.sqrt()
        return b.sqrt() * clean + (1 - b).sqrt() * e

    x, past = latents.double(), []
    for time in times:
        past.append(noise(x, time))
        e = past[::-1]
        if len(e) == 1:
            ahead = noise(move(x, e[0], time), time - size) if steps > 1 else e[0]
            mixed = (e[0] + ahead) / 2
        elif len(e) == 2:
            mixed = (3 * e[0] - e[1]) / 2
        elif len(e) == 3:
            mixed = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            mixed = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        x = move(x, mixed, time)
    return x.float()


def test_semantic_pictures_are_those_of_plain_plms(backbone, states):
    config = replace(CONFIG, semantic_steps=7)
    made = semantic_stage(backbone, states[2:], config, seed=0, trials=[2])
    latents = torch.randn(1, 4, 8, 8, generator=noise_generator(0, "semantic", 2, 1))
    latents = plain_plms(backbone, states[2:], latents, 7)
    with torch.no_grad():
        picture = backbone.pipeline.vae.decode(latents).sample[0].permute(1, 2, 0)
    expected = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    assert_same_pictures(made[0, 1], expected)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_never_changes_a_semantic_picture(backbone, states, semantic, batch_size):
    assert_same_pictures(semantic_stage(backbone, states, replace(CONFIG, batch_size=batch_size), seed=0), semantic)


def test_a_trial_alone_or_in_another_order_gives_the_same_pictures(backbone, states, semantic):
    assert_same_pictures(semantic_stage(backbone, states[[2]], CONFIG, 0, trials=[2])[0], semantic[2])
    assert_same_pictures(semantic_stage(backbone, states[[1, 0]], CONFIG, 0, trials=[1, 0]), semantic[[1, 0]])


def test_fewer_samples_are_the_first_of_more(backbone, states, semantic):
    assert_same_pictures(semantic_stage(backbone, states, replace(CONFIG, samples=1), 0), semantic[:, :1])


def test_seed_and_trial_decide_the_noise(backbone, states, semantic):
    assert_other_pictures(semantic_stage(backbone, states, CONFIG, seed=1), semantic)
    assert_other_pictures(semantic_stage(backbone, states, CONFIG, 0, trials=[7, 8, 9]), semantic)


def test_the_surrounding_random_state_is_neither_used_nor_changed(backbone, states, semantic):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert np.array_equal(semantic_stage(backbone, states, CONFIG, seed=0), semantic)
    refinement_stage(backbone, semantic[:1], NAMES[:1], CONFIG, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_guidance_the_unet_runs_once_a_step_on_the_batch_alone(backbone, states, unet_batches):
    semantic_stage(backbone, states, CONFIG, seed=0)  # 6 pictures in batches of 4
    assert unet_batches == [4] * 5 + [2] * 5  # PLMS takes its second step twice: 4 steps are 5 calls


def test_guidance_of_the_semantic_stage_doubles_the_batch(backbone, states, unet_batches):
    guided = semantic_stage(backbone, states[:1], replace(CONFIG, semantic_guidance=4.0), seed=0)
    assert unet_batches == [4] * 5
    assert_other_pictures(guided, semantic_stage(backbone, states[:1], CONFIG, seed=0))


def test_states_of_another_backbone_are_refused(backbone):
    with pytest.raises(ValueError, match=rf"shape \(2, 77, 768\).*needs \(trial, {TOKENS}, {WIDTH}\)"):
        semantic_stage(backbone, torch.zeros(2, 77, 768), CONFIG, seed=0)


def test_states_that_are_not_finite_name_their_trial(backbone, states):
    broken = states.clone()
    broken[1, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="trial 1 are not finite"):
        semantic_stage(backbone, broken, CONFIG, seed=0)


def test_trial_numbers_have_to_fit(backbone, states):
    with pytest.raises(ValueError, match="2 trial numbers for 3 trials"):
        semantic_stage(backbone, states, CONFIG, 0, trials=[0, 1])


def test_no_trials_give_no_pictures(backbone, states):
    assert semantic_stage(backbone, states[:0], CONFIG, 0).shape == (0, 2, RESOLUTION, RESOLUTION, 3)


# The refinement stage


def test_refinement_depends_on_picture_name_and_seed(backbone, semantic):
    refined = refinement_stage(backbone, semantic, NAMES, CONFIG, seed=0)
    assert refined.shape == semantic.shape
    assert refined.dtype == np.uint8
    assert_same_pictures(refinement_stage(backbone, semantic, NAMES, CONFIG, seed=0), refined)
    assert_other_pictures(refinement_stage(backbone, semantic, NAMES, CONFIG, seed=1), refined)
    other = refinement_stage(backbone, semantic, ["blue ring", "blue ring", "red star"], CONFIG, seed=0)
    assert np.abs(other[0].astype(int) - refined[0]).max() > 1
    assert np.array_equal(other[1:], refined[1:])
    low = replace(CONFIG, strength=0.34)
    assert_other_pictures(
        refinement_stage(backbone, semantic, NAMES, low, seed=0),
        refinement_stage(backbone, 255 - semantic, NAMES, low, seed=0),
    )


@pytest.mark.parametrize("images", [True, False])
def test_the_batch_never_changes_a_refined_picture(backbone, semantic, images):
    start = semantic if images else None
    refined = refinement_stage(backbone, start, NAMES, CONFIG, seed=0)
    one_by_one = refinement_stage(backbone, start, NAMES, replace(CONFIG, batch_size=1), seed=0)
    assert_same_pictures(one_by_one, refined)
    alone = refinement_stage(backbone, semantic[[2]] if images else None, NAMES[2:], CONFIG, 0, trials=[2])
    assert_same_pictures(alone[0], refined[2])


def test_refinement_takes_its_share_of_the_steps_with_guidance(backbone, semantic, unet_batches):
    refinement_stage(backbone, semantic[:1], NAMES[:1], CONFIG, seed=0)  # 5 of 6 steps, the second of them twice
    assert unet_batches == [4] * 6  # two pictures, with and without the name


def test_refinement_without_pictures_is_text_to_image_from_the_name(backbone):
    made = refinement_stage(backbone, None, NAMES, CONFIG, seed=0)
    noise = [noise_generator(0, "refinement", 1, sample) for sample in range(2)]
    expected = _text_to_image(backbone)(
        ["blue ring"] * 2, num_inference_steps=6, guidance_scale=3.0, generator=noise, output_type="np"
    ).images
    assert_same_pictures(made[1], (expected * 255).round().astype(np.uint8))


def test_noise_differs_between_stages_trials_and_samples():
    asked = [("semantic", 0, 0), ("refinement", 0, 0), ("semantic", 1, 0), ("semantic", 0, 1)]
    draws = {float(torch.randn(1, generator=noise_generator(0, *which))) for which in asked}
    assert len(draws) == 4


def test_refinement_refuses_what_does_not_fit(backbone, semantic):
    with pytest.raises(ValueError, match="each of the 2 class names"):
        refinement_stage(backbone, semantic, NAMES[:2], CONFIG, seed=0)
    with pytest.raises(ValueError, match="images are float64"):
        refinement_stage(backbone, semantic / 255, NAMES, CONFIG, seed=0)
    for strength in (0.1, 1.2):
        with pytest.raises(ValueError, match=f"strength {strength} of 6 steps"):
            refinement_stage(backbone, semantic, NAMES, replace(CONFIG, strength=strength), seed=0)


# The samplers


def test_both_stages_share_one_copy_of_the_weights_and_keep_their_type(backbone):
    for pipeline in (_text_to_image(backbone), _image_to_image(backbone)):
        for part in ("unet", "vae", "text_encoder", "tokenizer"):
            assert getattr(pipeline, part) is getattr(backbone.pipeline, part)
        assert pipeline.scheduler is not backbone.pipeline.scheduler  # samplers keep a state, weights do not
        assert isinstance(pipeline.scheduler, PLMS)
    backbone.pipeline.unet.to(torch.bfloat16)
    try:
        assert _image_to_image(backbone).unet.dtype == torch.bfloat16
    finally:
        backbone.pipeline.unet.to(torch.float32)


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.85), (100, 0.85), (4, 0.85), (10, 1.0), (10, 0.1), (1, 1.0)])
def test_time_steps_of_image_to_image(backbone, steps, strength):
    pipeline = _image_to_image(backbone)
    pipeline.scheduler.set_timesteps(steps)
    given, _ = pipeline.get_timesteps(steps, strength, "cpu")
    once = [1 + (1000 // steps) * i for i in range(int(steps * strength))][::-1]
    assert given.tolist() == once[:2] + once[1:]


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


def relative_error(backbone, monkeypatch, pipeline, steps, deviation=0.6, **settings) -> float:
    """Distance of the sampled latents from the exact solution that starts at the same noise."""
    monkeypatch.setattr(backbone.pipeline.unet, "forward", velocity_of_gaussian_data(pipeline.scheduler, deviation))
    pipeline.set_progress_bar_config(disable=True)
    final = pipeline(
        **settings,
        prompt_embeds=torch.zeros(1, TOKENS, WIDTH),
        num_inference_steps=steps,
        guidance_scale=1.0,
        generator=torch.manual_seed(0),
        output_type="latent",
    ).images
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    first = int(pipeline.scheduler.timesteps[0])
    if settings:  # begins with a picture that is zero everywhere, under noise
        first = int(pipeline.get_timesteps(steps, settings["strength"], "cpu")[0][0])
        noise = (1 - pipeline.scheduler.alphas_cumprod[first]).sqrt() * noise
    exact = noise * solution_of_gaussian_data(pipeline.scheduler, first, deviation)
    return float((final - exact).norm() / exact.norm())


@pytest.mark.parametrize(("steps", "strength", "bar"), [(20, 0.5, 0.015), (100, 0.85, 0.0003)])
def test_plms_from_the_middle_solves_a_case_with_a_known_answer(backbone, monkeypatch, steps, strength, bar):
    """Ours ends where the exact solution does; diffusers' time steps leave noise."""
    ours = _image_to_image(backbone)
    stock = StableDiffusionImg2ImgPipeline(
        **{**backbone.pipeline.components, "scheduler": PLMS.like(backbone.pipeline.scheduler)},
        requires_safety_checker=False,
    )
    start = {"image": torch.zeros(1, 4, 8, 8), "strength": strength}
    error = relative_error(backbone, monkeypatch, ours, steps, **start)
    assert error < bar
    assert relative_error(backbone, monkeypatch, stock, steps, **start) > 1.5 * error


def test_velocity_is_turned_into_noise_before_it_is_extrapolated(backbone, monkeypatch):
    """Text-to-image reaches the exact solution as closely as with a network that predicts the noise."""
    assert relative_error(backbone, monkeypatch, _text_to_image(backbone), 20) < 0.015
    assert relative_error(backbone, monkeypatch, _text_to_image(backbone), 50) < 0.003
    assert relative_error(backbone, monkeypatch, backbone.pipeline, 20) > 0.05  # diffusers' own


def test_a_network_that_predicts_noise_is_sampled_as_diffusers_does(backbone):
    settings = {**backbone.pipeline.scheduler.config, "prediction_type": "epsilon"}
    stock, ours = PNDMScheduler.from_config(settings), PLMS.like(PNDMScheduler.from_config(settings))
    generator = torch.manual_seed(0)
    latents = [torch.randn(2, 4, 8, 8, generator=generator)] * 2
    for scheduler in (stock, ours):
        scheduler.set_timesteps(8)
    for step in stock.timesteps:
        predicted = torch.randn(2, 4, 8, 8, generator=generator)
        latents = [
            scheduler.step(predicted, step, x).prev_sample for scheduler, x in zip((stock, ours), latents, strict=True)
        ]
    assert torch.equal(*latents)


def test_pictures_reach_the_encoder_as_they_are(backbone, semantic, monkeypatch):
    """Image-to-image scales [0, 1] to [-1, 1] once, and encodes each sample's own picture."""
    seen = []
    original = backbone.pipeline.vae.encode
    monkeypatch.setattr(backbone.pipeline.vae, "encode", lambda x: (seen.append(x), original(x))[1])
    refinement_stage(backbone, semantic[:2], NAMES[:2], CONFIG, seed=0)
    torch.testing.assert_close(torch.cat(seen), as_tensor(semantic[:2].reshape(-1, RESOLUTION, RESOLUTION, 3)) * 2 - 1)
