"""Captions by tiny image-to-text models: kept, resumed after a kill, with their source; what is said if it fails."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    GPT2Config,
    GPT2Tokenizer,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from brainvis.data import DatasetError
from brainvis.files import BrainvisError
from brainvis.generation import captions
from brainvis.generation.captions import (
    CAPTIONER,
    CaptionError,
    caption_dataset,
    caption_images,
    caption_sources,
    find_captioner,
    load_captioner,
    missing_captions,
    require_captions,
)

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**LAYERS, "image_size": 32, "patch_size": 16}
WORDS = "a an the on with red green blue star ring canoe lake dog runs".split()
PADDING = 7  # rows of BLIP-2's vocabulary that no token uses, as in the published weights


def letters() -> GPT2Tokenizer:
    tokens = ["0", "<pad>", "</s>", "1", "Ċ", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GPT2Tokenizer(
        vocab=vocabulary, merges=[], bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>"
    )


def blip():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    # As in the published weights, the opening token is one that the tokenizer does not have.
    ends = {"bos_token_id": len(words), "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    text = {**LAYERS, **ends, "vocab_size": len(words) + 2, "encoder_hidden_size": 32, "max_position_embeddings": 64}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION)), words


def blip2(names_image_token=True):
    words = letters()
    text = {"model_type": "opt", "vocab_size": len(words) + PADDING, "hidden_size": 32, "ffn_dim": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
            "bos_token_id": 2, "eos_token_id": 4, "pad_token_id": 1}  # fmt: skip
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**LAYERS, "vocab_size": 20, "encoder_hidden_size": 32},
        text_config=text,
        num_query_tokens=4,
        image_token_index=len(words) if names_image_token else None,
    )
    if names_image_token:
        words.add_tokens(["<image>"], special_tokens=True)
    return Blip2ForConditionalGeneration(config), words


def encoder_decoder():
    words = letters()
    decoder = GPT2Config(
        vocab_size=len(words), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=2
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config=config), words


MODELS = {"blip": blip, "blip2": blip2, "blip2-2023": lambda: blip2(False), "encoder-decoder": encoder_decoder}


def write_captioner(folder, build, seed=3):
    torch.manual_seed(seed)
    model, words = build()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # so that the picture decides what is said
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if build is encoder_decoder:  # as the published ones were saved, years ago
        settings = {"feature_extractor_type": "ViTFeatureExtractor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
                    "do_normalize": True, "do_resize": True, "resample": 2, "size": 32}  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    return {name: write_captioner(root / name, build) for name, build in MODELS.items()}


@pytest.fixture(scope="module")
def model(folders):
    return str(folders["encoder-decoder"])  # says different things of different pictures


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, files = tmp_path_factory.mktemp("pictures"), {}
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        files[f"n{index:02d}_1"] = root / f"{index}.png"
        Image.fromarray(pixels).resize((50, 40)).save(files[f"n{index:02d}_1"])
    return files


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_captioner_gives_the_tokens_that_its_own_generation_gives(folders, images, tmp_path, name):
    file = tmp_path / "captions.json"
    found = caption_images(images, file, str(folders[name]), batch_size=4)
    assert found == json.loads(file.read_text()) and list(found) == list(images)
    for text in found.values():
        assert text and text == " ".join(text.split()) and "<" not in text and "[" not in text
    captioner = load_captioner(str(folders[name]))
    picture = Image.open(images["n00_1"])
    pixels = AutoImageProcessor.from_pretrained(folders[name])(picture, return_tensors="pt")["pixel_values"]
    tokens = captioner.model.generate(pixel_values=pixels, num_beams=1, do_sample=False, max_new_tokens=30)[0]
    special = {token for token, kind in captioner.tokenizer.added_tokens_decoder.items() if kind.special}
    known = set(range(len(captioner.tokenizer))) - special
    words = captioner.tokenizer.decode([token for token in tokens.tolist() if token in known])
    assert found["n00_1"] == " ".join(words.split())


def test_a_gpu_would_compute_in_half_precision(folders, images):
    captioner = load_captioner(str(folders["blip2"]), "cpu")
    assert captioner.model.dtype == torch.float32
    captioner.model.half()  # what is done on a GPU; the Q-Former too
    assert len(captioner([Image.open(path) for path in images.values()])) == len(images)


def test_captions_that_are_there_stay_and_are_marked_as_given(model, images, tmp_path):
    file = tmp_path / "captions.json"
    mine = {"n03_1": "  my own words \n", "elsewhere_1": "not of this data set", "n04_1": ""}
    file.write_text(json.dumps(mine))
    found = caption_images(images, file, model)
    kept = json.loads(file.read_text())
    assert {image: kept[image] for image in ("n03_1", "elsewhere_1")} == {k: mine[k] for k in ("n03_1", "elsewhere_1")}
    assert list(found) == list(images) and found["n03_1"] == mine["n03_1"]
    sources = caption_sources(file)
    assert {image for image, source in sources.items() if source == "given"} == {"n03_1", "elsewhere_1"}
    assert {source for image, source in sources.items() if image not in mine} == {model}
    kept["n00_1"] = "what I would rather say"
    file.write_text(json.dumps(kept))
    assert caption_sources(file)["n00_1"] == "given" and caption_sources(file)["n01_1"] == model


def test_what_is_all_there_needs_no_model(images, tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(dict.fromkeys(images, "a thing")))
    before = file.stat().st_mtime_ns
    assert caption_images(images, file, "no/such-model") == dict.fromkeys(images, "a thing")
    assert set(caption_sources(file).values()) == {"given"} and file.stat().st_mtime_ns == before


def test_captions_that_come_meanwhile_are_not_overwritten(model, images, tmp_path, monkeypatch):
    file = tmp_path / "captions.json"
    original = captions.Captioner.__call__

    def meanwhile(self, pictures):
        file.write_text(json.dumps({**json.loads(file.read_text() if file.exists() else "{}"), "n01_1": "mine"}))
        return original(self, pictures)

    monkeypatch.setattr(captions.Captioner, "__call__", meanwhile)
    assert caption_images(images, file, model)["n01_1"] == "mine"
    assert caption_sources(file)["n01_1"] == "given" and caption_sources(file)["n02_1"] == model


SLOWLY = """
import json, sys, time
from pathlib import Path
from brainvis.generation import captions
describe = captions.Captioner.__call__
def slowly(self, pictures):
    time.sleep(0.3)
    return describe(self, pictures)
