"""Train the phantom's backbone from nothing: autoencoder, judge, text encoder and denoiser, CLIP; then measure it.

Each stage leaves its product in the output folder, its checkpoint in the working folder, and resumes from there. Stages
build on each other in that order; the judge and the CLIP pair need nothing else. What the networks are, and the words
they know, is in the configuration files of the committed backbone.
"""

import argparse
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from measure_backbone import BACKBONE, answers_of, as_tensor, draw, write_card
from numpy.random import Generator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from brainvis.files import read_json, write_aside
from brainvis.phantom.judge import HEADS, PhantomJudge, save_halves, save_judge
from brainvis.phantom.stimuli import CENTRES, Stimulus, render

SAVE_EVERY = 120  # seconds


def train(
    network: nn.Module, loss_of: Callable, checkpoint: Path, minutes: float, rate: float, seed: int, decay=0.999
) -> nn.Module:
    """Train `network` for a time and return its moving average, whose decay grows to `decay` from zero. `loss_of(rng,
    progress)` draws its own batch. The learning rate warms up over 200 steps, stays for 60 % of the time and falls
    along a cosine to a hundredth. The training is saved at `checkpoint` and resumes from there."""

    def averaged(before: Tensor, now: Tensor, count: Tensor) -> Tensor:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        return before.lerp(now, 1 - kept) if now.is_floating_point() else now

    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = AveragedModel(network, avg_fn=averaged, use_buffers=True)
    parts = {"network": network, "optimiser": optimiser, "average": average.module}
    step, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        step, spent = saved["step"], saved["spent"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    average.n_averaged.fill_(step + 1)  # it starts as a copy
    last_save, before = spent, time.monotonic()
    network.train()
    while spent < 60 * minutes:
        progress = spent / (60 * minutes)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - 0.6) / 0.4))
        optimiser.param_groups[0]["lr"] = rate * fall * min(1.0, (step + 1) / 200)
        torch.manual_seed(seed * 1_000_003 + step)
        loss = loss_of(np.random.default_rng((seed, step)), progress)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(network)
        step += 1
        now = time.monotonic()
        spent, before = spent + now - before, now
        if spent - last_save > SAVE_EVERY or spent >= 60 * minutes:
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step, "spent": spent}
            write_aside(checkpoint, partial(torch.save, state))
            print(f"{checkpoint.stem}: {spent / 60:.1f} minutes, step {step}, loss {loss.item():.5f}", flush=True)
            last_save = spent
    return average.module.eval()


def token_ids(tokenizer: CLIPTokenizer, stimuli: list[Stimulus]) -> list[Tensor]:
    """Padded token ids of captions (n, 16), class names (n, 16) and of nothing (1, 16)."""
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "return_tensors": "pt"}
    texts = ([s.caption for s in stimuli], [s.class_name for s in stimuli], [""])
    return [tokenizer(part, **options).input_ids for part in texts]


def judge_loss(judge: PhantomJudge, pictures: np.ndarray, answers: dict[str, Tensor], rng: Generator) -> Tensor:
    """Cross-entropy of all heads, on pictures some of which are blurred or noisy, as generated ones may be."""
    batch = 64
    chosen = rng.integers(len(pictures), size=batch)
    images = as_tensor(pictures[chosen])
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, torch.rand(batch, 1, 1, 1))
    images = images + 0.08 * torch.rand(batch, 1, 1, 1) * torch.randn_like(images)
    logits = judge(images.contiguous(memory_format=torch.channels_last))
    return sum(F.cross_entropy(logits[head], answers[head][chosen]) for head in HEADS)


