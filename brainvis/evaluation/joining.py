"""What classifiers know together without being trained together, and whether joint training is better than that."""

import copy
from collections.abc import Iterable, Mapping

import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from brainvis.configuration import Configuration, Training
from brainvis.data.dataset import EEGDataset, Partition
from brainvis.evaluation.evidence import FEW
from brainvis.models import new_encoder
from brainvis.models.encoder import ClassificationObjective, Encoder
from brainvis.models.fusion import FusedEncoder
from brainvis.training import fit, predict

FOLDS = 3
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


def cross_validated(
    configuration: Configuration, data: EEGDataset, trials: Tensor, time: Encoder | None, seed: int
) -> dict[str, Tensor]:
    """Class scores (trial, class) of joint training and its `rivals` for `trials` that were left out, in `FOLDS` folds.

    Everything is trained anew without the fold, on the others alone, to the last epoch: what notebooks 02 and 03 left
    has met most of these trials. `time` is the time branch as pre-training left it, which has seen no label.
    """
    labels, classes = data.labels[trials], len(data.class_names)
    splitter = StratifiedKFold(min(FOLDS, _fewest(labels)), shuffle=True, random_state=seed)
    logits: dict[str, Tensor] = {}
    for inside, outside in splitter.split(trials, labels):
        known, asked = trials[inside], trials[outside]

        def train(model: Encoder, training: Training, name: str, known=known, asked=asked) -> Encoder:
            objective = ClassificationObjective(data.labels[known], data.labels[asked], training)
            tensors = ([data.view(part), data.labels[part]] for part in (known, asked))
            options = {"name": f"{name}, a fold left out", "seed": seed, "choose": None}
            fit(model, objective, *tensors, training, precision=configuration.precision, **options)
            return model

        branches = {}
        for name in configuration.fusion.branches:
            torch.manual_seed(seed)
            encoder = new_encoder(name, configuration, **data.signature, n_outputs=classes)
            if name == "time" and time is not None:
                encoder = copy.deepcopy(time).add_classifier(classes)
            encoder.prepare(data.view(known))
            of_time = name == "time"
            training = configuration.time.finetuning if of_time else configuration.frequency.training
            branches[name] = train(encoder, training, name)
        model = FusedEncoder(**data.signature, n_outputs=classes, configuration=configuration)
        of_fold = rivals(model, branches)
        model.start_from(branches, classifier=configuration.fusion.classifier == "branches")
        of_fold[JOINT] = train(model, configuration.fusion.training, "fusion")
        for name, one in of_fold.items():
            scores = logits.setdefault(name, torch.zeros(len(trials), classes))
            scores[outside] = predict(one, data.trials[asked])
    return logits


def judges(data: EEGDataset, partition: Partition) -> Tensor:
    """The trials that choose between joint training and its rivals: the validation trials, or, where these are too few,
    those of training, too, each left out once (`cross_validated`)."""
    both = torch.cat([partition.train, partition.validation])
    can = partition.honest and _fewest(data.labels[both]) > 1
    return both if can and len(partition.validation) < FEW else partition.validation


def better_one(values: Mapping[str, float]) -> str:
    """Joint training where it is better than each of its rivals, else the best of these, late fusion first."""
    others = [name for name in values if name != JOINT]
    rival = max(others, key=lambda name: (values[name], name == LATE), default=JOINT)
    return JOINT if values.get(JOINT, 0.0) > values.get(rival, -1.0) else rival


def _fewest(labels: Tensor) -> int:
    counts = labels.bincount()
    return int(counts[counts > 0].min())
