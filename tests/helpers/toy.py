"""One toy of each kind, put into the tables of brainvis from outside: BRAINVIS_EXTENSIONS=toy finds this module."""

import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from brainvis.data import DATASETS, Source
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.pictures import METRICS, Metric
from brainvis.evaluation.scores import mean_interval
from brainvis.generation import GENERATORS, GeneratorSource
from brainvis.models import ENCODERS
from brainvis.models.encoder import Encoder

CLASSES = ("red disc", "green disc", "blue disc")
SUBJECTS, PICTURES, SAMPLES, CHANNELS, RATE = (1, 2), 12, 200, 6, 250.0


def load(folder: Path, configuration) -> EEGDataset:
    """Two subjects see twelve pictures of each class; channel c is louder for class c."""
    rng = np.random.default_rng(0)
    count = len(CLASSES) * PICTURES
    labels = np.tile(np.repeat(np.arange(len(CLASSES)), PICTURES), len(SUBJECTS))
    trials = rng.standard_normal((len(labels), CHANNELS, SAMPLES)).astype(np.float32)
    trials[np.arange(len(labels)), labels] *= 3
    names = [f"toy{label}_{picture:02d}" for label in range(len(CLASSES)) for picture in range(PICTURES)]
    for index, name in enumerate(names):
        file = folder / "image" / name.split("_")[0] / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = [40 * (index % 3)] * 3
        colour[index // PICTURES] = 255
        Image.new("RGB", (16, 16), tuple(colour)).save(file)
    images = np.tile(np.arange(count), len(SUBJECTS))
    part = np.tile(np.arange(PICTURES), len(labels) // PICTURES)
    splits = {"train": part < 6, "val": (part >= 6) & (part < 9), "test": part >= 9}
    return EEGDataset(
        name="toy",
        trials=torch.from_numpy(trials),
        sampling_rate=RATE,
        start=0.0,
        channels=tuple(f"T{channel}" for channel in range(CHANNELS)),
        montage=None,
        labels=torch.from_numpy(labels),
        subjects=torch.tensor(SUBJECTS).repeat_interleave(count),
        images=torch.from_numpy(images),
        image_ids=tuple(names),
        class_names=CLASSES,
        captions={name: f"a {CLASSES[i // PICTURES]}, number {i % 3}" for i, name in enumerate(names)},
        image_folder=folder / "image",
        splits={name: torch.from_numpy(np.flatnonzero(mask)) for name, mask in splits.items()},
        lengths=torch.full((len(labels),), SAMPLES),
        order=None,
        fingerprint=fingerprint(folder, configuration),
    )


def fingerprint(folder: Path, configuration) -> str:
    return "toy 1"


DATASETS["toy"] = Source(
    load=load,
    fingerprint=fingerprint,
    subjects=lambda folder, configuration: SUBJECTS,
    has_images=lambda folder, configuration: True,
)


class Loudness(Encoder):
    """Logarithm of the variance of each channel, and a linear layer."""

    def __init__(self, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None, width: int = 8):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(n_chans, width)
        self.add_classifier(n_outputs)

    def embed(self, trials):
        return torch.tanh(self.linear(trials.var(-1).log()))


ENCODERS["loudness"] = Loudness


class Painter:
    """A generator without a network: it paints the whole picture in the first three numbers of the first token."""

    name, fingerprint, resolution, conditioning_shape = "painter", "painter 1", 16, (2, 4)
    judge = clip = None
    device, dtype = torch.device("cpu"), torch.float32

    def text_embeddings(self, texts):
        seeds = [zlib.crc32(text.encode()) for text in texts]
        drawn = [torch.rand(self.conditioning_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        for embedding, text in zip(drawn, texts, strict=True):
            embedding[0, :3] = torch.tensor([float(colour in text) for colour in ("red", "green", "blue")])
        return torch.stack(drawn) if drawn else torch.empty(0, *self.conditioning_shape)

    def draw(self, embeddings, noise, config):
        colours = embeddings[:, 0, :3].clamp(0, 1)[:, :, None, None]  # (b, 3, 1, 1)
        grain = [0.1 * torch.rand(3, self.resolution, self.resolution, generator=source) for source in noise]
        return (0.9 * colours + torch.stack(grain)).clamp(0, 1)

    def refine(self, pictures, names, noise, config):
        painted = self.draw(self.text_embeddings(names), noise, config)
        return painted if pictures is None else torch.lerp(pictures, painted, config.strength)


GENERATORS["painter"] = GeneratorSource(load=lambda device=None: Painter(), fingerprint=lambda: "painter 1")


def contrast(generated, shown):
    """Standard deviation of the pixels of generated pictures."""
    return mean_interval(generated.pixels.reshape(len(generated.pixels), -1).std(1))


METRICS["contrast"] = Metric(contrast, "contrast")
