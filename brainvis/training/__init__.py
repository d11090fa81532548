"""One loop for every training: `fit`, and `predict`."""

from brainvis.training.loop import History, TrainingError, choose_device, choose_precision, fit, predict

__all__ = ["History", "TrainingError", "choose_device", "choose_precision", "fit", "predict"]
