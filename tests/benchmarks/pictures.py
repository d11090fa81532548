"""Generating, captioning and judging pictures: with the phantom's backbone at demo size; at paper size with random
weights of the architectures of Stable Diffusion 1.5, BLIP and the published judges."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.ceilings import convolution_ceiling, product_ceiling
from benchmarks.turns import Turns, ask, compete, spread
from brainvis.configuration import PRESETS, Generation
from brainvis.evaluation import judges
from brainvis.files import read_json
from brainvis.generation import load_generator
from brainvis.generation.captions import load_captioner
from brainvis.generation.cascade import noise_generator, refinement_stage, semantic_stage
from brainvis.generation.sampler import PLMS
from brainvis.generation.weights import PHANTOM

# A refinement as published: 85 of 100 steps under guidance. On a CPU, few steps of one picture show as much.
FEW = {"samples": 1, "batch_size": 1, "semantic_steps": 2, "refinement_steps": 2, "strength": 0.5}
NAMES = ("airliner", "sorrel horse", "mountain bike", "electric guitar")
PUBLISHED = ("CLIP", "Inception", "AlexNet 5", "AlexNet 2", "ViT-H/14")  # FID's Inception is as large as Inception
# BLIP large: https://huggingface.co/Salesforce/blip-image-captioning-large, config.json
BLIP_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
BLIP_VISION |= {"image_size": 384, "patch_size": 16}
BLIP_TEXT = {"encoder_hidden_size": 1024, "vocab_size": 30524}
KINDS = ("convolutions", "products")  # of operations
BLIP_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_stable_diffusion(turns: Turns, folder: str) -> None:
    from helpers.tiny_backbone import random_pipeline

    from brainvis.generation.stable_diffusion import CONFIGURATION

    random_pipeline(CONFIGURATION, dtype=torch.float16).save_pretrained(folder, variant="fp16")
    turns.ready()


def write_captioner(turns: Turns, folder: str, small: bool) -> None:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(30517))]
    ends = {"bos_token_id": 30522, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    vision = BLIP_VISION | (BLIP_SMALL | {"image_size": 32} if small else {})
    text = BLIP_TEXT | ends | (BLIP_SMALL | {"encoder_hidden_size": 32} if small else {})
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}).save_pretrained(folder)
    BlipImageProcessor(size=size).save_pretrained(folder)
    turns.ready()


def random_pictures(number: int, side: int) -> np.ndarray:
    """uint8 (n, side, side, 3)."""
    return np.random.default_rng(0).integers(0, 256, (number, side, side, 3), np.uint8)


def network(name: str) -> nn.Module:
    """A published judge's network with random weights, as `brainvis.evaluation.judges` builds it from a file."""
    import open_clip
    from torchvision import models

    if name == "CLIP":
        return open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-quickgelu")).visual
    if name == "ViT-H/14":
        return models.vit_h_14(image_size=judges.VIT.meta["min_size"][0])
    if name == "Inception":
        inception = models.inception_v3(transform_input=True, init_weights=False)
        inception.fc = nn.Identity()
        return inception
    return models.alexnet().features[: {"AlexNet 2": 5, "AlexNet 5": 12}[name]]


# Contestants; units are pictures


def stage(turns: Turns, stage: str, backbone: str, config: dict, trials: int, warm: bool, device: str) -> None:
    """A stage of the cascade, which keeps its pictures in a folder, as notebook 06 calls it."""
    generator, chosen = load_generator(backbone, device), Generation(**config)
    names = [NAMES[trial % len(NAMES)] for trial in range(trials)]
    embeddings = generator.text_embeddings(names)
    start = random_pictures(trials * chosen.samples, generator.resolution)
    start = start.reshape(trials, chosen.samples, *start.shape[1:])

    def make(seed: int, settings: Generation) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if stage == "semantic":
                semantic_stage(generator, embeddings, settings, seed, folder=Path(folder))
            else:
                refinement_stage(generator, start, names, settings, seed, folder=Path(folder))

    if warm:
        make(0, replace(chosen, semantic_steps=2, refinement_steps=2, strength=1.0))
    turns.ready(precision=str(generator.dtype).removeprefix("torch."))
    for seed in count(1):
        make(seed, chosen)
        turns(trials * chosen.samples)