captions.Captioner.__call__ = slowly
images = {key: Path(path) for key, path in json.loads(sys.argv[1]).items()}
captions.caption_images(images, Path(sys.argv[2]), sys.argv[3], batch_size=2)
"""


def test_killed_and_resumed_is_the_same_as_uninterrupted(model, images, tmp_path, monkeypatch):
    whole, file = tmp_path / "whole.json", tmp_path / "captions.json"
    assert len(set(caption_images(images, whole, model, batch_size=2).values())) > len(images) / 2
    arguments = [json.dumps({key: str(path) for key, path in images.items()}), str(file), model]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = json.loads(file.read_text())
    assert 0 < len(there) < len(images)
    asked = []
    original = captions.Captioner.__call__

    def listen(self, pictures):
        asked.extend(pictures)
        return original(self, pictures)

    monkeypatch.setattr(captions.Captioner, "__call__", listen)
    caption_images(images, file, model, batch_size=2)
    assert len(asked) == len(images) - len(there)
    assert file.read_bytes() == whole.read_bytes()
    assert caption_sources(file) == caption_sources(whole) == dict.fromkeys(images, model)


def test_unreadable_pictures_and_empty_captions_are_named_and_the_rest_goes_on(model, images, tmp_path, monkeypatch):
    cut, gone, file = tmp_path / "cut.png", tmp_path / "gone.JPEG", tmp_path / "captions.json"
    cut.write_bytes(images["n00_1"].read_bytes()[:60])
    original = captions.Captioner.__call__

    def silent_on_the_second(self, pictures):
        said = original(self, pictures)
        return [said[0], "", *said[2:]]

    monkeypatch.setattr(captions.Captioner, "__call__", silent_on_the_second)
    with pytest.warns(UserWarning, match="3 of 12 pictures got no caption") as warned:
        found = caption_images({"cut_1": cut, "gone_1": gone, **images}, file, model, batch_size=20)
    said = str(warned[0].message)
    assert all(words in said for words in (str(cut), str(gone), "n01_1 (an empty caption)"))
    assert set(found) == set(images) - {"n01_1"} == set(json.loads(file.read_text()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "holds a value of type list"),
        ('{"n00_1": ["a", "b"]}', "caption of n00_1"),
        (b"\xff\xfe{", "not JSON"),
    ],
)
def test_a_captions_file_that_is_none_is_left_alone(model, images, tmp_path, content, words):
    file = tmp_path / "captions.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = file.read_bytes()
    with pytest.raises(BrainvisError, match=words) as error:
        caption_images(images, file, model)
    assert str(file) in str(error.value) and file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No network, an empty cache, and a folder for weights."""
    monkeypatch.setenv("BRAINVIS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(captions, "_free_memory", lambda device: 10**12)
    return tmp_path


def test_absent_and_offline_names_model_places_and_command(nowhere, images):
    assert find_captioner(CAPTIONER) is None
    with pytest.raises(CaptionError) as error:
        caption_images(images, nowhere / "captions.json")
    command = f'hf download {CAPTIONER} --exclude "*.bin"'
    for words in (CAPTIONER, str(nowhere / "cache"), str(nowhere / "data" / "weights" / "blip2-opt-2.7b"), command):
        assert words in str(error.value)


def test_found_in_the_weights_folder_in_the_cache_and_by_path_but_only_if_whole(nowhere, folders):
    assert find_captioner(str(folders["blip"])) == folders["blip"]
    place = nowhere / "data" / "weights" / "blip2-opt-2.7b"
    place.parent.mkdir(parents=True)
    place.symlink_to(folders["blip2"])
    assert find_captioner(CAPTIONER) == place
    cached = nowhere / "cache" / "models--someone--blip" / "snapshots" / "0123"
    cached.mkdir(parents=True)
    for file in folders["blip"].iterdir():
        (cached / file.name).symlink_to(file)
    (nowhere / "cache" / "models--someone--blip" / "refs").mkdir()
    (nowhere / "cache" / "models--someone--blip" / "refs" / "main").write_text("0123")
    assert find_captioner("someone/blip") == cached
    weights = cached / "model.safetensors"
    weights.rename(cached / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (cached / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_captioner("someone/blip") is None
    with pytest.raises(CaptionError, match="hf download someone/blip"):
        load_captioner("someone/blip", "cpu")


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_no_captioner_is_one_sentence(folders, tmp_path, damage):
    folder = tmp_path / "captioner"
    folder.mkdir()
    for file in folders["blip"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / damage).write_bytes((folder / damage).read_bytes()[:50])
    with pytest.raises(CaptionError, match="cannot be read from"):
        load_captioner(str(folder), "cpu")
    (folder / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(CaptionError, match="cannot be read from .* model type is 'llava', not one of blip, blip-2"):
        load_captioner(str(folder), "cpu")
    with pytest.raises(CaptionError, match="neither a folder with config.json"):
        load_captioner(str(tmp_path), "cpu")


def test_too_little_memory_is_said_before_anything_is_fetched_or_loaded(nowhere, folders, monkeypatch):
    monkeypatch.setattr(captions, "_free_memory", lambda device: 8_000_000_000)
    monkeypatch.setattr(captions, "_fetch", lambda model: pytest.fail("fetched"))
    with pytest.raises(CaptionError, match="17.0 GB .* 8.0 GB is free.*--model Salesforce/blip-image"):
        load_captioner(CAPTIONER, "cpu")
    size = captions._size(folders["blip"])
    network = load_captioner(str(folders["blip"]), "cpu").model
    assert size == 4 * sum(parameter.numel() for parameter in network.parameters())
    monkeypatch.setattr(captions, "_free_memory", lambda device: size + captions.WORKING_MEMORY - 1)
    with pytest.raises(CaptionError, match="blip needs"):
        load_captioner(str(folders["blip"]), "cpu")


class Shown:
    """As much of a data set as captions need."""

    image_ids = ("n01_1", "n01_2", "n02_7", "n02_8")
    images = torch.tensor([0, 2, 2, 0, 1])  # n02_8 is in no trial
    has_images = True

    def __init__(self, folder, captions):
        self.image_folder, self.captions = folder, captions

    def image_path(self, index):
        if self.image_ids[index] not in self.files:
            raise DatasetError("no such picture")
        return self.files[self.image_ids[index]]

    @property
    def files(self):
        return {file.stem: file for file in self.image_folder.rglob("*.JPEG")}


def test_missing_captions_are_counted_with_the_command_that_makes_them():
    data = Shown(None, {"n01_1": "a dog", "n01_2": " "})
    assert missing_captions(data) == ["n01_2", "n02_7"]
    with pytest.raises(CaptionError, match="^2 of 3 pictures .*the first is n01_2") as error:
        require_captions(data, "eegcvpr40")
    assert "python -m brainvis caption --dataset eegcvpr40" in str(error.value) and "\n" not in str(error.value)
    require_captions(Shown(None, dict.fromkeys(Shown.image_ids[:3], "a dog")), "eegcvpr40")


def test_a_data_set_gets_its_captions_into_its_folder(model, images, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_DATA", str(tmp_path))
    folder, file = tmp_path / "eegcvpr40" / "image", tmp_path / "eegcvpr40" / "captions.json"
    for image, picture in zip(Shown.image_ids[:3], images.values(), strict=False):
        (folder / image.split("_")[0]).mkdir(parents=True, exist_ok=True)
        Image.open(picture).convert("RGB").save(folder / image.split("_")[0] / f"{image}.JPEG")
    monkeypatch.setattr("brainvis.generation.captions.load_dataset", lambda name: Shown(folder, {"n01_1": "a dog"}))
    file.write_text('{"n01_1": "a dog"}')
    with pytest.warns(UserWarning, match="n02_8.JPEG cannot be read"):
        said = caption_dataset("eegcvpr40", model)
    assert said.startswith(f"{file}: 2 captions by {model}, 1 from elsewhere, 1 missing.")
    made = json.loads(file.read_text())
    assert set(made) == set(Shown.image_ids[:3]) and made["n01_1"] == "a dog"
    monkeypatch.setattr("brainvis.generation.captions.load_dataset", lambda name: Shown(folder, made))
    assert "nothing was done" in caption_dataset("eegcvpr40", "no/such-model")
