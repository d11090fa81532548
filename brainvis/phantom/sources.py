"""The sources in the phantom's brain: those driven by pictures, and those active whatever is shown.

Each attribute of a picture drives its own sources in its own way.

| attribute | response | branch that can read it |
|---|---|---|
| position | evoked in early visual cortex, 80 to 130 ms, at its place in the retinotopic map | time |
| shape | evoked along the ventral stream, 100 to 300 ms, a code over sources and latencies | time |
| colour | induced all over the cortex: bursts with random phases in two of four bands, which average out | frequency |
| size | gain and latency of all evoked responses | time |
| background | sustained, from 150 ms on | time |

Every source of colour has its own phase, so the scalp map differs in each trial: no filter over channels extracts it,
but power in each channel does. So each branch knows half of a class that the other does not.
"""

from itertools import combinations

import numpy as np
from numpy.random import Generator
from scipy.linalg import hadamard

from brainvis.phantom import head
from brainvis.phantom.spectrum import FREQUENCIES, TIMES, bursts, delays, random_spectra, spectra_of
from brainvis.phantom.stimuli import POSITIONS, SHAPES

# Amplitude of each response at the scalp (root mean square over channels, at its peak, of one source; colour: of all
# its sources), in standard deviations of the ongoing background. It determines how well each attribute can be decoded.
# Onset is common to all. Chosen by what the trained branches of `demo` read: each about its half of the class.
GAINS = {"onset": 1.0, "position": 3.2, "shape": 0.4, "colour": 0.9, "background": 2.2}

SIZE_GAINS = np.array([0.85, 1.0, 1.15], np.float32)  # of every evoked response: larger is stronger and earlier
SIZE_DELAYS = np.array([0.005, 0.0, -0.005], np.float32)  # seconds
LATENCY_JITTER = 0.002  # standard deviation from trial to trial, seconds

POSITION_LATENCY = 0.100  # seconds, of the early response
SHAPE_LATENCIES = np.array([0.125, 0.175, 0.225, 0.275])  # seconds, of the elements of the ventral code
COLOUR_BANDS = np.array([17.0, 29.0, 41.0, 67.0])  # hertz, centres; clear of alpha and of the power line
COLOUR_SOURCES = 20
COLOUR_WIDTH = 0.15  # standard deviation of a burst's envelope, seconds
COLOUR_PAIRS = np.array(list(combinations(range(len(COLOUR_BANDS)), 2)))  # (6, 2): the two bands of each colour

# Ongoing EEG and artefacts: amplitudes in standard deviations of the ongoing background after the band-pass filter.
BACKGROUND_SOURCES = 80
BACKGROUND_EXPONENT = 0.75  # of the amplitude spectrum: power falls with f to the power of -1.5
SENSOR_NOISE = 0.3
ALPHA_BURSTS = 1.2
BLINK_RATE = 0.05  # blinks per trial
BLINK = 6.0
LINE = 0.25
SLOW_STATES = 6
SLOW_TIME = 60.0  # time constant of the slow states, seconds


def both_sides(*left: tuple) -> tuple:
    """Dipoles (place, direction) of the left half of the brain, each followed by its mirror image on the right."""
    return tuple(side for dipole in left for side in (dipole, tuple(np.multiply(dipole, (-1, 1, 1)))))


# Positions of the sources, in millimetres in head coordinates, and the directions of their dipoles.
VENTRAL = both_sides(  # V4, lateral occipital, parietal and frontal
    ((-24, -62, -14), (-0.3, -0.5, -1.0)),
    ((-42, -58, -2), (-1.0, -0.4, 0.2)),
    ((-26, -46, 50), (-0.2, -0.5, 1.0)),
    ((-36, 40, 36), (-0.4, 1.0, 0.5)),
)
BACKGROUND = (  # V2 and V3, dorsal and ventral: one source per background
    ((-16, -66, 26), (-0.2, -1.0, 1.0)),
    ((16, -66, 26), (1.0, -0.2, 1.0)),
    ((-14, -70, -22), (-1.0, 0.1, -0.7)),
    ((14, -70, -22), (-0.2, -1.0, -0.7)),
)
ALPHA = (  # parietal and occipital
    *both_sides(((-20, -66, 30), (-0.3, -1.0, 0.6))),
    ((0, -74, 8), (0.0, -1.0, 0.2)),
    *both_sides(((-8, -40, 62), (0.0, -0.3, 1.0))),
)
EYES = (((0, 80, -12), (0.0, 1.0, 0.35)),)  # the closest that the sphere allows to the corneo-retinal dipoles


