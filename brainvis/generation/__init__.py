"""Text-to-image generators by name. A generator is one entry in `GENERATORS`; nothing else refers to it by name.

This module, `weights` and `checkpoints` are light: they import torch only when something is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from brainvis.configuration import Generation
from brainvis.generation.weights import BackboneError, backbone_contents, backbone_fingerprint, find_backbone

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Generator(Protocol):
    """A frozen text-to-image model: the interface that the cascade, text embeddings and judges need.

    It may have `check(steps, strength)`, which raises ValueError for unusable settings; the cascade calls it before it
    removes pictures made with other settings.
    """

    name: str
    fingerprint: str  # of its weights and architecture
    resolution: int  # height and width of its pictures, pixels
    conditioning_shape: tuple[int, int]  # (tokens, width) of the embedding of one text
    judge: nn.Module | None  # pictures (n, 3, height, width) in [0, 1] -> dict of logits; .features(pictures)
    clip: Any | None  # .image_features(pictures, uint8), of unit length
    device: torch.device
    dtype: torch.dtype

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts: (n, tokens, width) float32 on the CPU."""

    def draw(self, embeddings: Tensor, noise: list[torch.Generator], config: Generation) -> Tensor:
        """Pictures (b, 3, height, width) in [0, 1] from embeddings (b, tokens, width), each with its own noise."""

    def refine(
        self, pictures: Tensor | None, names: list[str], noise: list[torch.Generator], config: Generation
    ) -> Tensor:
        """Pictures (b, 3, height, width) in [0, 1] redrawn to match their names, or drawn from the names alone."""


@dataclass(frozen=True)
class GeneratorSource:
    """Where a generator comes from."""

    load: Callable[..., Generator]  # load(device=None), also with precision="float32" if one is requested
    fingerprint: Callable[[], str]  # of all that its pictures depend on, without loading it
    contents: Callable[[], dict[str, str]] = dict  # digests of its files, by name, to say which has changed


def _stable_diffusion(name: str) -> GeneratorSource:
    def load(device: torch.device | str | None = None, precision: str = "auto") -> Generator:
        from brainvis.generation.stable_diffusion import load_stable_diffusion

        return load_stable_diffusion(name, device, precision=precision)

    return GeneratorSource(load, partial(backbone_fingerprint, name), partial(backbone_contents, name))


GENERATORS: dict[str, GeneratorSource] = {name: _stable_diffusion(name) for name in ("phantom", "sd15")}


def generator_source(name: str | Path) -> GeneratorSource:
    """An entry of `GENERATORS`, or Stable Diffusion in a diffusers folder or a single file; else BackboneError."""
    if str(name) in GENERATORS:
        return GENERATORS[str(name)]
    try:
        find_backbone(name)
    except BackboneError as error:
        raise BackboneError(f"{error}; known names: {', '.join(GENERATORS)}") from error
    return _stable_diffusion(str(name))


def load_generator(
    name: str | Path = "phantom", device: torch.device | str | None = None, precision: str = "auto"
) -> Generator:
    """A frozen generator; `device` None: the best available; `precision` "auto": the generator's preferred one, else
    "float32" or "bfloat16". BackboneError if it cannot be found or read."""
    return generator_source(name).load(device, **({} if precision == "auto" else {"precision": precision}))
