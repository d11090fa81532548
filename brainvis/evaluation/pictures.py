"""Metrics of generated pictures: answers of judges, statistics of sets of pictures, comparisons with the picture shown.

A metric is one entry of `METRICS`; nothing else refers to it. Samples of one trial are not independent, so intervals
and tests resample trials, never single pictures.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from brainvis.evaluation.bootstrap import mean_difference, mean_interval
from brainvis.evaluation.identification import identification
from brainvis.evaluation.judges import Judge, Judges
from brainvis.evaluation.scores import n_way_accuracy

BLOCK = 16  # trials whose pixels are compared at once


@dataclass
class Pictures:
    """Pictures, uint8, generated (trial, sample, height, width, 3) or shown (trial, height, width, 3), see `square`."""

    pixels: NDArray[np.uint8]
    judges: Judges = field(default_factory=Judges)
    ways: int = 50  # for generation accuracy
    n_permutations: int = 10_000  # of the trials, for the attribute tests
    seed: int = 0  # for every draw
    classes: NDArray[np.int64] | None = None  # of the trials (trial,), if known: strata of resamples
    answers: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # of the judges asked so far, see `ask`

    def __post_init__(self) -> None:
        self.pixels = np.ascontiguousarray(self.pixels)  # the last digits of sums depend on the memory layout

    def interval(self, values: ArrayLike) -> dict[str, float]:
        """Mean of one value per trial, (trial,), with its 95 % interval; trials are drawn within their `classes`."""
        return mean_interval(values, seed=self.seed, strata=self.classes)

    def difference(self, values: ArrayLike) -> dict[str, float]:
        """The same for one paired difference per trial, (trial,), with its "p"."""
        return mean_difference(values, seed=self.seed, strata=self.classes)


class NoJudgeError(Exception):
    """A metric needs a judge that is missing."""


def ask(judge: Judge | None, *sets: Pictures) -> list[dict[str, Tensor]]:
    """A judge's answers for sets of pictures, (trial, ...) or (trial, sample, ...): "features", logits of "class".

    The judge looks at each set once and is loaded once for all of them. NoJudgeError: there is no such judge.
    """
    if judge is None:
        raise NoJudgeError
    new = [pictures for pictures in sets if judge.name not in pictures.answers]
    said = judge.look(*(pictures.pixels.reshape(-1, *pictures.pixels.shape[-3:]) for pictures in new)) if new else []
    for pictures, answers in zip(new, said, strict=True):
        trials = pictures.pixels.shape[:-3]  # and samples
        pictures.answers[judge.name] = {name: values.unflatten(0, trials) for name, values in answers.items()}
    return [pictures.answers[judge.name] for pictures in sets]


def evaluate_pictures(generated: Pictures, shown: Pictures) -> dict:
    """All of `METRICS` for one stage's pictures; metrics whose judge is missing are left out.

    Returns, JSON-ready, `trials`, `samples`, each metric, `notes` (sentences a reader must know). A judge's metric has
    its name as `network` and the fingerprint of its `weights`. ValueError: pictures that do not fit each other.
    """
    made, truth, judges = generated.pixels, shown.pixels, generated.judges
    fit = made.ndim == 5 and len(made) and truth.shape == (len(made), *made.shape[2:])
    if not fit or made.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(
            f"generated {made.dtype} {made.shape} and shown {truth.dtype} {truth.shape} do not fit: they must be "
            "uint8 (trial, sample, height, width, 3) and (trial, height, width, 3), see `square`"
        )
    measured: dict[str, dict] = {}
    for name, metric in METRICS.items():
        with suppress(NoJudgeError):
            if (score := metric.measure(generated, shown)) is not None:
                measured[name] = score
    notes = [*judges.missing, *filter(None, (score.pop("note", "") for score in measured.values()))]
    if len(truth) == 1:
        notes.append("With a single trial there is neither FID nor two-way identification.")
    asked = {score.get("network") for score in measured.values()}
    everyone = (judges.classifier, judges.inception, judges.clip, *judges.identification.values())
    notes += dict.fromkeys(judge.note for judge in everyone if judge and judge.name in asked and judge.note)
    return {"trials": len(made), "samples": made.shape[1], **measured, "notes": notes}


def square(images: Sequence[Image.Image], resolution: int) -> NDArray[np.uint8]:
    """Pictures of any size, cropped to their central square and resized: uint8 (n, resolution, resolution, 3)."""
    size = (resolution, resolution)
    fitted = [ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in fitted]) if fitted else np.empty((0, *size, 3), np.uint8)


def accuracy_by_prediction(generated: Pictures, shown: Pictures, right: ArrayLike) -> dict[str, dict]:
    """Generation accuracy for the trials that the EEG classifier got "right" (trial,), and "wrong", if any."""
    right = np.asarray(right, bool)
    made, truth = (said["class"].numpy() for said in ask(generated.judges.classifier, generated, shown))
    parts = {name: part for name, part in (("right", right), ("wrong", ~right)) if part.any()}
    draws, classes = {"ways": generated.ways, "seed": generated.seed}, shown.classes
    return {
        name: n_way_accuracy(made[part], truth[part], **draws, strata=None if classes is None else classes[part])
        for name, part in parts.items()
    }


def agreement_with(
    names: Sequence[str], judged: NDArray, known: Sequence[str], seed: int = 0, strata: ArrayLike | None = None
) -> dict | None:
    """Share of pictures in which the judge sees the class named for the trial; None if it does not know all names.

    `names` are those of the trials (trial,), for example the predicted ones; `judged` (trial, sample) are the classes
    that the judge sees, out of those it has `known` names for; `strata` (trial,) as in `bootstrap.resample_weights`.
    """
    if not set(names) <= set(known):
        return None
    named = np.array([known.index(name) for name in names])
    share = mean_interval((judged == named[:, None]).mean(1), seed=seed, strata=strata)
    return {**share, "chance": 1 / len(known)}


# Sets of pictures


def _computed(num_features: int) -> nn.Module:
    """The extractor that a torchmetrics metric requires, for features that are already computed."""
    extractor = nn.Identity()
    extractor.num_features = num_features
    return extractor


def inception_score(logits: Tensor) -> dict[str, float | int]:
    """Inception Score: exp of the mean KL divergence of p(class | picture) from p(class), of logits (n, class).

    In a single split: the usual 10 cap the score at a tenth of the number of pictures.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save all extracted features")
        warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom")
        metric = InceptionScore(feature=_computed(logits.shape[1]), splits=1)
        # torchmetrics multiplies p by log p, which is NaN once p underflows to 0.
        metric.update(logits.double().log_softmax(1).clamp(min=-700))
        torch.manual_seed(0)  # it shuffles the pictures
        return {"value": float(metric.compute()[0]), "images": len(logits), "splits": 1}


