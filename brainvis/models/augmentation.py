"""Augmentation of training trials: small time shifts and channel dropout."""

import torch
from torch import Tensor


def augmented(trials: Tensor, time_shift: float = 0.0, channel_dropout: float = 0.0) -> Tensor:
    """Trials (b, channel, time), each shifted in time and with some channels dropped; unchanged if both are 0.

    Args:
        time_shift: the largest shift to either side, as a fraction of the trial's length; samples that leave at one end
            re-enter at the other.
        channel_dropout: probability of setting a channel of a trial to zero; the others are scaled up, as in dropout.
    """
    b, channels, samples = trials.shape
    if reach := round(time_shift * samples):
        by = torch.randint(-reach, reach + 1, (b, 1), device=trials.device)
        places = (torch.arange(samples, device=trials.device) + by) % samples  # (b, time)
        trials = trials.gather(2, places[:, None].expand(-1, channels, -1))
    if channel_dropout:
        kept = torch.rand(b, channels, 1, device=trials.device) >= channel_dropout
        trials = trials * kept / (1 - channel_dropout)
    return trials
