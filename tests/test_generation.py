"""The cascade: noise by trial and sample alone, guidance, PLMS from the middle, half precision, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from helpers.pipelines import stock, unchecked
from helpers.tiny_backbone import RESOLUTION, TOKENS, WIDTH, random_pipeline, shrunken_configuration

from brainvis.configuration import PRESETS, Generation
from brainvis.generation import GENERATORS, GeneratorSource, generator_source, load_generator
from brainvis.generation.cascade import GenerationError, noise_generator, refinement_stage, semantic_stage
from brainvis.generation.pictures import as_tensor
from brainvis.generation.stable_diffusion import StableDiffusion, load_stable_diffusion
from brainvis.generation.text_embeddings import build_text_embeddings

CONFIG = Generation(samples=2, semantic_steps=4, refinement_steps=6, refinement_guidance=3.0, batch_size=4)
NAMES = ["red star", "blue ring", "red star"]


@pytest.fixture(scope="module")
def embeddings(backbone):
    return backbone.text_embeddings(["a red star", "a blue ring", "green square"])


@pytest.fixture(scope="module")
def semantic(backbone, embeddings):
    return semantic_stage(backbone, embeddings, CONFIG, seed=0)


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


def plain_plms(backbone, embeddings, latents, steps):
    """PLMS written from the paper (Liu et al. 2022): Adams-Bashforth on the noise, one step of Heun to begin with."""
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    size = 1000 // steps
    times = [1 + size * i for i in range(steps)][::-1]

    def alpha(time):
        return alphas[max(time, 0)]  # "set_alpha_to_one" is off: the end is the schedule's first noise level

    def noise(x, time):
        with torch.no_grad():
            velocity = backbone.pipeline.unet(x.float(), torch.tensor(time), embeddings).sample.double()
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


def test_semantic_pictures_are_those_of_plain_plms(backbone, embeddings):
    config = replace(CONFIG, semantic_steps=7)
    made = semantic_stage(backbone, embeddings[2:], config, seed=0, trials=[2])
    latents = torch.randn(1, 4, 8, 8, generator=noise_generator(0, "semantic", 2, 1))
    latents = plain_plms(backbone, embeddings[2:], latents, 7)
    with torch.no_grad():
        picture = backbone.pipeline.vae.decode(latents).sample[0].permute(1, 2, 0)
    expected = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    assert_same_pictures(made[0, 1], expected)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_never_changes_a_semantic_picture(backbone, embeddings, semantic, batch_size):
    assert_same_pictures(semantic_stage(backbone, embeddings, replace(CONFIG, batch_size=batch_size), seed=0), semantic)


def test_a_trial_alone_or_in_another_order_gives_the_same_pictures(backbone, embeddings, semantic):
    assert_same_pictures(semantic_stage(backbone, embeddings[[2]], CONFIG, 0, trials=[2])[0], semantic[2])
    assert_same_pictures(semantic_stage(backbone, embeddings[[1, 0]], CONFIG, 0, trials=[1, 0]), semantic[[1, 0]])


def test_fewer_samples_are_the_first_of_more(backbone, embeddings, semantic):
    assert_same_pictures(semantic_stage(backbone, embeddings, replace(CONFIG, samples=1), 0), semantic[:, :1])


def test_seed_and_trial_decide_the_noise(backbone, embeddings, semantic):
    assert_other_pictures(semantic_stage(backbone, embeddings, CONFIG, seed=1), semantic)
    assert_other_pictures(semantic_stage(backbone, embeddings, CONFIG, 0, trials=[7, 8, 9]), semantic)


def test_the_surrounding_random_state_is_neither_used_nor_changed(backbone, embeddings, semantic):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert np.array_equal(semantic_stage(backbone, embeddings, CONFIG, seed=0), semantic)
    refinement_stage(backbone, semantic[:1], NAMES[:1], CONFIG, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_guidance_the_unet_runs_once_a_step_on_the_batch_alone(backbone, embeddings, unet_batches):
    semantic_stage(backbone, embeddings, CONFIG, seed=0)  # 6 pictures in batches of 4
    assert unet_batches == [4] * 5 + [2] * 5  # PLMS takes its second step twice: 4 steps are 5 calls


def test_guidance_of_the_semantic_stage_doubles_the_batch(backbone, embeddings, unet_batches):
    guided = semantic_stage(backbone, embeddings[:1], replace(CONFIG, semantic_guidance=4.0), seed=0)
    assert unet_batches == [4] * 5
    assert_other_pictures(guided, semantic_stage(backbone, embeddings[:1], CONFIG, seed=0))


def test_states_of_another_backbone_are_refused(backbone):
    with pytest.raises(ValueError, match=rf"shape \(2, 77, 768\).*needs \(trial, {TOKENS}, {WIDTH}\)"):
        semantic_stage(backbone, torch.zeros(2, 77, 768), CONFIG, seed=0)


def test_states_that_are_not_finite_name_their_trial(backbone, embeddings):
    broken = embeddings.clone()
    broken[1, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="trial 18 are not finite"):
        semantic_stage(backbone, broken, CONFIG, seed=0, trials=[17, 18, 19])


def test_trial_numbers_have_to_fit(backbone, embeddings):
    with pytest.raises(ValueError, match="2 trial numbers for 3 trials"):
        semantic_stage(backbone, embeddings, CONFIG, 0, trials=[0, 1])
    for wrong in (None, -1, 0.5):
        with pytest.raises(ValueError, match=f"number is {wrong}"):
            semantic_stage(backbone, embeddings, CONFIG, 0, trials=[0, wrong, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic_steps": 0}, "the number of steps is 0; it must be from 1 to 999"),
        ({"semantic_steps": 1000}, "number of steps is 1000"),
        ({"samples": 0}, "0 samples"),
        ({"batch_size": 0}, "batches of 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(backbone, embeddings, unet_batches, changes, message):
    with pytest.raises(ValueError, match=message):
        semantic_stage(backbone, embeddings, unchecked(CONFIG, **changes), 0)
    assert not unet_batches


def test_no_trials_give_no_pictures(backbone, embeddings, semantic, tmp_path):
    for folder in (None, tmp_path):
        assert semantic_stage(backbone, embeddings[:0], CONFIG, 0, folder=folder).shape == (0, *semantic.shape[1:])
        assert refinement_stage(backbone, semantic[:0], [], CONFIG, 0, folder=folder).shape == (0, *semantic.shape[1:])


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
    settings = {"num_inference_steps": 6, "guidance_scale": 3.0, "generator": noise, "output_type": "np"}
    expected = stock(StableDiffusionPipeline, backbone)(["blue ring"] * 2, **settings).images
    assert_same_pictures(made[1], (expected * 255).round().astype(np.uint8))


def test_refinement_is_the_image_to_image_generation_of_diffusers(backbone, semantic):
    """At full strength, where diffusers drops none of the time steps."""
    made = refinement_stage(backbone, semantic, NAMES, replace(CONFIG, strength=1.0), seed=0)
    noise = [noise_generator(0, "refinement", 1, sample) for sample in range(2)]
    settings = {"num_inference_steps": 6, "guidance_scale": 3.0, "generator": noise, "output_type": "np"}
    pipeline = stock(StableDiffusionImg2ImgPipeline, backbone)
    expected = pipeline(["blue ring"] * 2, image=as_tensor(semantic[1]), strength=1.0, **settings).images
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
    with pytest.raises(ValueError, match=rf"must be uint8 \(trial, sample, {RESOLUTION}, {RESOLUTION}, 3\)"):
        refinement_stage(backbone, semantic[:, :, ::2, ::2], NAMES, CONFIG, seed=0)
    for missing in (None, "", " "):
        with pytest.raises(ValueError, match=f"class name of trial 8 is {missing!r}"):
            refinement_stage(backbone, semantic, ["red star", missing, "red star"], CONFIG, 0, trials=[7, 8, 9])
    for strength in (0.1, 1.2, float("nan")):
        with pytest.raises(ValueError, match=f"strength of {strength} with 6 steps"):
            refinement_stage(backbone, semantic, NAMES, unchecked(CONFIG, strength=strength), seed=0)


# Types of numbers


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float16, 0.3), (torch.bfloat16, 1.9)])
def test_half_precision_differs_by_rounding(tiny, backbone, embeddings, semantic, dtype, bar):
    """The same noise and formulas: pictures are close to those of single precision, if not the same."""
    half = load_stable_diffusion(tiny, "cpu", dtype)
    seen = []
    for model in (half, backbone):
        first = model.pipeline.unet.register_forward_pre_hook(
            lambda module, inputs, named: seen.append((inputs[0], named["encoder_hidden_states"])), with_kwargs=True
        )
        config = replace(CONFIG, semantic_steps=1)
        semantic_stage(model, embeddings, config, seed=0)
        first.remove()
    for given, expected in zip(seen[0], seen[2], strict=True):
        assert given.dtype == dtype and torch.equal(given, expected.to(dtype))
    made = semantic_stage(half, embeddings, CONFIG, seed=0)
    assert np.abs(made.astype(int) - semantic).mean() < bar
    refined = refinement_stage(half, semantic, NAMES, CONFIG, seed=0)
    assert np.abs(refined.astype(int) - refinement_stage(backbone, semantic, NAMES, CONFIG, seed=0)).mean() < bar


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    pipeline = random_pipeline(shrunken_configuration(tmp_path_factory.mktemp("configuration")))
    pipeline.set_progress_bar_config(disable=True)
    return StableDiffusion("shrunken", pipeline, None, None, "fingerprint")


def test_stable_diffusion_is_sampled_as_diffusers_does(stable_diffusion):
    """Its network predicts noise, so that diffusers' own sampler is right for both stages at full strength."""
    embeddings = torch.randn(2, 77, WIDTH, generator=torch.manual_seed(0))
    made = semantic_stage(stable_diffusion, embeddings, CONFIG, seed=0)
    noise = [noise_generator(0, "semantic", 1, sample) for sample in range(2)]
    settings = {"num_inference_steps": 4, "guidance_scale": 1.0, "generator": noise, "output_type": "np"}
    given = embeddings[[1, 1]]
    expected = stable_diffusion.pipeline(prompt_embeds=given, height=RESOLUTION, width=RESOLUTION, **settings).images
    assert_same_pictures(made[1], (expected * 255).round().astype(np.uint8))

    refined = refinement_stage(stable_diffusion, made, ["cat", "electric guitar"], replace(CONFIG, strength=1.0), 0)
    pipeline = StableDiffusionImg2ImgPipeline(**stable_diffusion.pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    noise = [noise_generator(0, "refinement", 1, sample) for sample in range(2)]
    settings |= {"num_inference_steps": 6, "guidance_scale": 3.0, "generator": noise, "strength": 1.0}
    expected = pipeline(["electric guitar"] * 2, image=as_tensor(made[1]), **settings).images
    assert_same_pictures(refined[1], (expected * 255).round().astype(np.uint8))


def test_numbers_out_of_range_are_an_error_and_no_black_picture(tiny, backbone, embeddings, tmp_path):
    far = embeddings.clone()
    far[2] *= 1e6
    settings = {"config": replace(CONFIG, batch_size=2), "seed": 0, "trials": [4, 5, 6], "folder": tmp_path}
    with pytest.raises(GenerationError, match="sample 0 of trial 6 is not finite.*float16.*bfloat16 or torch.float32"):
        semantic_stage(load_stable_diffusion(tiny, "cpu", torch.float16), far, **settings)
    kept = sorted(file.name for file in tmp_path.glob("semantic/*.png"))
    assert kept == [f"trial-0000{trial}_sample-{sample}.png" for trial in (4, 5) for sample in (0, 1)]
    assert semantic_stage(backbone, far, **settings).shape[0] == 3  # single precision has room for it


def test_the_paper_preset_is_the_published_cascade():
    generation = PRESETS["paper"].generation
    assert (generation.samples, generation.semantic_steps, generation.semantic_guidance) == (4, 50, 1.0)
    assert (generation.refinement_steps, generation.refinement_guidance, generation.strength) == (100, 7.5, 0.85)
    assert generation.semantic and generation.refinement and generation.trials is None


def test_pictures_reach_the_encoder_as_they_are(backbone, semantic, monkeypatch):
    """Image-to-image scales [0, 1] to [-1, 1] once, and encodes each sample's own picture."""
    seen = []
    original = backbone.pipeline.vae.encode
    monkeypatch.setattr(backbone.pipeline.vae, "encode", lambda x: (seen.append(x), original(x))[1])
    refinement_stage(backbone, semantic[:2], NAMES[:2], CONFIG, seed=0)
    torch.testing.assert_close(torch.cat(seen), as_tensor(semantic[:2].reshape(-1, RESOLUTION, RESOLUTION, 3)) * 2 - 1)


# A generator from outside the package


class Painter:
    """Paints one colour, told by the first numbers of an embedding, under a little noise."""

    name, fingerprint, resolution, conditioning_shape = "painter", "paints", 8, (2, 3)
    judge = clip = None
    device, dtype = torch.device("cpu"), torch.float32

    def text_embeddings(self, texts):
        colours = [[text.count(vowel) / (1 + len(text)) for vowel in "aei"] for text in texts]
        return torch.tensor(colours).reshape(-1, 1, 3).expand(-1, 2, 3)

    def draw(self, embeddings, noise, config):
        speckles = torch.stack([torch.rand(3, 8, 8, generator=source) for source in noise])
        return (embeddings[:, 0, :, None, None] + 0.1 * speckles).clamp(0, 1)

    def refine(self, pictures, names, noise, config):
        named = self.draw(self.text_embeddings(names), noise, config)
        return named if pictures is None else (1 - config.strength) * pictures + config.strength * named


def test_a_generator_of_ones_own_is_one_line_and_goes_through_both_stages(monkeypatch, tmp_path):
    monkeypatch.setitem(GENERATORS, "toy", GeneratorSource(lambda device=None: Painter(), lambda: "paints"))
    assert generator_source("toy").fingerprint() == "paints"
    painter = load_generator("toy", "cpu")
    table = build_text_embeddings(painter, [*NAMES, "a caption of it"], tmp_path / "texts.safetensors")
    predicted = table.lookup(NAMES).float()
    made = semantic_stage(painter, predicted, CONFIG, seed=0, folder=tmp_path)
    assert made.shape == (3, 2, 8, 8, 3)
    colour = made[0].reshape(-1, 3).mean(0) / 255 - 0.05
    np.testing.assert_allclose(colour, predicted[0, 0], atol=0.02)
    assert np.array_equal(semantic_stage(painter, predicted, replace(CONFIG, batch_size=1), seed=0), made)
    refined = refinement_stage(painter, made, NAMES, CONFIG, seed=0, folder=tmp_path)
    assert refined.shape == made.shape and not np.array_equal(refined, made)
    assert refinement_stage(painter, None, NAMES, CONFIG, seed=0).shape == made.shape
    assert len(list(tmp_path.glob("*/*.png"))) == 12
    with pytest.raises(ValueError, match=r"shape \(3, 77, 768\).*'painter' needs \(trial, 2, 3\)"):
        semantic_stage(painter, torch.zeros(3, 77, 768), CONFIG, seed=0)
