"""What the phantom's electrodes record besides the picture: ongoing EEG, artefacts, and slow drift.

Amplitudes are in standard deviations of the ongoing background after the band-pass filter.
"""

from __future__ import annotations

import numpy as np

from brainvis.phantom import head
from brainvis.phantom.sources import Subject
from brainvis.phantom.spectrum import FREQUENCIES, bursts, random_spectra, spectra_of

BACKGROUND_SOURCES = 80
BACKGROUND_EXPONENT = 0.75  # of the amplitude spectrum: power falls with f to the power of -1.5
SENSOR_NOISE = 0.3
ALPHA_BURSTS = 1.2
BLINK_RATE = 0.05  # blinks a trial
BLINK = 6.0
LINE = 0.25
SLOW_STATES = 6
SLOW_TIME = 60.0  # seconds over which the slow states forget themselves

ALPHA = (  # parietal and occipital: millimetres in the head's coordinates, and the direction of the dipole
    ((-20, -66, 30), (-0.3, -1.0, 0.6)),
    ((20, -66, 30), (0.3, -1.0, 0.6)),
    ((0, -74, 8), (0.0, -1.0, 0.2)),
    ((-8, -40, 62), (0.0, -0.3, 1.0)),
    ((8, -40, 62), (0.0, -0.3, 1.0)),
)
EYES = (((0, 80, -12), (0.0, 1.0, 0.35)),)  # the nearest the sphere has to the corneo-retinal dipoles


class OngoingEEG:
    """The sources of one subject that run whatever is shown."""

    def __init__(self, subject: Subject, rng: np.random.Generator):
        self.subject = subject
        places, directions = head.random_sources(BACKGROUND_SOURCES, rng)
        table = np.array(ALPHA + EYES, float)
        alpha_and_eyes = head.rotated(table[:, 1], subject.turn, rng)
        fields = head.topographies(
            np.concatenate([places, table[:, 0] / 1000]), np.concatenate([directions, alpha_and_eyes])
        )
        line = rng.standard_normal((fields.shape[0], 1)).astype(np.float32)  # cables, not sources, bring in the line
        self.topographies = np.concatenate([fields, line], axis=1)  # (channel, source)
        self.amplitude = FREQUENCIES**-BACKGROUND_EXPONENT
        self.slow_pattern = rng.standard_normal((SLOW_STATES, fields.shape[0])).astype(np.float32) / SLOW_STATES**0.5
        self.slow_modulation = rng.standard_normal((SLOW_STATES, BACKGROUND_SOURCES + len(ALPHA))) / SLOW_STATES**0.5

    def spectra(self, count: int, gains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Activity in some trials, complex64 (trial, source, frequency).

        Args:
            count: number of trials.
            gains: (trial, source) of the background and alpha sources, by the slow drift.
            rng: of everything in these trials.
        """
        background = random_spectra((count, BACKGROUND_SOURCES), self.amplitude, rng)
        background *= self.subject.noise / np.sqrt(BACKGROUND_SOURCES)
        shape = (count, len(ALPHA))
        alpha = bursts(
            amplitude=ALPHA_BURSTS * self.subject.alpha_gain / np.sqrt(len(ALPHA)) * rng.exponential(1.0, shape),
            centre=rng.uniform(-0.1, 0.6, shape),
            width=rng.uniform(0.08, 0.16, shape),
            frequency=self.subject.alpha_frequency + rng.normal(0, 0.4, shape),
            phase=rng.uniform(0, 2 * np.pi, shape),
        )
        blinks = bursts(
            amplitude=BLINK * (rng.random((count, 1)) < BLINK_RATE) * rng.uniform(0.5, 1.5, (count, 1)),
            centre=rng.uniform(0.0, 0.55, (count, 1)),
            width=0.05,
            frequency=0,
            phase=0,
        )
        line = bursts(LINE, 0.25, 10.0, 50.0, rng.uniform(0, 2 * np.pi, (count, 1)))
        rest = spectra_of(np.concatenate([alpha, blinks, line], axis=1))
        spectra = np.concatenate([background, rest], axis=1)
        spectra[:, : gains.shape[1]] *= gains[..., None].astype(np.float32)
        return spectra

    def sensor_noise(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Independent, white noise of the electrodes, complex64 (trial, channel, frequency)."""
        return SENSOR_NOISE * random_spectra((count, len(self.topographies)), np.ones(len(FREQUENCIES)), rng)

    def drift(self, times: np.ndarray, amplitude: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Slow drift of a recording: states that wander over minutes move potentials and the power of all sources.

        Args:
            times: (trial,) seconds of each trial's onset, in ascending order.
            amplitude: standard deviation of the slow potentials, relative to the ongoing EEG; 0 for none.
            rng: of the states.

        Returns:
            potentials (trial, channel), constant within a trial: what the band-pass filter leaves of them;
            gains (trial, source) of the background and alpha sources.
        """
        states = np.empty((len(times), SLOW_STATES))
        states[0] = rng.standard_normal(SLOW_STATES)
        kept = np.exp(-np.diff(times) / SLOW_TIME)  # of an Ornstein-Uhlenbeck process, from trial to trial
        steps = rng.standard_normal((len(times) - 1, SLOW_STATES)) * np.sqrt(1 - kept**2)[:, None]
        for trial, (keep, step) in enumerate(zip(kept, steps, strict=True), start=1):
            states[trial] = keep * states[trial - 1] + step
        potentials = amplitude * states.astype(np.float32) @ self.slow_pattern
        return potentials, np.exp(0.3 * amplitude * states @ self.slow_modulation)
