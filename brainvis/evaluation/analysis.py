"""Analyses of EEG and of what models read from it: averages, spectra, variance shares, linear probes, band occlusion.

Notebooks 01 to 03 print and plot the results. `models.time` is not imported, not even for a type: results track the
code they depend on by imports, and a changed LMM loss is no reason to rerun 01 and 03.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.model_selection import KFold, StratifiedGroupKFold
from torch import Tensor, nn
from torch.nn import functional

from brainvis.data.dataset import EEGDataset, Partition
from brainvis.data.phantom import phantom_attributes
from brainvis.evaluation.scores import spread_over_classes
from brainvis.models.spectrum import amplitude_spectrum
from brainvis.phantom.stimuli import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES
from brainvis.training import predict

# The field's frequency bands in hertz, each from (included) to (excluded).
BANDS = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "low beta": (13.0, 20.0),
    "high beta": (20.0, 35.0),
    "low gamma": (35.0, 55.0),
    "high gamma": (55.0, 100.0),
}


def group_means(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct groups (group,), ascending, and the mean of (trial, ...) over each group's trials (group, ...)."""
    present, index, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(present), *values.shape[1:], dtype=torch.float64)
    for rows, where in zip(values.split(256), index.split(256), strict=True):  # in float64 without a second copy
        sums.index_add_(0, where, rows.double())
    return present, (sums / counts.reshape(-1, *[1] * (values.ndim - 1))).float()


def global_field_power(evoked: Tensor) -> Tensor:
    """Standard deviation over channels: (..., channel, time) -> (..., time)."""
    return evoked.std(dim=-2, correction=0)


def amplitude_spectra(trials: Tensor, sampling_rate: float, highest_frequency: float | None = None) -> Tensor:
    """Amplitude spectrum of every trial, in batches: (trial, channel, time) -> (trial, frequency, channel)."""
    return torch.cat([amplitude_spectrum(batch, sampling_rate, highest_frequency) for batch in trials.split(256)])


def variance_shares(values: Tensor, groupings: dict[str, Tensor], within: Tensor) -> dict[str, Tensor]:
    """Share of the variance of (trial, ...) over trials that each grouping (trial,) explains: epsilon squared, (...).

    (SS_between - df_between MS_within) / SS_total (Kelley 1935): 0 on average without an effect, possibly negative; 1
    if the group determines the value. Computed for each group of `within` (trial,), such as each subject, then averaged
    with the number of trials as weight. ValueError if none has more trials than groups.
    """
    totals = {name: torch.zeros(values.shape[1:], dtype=torch.float64) for name in groupings}
    weights = dict.fromkeys(groupings, 0)
    for who in within.unique():
        rows = torch.nonzero(within == who).flatten()
        found = {name: of[rows].unique(return_inverse=True, return_counts=True) for name, of in groupings.items()}
        found = {name: found[name] for name, (present, _, _) in found.items() if 1 < len(present) < len(rows)}
        sums = {
            name: torch.zeros(len(present), *values.shape[1:], dtype=torch.float64)
            for name, (present, _, _) in found.items()
        }
        squares = torch.zeros(values.shape[1:], dtype=torch.float64)
        for place in torch.arange(len(rows)).split(256) if found else ():  # computed once for all groupings
            own = values[rows[place]].double()
            for name, (_, index, _) in found.items():
                sums[name].index_add_(0, index[place], own)
            squares += own.square_().sum(0)
        for name, (present, _, counts) in found.items():
            mean_part = sums[name].sum(0) ** 2 / len(rows)
            between = torch.einsum("g,g...->...", 1 / counts.double(), sums[name].square_()) - mean_part
            all_of_it = squares - mean_part
            mean_square = (all_of_it - between) / (len(rows) - len(present))
            totals[name] += len(rows) * (between - (len(present) - 1) * mean_square) / all_of_it.clamp(min=1e-30)
            weights[name] += len(rows)
    for name in (name for name, weight in weights.items() if not weight):
        raise ValueError(
            f"{len(within)} trials are too few for {len(groupings[name].unique())} groups: give more trials"
        )
    return {name: (total / weights[name]).float() for name, total in totals.items()}


