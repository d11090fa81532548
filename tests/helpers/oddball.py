"""A phantom of a P300 study, written as FIF: one session a subject, 8 channels, one trial in eight is a target."""

from pathlib import Path

import mne
import numpy as np

RATE = 128.0
CHANNELS = ["Fz", "Cz", "Pz", "Oz", "P3", "P4", "PO7", "PO8"]
SETTINGS = """
window: [0.0, 0.8]
filter: [1, 30]
classes: {1: standard, 2: target}
standardise: channel
"""


def write_oddball(folder: Path, subjects: int = 2, trials: int = 160, response: float = 1.0, seed: int = 0) -> None:
    """Recordings below `folder` with their `recordings.yml`; `response` is the gain of what targets evoke."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recordings.yml").write_text(SETTINGS)
    pattern = np.array([0.2, 0.7, 1.0, 0.3, 0.8, 0.8, 0.4, 0.4])
    time = np.arange(int(0.8 * RATE)) / RATE
    wave = np.exp(-(((time - 0.4) / 0.1) ** 2)) - 0.6 * np.exp(-(((time - 0.2) / 0.04) ** 2))
    for subject in range(1, subjects + 1):
        onsets = np.cumsum(RATE * (1.01 + 0.4 * rng.random(trials))).astype(int) + int(3 * RATE)
        targets = np.zeros(trials, int)
        targets[rng.permutation(trials)[: trials // 8]] = 1
        samples = int(onsets[-1] + 3 * RATE)
        noise = np.cumsum(rng.normal(size=(len(CHANNELS), samples)), axis=1)  # slow, as EEG is ...
        noise -= np.array([np.convolve(row, np.ones(64) / 64, "same") for row in noise])
        signal = noise / noise.std() + 0.5 * rng.normal(size=noise.shape)  # ... and fast
        for onset in onsets[targets == 1]:
            signal[:, onset : onset + len(wave)] += 1.5 * response * pattern[:, None] * wave
        raw = mne.io.RawArray(1e-5 * signal, mne.create_info(CHANNELS, RATE, "eeg"), verbose="ERROR")
        words = ["12"[target] for target in targets]
        raw.set_annotations(mne.Annotations(onsets / RATE, np.full(trials, 0.1), words))
        (folder / f"subject{subject:02d}").mkdir(exist_ok=True)
        raw.save(folder / f"subject{subject:02d}" / "only_raw.fif", overwrite=True, verbose="ERROR")
