"""Every hyperparameter of the study: one frozen dataclass a stage, three presets, and the table of ablations.

Each field has the range in which its model can work, so that a study that cannot is refused when it opens.

`paper` holds the published values (Fu et al., ICASSP 2025, and the authors' release); `demo` is a small model of the
same structure that a laptop trains in minutes; `smoke` only proves that everything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from textwrap import shorten
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from brainvis.files import BrainvisError, resolve
from brainvis.files.reading import SAFE_NAME, UNSAFE, read_yaml, safe_name

settings = dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))


def _once_each(names: tuple) -> tuple:
    if len(set(names)) < len(names):
        raise ValueError("name nothing twice")
    return names


def _finite(options: dict) -> dict:
    """Options of a branch that is not known here: their numbers at least have to be numbers."""
    try:
        json.dumps(options, allow_nan=False)
    except ValueError as error:
        raise ValueError("every number has to be finite") from error
    return options


Count = Annotated[int, Field(ge=1, lt=2**31)]  # what torch counts with
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=1, le=999)]  # of the 1000 of Stable Diffusion, PLMS leaves out the first
Guidance = Annotated[float, Field(ge=1)]  # 1 is none, and so would be anything less
Branch = Annotated[str, Field(pattern=f"^{SAFE_NAME}$")]


@settings
class Training:
    """How one model is trained; read by `brainvis.training.fit`."""

    epochs: Annotated[int, Field(ge=0, lt=2**31)]  # 0: nothing is trained
    learning_rate: Positive = 5e-4
    batch_size: Count = 128
    optimiser: Literal["adam", "adamw"] = "adamw"
    weight_decay: NotNegative = 0.01  # AdamW's default, as in the release
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: one warm-up epoch, then down to zero


@settings
class TimeBranch:
    """The transformer of the time branch and its Latent Masked Modeling (LMM)."""

    unit_length: Count = 4  # samples in a unit: kernel and stride of the projection
    width: Count = 1024
    layers: Count = 8
    heads: Count = 16
    feedforward: Count = 4096
    dropout: Dropout = 0.2
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    regressor_layers: Count = 4
    regressor_dropout: Dropout = 0.1
    codewords: Annotated[int, Field(ge=2, lt=2**31)] = 660
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99  # of the target encoder's moving average
    target_sees: Literal["masked", "all"] = "masked"  # units that the target encoder reads; all: as in data2vec
    target_standardised: bool = False  # over trials and units, as in data2vec; a linear layer then predicts it
    residual_scale: NotNegative = 1e-8  # of every sublayer, before anything is learned
    regression_weight: NotNegative = 4.0  # the paper adds both losses; the release weighs them 4 and 2
    classification_weight: NotNegative = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pretraining: Training = Training(epochs=300)  # of 500, the release goes on from epoch 300
    # The epoch that is kept: never by a loss, for its targets move with the encoder.
    pretraining_keeps: Literal["last", "token_accuracy", "probe_accuracy"] = "last"
    finetuning: Training = Training(epochs=80, optimiser="adam", weight_decay=0.0)  # of 400, from epoch 80

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it has to divide width, which is {self.width}")
        if not self.regression_weight + self.classification_weight:
            raise ValueError("regression_weight and classification_weight are both 0; one has to be above 0")
        return self


@settings
class FrequencyBranch:
    """The LSTM that reads the amplitude spectrum, one frequency after the other."""

    width: Count = 128
    layers: Count = 1
    highest_frequency: Positive | None = None  # hertz; None: up to the Nyquist frequency
    log_amplitude: bool = False  # the logarithm, standardised over training trials, instead of amplitudes
    dropout: Dropout = 0.0  # of what the LSTM reads
    training: Training = Training(epochs=1000, learning_rate=1e-3, optimiser="adam", weight_decay=0.0)


@settings
class Fusion:
    """The fused encoder: which branches it joins, and what it starts from."""

    # names in `brainvis.models.ENCODERS`
    branches: Annotated[tuple[Branch, ...], Field(min_length=1), AfterValidator(_once_each)] = ("time", "frequency")
    time_weights: Literal["finetuned", "pretrained"] = "finetuned"
    classifier: Literal["new", "branches"] = "new"  # branches: theirs side by side, which is late fusion
    training: Training = Training(epochs=50)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.classifier == "branches" and self.time_weights == "pretrained" and "time" in self.branches:
            without = "the time branch as pre-training left it (time_weights) has none"
            raise ValueError(f"classifier is 'branches', but {without}; it has to be 'new'")
        return self


@settings
class Alignment:
    """Semantic interpolation: the map from the fused embedding to CLIP text embeddings."""

    wide: Count = 4096
    narrow: Count = 1024
    targets: Annotated[tuple[Literal["coarse", "fine"], ...], Field(min_length=1), AfterValidator(_once_each)] = (
        "coarse",
        "fine",
    )
    mean_squared_error: bool = True  # the release adds it to the paper's cosine loss
    train_encoder: bool = True  # the fused encoder keeps learning, as in the release's third state dict
    training: Training = Training(epochs=500)


@settings
class Generation:
    """The cascade: semantic stage, then refinement by image-to-image."""

    semantic: bool = True
    refinement: bool = True
    samples: Count = 4  # images a trial
    trials: Count | None = None  # test trials shown to the cascade; None: all
    semantic_steps: Steps = 50
    semantic_guidance: Guidance = 1.0
    refinement_steps: Steps = 100
    refinement_guidance: Guidance = 7.5
    strength: Annotated[float, Field(gt=0, le=1)] = 0.85
    batch_size: Count = 4
    controls: Count | None = 50  # test trials that the cascade's controls are drawn for; None: no controls

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not (self.semantic or self.refinement):
            raise ValueError("semantic and refinement are both false; one of the two stages has to make pictures")
        if round(self.strength * self.refinement_steps, 6) < 1:  # as the sampler counts them
            few = f"leaves no step of refinement_steps, {self.refinement_steps}"
            least = f"it has to be at least {1 / self.refinement_steps:g}"
            raise ValueError(f"strength is {self.strength:g}, which {few}; {least}")
        return self


@settings
class Phantom:
    """Size of the embedded world; see `brainvis.phantom`."""

    subjects: Count = 4
    images_per_class: Annotated[int, Field(ge=3, lt=2**31)] = 20  # one for each part of the split
    classes: Annotated[int, Field(ge=2, le=40)] = 40  # as many as brainvis.phantom.stimuli.SHOWN_CLASSES
    design: Literal["interleaved", "block"] = "interleaved"  # block: each class in one, as EEGCVPR40 was recorded
    drift: NotNegative = 0.0  # amplitude of slow drift, relative to the ongoing EEG
    signal: NotNegative = 1.0  # gain of everything evoked or induced by the picture; 0 leaves noise alone


@settings
class Configuration:
    """All stages together."""

    time: TimeBranch = TimeBranch()
    frequency: FrequencyBranch = FrequencyBranch()
    fusion: Fusion = Fusion()
    alignment: Alignment = Alignment()
    generation: Generation = Generation()
    phantom: Phantom = Phantom()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of matrix products; auto: the fastest on the machine
    permuted_labels: bool = False  # each subject's trials exchange what was shown: every score has to be at chance
    # arguments of other branches, by their names
    encoders: Annotated[dict[Branch, dict[str, Any]], AfterValidator(_finite)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("time", "frequency"):
            if name in self.encoders:
                raise ValueError(f"encoders.{name}: settings of this branch stand under `{name}` itself")
        return self


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
            residual_scale=1.0,  # on validation trials as good as 0.1; 1e-8 is published for 23,000 steps
            pretraining=Training(epochs=30, learning_rate=5e-4, batch_size=64, schedule="cosine"),
            finetuning=Training(epochs=20, learning_rate=5e-4, batch_size=32, schedule="cosine"),
        ),
        frequency=FrequencyBranch(
            highest_frequency=100.0,
            log_amplitude=True,
            dropout=0.5,
            training=Training(epochs=20, learning_rate=1e-3, batch_size=32, schedule="cosine"),
        ),
        fusion=Fusion(
            classifier="branches", training=Training(epochs=12, learning_rate=5e-4, batch_size=32, schedule="cosine")
        ),
        alignment=Alignment(
            wide=512, narrow=256, training=Training(epochs=16, learning_rate=1e-3, batch_size=32, schedule="cosine")
        ),
        generation=Generation(
            samples=2, semantic_steps=20, refinement_steps=20, refinement_guidance=3.0, batch_size=48, controls=40
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
        fusion=Fusion(classifier="branches", training=Training(epochs=2, batch_size=32)),
        alignment=Alignment(wide=64, narrow=32, training=Training(epochs=2, batch_size=32)),
        generation=Generation(
            samples=1, trials=8, semantic_steps=4, refinement_steps=4, refinement_guidance=3.0, batch_size=8, controls=4
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
    "no_finetuning": Ablation(
        "without fine-tuning the time branch", {"fusion": {"time_weights": "pretrained", "classifier": "new"}}
    ),
    "no_refinement": Ablation("the semantic stage alone", {"generation": {"refinement": False}}),
    "no_semantic": Ablation("the refinement stage alone, from the predicted name", {"generation": {"semantic": False}}),
}


# A person's own recordings have fewer trials and channels than the phantom: `demo` becomes smaller, its batches too,
# so that there are enough steps. Frequencies are read up to the usual upper edge of their filters.
SMALL = {"unit_length": 16, "width": 64, "layers": 2, "feedforward": 128, "dropout": 0.2, "codewords": 32}
TWENTY_EPOCHS = {"epochs": 20, "batch_size": 32}
FOR_DATASET = {
    ("demo", "recordings"): {
        "time": {**SMALL, "pretraining": TWENTY_EPOCHS, "finetuning": {**TWENTY_EPOCHS, "learning_rate": 1e-3}},
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
    start, own = (preset, {}) if isinstance(preset, str) and preset in PRESETS else _read_preset(preset)
    configuration, where = changed(PRESETS[start], FOR_DATASET.get((start, dataset), {})), f"preset {preset}"
    try:
        configuration = changed(configuration, own)
        where = f"ablation {ablation} of preset {preset}"
        return changed(configuration, ABLATIONS[ablation].changes)
    except BrainvisError as error:
        raise BrainvisError(f"{where}: {error}") from error


def changed(part: Any, changes: Mapping) -> Any:
    """A configuration, or a part of one, with some of its fields replaced; nested as the dataclasses are.

    Raises:
        BrainvisError: a field that does not exist, or a value that it cannot have: its dotted path, what is allowed.
    """
    kind = TypeAdapter(type(part))
    # As JSON, so that lists become tuples while text never becomes a number; YAML's dates and bytes become text.
    text = json.dumps(_merged(asdict(part), changes), default=str)
    try:
        return kind.validate_json(text, strict=True)
    except ValidationError as error:
        raise BrainvisError(_explained(part, error.errors()[0])) from error


def _merged(values: dict, changes: Mapping) -> dict:
    both = {name for name in changes if isinstance(changes[name], Mapping) and isinstance(values.get(name), dict)}
    return {**values, **changes, **{name: _merged(values[name], changes[name]) for name in both}}


def _explained(part: Any, error: dict) -> str:
    """What is wrong, in a sentence, from the first of pydantic's errors."""
    path, parent, present = ".".join(map(str, error["loc"])), part, part
    for name in error["loc"]:
        parent, present = present, getattr(present, str(name), None)
    if error["type"] == "unexpected_keyword_argument":
        where = ".".join(map(str, error["loc"][:-1])) or "the configuration"
        return f"there is no {path}; {where} has {', '.join(field.name for field in fields(parent))}"
    needs = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and is_dataclass(present):  # of several fields together: a sentence of its own
        return f"{path}.{needs}".removeprefix(".")
    value = "missing" if error["type"] == "missing" else shorten(repr(error["input"]), 200, placeholder=" ...")
    known = [field.name for field in fields(present)] if is_dataclass(present) else present
    like = "" if known is None else f"it has to be a value like {known!r}: "
    return f"{path} is {value}; {like}{needs}"


def _read_preset(name: str) -> tuple[str, dict]:
    """The preset that a file starts from, and its changes."""
    names = ", ".join(PRESETS)
    try:
        file = resolve(name)
        there = file.suffix in (".yml", ".yaml") and file.is_file()
    except (OSError, ValueError, TypeError, RuntimeError):  # no path at all: too long, a zero byte, a number, ~nobody
        there = False
    if not there:
        shown = shorten(repr(name), 200, placeholder=" ...")
        raise BrainvisError(f"preset is {shown}; it has to be one of {names}, or the path of a YAML file")
    if file.stem in PRESETS:
        raise BrainvisError(f"preset {name}: call the file something else, for runs of {file.stem!r} have a folder")
    if not safe_name(file.stem):
        raise BrainvisError(f"preset {name!r}: {UNSAFE}, mine{file.suffix} for example.")
    content = read_yaml(file)
    if not isinstance(content, dict) or content.get("start") not in list(PRESETS):
        raise BrainvisError(f"preset {name} has to say where it starts: `start:` and one of {names}")
    return content.pop("start"), content
