"""Every hyperparameter of the study: one frozen dataclass a stage, three presets, and the table of ablations.

`paper` holds the published values (Fu et al., ICASSP 2025, and the authors' release); `demo` is a small model of the
same structure that a laptop trains in minutes; `smoke` only proves that everything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from brainvis.files import BrainvisError, resolve

settings = dataclass(frozen=True, config=ConfigDict(extra="forbid"))


@settings
class Training:
    """How one model is trained; read by `brainvis.training.fit`."""

    epochs: Annotated[int, Field(ge=0)]  # 0: nothing is trained
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-4
    batch_size: Annotated[int, Field(ge=1)] = 128
    optimiser: Literal["adam", "adamw"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01  # AdamW's default, as in the release
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: one warm-up epoch, then down to zero


@settings
class TimeBranch:
    """The transformer of the time branch and its Latent Masked Modeling (LMM)."""

    unit_length: int = 4  # samples in a unit: kernel and stride of the projection
    width: int = 1024
    layers: int = 8
    heads: int = 16
    feedforward: int = 4096
    dropout: float = 0.2
    mask_ratio: float = 0.75
    regressor_layers: int = 4
    regressor_dropout: float = 0.1
    codewords: int = 660
    momentum: float = 0.99  # of the target encoder's moving average
    regression_weight: float = 4.0  # the paper adds both losses; the release weighs them 4 and 2
    classification_weight: float = 2.0
    label_smoothing: float = 0.2
    pretraining: Training = Training(epochs=300)  # of 500, the release goes on from epoch 300
    finetuning: Training = Training(epochs=80, optimiser="adam", weight_decay=0.0)  # of 400, from epoch 80


@settings
class FrequencyBranch:
    """The LSTM that reads the amplitude spectrum, one frequency after the other."""

    width: int = 128
    layers: int = 1
    highest_frequency: float | None = None  # hertz; None: up to the Nyquist frequency
    training: Training = Training(epochs=1000, learning_rate=1e-3, optimiser="adam", weight_decay=0.0)


@settings
class Fusion:
    """The fused encoder: which branches it joins and which weights the time branch starts from."""

    branches: tuple[str, ...] = ("time", "frequency")  # names in `brainvis.models.ENCODERS`
    time_weights: Literal["finetuned", "pretrained"] = "finetuned"
    training: Training = Training(epochs=50)


@settings
class Alignment:
    """Semantic interpolation: the map from the fused embedding to CLIP text embeddings."""

    wide: int = 4096
    narrow: int = 1024
    targets: tuple[str, ...] = ("coarse", "fine")  # at least one of the two
    mean_squared_error: bool = True  # the release adds it to the paper's cosine loss
    train_encoder: bool = True  # the fused encoder keeps learning, as in the release's third state dict
    training: Training = Training(epochs=500)


@settings
class Generation:
    """The cascade: semantic stage, then refinement by image-to-image."""

    semantic: bool = True
    refinement: bool = True
    samples: int = 4  # images a trial
    trials: int | None = None  # test trials shown to the cascade; None: all
    semantic_steps: int = 50
    semantic_guidance: float = 1.0  # 1 is none
    refinement_steps: int = 100
    refinement_guidance: float = 7.5
    strength: float = 0.85
    batch_size: int = 4


@settings
class Phantom:
    """Size of the embedded world; see `brainvis.phantom`."""

    subjects: int = 4
    images_per_class: int = 20
    classes: int = 40
    design: str = "interleaved"  # or "block": each class in one block, as EEGCVPR40 was recorded
    drift: float = 0.0  # amplitude of slow drift, relative to the ongoing EEG
    signal: float = 1.0  # gain of everything evoked or induced by the picture; 0 leaves noise alone


@settings
class Configuration:
    """All stages together."""

    time: TimeBranch = TimeBranch()
    frequency: FrequencyBranch = FrequencyBranch()
    fusion: Fusion = Fusion()
    alignment: Alignment = Alignment()
    generation: Generation = Generation()
    phantom: Phantom = Phantom()
    encoders: dict[str, dict[str, Any]] = Field(default_factory=dict)  # arguments of other branches, by their names


PRESETS = {
    "paper": Configuration(phantom=Phantom(subjects=6, images_per_class=50)),
    "demo": Configuration(
        time=TimeBranch(
            unit_length=10,
            width=96,
            layers=2,
            heads=4,
            feedforward=384,
            dropout=0.1,
            regressor_layers=2,
            codewords=64,
            pretraining=Training(epochs=6, learning_rate=1e-4, batch_size=64, schedule="cosine"),
            finetuning=Training(epochs=12, learning_rate=1e-3, batch_size=32, schedule="cosine"),
        ),
        frequency=FrequencyBranch(
            highest_frequency=100.0,
            training=Training(epochs=12, learning_rate=1e-3, batch_size=32, schedule="cosine"),
        ),
        fusion=Fusion(training=Training(epochs=12, learning_rate=5e-4, batch_size=32, schedule="cosine")),
        alignment=Alignment(
            wide=512, narrow=256, training=Training(epochs=16, learning_rate=1e-3, batch_size=32, schedule="cosine")
        ),
        generation=Generation(
            samples=2, semantic_steps=20, refinement_steps=20, refinement_guidance=3.0, batch_size=32
        ),
    ),
    "smoke": Configuration(
        time=TimeBranch(
            unit_length=20,
            width=32,
            layers=1,
            heads=2,
            feedforward=64,
            regressor_layers=1,
            codewords=16,
            pretraining=Training(epochs=2),
            finetuning=Training(epochs=2, learning_rate=2e-3),
        ),
        frequency=FrequencyBranch(width=32, highest_frequency=100.0, training=Training(epochs=2, learning_rate=2e-3)),
        fusion=Fusion(training=Training(epochs=2, batch_size=32)),
        alignment=Alignment(wide=64, narrow=32, training=Training(epochs=2, batch_size=32)),
        generation=Generation(
            samples=1, trials=8, semantic_steps=4, refinement_steps=4, refinement_guidance=3.0, batch_size=8
        ),
        phantom=Phantom(subjects=2, images_per_class=6, classes=8),
    ),
}


@settings
class Ablation:
    """One change to the configuration: `changes` maps a stage's configuration to the fields it replaces."""

    description: str
    changes: dict[str, dict]


