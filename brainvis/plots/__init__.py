"""Figures: one function per figure, from plain arrays or an `EEGDataset` to a matplotlib figure, all in one style."""
