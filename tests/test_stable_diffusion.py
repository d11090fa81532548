"""Stable Diffusion 1.x as a single file in its original layout; its architecture and its tokenizer."""

import os
import pickle

import numpy as np
import pytest
import torch
from helpers.original_layout import original_state, write_safetensors
from helpers.pipelines import CAPTIONS, assert_same_weights, networks
from helpers.tiny_backbone import RESOLUTION, WIDTH, random_pipeline, shrunken_configuration
from safetensors.torch import load_file, save_file

from brainvis.configuration import PRESETS
from brainvis.generation.checkpoints import safetensors_shapes
from brainvis.generation.stable_diffusion import (
    CONFIGURATION,
    choose_types,
    clip_tokenizer,
    load_stable_diffusion,
)
from brainvis.generation.weights import BackboneError, backbone_fingerprint, find_backbone


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    return shrunken_configuration(tmp_path_factory.mktemp("configuration"))


@pytest.fixture(scope="module")
def pipeline(configuration):
    return random_pipeline(configuration)


@pytest.fixture(scope="module")
def single_file(pipeline, tmp_path_factory):
    return write_safetensors(pipeline, tmp_path_factory.mktemp("single") / "model.safetensors")


def picture(pipeline):
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
    return pipeline("a photo of a cat", generator=torch.manual_seed(0), height=64, width=64, **settings).images


# Single files


def test_a_single_file_gives_the_weights_and_the_picture_of_the_pipeline_it_was_made_from(
    single_file, pipeline, configuration
):
    backbone = load_stable_diffusion(single_file, "cpu", configuration=configuration)
    assert_same_weights(backbone.pipeline, pipeline)
    assert backbone.resolution == RESOLUTION and backbone.conditioning_shape == (77, WIDTH)
    assert backbone.judge is None and backbone.clip is None and backbone.pipeline.safety_checker is None
    assert not any(p.requires_grad for network in networks(backbone.pipeline).values() for p in network.parameters())
    pipeline.set_progress_bar_config(disable=True)
    np.testing.assert_allclose(picture(backbone.pipeline), picture(pipeline), atol=1e-5)


class ModelCheckpoint:
    """As pytorch_lightning leaves one in its files."""

    def __init__(self):
        self.best_model_score, self.monitor, self.best_k_models = torch.tensor(0.1), "val/loss", {"a.ckpt": 0.1}


