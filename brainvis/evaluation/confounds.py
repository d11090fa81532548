"""Audits of recording time: can the class be predicted from what cannot carry it, and can time be read from the EEG?

If the trials of a class were recorded close together, any slow drift predicts the class as well as the brain does, and
every score is too good (Li et al. 2021, on EEGCVPR40). Each audit is a number, compared with the same number under
chance: with the labels of a subject permuted at random, so p has a floor. Classifiers have a closed form: nearest
neighbours in time, or ridge regressions fitted on four fifths of a subject's trials and tested on the rest.
docs/studies measures on the phantom when they raise a flag.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from brainvis.data.dataset import EEGDataset
from brainvis.data.order import class_from_place, places_in_sessions
from brainvis.evaluation.analysis import amplitude_spectra, bands_between
from brainvis.evaluation.bootstrap import holm
from brainvis.models.spectrum import frequencies

EXCHANGES = 199  # random permutations of the labels
FOLDS = 5
NEIGHBOURS = 4  # in time, nearer ones weigh more
PENALTY = 0.3  # of a ridge regression, relative to the mean square of a trial's features
MOST = 2000  # first trials of a subject in time: (trial, trial) matrices must fit into memory
WAVES = 10  # cosines of the place in the recording, from half a period up, decoded from the EEG
BINS = {"before": 8, "whole": 22}  # for averaging samples: before onset, in a whole trial
LEVEL = 0.05  # for the family of audits, after Holm's correction
SMALLEST = 1e-6  # keeps logarithms finite where a filter left nothing
AT_ONCE = 2**26  # scores computed together: 256 MB
# Must not predict the class.
CONFOUNDS = ("time alone", "place in session", "succession", "slow drift", "before onset")


@dataclass(frozen=True)
class Audit:
    """One question, its answer, and its answers for permuted labels."""

    question: str
    value: float
    null: Tensor  # (exchange,)

    @property
    def chance(self) -> float:
        """The mean answer for permuted labels."""
        return self.null.mean().item()

    @property
    def p(self) -> float:
        """One-sided: how often permuted labels give at least this answer, counting this one."""
        return (1 + int((self.null >= self.value - 1e-9).sum())) / (1 + len(self.null))

    @property
    def score(self) -> dict[str, float]:
        """For results."""
        return {"value": self.value, "chance": self.chance, "p": self.p, "p_floor": 1 / (1 + len(self.null))}


@dataclass(frozen=True)
class Recording:
    """A subject's trials, in recording order if it is known."""

    trials: Tensor  # (trial,) indices into the data set
    labels: Tensor  # (trial,) 0 .. classes - 1
    place: Tensor | None  # (trial,) in the recording
    folds: Tensor  # (trial,) 0 .. FOLDS - 1, at random: they know neither class nor time
    generator: torch.Generator

    @cached_property
    def exchanged(self) -> Tensor:
        """(1 + EXCHANGES, trial) indices of the labels that trials get; the first row keeps all in place."""
        count = len(self.trials)
        orders = [torch.randperm(count, generator=self.generator) for _ in range(EXCHANGES)]
        return torch.stack([torch.arange(count), *orders])

    @cached_property
    def shifted(self) -> Tensor:
        """The same for labels in unchanged order: all shift along the recording, wrapping from its end to its start."""
        count = len(self.trials)
        by = torch.randint(1, count, (EXCHANGES,), generator=self.generator)
        return (torch.arange(count) + torch.cat([torch.zeros(1, dtype=torch.int64), by])[:, None]) % count


