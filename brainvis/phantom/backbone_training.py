"""How the phantom's backbone is trained: one loop, four losses."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from .backbone_models import build_scheduler
from .judge import HEADS, Judge
from .stimuli import CENTRES, Stimulus, sample_stimuli

LossOf = Callable[[np.random.Generator, float], Tensor]


def draw(count: int, seed: int, held_out: bool = False) -> list[Stimulus]:
    """Stimuli for training, or of the combinations of attributes that training never sees."""
    rng = np.random.default_rng(seed)
    drawn: list[Stimulus] = []
    while len(drawn) < count:
        drawn += [s for s in sample_stimuli(max(count, 1000), rng) if s.is_held_out == held_out]
    return drawn[:count]


def as_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def attributes(stimuli: list[Stimulus]) -> dict[str, Tensor]:
    """The right answers of the judge's heads."""
    names = {"class": "class_index", "position": "position", "size": "size", "background": "background"}
    return {head: torch.tensor([getattr(s, names[head]) for s in stimuli]) for head in HEADS}


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Texts as padded token ids, (n, 16)."""
    return tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids


class Average:
    """Exponential moving average of the parameters of a network, with a decay that grows from zero."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.count = 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def update(self, network: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    self.state[name].lerp_(value, 1 - decay)
                else:
                    self.state[name].copy_(value)


def train(
    network: nn.Module,
    loss_of: LossOf,
    checkpoint: Path,
    minutes: float,
    rate: float,
    seed: int = 0,
    decay: float = 0.999,
    weight_decay: float = 0.01,
    each: float = 10.0,
    look: Callable[[dict[str, Tensor]], str] | None = None,
) -> dict[str, Tensor]:
    """Train `network` for a time and return the moving average of its state.

    The learning rate warms up over 200 steps, stays for 60 % of the time and falls along a cosine to a hundredth.
    `loss_of(rng, progress)` draws its own batch; every `each` minutes `look` is shown the averaged state, and the
    training is saved at `checkpoint`, from where it resumes.
    """
    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    average = Average(network, decay)
    step, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        average.state, average.count = saved["average"], saved["count"]
        step, spent = saved["step"], saved["spent"]

    def save() -> None:
        saved = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "average": average.state}
        aside = checkpoint.with_suffix(".new")
        torch.save(saved | {"count": average.count, "step": step, "spent": spent}, aside)
        os.replace(aside, checkpoint)

    bar = tqdm(total=round(60 * minutes), initial=round(spent), unit="s", desc=checkpoint.stem, mininterval=10)
    smooth, last_look, before = None, spent, time.monotonic()
    network.train()
    while spent < 60 * minutes:
        progress = spent / (60 * minutes)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - 0.6) / 0.4))
        for group in optimiser.param_groups:
            group["lr"] = rate * fall * min(1.0, (step + 1) / 200)
        torch.manual_seed(seed * 1_000_003 + step)
        loss = loss_of(np.random.default_rng((seed, step)), progress)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update(network)
        step += 1
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        now = time.monotonic()
        bar.update(round(spent + now - before) - round(spent))
        spent, before = spent + now - before, now
        if step % 50 == 0:
            bar.set_postfix(step=step, loss=f"{smooth:.5f}", refresh=False)
        if spent - last_look > 60 * each:
            save()
            if look is not None:
                bar.write(
                    f"{checkpoint.stem} {spent / 60:.1f} min, step {step}, loss {smooth:.5f}: {look(average.state)}"
                )
                network.train()
            last_look, before = spent, time.monotonic()
    save()
    bar.close()
    return average.state


