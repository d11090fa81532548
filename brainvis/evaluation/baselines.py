"""Linear baselines: what logistic regression on the spectrum decodes from the same trials and the same split.

A deep model that does not beat these has learned nothing that needs depth.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from brainvis.data.dataset import EEGDataset, Partition

INVERSE_PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
HARMONICS = (1, 2)  # of a frequency of stimulation
NEIGHBOURS = 2.0  # hertz around it
SMALLEST_POWER = 1e-12  # keeps the logarithm finite where a filter left nothing


def power_spectrum(trials: Tensor, sampling_rate: float) -> tuple[Tensor, Tensor]:
    """Power of each channel and the frequencies in hertz: (b, c, t) -> (b, c, f) and (f,), without 0 Hz."""
    samples = trials.shape[-1]
    # The window keeps strong slow activity from leaking into all other frequencies.
    tapered = (trials - trials.mean(-1, keepdim=True)) * torch.hann_window(samples, dtype=trials.dtype)
    power = torch.fft.rfft(tapered).abs().square()
    return power[..., 1:], torch.fft.rfftfreq(samples, 1 / sampling_rate)[1:]


def band_power(trials: Tensor, sampling_rate: float, highest: float | None = None) -> Tensor:
    """Logarithm of the mean power in bands 1 Hz wide: (b, c, t) -> (b, c * bands).

    Bands are centred on whole frequencies from 1 Hz to `highest` (None: the Nyquist frequency).
    """
    power, frequencies = power_spectrum(trials, sampling_rate)
    band = frequencies.round().long()  # number of the band of each frequency
    last = int(min(highest or sampling_rate / 2, sampling_rate / 2))
    means = [power[..., band == number].mean(-1) for number in range(1, last + 1) if (band == number).any()]
    return (torch.stack(means, -1) + SMALLEST_POWER).log().flatten(1)


def signal_to_noise(trials: Tensor, sampling_rate: float, frequencies: Sequence[float]) -> Tensor:
    """Steady-state responses: log power at a frequency over that of its neighbours, (b, c, t) -> (b, c * responses).

    `frequencies` of stimulation are in hertz; ValueError for one with a harmonic not below the Nyquist frequency.
    """
    power, hertz = power_spectrum(trials, sampling_rate)
    features = []
    for frequency in (f * harmonic for f in frequencies for harmonic in HARMONICS):
        if not hertz[0] <= frequency < sampling_rate / 2:
            raise ValueError(f"{frequency:g} Hz is not between {hertz[0]:g} Hz and Nyquist {sampling_rate / 2:g} Hz.")
        centre = int((hertz - frequency).abs().argmin())
        distance = (torch.arange(len(hertz)) - centre).abs()
        # Without the nearest bin on each side, which the taper smears.
        around = (distance > 1) & ((hertz - hertz[centre]).abs() <= NEIGHBOURS + 1e-6)
        noise = power[..., around].mean(-1)  # (b, c)
        features.append(((power[..., centre] + SMALLEST_POWER) / (noise + SMALLEST_POWER)).log())
    return torch.stack(features, -1).flatten(1)


def linear_baseline(
    dataset: EEGDataset,
    partition: Partition,
    frequencies: Sequence[float] | None = None,
    highest: float | None = None,
    seed: int = 0,
) -> dict:
    """Logistic regression, fitted on the training trials and scored once on the test trials.

    Features, standardised by the training trials: log band power, 1 Hz wide, of every channel up to `highest` hertz;
    with `frequencies` of flickering stimuli (hertz), the signal-to-noise ratio of the responses to them and their
    second harmonics. The penalty is chosen by cross-validation inside the training trials; validation is not used.

    Returns:
        logits, probabilities (test trial, class; 0 without training trials) and predictions (test trial,) as tensors;
        accuracy; chance, the share of the most frequent test class; p_value, one-sided binomial against chance;
        inverse_penalty (sklearn's C); features, their number.
    """
    if frequencies is None:
        features = band_power(dataset.trials, dataset.sampling_rate, highest=highest).numpy()
    else:
        features = signal_to_noise(dataset.trials, dataset.sampling_rate, frequencies).numpy()
    labels, train, test = dataset.labels.numpy(), partition.train.numpy(), partition.test.numpy()
    folds = int(min(5, np.unique(labels[train], return_counts=True)[1].min()))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    penalties = {"logisticregression__C": INVERSE_PENALTIES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty may not converge; it is then not chosen
        if folds > 1:
            split = StratifiedKFold(folds, shuffle=True, random_state=seed)
            search = GridSearchCV(regression, penalties, scoring="neg_log_loss", cv=split)
            best = search.fit(features[train], labels[train]).best_estimator_
        else:  # a class with one training trial leaves nothing to choose with
            best = regression.fit(features[train], labels[train])

    logits = np.full((len(test), len(dataset.class_names)), -np.inf)
    logits[:, best.classes_] = best.predict_log_proba(features[test])
    predictions = logits.argmax(1)
    right = predictions == labels[test]
    chance = float(np.bincount(labels[test]).max() / len(test))
    return {
        "logits": torch.from_numpy(logits).float(),
        "probabilities": torch.from_numpy(np.exp(logits)).float(),
        "predictions": torch.from_numpy(predictions),
        "accuracy": float(right.mean()),
        "chance": chance,
        "p_value": float(binomtest(int(right.sum()), len(test), chance, alternative="greater").pvalue),
        "inverse_penalty": best[-1].C,
        "features": features.shape[1],
    }
