"""What every encoder of EEG is, and the objective that trains it with a classifier on top."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from brainvis.configuration import Training
from brainvis.models.augmentation import augmented


class Encoder(nn.Module):
    """EEG -> embedding. Subclasses set `width`, build layers, call `add_classifier(n_outputs)`, and define `embed`.

    All take braindecode's arguments: n_chans, channels of a trial; n_times, its samples; sfreq, the sampling rate in
    hertz; n_outputs, the classes to tell apart, None for no classifier; then options of their own with defaults.
    """

    width: int  # of the embedding

    def __init__(self) -> None:
        super().__init__()
        self.classifier: nn.Linear | None = None

    def prepare(self, trials: Tensor) -> None:
        """Takes what it has to know of the training trials (trial, channel, time) before it learns; most: nothing."""

    def embed(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> embedding (b, width)."""
        raise NotImplementedError

    def add_classifier(self, n_outputs: int | None) -> Self:
        """Puts an untrained linear classifier on top, or none; returns the encoder itself."""
        self.classifier = None if n_outputs is None else nn.Linear(self.width, n_outputs)
        return self

    def forward(self, trials: Tensor) -> Tensor:
        """(b, channel, time) -> class scores before the softmax (b, class); without a classifier the embedding."""
        embedding = self.embed(trials)
        return embedding if self.classifier is None else self.classifier(embedding)


UNEQUAL = 2.0  # times as many training trials of one class as of another: classes are weighed


def classification_objective(model: nn.Module, trials: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the labels as `loss`, and top-1 `accuracy`."""
    scores = model(trials)  # (b, class)
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": functional.cross_entropy(scores, labels), "accuracy": accuracy}


@dataclass(frozen=True, eq=False)
class ClassificationObjective:
    """The objective of a classifier for given training and validation labels: `classification_objective`, and, where it
    is told to, with weighed classes, `balanced_accuracy` to choose the epoch by, and augmented training trials.

    Args:
        train, validation: labels (trial,) of both parts.
        training: whether classes are weighed (`class_weights`), and the augmentation.
    """

    train: Tensor
    validation: Tensor
    training: Training

    @property
    def weighs(self) -> bool:
        """Whether classes count alike in the loss, however many trials they have."""
        kind = self.training.class_weights
        return kind == "balanced" or (kind == "auto" and unequal(self.train))

    @property
    def choose(self) -> tuple[str, str]:
        """What `fit` chooses the epoch by."""
        return ("balanced_accuracy" if unequal(self.train) else "accuracy", "max")

    def score(self, scores: Tensor, labels: Tensor) -> float:
        """What the epoch is chosen by, of class scores (trial, class) of any trials with these labels (trial,)."""
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
    """Whether one of the classes that occur has more than `UNEQUAL` times as many of the labels (trial,) as another."""
    counts = labels.bincount()
    return bool(counts.max() > UNEQUAL * counts[counts > 0].min())


def class_weights(labels: Tensor, of: Tensor) -> Tensor:
    """What a trial of each of the labels `of` (b,) has to count for all classes among labels (trial,) to count alike:
    their mean over labels is 1."""
    counts = labels.bincount(minlength=int(of.max()) + 1).to(of.device)
    return (len(labels) / (counts.clamp(min=1) * (counts > 0).sum()))[of].float()
