"""`sd15`: Stable Diffusion 1.5 found in data/weights, in the hub's cache, fetched, or absent, and read as published."""

import fnmatch
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.original_layout import write_safetensors
from helpers.pipelines import CAPTIONS, assert_same_weights
from helpers.tiny_backbone import random_pipeline, shrunken_configuration, write_backbone
from safetensors.torch import load_file, save_file

from brainvis.files import ROOT
from brainvis.generation.stable_diffusion import clip_tokenizer, load_stable_diffusion
from brainvis.generation.weights import (
    STABLE_DIFFUSION,
    BackboneError,
    backbone_fingerprint,
    find_backbone,
    obtain_backbone,
)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    return shrunken_configuration(tmp_path_factory.mktemp("configuration"))


@pytest.fixture(scope="module")
def single_file(configuration, tmp_path_factory):
    return write_safetensors(random_pipeline(configuration), tmp_path_factory.mktemp("single") / "model.safetensors")


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No weights, an empty cache, and no way out."""

    def refuse(*arguments, **settings):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("BRAINVIS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_published(folder, pipeline):
    """A folder as it is published: older names in VAE and text encoder, a safety checker named but not there."""
    pipeline.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    index |= {"feature_extractor": ["transformers", "CLIPFeatureExtractor"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    older = (".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        plain = folder / part / f"{stem}.safetensors"
        state = {name: value.half() for name, value in load_file(plain).items()}
        if part == "vae":
            for new, old in older:
                state = {name.replace(new, old): value for name, value in state.items()}
        if part == "text_encoder":
            state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in state.items()}
            state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        plain.unlink()
        save_file(state, folder / part / f"{stem}.fp16.safetensors", {"format": "pt"})
    tokenizer = clip_tokenizer()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(published_merges()))
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    (folder / "tokenizer" / "tokenizer.json").unlink()  # newer than the publication
    settings = {"model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def published_merges():
    from open_clip.tokenizer import SimpleTokenizer

    return [" ".join(pair) for pair in SimpleTokenizer().bpe_ranks]


def fill_cache(cache: Path, published: Path) -> Path:
    """The hub's cache after a download: blobs, and a snapshot of links to them."""
    repository = cache / ("models--" + STABLE_DIFFUSION.repository.replace("/", "--"))
    snapshot = repository / "snapshots" / STABLE_DIFFUSION.revision
    for number, file in enumerate(STABLE_DIFFUSION.files):
        blob, link = repository / "blobs" / str(number), snapshot / file
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes((published / file).read_bytes())
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_the_published_folder_is_found_in_the_hubs_cache_and_gives_its_weights(tmp_path, configuration):
    half = random_pipeline(configuration).to(torch.float16)
    published = write_published(tmp_path / "published", half)
    snapshot = fill_cache(tmp_path / "cache", published)
    assert find_backbone("sd15") == snapshot
    backbone = load_stable_diffusion("sd15", "cpu")
    assert_same_weights(backbone.pipeline, half)
    words = backbone.pipeline.tokenizer
    assert words(CAPTIONS, padding="max_length").input_ids == clip_tokenizer()(CAPTIONS, padding="max_length").input_ids

    # Its fingerprint follows the links, and leaves alone what else is fetched into the same snapshot.
    first = backbone_fingerprint("sd15")
    (snapshot / "v1-5-pruned.safetensors").write_bytes(b"another file of the repository")
    (snapshot / "safety_checker").mkdir()
    (snapshot / "safety_checker" / "config.json").write_text("{}")
    assert backbone_fingerprint("sd15") == first == backbone.fingerprint == backbone_fingerprint(published)
    (snapshot / "scheduler" / "scheduler_config.json").resolve().write_text("{}")
    assert backbone_fingerprint("sd15") != first

    (snapshot / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()  # as after an interrupted download
    assert find_backbone("sd15") is None


def test_the_weights_folder_comes_first_and_a_single_file_before_a_folder(tmp_path, configuration, single_file):
    folder = tmp_path / "data" / "weights"
    write_backbone(folder / "stable-diffusion-v1-5", judge=False, clip=False)
    assert find_backbone("sd15") == folder / "stable-diffusion-v1-5"
    (folder / "v1-5-pruned-emaonly.safetensors").symlink_to(single_file)
    assert find_backbone("sd15") == folder / "v1-5-pruned-emaonly.safetensors"
    assert backbone_fingerprint("sd15") == backbone_fingerprint(single_file)
    assert load_stable_diffusion("sd15", "cpu", configuration=configuration).name == "sd15"


def test_offline_and_absent_is_one_error_within_a_second_that_says_all(tmp_path):
    start = time.monotonic()
    assert find_backbone("sd15") is None
    with pytest.raises(BackboneError) as caught:
        load_stable_diffusion("sd15")
    assert time.monotonic() - start < 1
    message = str(caught.value)
    assert "'sd15' (Stable Diffusion 1.5) is not on this machine and cannot be downloaded" in message
    for place in ("weights/v1-5-pruned-emaonly.safetensors", "weights/v1-5-pruned-emaonly.ckpt", "cache"):
        assert str(tmp_path) in message and place in message
    assert f"hf download {STABLE_DIFFUSION.repository} --revision {STABLE_DIFFUSION.revision}" in message


def test_the_command_that_is_shown_fetches_what_is_needed_and_not_the_rest():
    words = shlex.split(STABLE_DIFFUSION.command)
    included = [words[i + 1] for i, word in enumerate(words) if word == "--include"]
    excluded = [words[i + 1] for i, word in enumerate(words) if word == "--exclude"]

    def fetched(file):
        return any(fnmatch.fnmatch(file, p) for p in included) and not any(fnmatch.fnmatch(file, p) for p in excluded)

    assert all(map(fetched, STABLE_DIFFUSION.files))
    others = ("v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "unet/diffusion_pytorch_model.safetensors")
    others += ("unet/diffusion_pytorch_model.fp16.bin", "safety_checker/model.fp16.safetensors")
    assert not any(map(fetched, others))


def test_absent_and_online_it_is_fetched_and_said(tmp_path, configuration, monkeypatch, capsys):
    asked = []

    def download(repository, **settings):
        asked.append((repository, settings))
        published = write_published(tmp_path / "published", random_pipeline(configuration).to(torch.float16))
        return str(fill_cache(tmp_path / "cache", published))

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: asked.append(url))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    place = obtain_backbone("sd15")
    assert find_backbone("sd15") == place
    url, (repository, settings) = asked
    assert STABLE_DIFFUSION.revision in url and repository == STABLE_DIFFUSION.repository
    assert settings["revision"] == STABLE_DIFFUSION.revision and set(settings["allow_patterns"]) == set(
        STABLE_DIFFUSION.files
    )
    assert re.search(r"Stable Diffusion 1.5 is not on this machine: downloading 2.1 GB", capsys.readouterr().err)


def test_looking_for_it_imports_no_torch(tmp_path, single_file):
    code = (
        "import sys; from brainvis.generation.weights import backbone_fingerprint, find_backbone; "
        f"print(find_backbone('sd15')); print(backbone_fingerprint({str(single_file)!r})); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    settings = {"HF_HOME": str(tmp_path), "BRAINVIS_DATA": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None", backbone_fingerprint(single_file)]
