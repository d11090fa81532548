"""One loop for every training, `fit`, and `predict`; the choice of device and precision."""

from brainvis.training.device import Precision, choose_device, choose_precision, computed_in
from brainvis.training.loop import History, TrainingError, fit, predict
from brainvis.training.parallel import apart

__all__ = [
    "History",
    "Precision",
    "TrainingError",
    "apart",
    "choose_device",
    "choose_precision",
    "computed_in",
    "fit",
    "predict",
]
