"""What a picture does in the phantom's brain: each attribute drives sources of its own, in a way of its own.

| attribute | response | who can find it |
|---|---|---|
| position | evoked in early visual cortex, 80 to 130 ms, where the retinotopic map has it | time |
| shape | evoked along the ventral stream, 100 to 300 ms, a code over sources and latencies | time |
| colour | induced: bursts of random phase in two of four bands, which average out | frequency |
| size | gain and latency of everything evoked | time |
| background | sustained, from 150 ms on | time |
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.linalg import hadamard

from brainvis.phantom import head
from brainvis.phantom.gains import GAINS, Gains
from brainvis.phantom.spectrum import TIMES, bursts, delays, spectra_of
from brainvis.phantom.stimuli import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES

# Size acts on every evoked response: larger is stronger and earlier.
SIZE_GAINS = np.array([0.85, 1.0, 1.15], np.float32)
SIZE_DELAYS = np.array([0.005, 0.0, -0.005], np.float32)  # seconds
LATENCY_JITTER = 0.002  # standard deviation from trial to trial, seconds

POSITION_LATENCY = 0.100  # seconds, of the early response
SHAPE_LATENCIES = np.array([0.125, 0.175, 0.225, 0.275])  # seconds, of the elements of the ventral code
COLOUR_BANDS = np.array([17.0, 29.0, 41.0, 67.0])  # hertz, centres; clear of alpha and of the power line
COLOUR_PAIRS = np.array(list(combinations(range(len(COLOUR_BANDS)), 2)))  # (6, 2): the two bands of each colour

# Where the sources are: millimetres in the head's coordinates, and the direction of the dipole.
VENTRAL = (  # V4, lateral occipital, parietal and frontal, left and right
    ((-24, -62, -14), (-0.3, -0.5, -1.0)),
    ((24, -62, -14), (0.3, -0.5, -1.0)),
    ((-42, -58, -2), (-1.0, -0.4, 0.2)),
    ((42, -58, -2), (1.0, -0.4, 0.2)),
    ((-26, -46, 50), (-0.2, -0.5, 1.0)),
    ((26, -46, 50), (0.2, -0.5, 1.0)),
    ((-36, 40, 36), (-0.4, 1.0, 0.5)),
    ((36, 40, 36), (0.4, 1.0, 0.5)),
)
COLOUR = (  # fusiform and V4: two sources a band
    ((-30, -52, -22), (-0.4, 0.3, -1.0)),
    ((30, -52, -22), (0.4, 0.3, -1.0)),
    ((-16, -70, -16), (0.5, -1.0, -0.6)),
    ((16, -70, -16), (-0.5, -1.0, -0.6)),
    ((-38, -40, -18), (-1.0, 0.0, -0.5)),
    ((38, -40, -18), (1.0, 0.0, -0.5)),
    ((-30, -66, 6), (-1.0, -0.8, 0.6)),
    ((30, -66, 6), (1.0, -0.8, 0.6)),
)
BACKGROUND = (  # V2 and V3, dorsal and ventral: one source a background
    ((-16, -66, 26), (-0.2, -1.0, 1.0)),
    ((16, -66, 26), (1.0, -0.2, 1.0)),
    ((-14, -70, -22), (-1.0, 0.1, -0.7)),
    ((14, -70, -22), (-0.2, -1.0, -0.7)),
)


def early_visual_sources() -> tuple[np.ndarray, np.ndarray]:
    """One dipole a position, by the map of early visual cortex: the left field is seen in the right hemisphere, the
    upper field on the lower bank of the calcarine sulcus, whose dipoles point the other way (the C1 component)."""
    column, row = np.arange(len(POSITIONS)) % 3 - 1, np.arange(len(POSITIONS)) // 3 - 1  # right and down positive
    places = np.stack([-16 * column, np.full(len(POSITIONS), -68), 14 * row], axis=1)
    return places / 1000, np.stack([-column, np.full(len(POSITIONS), -0.6), row], axis=1)


def _shape_codes() -> np.ndarray:
    """Signs (shape, source, latency) of the ventral code.

    Rows of a Hadamard matrix: any two shapes differ in half of all elements, while every shape has the same energy in
    every source and at every latency, so that power alone says little about shape.
    """
    elements = len(VENTRAL) * len(SHAPE_LATENCIES)
    rng = np.random.default_rng(20)  # part of the world, whatever the seed of a data set
    matrix = hadamard(elements)[1 + rng.permutation(elements - 1)[: len(SHAPES)]]
    return matrix[:, rng.permutation(elements)].reshape(len(SHAPES), len(VENTRAL), -1).astype(np.float32)


SHAPE_CODES = _shape_codes()


@dataclass(frozen=True)
class Subject:
    """How one head differs from the others."""

    gain: float  # of all responses
    delay: float  # of all evoked responses, seconds
    turn: float  # typical rotation of source orientations, radians
    alpha_frequency: float  # hertz
    alpha_gain: float
    noise: float  # of the ongoing EEG

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Subject:
        """A subject at random, moderately unlike the others."""
        return cls(
            gain=float(np.exp(rng.normal(0, 0.1))),
            delay=float(rng.uniform(-0.004, 0.004)),
            turn=float(np.deg2rad(rng.uniform(5, 15))),
            alpha_frequency=float(rng.uniform(9.0, 11.5)),
            alpha_gain=float(np.exp(rng.normal(0, 0.3))),
            noise=float(np.exp(rng.normal(0, 0.08))),
        )


class PictureResponses:
    """The sources of one subject that pictures drive, and their activity in each trial."""

    def __init__(self, subject: Subject, rng: np.random.Generator, gains: Gains = GAINS):
        self.subject = subject
        self.gains = gains
        table = np.array(VENTRAL + COLOUR + BACKGROUND, float)  # (source, 2, 3)
        early_places, early_directions = early_visual_sources()
        places = np.concatenate([early_places, table[:, 0] / 1000])
        directions = np.concatenate([early_directions, table[:, 1]])
        self.topographies = head.topographies(places, head.rotated(directions, subject.turn, rng))  # (channel, source)
        ends = np.cumsum([len(POSITIONS), len(VENTRAL), len(COLOUR), len(BACKGROUND)])
        self.early, self.ventral, self.colour, self.background = (
            slice(start, end) for start, end in zip([0, *ends], ends, strict=False)
        )

        onset = bursts(1, 0.09, 0.016, 11, 0) - bursts(0.8, 0.16, 0.03, 8, 0) + bursts(0.5, 0.24, 0.04, 5, 0)
        self.onset_wave = spectra_of(onset)  # (frequency,)
        self.position_wave = spectra_of(bursts(1, POSITION_LATENCY, 0.013, 15, 0))
        elements = spectra_of(bursts(1, SHAPE_LATENCIES, 0.016, 14, 0))  # (latency, frequency)
        self.shape_waves = np.einsum("hsl,lf->hsf", SHAPE_CODES, elements)  # (shape, source, frequency)
        plateau = 1 / (1 + np.exp(-(TIMES - 0.18) / 0.012)) - 1 / (1 + np.exp(-(TIMES - 0.46) / 0.03))
        self.background_wave = spectra_of(plateau)

    def spectra(self, attributes: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """Activity of every source in trials that show pictures with these attributes.

        Args:
            attributes: "shape", "colour", "size", "position", "background" -> (trial,) indices.
            rng: of what differs from trial to trial: latency, and phase, amplitude and latency of induced bursts.

        Returns:
            complex64 (trial, source, frequency).
        """
        count = len(attributes["shape"])
        size = attributes["size"]
        spectra = np.zeros((count, self.topographies.shape[1], self.onset_wave.shape[0]), np.complex64)

        delay = self.subject.delay + SIZE_DELAYS[size] + rng.normal(0, LATENCY_JITTER, count)
        evoked = delays(delay) * (self.subject.gain * SIZE_GAINS[size])[:, None].astype(np.float32)  # (trial, freq.)
        trials = np.arange(count)
        early = spectra[:, self.early]
        early[:, POSITIONS.index("centre")] += self.gains.onset * evoked * self.onset_wave
        early[trials, attributes["position"]] += self.gains.position * evoked * self.position_wave
        spectra[:, self.ventral] = self.gains.shape * evoked[:, None] * self.shape_waves[attributes["shape"]]
        sustained = spectra[:, self.background]
        sustained[trials, attributes["background"]] = self.gains.background * evoked * self.background_wave

        spectra[:, self.colour] = self.subject.gain * self.induced(attributes["colour"], rng)
        return spectra

    def induced(self, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Bursts of the two bands of each colour, each in the two sources of its band: (trial, source, frequency)."""
        count, bands = len(colour), len(COLOUR_BANDS)
        active = (COLOUR_PAIRS[colour][:, :, None] == np.arange(bands)).any(axis=1)  # (trial, band)
        shape = (count, bands, 2)
        amplitude = self.gains.colour * active[..., None] * np.exp(rng.normal(0, 0.15, shape))
        waveforms = bursts(
            amplitude=amplitude,
            centre=rng.normal(0.25, 0.03, shape),
            width=0.09,
            frequency=COLOUR_BANDS[:, None] + rng.normal(0, 1.0, shape),
            phase=rng.uniform(0, 2 * np.pi, shape),
        )
        return spectra_of(waveforms).reshape(count, 2 * bands, -1)


assert len(COLOUR_PAIRS) == len(COLOURS) and len(COLOUR) == 2 * len(COLOUR_BANDS)
assert len(BACKGROUND) == len(BACKGROUNDS) and len(SIZE_GAINS) == len(SIZES)