EXCHANGES = 199  # random permutations of the labels


@dataclass(frozen=True)
class Successions:
    """How often a trial of each class (class,) is followed by one of the same class, and how often by chance."""

    share: Tensor  # NaN for a class that is never followed by anything
    expected: Tensor  # from each subject's trial counts
    low: Tensor  # 95 % of the permutations of each subject's labels lie between this
    high: Tensor  # and this

    @property
    def above(self) -> Tensor:
        """Classes that follow themselves more often than nearly all permuted orders: (class,) bool."""
        return self.share > self.high


def same_class_successions(data: EEGDataset, seed: int = 0) -> Successions:
    """Compare each class with its own expectation: one with seven of eight trials follows itself seven times of eight.

    By class, because a single class may have been recorded in a block. ValueError if the recording order is unknown.
    """
    if data.order is None:
        raise ValueError(f"{data.name} does not state the order in which its trials were recorded")
    classes, generator = len(data.class_names), torch.Generator().manual_seed(seed)
    same, followed = torch.zeros(2, 1 + EXCHANGES, classes)
    wanted, pairs = torch.zeros(2, classes, dtype=torch.float64)
    for subject in data.subjects.unique():
        own = torch.nonzero(data.subjects == subject).flatten()
        labels, count = data.labels[own[data.order[own].argsort()]], len(own)
        mixed = labels[torch.rand(1 + EXCHANGES, count, generator=generator).argsort(1)]  # (draw, trial)
        mixed[0] = labels
        first = mixed[:, :-1] + classes * torch.arange(1 + EXCHANGES)[:, None]  # one number for each draw and class
        bins = {"minlength": same.numel()}
        followed += torch.bincount(first.flatten(), **bins).view_as(same)
        same += torch.bincount(first[mixed[:, 1:] == mixed[:, :-1]], **bins).view_as(same)
        counts = torch.bincount(labels, minlength=classes).double()
        wanted += counts * (counts - 1) / count  # of count - 1 pairs drawn without replacement
        pairs += counts * (count - 1) / count
    shares = same / followed
    low, high = shares[1:].nan_to_num().quantile(torch.tensor([0.025, 0.975]), dim=0)
    return Successions(shares[0], (wanted / pairs.clamp(min=1e-9)).float(), low, high)


def known_attributes(data: EEGDataset) -> dict[str, tuple[tuple[str, ...], Tensor]]:
    """What the phantom's pictures show: attribute -> its words, index of each trial's word; empty for other data."""
    if data.name != "phantom" or not data.has_images:
        return {}
    words = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "position": POSITIONS, "background": BACKGROUNDS}
    return {name: (words[name], index) for name, index in phantom_attributes(data).items()}


MOST_NUMBERS = 2**26  # in the latent units probed together: 256 MB, 595 trials with preset `paper`


