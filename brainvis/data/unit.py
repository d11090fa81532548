"""The unit of a data set's EEG, judged by the size of its numbers, as files seldom state it."""

import torch

from brainvis.data.dataset import EEGDataset

JUDGED_BY = 200  # trials, evenly spaced
STANDARDISED, MICROVOLTS, VOLTS, UNKNOWN = "z", "µV", "V", "unknown units"
NAMES = {STANDARDISED: "standardised (z)", MICROVOLTS: "microvolts (µV)", VOLTS: "volts (V)", UNKNOWN: "not known"}


def unit_of(data: EEGDataset) -> str:
    """The unit as figures and tables write it, a key of `NAMES`, by the standard deviation of some trials: standardised
    EEG has about 1, EEG in microvolts about 10."""
    some = torch.linspace(0, len(data) - 1, min(JUDGED_BY, len(data))).round().long()
    size = data.trials[some].std().item()
    if 0.3 <= size <= 3:
        return STANDARDISED
    return MICROVOLTS if 3 < size < 200 else VOLTS if size < 2e-4 else UNKNOWN
