"""Three presets and the ablations, given as changes to the default values.

`paper` holds the published values (Fu et al., ICASSP 2025, and the authors' release); `demo` is a small model with the
same structure that trains on a laptop in minutes; `smoke` only checks that everything runs.
"""

from __future__ import annotations

from collections.abc import Callable

from brainvis.configuration.settings import (
    Alignment,
    Configuration,
    FrequencyBranch,
    Fusion,
    Generation,
    Phantom,
    TimeBranch,
    Training,
    settings,
)

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
            residual_scale=1.0,  # as good as 0.1 on validation trials; the published 1e-8 is for 23,000 steps
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
            classifier="branches",
            keeps="best",
            training=Training(epochs=12, learning_rate=5e-4, batch_size=32, schedule="cosine"),
        ),
        # Of 1e-4 to 3e-3 and 16 to 96 epochs on validation trials; after 16, captions of a class are hardly told apart.
        alignment=Alignment(
            wide=512, narrow=256, training=Training(epochs=48, learning_rate=1e-3, batch_size=32, schedule="cosine")
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
        fusion=Fusion(classifier="branches", keeps="best", training=Training(epochs=2, batch_size=32)),
        alignment=Alignment(wide=64, narrow=32, training=Training(epochs=2, batch_size=32)),
        generation=Generation(
            samples=1, trials=8, semantic_steps=4, refinement_steps=4, refinement_guidance=3.0, batch_size=8, controls=4
        ),
        phantom=Phantom(subjects=2, images_per_class=6, classes=8),
    ),
}


@settings
class Ablation:
    """One change to the configuration: `changes` maps a stage's configuration to the fields it replaces, or is a
    function that returns such a mapping for the configuration to change."""

    description: str
    changes: dict[str, dict] | Callable[[Configuration], dict[str, dict]]


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


# Your own recordings usually have fewer trials and channels than the phantom: `demo` and its batches become smaller, so
# that there are enough steps. A third branch, ShallowFBCSPNet, needs the fewest trials: docs/small_data.md. If trials
# are long enough, its one-second filters resolve rhythms one hertz apart. Frequencies are read up to the usual upper
# cutoff of the recordings' filters.
SMALL = {"unit_length": 16, "width": 64, "layers": 2, "feedforward": 128, "dropout": 0.2, "codewords": 32}
SHALLOW = {"filters": 20, "kernel": 1.0, "pooling": 2.0, "stride": 0.5, "shorten": True}
TWENTY_EPOCHS = {"epochs": 20, "batch_size": 32}
AUGMENTED = {"time_shift": 0.1, "channel_dropout": 0.1, "weight_decay": 0.05, "batch_size": 32}
FOR_DATASET = {
    ("demo", "recordings"): {
        "time": {
            **SMALL,
            "pretraining": TWENTY_EPOCHS,
            "finetuning": {**AUGMENTED, "epochs": 40, "learning_rate": 1e-3},
        },
        "frequency": {
            "width": 64,
            "highest_frequency": 45.0,
            "training": {**AUGMENTED, "epochs": 100, "learning_rate": 2e-3},
        },
        "encoders": {"shallow": SHALLOW, "eegnet": {"filters": 16}},
        "fusion": {
            "branches": ("time", "frequency", "shallow"),
            "training": {**AUGMENTED, "epochs": 20, "batch_size": 8},
        },
    }
}
