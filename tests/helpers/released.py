"""The authors' models, stated again from their description in plain modules, under their parameters' names.

Only what computes: dropout is left out, as in evaluation. Trials are (b, time, channel) here, as in the release.
Below them, our models of the same sizes.
"""

import math
import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from brainvis.configuration import Alignment, Configuration, FrequencyBranch, TimeBranch
from brainvis.models.alignment import AlignedEncoder, AlignmentNetwork
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.fusion import FusedEncoder
from brainvis.models.time import LatentMaskedModel, TimeEncoder


@dataclass(frozen=True)
class Sizes:
    """Small ones; the published ones are in `PAPER`."""

    channels: int = 5
    samples: int = 26  # two samples are left over
    unit: int = 4
    width: int = 16
    heads: int = 4
    layers: int = 2
    feedforward: int = 64
    regressor_layers: int = 2
    codewords: int = 7
    lstm: int = 12
    classes: int = 6
    wide: int = 40
    narrow: int = 10
    tokens: int = 3
    text: int = 8


SIZES = Sizes()
PAPER = Sizes(128, 440, 4, 1024, 16, 8, 4096, 4, 660, 128, 40, 4096, 1024, 77, 768)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.linear_layers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.output_linear = nn.Linear(width, width)

    def forward(self, query, key, value):
        heads = []
        query, key, value = (layer(x) for layer, x in zip(self.linear_layers, (query, key, value), strict=True))
        for q, k, v in zip(*(x.chunk(self.heads, dim=-1) for x in (query, key, value)), strict=True):
            weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
            heads.append(weights @ v)
        return self.output_linear(torch.cat(heads, dim=-1))


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.linear2(functional.gelu(self.linear1(x)))


