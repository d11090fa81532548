"""The settings of each stage: one frozen dataclass per stage. Each field has the range in which its model can work, so
that an unworkable study is rejected when it is opened. The default values are the published ones (`paper`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from brainvis.files.reading import SAFE_NAME

settings = dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))


def _once_each(names: tuple) -> tuple:
    if len(set(names)) < len(names):
        raise ValueError("no name may be listed twice")
    return names


def _finite(options: dict) -> dict:
    """Options of a branch that is unknown here; at least their numbers must be finite."""
    try:
        json.dumps(options, allow_nan=False)
    except ValueError as error:
        raise ValueError("every number must be finite") from error
    return options


Count = Annotated[int, Field(ge=1, lt=2**31)]  # the range of torch's counts
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=1, le=999)]  # PLMS skips the first of Stable Diffusion's 1000
Guidance = Annotated[float, Field(ge=1)]  # 1 means no guidance, and so would anything less
Branch = Annotated[str, Field(pattern=f"^{SAFE_NAME}$")]
PART_OF = {"time": "time", "frequency": "frequency", "spectrum_cnn": "frequency"}  # branches with their own settings


@settings
class Training:
    """How one model is trained; read by `brainvis.training.fit`."""

    epochs: Annotated[int, Field(ge=0, lt=2**31)]  # 0: no training
    learning_rate: Positive = 5e-4
    batch_size: Count = 128
    optimiser: Literal["adam", "adamw"] = "adamw"
    weight_decay: NotNegative = 0.01  # AdamW's default, as in the release
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: one warm-up epoch, then decay to zero
    # For classifiers only. auto: balanced where one class has more than twice as many training trials as another
    class_weights: Literal["auto", "balanced", "none"] = "auto"
    # Augmentation: the largest shift of a training trial, as a fraction of its length
    time_shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    channel_dropout: Dropout = 0.0  # and the probability that one of its channels is set to zero


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
    mask_per: Literal["batch", "trial"] = "batch"  # one mask for a whole batch, as in the release, or one per trial
    regressor_layers: Count = 4
    regressor_dropout: Dropout = 0.1
    codewords: Annotated[int, Field(ge=2, lt=2**31)] = 660
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99  # of the target encoder's moving average
    target_sees: Literal["masked", "all"] = "masked"  # units that the target encoder reads; all: as in data2vec
    target_standardised: bool = False  # over trials and units, as in data2vec; a linear layer then predicts them
    residual_scale: NotNegative = 1e-8  # of every sublayer, initial value
    regression_weight: NotNegative = 4.0  # the paper adds both losses; the release weights them 4 and 2
    classification_weight: NotNegative = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pretraining: Training = Training(epochs=300)  # of 500; the release continues from epoch 300
    # The epoch that is kept: never chosen by a loss, because its targets move with the encoder.
    pretraining_keeps: Literal["last", "token_accuracy", "probe_accuracy"] = "last"
    finetuning: Training = Training(epochs=80, optimiser="adam", weight_decay=0.0)  # of 400; continued from epoch 80

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it must divide width, which is {self.width}")
        if not self.regression_weight + self.classification_weight:
            raise ValueError("regression_weight and classification_weight are both 0; at least one must be above 0")
        return self


@settings
class FrequencyBranch:
    """The LSTM that reads the amplitude spectrum frequency by frequency, or the CNN in its place."""

    width: Count = 128
    layers: Count = 1  # of the LSTM
    highest_frequency: Positive | None = None  # hertz; None: up to the Nyquist frequency
    log_amplitude: bool = False  # the logarithm, standardised over training trials, instead of amplitudes
    dropout: Dropout = 0.0  # of the network's input
    training: Training = Training(epochs=1000, learning_rate=1e-3, optimiser="adam", weight_decay=0.0)


@settings
class Fusion:
    """The fused encoder: which branches it joins, and what it starts from."""

    # names in `brainvis.models.ENCODERS`
    branches: Annotated[tuple[Branch, ...], Field(min_length=1), AfterValidator(_once_each)] = ("time", "frequency")
    time_weights: Literal["finetuned", "pretrained"] = "finetuned"
    classifier: Literal["new", "branches"] = "new"  # branches: their classifiers side by side, i.e. late fusion
    # best: late fusion, or one branch alone, if joint training is not better on validation trials
    keeps: Literal["joint", "best"] = "joint"
    training: Training = Training(epochs=50)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.classifier == "branches" and self.time_weights == "pretrained" and "time" in self.branches:
            without = "a time branch that is only pre-trained (time_weights) has no classifier"
            raise ValueError(f"classifier is 'branches', but {without}; set classifier to 'new'")
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
    fine_weight: NotNegative = 1.0  # of the caption terms, relative to those of the class name
    mean_squared_error: bool = True  # the release adds it to the paper's cosine loss
    train_encoder: bool = True  # the fused encoder keeps learning, as in the release's third state dict
    training: Training = Training(epochs=500)


@settings
class Generation:
    """The cascade: semantic stage, then refinement by image-to-image."""

    semantic: bool = True
    refinement: bool = True
    samples: Count = 4  # images per trial
    trials: Count | None = None  # test trials shown to the cascade; None: all
    semantic_steps: Steps = 50
    semantic_guidance: Guidance = 1.0
    refinement_steps: Steps = 100
    refinement_guidance: Guidance = 7.5
    strength: Annotated[float, Field(gt=0, le=1)] = 0.85
    batch_size: Count = 4
    controls: Count | None = 50  # test trials for which the cascade's controls are drawn; None: no controls

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not (self.semantic or self.refinement):
            raise ValueError("semantic and refinement are both false; at least one of the two must make pictures")
        if round(self.strength * self.refinement_steps, 6) < 1:  # counted as in the sampler
            few = f"leaves none of the {self.refinement_steps} refinement_steps"
            least = f"it must be at least {1 / self.refinement_steps:g}"
            raise ValueError(f"strength is {self.strength:g}, which {few}; {least}")
        return self


@settings
class Phantom:
    """Size of the phantom; see `brainvis.phantom`."""

    subjects: Count = 4
    images_per_class: Annotated[int, Field(ge=3, lt=2**31)] = 20  # one for each part of the split
    classes: Annotated[int, Field(ge=2, le=40)] = 40  # as many as brainvis.phantom.stimuli.SHOWN_CLASSES
    design: Literal["interleaved", "block"] = "interleaved"  # block: one block per class, as EEGCVPR40 was recorded
    drift: NotNegative = 0.0  # amplitude of slow drift, relative to the ongoing EEG
    signal: NotNegative = 1.0  # gain of everything evoked or induced by the picture; 0: only noise


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
    permuted_labels: bool = False  # permutes what was shown within each subject: every score must be at chance
    # arguments of other branches, by branch name
    encoders: Annotated[dict[Branch, dict[str, Any]], AfterValidator(_finite)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, part in PART_OF.items():
            if name in self.encoders:
                where = f"`{part}` itself" if part == name else f"`{part}`"
                raise ValueError(f"encoders.{name}: the settings of this branch belong under {where}; move them there")
        return self
