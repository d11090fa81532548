"""The phantom: an embedded world of pictures and EEG whose truth is known. It is not brain data."""
