"""Train the phantom's backbone from nothing: autoencoder, judge, text encoder and denoiser, CLIP; then measure it.

    python -m brainvis.phantom.train_backbone --output FOLDER [--minutes M]
        [--stage vae|judge|unet|between|clip|measure|all]

Each stage leaves its product in FOLDER, its checkpoint in FOLDER's neighbour FOLDER.training (or --work) and resumes
from there. Stages build on each other in the order above; the judge and the CLIP pair need nothing else.
"""

import argparse
import copy
import json
import logging
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from .backbone_card import write_card
from .backbone_evaluation import described, from_captions, from_names, judge_reconstructions, judge_renders
from .backbone_models import CLIP, assemble, build_text_encoder, build_tokenizer, build_unet, build_vae
from .backbone_training import (
    clip_loss,
    diffusion_loss,
    draw,
    encode,
    judge_loss,
    standardise,
    token_ids,
    train,
    vae_loss,
)
from .judge import Judge, load_judge, save_judge
from .stimuli import render

MINUTES = {
    "vae": 14.0,
    "judge": 9.0,
    "unet": 60.0,
    "between": 9.0,
    "clip": 6.0,
}  # on one core of a 2-core machine without AVX-512
SHARDS, SHARD = 5, 8_000  # encoded pictures for the denoiser: number of files, pictures in each


def train_vae(output: Path, work: Path, minutes: float) -> None:
    """Autoencoder, saved in single precision in `work` (the pipeline holds it in half precision)."""
    stimuli = draw(24_000, seed=1)
    pictures = render(stimuli)
    vae = build_vae().to(memory_format=torch.channels_last)
    loss = vae_loss(vae, stimuli, pictures)
    vae.load_state_dict(train(vae, loss, work / "vae.pt", minutes, rate=2e-3, seed=1, each=3))
    standardise(vae.eval(), pictures[:4000])
    vae.save_pretrained(work / "vae")
    if (output / "judge").is_dir():
        print("reconstructions:", described(judge_reconstructions(vae, load_judge(output / "judge"), 512)))


def train_judge(output: Path, work: Path, minutes: float) -> None:
    """Judge."""
    stimuli = draw(30_000, seed=2)
    judge = Judge().to(memory_format=torch.channels_last)
    loss = judge_loss(judge, stimuli, render(stimuli))
    judge.load_state_dict(train(judge, loss, work / "judge.pt", minutes, rate=2e-3, seed=2, each=2))
    save_judge(judge, output / "judge")
    print("judge:", described(judge_renders(load_judge(output / "judge"), 2000)))


def encode_shard(work: Path, vae: AutoencoderKL, shard: int) -> tuple[Tensor, Tensor]:
    """Latents of one share of the denoiser's training pictures, computed once."""
    file = work / f"latents_{shard}.pt"
    if not file.exists():
        latents = encode(vae, render(draw(SHARD, seed=30 + shard)))
        torch.save(latents, file.with_suffix(".new"))
        file.with_suffix(".new").rename(file)
    return torch.load(file, weights_only=True)


def train_unet(output: Path, work: Path, minutes: float, between: bool = False) -> None:
    """Text encoder and denoiser, together; writes the pipeline every few minutes.

    With `between`, the text encoder is done and the denoiser goes on with states between texts, at a lower rate.
    """
    vae = AutoencoderKL.from_pretrained(work / "vae").eval().to(memory_format=torch.channels_last)
    stimuli = [stimulus for shard in range(SHARDS) for stimulus in draw(SHARD, seed=30 + shard)]
    latents = [encode_shard(work, vae, shard) for shard in range(SHARDS)]
    mean, deviation = (torch.cat(parts) for parts in zip(*latents, strict=True))
    tokenizer = build_tokenizer()
    networks = nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)})
    if between:
        networks.load_state_dict(torch.load(work / "unet.pt", weights_only=True)["average"])
        networks["text_encoder"].requires_grad_(False)
    loss = diffusion_loss(networks["unet"], networks["text_encoder"], tokenizer, stimuli, (mean, deviation), between)

    def look(state: dict[str, Tensor]) -> str:
        averaged = copy.deepcopy(networks)
        averaged.load_state_dict(state)
        averaged.eval()
        pipeline = assemble(vae, averaged["text_encoder"], averaged["unet"], tokenizer)
        save_pipeline(pipeline, output)
        if not (output / "judge").is_dir():
            return "no judge yet"
        judge = load_judge(output / "judge")
        return (
            f"\n  captions, unguided: {described(from_captions(pipeline, judge, 96, 1.0, 20))}"
            f"\n  captions, guidance 3: {described(from_captions(pipeline, judge, 96, 3.0, 20))}"
            f"\n  names, guidance 3: {described(from_names(pipeline, judge, 60, 3.0, 20))}"
        )

    name, rate, seed = ("between", 3e-4, 5) if between else ("unet", 1e-3, 3)
    state = train(networks, loss, work / f"{name}.pt", minutes, rate=rate, seed=seed, decay=0.9995, each=8, look=look)
    print("final:", look(state))


def train_between(output: Path, work: Path, minutes: float) -> None:
    """Denoiser, on states between class name and caption."""
    train_unet(output, work, minutes, between=True)


def save_pipeline(pipeline, folder: Path) -> None:
    """Write the pipeline in half precision, marked to be loaded in single precision."""
    halves = {name: copy.deepcopy(getattr(pipeline, name)).half() for name in ("vae", "text_encoder", "unet")}
    halves["vae"].to(memory_format=torch.contiguous_format)
    assemble(tokenizer=pipeline.tokenizer, **halves).save_pretrained(folder)
    text = folder / "text_encoder" / "config.json"  # transformers would take over half precision from here
    text.write_text(text.read_text().replace('"float16"', '"float32"'))
    vae = folder / "vae" / "config.json"
    lines = [line for line in vae.read_text().splitlines() if "_name_or_path" not in line]  # where it was trained
    vae.write_text("\n".join(lines) + "\n")


def train_clip(output: Path, work: Path, minutes: float) -> None:
    """CLIP pair."""
    folder = output / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    CLIP["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(CLIP, indent=2) + "\n")
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that there are no weights yet
    clip = open_clip.create_model(f"local-dir:{folder}")
    stimuli = draw(30_000, seed=4)
    captions, names = (token_ids(tokenizer, t) for t in ([s.caption for s in stimuli], [s.class_name for s in stimuli]))
    loss = clip_loss(clip, captions, names, render(stimuli))
    clip.load_state_dict(train(clip, loss, work / "clip.pt", minutes, rate=1e-3, seed=4, each=2))
    save_file({k: v.half().contiguous() for k, v in clip.state_dict().items()}, folder / "open_clip_model.safetensors")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one stage or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished backbone")
    parser.add_argument("--work", type=Path, help="folder of checkpoints (default: OUTPUT.training)")
    parser.add_argument("--stage", choices=[*MINUTES, "measure", "all"], default="all")
    parser.add_argument("--minutes", type=float, help=f"time for the stage, instead of {MINUTES}")
    chosen = parser.parse_args(arguments)
    work = chosen.work or chosen.output.with_name(chosen.output.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    stages = {"judge": train_judge, "vae": train_vae, "unet": train_unet, "between": train_between, "clip": train_clip}
    for name, stage in stages.items():
        if chosen.stage in (name, "all"):
            torch.manual_seed(0)
            stage(chosen.output, work, chosen.minutes or MINUTES[name])
    if chosen.stage in ("measure", "all"):
        print(write_card(chosen.output, MINUTES))


if __name__ == "__main__":
    main()
