"""Loading a backbone: names and paths, data types, text embeddings, fingerprints, what to say when files are wrong."""

import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.tiny_backbone import RESOLUTION, TOKENS, WIDTH, write_backbone

from brainvis.generation import generator_source, load_generator
from brainvis.generation.pictures import as_tensor
from brainvis.generation.stable_diffusion import load_stable_diffusion
from brainvis.generation.weights import BackboneError, backbone_fingerprint, find_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="module")
def backbone(folder):
    return load_stable_diffusion(folder, device="cpu")


@pytest.mark.parametrize("name", ["stable-diffusion-9", "no/such/folder"])
def test_unknown_names_are_refused_at_once_with_the_allowed_ones(name):
    start = time.monotonic()
    for ask in (generator_source, load_generator, load_stable_diffusion):
        with pytest.raises(BackboneError, match=f"unknown backbone '{name}'.*phantom.*path"):
            ask(name)
    assert time.monotonic() - start < 1


def test_a_folder_that_is_no_pipeline_says_what_is_missing(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(BackboneError, match=f"{tmp_path} has no model_index.json, vae, text_encoder"):
        load_stable_diffusion(tmp_path)


def test_a_folder_without_weights_that_can_be_read_names_them(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "vae" / "diffusion_pytorch_model.safetensors").rename(copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(BackboneError, match=f"{copy} has no vae/diffusion_pytorch_model.safetensors"):
        backbone_fingerprint(copy)


def spoilt(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def as_two_files(copy):
    """The tokenizer as Stable Diffusion 1.5 publishes it."""
    model = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())["model"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    (copy / "tokenizer" / "tokenizer.json").unlink()


def without_pairs(copy):
    as_two_files(copy)
    lines = (copy / "tokenizer" / "merges.txt").read_text().splitlines()
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(lines[: len(lines) // 2]))


def without_merges(copy):
    as_two_files(copy)
    (copy / "tokenizer" / "merges.txt").unlink()


def small_vocabulary(copy):
    as_two_files(copy)
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")


def other_module(copy):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"scheduler": ["antigravity", "PNDMScheduler"]}))


def pickled_clip(copy):
    (copy / "clip" / "open_clip_model.safetensors").rename(copy / "clip" / "open_clip_pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda copy: (copy / "tokenizer" / "tokenizer.json").unlink(), "neither tokenizer.json nor vocab.json with"),
        (without_merges, "neither tokenizer.json nor vocab.json with merges.txt"),
        (without_pairs, "lacks the merge pairs for .*merges.txt is missing or cut short"),
        (small_vocabulary, "the tokenizer has 2 tokens, but its text encoder"),
        (other_module, "model_index.json takes scheduler from .*antigravity"),
        (lambda copy: (copy / "unet" / "config.json").write_text('{"a":' * 10**5), "unet/config.json is damaged"),
        (pickled_clip, "clip has no safetensors file"),
    ],
    ids=lambda part: getattr(part, "__name__", str(part))[:30],
)
def test_a_folder_of_somebody_that_is_not_whole_is_refused(folder, tmp_path, change, words):
    copy = spoilt(folder, tmp_path, change)
    with pytest.raises(BackboneError, match=f"(?s)cannot be read from {copy}: .*({words})"):
        load_stable_diffusion(copy, device="cpu")
    assert "antigravity" not in sys.modules


def test_a_tokenizer_of_two_files_is_the_same(folder, tmp_path, backbone):
    texts = ["a red star at the top left", "large blue ring"]
    read = load_stable_diffusion(spoilt(folder, tmp_path, as_two_files), device="cpu").pipeline.tokenizer(texts)
    assert read.input_ids == backbone.pipeline.tokenizer(texts).input_ids


def test_a_phantom_that_is_gone_says_how_it_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("brainvis.generation.weights.PHANTOM", tmp_path / "gone")
    assert find_backbone("phantom") is None
    with pytest.raises(BackboneError, match="missing from .*gone.*git.*train_backbone.py"):
        load_stable_diffusion("phantom")


def test_other_files_of_a_folder_are_not_the_backbone(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = backbone_fingerprint(copy)
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker" / "config.json").write_text("{}")
    (copy / "notes.txt").write_text("mine")
    assert backbone_fingerprint(copy) == first
    (copy / "judge" / "config.json").write_text("{}")
    assert backbone_fingerprint(copy) != first


def test_finding_and_fingerprinting_needs_no_torch(folder):
    code = (
        "import sys; from brainvis.generation import generator_source; "
        f"print(generator_source({str(folder)!r}).fingerprint()); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == backbone_fingerprint(folder)


def test_the_fingerprint_follows_weights_and_configuration_but_not_place_or_time(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)  # other place, other times
    first = backbone_fingerprint(folder)
    assert backbone_fingerprint(copy) == first
    (copy / "README.md").write_text("a card says nothing about the weights")
    assert backbone_fingerprint(copy) == first

    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # same size, same header, one bit of one weight
    weights.write_bytes(content)
    second = backbone_fingerprint(copy)
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "beta_end": 0.013}))
    assert len({first, second, backbone_fingerprint(copy)}) == 3


