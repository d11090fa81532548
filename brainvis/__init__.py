"""BrainVis: reconstructing what a person sees from EEG (Fu et al., ICASSP 2025)."""

import os

__version__ = "0.1.0"

# The number of threads determines the order of sums, and so the last digits of every result. One thread per process,
# unless the environment says otherwise, makes a notebook give the same numbers in JupyterLab as in a batch run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