def early_visual_sources() -> tuple[np.ndarray, np.ndarray]:
    """One dipole per position, following the map of early visual cortex: the left field is seen in the right
    hemisphere, and the upper field on the lower bank of the calcarine sulcus, whose dipoles point the other way (the C1
    component)."""
    column, row = np.arange(len(POSITIONS)) % 3 - 1, np.arange(len(POSITIONS)) // 3 - 1  # right and down are positive
    places = np.stack([-16 * column, np.full(len(POSITIONS), -68), 14 * row], axis=1)
    return places / 1000, np.stack([-column, np.full(len(POSITIONS), -0.6), row], axis=1)


def _shape_codes() -> np.ndarray:
    """Signs (shape, source, latency) of the ventral code: rows of a Hadamard matrix. Any two shapes differ in half of
    all elements; each has the same energy in every source and at every latency, so power alone reveals little."""
    elements, rng = len(VENTRAL) * len(SHAPE_LATENCIES), np.random.default_rng(20)  # regardless of a data set's seed
    matrix = hadamard(elements)[1 + rng.permutation(elements - 1)[: len(SHAPES)]]
    return matrix[:, rng.permutation(elements)].reshape(len(SHAPES), len(VENTRAL), -1).astype(np.float32)


SHAPE_CODES = _shape_codes()


class Subject:
    """How one head differs, moderately, from others."""

    def __init__(self, rng: Generator):
        self.gain = float(np.exp(rng.normal(0, 0.1)))  # of all responses
        self.delay = rng.uniform(-0.004, 0.004)  # of all evoked responses, seconds
        self.turn = float(np.deg2rad(rng.uniform(5, 15)))  # typical rotation of source orientations, radians
        self.alpha_frequency = rng.uniform(9.0, 11.5)  # hertz
        self.alpha_gain = float(np.exp(rng.normal(0, 0.3)))
        self.noise = float(np.exp(rng.normal(0, 0.08)))  # of the ongoing EEG


class PictureResponses:
    """The sources of one subject that are driven by pictures, and their activity in each trial."""

    def __init__(self, subject: Subject, rng: Generator):
        self.subject = subject
        table, (places, directions) = np.array(VENTRAL + BACKGROUND, float), early_visual_sources()
        places = np.concatenate([places, table[:, 0] / 1000])  # table: (source, 2, 3)
        directions = head.rotated(np.concatenate([directions, table[:, 1]]), subject.turn, rng)
        spread = head.random_sources(COLOUR_SOURCES, rng)
        fields = head.topographies(places, directions), head.topographies(*spread)
        self.topographies = np.concatenate(fields, axis=1)  # (channel, source)
        ends = np.cumsum([len(POSITIONS), len(VENTRAL), len(BACKGROUND), COLOUR_SOURCES])
        self.early, self.ventral, self.background, self.colour = map(slice, [0, *ends[:-1]], ends)

        onset = bursts(1, 0.09, 0.016, 11, 0) - bursts(0.8, 0.16, 0.03, 8, 0) + bursts(0.5, 0.24, 0.04, 5, 0)
        self.onset_wave = spectra_of(onset)  # (frequency,)
        self.position_wave = spectra_of(bursts(1, POSITION_LATENCY, 0.013, 15, 0))
        elements = spectra_of(bursts(1, SHAPE_LATENCIES, 0.016, 14, 0))  # (latency, frequency)
        self.shape_waves = np.einsum("hsl,lf->hsf", SHAPE_CODES, elements)  # (shape, source, frequency)
        plateau = 1 / (1 + np.exp(-(TIMES - 0.18) / 0.012)) - 1 / (1 + np.exp(-(TIMES - 0.46) / 0.03))
        self.background_wave = spectra_of(plateau)

    def spectra(self, attributes: dict[str, np.ndarray], rng: Generator) -> np.ndarray:
        """Activity complex64 (trial, source, frequency) in trials that show pictures with these attributes (trial,).
        Latencies, and the phases and amplitudes of induced bursts, are random."""
        count, size = len(attributes["size"]), attributes["size"]
        spectra = np.zeros((count, self.topographies.shape[1], self.onset_wave.shape[0]), np.complex64)
        delay = self.subject.delay + SIZE_DELAYS[size] + rng.normal(0, LATENCY_JITTER, count)
        evoked = delays(delay) * (self.subject.gain * SIZE_GAINS[size])[:, None].astype(np.float32)  # (trial, freq.)
        trials = np.arange(count)
        early, sustained = spectra[:, self.early], spectra[:, self.background]
        early[:, POSITIONS.index("centre")] += GAINS["onset"] * evoked * self.onset_wave
        early[trials, attributes["position"]] += GAINS["position"] * evoked * self.position_wave
        spectra[:, self.ventral] = GAINS["shape"] * evoked[:, None] * self.shape_waves[attributes["shape"]]
        sustained[trials, attributes["background"]] = GAINS["background"] * evoked * self.background_wave
        spectra[:, self.colour] = self.subject.gain * self.induced(attributes["colour"], rng)
        return spectra

    def induced(self, colour: np.ndarray, rng: Generator) -> np.ndarray:
        """Bursts in the two bands of each colour, in all of its sources, each with its own phase: (trial, source,
        frequency)."""
        count, each = len(colour), (len(colour), 2, 1)
        amplitude = GAINS["colour"] / COLOUR_SOURCES**0.5 * np.exp(rng.normal(0, 0.15, each))
        centre, shape = rng.normal(0.25, 0.03, each), (count, 2, COLOUR_SOURCES)
        frequency = COLOUR_BANDS[COLOUR_PAIRS[colour]][..., None] + rng.normal(0, 1.0, shape)
        waveforms = bursts(amplitude, centre, COLOUR_WIDTH, frequency, phase=rng.uniform(0, 2 * np.pi, shape))
        return spectra_of(waveforms.sum(axis=1))


