"""Every hyperparameter of a study: a frozen dataclass for each stage (`settings`), presets and ablations (`presets`),
sweeps (`sweeps`), and how custom presets and ablations change them (`changes`)."""

from brainvis.configuration.changes import changed, combined, configure
from brainvis.configuration.presets import ABLATIONS, FOR_DATASET, PRESETS, Ablation
from brainvis.configuration.settings import (
    PART_OF,
    Alignment,
    Configuration,
    FrequencyBranch,
    Fusion,
    Generation,
    Phantom,
    TimeBranch,
    Training,
)
from brainvis.configuration.sweeps import SWEEPS

__all__ = [
    "ABLATIONS",
    "FOR_DATASET",
    "PART_OF",
    "PRESETS",
    "SWEEPS",
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
    "combined",
    "configure",
]