class SkipConnection(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.a = nn.Parameter(torch.tensor(1e-8))

    def forward(self, x, sublayer):
        return self.norm(x + self.a * sublayer)


class Block(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.attn = Attention(sizes.width, sizes.heads)
        self.ffn = FeedForward(sizes.width, sizes.feedforward)
        self.skipconnect1, self.skipconnect2 = SkipConnection(sizes.width), SkipConnection(sizes.width)

    def forward(self, x, asked):
        x = self.skipconnect1(x, self.attn(x, asked, asked))
        return self.skipconnect2(x, self.ffn(x))


class Encoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.TRMs = nn.ModuleList([Block(sizes) for _ in range(sizes.layers)])

    def forward(self, x):
        for block in self.TRMs:
            x = block(x, x)
        return x


class Regressor(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList([Block(sizes) for _ in range(sizes.regressor_layers)])

    def forward(self, visible, queries):
        for block in self.layers:
            queries = block(queries, visible)
        return queries


class ReleasedTime(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        units = sizes.samples // sizes.unit
        self.position = nn.Module()
        self.position.pe = nn.Embedding(units, sizes.width)
        self.mask_token = nn.Parameter(torch.randn(sizes.width))
        self.input_projection = nn.Conv1d(sizes.channels, sizes.width, sizes.unit, stride=sizes.unit)
        self.encoder, self.momentum_encoder = Encoder(sizes), Encoder(sizes)
        self.tokenizer = nn.Module()
        self.tokenizer.center = nn.Linear(sizes.width, sizes.codewords)
        self.reg = Regressor(sizes)
        self.predict_head = nn.Linear(sizes.width, sizes.classes)
        self.channelmapping = nn.Module()  # in the files, and never used
        self.channelmapping.conv1, self.channelmapping.conv2 = nn.Conv1d(units, 9, 1), nn.Conv1d(9, 11, 1)
        self.dimmapping = nn.Linear(sizes.width, 13)

    def units(self, x):
        return self.input_projection(x.transpose(1, 2)).transpose(1, 2)

    def latent(self, x):
        return self.encoder(self.units(x) + self.position.pe.weight)

    def forward(self, x):
        mean = self.latent(x).mean(dim=1)
        return mean, self.predict_head(mean)

    def pretrain(self, x, visible, masked, tokens):
        """Regressor's output, target, mean squared error, cross-entropy; `tokens` (b, unit)."""
        units = self.units(x) + self.position.pe.weight
        queries = (self.mask_token + self.position.pe.weight).expand(len(x), -1, -1)[:, masked]
        target = self.momentum_encoder(units[:, masked])
        predicted = self.reg(self.encoder(units[:, visible]), queries)
        scores = self.tokenizer.center(predicted)
        error = ((target - predicted) ** 2).mean()
        entropy = nn.CrossEntropyLoss(label_smoothing=0.2)(scores.flatten(0, 1), tokens[:, masked].flatten())
        return predicted, target, error, entropy


class ReleasedFrequency(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.lstm = nn.LSTM(sizes.channels, sizes.lstm, batch_first=True)
        self.output = nn.Linear(sizes.lstm, sizes.lstm)
        self.classifier = nn.Linear(sizes.lstm, sizes.classes)

    def forward(self, x):
        samples = x.shape[1]
        spectrum = np.abs(np.fft.fft(x.double().numpy(), axis=1))[:, 1 : samples // 2 + 1]
        states, _ = self.lstm(torch.tensor(spectrum).to(x.dtype))
        features = torch.relu(self.output(states[:, -1]))
        return self.classifier(features), features


class ReleasedFused(nn.Module):
    def __init__(self, sizes, time, frequency):
        super().__init__()
        self.pretrained_model_time, self.pretrained_model_freq = time, frequency
        self.fc01 = nn.Linear(sizes.width + sizes.lstm, sizes.classes)

    def forward(self, x):
        features = torch.cat([self.pretrained_model_time(x)[0], self.pretrained_model_freq(x)[1]], dim=1)
        return features, self.fc01(features)


class ReleasedAligned(nn.Module):
    def __init__(self, sizes, fused):
        super().__init__()
        self.pretrained_model = fused
        self.fc01 = nn.Linear(sizes.width + sizes.lstm + sizes.classes, sizes.wide)
        self.fc02, self.fc03 = nn.Linear(sizes.wide, sizes.narrow), nn.Linear(sizes.narrow, sizes.wide)
        self.fc04, self.fc05 = nn.Linear(sizes.wide, sizes.narrow), nn.Linear(sizes.narrow, sizes.wide)
        self.fc6 = nn.Linear(sizes.wide, sizes.tokens * sizes.text)

    def forward(self, x):
        first = torch.tanh(self.fc01(torch.cat(self.pretrained_model(x), dim=1)))
        second = torch.tanh(self.fc02(first))
        third = torch.tanh(self.fc03(second) + first)
        fourth = torch.tanh(self.fc04(third) + second)
        return self.fc6(torch.tanh(self.fc05(fourth) + third))


@torch.no_grad()
def shaken(model):
    """`model` with weights that matter: the scalars of its layers are far from the 1e-8 that they start at."""
    for name, parameter in model.named_parameters():
        parameter.add_(0.1 * torch.randn_like(parameter) + (0.8 if name.endswith(".a") else 0.0))
    return model.eval().requires_grad_(False)


def released_models(sizes, seed=0, each_its_own=True):
    """All five by kind, each with weights of its own, or (quicker) the later ones with the same branches."""
    torch.manual_seed(seed)
    times = [shaken(ReleasedTime(sizes)) for _ in range(4 if each_its_own else 2)]
    frequencies = [shaken(ReleasedFrequency(sizes)) for _ in range(3 if each_its_own else 1)]
    fused = [shaken(ReleasedFused(sizes, times[i], frequencies[i])) for i in ((1, 2) if each_its_own else (-1,))]
    times[0].predict_head.bias.fill_(0.1)  # pre-training leaves it as it was made
    return {
        "pretrained": times[0],
        "finetuned": times[-1],
        "frequency": frequencies[0],
        "fused": fused[0],
        "aligned": shaken(ReleasedAligned(sizes, fused[-1])),
    }


def save_module(module, path):
    """Saves a whole module under a class that nobody can import afterwards."""
    stranger = ModuleType("model_of_the_authors")
    kind = type("FreqEncoder", (type(module),), {"__module__": stranger.__name__})
    stranger.FreqEncoder = kind
    sys.modules[stranger.__name__] = stranger
    try:
        module.__class__ = kind
        torch.save(module, path)
    finally:
        module.__class__ = kind.__base__
        del sys.modules[stranger.__name__]


FILES = {
    "pretrained": "pretrain_model_epoch300.pkl",
    "finetuned": "finetune_model_epoch80.pkl",
    "frequency": "lstm__subject0_epoch_900.pth",
    "fused": "timefreqmodel.pkl",
    "aligned": "clipfinetune_model.pkl",
}


def save_all(models, folder):
    """The five files, under their published names: kind -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, model in models.items():
        if kind == "frequency":
            save_module(model, folder / FILES[kind])
        else:
            torch.save(model.state_dict(), folder / FILES[kind])
    return {kind: folder / file for kind, file in FILES.items()}


def configuration(sizes):
    """Ours, of these sizes."""
    time = TimeBranch(
        sizes.unit,
        sizes.width,
        sizes.layers,
        sizes.heads,
        sizes.feedforward,
        regressor_layers=sizes.regressor_layers,
        codewords=sizes.codewords,
    )
    alignment = Alignment(wide=sizes.wide, narrow=sizes.narrow)
    return Configuration(time, FrequencyBranch(width=sizes.lstm), alignment=alignment)


def our_models(sizes):
    """All five by kind, with random weights."""
    config, shape = configuration(sizes), (sizes.channels, sizes.samples, 1000.0)
    network = AlignmentNetwork(sizes.width + sizes.lstm + sizes.classes, (sizes.tokens, sizes.text), config.alignment)
    return {
        "pretrained": LatentMaskedModel(TimeEncoder(*shape, config=config.time)),
        "finetuned": TimeEncoder(*shape, sizes.classes, config.time),
        "frequency": FrequencyEncoder(*shape, sizes.classes, config.frequency),
        "fused": FusedEncoder(*shape, sizes.classes, config),
        "aligned": AlignedEncoder(FusedEncoder(*shape, sizes.classes, config), network),
    }
