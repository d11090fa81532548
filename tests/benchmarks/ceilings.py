"""What the machine can do: matrix products, convolutions, copies in memory. Contestants, see `turns`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from benchmarks.turns import Turns, Who, compete, spread

SECONDS = {"paper": 1.0, "demo": 0.3, "smoke": 0.01}  # of one turn
# Sizes like the models': rows (16 trials of 110 units; 64 of 44), width, feed-forward width.
PRODUCTS = {"paper": (1760, 1024, 4096), "demo": (2816, 96, 384), "smoke": (64, 32, 64)}
# Like the backbones': pictures, channels, pixels of a side.
CONVOLUTIONS = {"paper": (2, 320, 64), "demo": (32, 64, 32), "smoke": (2, 8, 8)}
COPY = {"paper": 2**29, "demo": 2**29, "smoke": 2**20}  # bytes, more than any cache holds


def matrix_products(turns: Turns, shape: tuple[int, int, int], precision: str, device: str, seconds: float) -> None:
    """(rows, width) @ (width, out) of random numbers; units are operations."""
    rows, width, out = shape
    inputs, weights = (
        torch.randn(*sizes, device=device).to(getattr(torch, precision)) for sizes in ((rows, width), (out, width))
    )
    _repeat(turns, lambda: functional.linear(inputs, weights), 2 * rows * width * out, seconds)


def convolutions(turns: Turns, shape: tuple[int, int, int], precision: str, device: str, seconds: float) -> None:
    """3 x 3 convolutions of as many channels to as many, channels last; units are operations."""
    pictures, channels, side = shape
    place = {"device": device, "dtype": getattr(torch, precision)}
    images = torch.randn(pictures, channels, side, side, device=device).to(**place)
    images = images.contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last, **place)
    _repeat(turns, lambda: layer(images), 2 * 9 * channels**2 * pictures * side**2, seconds)


def copies(turns: Turns, size: int, device: str, seconds: float) -> None:
    """From one array to another; units are bytes read and written."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    _repeat(turns, lambda: target.copy_(source), 2 * size, seconds)


def _repeat(turns: Turns, call: Callable[[], object], units: int, seconds: float) -> None:
    """Turns of about so many seconds each."""
    with torch.inference_mode():
        for repeats in (1, 2):  # the first one prepares more than it does
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            _settled()
            once = (time.perf_counter() - start) / repeats
        repeats = max(1, round(seconds / max(once, 1e-7)))
        turns.ready()
        while True:
            for _ in range(repeats):
                call()
            turns(units * repeats)


def _settled() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def product_ceiling(size: str, precision: str, device: str) -> Who:
    """The contestant that shows what matrix products of this size can do."""
    arguments = {"shape": PRODUCTS[size], "precision": precision, "device": device, "seconds": SECONDS[size]}
    return "benchmarks.ceilings:matrix_products", arguments


def convolution_ceiling(size: str, precision: str, device: str) -> Who:
    """The contestant that shows what convolutions of this size can do."""
    arguments = {"shape": CONVOLUTIONS[size], "precision": precision, "device": device, "seconds": SECONDS[size]}
    return "benchmarks.ceilings:convolutions", arguments


def measurements(options) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """All ceilings, each in turns with that of float32."""
    precisions = ["float32", "bfloat16", *(["float16"] if options.device != "cpu" else [])]
    for size in options.sizes:
        for name, ceiling in (("matrix products", product_ceiling), ("convolutions", convolution_ceiling)):
            who = {f"{name}, {kind}": ceiling(size, kind, options.device) for kind in precisions}
            for case in who:
                pair = {"float32": who[f"{name}, float32"]} if case != f"{name}, float32" else {}
                pair["case"] = who[case]
                yield case, size, lambda pair=pair: _row(pair, "GFLOP/s", options)
        arguments = {"size": COPY[size], "device": options.device, "seconds": SECONDS[size]}
        copy = {"case": ("benchmarks.ceilings:copies", arguments)}
        yield "memory copy", size, lambda copy=copy: _row(copy, "GB/s", options)


def _row(pair: dict[str, Who], unit: str, options) -> dict:
    outcome = compete(pair, options.rounds or 3, options.environment)
    row = {"unit": unit, "package": spread([rate / 1e9 for rate in outcome.rates["case"]]), "settings": pair["case"][1]}
    return row | ({"times_float32": spread(outcome.ratio("case", "float32"))} if "float32" in pair else {})