class Calls:
    """Runs code when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("level", [True, False], ids=["state_dict", "bare"])
def test_a_checkpoint_of_a_training_is_read_without_its_classes(tmp_path, pipeline, configuration, level, monkeypatch):
    state = original_state(pipeline)
    averaged = {"model_ema." + name.replace(".", ""): value + 1 for name, value in state.items() if "diffusion" in name}
    state |= averaged | {"model_ema.decay": torch.tensor(0.9999), "first_stage_model.loss.logvar": torch.zeros(())}
    callbacks = {ModelCheckpoint: vars(ModelCheckpoint()), "more": ModelCheckpoint(), "score": np.float64(0.1)}
    training = {"epoch": 3, "callbacks": callbacks, "optimizer_states": [{"state": state}]}
    file = tmp_path / "v1.ckpt"
    torch.save({"state_dict": state} | training if level else state, file)
    monkeypatch.delattr(f"{__name__}.ModelCheckpoint")
    backbone = load_stable_diffusion(file, "cpu", configuration=configuration)
    assert_same_weights(backbone.pipeline, pipeline)


def test_code_in_a_checkpoint_is_refused_or_inert(tmp_path, pipeline, configuration):
    marker, file = tmp_path / "marker", tmp_path / "v1.ckpt"
    touch = f"open({str(marker)!r}, 'w').close()"
    attacks = {
        "os.system": (Calls(os.system, f"touch {marker}"), "(?s)cannot be read from .*GLOBAL posix.system"),
        "exec": (Calls(exec, touch), None),
        "eval": ({Calls(eval, touch): 1}, None),
        "open": (Calls(open, str(marker), "w"), None),
        "pickle.loads": (Calls(pickle.loads, pickle.dumps(Calls(exec, touch), 2)), None),
        "tensor subclass": (
            Calls(torch._tensor._rebuild_from_type_v2, exec, torch.Tensor, (touch,), {}),
            "cannot be read from",
        ),
    }
    for name, (evil, refused) in attacks.items():
        torch.save({"state_dict": original_state(pipeline), "callbacks": evil}, file)
        if refused:
            with pytest.raises(BackboneError, match=refused):
                load_stable_diffusion(file, "cpu", configuration=configuration)
        else:
            assert_same_weights(load_stable_diffusion(file, "cpu", configuration=configuration).pipeline, pipeline)
        assert not marker.exists(), name


def test_other_archives_and_older_files_are_refused_with_a_sentence(tmp_path):
    file = tmp_path / "v1.ckpt"
    torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(BackboneError, match="read from .*v1.ckpt: it is not a valid .*written before torch 1.6"):
        load_stable_diffusion(file, "cpu")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    with pytest.raises(BackboneError, match="read from .*v1.ckpt: it is not a valid torch.save file: .*TorchScript"):
        load_stable_diffusion(file, "cpu")


def test_a_half_precision_file_is_computed_in_the_type_asked_for(tmp_path, single_file, pipeline, configuration):
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in load_file(single_file).items()
    }
    save_file(half, tmp_path / "half.safetensors")
    expected = random_pipeline(configuration).to(torch.float16)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        backbone = load_stable_diffusion(tmp_path / "half.safetensors", "cpu", dtype, configuration)
        assert backbone.dtype == dtype
        assert_same_weights(backbone.pipeline, expected, dtype)


def without(state, *prefixes):
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
FIRST = UNET + "input_blocks.0.0.weight"
FOREIGN = {
    "is an inpainting model.* 9 input channels": lambda s: s | {FIRST: s[FIRST].repeat(1, 3, 1, 1)[:, :9]},
    "is InstructPix2Pix.* 8 input channels": lambda s: s | {FIRST: s[FIRST].repeat(1, 2, 1, 1)},
    "is Stable Diffusion 2, which has a different text encoder": lambda s: (
        without(s, TEXT) | {"cond_stage_model.model.ln_final.weight": torch.ones(4)}
    ),
    "is Stable Diffusion XL": lambda s: (
        without(s, TEXT) | {"conditioner.embedders.1.model.ln_final.bias": torch.ones(4)}
    ),
    "is a LoRA": lambda s: {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.ones(4, 4)},
    "is a LoRA: ": lambda s: {"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": torch.ones(4, 4)},
    "is a ControlNet": lambda s: {"control_model.time_embed.0.weight": torch.ones(4)},
    "is only a VAE": lambda s: {name: value for name, value in s.items() if name.startswith(VAE)},
    "is only a VAE;": lambda s: {name.removeprefix(VAE): v for name, v in s.items() if name.startswith(VAE)},
    "is one network of a diffusers folder": lambda s: {"down_blocks.0.resnets.0.conv1.weight": torch.ones(4)},
    "has no text encoder": lambda s: without(s, TEXT),
    "has no VAE and no text encoder": lambda s: without(s, TEXT, VAE),
    "has no UNet and no VAE and no text encoder: it is not Stable Diffusion": lambda s: {"a": torch.ones(1)},
}


@pytest.mark.parametrize("reason", FOREIGN)
def test_another_kind_of_file_is_refused_before_it_is_loaded_and_named(tmp_path, single_file, reason):
    save_file(
        {n: v.contiguous() for n, v in FOREIGN[reason](load_file(single_file)).items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(BackboneError, match=f"a.safetensors {reason}"):
        find_backbone(tmp_path / "a.safetensors")
    torch.save(load_file(tmp_path / "a.safetensors"), tmp_path / "b.ckpt")
    with pytest.raises(BackboneError, match="b.ckpt.*" + reason.rstrip(";")):
        load_stable_diffusion(tmp_path / "b.ckpt")


def test_missing_and_misshapen_weights_are_named(tmp_path, single_file, configuration):
    state, file = load_file(single_file), tmp_path / "a.safetensors"
    wrong = {
        r"UNet2DConditionModel:\s+Missing key.*: \"down_blocks.0.attentions.0.norm.weight\"": without(
            state, UNET + "input_blocks.1.1.norm.weight"
        ),
        r"AutoencoderKL:\s+Missing key.*: \"post_quant_conv.bias\"": without(state, VAE + "post_quant_conv.bias"),
        r"CLIPTextModel:\s+Missing key.*: \"final_layer_norm.bias\"": without(
            state, TEXT + "transformer.text_model.final_layer_norm.bias"
        ),
        r"conv_in.weight: .*\[8, 4, 3, 3\].*\[16, 4, 3, 3\]": state | {FIRST: torch.ones(8, 4, 3, 3)},
        r"CLIPTextModel:\s+Unexpected key.*: \"more\"": state | {TEXT + "transformer.more": torch.ones(1)},
    }
    for message, content in wrong.items():
        save_file(content, file)
        with pytest.raises(BackboneError, match=f"(?s)cannot be read from {file}.*{message}"):
            load_stable_diffusion(file, "cpu", configuration=configuration)


def test_cut_and_foreign_files_are_refused_at_once(tmp_path, single_file):
    content = single_file.read_bytes()
    for name, wrong, message in (
        ("a.safetensors", content[:-1], f"is cut short: it has {len(content) - 1:,} bytes"),
        ("b.safetensors", content[:5000], "is not a safetensors file, or is damaged"),
        ("c.safetensors", b"", "is not a safetensors file, or is damaged"),
        ("d.safetensors", (2).to_bytes(8, "little") + b"[]", "is not a safetensors file, or is damaged"),
        ("e.txt", b"words", "does not end in .safetensors or .ckpt"),
    ):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(BackboneError, match=f"{name} {message}.*choose phantom, sd15"):
            backbone_fingerprint(tmp_path / name)
    (tmp_path / "f.ckpt").write_bytes(b"words")
    with pytest.raises(BackboneError, match="cannot be read from .*f.ckpt"):
        load_stable_diffusion(tmp_path / "f.ckpt")


def test_the_fingerprint_of_a_single_file_follows_its_content_not_its_name(tmp_path, single_file):
    first, copy = tmp_path / "first.safetensors", tmp_path / "copy.safetensors"
    for file in (first, copy):
        file.write_bytes(single_file.read_bytes())
    assert backbone_fingerprint(copy) == backbone_fingerprint(first)
    with copy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert backbone_fingerprint(copy) != backbone_fingerprint(first)


def test_a_relative_path_is_looked_for_from_here_then_from_the_repository(tmp_path, monkeypatch, single_file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("brainvis.files.folders.ROOT", single_file.parent)
    assert find_backbone(single_file.name).resolve() == single_file.resolve()
    (tmp_path / single_file.name).write_bytes(single_file.read_bytes())
    assert find_backbone(single_file.name).resolve() == (tmp_path / single_file.name).resolve()


# Architecture, vocabulary, number types


def test_the_configuration_is_stable_diffusion_15():
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGURATION / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGURATION / "vae"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIGURATION / "text_encoder"))
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, vae, text_encoder)]
    assert counts == [859_520_964, 83_653_863, 123_060_480]  # as published
    assert (unet.config.sample_size, vae.config.scaling_factor) == (64, 0.18215)
    # The noise schedule of its training: 1000 steps, evenly spaced in the square root.
    scheduler = PNDMScheduler.from_pretrained(CONFIGURATION / "scheduler")
    signal = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), signal, rtol=1e-5)
    assert scheduler.config.prediction_type == "epsilon" and scheduler.config.steps_offset == 1
    assert scheduler.config.skip_prk_steps and not scheduler.config.set_alpha_to_one


def test_the_tokenizer_is_that_of_clip():
    from open_clip.tokenizer import SimpleTokenizer

    words, reference = clip_tokenizer(), SimpleTokenizer()
    assert words("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(words) == 49408 and words.model_max_length == 77
    names = [name.lower().replace("_", " ") for name in reference.encoder if name.isascii() and name.isalpha()][:3000]
    for text in [*CAPTIONS, *(f"a picture of {a} with {b}" for a, b in zip(names[::2], names[1::2], strict=True))]:
        assert words(text, add_special_tokens=False).input_ids == reference.encode(text), text
    (short,) = words(["a cat"], padding="max_length").input_ids
    assert short == [49406, 320, 2368] + [49407] * 74  # padded with the end, as Stable Diffusion 1 was trained
    assert len(words("cat " * 100, truncation=True).input_ids) == 77


def test_types_of_numbers_by_device(monkeypatch):
    cpu, cuda, mps = map(torch.device, ("cpu", "cuda", "mps"))
    assert choose_types(cuda) == (torch.float16, None)
    assert choose_types(cuda, "float32") == (torch.float32, None)
    assert choose_types(mps) == choose_types(cpu, "float32") == (torch.float32, None)
    dtype, of_unet = choose_types(cpu, "bfloat16")
    assert dtype == torch.float32 and of_unet.precision == "bfloat16"


def test_a_unet_in_bfloat16_moves_pixels_by_little(tiny):
    pictures = {}
    for precision in ("float32", "bfloat16"):
        backbone = load_stable_diffusion(tiny, "cpu", precision=precision)
        assert backbone.dtype == torch.float32 and ("bfloat16" in backbone.number_type) == (precision == "bfloat16")
        noise = [torch.Generator().manual_seed(number) for number in range(2)]
        embeddings = torch.randn(2, *backbone.conditioning_shape, generator=torch.Generator().manual_seed(0))
        pictures[precision] = backbone.draw(embeddings, noise, PRESETS["smoke"].generation)
    moved = (pictures["float32"] - pictures["bfloat16"]).abs()
    assert 0 < moved.max() and moved.mean() < 1 / 255


def test_large_pictures_are_decoded_one_by_one(single_file, configuration, monkeypatch):
    assert not load_stable_diffusion(single_file, "cpu", configuration=configuration).pipeline.vae.use_slicing
    monkeypatch.setattr("brainvis.generation.stable_diffusion.LARGE", RESOLUTION - 1)
    vae = load_stable_diffusion(single_file, "cpu", configuration=configuration).pipeline.vae
    sizes, latents = [], torch.randn(3, 4, 8, 8)
    whole = [vae.decode(latent[None]).sample for latent in latents]
    vae.decoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(vae.decode(latents).sample, torch.cat(whole))
    assert sizes == [1, 1, 1]


def test_reading_names_needs_no_more_than_the_header(tmp_path, single_file):
    shapes = safetensors_shapes(single_file)
    assert {name: list(value.shape) for name, value in load_file(single_file).items()} == shapes
