"""Times forward and backward of every model, the spectrum, and two ways to write attention. Nothing is asserted.

python tests/benchmarks/models.py [demo|paper] [--batch 128] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from brainvis.configuration import PRESETS
from brainvis.models.alignment import AlignedEncoder, AlignmentNetwork, semantic_interpolation_loss
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.fusion import FusedEncoder
from brainvis.models.spectrum import amplitude_spectrum
from brainvis.models.time import LatentMaskedModel, TimeEncoder
from brainvis.training import choose_device

CHANNELS, SAMPLES, RATE, CLASSES = 128, 440, 1000.0, 40


def milliseconds(call: Callable[[], torch.Tensor], device: torch.device, repeats: int = 5) -> float:
    """Best of `repeats`, of the call and, where its result can be differentiated, of the way back."""
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        result = call()
        if result.requires_grad:
            result.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])


def explicit(query, key, value, dropout):
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return functional.dropout(weights.softmax(-1), dropout) @ value


def fused(query, key, value, dropout):
    return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="demo", choices=PRESETS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config, device = PRESETS[arguments.preset], choose_device()
    shape = (77, 768) if arguments.preset == "paper" else (16, 96)
    trials = torch.randn(arguments.batch, CHANNELS, SAMPLES, device=device)
    embeddings = torch.randn(arguments.batch, *shape, device=device)

    trial = {"n_chans": CHANNELS, "n_times": SAMPLES, "sfreq": RATE}
    masked = LatentMaskedModel(TimeEncoder(**trial, config=config.time)).to(device)
    time_branch = TimeEncoder(**trial, n_outputs=CLASSES, config=config.time).to(device)
    frequency_branch = FrequencyEncoder(**trial, n_outputs=CLASSES, config=config.frequency).to(device)
    joined = FusedEncoder(**trial, n_outputs=CLASSES, configuration=config).to(device)
    network = AlignmentNetwork(joined.width + CLASSES, shape, config.alignment)
    aligned = AlignedEncoder(joined, network).to(device)

    def alignment() -> torch.Tensor:
        return semantic_interpolation_loss(aligned(trials)[0], embeddings, embeddings, config.alignment)["loss"]

    calls = {
        "amplitude spectrum": lambda: amplitude_spectrum(trials, RATE, config.frequency.highest_frequency),
        "latent masked modeling": lambda: masked.losses(trials)["loss"],
        "time branch": lambda: time_branch(trials),
        "frequency branch": lambda: frequency_branch(trials),
        "fusion": lambda: joined(trials),
        "alignment": alignment,
    }
    heads, width = config.time.heads, config.time.width // config.time.heads
    for units in (time_branch.units, time_branch.units - masked.masked_units):
        for attention in (explicit, fused):
            parts = torch.randn(3, arguments.batch, heads, units, width, device=device, requires_grad=True)
            for dropout in (0.0, config.time.dropout):
                name = f"attention, {attention.__name__}, {units} units, dropout {dropout}"
                calls[name] = lambda f=attention, p=parts, d=dropout: f(*p, d)
    print(f"{arguments.preset}, batch {arguments.batch}, {device}, {arguments.threads} thread(s): milliseconds")
    for name, call in calls.items():
        print(f"{milliseconds(call, device):10.1f}  {name}", flush=True)


if __name__ == "__main__":
    main()
