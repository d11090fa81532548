"""Published image-to-text models and the location of their files. Light: `captions` loads the models."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from brainvis.files import BrainvisError, read_json, resolve, weights_folder
from brainvis.generation.weights import cached, first

# Bytes to download, in single precision: a CPU needs as much memory, a GPU, in half precision, half as much.
CAPTIONERS = {
    "Salesforce/blip2-opt-2.7b": 15_500_000_000,  # 3.7 billion parameters; the authors' choice
    "Salesforce/blip-image-captioning-large": 1_880_000_000,
}
CAPTIONER, SMALL_CAPTIONER = CAPTIONERS
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_captioner(model: str) -> Path | None:
    """Folder of an image-to-text model that is complete on this machine; None if it would have to be downloaded.

    Looked up as a path, then under the last part of its name in `data/weights`, then in the hub's own cache.
    """
    configuration = cached(model, "config.json") if HUB_NAME.fullmatch(model) else None
    folders = (resolve(model), weights_folder() / Path(model).name, configuration and configuration.parent)
    return first(folders, lambda folder: (folder / "config.json").is_file() and weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a transformers model's weights; none if one of them is missing."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        files = {folder / name}
        with suppress(FileNotFoundError, BrainvisError, KeyError, AttributeError):
            parts = read_json(folder / f"{name}.index.json")["weight_map"].values()
            files = {folder / part for part in parts}
        if all(file.is_file() for file in files):
            return sorted(files)
    return []