def linear_probe(train_inputs: Tensor, train_labels: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Whether a ridge regression of classes (trial,) on (trial, width) is right: (trial,) bool; closed form."""
    mean, deviation = train_inputs.mean(0), train_inputs.std(0).clamp(min=1e-8)
    known, asked = ((values - mean) / deviation for values in (train_inputs, inputs))  # (trial, width)
    classes = int(max(train_labels.max(), labels.max())) + 1
    targets = functional.one_hot(train_labels, classes).to(known.dtype)
    average, penalty = targets.mean(0), 0.1 * len(known)  # relative to the variance of one standardised input
    # Solved in the input space or the trial space, whichever is smaller: the answer is the same.
    small = known.shape[1] <= len(known)
    gram = known.T @ known if small else known @ known.T
    gram.diagonal().add_(penalty)
    wanted = known.T @ (targets - average) if small else targets - average
    solved = torch.linalg.solve(gram.double(), wanted.double()).to(known.dtype)
    scores = asked @ (solved if small else known.T @ solved)
    return (scores + average).argmax(1) == labels


def probe_encoder(
    encoder: nn.Module, data: EEGDataset, partition: Partition, trials: int = 1200, folds: int = 4
) -> dict[str, float]:
    """Accuracy of linear probes of an encoder: on the mean over its latent units (`mean_of_units`), which is what the
    classifier reads, and on all units side by side (`all_units`), which shows what the mean has blurred.

    Cross-validated within the training part, so that choices based on it use no other data: on at most `trials`
    trials, spread evenly over the classes, fewer if their units would fill the memory; no picture is in two folds.
    """
    size = predict(encoder.units_of, data.trials[partition.train[:1]]).numel()  # numbers in one trial
    trials = min(trials, max(MOST_NUMBERS // size, folds))
    rows = partition.train[torch.from_numpy(spread_over_classes(data.labels[partition.train], trials))]
    units = torch.cat([predict(encoder.units_of, data.trials[some]) for some in rows.split(256)])  # (trial, unit, d)
    labels, images = data.labels[rows], data.images[rows]
    pictures = torch.where(images < 0, torch.arange(len(rows)) + len(data.image_ids), images)
    most = min(int(labels.bincount().max()), len(pictures.unique()))  # with one trial per class, no class occurs twice
    splitter = StratifiedGroupKFold(min(folds, most)) if most > 1 else KFold(2)
    parts = splitter.split(rows, labels, pictures)
    parts = [(torch.from_numpy(inside), torch.from_numpy(outside)) for inside, outside in parts]
    accuracy = {}
    for name, inputs in {"mean_of_units": units.mean(1), "all_units": units.flatten(1)}.items():
        right = [linear_probe(inputs[i], labels[i], inputs[o], labels[o]) for i, o in parts]
        accuracy[name] = torch.cat(right).double().mean().item()
    return accuracy


def pretraining_monitor(data: EEGDataset, partition: Partition, epochs: int, readings: int = 3) -> Callable:
    """For `fit`: the state of `model.encoder` during pre-training, after each epoch: `residual_scale`, the mean size of
    the scalars of its sublayers; `variance_over_trials` and `variance_over_positions` of its latent units (0: a
    collapse). About `readings` times, including the last epoch: `probe_accuracy`, of `mean_of_units`, and
    `probe_of_all_units`, see `probe_encoder`."""
    some = data.trials[partition.train[:64]]

    def monitor(model: nn.Module, epoch: int) -> dict[str, float]:
        scales = [value for name, value in model.encoder.named_parameters() if name.endswith((".scale1", ".scale2"))]
        units = predict(model.encoder.units_of, some)  # (trial, unit, width)
        state = {
            "residual_scale": torch.stack(scales).abs().mean().item(),
            "variance_over_trials": units.var(dim=0).mean().item(),
            "variance_over_positions": units.mean(0).var(dim=0).mean().item(),
        }
        if epoch % max(1, epochs // readings) == 0 or epoch == epochs:
            probes = probe_encoder(model.encoder, data, partition)
            state |= {"probe_accuracy": probes["mean_of_units"], "probe_of_all_units": probes["all_units"]}
        return state

    return monitor


@torch.no_grad()
def masked_prediction(model: nn.Module, trials: Tensor, mask: Tensor) -> Any:
    """The `MaskedPrediction` of a `LatentMaskedModel` for (trial, channel, time), without dropout, on the CPU."""
    prediction = model.eval().predict(trials.to(model.mask_token.device), mask)
    return replace(prediction, **{name: values.cpu() for name, values in vars(prediction).items()})


def prediction_quality(prediction: Any) -> dict[str, float]:
    """Quality of a `MaskedPrediction` of some trials: `tokens_right`, the masked-token accuracy;
    `most_frequent_token`, the accuracy of always predicting that token; `relative_error`, mean squared error of the
    regressed units over the variance of the targets over trials (1: the mean of each unit would do as well)."""
    target, tokens = prediction.target, prediction.tokens.flatten()
    error = (prediction.regressed - target).square().mean() / target.var(0, correction=0).mean().clamp(min=1e-12)
    return {
        "tokens_right": (prediction.token_scores.argmax(-1).flatten() == tokens).double().mean().item(),
        "most_frequent_token": tokens.bincount().max().item() / len(tokens),
        "relative_error": error.item(),
    }


def codebook_use(model: nn.Module, trials: Tensor) -> Tensor:
    """In how many units of the trials (trial, channel, time) each LMM codeword is the likeliest: (codeword,)."""
    device = model.mask_token.device
    tokens = predict(lambda batch: model.tokeniser(model.encoder.project(batch)).argmax(-1), trials, device=device)
    return torch.bincount(tokens.flatten(), minlength=model.tokeniser.out_features)


def bands_between(lowest: float, highest: float) -> dict[str, tuple[float, float]]:
    """The bands of `BANDS` that include a frequency in [lowest, highest] hertz, the last one extended to `highest`."""
    bands = {name: (low, high) for name, (low, high) in BANDS.items() if high > lowest and low <= highest}
    if bands:
        last = list(bands)[-1]
        bands[last] = (bands[last][0], max(bands[last][1], highest + 1e-6))
    return bands


def exchange_band(
    trials: Tensor, sampling_rate: float, bands: list, subjects: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Trials (trial, channel, time) whose frequencies in `bands` come from another trial of the same subject (trial,).

    This removes what a band (from, to; hertz, `to` excluded) says about a trial's class, but keeps its amplitudes in
    the range that the model was trained on: no trial has zeros there.
    """
    other = torch.arange(len(trials))
    for subject in subjects.unique():
        own = torch.nonzero(subjects == subject).flatten()
        shuffled = own[torch.randperm(len(own), generator=generator)]
        other[shuffled] = shuffled.roll(1)  # along one cycle: no trial is exchanged with itself
    hertz = torch.fft.rfftfreq(trials.shape[-1], 1 / sampling_rate)
    inside = torch.zeros_like(hertz, dtype=torch.bool)
    for low, high in bands:
        inside |= (hertz >= low) & (hertz < high)
    coefficients = torch.fft.rfft(trials)
    coefficients[..., inside] = coefficients[other][..., inside]
    return torch.fft.irfft(coefficients, n=trials.shape[-1])


def band_reliance(
    logits: Callable[[Tensor], Tensor], data: EEGDataset, trials: Tensor, bands: dict, *, seed: int, repeats: int = 3
) -> dict[str, dict[str, float]]:
    """Accuracy of a classifier without each band, and with that band alone, exchanged between trials `repeats` times.

    `logits` maps (trial, channel, time) to (trial, class); `trials` are the indices of the trials it reads; `bands` as
    in `bands_between`. Returns band -> "without", "alone"; for "all bands" these are with every band exchanged and with
    none exchanged.
    """
    generator = torch.Generator().manual_seed(seed)
    signals, labels, subjects = data.trials[trials], data.labels[trials], data.subjects[trials]

    def accuracy(values: Tensor) -> float:
        return (logits(values).argmax(1) == labels).double().mean().item()

    def exchanged(names: list[str]) -> float:
        edges = [bands[name] for name in names]
        runs = [exchange_band(signals, data.sampling_rate, edges, subjects, generator) for _ in range(repeats)]
        return sum(map(accuracy, runs)) / repeats

    table = {"all bands": {"without": exchanged(list(bands)), "alone": accuracy(signals)}}
    for name in bands:
        table[name] = {"without": exchanged([name]), "alone": exchanged([other for other in bands if other != name])}
    return table
