"""The frozen text-to-image model that turns text states into pictures, and what stands beside it to judge them.

A backbone is a folder that `diffusers.StableDiffusionPipeline` loads. Two folders within it are optional: `judge/`, a
classifier of the pictures, and `clip/`, an open_clip model (configuration and weights) for image similarity.
Nothing here needs a network. Finding and fingerprinting a backbone does not import torch: the run graph does both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .paths import ROOT

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline
    from torch import Tensor, nn

# Backbones that have a name: where each is, and what makes it if it is not there.
BACKBONES = {
    "phantom": (ROOT / "brainvis" / "phantom" / "backbone", "python -m brainvis.phantom.train_backbone"),
}
COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WHOLE_FILE = 64 * 2**20  # bytes; a larger file is fingerprinted by samples
SAMPLE = 2**14  # bytes


class BackboneError(Exception):
    """A backbone that is unknown or cannot be read; the message says what to do."""


def backbone_folder(name: str | Path) -> Path:
    """Folder of a backbone, by its name or path.

    Raises:
        BackboneError: neither a known name nor a folder that holds a diffusers pipeline.
    """
    allowed = f"allowed are {', '.join(BACKBONES)} and the path of a diffusers Stable Diffusion folder"
    folder, command = BACKBONES.get(str(name), (Path(name).expanduser(), None))
    if (folder / "model_index.json").is_file() and all((folder / part).is_dir() for part in COMPONENTS):
        return folder
    if command:
        raise BackboneError(f"the {name} backbone is missing from {folder}; restore it from git or train it: {command}")
    if folder.is_file():
        raise BackboneError(f"backbone {str(name)!r} is a single file, which this version does not read; {allowed}")
    if folder.is_dir():
        lacking = [part for part in ("model_index.json", *COMPONENTS) if not (folder / part).exists()]
        raise BackboneError(f"backbone {str(name)!r}: no {', '.join(lacking)} in this folder; {allowed}")
    raise BackboneError(f"unknown backbone {str(name)!r}; {allowed}")


def backbone_fingerprint(name: str | Path) -> str:
    """Sixteen hexadecimal digits that stand for every configuration and weight file of a backbone.

    Cheap: files up to 64 MiB are read whole; of larger ones the size and 256 evenly spaced samples of 16 KiB, the
    first and last bytes among them.

    Raises:
        BackboneError: there is no such backbone.
    """
    folder = backbone_folder(name)
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".txt", ".safetensors", ".bin") and file.is_file():
            total.update(file.relative_to(folder).as_posix().encode() + b"\0" + _digest(file, *_state(file)))
    return total.hexdigest()[:16]


def _state(file: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=256)  # a graph of runs asks for every one of its runs; a file that changed is read again
def _digest(file: Path, size: int, changed: int) -> bytes:
    if size <= WHOLE_FILE:
        return hashlib.sha256(file.read_bytes()).digest()
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for sample in range(256):
            stream.seek(sample * (size - SAMPLE) // 255)
            digest.update(stream.read(SAMPLE))
    return digest.digest()


@dataclass(frozen=True)
class Clip:
    """An open_clip model whose features of pictures and texts can be compared by their cosine."""

    model: nn.Module
    tokenizer: Any

    def image_features(self, images: np.ndarray, batch_size: int = 64) -> Tensor:
        """Unit-length features of pictures, uint8 (n, height, width, 3) -> float32 (n, d) on the CPU."""
        import torch
        from torch.nn.functional import interpolate, normalize

        settings = self.model.visual.preprocess_cfg
        size = settings["size"] if isinstance(settings["size"], (tuple, list)) else (settings["size"],) * 2
        first = next(self.model.parameters())
        mean, std = (first.new_tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
        features = []
        with torch.inference_mode():
            for batch in as_tensor(images).split(batch_size):  # (b, 3, height, width)
                batch = batch.to(first.device, first.dtype)
                if batch.shape[-2:] != tuple(size):
                    batch = interpolate(batch, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
                features.append(normalize(self.model.encode_image((batch - mean) / std).float(), dim=-1).cpu())
        return torch.cat(features)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unit-length features of texts: float32 (n, d) on the CPU."""
        import torch
        from torch.nn.functional import normalize

        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            return normalize(self.model.encode_text(tokens).float(), dim=-1).cpu()


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone: one copy of the weights, frozen, for both stages of the cascade."""

    name: str
    pipeline: StableDiffusionPipeline  # without a safety checker: pictures are not filtered
    judge: nn.Module | None  # pictures (n, 3, height, width) in [0, 1] -> dict of logits; .features(pictures)
    clip: Clip | None
    fingerprint: str

    @property
    def resolution(self) -> int:
        """Height and width in pixels of the pictures it makes."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def states_shape(self) -> tuple[int, int]:
        """(tokens, width) of the text states of one text."""
        return self.pipeline.tokenizer.model_max_length, self.pipeline.text_encoder.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.unet.dtype

    def text_states(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Last hidden states of the text encoder, as the pipeline itself would condition on them.

        Args:
            texts: n texts; one that is too long is cut, with a warning, as the pipeline does.

        Returns:
            (n, tokens, width) float32 on the CPU, padded to the tokenizer's longest text, after the final layer norm.
        """
        import torch

        states = [torch.empty(0, *self.states_shape)]
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                batch = list(texts[start : start + batch_size])
                encoded, _ = self.pipeline.encode_prompt(batch, self.device, 1, do_classifier_free_guidance=False)
                states.append(encoded.float().cpu())
        return torch.cat(states)


def load_backbone(name: str | Path = "phantom", device: str | torch.device | None = None) -> Backbone:
    """Load a backbone, frozen and in evaluation mode: half precision on a GPU, single precision on a CPU.

    Args:
        name: "phantom", or the path of a diffusers Stable Diffusion folder.
        device: where it computes; None: a GPU if there is one.

    Raises:
        BackboneError: an unknown name, or a folder whose files cannot be read.
    """
    folder = backbone_folder(name)

    import torch
    from diffusers import StableDiffusionPipeline

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # Weights are kept in half precision, which a CPU computes slowly.
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    only_half = not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    try:
        with _no_progress_bars():
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder),
                dtype=dtype,
                variant="fp16" if only_half else None,
                use_safetensors=True,
                local_files_only=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        judge, clip = _load_judge(folder / "judge", device), _load_clip(folder / "clip", device)
    except Exception as error:  # whatever the libraries raise for a file that is absent, cut short or foreign
        raise BackboneError(f"backbone {str(name)!r} cannot be read from {folder}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)  # the stages show one of their own, over all pictures
    pipeline.to(device)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    return Backbone(
        name=str(name),
        pipeline=pipeline,
        judge=judge,
        clip=clip,
        fingerprint=backbone_fingerprint(name),
    )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence the libraries' bars over the handful of files of a folder."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _load_judge(folder: Path, device: torch.device) -> nn.Module | None:
    if not folder.is_dir():
        return None
    from .phantom.judge import load_judge

    return load_judge(folder).to(device)


def _load_clip(folder: Path, device: torch.device) -> Clip | None:
    if not folder.is_dir():
        return None
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}", device=device).float().eval().requires_grad_(False)
    return Clip(model, open_clip.get_tokenizer(f"local-dir:{folder}"))


def as_tensor(images: np.ndarray) -> Tensor:
    """Pictures, uint8 (n, height, width, 3), as float32 (n, 3, height, width) in [0, 1]."""
    import torch
    from einops import rearrange

    return rearrange(torch.as_tensor(images), "n h w c -> n c h w").float() / 255
