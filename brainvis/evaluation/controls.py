"""What generation accuracy is made of: the cascade drawn again with one thing that it is given replaced.

The semantic stage is led by text embeddings, the refinement stage is told a name. A control says whose of each; nothing
else names it but its line in `CONTROLS`. Noise, trials and settings are those of the cascade, so that all is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainvis.configuration import Generation
from brainvis.evaluation.pictures import Pictures, accuracy_by_prediction, ask, readout
from brainvis.evaluation.scores import n_way_accuracy, n_way_expectation
from brainvis.generation import Generator
from brainvis.generation.cascade import refinement_stage, semantic_stage

GENERIC = "a picture"  # the prompt that names nothing


@dataclass(frozen=True)
class Control:
    """Whose text embeddings lead the semantic stage, and whose name the refinement stage is told; None: left out."""

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
    "average_alone": Control("led by the average embedding, no refinement", "average", None),
    "another_trial": Control("led by another trial's embedding", "another", "predicted"),
    "noise": Control("noise in place of EEG", "noise", "noise"),
}
BLIND = "average_alone"  # what pictures show that are drawn without any EEG


def noise_trials(trials: Tensor, count: int, seed: int) -> Tensor:
    """`count` draws from the Gaussian with the mean and the covariance, over channels and time, of `trials`.

    (trial, channel, time) -> (count, channel, time): sums of all trials with random weights, so that nothing is left of
    any one of them, while channels, spectra and slow drifts go together as they do in EEG.
    """
    mean = trials.mean(0)
    weights = torch.randn(count, len(trials), generator=torch.Generator().manual_seed(seed))
    return mean + torch.einsum("nt,tcs->ncs", weights / max(len(trials) - 1, 1) ** 0.5, trials - mean)


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
    """One picture a trial of each of `CONTROLS`: uint8 (trial, 1, height, width, 3).

    `embeddings` (trial, tokens, width) and `names` (trial,) by the words of the table; `drawn` has the controls that
    are drawn already, `folder` takes the others as they come.
    """
    config, made, started = replace(config, samples=1), dict(drawn), {}
    for name, control in CONTROLS.items():
        if control.name is None and name in made:
            started[control.embeddings] = made[name]
    for name, control in CONTROLS.items():
        if name in made:
            continue
        own = None if folder is None else Path(folder)
        source = control.embeddings
        if source is not None and source not in started:
            place = own and own / f"from_{source}"
            started[source] = semantic_stage(generator, embeddings[source], config, seed, trials, folder=place)
        made[name] = started.get(source)
        if control.name is not None:
            place = own and own / name
            given = names[control.name]
            made[name] = refinement_stage(generator, made[name], given, config, seed, trials, folder=place)
    return {name: made[name] for name in CONTROLS}


def control_scores(drawn: Mapping[str, Pictures], shown: Pictures, right: NDArray[np.bool_]) -> dict[str, dict]:
    """Of each control: `generation_accuracy`; `by_prediction`, where the classifier of EEG was "right" (trial,) and
    "wrong"; `less_than_cascade`, the cascade's accuracy minus this one's, on the same trials and all draws of the other
    classes; and of each attribute besides the class its `readout`, and how much more than `BLIND` it shows.
    """
    judge, ways = shown.judges.classifier, shown.ways
    *said, truth = ask(judge, *drawn.values(), shown)
    expected = {
        name: n_way_expectation(of_one["class"], truth["class"], ways).mean(1)
        for name, of_one in zip(drawn, said, strict=True)
    }
    agrees = {name: _agreement(of_one, truth) for name, of_one in zip(drawn, said, strict=True)}
    scores = {}
    for (name, pictures), of_one in zip(drawn.items(), said, strict=True):
        scores[name] = {
            "generation_accuracy": n_way_accuracy(of_one["class"], truth["class"], ways, seed=shown.seed),
            "by_prediction": accuracy_by_prediction(pictures, shown, right),
            "less_than_cascade": shown.interval(expected["cascade"] - expected[name]),
            "attributes": {
                attribute: readout(
                    of_one[attribute].argmax(-1), truth[attribute].argmax(-1), truth[attribute].shape[1],
                    shown.n_permutations, shown.seed,
                ) | shown.interval(values) | {"more_than_blind": shown.interval(values - agrees[BLIND][attribute])}
                for attribute, values in agrees[name].items()
            },
        }  # fmt: skip
    return scores


def _agreement(made: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Share of the samples of each trial that show the attribute of the picture that was shown: (trial,) each."""
    return {
        name: (made[name].argmax(-1) == truth[name].argmax(-1)[:, None]).double().mean(1).numpy()
        for name in truth
        if name not in ("class", "features")
    }
