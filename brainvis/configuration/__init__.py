"""Every hyperparameter of a study: a frozen dataclass for each stage (`settings`), presets and ablations (`presets`),
and how a preset of one's own and an ablation change them (`changes`)."""

from brainvis.configuration.changes import changed, configure
from brainvis.configuration.presets import ABLATIONS, FOR_DATASET, PRESETS, Ablation
from brainvis.configuration.settings import (
    Alignment,
    Configuration,
    FrequencyBranch,
    Fusion,
    Generation,
    Phantom,
    TimeBranch,
    Training,
)

__all__ = [
    "ABLATIONS",
    "FOR_DATASET",
    "PRESETS",
    "Ablation",
    "Alignment",
    "Configuration",
    "FrequencyBranch",
    "Fusion",
    "Generation",
    "Phantom",
    "TimeBranch",
    "Training",
    "changed",
    "configure",
]
