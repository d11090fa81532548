"""What every encoder of EEG is, and the objective that trains it with a classifier on top."""

from typing import Self

from torch import Tensor, nn
from torch.nn import functional


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


def classification_objective(model: nn.Module, trials: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the labels as `loss`, and top-1 `accuracy`."""
    scores = model(trials)  # (b, class)
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": functional.cross_entropy(scores, labels), "accuracy": accuracy}