def frechet_distance(generated: Tensor, shown: Tensor) -> dict:
    """Frechet (Inception) distance between features (n, d) and (m, d), with a `note` if there are too few."""
    (images, width), images_shown = generated.shape, len(shown)
    metric = FrechetInceptionDistance(feature=_computed(width))
    metric.update(shown.double(), real=True)
    metric.update(generated.double(), real=False)
    result = {"value": float(metric.compute()), "images": images, "images_shown": images_shown, "features": width}
    note = (
        f"FID of {images} generated and {images_shown} shown pictures with {width} features: with no more pictures "
        "than features, the covariances are singular and the distance is biased upwards; compare it only with "
        "distances between equally many pictures."
    )
    return result | {"note": note if min(images, images_shown) <= width else ""}


# Pictures against the picture shown. A similarity matrix is (trial, trial): generated i against shown j, averaged over
# the samples of i; its diagonal is the answer, the rest gives the level for other pictures. NaN: not compared.


def cosine_similarity(generated: Tensor, shown: Tensor) -> NDArray[np.float64]:
    """Cosine of features of unit length, (trial, sample, d) and (trial, d): similarity matrix (trial, trial)."""
    return (generated.mean(1).double() @ shown.double().T).numpy()  # the mean of cosines is linear in the features


def pixel_correlation(generated: NDArray[np.uint8], shown: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pearson correlation over all pixels and colours: similarity matrix (trial, trial); 0 for a uniform picture."""

    def standardised(images: NDArray) -> NDArray[np.float64]:
        values = images.reshape(*images.shape[:-3], -1).astype(float)
        values -= values.mean(-1, keepdims=True)
        length = np.linalg.norm(values, axis=-1, keepdims=True)
        return np.divide(values, length, out=np.zeros_like(values), where=length > 0)

    # In blocks: as float64, a picture of 512 x 512 takes 6 MB.
    similarity = np.empty((len(generated), len(shown)))
    for row in range(0, len(generated), BLOCK):
        made = standardised(generated[row : row + BLOCK]).mean(1)  # (block, pixel)
        for column in range(0, len(shown), BLOCK):
            target = standardised(shown[column : column + BLOCK])
            similarity[row : row + BLOCK, column : column + BLOCK] = made @ target.T
    return similarity


def structural_similarity(generated: NDArray[np.uint8], shown: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity (SSIM, Wang et al. 2004, equation 13), Gaussian window of 1.5 pixels: (trial, sample).

    Borders are mirrored and count, as in torchmetrics, which takes fifty times as long in double precision; single
    precision is not enough, as variances are differences of nearly equal numbers. scikit-image leaves out the outer
    five pixels.
    """
    blur = partial(gaussian_filter, sigma=1.5, radius=5, mode="mirror", axes=(-3, -2))
    luminance, contrast = 0.01**2, 0.03**2  # of values from 0 to 1
    values = []
    for samples, target in zip(generated, shown, strict=True):
        x, y = samples / 255, target[None] / 255  # (sample or 1, height, width, 3) float64
        mean_x, mean_y = blur(x), blur(y)
        variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
        alike = (2 * mean_x * mean_y + luminance) * (2 * covariance + contrast)
        values.append((alike / ((mean_x**2 + mean_y**2 + luminance) * (variances + contrast))).mean((1, 2, 3)))
    return np.stack(values)


def readout(made: Tensor, truth: Tensor, levels: int, n_permutations: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Whether an attribute of the picture shown, such as its position, is recovered in the generated ones.

    `made` (trial, sample) and `truth` (trial,) are a judge's answers, out of `levels` possible ones. Returns `value`,
    the share of pictures that agree; `chance`, that share if every picture is compared with every trial's truth, which
    is its mean over all permutations of whole trials; `p` from `n_permutations` of them, one-sided; `levels`.
    """
    agreement = (made[:, :, None] == truth).double().mean(1).numpy()  # (trial, trial)
    value, order = np.trace(agreement) / len(truth), permutations(len(truth), n_permutations, seed)
    blocks = (order[start : start + 1000] for start in range(0, n_permutations, 1000))
    # A small tolerance, so that equal sums added in a different order count as equal.
    least = value - 1e-12
    reached = sum((agreement[np.arange(len(truth)), block].mean(1) >= least).sum() for block in blocks)
    p = (1 + reached) / (1 + n_permutations)
    return {"value": float(value), "chance": float(agreement.mean()), "p": float(p), "levels": levels}


@lru_cache(maxsize=2)
def permutations(trials: int, count: int, seed: int) -> NDArray[np.int32]:
    """`count` permutations of the trials, (count, trial): the same for every question asked."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    drawn = (rng.permutation(trials) for _ in range(count))
    return np.fromiter(drawn, np.dtype((np.int32, trials)), count)


@dataclass(frozen=True)
class Metric:
    """A metric of pictures.

    `measure(generated, shown)` returns {"value", "low", "high", ...}, the latter two if there is an interval, with a
    "note" if a reader must know something; None if it does not apply. It may `ask` judges.
    """

    measure: Callable[[Pictures, Pictures], dict | None]
    title: str  # of its column in tables; empty for scores not shown there
    digits: int = 3  # in tables


def _accuracy(generated: Pictures, shown: Pictures) -> dict:
    judge = generated.judges.classifier
    made, truth = (said["class"] for said in ask(judge, generated, shown))
    return n_way_accuracy(made, truth, generated.ways, seed=generated.seed, strata=shown.classes) | judge.origin


def _attributes(generated: Pictures, shown: Pictures) -> dict:
    made, truth = ask(generated.judges.classifier, generated, shown)
    levels = {name: logits.shape[1] for name, logits in truth.items() if name != "features"}
    draws = generated.n_permutations, generated.seed
    return {name: readout(made[name].argmax(-1), truth[name].argmax(-1), levels[name], *draws) for name in levels}


def _inception_score(generated: Pictures, shown: Pictures) -> dict:
    made, _ = ask(generated.judges.inception, generated, shown)
    return inception_score(made["class"].flatten(0, 1)) | generated.judges.inception.origin


def _fid(generated: Pictures, shown: Pictures) -> dict | None:
    made, truth = (said["features"] for said in ask(generated.judges.inception, generated, shown))
    return frechet_distance(made.flatten(0, 1), truth) | generated.judges.inception.origin if len(truth) > 1 else None


def _clip_similarity(generated: Pictures, shown: Pictures) -> dict:
    made, truth = (said["features"] for said in ask(generated.judges.clip, generated, shown))
    return _compared(cosine_similarity(made, truth), shown) | generated.judges.clip.origin


def _two_way(features: str, generated: Pictures, shown: Pictures) -> dict | None:
    judge = generated.judges.identification.get(features)
    if judge is None or len(shown.pixels) == 1:
        return None
    known = None
    if judge.name in generated.answers:  # else it looks now and its features, possibly many, are not kept
        made, truth = (said["features"] for said in ask(judge, generated, shown))
        known = made.flatten(0, 1), truth
    return identification(judge, generated.pixels, shown.pixels, generated.seed, known)


def unrelated_pairs(shown: Pictures) -> dict[str, NDArray[np.bool_]]:
    """Pairs (trial, trial) of trials with different pictures shown: of the "same_class" and of an "other_class", or all
    as "unrelated" if the classes of the trials are not known."""
    digests = np.array([hashlib.sha256(picture.tobytes()).hexdigest() for picture in shown.pixels])
    different = digests[:, None] != digests
    if shown.classes is None:
        return {"unrelated": different}
    same = shown.classes[:, None] == shown.classes
    return {"same_class": different & same, "other_class": different & ~same}


def _compared(similarity: NDArray, shown: Pictures) -> dict[str, float]:
    """Mean of the diagonal with its interval, and the mean of the `unrelated_pairs` that were compared."""
    means = {kind: similarity[pairs & ~np.isnan(similarity)] for kind, pairs in unrelated_pairs(shown).items()}
    return shown.interval(np.diagonal(similarity)) | {
        kind: float(values.mean()) for kind, values in means.items() if len(values)
    }


def _ssim(generated: Pictures, shown: Pictures) -> dict:
    """For every trial, and for one random unrelated pair per trial and kind: all pairs would take hours."""
    trials, rng = np.arange(len(shown.pixels)), np.random.default_rng(np.random.SeedSequence([shown.seed, 3]))
    similarity = np.full((len(trials), len(trials)), np.nan)
    for pairs in (np.eye(len(trials), dtype=bool), *unrelated_pairs(shown).values()):
        rows = trials[pairs.any(1)]
        columns = np.array([rng.choice(pairs[row].nonzero()[0]) for row in rows], int)
        if len(rows):
            values = structural_similarity(generated.pixels[rows], shown.pixels[columns])
            similarity[rows, columns] = values.mean(1)
    return _compared(similarity, shown)


# In the order of the results.
METRICS: dict[str, Metric] = {
    "generation_accuracy": Metric(_accuracy, "GA"),
    "attributes": Metric(_attributes, ""),
    "inception_score": Metric(_inception_score, "IS", digits=2),
    "fid": Metric(_fid, "FID", digits=2),
    "clip_similarity": Metric(_clip_similarity, "CLIP"),
    # Two-way identification with the features of the published networks, or of the generator's own judge.
    "two_way_alexnet_2": Metric(partial(_two_way, "AlexNet 2"), "2-way AlexNet 2"),
    "two_way_alexnet_5": Metric(partial(_two_way, "AlexNet 5"), "2-way AlexNet 5"),
    "two_way_inception": Metric(partial(_two_way, "Inception"), "2-way Inception"),
    "two_way_judge": Metric(partial(_two_way, "judge"), "2-way judge"),
    "two_way_clip": Metric(partial(_two_way, "CLIP"), "2-way CLIP"),
    "pixel_correlation": Metric(
        lambda made, truth: _compared(pixel_correlation(made.pixels, truth.pixels), truth), "pixel correlation"
    ),
    "ssim": Metric(_ssim, "SSIM"),
}