def one_by_one(turns: Turns, stage: str, backbone: str, config: dict, trials: int, warm: bool, device: str) -> None:
    """The baseline's pictures."""
    from brainvis.generation.stable_diffusion import load_stable_diffusion

    generator, chosen = load_stable_diffusion(backbone, device, torch.float32), Generation(**config)
    pipeline, made = generator.pipeline, trials * chosen.samples
    embeddings = generator.text_embeddings([NAMES[trial % len(NAMES)] for trial in range(trials)])
    start = torch.from_numpy(random_pictures(made, generator.resolution)).permute(0, 3, 1, 2).float() / 255
    baseline.explicit(pipeline)
    steps, guidance, strength = taken(chosen, stage)

    def make(seed: int, picture: int) -> Tensor:
        plms = PLMS.like(pipeline.scheduler)
        noise = noise_generator(seed, stage, picture // chosen.samples, picture % chosen.samples)
        embedding = embeddings[picture // chosen.samples][None]
        before = start[picture][None] if stage == "refinement" else None
        return baseline.draw(pipeline, plms, plms.times(steps, strength), embedding, noise, guidance, before)

    if warm:
        make(0, 0)
    turns.ready()
    for seed in count(1):
        for picture in range(made):
            drawn = make(seed, picture)[0].permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
            with tempfile.TemporaryDirectory() as folder:
                Image.fromarray(drawn).save(Path(folder) / "picture.png")
        turns(made)


def taken(config: Generation, stage: str) -> tuple[int, float, float]:
    """Steps, guidance and strength of a stage."""
    if stage == "semantic":
        return config.semantic_steps, config.semantic_guidance, 1.0
    return config.refinement_steps, config.refinement_guidance, config.strength


def operations(turns: Turns, stage: str, backbone: str, config: dict) -> None:
    """Operations a picture, of convolutions and of matrix products; nothing is computed for it."""
    place, (steps, guidance, strength) = Path(backbone), taken(Generation(**config), stage)
    words = read_json(place / "text_encoder" / "config.json")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(place / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(place / "vae"))
        unet.set_attn_processor(AttnProcessor())
        vae.set_attn_processor(AttnProcessor())
        side, scale = unet.config.sample_size, 2 ** (len(vae.config.block_out_channels) - 1)
        latents = torch.empty(1, unet.config.in_channels, side, side)
        text = torch.empty(1, words["max_position_embeddings"], words["hidden_size"])
        picture = torch.empty(1, 3, side * scale, side * scale)
        noise = _counted(lambda: unet(latents, torch.tensor(500), text))
        decoding, encoding = _counted(lambda: vae.decode(latents)), _counted(lambda: vae.encode(picture))
    plms = PLMS.like(PNDMScheduler.from_pretrained(place / "scheduler"))
    evaluations = len(plms.times(steps, strength)) * (2 if guidance > 1 else 1)
    parts = [(evaluations, noise), (1, decoding), (int(stage == "refinement"), encoding)]
    turns.ready(**{kind: sum(times * part[kind] for times, part in parts) for kind in noise})


def _counted(call: Callable[[], object]) -> dict[str, int]:
    """Operations of a call: `convolutions` and `products`."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call()
    found = counter.get_flop_counts()["Global"]
    convolutions = sum(count for operation, count in found.items() if "convolution" in str(operation))
    return {"convolutions": convolutions, "products": sum(found.values()) - convolutions}


def judging(turns: Turns, name: str, pictures: int, side: int, device: str) -> None:
    """What a judge says of pictures, as notebook 06 asks it; "judge": that of the phantom's backbone."""
    torch.manual_seed(0)
    if name == "judge":
        judge = judges.own_judge(load_generator("phantom", device))
    else:
        known = replace(judges.NETWORKS[name], build=lambda state: network(name))  # whatever is in the file
        with tempfile.TemporaryDirectory() as folder:
            save_file({"none": torch.zeros(1)}, Path(folder) / "none.safetensors")
            look = known.open(Path(folder) / "none.safetensors", torch.device(device))
        judge = judges.Judge(name, lambda: look, lambda: "", batch_size=known.batch_size)
    shown = random_pictures(pictures, side)
    judge.look(shown[:1])
    turns.ready(precision="float16" if name in ("CLIP", "ViT-H/14") and device == "cuda" else "float32")
    while True:
        judge.look(shown)
        turns(pictures)


def judging_one_by_one(turns: Turns, name: str, pictures: int, side: int, device: str) -> None:
    """The same of one picture at a time, in single precision."""
    torch.manual_seed(0)
    shown = random_pictures(pictures, side)
    if name == "judge":
        judge, prepare = load_generator("phantom", device).judge, judges.as_tensor
        answer = judge
    else:
        known, judge = judges.NETWORKS[name], network(name).eval().to(device)
        prepare, answer = known.prepare, lambda batch: known.answer(judge, batch)
    with torch.no_grad():
        one = prepare(shown[:1]).to(device)
        counted = _counted(lambda: answer(one))
        turns.ready(**counted)
        while True:
            for picture in shown:
                said = answer(prepare(picture[None]).to(device))
                said = {key: values.cpu() for key, values in said.items()}
            turns(pictures)


def captioning(turns: Turns, folder: str, pictures: int, batch: int, device: str) -> None:
    """Captions in batches, as `python -m brainvis caption` makes them."""
    captioner = load_captioner(folder, device)
    shown = [Image.fromarray(picture) for picture in random_pictures(pictures, 512)]
    captioner(shown[:1])
    turns.ready(precision=str(captioner.model.dtype).removeprefix("torch."))
    while True:
        for start in range(0, pictures, batch):
            captioner(shown[start : start + batch])
        turns(pictures)


def captioning_one_by_one(turns: Turns, folder: str, pictures: int, batch: int, device: str) -> None:
    """One at a time, in single precision, attention by matrix products."""
    captioner = load_captioner(folder, device)
    captioner.model.float().set_attn_implementation("eager")
    shown = [Image.fromarray(picture) for picture in random_pictures(pictures, 512)]
    turns.ready(**_counted(lambda: captioner(shown[:1])))
    while True:
        for picture in shown:
            captioner([picture])
        turns(pictures)


# Rows


def measurements(options) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """Both stages, captions and judges."""
    for size in options.sizes:
        fast = size != "paper" or options.device != "cpu" or options.full
        for name in ("semantic", "refinement") if fast else ("semantic",):  # minutes, for the same networks
            yield f"{name} stage", size, lambda name=name, size=size: _stage(name, size, options)
        if size != "demo":  # the phantom comes with its captions
            yield "captioning", size, lambda size=size: _captioning(size, options)
        for name in PUBLISHED if size == "paper" else ("judge",):
            if name != "ViT-H/14" or fast:  # 16 seconds a picture on two cores
                yield f"judging, {name}", size, lambda name=name, size=size: _judging(name, size, options)


def _stage(name: str, size: str, options) -> dict:
    config, place, slow = asdict(PRESETS[size].generation), PHANTOM, size == "paper" and options.device == "cpu"
    trials = {"paper": 4 // config["samples"], "demo": 16, "smoke": 1}[size]
    if size == "paper":
        place = options.scratch / "stable-diffusion"
        if not (place / "model_index.json").exists():
            ask(("benchmarks.pictures:write_stable_diffusion", {"folder": str(place)}), options.environment)
    if slow or size == "smoke":
        config |= FEW
    arguments = {"stage": name, "backbone": str(place), "config": config}
    counted = ask(("benchmarks.pictures:operations", arguments), options.environment)
    arguments |= {"trials": trials, "warm": not slow, "device": options.device}
    contestants = {
        "package": ("benchmarks.pictures:stage", arguments),
        "baseline": ("benchmarks.pictures:one_by_one", arguments | {"trials": min(trials, 2)}),  # it has no batches
    }
    rounds = options.rounds or (1 if slow else 3)
    settings = {key: config[key] for key in ("samples", "batch_size", f"{name}_steps", f"{name}_guidance", "strength")}
    return _row(contestants, size, rounds, options, {"pictures": trials * config["samples"], **settings}, counted)


def _captioning(size: str, options) -> dict:
    place = options.scratch / f"blip-{size}"
    if not (place / "config.json").exists():
        arguments = {"folder": str(place), "small": size == "smoke"}
        ask(("benchmarks.pictures:write_captioner", arguments), options.environment)
    arguments = {"folder": str(place), "pictures": 8 if options.full else 2, "batch": 8, "device": options.device}
    contestants = {
        "package": ("benchmarks.pictures:captioning", arguments),
        "baseline": ("benchmarks.pictures:captioning_one_by_one", arguments),
    }
    return _row(contestants, size, options.rounds or 2, options, arguments)


def _judging(name: str, size: str, options) -> dict:
    number = {"judge": 128, "CLIP": 4, "ViT-H/14": 4}.get(name, 16) if size != "smoke" else 2
    arguments = {"name": name, "pictures": number, "side": 512 if size == "paper" else 64, "device": options.device}
    contestants = {
        "package": ("benchmarks.pictures:judging", arguments),
        "baseline": ("benchmarks.pictures:judging_one_by_one", arguments),
    }
    return _row(contestants, size, options.rounds or (1 if name == "ViT-H/14" else 3), options, arguments)


def _row(contestants: dict, size: str, rounds: int, options, settings: dict, counted: dict | None = None) -> dict:
    def ceilings(facts: dict) -> dict:
        where = size, facts["package"]["precision"], options.device
        return {"convolutions": convolution_ceiling(*where), "products": product_ceiling(*where)}

    outcome = compete(contestants, rounds, options.environment, told=ceilings)
    counted = counted or {kind: outcome.facts["baseline"][kind] for kind in KINDS}
    rates, shares = outcome.rates, []
    for number, rate in enumerate(rates["package"]):
        least = sum(counted[kind] / rates[kind][number] for kind in counted)  # seconds a picture at the ceilings
        shares.append(rate * least)
    return {
        "unit": "pictures/s",
        "package": spread(rates["package"]),
        "baseline": spread(rates["baseline"]),
        "times_baseline": spread(outcome.ratio("package", "baseline")),
        "share_of_ceiling": spread(shares),
        "ceiling_gflops": {kind: spread([rate / 1e9 for rate in rates[kind]]) for kind in counted},
        "operations_per_unit": counted,
        "peak": {name: outcome.peaks[name] for name in contestants},
        "settings": settings | {"precision": outcome.facts["package"]["precision"]},
    }