def test_every_byte_of_a_large_file_counts(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    big = copy / "unet" / "big.safetensors"
    prints = set()
    for changed in (0, 2**21, 2**22 - 1):
        content = bytearray(2**22)
        content[changed] = 1
        big.write_bytes(content)
        prints.add(backbone_fingerprint(copy))
    assert len(prints) == 3


def test_the_pipeline_is_complete_frozen_and_single_precision_on_a_cpu(backbone):
    networks = (backbone.pipeline.unet, backbone.pipeline.vae, backbone.pipeline.text_encoder, backbone.judge)
    for network in (*networks, backbone.clip.model):
        assert not network.training
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in network.parameters())
    assert backbone.pipeline.safety_checker is None
    assert backbone.resolution == RESOLUTION
    assert backbone.conditioning_shape == (TOKENS, WIDTH)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_files_are_computed_in_single_precision(tmp_path, variant):
    folder = write_backbone(tmp_path / "half", half=True, judge=False, clip=False)
    if variant:  # as `save_pretrained(variant="fp16")` names them
        for part, stem in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        ):
            (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    half = load_stable_diffusion(folder, device="cpu")
    reference = load_stable_diffusion(write_backbone(tmp_path / "single", judge=False, clip=False), device="cpu")
    assert half.dtype == torch.float32
    for name, value in half.pipeline.unet.state_dict().items():
        assert torch.equal(value, reference.pipeline.unet.state_dict()[name].half().float()), name
    assert {p.dtype for p in half.pipeline.text_encoder.parameters()} == {torch.float32}


def test_without_judge_and_clip_it_loads_without_them(tmp_path):
    backbone = load_stable_diffusion(write_backbone(tmp_path / "bare", judge=False, clip=False))
    assert backbone.judge is None
    assert backbone.clip is None


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model", "judge/model"])
def test_a_truncated_file_is_named(tmp_path, part):
    folder = write_backbone(tmp_path / "cut", clip=False)
    weights = folder / f"{part}.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(BackboneError, match="cannot be read from .*cut"):
        load_stable_diffusion(folder)


def test_loading_asks_no_network(folder, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("something opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_stable_diffusion(folder)


def test_text_embeddings_are_the_last_hidden_states_padded_and_normalised(backbone):
    texts = ["a red star", "", "a small green ring"]
    states = backbone.text_embeddings(texts)
    assert states.shape == (3, TOKENS, WIDTH)
    assert states.dtype == torch.float32
    pipeline = backbone.pipeline
    expected, _ = pipeline.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(states, expected)

    # By hand: begin, words, end, and the padding token up to the longest text; no attention mask; final layer norm.
    words = pipeline.tokenizer
    ids = [words(text, add_special_tokens=False).input_ids for text in texts]
    ids = [[words.bos_token_id, *i, words.eos_token_id] for i in ids]
    ids = torch.tensor([i + [words.pad_token_id] * (TOKENS - len(i)) for i in ids])
    encoder = pipeline.text_encoder
    hidden = []
    hook = encoder.final_layer_norm.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    with torch.no_grad():
        encoder(ids)
    hook.remove()
    torch.testing.assert_close(states, hidden[-1])


def test_text_embeddings_condition_like_the_prompt_itself(backbone):
    def picture(**conditions):
        return backbone.pipeline(
            **conditions, num_inference_steps=2, guidance_scale=1.0, generator=torch.manual_seed(0), output_type="np"
        ).images

    from_text = picture(prompt=["a red star"])
    np.testing.assert_allclose(picture(prompt_embeds=backbone.text_embeddings(["a red star"])), from_text, atol=1e-6)
    assert np.abs(picture(prompt=["a blue ring"]) - from_text).max() > 1e-4


def test_text_embeddings_do_not_depend_on_the_batch(backbone):
    texts = ["a red star", "ring", "a yellow circle", "square", "blue"]
    one_by_one = torch.cat([backbone.text_embeddings([text]) for text in texts])
    torch.testing.assert_close(one_by_one, backbone.text_embeddings(texts))
    assert backbone.text_embeddings([]).shape == (0, TOKENS, WIDTH)


def test_clip_features_are_those_of_open_clip(backbone, folder):
    import open_clip
    from PIL import Image

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder / 'clip'}")
    with torch.no_grad():
        expected = model.eval().encode_image(torch.stack([preprocess(Image.fromarray(image)) for image in images]))
    features = backbone.clip.image_features(images, batch_size=2)
    torch.testing.assert_close(features, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=1e-4)


def test_clip_resizes_pictures_of_another_size(backbone):
    small = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    cosine = (backbone.clip.image_features(small) * backbone.clip.image_features(large)).sum(1)
    assert (cosine > 0.97).all()


def test_as_tensor_turns_pixels_into_channels_first_fractions():
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0, 1, 2] = (255, 51, 0)
    tensor = as_tensor(image)
    assert tensor.shape == (1, 3, 2, 3)
    torch.testing.assert_close(tensor[0, :, 1, 2], torch.tensor([1.0, 0.2, 0.0]))
