"""What classifiers know together without joint training, and whether joint training is better."""

import copy
from collections.abc import Iterable, Mapping

import torch
from sklearn.model_selection import KFold
from torch import Tensor

from brainvis.data.dataset import EEGDataset, Partition
from brainvis.models.encoder import ClassificationObjective, Encoder
from brainvis.models.fusion import FusedEncoder
from brainvis.training import fit, predict

FOLDS = 4
JOINT, LATE = "joint training", "late fusion"


def late_fusion(logits: Iterable[Tensor]) -> Tensor:
    """Sum of the log-probabilities of several classifiers, each (trial, class): for one, its own opinion."""
    return torch.stack([of_one.log_softmax(1) for of_one in logits]).sum(0)


def perfect_referee(logits: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Class scores (trial, class) of the classifier that ranks the right class (trial,) highest, for each trial.

    A referee who knows the answer and picks whom to believe is right whenever any classifier is: a ceiling for any
    choice between the classifiers, though not for their sum, in which two wrong opinions may make a right one.
    """
    opinions = torch.stack(list(logits))  # (classifier, trial, class)
    own = opinions.gather(2, labels.expand(len(opinions), -1)[..., None])  # of the right class
    best = (opinions >= own).sum(2).argmin(0)  # the first of those that rank it equally high
    return opinions[best, torch.arange(len(labels))]


def rivals(model: FusedEncoder, branches: Mapping[str, Encoder]) -> dict[str, FusedEncoder]:
    """What joint training has to beat, as fused encoders like `model`: late fusion, and each branch alone.

    All have the branches' weights; for a branch alone, the classifier is zero for all others, so that class scores are
    its own. Empty if a branch has no classifier.
    """
    if any(branch.classifier is None for branch in branches.values()):
        return {}
    late, first = copy.deepcopy(model).start_from(branches, classifier=True), 0
    found = {LATE: late}
    for name, branch in branches.items() if len(branches) > 1 else ():
        found[name] = copy.deepcopy(late)
        own = slice(first, first := first + branch.width)
        with torch.no_grad():
            found[name].classifier.weight.zero_()[:, own] = branch.classifier.weight
            found[name].classifier.bias.copy_(branch.classifier.bias)
    return found


def left_out(
    model: FusedEncoder, objective: ClassificationObjective, data: EEGDataset, partition: Partition, seed: int
) -> Tensor:
    """Class scores (validation trial, class) of joint training that starts from `model`: each validation trial is left
    out once, in `FOLDS` folds, and training continues on the training and other validation trials to the last epoch.

    Validation trials are those that no branch was trained on, so only they can show what joint training adds; and with
    no epoch to choose, a few of them are enough.
    """
    own = partition.validation
    logits = torch.zeros(len(own), len(data.class_names))
    for others, asked in KFold(min(FOLDS, len(own)), shuffle=True, random_state=seed).split(own):
        trained, known = copy.deepcopy(model), torch.cat([partition.train, own[others]])
        tensors = ([data.view(part), data.labels[part]] for part in (known, own[asked]))
        options = {"name": "fusion, some left out", "seed": seed, "choose": None}
        fit(trained, objective, *tensors, objective.training, **options)
        logits[asked] = predict(trained, data.trials[own[asked]])
    return logits


def with_all_subjects(
    rivals: Mapping[str, FusedEncoder],
    joint: Tensor,
    objective: ClassificationObjective,
    everybody: EEGDataset,
    data: EEGDataset,
    partition: Partition,
) -> dict[str, float]:
    """Values to choose by if a subject has few validation trials: for the rivals, their score on those of all subjects,
    whose branches they are; for joint training, the score of the best rival plus its gain over that rival on this
    subject's own, `joint` being the class scores of `left_out`."""
    shown = everybody.partition(partition.protocol).validation
    values = {
        name: objective.score(predict(model, everybody.view(shown)), everybody.labels[shown])
        for name, model in rivals.items()
    }
    best, labels = better_one(values), data.labels[partition.validation]
    own = objective.score(predict(rivals[best], data.trials[partition.validation]), labels)
    return values | {JOINT: values[best] + objective.score(joint, labels) - own}


def better_one(values: Mapping[str, float]) -> str:
    """Joint training if it is better than each of its rivals, else the best rival, late fusion first."""
    others = [name for name in values if name != JOINT]
    rival = max(others, key=lambda name: (values[name], name == LATE), default=JOINT)
    return JOINT if values.get(JOINT, 0.0) > values.get(rival, -1.0) else rival