def vae_loss(vae: AutoencoderKL, pictures: np.ndarray, positions: np.ndarray, rng: Generator, progress) -> Tensor:
    """Reconstruction, weighted up on objects and most on their outlines, and a KL divergence. The divergence (rising in
    the first fifth) rounds off what the pictures do not need: smooth latents diffuse better. The first 70 % of training
    sees crops of 32 x 32 around the object, four times the pictures in the same time; the rest sees whole pictures, for
    the normalisation's statistics."""
    batch = 16
    if progress < 0.7:
        chosen = rng.integers(len(pictures), size=batch)
        rows, columns = np.divmod(positions[chosen], 3)
        corners = 64 * np.stack([CENTRES[rows], CENTRES[columns]], -1) - 16 + rng.uniform(-14, 14, (batch, 2))
        corners = np.clip(8 * np.round(corners / 8), 0, 32).astype(int)
        shown = np.stack([pictures[i, r : r + 32, c : c + 32] for i, (r, c) in zip(chosen, corners, strict=True)])
    else:
        shown = pictures[rng.integers(len(pictures), size=batch // 2)]
    target = as_tensor(shown).contiguous(memory_format=torch.channels_last)
    bright = (target.amax(1, keepdim=True) > 0.45).float()  # backgrounds are darker than any object
    near = F.max_pool2d(bright, 3, 1, 1)
    outline = near + F.max_pool2d(-bright, 3, 1, 1)
    weight = 1 + 2 * near + 3 * outline
    target = 2 * target - 1
    posterior = vae.encode(target).latent_dist
    error = vae.decode(posterior.sample()).sample - target
    divergence = posterior.kl().mean() / posterior.mean[0].numel()  # nats for each number of the latent
    return (weight * (0.5 * error.abs() + error.square())).mean() + 5e-3 * min(1, 5 * progress) * divergence


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of uint8 pictures, each (n, 12, 8, 8)."""
    batches = (2 * as_tensor(pictures[start : start + 64]) - 1 for start in range(0, len(pictures), 64))
    found = [vae.encode(batch.contiguous(memory_format=torch.channels_last)).latent_dist for batch in batches]
    return torch.cat([each.mean.contiguous() for each in found]), torch.cat([each.std.contiguous() for each in found])


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Fold into the convolutions around the latents what gives each latent channel mean 0 and deviation 1, as Stable
    Diffusion's pipelines know one factor for all channels and no shift. Channels that the divergence emptied (their own
    noise exceeds what the picture does to them) are silenced: always 0, and not listened to."""
    mean, deviation = encode(vae, pictures)
    shift, spread = mean.mean((0, 2, 3)), mean.var((0, 2, 3))
    noise = deviation.square().mean((0, 2, 3))
    scale, empty = (spread + noise).sqrt(), noise > spread
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale[None, :, None, None]
    after.weight[:, empty] = 0
    means, variances = before.bias.chunk(2)  # the latter are logarithms
    before.weight[: len(shift)] /= scale[:, None, None, None]
    before.weight[empty.repeat(2)] = 0
    means.copy_(torch.where(empty, 0, (means - shift) / scale))
    variances.copy_(torch.where(empty, -15, variances - 2 * scale.log()))


def diffusion_loss(
    networks: nn.ModuleDict, alphas: Tensor, latents: list[Tensor], texts: list[Tensor], between: bool, rng: Generator
) -> Tensor:
    """v-prediction on captions, class names or, for guidance, nothing; `alphas` (step,) are cumulative products. All
    noise levels count alike: weights of min-SNR (gamma 5), tried first, all but leave out the high ones, where the text
    decides on place and shape. `between` replaces the embedding of a caption by a point between that of the class name
    and its own, of reduced length, as a prediction from EEG is: a model that only met captions does not follow."""
    (mean, deviation), (captions, names, nothing), batch = latents, texts, 32
    text_encoder = networks["text_encoder"]
    chosen = torch.from_numpy(rng.integers(len(mean), size=batch))
    kind = torch.from_numpy(rng.choice(3, size=(batch, 1), p=(0.65, 0.25, 0.10)))
    ids = torch.where(kind == 0, captions[chosen], torch.where(kind == 1, names[chosen], nothing))
    clean = mean[chosen] + deviation[chosen] * torch.randn(batch, *mean.shape[1:])
    noise = torch.randn_like(clean)
    strata = (np.arange(batch) + rng.random(batch)) / batch  # noise levels evenly spread
    steps = torch.from_numpy(strata * len(alphas)).long()
    signal, sigma = (x[steps].sqrt()[:, None, None, None] for x in (alphas, 1 - alphas))
    embeddings = text_encoder(ids).last_hidden_state  # (b, 16, 96)
    if between:
        share, length = torch.rand(2, batch, 1, 1)
        point = torch.lerp(text_encoder(names[chosen]).last_hidden_state, embeddings, 0.25 + 0.75 * share)
        embeddings = torch.where(kind[:, :, None] == 0, (0.5 + 0.5 * length) * point, embeddings)
    prediction = networks["unet"](signal * clean + sigma * noise, steps, embeddings).sample
    return F.mse_loss(prediction, signal * noise - sigma * clean)


def clip_loss(clip: nn.Module, pictures: np.ndarray, texts: list[Tensor], rng: Generator) -> Tensor:
    """CLIP's contrastive loss between pictures and their texts, captions or (a third) class names. Pictures of one
    batch that share a text are all right for it."""
    batch = 96
    chosen = rng.integers(len(pictures), size=batch)
    captions, names = (ids[chosen] for ids in texts[:2])
    named = torch.from_numpy(rng.random((batch, 1)) < 1 / 3)
    image = clip.encode_image(2 * as_tensor(pictures[chosen]) - 1, normalize=True)
    text = clip.encode_text(torch.where(named, names, captions), normalize=True)
    similarity = clip.logit_scale.exp().clamp(max=100) * image @ text.T  # (picture, text)
    of_class, of_caption = ((ids[:, None] == ids).all(-1) for ids in (names, captions))
    right = torch.where(named.T, of_class, of_caption).float()
    shares = [similarity.log_softmax(axis) * right / right.sum(axis, keepdim=True) for axis in (1, 0)]
    return -(shares[0].sum(1).mean() + shares[1].sum(0).mean()) / 2


def train_judge(fit: Callable[..., nn.Module], output: Path, work: Path) -> None:
    """Judge."""
    stimuli = draw(30_000, seed=2)
    pictures, answers = render(stimuli), answers_of(stimuli)
    judge = PhantomJudge().to(memory_format=torch.channels_last)
    save_judge(fit(judge, lambda rng, _: judge_loss(judge, pictures, answers, rng)), output / "judge")


def train_vae(fit: Callable[..., nn.Module], output: Path, work: Path) -> None:
    """Autoencoder, also saved in single precision, in which the denoiser's training uses it."""
    stimuli = draw(24_000, seed=1)
    pictures, positions = render(stimuli), np.array([s.position for s in stimuli])
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(BACKBONE / "vae")).to(memory_format=torch.channels_last)
    average = fit(vae, lambda rng, progress: vae_loss(vae, pictures, positions, rng, progress))
    standardise(average, pictures[:4000])
    average.save_pretrained(work / "vae")
    save_halves(average, output / "vae" / "diffusion_pytorch_model.safetensors")


def train_unet(fit: Callable[..., nn.Module], output: Path, work: Path, between: bool = False) -> None:
    """Text encoder and denoiser; with `between`, the denoiser alone goes on, with embeddings between texts."""
    vae = AutoencoderKL.from_pretrained(work / "vae").eval().to(memory_format=torch.channels_last)
    shards = [draw(8_000, seed=30 + shard) for shard in range(5)]  # drawn, and encoded, in parts
    encoded = work / "latents.pt"
    if not encoded.exists():
        means, deviations = zip(*(encode(vae, render(stimuli)) for stimuli in shards), strict=True)
        write_aside(encoded, partial(torch.save, [torch.cat(means), torch.cat(deviations)]))
    latents = torch.load(encoded, weights_only=True)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(BACKBONE / "unet"))
    unet.set_attn_processor(AttnProcessor())  # on a CPU faster in training than torch's fused attention
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(BACKBONE / "text_encoder"))
    networks = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    if between:
        networks.load_state_dict(torch.load(work / "unet.pt", weights_only=True)["average"])
        text_encoder.requires_grad_(False)
    texts = token_ids(CLIPTokenizer.from_pretrained(BACKBONE / "tokenizer"), sum(shards, []))
    alphas = PNDMScheduler.from_pretrained(BACKBONE / "scheduler").alphas_cumprod
    average = fit(networks, lambda rng, _: diffusion_loss(networks, alphas, latents, texts, between, rng), decay=0.9995)
    save_halves(average["unet"], output / "unet" / "diffusion_pytorch_model.safetensors")
    save_halves(average["text_encoder"], output / "text_encoder" / "model.safetensors")


