"""What classifiers know together without being trained together, and whether joint training is better than that."""

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


def rivals(model: FusedEncoder, branches: Mapping[str, Encoder]) -> dict[str, FusedEncoder]:
    """What joint training has to beat, as fused encoders like `model`: late fusion, and each branch alone.

    All have the branches' weights; a branch alone has zeros in the classifier for all others, so that class scores are
    its own. None where a branch has no classifier.
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
    """Class scores (validation trial, class) of joint training from `model` as it begins: each validation trial is left
    out once, in `FOLDS` folds, and learning goes on from training and the other validation trials to the last epoch.

    Validation trials are those that no branch has learned from, so that nothing else can tell what training adds; and
    with no epoch to choose, few of them are enough to be asked.
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
    """What to choose by where a subject has few validation trials: the rivals' score on those of all subjects, whose
    branches they are; and of joint training that of the best rival, and what it gains over that one on this subject's
    own, `joint` being the class scores of `left_out`."""
    shown = everybody.partition(partition.protocol).validation
    values = {
        name: objective.score(predict(model, everybody.view(shown)), everybody.labels[shown])
        for name, model in rivals.items()
    }
    best, labels = better_one(values), data.labels[partition.validation]
    own = objective.score(predict(rivals[best], data.trials[partition.validation]), labels)
    return values | {JOINT: values[best] + objective.score(joint, labels) - own}


def better_one(values: Mapping[str, float]) -> str:
    """Joint training where it is better than each of its rivals, else the best of these, late fusion first."""
    others = [name for name in values if name != JOINT]
    rival = max(others, key=lambda name: (values[name], name == LATE), default=JOINT)
    return JOINT if values.get(JOINT, 0.0) > values.get(rival, -1.0) else rival
