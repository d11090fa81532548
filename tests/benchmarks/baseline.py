"""The same maths the obvious way: what the package is compared with. Nothing of the package's own models or loops.

Single precision throughout; attention by explicit matrix products; a loader that hands over one trial at a time; an
optimiser and a moving average that go parameter by parameter; targets parsed from text and held for each trial in
double precision; one picture at a time. Parameters have the package's names, so that both can start from the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

# Models


class Attention(nn.Module):
    """softmax(Q K' / sqrt(d)) V, head by head in one tensor."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        batch, count, width = asking.shape
        query = self.query(asking).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        key = self.key(asked).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        value = self.value(asked).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        weights = torch.softmax(torch.matmul(query, key.transpose(2, 3)) / math.sqrt(width // self.heads), dim=-1)
        mixed = torch.matmul(self.dropout(weights), value)  # (b, head, n, d)
        return self.output(mixed.transpose(1, 2).contiguous().view(batch, count, width))


class Layer(nn.Module):
    """Attention and feed-forward network, scaled, each with its norm."""

    def __init__(self, config, dropout: float) -> None:
        super().__init__()
        width, wide = config.width, config.feedforward
        self.attention = Attention(width, config.heads, dropout)
        self.feedforward = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width), nn.Dropout(dropout))
        self.scale1, self.scale2 = nn.Parameter(torch.tensor(1e-8)), nn.Parameter(torch.tensor(1e-8))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, asked: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.dropout(self.scale1 * self.attention(x, x if asked is None else asked)))
        return self.norm2(x + self.dropout(self.scale2 * self.feedforward(x)))


class Transformer(nn.Module):
    def __init__(self, config, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(layers))

    def forward(self, x: Tensor, asked: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, asked)
        return x


