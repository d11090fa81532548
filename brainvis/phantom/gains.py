"""The knobs of the phantom: how strongly each attribute of a picture drives the brain, and what makes data the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from brainvis.configuration import Phantom

GENERATOR_VERSION = 1  # raised whenever the same parameters and gains would give other data


@dataclass(frozen=True)
class Gains:
    """Amplitude of each response at the scalp (root mean square over channels, at its peak and of one source), in
    standard deviations of the ongoing background. These decide how well each attribute can be decoded."""

    onset: float = 1.0  # common to all pictures
    position: float = 3.2
    shape: float = 0.44
    colour: float = 0.9
    background: float = 2.2


GAINS = Gains()


def phantom_identity(phantom: Phantom, seed: int, gains: Gains = GAINS) -> dict:
    """Everything that decides the numbers in a phantom's files."""
    return {"phantom": asdict(phantom), "seed": seed, "gains": asdict(gains), "version": GENERATOR_VERSION}
