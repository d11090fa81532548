"""A folder that stores generated pictures one by one, so that an interrupted generation resumes where it stopped.

Each picture is a PNG file. `index.json`, written first, says what each picture is and what it is made from; pictures
made from anything else are never reused but made again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from brainvis.files import BrainvisError, check_writable, read_json, remove_leftovers, write_aside, write_json

FILES = "trial-*_sample-*.png"


class PictureError(BrainvisError):
    """Pictures that cannot be stored as requested."""


def as_tensor(images: np.ndarray) -> Tensor:
    """Pictures, uint8 (n, height, width, 3), as float32 (n, 3, height, width) in [0, 1]."""
    return rearrange(torch.as_tensor(images), "n h w c -> n c h w").float() / 255


@dataclass(frozen=True)
class Picture:
    """Identifies a picture."""

    trial: int
    sample: int
    prompt: str  # guides the generation

    @property
    def file(self) -> str:
        return f"trial-{self.trial:05d}_sample-{self.sample}.png"


class PictureFolder:
    """The pictures of one stage: all that will be made, in order, each of `shape` (height, width, 3).

    `made_from` is all that they depend on besides trial, sample and prompt; pictures in `folder` made from anything
    else are removed. PictureError if two pictures have the same trial and sample, or the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, pictures: Sequence[Picture], shape: tuple[int, int, int], made_from: dict, about: str
    ) -> None:
        self.folder, self.pictures, self.shape = Path(folder), list(pictures), shape
        names = [one.file for one in self.pictures]
        if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
            raise PictureError(f"{repeated[0]} would be written twice: its trial number is listed twice")
        entries = [{"file": one.file, **asdict(one)} for one in self.pictures]
        index = {"about": about, "made_from": made_from, "pictures": entries}
        try:
            missing = sum(not (self.folder / name).exists() for name in names)
            check_writable(self.folder, missing * prod(shape) // 2)  # before hours of drawing; PNG may halve them
            self._remove_others(index)  # before writing the new index
            write_json(self.folder / "index.json", index)
        except OSError as error:
            raise PictureError(f"pictures cannot be stored: {error}") from error

    def read(self, batch: slice, images: np.ndarray) -> bool:
        """Fill `images`, uint8 (b, height, width, 3), with the pictures of a batch; False if not all are complete."""
        for one, image in zip(self.pictures[batch], images, strict=True):
            pixels = _read(self.folder / one.file)
            if pixels is None or pixels.shape != self.shape:
                return False
            image[:] = pixels
        return True

    def write(self, batch: slice, images: np.ndarray) -> None:
        """Write the pictures of a batch, uint8 (b, height, width, 3); PictureError if writing fails."""
        for one, image in zip(self.pictures[batch], images, strict=True):
            picture, file = Image.fromarray(image), self.folder / one.file
            try:
                # Not durable: a picture damaged by a power failure is detected by its checksums and made again.
                write_aside(file, lambda path, picture=picture: picture.save(path, "PNG"), durable=False)
            except OSError as error:
                kept = "Earlier pictures are kept; run again to continue from there"
                raise PictureError(f"{error} {kept}") from error

    def _remove_others(self, index: dict) -> None:
        """Remove pictures that do not belong to `index`, and partial files left by a killed process."""
        remove_leftovers(self.folder, FILES)
        known = {}
        with suppress(BrainvisError):
            known = read_json(self.folder / "index.json", {})
        made_from, old = index["made_from"], known.get("made_from")
        present = list(self.folder.glob(FILES))
        if not present or (old == made_from and known.get("pictures") == index["pictures"]):
            return
        why = "that have no readable index"
        if isinstance(old, dict):
            differing = [key.replace("_", " ") for key in {**old, **made_from} if old.get(key) != made_from.get(key)]
            why = f"made from something else (different {', '.join(differing or ['trials or prompts'])})"
        for file in present:
            file.unlink(missing_ok=True)
        tqdm.write(f"{self.folder}: replacing {len(present)} pictures {why}")


def _read(file: Path) -> np.ndarray | None:
    """Pixels of a picture; None if it is missing or damaged."""
    try:
        content = file.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()  # checks the checksums of all parts, which decoding alone ignores
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            return np.asarray(picture)
    except Exception:  # a damaged file can raise anything
        return None
