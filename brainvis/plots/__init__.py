"""Figures: one function a figure, from plain arrays or an `EEGDataset` to a matplotlib figure, all in one look."""

from .style import use_style

use_style()  # whoever imports a figure gets the look with it; nothing is drawn or opened here