class TimeEncoder(nn.Module):
    """Units of EEG, positions, a transformer, the mean."""

    def __init__(self, channels: int, samples: int, config, classes: int | None = None) -> None:
        super().__init__()
        self.projection = nn.Conv1d(channels, config.width, config.unit_length, config.unit_length)
        self.position = nn.Parameter(torch.zeros(samples // config.unit_length, config.width))
        self.transformer = Transformer(config, config.layers, config.dropout)
        self.classifier = nn.Linear(config.width, classes) if classes else None

    def embed(self, trials: Tensor) -> Tensor:
        return self.transformer(self.projection(trials).transpose(1, 2) + self.position).mean(1)

    def forward(self, trials: Tensor) -> Tensor:
        return self.classifier(self.embed(trials))


class MaskedModel(nn.Module):
    """Latent Masked Modeling: regression of the masked latent units, and classification of their codewords."""

    def __init__(self, channels: int, samples: int, config) -> None:
        super().__init__()
        self.config, self.encoder = config, TimeEncoder(channels, samples, config)
        self.target_encoder = Transformer(config, config.layers, config.dropout).requires_grad_(False)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.regressor = Transformer(config, config.regressor_layers, config.regressor_dropout)
        self.tokeniser = nn.Linear(config.width, config.codewords)

    def loss(self, trials: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Of trials (b, channel, time); `mask` (unit,) bool, drawn if None, as are the tokens, by `generator`."""
        config, position = self.config, self.encoder.position
        if mask is None:
            mask = torch.zeros(len(position), dtype=torch.bool)
            mask[torch.randperm(len(position))[: int(config.mask_ratio * len(position))]] = True
        masked, visible = mask.nonzero().flatten().to(trials.device), (~mask).nonzero().flatten().to(trials.device)
        units = self.encoder.projection(trials).transpose(1, 2)  # (b, unit, width)
        encoded = self.encoder.transformer((units + position)[:, visible])
        self.target_encoder.eval()
        with torch.no_grad():
            target = self.target_encoder((units + position)[:, masked])
            codes = self.tokeniser(units[:, masked])
            noise = torch.empty_like(codes).exponential_(generator=generator)
            tokens = (codes - noise.log()).argmax(-1)  # (b, m)
        asking = (self.mask_token + position[masked]).expand(len(trials), -1, -1)
        regressed = self.regressor(asking, encoded)
        scores = self.tokeniser(regressed).transpose(1, 2)  # (b, codeword, m)
        classification = functional.cross_entropy(scores, tokens, label_smoothing=config.label_smoothing)
        regression = ((regressed - target) ** 2).mean()
        return config.regression_weight * regression + config.classification_weight * classification

    @torch.no_grad()
    def update_target(self) -> None:
        momentum = self.config.momentum
        for target, source in zip(self.target_encoder.parameters(), self.encoder.transformer.parameters(), strict=True):
            target.copy_(momentum * target + (1 - momentum) * source)


class FrequencyEncoder(nn.Module):
    """An LSTM over the amplitude spectrum, which is computed in every step, as are its standardised logarithms."""

    def __init__(self, channels: int, samples: int, rate: float, config, classes: int | None = None) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        hertz = torch.fft.rfftfreq(samples, 1 / rate, device="cpu")[1:]
        self.count = int((hertz <= (config.highest_frequency or rate) * (1 + 1e-6)).sum())
        self.logarithms = config.log_amplitude
        if self.logarithms:
            self.register_buffer("mean", torch.zeros(self.count, channels))
            self.register_buffer("deviation", torch.ones(self.count, channels))
        self.lstm = nn.LSTM(channels, config.width, config.layers, batch_first=True)
        self.output = nn.Linear(config.width, config.width)
        self.classifier = nn.Linear(config.width, classes) if classes else None

    def embed(self, trials: Tensor) -> Tensor:
        amplitudes = torch.fft.rfft(trials).abs()[..., 1 : self.count + 1]  # (b, channel, frequency)
        spectra = amplitudes.transpose(1, 2)  # (b, frequency, channel)
        if self.logarithms:
            spectra = ((spectra + 1e-6).log() - self.mean) / self.deviation
        states, _ = self.lstm(self.dropout(spectra))
        return torch.relu(self.output(states[:, -1]))

    def forward(self, trials: Tensor) -> Tensor:
        return self.classifier(self.embed(trials))


class FusedEncoder(nn.Module):
    """Both branches side by side."""

    def __init__(self, channels: int, samples: int, rate: float, config, classes: int) -> None:
        super().__init__()
        time = TimeEncoder(channels, samples, config.time)
        self.branches = nn.ModuleDict(
            {"time": time, "frequency": FrequencyEncoder(channels, samples, rate, config.frequency)}
        )
        self.width = config.time.width + config.frequency.width
        self.classifier = nn.Linear(self.width, classes)

    def embed(self, trials: Tensor) -> Tensor:
        return torch.cat([self.branches["time"].embed(trials), self.branches["frequency"].embed(trials)], dim=1)

    def forward(self, trials: Tensor) -> Tensor:
        return self.classifier(self.embed(trials))


class AlignmentNetwork(nn.Module):
    """Six linear layers with skips."""

    def __init__(self, inputs: int, outputs: int, config) -> None:
        super().__init__()
        widths = (inputs, config.wide, config.narrow, config.wide, config.narrow, config.wide, outputs)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        before, state = None, torch.tanh(self.layers[0](x))
        for number, layer in enumerate(self.layers[1:5]):
            before, state = state, torch.tanh(layer(state) + (before if number else 0))
        return self.layers[5](state)


class AlignedEncoder(nn.Module):
    """The fused encoder and the network on top of it."""

    def __init__(self, channels: int, samples: int, rate: float, config, classes: int, outputs: int) -> None:
        super().__init__()
        self.config, self.fused = config.alignment, FusedEncoder(channels, samples, rate, config, classes)
        self.network = AlignmentNetwork(self.fused.width + classes, outputs, config.alignment)

    def loss(self, trials: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
        """`coarse` and `fine` (b, tokens * width) are the targets of these trials."""
        embedding = self.fused.embed(trials)
        predicted = self.network(torch.cat([embedding, self.fused.classifier(embedding)], dim=1))
        loss = 0.0
        for name, target in (("coarse", coarse), ("fine", fine)):
            if name in self.config.targets:
                loss = loss + 1 - functional.cosine_similarity(predicted, target, dim=1).mean()
                if self.config.mean_squared_error:
                    loss = loss + functional.mse_loss(predicted, target)
        return loss


# Training


class Trials(Dataset):
    """One trial at a time, with all that belongs to it."""

    def __init__(self, *tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, trial: int) -> tuple[Tensor, ...]:
        return tuple(tensor[trial] for tensor in self.tensors)


def batches(trials: Trials, size: int, device: str, shuffle: bool = True) -> Iterator[list[Tensor]]:
    """All trials once, on the device, in single precision."""
    for batch in DataLoader(trials, size, shuffle):
        yield [part.float().to(device) if part.is_floating_point() else part.to(device) for part in batch]


def train(
    model: nn.Module, loss: Callable[..., Tensor], trials: Trials, training, device: str, after_step: Callable
) -> None:
    """One epoch."""
    model.to(device).train()
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimiser]
    settings = {"lr": training.learning_rate, "weight_decay": training.weight_decay, "foreach": False, "fused": False}
    optimiser = kind([weight for weight in model.parameters() if weight.requires_grad], **settings)
    for batch in batches(trials, training.batch_size, device):
        value = loss(*batch)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        value.item()  # for the progress bar
        after_step()


# Data


def open_eeg(file: Path, lengths: tuple[int, int]) -> list[dict]:
    """The trials of EEGCVPR40's file that are long enough and not too long, all in memory."""
    return [
        trial
        for trial in torch.load(file, weights_only=True)["dataset"]
        if lengths[0] <= trial["eeg"].shape[1] <= lengths[1]
    ]


def write_targets(file: Path, embeddings: Tensor) -> None:
    """Text embeddings (text, numbers), a line each."""
    with file.open("w", encoding="utf-8") as stream:
        for embedding in embeddings:
            stream.write(" ".join(f"{number:.6f}" for number in embedding.tolist()) + "\n")


def open_targets(file: Path, of_trials: Sequence[int]) -> list[Tensor]:
    """The target of each trial in double precision, from lines of text."""
    with file.open(encoding="utf-8") as stream:
        lines = [torch.tensor([float(number) for number in line.split()], dtype=torch.float64) for line in stream]
    return [lines[text].clone() for text in of_trials]


# Pictures


def explicit(pipeline) -> None:
    """Turns a pipeline into the obvious one: single precision, attention by matrix products, the usual layout."""
    from diffusers.models.attention_processor import AttnProcessor

    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.float().to(memory_format=torch.contiguous_format)
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.vae.set_attn_processor(AttnProcessor())
    pipeline.text_encoder.set_attn_implementation("eager")


@torch.no_grad()
def draw(
    pipeline, plms, times: Tensor, embedding: Tensor, noise: torch.Generator, guidance: float, start: Tensor | None
) -> Tensor:
    """One picture (1, 3, height, width) in [0, 1] from a text embedding (1, tokens, width), and from a picture to
    `start` from, if there is one. `plms` and its `times` are the package's: they are the maths, not the way."""
    unet, vae, device = pipeline.unet, pipeline.vae, pipeline.device
    side, scale = unet.config.sample_size, vae.config.scaling_factor
    code = None if start is None else vae.encode(2 * start.to(device) - 1).latent_dist.sample(noise) * scale
    latents = torch.randn(1, unet.config.in_channels, side, side, generator=noise).to(device)
    if code is not None:
        latents = plms.add_noise(code, latents, times[:1])
    tokens = {"padding": "max_length", "max_length": pipeline.tokenizer.model_max_length, "return_tensors": "pt"}
    empty = pipeline.text_encoder(pipeline.tokenizer("", **tokens).input_ids.to(device))[0]
    for time in times:
        predicted = unet(latents, time, embedding.to(device)).sample
        if guidance > 1:
            without = unet(latents, time, empty).sample
            predicted = without + guidance * (predicted - without)
        latents = plms.step(predicted, time, latents).prev_sample
    return (vae.decode(latents / scale).sample / 2 + 0.5).clamp(0, 1)
