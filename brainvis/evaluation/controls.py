"""What generation accuracy consists of: the cascade drawn again with one of its inputs replaced.

The semantic stage is led by text embeddings; the refinement stage is given a name. A control states whose each is; only
its line in `CONTROLS` refers to it. Noise, trials and settings are those of the cascade, so everything is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainvis.configuration import Generation
from brainvis.evaluation.bootstrap import LEVEL, holm
from brainvis.evaluation.pictures import Pictures, accuracy_by_prediction, ask, readout
from brainvis.evaluation.scores import n_way_accuracy, n_way_expectation
from brainvis.generation import Generator
from brainvis.generation.cascade import refinement_stage, semantic_stage

GENERIC = "a picture"  # the prompt that names nothing


@dataclass(frozen=True)
class Control:
    """Whose text embeddings lead the semantic stage, and whose name the refinement stage gets; None: left out."""

    title: str
    embeddings: str | None
    name: str | None


CONTROLS = {
    "cascade": Control("the cascade", "predicted", "predicted"),
    "no_refinement": Control("without refinement", "predicted", None),
    "no_semantic": Control("without the semantic stage", None, "predicted"),
    "generic_prompt": Control(f'told "{GENERIC}"', "predicted", "generic"),
    "nearest_name": Control("told the name nearest to the embedding", "predicted", "nearest"),
    "true_name": Control("told the true name", "predicted", "true"),
    "true_caption": Control("led by the true caption, no refinement", "caption", None),
    "average": Control("led by the average embedding", "average", "predicted"),
    "average_alone": Control("the same without refinement (blind)", "average", None),
    "another_trial": Control("led by another trial's embedding", "another", "predicted"),
    "noise": Control("noise in place of EEG", "noise", "noise"),
}
BLIND = "average_alone"  # what pictures drawn without any EEG show


def noise_trials(trials: Tensor, count: int, seed: int) -> Tensor:
    """`count` draws from the Gaussian with the mean and the covariance, over channels and time, of `trials`.

    (trial, channel, time) -> (count, channel, time): sums of all trials with random weights, so that nothing of any
    single trial is left, while channels, spectra and slow drifts vary together as they do in EEG.
    """
    mean = trials.mean(0)
    weights = torch.randn(count, len(trials), generator=torch.Generator().manual_seed(seed))
    return mean + torch.einsum("nt,tcs->ncs", weights / max(len(trials) - 1, 1) ** 0.5, trials - mean)


def other_trials(labels: Tensor) -> Tensor:
    """For each trial of these classes (trial,), the index of another: half way round, in class order."""
    order = labels.argsort(stable=True)
    others = torch.empty_like(order)
    others[order] = order.roll(-(len(order) // 2))
    return others


def draw_controls(
    generator: Generator,
    embeddings: Mapping[str, Tensor],
    names: Mapping[str, Sequence[str]],
    config: Generation,
    seed: int,
    trials: Sequence[int],
    drawn: Mapping[str, NDArray[np.uint8]],
    folder: Path | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """One picture per trial for each of `CONTROLS`: uint8 (trial, 1, height, width, 3).

    The keys of `embeddings` (trial, tokens, width) and `names` (trial,) are those of the table; `drawn` holds the
    "cascade" and its semantic stage, "no_refinement", which already exist. All others are saved in `folder` as drawn.
    """
    one, made, started = replace(config, samples=1), dict(drawn), {"predicted": drawn["no_refinement"]}
    for name, control in CONTROLS.items():
        if (led_by := control.embeddings) is not None and led_by not in started:
            place = folder and folder / f"led_by_{led_by}"
            started[led_by] = semantic_stage(generator, embeddings[led_by], one, seed, trials, folder=place)
        if control.name is None:
            made[name] = started[led_by]
        elif name not in made:
            start, told, place = started.get(led_by), names[control.name], folder and folder / name
            made[name] = refinement_stage(generator, start, told, one, seed, trials, folder=place)
    return {name: made[name] for name in CONTROLS}


def control_scores(drawn: Mapping[str, Pictures], shown: Pictures, right: NDArray[np.bool_]) -> dict[str, dict]:
    """Scores of each of `CONTROLS` by the classifier that judges generation accuracy:

    `generation_accuracy`; `by_prediction`, for the trials that the EEG classifier got "right" (trial,) and "wrong";
    `minus_cascade`, its accuracy minus that of the cascade, on the same trials, mean over all draws of the other
    classes; `attributes`: the `readout` of each attribute besides the class, with its interval, and `minus_blind`, its
    value minus that of `BLIND`. Both differences have "p" and "p_holm", corrected for all controls, or for all
    attributes of the same control, of which there are "family".
    """
    judge, ways, draws = shown.judges.classifier, shown.ways, {"seed": shown.seed, "strata": shown.classes}
    *answers, truth = ask(judge, *drawn.values(), shown)
    said = dict(zip(drawn, answers, strict=True))
    accuracy = {name: n_way_expectation(said[name]["class"], truth["class"], ways).mean(1) for name in drawn}
    right_words = {name: truth[name].argmax(-1) for name in truth if name not in ("class", "features")}
    shares = {  # of a trial's pictures that show what was shown: (trial,)
        (name, word): (said[name][word].argmax(-1) == own[:, None]).double().mean(1).numpy()
        for name in drawn
        for word, own in right_words.items()
    }

    def attribute(name: str, word: str) -> dict:
        levels, permuted = truth[word].shape[1], (shown.n_permutations, shown.seed)
        found = readout(said[name][word].argmax(-1), right_words[word], levels, *permuted)
        own, blind = shares[name, word], shares[BLIND, word]
        return found | shown.interval(own) | {"minus_blind": shown.difference(own - blind)}

    scores = {
        name: {
            "generation_accuracy": n_way_accuracy(said[name]["class"], truth["class"], ways, **draws),
            "by_prediction": accuracy_by_prediction(pictures, shown, right),
            "minus_cascade": shown.difference(accuracy[name] - accuracy["cascade"]),
            "attributes": {word: attribute(name, word) for word in right_words},
        }
        for name, pictures in drawn.items()
    }
    _correct({name: score["minus_cascade"] for name, score in scores.items() if name != "cascade"})
    for name in scores.keys() - {BLIND}:
        _correct({word: found["minus_blind"] for word, found in scores[name]["attributes"].items()})
    return scores


def _correct(differences: Mapping[str, dict]) -> None:
    """Add "p_holm" and the family size to the differences of a family."""
    for name, p in holm({name: each["p"] for name, each in differences.items()}).items():
        differences[name] |= {"p_holm": p, "family": len(differences)}


def verdict(difference: Mapping[str, float], more: str = "more", less: str = "less", not_shown: str = "") -> str:
    """What a corrected difference shows: `more`, `less`, or nothing."""
    if difference.get("p_holm", 1.0) >= LEVEL:
        return not_shown
    return more if difference["value"] > 0 else less