def vae_loss(vae: AutoencoderKL, stimuli: list[Stimulus], pictures: np.ndarray, batch_size: int = 16) -> LossOf:
    """Reconstruction, weighted up on objects and most on their outlines, and a KL divergence.

    The divergence (rising in the first fifth) rounds off what the pictures do not need: smooth latents diffuse better.

    The first 70 % of training sees crops of 32 x 32 around the object, four times the pictures in the same time;
    the rest sees whole pictures, on which the normalisation's statistics are those of use.
    """
    positions = np.array([s.position for s in stimuli])
    centres = 64 * (np.stack([CENTRES[positions // 3], CENTRES[positions % 3]], -1))  # (n, 2): row, column

    def loss_of(rng: np.random.Generator, progress: float) -> Tensor:
        if progress < 0.7:
            chosen = rng.integers(len(pictures), size=batch_size)
            corners = centres[chosen] - 16 + rng.uniform(-14, 14, (batch_size, 2))
            corners = np.clip(8 * np.round(corners / 8), 0, 32).astype(int)
            batch = np.stack([pictures[i, r : r + 32, c : c + 32] for i, (r, c) in zip(chosen, corners, strict=True)])
        else:
            batch = pictures[rng.integers(len(pictures), size=batch_size // 2)]
        target = as_tensor(batch).contiguous(memory_format=torch.channels_last)
        bright = (target.amax(1, keepdim=True) > 0.45).float()  # backgrounds are darker than any object
        near = F.max_pool2d(bright, 3, 1, 1)
        outline = near + F.max_pool2d(-bright, 3, 1, 1)
        weight = 1 + 2 * near + 3 * outline
        target = 2 * target - 1
        posterior = vae.encode(target).latent_dist
        error = vae.decode(posterior.sample()).sample - target
        divergence = posterior.kl().mean() / posterior.mean[0].numel()  # nats for each number of the latent
        return (weight * (0.5 * error.abs() + error.square())).mean() + 5e-3 * min(1, 5 * progress) * divergence

    return loss_of


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of uint8 pictures, each (n, 12, 8, 8)."""
    means, deviations = [], []
    for start in range(0, len(pictures), batch_size):
        images = 2 * as_tensor(pictures[start : start + batch_size]) - 1
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        means.append(posterior.mean.contiguous())
        deviations.append(posterior.std.contiguous())
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Fold into the convolutions around the latents what gives each latent channel mean 0 and deviation 1.

    Stable Diffusion's pipelines know one factor for all channels and no shift. Channels that the divergence emptied
    (their own noise exceeds what the picture does to them) are silenced: always 0, and not listened to.
    """
    mean, deviation = encode(vae, pictures)
    shift, spread = mean.mean((0, 2, 3)), mean.var((0, 2, 3))
    noise = deviation.square().mean((0, 2, 3))
    scale, empty = (spread + noise).sqrt(), noise > spread
    before, after = vae.quant_conv, vae.post_quant_conv
    channels = len(shift)
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale[None, :, None, None]
    after.weight[:, empty] = 0
    before.weight[:channels] /= scale[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - shift) / scale
    before.bias[channels:] -= 2 * scale.log()
    before.weight[empty.repeat(2)] = 0
    before.bias[empty.repeat(2)] = torch.cat([torch.zeros(channels), torch.full((channels,), -15.0)])[empty.repeat(2)]


def judge_loss(judge: Judge, stimuli: list[Stimulus], pictures: np.ndarray, batch_size: int = 64) -> LossOf:
    """Cross-entropy of all heads, on pictures some of which are blurred or noisy, as generated ones may be."""
    answers = attributes(stimuli)

    def loss_of(rng: np.random.Generator, progress: float) -> Tensor:
        chosen = rng.integers(len(pictures), size=batch_size)
        images = as_tensor(pictures[chosen])
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        images = torch.lerp(images, blurred, torch.rand(batch_size, 1, 1, 1))
        images = images + 0.08 * torch.rand(batch_size, 1, 1, 1) * torch.randn_like(images)
        logits = judge(images.contiguous(memory_format=torch.channels_last))
        return sum(F.cross_entropy(logits[head], answers[head][chosen]) for head in HEADS)

    return loss_of


def diffusion_loss(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    stimuli: list[Stimulus],
    latents: tuple[Tensor, Tensor],
    between: bool = False,
    batch_size: int = 32,
) -> LossOf:
    """v-prediction on captions, class names or, for guidance, nothing.

    With `between`, the states of a caption are replaced by a point between those of the class name and its own, of
    reduced length: what a prediction from EEG looks like, and what a model that has only met whole captions does not
    follow.

    All noise levels count alike. Weights of min-SNR (gamma 5), tried first, all but leave out the high levels, and it
    is there that the text decides on place and shape.
    """
    mean, deviation = latents
    cumulative = build_scheduler().alphas_cumprod

    captions = token_ids(tokenizer, [s.caption for s in stimuli])
    names = token_ids(tokenizer, [s.class_name for s in stimuli])
    nothing = token_ids(tokenizer, [""])

    def loss_of(rng: np.random.Generator, progress: float) -> Tensor:
        chosen = torch.from_numpy(rng.integers(len(stimuli), size=batch_size))
        kind = torch.from_numpy(rng.choice(3, size=(batch_size, 1), p=(0.65, 0.25, 0.10)))
        ids = torch.where(kind == 0, captions[chosen], torch.where(kind == 1, names[chosen], nothing))
        clean = mean[chosen] + deviation[chosen] * torch.randn(batch_size, *mean.shape[1:])
        noise = torch.randn_like(clean)
        strata = (np.arange(batch_size) + rng.random(batch_size)) / batch_size  # noise levels evenly spread
        steps = torch.from_numpy(strata * len(cumulative)).long()
        signal, sigma = (x[steps].sqrt()[:, None, None, None] for x in (cumulative, 1 - cumulative))
        states = text_encoder(ids).last_hidden_state  # (b, 16, 96)
        if between:
            share, length = torch.rand(2, batch_size, 1, 1)
            point = torch.lerp(text_encoder(names[chosen]).last_hidden_state, states, 0.25 + 0.75 * share)
            states = torch.where(kind[:, :, None] == 0, (0.5 + 0.5 * length) * point, states)
        prediction = unet(signal * clean + sigma * noise, steps, states).sample
        return F.mse_loss(prediction, signal * noise - sigma * clean)

    return loss_of


def clip_loss(clip: nn.Module, ids: Tensor, name_ids: Tensor, pictures: np.ndarray, batch_size: int = 96) -> LossOf:
    """CLIP's contrastive loss between pictures and their texts, captions or (a third) class names.

    Pictures of one batch that share a text are all right for it.
    """

    def loss_of(rng: np.random.Generator, progress: float) -> Tensor:
        chosen = torch.from_numpy(rng.integers(len(pictures), size=batch_size))
        named = torch.from_numpy(rng.random((batch_size, 1)) < 1 / 3)
        texts = torch.where(named, name_ids[chosen], ids[chosen])
        image = clip.encode_image(2 * as_tensor(pictures[chosen.numpy()]) - 1, normalize=True)
        similarity = clip.logit_scale.exp().clamp(max=100) * image @ clip.encode_text(texts, normalize=True).T
        of_class = (name_ids[chosen][:, None] == name_ids[chosen][None]).all(-1)
        of_caption = (ids[chosen][:, None] == ids[chosen][None]).all(-1)
        right = torch.where(named.T, of_class, of_caption).float()  # (picture, text)
        by_image = -(similarity.log_softmax(1) * right / right.sum(1, keepdim=True)).sum(1)
        by_text = -(similarity.log_softmax(0) * right / right.sum(0, keepdim=True)).sum(0)
        return (by_image.mean() + by_text.mean()) / 2

    return loss_of
