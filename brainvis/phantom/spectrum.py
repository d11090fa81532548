"""The phantom's signals are generated as spectra, so delays, filters and coloured noise are one multiplication each.

One trial is one period of `SAMPLES` samples; filter ringing and wrap-around fall into the padding at its end.
"""

import numpy as np
from numpy.random import Generator
from scipy import fft

SAMPLING_RATE = 1000.0  # hertz
SAMPLES = 720  # per period: longer than any trial, a product of small primes, and 50 Hz is one of its frequencies
TIMES = np.arange(SAMPLES) / SAMPLING_RATE  # seconds since the onset of the picture

BAND = (5.0, 95.0)  # hertz, of the published file that the phantom stands for
FREQUENCIES = fft.rfftfreq(SAMPLES, 1 / SAMPLING_RATE)
FREQUENCIES = FREQUENCIES[(FREQUENCIES > 1) & (FREQUENCIES < 150)]  # hertz; everything that passes the filter
_FIRST = round(FREQUENCIES[0] * SAMPLES / SAMPLING_RATE)

# The gain of a Butterworth band-pass filter, fourth order on either side, without its phase.
BAND_PASS = (1 / np.sqrt((1 + (BAND[0] / FREQUENCIES) ** 8) * (1 + (FREQUENCIES / BAND[1]) ** 8))).astype(np.float32)


def spectra_of(waveforms: np.ndarray) -> np.ndarray:
    """Spectra complex64 (..., frequency) of waveforms (..., SAMPLES)."""
    spectra = fft.rfft(waveforms.astype(np.float32, copy=False), axis=-1)
    return spectra[..., _FIRST : _FIRST + len(FREQUENCIES)]


def waveforms_of(spectra: np.ndarray) -> np.ndarray:
    """Waveforms float32 (..., SAMPLES) of spectra complex64 (..., frequency)."""
    whole = np.zeros((*spectra.shape[:-1], SAMPLES // 2 + 1), np.complex64)
    whole[..., _FIRST : _FIRST + len(FREQUENCIES)] = spectra
    return fft.irfft(whole, n=SAMPLES, axis=-1)


def delays(seconds: np.ndarray) -> np.ndarray:
    """Factors complex64 (..., frequency) that delay a spectrum by seconds (...)."""
    return np.exp(-2j * np.pi * np.asarray(seconds)[..., None] * FREQUENCIES).astype(np.complex64)


def random_spectra(shape: tuple[int, ...], amplitude: np.ndarray, rng: Generator) -> np.ndarray:
    """Gaussian noise (*shape, frequency) with an amplitude spectrum (frequency,), scaled to a standard deviation of one
    after the band-pass filter."""
    parts = rng.standard_normal((*shape, len(FREQUENCIES), 2), dtype=np.float32)
    # Parseval: a one-sided spectrum with real and imaginary parts of variance a^2 has 4 sum(a^2) / SAMPLES^2.
    variance = 4 * ((amplitude * BAND_PASS) ** 2).sum() / SAMPLES**2
    parts *= (amplitude / np.sqrt(variance)).astype(np.float32)[:, None]
    return parts.view(np.complex64)[..., 0]


def bursts(
    amplitude: np.ndarray, centre: np.ndarray, width: np.ndarray, frequency: np.ndarray, phase: np.ndarray
) -> np.ndarray:
    """Oscillations under a Gaussian envelope, (..., SAMPLES); all arguments broadcast to (...). `centre` and `width`
    (standard deviation) of the envelope are in seconds, `frequency` in hertz, and `phase` in radians at the centre.
    Frequency 0 with phase 0 gives the envelope alone."""
    arguments = np.broadcast_arrays(amplitude, centre, width, frequency, phase)
    amplitude, centre, width, frequency, phase = (np.asarray(a, np.float32)[..., None] for a in arguments)
    time = TIMES.astype(np.float32) - centre
    return amplitude * np.exp(-0.5 * (time / width) ** 2) * np.cos(np.float32(2 * np.pi) * frequency * time + phase)
