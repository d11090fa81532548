"""Captions of the shown pictures by an image-to-text model: the fine semantics of alignment.

Captions are data: they are made once, before a study is run, and stored in the data set's `captions.json`. They involve
no randomness.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import constants
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from brainvis.data import DatasetError, load_dataset
from brainvis.files import BrainvisError, data_folder, read_json, readable_size, resolve, weights_folder, write_json
from brainvis.files.reading import open_picture
from brainvis.files.tensors import check_safetensors
from brainvis.generation import weights
from brainvis.generation.captioners import (
    CAPTIONER,
    CAPTIONERS,
    HUB_NAME,
    SMALL_CAPTIONER,
    find_captioner,
    weight_files,
)
from brainvis.generation.checkpoints import safetensors_shapes
from brainvis.training import choose_device

GIVEN = "given"  # source of captions that already existed
WORKING_MEMORY = 1_500_000_000  # bytes in addition to the weights: the libraries and a batch of eight pictures
KINDS = ("blip", "blip-2", "git", "vision-encoder-decoder")  # which describe a picture without a prompt
# Always the most likely word, as in the authors' release; the maximum length is in tokens.
SEARCH = {"do_sample": False, "num_beams": 1, "max_new_tokens": 30}


class CaptionError(BrainvisError):
    """Unusable captions or an unusable captioner."""


def caption_dataset(name: str, model: str = CAPTIONER, batch_size: int = 8) -> str:
    """Caption every picture of a data set that has no caption, in its `captions.json`; returns what was done."""
    if name == "phantom":
        return "The phantom comes with captions; nothing was done."
    data, file = load_dataset(name), data_folder(name) / "captions.json"
    if not data.has_images:
        raise CaptionError(f"Data set {name} has no pictures to describe: put them beside the EEG files first.")
    if not missing_captions(data):
        return f"Every picture of {name} that was shown already has a caption; nothing was done."
    images = {image: _picture(data, index) for index, image in enumerate(data.image_ids)}
    del data  # memory for the captioner
    captions = caption_images(images, file, model, batch_size)
    sources = caption_sources(file)
    made = sum(sources[image] == model for image in captions)
    kept, without = len(captions) - made, len(images) - len(captions)
    setting = " Name it in the settings of the recordings: under `images`, as `captions`." * (name == "recordings")
    return f"{file}: {made} captions by {model}, {kept} from elsewhere, {without} missing.{setting}"


def missing_captions(data: Any) -> list[str]:
    """Ids of the pictures of an `EEGDataset` that are shown in a trial but have no caption."""
    return [image for image in _shown(data) if _lacks(image, data.captions)]


def require_captions(data: Any, name: str) -> None:
    """CaptionError, with the command that makes captions, unless every shown picture has one."""
    if missing := missing_captions(data):
        raise CaptionError(
            f"{len(missing)} of {len(_shown(data))} pictures that were shown have no caption (the first is "
            f"{missing[0]}), but alignment needs one for each. Make them with: "
            f"python -m brainvis caption --dataset {name}"
        )


def _shown(data: Any) -> list[str]:
    return [data.image_ids[image] for image in data.images.unique().tolist() if image >= 0]


def _picture(data: Any, index: int) -> Path:
    """The file of a picture, or where it should be, for the message if it cannot be read."""
    try:
        return data.image_path(index)
    except DatasetError:
        image = data.image_ids[index]
        return data.image_folder / image.split("_")[0] / f"{image}.JPEG"


def caption_images(
    images: Mapping[str, Path], file: Path, model: str = CAPTIONER, batch_size: int = 8
) -> dict[str, str]:
    """Describe every picture that has no caption in `file` yet, and add the captions there, batch by batch.

    Captions already in the file are kept, whoever wrote them; their sources are stored beside them, see
    `caption_sources`. If interrupted or killed, it resumes where it stopped and gives the same captions. Another batch
    size or device can change a word here and there through rounding.

    `images` maps image ids to files; `file` is JSON by image id and may not exist yet; `model` is the Hugging Face hub
    id, or the folder, of a transformers image-to-text model of one of `KINDS`. Returns the captions of `images`, except
    those with a warning: unreadable pictures and empty captions. BrainvisError for an invalid captions file, or a model
    that cannot be found, downloaded, held in memory or used.
    """
    failed: dict[str, str] = {}
    captions = _add(file, {}, model)  # before anything slow: existing captions count as given
    if any(_lacks(image, captions) for image in images):
        describe, ids = load_captioner(model), list(images)
        with tqdm(total=len(ids), desc="captions", unit="picture") as bar:
            # Batches of all pictures, reduced to those without a caption: the same wherever it was interrupted.
            for batch in (ids[start : start + batch_size] for start in range(0, len(ids), batch_size)):
                made, wrong = _describe(describe, {i: images[i] for i in batch if _lacks(i, captions)})
                failed |= wrong
                captions = _add(file, made, model)
                bar.update(len(batch))
    if failed:
        named = "; ".join(f"{image} ({why})" for image, why in list(failed.items())[:5]) + "; ..." * (len(failed) > 5)
        warnings.warn(f"{len(failed)} of {len(images)} pictures got no caption: {named}", stacklevel=2)
    return {image: captions[image] for image in images if not _lacks(image, captions)}


def caption_sources(file: Path) -> dict[str, str]:
    """The source of each caption in `file`: the model that made it, or "given", also for captions changed by hand.

    Kept in `<name>.sources.json` with a digest of each caption.
    """
    recorded, captions = read_json(file.with_suffix(".sources.json"), {}), _read_captions(file)
    same = [image for image in captions if recorded.get(image, {}).get("digest") == _digest(captions[image])]
    return dict.fromkeys(captions, GIVEN) | {image: recorded[image]["made_by"] for image in same}


def _add(file: Path, made: Mapping[str, str], model: str) -> dict[str, str]:
    """Add captions to those now in the file, which are kept unchanged; returns all."""
    captions, beside = _read_captions(file), file.with_suffix(".sources.json")
    new = {image: caption for image, caption in made.items() if _lacks(image, captions)}
    sources = caption_sources(file) | dict.fromkeys(new, model)
    captions |= new
    record = {image: {"made_by": by, "digest": _digest(captions[image])} for image, by in sources.items()}
    if record != read_json(beside, {}):
        write_json(beside, record, indent=0)  # first: a caption without a source would count as given
    if new:
        write_json(file, captions, indent=0)
    return captions


def _lacks(image: str, captions: Mapping[str, str]) -> bool:
    return not captions.get(image, "").strip()


def _digest(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()[:8]


def _read_captions(file: Path) -> dict[str, str]:
    captions = read_json(file, {})
    for image, caption in captions.items():
        if not isinstance(caption, str):
            raise CaptionError(f"{file}: the caption of {image} is {caption!r}, not text; nothing was changed.")
    return captions


@dataclass(frozen=True)
class Captioner:
    """An image-to-text model, in evaluation mode."""

    model: Any
    processor: Any
    tokenizer: Any

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One line of text for each RGB picture."""
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        tokens = self.model.generate(pixel_values=pixels.to(self.model.device, self.model.dtype), **SEARCH)
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def load_captioner(model: str = CAPTIONER, device: torch.device | str | None = None) -> Captioner:
    """Load a captioner, downloading it if necessary, in half precision on a GPU; CaptionError if that fails."""
    device, folder = choose_device(device), find_captioner(model)
    if folder is None:
        _check_memory(model, CAPTIONERS.get(model, 0), device)  # before downloading gigabytes
        folder = _fetch(model)
    _check_memory(model, _size(folder), device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    try:
        kind = read_json(folder / "config.json")["model_type"]
        if kind not in KINDS:
            raise ValueError(f"its model type is {kind!r}, not one of {', '.join(KINDS)}")
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                check_safetensors(file)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:  # the library can raise anything for bad files
        raise CaptionError(f"Captioner {model!r} cannot be read from {folder}: {error}") from error
    if getattr(network.config, "image_token_index", 0) is None:
        # A BLIP-2 from before 2024 has no token for the picture: take one from the unused end of the vocabulary.
        network.config.image_token_index = network.config.text_config.vocab_size - 1
    network.requires_grad_(False).eval().to(device)
    return Captioner(network, processor, tokenizer)


def _describe(describe: Captioner, images: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Captions of the pictures, and the problems of those that get none."""
    pictures, wrong = {}, {}
    for image, path in images.items():
        try:
            pictures[image] = open_picture(path)
        except (BrainvisError, OSError) as error:
            wrong[image] = f"{path} cannot be read: {error}"
    captions = dict(zip(pictures, describe(list(pictures.values())) if pictures else (), strict=True))
    wrong |= {image: "an empty caption" for image, caption in captions.items() if not caption}
    return {image: caption for image, caption in captions.items() if caption}, wrong


def _fetch(model: str) -> Path:
    if not HUB_NAME.fullmatch(model) or resolve(model).is_dir():
        neither = "is neither a folder with config.json and complete weights nor a model on the Hugging Face hub"
        raise CaptionError(f"Captioner {model!r} {neither}, such as {' or '.join(CAPTIONERS)}.")
    why = "some of its files are missing"
    for pattern in ("*.safetensors", "pytorch_model*.bin"):  # the second for old models that have nothing else
        try:
            folder = weights.snapshot(model, "config.json", ["*.json", "*.txt", "*.model", pattern])
        except Exception as error:  # no network, model or disk space: the library has many classes for these
            why = weights.reason(error)
            break
        if weight_files(folder):
            return folder
    size = f" ({readable_size(CAPTIONERS[model])})" if model in CAPTIONERS else ""
    without = ' --exclude "*.bin" --exclude "*.h5"' if model in CAPTIONERS else ""  # the same weights again
    raise CaptionError(
        f"Captioner {model} is neither in {weights_folder() / Path(model).name} nor in the cache "
        f"{constants.HF_HUB_CACHE}, and cannot be downloaded ({why}). With network access, download it{size}: "
        f"hf download {model}{without}"
    )


def _size(folder: Path) -> int:
    """Bytes of a model in single precision."""
    files = weight_files(folder)
    try:
        return sum(4 * math.prod(shape) for file in files for shape in safetensors_shapes(file).values())
    except ValueError:  # in the other format, or damaged: loading will report it
        return sum(file.stat().st_size for file in files)


def _check_memory(model: str, size: int, device: torch.device) -> None:
    """Raise before loading a model that does not fit in this machine's memory."""
    need, free = (size if device.type == "cpu" else size // 2) + WORKING_MEMORY, _free_memory(device)
    if need > free:
        where = "on a CPU, in single precision" if device.type == "cpu" else f"on {device}, in half precision"
        raise CaptionError(
            f"{model} needs {readable_size(need)} of memory ({where}), but only {readable_size(free)} is free. Use a "
            f"smaller model, such as --model {SMALL_CAPTIONER} ({readable_size(CAPTIONERS[SMALL_CAPTIONER])} on a CPU),"
            " or a machine with more memory."
        )


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
