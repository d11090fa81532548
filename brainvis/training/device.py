"""What computes, and in which numbers: device and precision, chosen from what the machine has."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

# Whether there is a GPU is asked of its driver, without starting CUDA: a process that has started it cannot be forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

LARGE = 1024  # rows and columns; matrices from here on are worth their conversion to bfloat16, measured on a Zen 4
CLEARLY = 1.5  # times as fast; CPUs come out near 2, or at 1 and below: chance does not turn one into the other
SECONDS = 0.5  # of measuring

computed_in: dict[str, dict] = {}  # device and precision of all that this process computed, by name: results say so


@dataclass(frozen=True)
class Precision:
    """The numbers of matrix products, "float32" or "bfloat16", and why; weights and sums are float32 in both."""

    precision: str
    why: str

    def context(self, device: torch.device) -> AbstractContextManager:
        """In which a model computes in this precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


def choose_device(name: torch.device | str | None = None) -> torch.device:
    """The device asked for (ValueError if it is not here), or the best there is: CUDA, Apple's MPS, then the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [kind for kind, found in available.items() if found]
    device = torch.device(there[0] if name is None else name)
    if device.type not in there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"no device {str(name)!r} on this machine; choose from {there}")
    return device


def choose_precision(device: torch.device, asked: str = "auto", model: nn.Module | None = None) -> Precision:
    """The precision asked for, or the fastest: the same whenever it is asked for on the same machine.

    "auto" is bfloat16 on CUDA devices that compute in it and on CPUs with AMX. Other CPUs with instructions for it are
    measured, once a process, for a model that is large enough to gain. All else is float32.
    """
    if asked != "auto":
        if asked not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {asked!r}; it has to be 'auto', 'float32' or 'bfloat16'")
        return Precision(asked, "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "the GPU computes in it")
        return Precision("float32", "the GPU does not compute in bfloat16")
    if device.type != "cpu":
        return Precision("float32", f"nothing else was tried on {device.type}")
    if torch.cpu._is_amx_tile_supported():
        return Precision("bfloat16", "the CPU has AMX")
    can = torch.cpu.get_capabilities()
    if not (can.get("avx512_bf16") or can.get("bf16")):  # x86 or Arm
        return Precision("float32", "the CPU has no instructions for bfloat16")
    if model is None or not _is_large(model):
        return Precision("float32", f"most weights are in matrices below {LARGE} x {LARGE}: this CPU gains little")
    if bfloat16_gain() < CLEARLY:
        return Precision("float32", f"measured: this CPU is not {CLEARLY} times as fast in bfloat16")
    return Precision("bfloat16", f"measured: this CPU is at least {CLEARLY} times as fast in it")


def _is_large(model: nn.Module) -> bool:
    """Whether most weights are in matrices of `LARGE` rows and columns or more."""
    matrices = [weight.flatten(1) for weight in model.parameters() if weight.ndim > 1]
    large = [matrix.numel() for matrix in matrices if min(matrix.shape) >= LARGE]
    return sum(large) > sum(matrix.numel() for matrix in matrices) / 2


@cache
def bfloat16_gain() -> float:
    """How many times faster this CPU multiplies matrices in bfloat16 than in float32: the best of many, in turn, so
    that what else the machine does falls on both."""
    matrices = [torch.ones(LARGE, LARGE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]  # no chance in it
    best, start = [float("inf"), float("inf")], time.monotonic()
    while time.monotonic() < start + SECONDS:
        for index, matrix in enumerate(matrices):
            before = time.perf_counter()
            matrix @ matrix
            best[index] = min(best[index], time.perf_counter() - before)
    return best[0] / best[1]
