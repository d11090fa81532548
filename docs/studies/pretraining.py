"""What is pre-training worth? The time branch, fine-tuned on a share of the labels, after each kind of pre-training.

    snakemake --cores 2 pretraining_study                    all of it: takes hours, resumes where it was stopped
    python docs/studies/pretraining.py lmm 0 interleaved FOLDER    one kind, seed and world

`show_pretraining.py` makes a figure and a text of them.

The learning rate of each kind and share is chosen on validation trials among `RATES`, because each start has its own
best one: with the first seed, for all seeds. The epoch is chosen in every run. Test trials are read once, with what was
chosen. Worlds are phantoms: where classes are recorded in blocks under slow drift, the time of recording gives them
away, and a pre-training that learns it would help. With all labels every start reads nearly all classes there, so one
such world is tried with fewer labels, too.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch
from other_recordings import ORIGINS, pretraining_on
from torch import Tensor

from brainvis.configuration import PRESETS, Phantom, Training
from brainvis.data import load_dataset
from brainvis.data.classes import class_attributes
from brainvis.data.dataset import EEGDataset, Partition
from brainvis.evaluation.analysis import probe_encoder
from brainvis.files import read_json, write_json
from brainvis.models.encoder import classification_objective
from brainvis.models.masked_signal import MaskedSignalModel, masked_signal_objective
from brainvis.models.time import LatentMaskedModel, TimeEncoder, masked_modeling_objective
from brainvis.training import History, computed_in, fit, predict

BASE = PRESETS["demo"]
LMM = {  # what differs from LMM as released
    "lmm": {},
    "lmm_regression": {"classification_weight": 0.0},
    "lmm_tokens": {"regression_weight": 0.0},
    "lmm_data2vec": {"target_sees": "all", "target_standardised": True},
}
KINDS = {
    "none": "none",
    "lmm": "LMM as released",
    "lmm_regression": "LMM, regression alone",
    "lmm_tokens": "LMM, tokens alone",
    "lmm_data2vec": "LMM, targets as in data2vec",
    "masked_signal": "masked reconstruction of the signal",
}
KINDS_AND_ORIGINS = KINDS | ORIGINS  # of the latter, which are pre-trained on other trials, all labels only
WORLDS = {
    "interleaved": Phantom(),
    "interleaved_drift_0.5": Phantom(drift=0.5),
    "interleaved_drift_1": Phantom(drift=1.0),
    "block": Phantom(design="block"),
    "block_drift_0.5": Phantom(design="block", drift=0.5),
    "block_drift_1": Phantom(design="block", drift=1.0),
    "block_drift_0.5_no_signal": Phantom(design="block", drift=0.5, signal=0.0),
}
STEPS = {0.05: 400, 0.1: 500, 0.25: 800, 0.5: 1100, 1.0: 1400}  # of fine-tuning, by share of the labels
FEW_LABELS = ("interleaved", "block_drift_0.5")  # worlds with all shares; the others have all labels only
RATES = (3e-4, 1e-3, 3e-3)


def pretrained(kind: str, data: EEGDataset, partition: Partition, seed: int) -> tuple[TimeEncoder, dict]:
    """An encoder after a kind of pre-training, and what can be said of it."""
    config = replace(BASE.time, **LMM.get(kind, {}))
    torch.manual_seed(seed)
    encoder = TimeEncoder(**data.signature, config=config)
    said = {"probe_before": probe_encoder(encoder, data, partition)}
    if kind == "none":
        return encoder, said
    signal = kind == "masked_signal"
    model = MaskedSignalModel(encoder) if signal else LatentMaskedModel(encoder)
    trials, training = pretraining_on(kind, data, partition, config.pretraining)
    history = fit(
        model,
        masked_signal_objective if signal else masked_modeling_objective,
        [trials],
        [data.view(partition.validation)],
        training,
        name=KINDS_AND_ORIGINS[kind],
        seed=seed,
        choose=None,
        after_step=None if signal else model.update_target,
    )
    return encoder, said | {"probe": probe_encoder(encoder, data, partition), "pretraining": history.epochs[-1]}


def labelled(data: EEGDataset, train: Tensor, share: float, seed: int) -> Tensor:
    """A share of the training trials, the same of every class, whole pictures: at least one of each class."""
    generator, kept = torch.Generator().manual_seed(seed), []
    for label in data.labels[train].unique():
        of_class = train[data.labels[train] == label]
        pictures = data.images[of_class].unique()
        count = max(1, round(share * len(pictures)))
        chosen = pictures[torch.randperm(len(pictures), generator=generator)[:count]]
        kept.append(of_class[torch.isin(data.images[of_class], chosen)])
    return torch.cat(kept).sort().values


def finetuned(
    start: dict, data: EEGDataset, partition: Partition, rows: Tensor, steps: int, rate: float, seed: int
) -> tuple[History, TimeEncoder]:
    """How fine-tuning on some trials went, and the model of the epoch that is best on validation trials."""
    torch.manual_seed(seed + 1)
    model = TimeEncoder(**data.signature, config=BASE.time)
    model.load_state_dict(start)
    model.add_classifier(len(data.class_names))
    size = BASE.time.finetuning.batch_size
    epochs = max(2, round(steps / -(-len(rows) // size)))
    training = Training(epochs, rate, size, "adam", 0.0, "cosine")
    parts = ([data.view(part), data.labels[part]] for part in (rows, partition.validation))
    choose = ("accuracy", "max")
    history = fit(model, classification_objective, *parts, training, name=f"{rate:g}", seed=seed, choose=choose)
    return history, model


def part(folder: Path, kind: str, seed: int, world: str) -> Path:
    """The file of one kind, seed and world."""
    return folder / f"{kind}-{seed}-{world}.json"


def run(kind: str, seed: int, world: str, folder: Path) -> None:
    """Pre-train once, fine-tune on every share, read the test trials once a share.

    The first seed tries every rate and keeps, for each share, the one that is best on validation trials; it has to be
    there before the others, which take its rates.
    """
    rates = {share: RATES for share in STEPS}
    if seed:
        rates = {row["share"]: [row["rate"]] for row in read_json(part(folder, kind, 0, world))["rows"]}
    data = load_dataset("phantom", configuration=replace(BASE, phantom=WORLDS[world]))  # the same for all seeds
    partition = data.partition("clean")
    encoder, said = pretrained(kind, data, partition, seed)
    start, rows = encoder.state_dict(), []
    for share in STEPS if world in FEW_LABELS and kind in KINDS else [1.0]:
        some = labelled(data, partition.train, share, seed)
        tried = {rate: finetuned(start, data, partition, some, STEPS[share], rate, seed) for rate in rates[share]}
        validation = {rate: history.kept("validation_accuracy") for rate, (history, _) in tried.items()}
        best = max(validation, key=validation.get)
        history, model = tried[best]
        predicted = predict(model, data.view(partition.test)).argmax(1)
        row = {"share": share, "trials": len(some), "rate": best, "epoch": history.best_epoch}
        row |= {"epochs": len(history.epochs), "train": history.epochs[-1]["train_accuracy"]}
        row["validation"] = {f"{rate:g}": value for rate, value in validation.items()}
        rows.append(row | tested(data, partition.test, predicted))
        print(f"{kind}, seed {seed}, {world}, {share:.0%} of labels: {rows[-1]['test']:.3f}", flush=True)
    made = {"kind": kind, "seed": seed, "world": world, "rows": rows, **said}
    made |= {name: getattr(data, name)[partition.test].tolist() for name in ("images", "labels")}
    made |= {"configuration": asdict(BASE.time), "computed_in": computed_in, "torch": torch.__version__}
    write_json(part(folder, kind, seed, world), made)


def tested(data: EEGDataset, test: Tensor, predicted: Tensor) -> dict:
    """Accuracy of the class, of each word of its name, and which trials are right ("0" and "1", in their order)."""
    labels = data.labels[test]
    words = {
        place: sum(of[a] == of[b] for a, b in zip(predicted.tolist(), labels.tolist(), strict=True)) / len(test)
        for place, of in class_attributes(data.class_names).items()
    }
    right = predicted == labels
    return {"test": right.double().mean().item(), "words": words, "right": "".join(map(str, right.int().tolist()))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS_AND_ORIGINS)
    parser.add_argument("seed", type=int)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("folder", type=Path)
    run(**vars(parser.parse_args()))
