"""A study: one choice of data set, subject, ablation, preset, seed, protocol and backbone, with its results."""

from brainvis.graph import StudyError
from brainvis.study.product import Product, made_with, read_product
from brainvis.study.study import Study

__all__ = ["Product", "Study", "StudyError", "made_with", "read_product"]
