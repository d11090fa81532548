"""The CLIP model that may come with a generator, for comparing pictures."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from brainvis.generation.pictures import as_tensor


@dataclass(frozen=True)
class Clip:
    """An open_clip model whose picture features can be compared by cosine."""

    model: nn.Module

    @torch.inference_mode()
    def image_features(self, images: np.ndarray, batch_size: int = 64) -> Tensor:
        """Unit-length features of pictures, uint8 (n, height, width, 3) -> float32 (n, d) on the CPU."""
        settings = self.model.visual.preprocess_cfg
        size = settings["size"] if isinstance(settings["size"], (tuple, list)) else (settings["size"],) * 2
        first = next(self.model.parameters())
        mean, std = (first.new_tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
        features = []
        for batch in as_tensor(images).split(batch_size):  # (b, 3, height, width)
            batch = batch.to(first.device, first.dtype)
            if batch.shape[-2:] != tuple(size):
                batch = interpolate(batch, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
            features.append(normalize(self.model.encode_image((batch - mean) / std).float(), dim=-1).cpu())
        return torch.cat(features)
