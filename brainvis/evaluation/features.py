"""Established EEG features: band powers, responses to flicker, short-time means, covariances."""

from collections.abc import Sequence

import numpy as np
import torch
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from torch import Tensor
from torch.nn import functional

HARMONICS = (1, 2)  # of a stimulation frequency
NEIGHBOURS = 2.0  # hertz around it
SMALLEST_POWER = 1e-12  # keeps the logarithm finite where a filter left nothing
BIN = 0.04  # seconds per short-time mean
MOST_FEATURES = 2000  # short-time means: with more channels or longer trials, bins are longer
HALF_BAND = 0.5  # hertz on either side of a flicker frequency, for the covariance signals
MOST_COMPONENTS = 32  # principal components used for covariances if there are more channels


def power_spectrum(trials: Tensor, sampling_rate: float) -> tuple[Tensor, Tensor]:
    """Power of each channel and the frequencies in hertz: (b, c, t) -> (b, c, f) and (f,), without 0 Hz."""
    samples = trials.shape[-1]
    # The window keeps strong slow activity from leaking into all other frequencies.
    tapered = (trials - trials.mean(-1, keepdim=True)) * torch.hann_window(samples, dtype=trials.dtype)
    power = torch.fft.rfft(tapered).abs().square()
    return power[..., 1:], torch.fft.rfftfreq(samples, 1 / sampling_rate)[1:]


def band_power(trials: Tensor, sampling_rate: float, highest: float | None = None) -> Tensor:
    """Log of the mean power in bands 1 Hz wide: (b, c, t) -> (b, c * bands).

    Bands are centred on whole frequencies from 1 Hz to `highest` (None: the Nyquist frequency).
    """
    power, frequencies = power_spectrum(trials, sampling_rate)
    band = frequencies.round().long()  # number of the band of each frequency
    last = int(min(highest or sampling_rate / 2, sampling_rate / 2))
    means = [power[..., band == number].mean(-1) for number in range(1, last + 1) if (band == number).any()]
    return (torch.stack(means, -1) + SMALLEST_POWER).log().flatten(1)


def signal_to_noise(trials: Tensor, sampling_rate: float, frequencies: Sequence[float]) -> Tensor:
    """Steady-state responses: log power at a frequency over that of its neighbours, (b, c, t) -> (b, c * responses).

    Stimulation `frequencies` are in hertz, each with its second harmonic if that is below the Nyquist frequency;
    ValueError for a frequency that is itself not below it.
    """
    power, hertz = power_spectrum(trials, sampling_rate)
    features = []
    for frequency in (harmonic for f in frequencies for harmonic in _harmonics(f, sampling_rate)):
        if not hertz[0] <= frequency < sampling_rate / 2:
            raise ValueError(f"{frequency:g} Hz is not between {hertz[0]:g} and {sampling_rate / 2:g} Hz (Nyquist).")
        centre = int((hertz - frequency).abs().argmin())
        distance = (torch.arange(len(hertz)) - centre).abs()
        # Without the nearest bin on each side, which the taper smears.
        around = (distance > 1) & ((hertz - hertz[centre]).abs() <= NEIGHBOURS + 1e-6)
        noise = power[..., around].mean(-1)  # (b, c)
        features.append(((power[..., centre] + SMALLEST_POWER) / (noise + SMALLEST_POWER)).log())
    return torch.stack(features, -1).flatten(1)


def _harmonics(frequency: float, sampling_rate: float) -> list[float]:
    """The frequency itself and those of its multiples that the signal can hold."""
    return [frequency * one for one in HARMONICS if one == 1 or frequency * one < sampling_rate / 2]


def canonical_correlations(trials: Tensor, sampling_rate: float, frequencies: Sequence[float]) -> Tensor:
    """Largest canonical correlation of a trial's channels with sines and cosines at each frequency (hertz), and at its
    second harmonic, if the signal can hold that: (b, c, t) -> (b, frequency). Lin et al. 2006, IEEE Trans. Biomed. Eng.
    53, 2610-2614.
    """
    time = torch.arange(trials.shape[-1], dtype=torch.float64) / sampling_rate
    signals = torch.linalg.qr((trials - trials.mean(-1, keepdim=True)).double().mT).Q  # (b, t, c)
    found = []
    for frequency in frequencies:
        phases = [2 * torch.pi * harmonic * time for harmonic in _harmonics(frequency, sampling_rate)]
        waves = torch.stack([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], 1)
        reference = torch.linalg.qr(waves - waves.mean(0)).Q  # (t, 2 harmonics)
        found.append(torch.linalg.svdvals(signals.mT @ reference)[:, 0])
    return torch.stack(found, 1).clamp(max=1).float()


def short_time_means(trials: Tensor, sampling_rate: float) -> Tensor:
    """Means of each channel over bins of 40 ms, (b, c, t) -> (b, c * bins); over longer bins if there would be more
    than `MOST_FEATURES`."""
    channels, samples = trials.shape[1:]
    bins = min(round(samples / sampling_rate / BIN), MOST_FEATURES // channels, samples)
    return functional.adaptive_avg_pool1d(trials, max(bins, 1)).flatten(1)


def tangent_vectors(trials: Tensor, train: Tensor, sampling_rate: float, frequencies: Sequence[float] = ()) -> Tensor:
    """Covariances of channels in the space tangent to their mean over training trials: (b, c, t) -> (b, c (c + 1) / 2).

    With `frequencies` of flicker (hertz), the signals in a narrow band around each replace the channels, so that
    covariances contain the power of each (Congedo et al. 2013). With more than `MOST_COMPONENTS` channels, that many
    principal components of the training trials are used. Ledoit-Wolf shrinkage, Riemannian mean: Barachant et al. 2012,
    IEEE Trans. Biomed. Eng. 59, 920-928.
    """
    if frequencies:
        coefficients, hertz = torch.fft.rfft(trials), torch.fft.rfftfreq(trials.shape[-1], 1 / sampling_rate)
        bands = [coefficients * ((hertz - frequency).abs() <= HALF_BAND) for frequency in frequencies]
        trials = torch.cat([torch.fft.irfft(band, n=trials.shape[-1]) for band in bands], 1)
    if trials.shape[1] > MOST_COMPONENTS:
        seen = sum(trials[trial] @ trials[trial].T for trial in train.tolist())  # (c, c)
        components = torch.linalg.eigh(seen.double()).eigenvectors[:, -MOST_COMPONENTS:].to(trials.dtype)
        trials = components.T @ trials
    covariances = Covariances("lwf").transform(trials.numpy().astype(np.float64))  # (b, c, c)
    space = TangentSpace("riemann").fit(covariances[train.numpy()])
    return torch.from_numpy(space.transform(covariances)).float()