def audits(data: EEGDataset, trials: Tensor, seed: int = 0) -> dict[str, Audit]:
    """All audits for which the data set has what is needed, on some of its trials (indices), by a short name.

    - "time alone": accuracy of the classes of the nearest trials in time;
    - "place in session": accuracy of the classes at and near the same place in all other sessions, if these are known,
      against labels that are permuted within sessions;
    - "succession": how much more often than its number of trials implies a class is followed by itself, for the class
      where this is largest, against the maximum over all classes for permuted labels;
    - "slow drift": accuracy of a ridge regression on each channel's mean in the previous trial, which has drifted
      nearly as far but contains nothing of the response; if the order is unknown, "own mean" replaces it, which may
      contain some of the response and so proves nothing;
    - "before onset": the same on samples before the onset of the stimulus, and on their power; on the separate ones
      that recordings include (`EEGDataset.before`), else on those of the trial;
    - "EEG tells time": how well waves over the recording are decoded from means and band powers, as the correlation of
      decoded and true waves. Not a fault in itself: in a block design, responses to the class also tell time;
    - "order of labels": accuracy of a ridge regression on the whole trial, against labels that keep their order but
      are shifted along the recording. Whatever these reach may also be due to time.
    """
    recordings = list(_recordings(data, trials, seed))
    found: dict[str, Audit] = {}
    if not recordings:
        return found

    def accuracy(name: str, question: str, features, draws: str = "exchanged") -> None:
        right = sum(
            _right(_decoder(features(recording), recording.folds), recording.labels, getattr(recording, draws))
            for recording in recordings
        )
        shares = right / sum(len(recording.trials) for recording in recordings)
        found[name] = Audit(question, shares[0].item(), shares[1:])

    if data.order is not None:
        right = sum(_right(_neighbours(one.place), one.labels, one.exchanged) for one in recordings)
        shares = right / sum(len(one.trials) for one in recordings)
        found["time alone"] = Audit("class from the nearest trials in time", shares[0].item(), shares[1:])
        if (place := _place_in_session(data, trials)) is not None:
            found["place in session"] = place
        found["succession"] = _highest_succession(recordings)
        accuracy("slow drift", "class from the means of the previous trial", lambda one: _means(data, one).roll(1, 0))
    else:
        accuracy("own mean", "class from its own means: drift, or a slow response", lambda one: _means(data, one))
    before = data.trials[..., data.times < 0] if data.before is None else data.before
    if before.shape[-1]:
        accuracy(
            "before onset",
            "class from samples before onset",
            lambda one: _waveform_and_power(before[one.trials], BINS["before"]),
        )
    if data.order is not None:
        found["EEG tells time"] = _time_from_eeg(data, recordings)
        accuracy(
            "order of labels",
            "class from the whole trial, against labels shifted in time",
            lambda one: torch.cat([_whole(data, one.trials), _band_powers(data, one.trials)], 1),
            draws="shifted",
        )
    return found


def verdict(found: dict[str, Audit]) -> str:
    """In words: whether what cannot carry the class predicts it, at `LEVEL` for all of `CONFOUNDS` together."""
    raised_of = flags(found)
    if not raised_of:
        return "No audit was possible."
    told = [found[name] for name, raised in raised_of.items() if raised]
    raised = [f"{audit.question}: {audit.value:.1%}, by chance {audit.chance:.1%}" for audit in told]
    family = f"{len(raised_of)} audits (Holm-corrected p at most {LEVEL:g})"
    if not raised:
        return f"In none of {family} is the class predicted by what cannot carry it."
    return f"THE CLASS IS PREDICTED BY WHAT CANNOT CARRY IT, in {len(raised)} of {family}. {'; '.join(raised)}."


def flags(found: dict[str, Audit]) -> dict[str, bool]:
    """Which audits of `CONFOUNDS` raise a flag, at `LEVEL` for all together."""
    corrected = holm({name: found[name].p for name in CONFOUNDS if name in found})
    return {name: p <= LEVEL for name, p in corrected.items()}


def _recordings(data: EEGDataset, trials: Tensor, seed: int) -> Iterator[Recording]:
    """Subjects with enough trials and at least two classes."""
    for subject in data.subjects[trials].unique().tolist():
        own = trials[data.subjects[trials] == subject]
        own = (own if data.order is None else own[data.order[own].argsort()])[:MOST]
        _, labels = data.labels[own].unique(return_inverse=True)
        if len(own) < 2 * FOLDS or labels.max() == 0:
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + subject)
        folds = torch.randperm(len(own), generator=generator) % FOLDS
        place = None if data.order is None else data.order[own].double()
        yield Recording(own, labels, place, folds, generator)


def _neighbours(place: Tensor) -> Tensor:
    """Weights (trial, other trial) of the nearest others in time."""
    distance = (place[:, None] - place).abs()
    distance.fill_diagonal_(torch.inf)
    nearest = distance.topk(min(NEIGHBOURS, len(place) - 1), largest=False)
    return torch.zeros_like(distance).scatter_(1, nearest.indices, 1 / nearest.values.clamp(min=1)).float()


def _decoder(features: Tensor, folds: Tensor) -> Tensor:
    """Weights (trial, other trial) with which a ridge regression on features (trial, feature), fitted without a trial's
    fold, predicts any targets. It is linear in the targets, so it is computed once for all labels."""
    features = features.double()
    spread = features.std(0)
    features = (features - features.mean(0)) / torch.where(spread > 0, spread, 1)
    products = features @ features.T / features.shape[1]  # (trial, trial), its diagonal about one
    weights = torch.zeros_like(products)
    for fold in range(FOLDS):
        inside, outside = torch.nonzero(folds != fold).flatten(), torch.nonzero(folds == fold).flatten()
        known = products[inside][:, inside] + PENALTY * torch.eye(len(inside), dtype=products.dtype)
        part = torch.linalg.solve(known, products[inside][:, outside], left=True).T
        part += (1 - part.sum(1, keepdim=True)) / len(inside)  # targets are centred on their mean
        weights[outside[:, None], inside] = part
    return weights.float()


