"""What classifiers know together without being trained together: the controls of fusion."""

from collections.abc import Iterable

import torch
from torch import Tensor


def late_fusion(logits: Iterable[Tensor]) -> Tensor:
    """Sum of the log-probabilities of several classifiers, each (trial, class): that of one is its own opinion."""
    return torch.stack([of_one.log_softmax(1) for of_one in logits]).sum(0)


def perfect_referee(logits: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Class scores (trial, class) of the classifier that ranks the right class (trial,) highest, in each trial.

    A referee who is told the answer and picks whom to believe is right wherever anybody is: a ceiling for whatever
    chooses between the classifiers, though not for their sum, in which two wrong opinions may make a right one.
    """
    opinions = torch.stack(list(logits))  # (classifier, trial, class)
    own = opinions.gather(2, labels.expand(len(opinions), -1)[..., None])  # of the right class
    best = (opinions >= own).sum(2).argmin(0)  # the first of those that rank it equally high
    return opinions[best, torch.arange(len(labels))]
