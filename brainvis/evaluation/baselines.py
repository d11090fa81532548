"""Linear baselines: what logistic regression on the spectrum decodes from the same trials and the same split.

A deep model that does not beat these has learned nothing that needs depth.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular
from scipy.stats import binomtest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from brainvis.data.dataset import EEGDataset, Partition

INVERSE_PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
HARMONICS = (1, 2)  # of a frequency of stimulation
NEIGHBOURS = 2.0  # hertz around it
FAR_MORE = 2  # features than trials: where finding the space that trials span pays
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
    best = _best_penalty(features[train], labels[train], seed)
    known, asked = _prepared(features[train], features[test])
    regression = _fit(_regression().set_params(C=best), known, labels[train])
    logits = np.full((len(test), len(dataset.class_names)), -np.inf)
    logits[:, regression.classes_] = regression.predict_log_proba(asked)
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
        "inverse_penalty": best,
        "features": features.shape[1],
    }


def _best_penalty(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Of `INVERSE_PENALTIES`, by the cross-entropy of the trials that are left out, in five folds or as few as there
    are trials of a class."""
    folds = int(min(5, np.unique(labels, return_counts=True)[1].min()))
    if folds == 1:  # a class with one training trial leaves nothing to choose with
        return LogisticRegression().C
    losses = np.zeros(len(INVERSE_PENALTIES))
    for inside, outside in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        known, asked = _prepared(features[inside], features[outside])
        regression = _regression()
        for number, penalty in enumerate(INVERSE_PENALTIES):  # each begins where the last one, stricter, has ended
            _fit(regression.set_params(C=penalty), known, labels[inside])
            losses[number] += log_loss(labels[outside], regression.predict_proba(asked), labels=regression.classes_)
    return INVERSE_PENALTIES[int(losses.argmin())]


def _prepared(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (trial, feature), standardised by the known ones and, where there are far more features than trials,
    turned into the space that those span: weights under a quadratic penalty lie in it anyway, so that nothing changes
    but the time (a fifth, with 550 trials of 5,632 features)."""
    scaler = StandardScaler().fit(known)
    known, asked = scaler.transform(known), scaler.transform(asked)
    if known.shape[1] < FAR_MORE * len(known):
        return known, asked
    products = (known @ known.T).astype(float)  # what any turned features have to give, too
    products[np.diag_indices(len(products))] += 1e-6 * products.trace() / len(products)  # standardised: one is nothing
    turned = cholesky(products, lower=True)
    turned_asked = solve_triangular(turned, (known @ asked.T).astype(float), lower=True).T
    return turned.astype(known.dtype), turned_asked.astype(known.dtype)


def _regression() -> LogisticRegression:
    # At scikit-learn's tolerance of 1e-4 it stops where predictions still depend on how the features are turned.
    return LogisticRegression(max_iter=2000, tol=1e-5, warm_start=True)


def _fit(regression: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty may not converge; it is then not chosen
        return regression.fit(features, labels)
