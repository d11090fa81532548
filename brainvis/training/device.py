"""Choice of device and precision from what the machine offers."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

# Asks the driver whether there is a GPU, without starting CUDA: a process that has started CUDA cannot be forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

CLEARLY = 1.5  # times as fast; CPUs measure near 2, or at 1 and below, so chance does not change the decision
SECONDS = 0.15  # of measurement

computed_in: dict[str, dict] = {}  # device and precision of each computation in this process, by name


@dataclass(frozen=True)
class Precision:
    """The precision of matrix products, "float32" or "bfloat16", and why; weights and sums are float32 in both."""

    precision: str
    why: str

    def context(self, device: torch.device) -> AbstractContextManager:
        """The context in which a model computes in this precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


def choose_device(name: torch.device | str | None = None) -> torch.device:
    """The requested device (ValueError if unavailable), or the best available: CUDA, Apple's MPS, then the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [kind for kind, found in available.items() if found]
    device = torch.device(there[0] if name is None else name)
    if device.type not in there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device {str(name)!r} is not available on this machine; choose one of {there}")
    return device


def choose_precision(device: torch.device, asked: str = "auto", convolutions: bool = False) -> Precision:
    """The requested precision, or the fastest; always the same choice on the same machine.

    "auto" is bfloat16 on CUDA devices that support it and on CPUs with AMX. Other CPUs with bfloat16 instructions are
    measured once per process. For a network with `convolutions` all of these CPUs are measured, because some are slower
    in bfloat16.
    """
    if asked != "auto":
        if asked not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {asked!r}; it must be 'auto', 'float32' or 'bfloat16'")
        return Precision(asked, "requested")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "the GPU supports it")
        return Precision("float32", "the GPU does not support bfloat16")
    if device.type != "cpu":
        return Precision("float32", f"nothing else has been tried on {device.type}")
    has_tiles, can = torch.cpu._is_amx_tile_supported(), torch.cpu.get_capabilities()
    if has_tiles and not convolutions:
        return Precision("bfloat16", "the CPU has AMX")
    if not (has_tiles or can.get("avx512_bf16") or can.get("bf16")):  # x86 or Arm
        return Precision("float32", "the CPU has no bfloat16 instructions")
    what = "convolutions" if convolutions else "matrix products"
    if bfloat16_gain(convolutions) < CLEARLY:
        return Precision("float32", f"measured: {what} on this CPU are not {CLEARLY} times as fast in bfloat16")
    return Precision("bfloat16", f"measured: {what} on this CPU are at least {CLEARLY} times as fast in bfloat16")


@cache
def bfloat16_gain(convolutions: bool = False) -> float:
    """How many times faster this CPU computes matrix products or convolutions in bfloat16 than in float32: the best of
    many alternating runs, in processor time, so that other load on the machine does not favour either."""
    pairs = [_factors(dtype, convolutions) for dtype in (torch.float32, torch.bfloat16)]
    best, start = [float("inf"), float("inf")], time.thread_time()
    while time.thread_time() < start + SECONDS:
        for index, (first, second) in enumerate(pairs):
            before = time.thread_time()
            functional.conv2d(first, second, padding=1) if convolutions else first @ second
            best[index] = min(best[index], time.thread_time() - before)
    return best[0] / best[1]


def _factors(dtype: torch.dtype, convolutions: bool) -> list[Tensor]:
    """Ones, not random numbers, so that no random state is touched."""
    if not convolutions:
        return [torch.ones(512, 512, dtype=dtype) for _ in range(2)]
    shapes = (4, 256, 16, 16), (256, 256, 3, 3)  # pictures and kernels
    return [torch.ones(shape, dtype=dtype).to(memory_format=torch.channels_last) for shape in shapes]
