"""The base class of all EEG encoders, and the objective that trains an encoder with a classifier on top."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from brainvis.configuration import Training
from brainvis.models.augmentation import augmented


class Encoder(nn.Module):
    """EEG -> embedding. Subclasses set `width`, build layers, call `add_classifier(n_outputs)`, and define `embed`.

    All take braindecode's arguments: n_chans, channels of a trial; n_times, samples per trial; sfreq, the sampling rate
    in hertz; n_outputs, the number of classes, None for no classifier; then their own options with defaults.
    """

    width: int  # of the embedding

    def __init__(self) -> None:
        super().__init__()
        self.classifier: nn.Linear | None = None

    def prepare(self, trials: Tensor) -> None:
        """Computes what it needs from training trials (trial, channel, time) before training; by default nothing."""

    def embed(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> embedding (b, width)."""
        raise NotImplementedError

    def add_classifier(self, n_outputs: int | None) -> Self:
        """Adds an untrained linear classifier on top, or none; returns the encoder itself."""
        self.classifier = None if n_outputs is None else nn.Linear(self.width, n_outputs)
        return self

    def forward(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> class scores before the softmax (b, class), or the embedding without a classifier."""
        embedding = self.embed(trials)
        return embedding if self.classifier is None else self.classifier(embedding)


UNEQUAL = 2.0  # times as many training trials in one class as in another: above this, classes are weighted


def classification_objective(model: nn.Module, trials: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy with the labels as `loss`, and top-1 `accuracy`."""
    scores = model(trials)  # (b, class)
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": functional.cross_entropy(scores, labels), "accuracy": accuracy}


@dataclass(frozen=True, eq=False)
class ClassificationObjective:
    """The objective of a classifier for given training and validation labels: `classification_objective`. If so
    configured, it weights classes, chooses the epoch by `balanced_accuracy`, and augments training trials.

    Args:
        train, validation: labels (trial,) of the two parts.
        training: whether classes are weighted (`class_weights`), and the augmentation.
    """

    train: Tensor
    validation: Tensor
    training: Training

    @property
    def weighs(self) -> bool:
        """Whether all classes count equally in the loss, however many trials they have."""
        kind = self.training.class_weights
        return kind == "balanced" or (kind == "auto" and unequal(self.train))

    @property
    def choose(self) -> tuple[str, str]:
        """The quantity by which `fit` chooses the epoch."""
        return ("balanced_accuracy" if unequal(self.train) else "accuracy", "max")

    def score(self, scores: Tensor, labels: Tensor) -> float:
        """The quantity that chooses the epoch, from class scores (trial, class) of trials with labels (trial,)."""
        right = (scores.argmax(1) == labels).double()
        weights = class_weights(labels, labels) if unequal(self.train) else 1
        return (right * weights).mean().item()

    def __call__(self, model: nn.Module, trials: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if model.training:
            trials = augmented(trials, self.training.time_shift, self.training.channel_dropout)
        if not (self.weighs or unequal(self.train)):
            return classification_objective(model, trials, labels)
        scores = model(trials)  # (b, class)
        losses, right = functional.cross_entropy(scores, labels, reduction="none"), (scores.argmax(1) == labels).float()
        loss = losses * class_weights(self.train, labels) if self.weighs else losses
        balance = class_weights(self.train if model.training else self.validation, labels)
        return {"loss": loss.mean(), "accuracy": right.mean(), "balanced_accuracy": (right * balance).mean()}


def unequal(labels: Tensor) -> bool:
    """Whether one class has more than `UNEQUAL` times as many of the labels (trial,) as another that occurs."""
    counts = labels.bincount()
    return bool(counts.max() > UNEQUAL * counts[counts > 0].min())


def class_weights(labels: Tensor, of: Tensor) -> Tensor:
    """Weights of trials with the labels `of` (b,) that make all classes among `labels` (trial,) count equally; their
    mean over `labels` is 1."""
    counts = labels.bincount(minlength=int(of.max()) + 1).to(of.device)
    return (len(labels) / (counts.clamp(min=1) * (counts > 0).sum()))[of].float()
