"""Writes Stable Diffusion 1.5's architecture with random weights, to rehearse at full size without the real ones.

python tests/benchmarks/random_stable_diffusion.py FOLDER                          a diffusers folder, 2.1 GB
python tests/benchmarks/random_stable_diffusion.py FILE.safetensors --single-file  the original layout, 2.1 GB
python tests/benchmarks/random_stable_diffusion.py FOLDER_OR_FILE --load           time and memory that loading takes

Both hold the same weights, in half precision. Pictures made with them are noise.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.original_layout import write_safetensors
from helpers.tiny_backbone import random_pipeline

from brainvis.files import write_aside
from brainvis.generation.stable_diffusion import CONFIGURATION, load_stable_diffusion


def write(target: Path, single_file: bool, seed: int) -> None:
    """Write the random pipeline."""
    pipeline = random_pipeline(CONFIGURATION, seed, torch.float16)
    if single_file:
        write_aside(target, lambda aside: write_safetensors(pipeline, aside))
    else:
        pipeline.save_pretrained(target, variant="fp16")


def load(target: Path) -> None:
    """Load it, and print what that took and what came out."""
    start = time.perf_counter()
    backbone = load_stable_diffusion(target)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipeline = backbone.pipeline
    print(f"loaded in {seconds:.1f} s on {backbone.device} as {backbone.dtype}, fingerprint {backbone.fingerprint}")
    print(f"most memory ever held: {peak / 1e9:.2f} GB, pages mapped from the file among them")
    for part in ("unet", "vae", "text_encoder"):
        weights = sum(parameter.numel() for parameter in getattr(pipeline, part).parameters())
        print(f"{part}: {weights / 1e6:.1f} million parameters")
    with torch.inference_mode():
        states = backbone.text_embeddings(["a photo of a cat"])
        size = pipeline.unet.config.sample_size
        latents = torch.randn(1, 4, size, size, generator=torch.manual_seed(0)).to(backbone.device, backbone.dtype)
        start = time.perf_counter()
        noise = pipeline.unet(latents, 500, states.to(latents)).sample.float()
    print(f"text embeddings: mean {states.mean():.6f}, standard deviation {states.std():.6f}")
    print(f"UNet: mean {noise.mean():.6f}, standard deviation {noise.std():.6f}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--single-file", action="store_true")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.target)
    else:
        write(arguments.target, arguments.single_file, arguments.seed)
