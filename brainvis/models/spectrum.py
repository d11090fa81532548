"""The amplitude spectrum of EEG, for the frequency branch and for inspecting the data."""

import torch
from einops import rearrange
from torch import Tensor


def frequencies(n_times: int, sfreq: float, highest_frequency: float | None = None) -> Tensor:
    """Frequencies (f,) in hertz of the bins that the branch reads: 1 to n_times // 2, up to `highest_frequency`."""
    hertz = torch.fft.rfftfreq(n_times, 1 / sfreq, dtype=torch.float64, device="cpu")[1:]
    if highest_frequency is not None:
        hertz = hertz[hertz <= highest_frequency + 1e-9 * sfreq]
    if len(hertz) == 0:
        first = f"the first is {sfreq / max(n_times, 1):.3g} Hz; raise `highest_frequency` or use longer trials"
        raise ValueError(f"{n_times} samples at {sfreq} Hz have no frequency below {highest_frequency} Hz: {first}")
    return hertz.float()


def amplitude_spectrum(trials: Tensor, sfreq: float, highest_frequency: float | None = None) -> Tensor:
    """|FFT| of each channel, without the constant term: (b, channel, time) -> (b, frequency, channel).

    |X_k| = |sum_t x_t exp(-2 pi i k t / n)|, not divided by n, as in the release; its unit is the trials' unit times
    samples.
    """
    count = len(frequencies(trials.shape[-1], sfreq, highest_frequency))
    spectrum = torch.fft.rfft(trials.float() if trials.dtype.itemsize < 4 else trials, dim=-1)[..., 1 : count + 1]
    return rearrange(spectrum.abs(), "b channel frequency -> b frequency channel")