ABLATIONS = {
    "full": Ablation("the whole method", {}),
    "no_time": Ablation("without the time branch", {"fusion": {"branches": ("frequency",)}}),
    "no_frequency": Ablation("without the frequency branch", {"fusion": {"branches": ("time",)}}),
    "no_pretraining": Ablation("without LMM pre-training", {"time": {"pretraining": {"epochs": 0}}}),
    "no_finetuning": Ablation("without fine-tuning the time branch", {"fusion": {"time_weights": "pretrained"}}),
    "no_refinement": Ablation("the semantic stage alone", {"generation": {"refinement": False}}),
    "no_semantic": Ablation("the refinement stage alone, from the predicted name", {"generation": {"semantic": False}}),
}


# A person's own recordings have fewer trials and channels than the phantom: `demo` becomes smaller, its batches too,
# so that there are enough steps. Frequencies are read up to the usual upper edge of their filters.
SMALL = {"unit_length": 16, "width": 64, "layers": 2, "feedforward": 128, "dropout": 0.2, "codewords": 32}
TWENTY_EPOCHS = {"epochs": 20, "batch_size": 32}
FOR_DATASET = {
    ("demo", "recordings"): {
        "time": {**SMALL, "pretraining": TWENTY_EPOCHS, "finetuning": TWENTY_EPOCHS},
        "frequency": {"width": 64, "highest_frequency": 45.0, "training": {"epochs": 40, "batch_size": 32}},
        "fusion": {"training": {"epochs": 20, "batch_size": 8}},
    }
}


def configure(preset: str, ablation: str, dataset: str = "phantom") -> Configuration:
    """The configuration of a preset for a data set, with the change that an ablation makes.

    Args:
        preset: one of `PRESETS`, or the path of a YAML file that says where it starts and what it changes:

            start: paper
            time: {pretraining: {epochs: 3}}
            generation: {samples: 1, semantic_steps: 20}

    Raises:
        BrainvisError: a preset that is neither, or a file with a field or value that is not allowed.
        KeyError: an ablation that is not in its table.
    """
    start, own = (preset, {}) if preset in PRESETS else _read_preset(preset)
    configuration = changed(PRESETS[start], FOR_DATASET.get((start, dataset), {}))
    try:
        configuration = changed(configuration, own)
    except BrainvisError as error:
        raise BrainvisError(f"preset {preset}: {error}") from error
    return changed(configuration, ABLATIONS[ablation].changes)


def changed(part: Any, changes: Mapping) -> Any:
    """A configuration, or a part of one, with some of its fields replaced; nested as the dataclasses are.

    Raises:
        BrainvisError: a field that does not exist, or a value that it cannot have: its dotted path, what is allowed.
    """
    kind = TypeAdapter(type(part))
    try:  # as JSON, so that lists become tuples while text never becomes a number
        return kind.validate_json(json.dumps(_merged(asdict(part), changes)), strict=True)
    except ValidationError as error:
        raise BrainvisError(_explained(part, error.errors()[0])) from error


def _merged(values: dict, changes: Mapping) -> dict:
    both = {name for name in changes if isinstance(changes[name], Mapping) and isinstance(values.get(name), dict)}
    return {**values, **changes, **{name: _merged(values[name], changes[name]) for name in both}}


def _explained(part: Any, error: dict) -> str:
    """What is wrong, in a sentence, from the first of pydantic's errors."""
    *parents, last = error["loc"]
    path = ".".join(map(str, error["loc"]))
    for name in parents:
        part = getattr(part, str(name), part)
    if error["type"] == "unexpected_keyword_argument":
        where = ".".join(map(str, parents)) or "the configuration"
        return f"there is no {path}; {where} has {', '.join(field.name for field in fields(part))}"
    present = getattr(part, str(last), None)
    known = [field.name for field in fields(present)] if is_dataclass(present) else present
    wrong = "missing" if error["type"] == "missing" else repr(error["input"])
    return f"{path} is {wrong}; it has to be a value like {known!r} ({error['msg']})"


def _read_preset(name: str) -> tuple[str, dict]:
    """The preset that a file starts from, and its changes."""
    file, names = resolve(name), ", ".join(PRESETS)
    if file.suffix not in (".yml", ".yaml") or not file.is_file():
        raise BrainvisError(f"preset is {name!r}; it has to be one of {names}, or the path of a YAML file")
    if file.stem in PRESETS:
        raise BrainvisError(f"preset {name}: call the file something else, for runs of {file.stem!r} have a folder")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BrainvisError(f"preset {name} is no YAML file: {error}") from error
    if not isinstance(content, dict) or content.get("start") not in PRESETS:
        raise BrainvisError(f"preset {name} has to say where it starts: `start:` and one of {names}")
    return content.pop("start"), content