class OngoingEEG:
    """The sources of one subject that are active whatever is shown."""

    def __init__(self, subject: Subject, rng: Generator):
        self.subject = subject
        places, directions = head.random_sources(BACKGROUND_SOURCES, rng)
        table = np.array(ALPHA + EYES, float)
        directions = np.concatenate([directions, head.rotated(table[:, 1], subject.turn, rng)])
        fields = head.topographies(np.concatenate([places, table[:, 0] / 1000]), directions)
        line = rng.standard_normal((fields.shape[0], 1)).astype(np.float32)  # cables, not sources, bring in line noise
        self.topographies = np.concatenate([fields, line], axis=1)  # (channel, source)
        self.amplitude = FREQUENCIES**-BACKGROUND_EXPONENT
        self.slow_pattern = rng.standard_normal((SLOW_STATES, fields.shape[0])).astype(np.float32) / SLOW_STATES**0.5
        self.slow_modulation = rng.standard_normal((SLOW_STATES, BACKGROUND_SOURCES + len(ALPHA))) / SLOW_STATES**0.5

    def spectra(self, count: int, gains: np.ndarray, rng: Generator) -> np.ndarray:
        """Activity complex64 (trial, source, frequency); `gains` (trial, source) are those of the slow drift, for the
        background and alpha sources."""
        background = random_spectra((count, BACKGROUND_SOURCES), self.amplitude, rng)
        background *= self.subject.noise / np.sqrt(BACKGROUND_SOURCES)
        shape = (count, len(ALPHA))
        amplitude = ALPHA_BURSTS * self.subject.alpha_gain / np.sqrt(len(ALPHA)) * rng.exponential(1.0, shape)
        centre, width = rng.uniform(-0.1, 0.6, shape), rng.uniform(0.08, 0.16, shape)
        frequency = self.subject.alpha_frequency + rng.normal(0, 0.4, shape)
        alpha = bursts(amplitude, centre, width, frequency, phase=rng.uniform(0, 2 * np.pi, shape))
        blink = BLINK * (rng.random((count, 1)) < BLINK_RATE) * rng.uniform(0.5, 1.5, (count, 1))
        blinks = bursts(blink, rng.uniform(0.0, 0.55, (count, 1)), 0.05, 0, 0)
        line = bursts(LINE, 0.25, 10.0, 50.0, rng.uniform(0, 2 * np.pi, (count, 1)))
        rest = spectra_of(np.concatenate([alpha, blinks, line], axis=1))
        spectra = np.concatenate([background, rest], axis=1)
        spectra[:, : gains.shape[1]] *= gains[..., None].astype(np.float32)
        return spectra

    def sensor_noise(self, count: int, rng: Generator) -> np.ndarray:
        """Independent white noise of the electrodes, complex64 (trial, channel, frequency)."""
        return SENSOR_NOISE * random_spectra((count, len(self.topographies)), np.ones(len(FREQUENCIES)), rng)

    def drift(self, times: np.ndarray, amplitude: float, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        """Slow drift of a recording: states that wander over minutes move potentials and the power of all sources.
        Takes onset times (trial,) in ascending seconds, and the standard deviation of the slow potentials relative to
        the ongoing EEG. Returns potentials (trial, channel), and gains (trial, source) of the background and alpha
        sources."""
        states = np.empty((len(times), SLOW_STATES))
        states[0] = rng.standard_normal(SLOW_STATES)
        kept = np.exp(-np.diff(times) / SLOW_TIME)  # of an Ornstein-Uhlenbeck process, from trial to trial
        steps = rng.standard_normal((len(times) - 1, SLOW_STATES)) * np.sqrt(1 - kept**2)[:, None]
        for trial, (keep, step) in enumerate(zip(kept, steps, strict=True), start=1):
            states[trial] = keep * states[trial - 1] + step
        gains = np.exp(0.3 * amplitude * states @ self.slow_modulation)
        return amplitude * states.astype(np.float32) @ self.slow_pattern, gains