def train_clip(fit: Callable[..., nn.Module], output: Path, work: Path) -> None:
    """CLIP pair."""
    stimuli = draw(30_000, seed=4)
    pictures, texts = render(stimuli), token_ids(CLIPTokenizer.from_pretrained(BACKBONE / "clip"), stimuli)
    clip = open_clip.CLIP(**read_json(BACKBONE / "clip" / "open_clip_config.json")["model_cfg"])
    average = fit(clip, lambda rng, _: clip_loss(clip, pictures, texts, rng))
    save_halves(average, output / "clip" / "open_clip_model.safetensors")


STAGES = {  # what it does; minutes on one core of a 2-core machine without AVX-512; learning rate; seed
    "vae": (train_vae, 14.0, 2e-3, 1),
    "judge": (train_judge, 9.0, 2e-3, 2),
    "unet": (train_unet, 60.0, 1e-3, 3),
    "between": (partial(train_unet, between=True), 8.5, 3e-4, 5),
    "clip": (train_clip, 6.0, 1e-3, 4),
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one stage or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished backbone")
    parser.add_argument("--work", type=Path, help="folder of checkpoints (default: OUTPUT.training)")
    parser.add_argument("--stage", choices=[*STAGES, "measure", "all"], default="all")
    parser.add_argument("--minutes", type=float, help="time for each stage (default: 6 to 60, see the card)")
    chosen = parser.parse_args(arguments)
    output, work = chosen.output, chosen.work or chosen.output.with_name(chosen.output.name + ".training")
    if output.resolve() != BACKBONE:
        shutil.copytree(BACKBONE, output, ignore=shutil.ignore_patterns("*.safetensors", "*.md"), dirs_exist_ok=True)
    for name, (stage, minutes, rate, seed) in STAGES.items():
        if chosen.stage in (name, "all"):
            torch.manual_seed(0)
            minutes = chosen.minutes or minutes
            stage(partial(train, checkpoint=work / f"{name}.pt", minutes=minutes, rate=rate, seed=seed), output, work)
    if chosen.stage in ("measure", "all"):
        print(write_card(output))


if __name__ == "__main__":
    main()