def _right(decoder: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
    """How many trials are classified correctly, (draw,), with labels (trial,) taken from the indices of each draw."""
    count, classes, right = len(labels), int(labels.max()) + 1, []
    for some in labels[draws].split(max(1, AT_ONCE // (count * classes))):  # (draw, trial)
        targets = functional.one_hot(some, classes).float().permute(1, 0, 2)  # (trial, draw, class)
        scores = (decoder @ targets.flatten(1)).unflatten(1, targets.shape[1:])
        right.append((scores.argmax(-1).T == some).sum(1))
    return torch.cat(right).double()


def _highest_succession(recordings: list[Recording]) -> Audit:
    """For the class that most exceeds its own expectation; counted by subject, as each subject has its own order."""
    excesses = []
    for one in recordings:
        labels, classes = one.labels[one.exchanged], int(one.labels.max()) + 1  # (draw, trial)
        same = functional.one_hot(labels[:, :-1], classes) * (labels[:, 1:] == labels[:, :-1])[..., None]
        shares = same.sum(1) / functional.one_hot(labels[:, :-1], classes).sum(1).clamp(min=1)  # (draw, class)
        counts = one.labels.bincount(minlength=classes)
        excesses.append(shares - (counts - 1).clamp(min=0) / (len(one.labels) - 1))
    highest = torch.cat(excesses, 1).amax(1).double()
    return Audit("next trial of the same class, beyond expectation", highest[0].item(), highest[1:])


def _place_in_session(data: EEGDataset, trials: Tensor) -> Audit | None:
    if data.sessions is None:
        return None
    places = places_in_sessions(data.order.numpy(), data.sessions.numpy())
    own = (data.labels[trials].numpy(), places[trials.numpy()], data.sessions[trials].numpy())
    if (found := class_from_place(*own)) is None:
        return None
    return Audit("class from the place in other sessions", found[0], torch.from_numpy(found[1]))


def _time_from_eeg(data: EEGDataset, recordings: list[Recording]) -> Audit:
    """Correlation of decoded with true waves, averaged over waves, then over subjects weighted by trials."""
    total, trials = 0.0, 0
    for one in recordings:
        phase = (one.place - one.place.min() + 0.5) / (one.place.max() - one.place.min() + 1)  # 0 to 1
        waves = torch.cos(torch.pi * phase[:, None] * torch.arange(1, WAVES + 1)).float()  # (trial, wave)
        features = torch.cat([_means(data, one), _band_powers(data, one.trials)], 1)
        decoder = _decoder(features, one.folds)
        targets = waves[one.exchanged.T]  # (trial, draw, wave)
        decoded = (decoder @ targets.flatten(1)).unflatten(1, targets.shape[1:])
        total = total + len(one.trials) * functional.cosine_similarity(
            decoded - decoded.mean(0), targets - targets.mean(0), dim=0
        ).mean(1)
        trials += len(one.trials)
    found = (total / trials).double()
    return Audit("time of recording from the EEG (correlation)", found[0].item(), found[1:])


def _means(data: EEGDataset, recording: Recording) -> Tensor:
    """Mean of each channel, (trial, channel), under a Hann window: ongoing oscillations would blur a plain mean."""
    taper = torch.hann_window(data.trials.shape[-1] + 1, dtype=data.trials.dtype)[1:]
    return data.trials[recording.trials] @ (taper / taper.sum())


def _whole(data: EEGDataset, trials: Tensor) -> Tensor:
    return functional.adaptive_avg_pool1d(data.trials[trials], min(BINS["whole"], data.trials.shape[-1])).flatten(1)


def _waveform_and_power(signals: Tensor, bins: int) -> Tensor:
    """Averages in bins, and the log power of each channel: (trial, channel, time) -> (trial, feature)."""
    means = functional.adaptive_avg_pool1d(signals, min(bins, signals.shape[-1]))
    return torch.cat([means.flatten(1), (signals.var(-1, correction=0) + SMALLEST).log()], 1)


def _band_powers(data: EEGDataset, trials: Tensor) -> Tensor:
    """Log of the mean amplitude in the field's bands for each channel: (trial, feature)."""
    highest = min(100.0, data.sampling_rate / 2)
    amplitudes = amplitude_spectra(data.trials[trials], data.sampling_rate, highest)  # (trial, frequency, channel)
    hertz = frequencies(data.trials.shape[-1], data.sampling_rate, highest_frequency=highest)
    inside = [
        (hertz >= low) & (hertz < high) for low, high in bands_between(float(hertz[0]), float(hertz[-1])).values()
    ]
    return torch.cat([(amplitudes[:, band].mean(1) + SMALLEST).log() for band in inside if band.any()], 1)
