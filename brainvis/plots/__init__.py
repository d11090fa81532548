"""Figures: one function a figure, from plain arrays or an `EEGDataset` to a matplotlib figure, all in one look."""
