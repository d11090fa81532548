"""Whether a backbone of the phantom draws what it is told: the judge looks at what it generates, the card tells."""

import re
from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import normalize

from brainvis.files import ROOT
from brainvis.phantom.judge import HEADS, PhantomJudge, judged, load_judge
from brainvis.phantom.stimuli import CLASS_NAMES, SHAPES, Stimulus, render, sample_stimuli

BACKBONE = (
    ROOT / "brainvis" / "phantom" / "backbone"
)  # the committed one; its configuration files say what every network is
GUIDANCES = (1.0, 1.5, 2.0, 3.0)  # 1 is none
STRENGTH = 0.85  # of image-to-image
SEEDS = {"renderings": 101, "reconstructions": 102, "captions": 103, "class names": 104, "image-to-image": 105}
COLUMNS = ("class", "shape", "colour", "position", "size", "background")


def draw(count: int, seed: int, held_out: bool = False) -> list[Stimulus]:
    """Stimuli for training, or of the combinations of attributes that training never sees."""
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < count:
        drawn += [s for s in sample_stimuli(max(count, 1000), rng) if s.is_held_out == held_out]
    return drawn[:count]


def as_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def answers_of(stimuli: list[Stimulus]) -> dict[str, Tensor]:
    """The right answers of the judge's heads, (n,) each."""
    values = [{"class": s.class_index, **vars(s)} for s in stimuli]
    return {head: torch.tensor([value[head] for value in values]) for head in HEADS}


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """A backbone in single precision."""
    options = {"safety_checker": None, "requires_safety_checker": False, "local_files_only": True}
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **options)
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def figures(
    source: str, pipeline: DiffusionPipeline, judge: PhantomJudge, count: int, guidance=1.0, steps=25, seed=0
) -> dict[str, float]:
    """Share of pictures that the judge reads as asked, by attribute; class also by its shape and its colour. Sources of
    held-out combinations: "renderings" (the judge itself), "reconstructions" (of the autoencoder; "psnr" is their peak
    signal-to-noise ratio in dB), "captions", "image-to-image" (renderings of one class with the name of another: class
    is judged against the name). And "class names" alone, all equally often. Seed 0: that of the source."""
    seed = seed or SEEDS[source]
    stimuli = draw(count, seed, held_out=True)
    truth, shown = answers_of(stimuli), as_tensor(render(stimuli))

    def drawn(pipeline: DiffusionPipeline, prompts: list[str], images: Tensor | None = None) -> Tensor:
        options = {"guidance_scale": guidance, "num_inference_steps": steps, "output_type": "pt"}
        options["generator"], made = torch.Generator().manual_seed(seed), []
        for part in (slice(start, start + 32) for start in range(0, count, 32)):
            given = {} if images is None else {"image": images[part], "strength": STRENGTH}
            made.append(pipeline(prompts[part], **given, **options).images)
        return torch.cat(made)

    match source:
        case "renderings":
            made = shown
        case "reconstructions":
            encoded = (pipeline.vae.encode(2 * batch - 1).latent_dist for batch in shown.split(64))
            latents = (latent.sample(torch.Generator().manual_seed(seed)) for latent in encoded)
            made = torch.cat([(pipeline.vae.decode(latent).sample / 2 + 0.5).clamp(0, 1) for latent in latents])
        case "captions":
            made = drawn(pipeline, [s.caption for s in stimuli])
        case "class names":
            truth = {"class": torch.arange(count) % len(CLASS_NAMES)}
            made = drawn(pipeline, [CLASS_NAMES[i] for i in truth["class"]])
        case "image-to-image":
            shift = torch.from_numpy(np.random.default_rng(seed).integers(1, len(CLASS_NAMES), count))
            truth["class"] = (truth["class"] + shift) % len(CLASS_NAMES)
            del truth["size"]
            refiner = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
            refiner.set_progress_bar_config(disable=True)
            made = drawn(refiner, [CLASS_NAMES[i] for i in truth["class"]], shown)
    answers = judged(judge, made)
    right = {name: answers[name] == truth[name] for name in truth}
    right["shape"] = answers["class"] % len(SHAPES) == truth["class"] % len(SHAPES)
    right["colour"] = answers["class"] // len(SHAPES) == truth["class"] // len(SHAPES)
    shares = {name: values.float().mean().item() for name, values in right.items()}
    if source == "reconstructions":
        shares["psnr"] = -10 * (made - shown).square().mean((1, 2, 3)).log10().mean().item()
    return shares


@torch.no_grad()
def clip_retrieval(folder: Path) -> tuple[float, float]:
    """Share of held-out pictures nearest to their caption among 256, and to their class name among 60."""
    clip = open_clip.create_model(f"local-dir:{folder / 'clip'}").float().eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")
    stimuli = list({s.caption: s for s in draw(1000, seed=106, held_out=True)}.values())[:512]
    pictures = normalize(clip.encode_image(2 * as_tensor(render(stimuli)) - 1), dim=-1)
    texts = [s.caption for s in stimuli[:256]], list(CLASS_NAMES)
    captions, names = (normalize(clip.encode_text(tokenizer(each)), dim=-1) for each in texts)
    by_caption = (pictures[:256] @ captions.T).argmax(1) == torch.arange(256)
    by_name = (pictures @ names.T).argmax(1) == torch.tensor([s.class_index for s in stimuli])
    return by_caption.float().mean().item(), by_name.float().mean().item()


def write_card(folder: Path, count: int = 240) -> str:
    """Measure the backbone in `folder` and write `README.md` there; the card is returned as well."""
    pipeline, judge = load_pipeline(folder), load_judge(folder / "judge")
    rows = []

    def measure(title: str, source: str, *settings, **more) -> float:
        found = figures(source, pipeline, judge, *settings, **more)
        title += f" ({found['psnr']:.1f} dB)" if "psnr" in found else ""
        cells = [f"{100 * found[name]:.1f}" if name in found else "-" for name in COLUMNS]
        rows.append(f"| {title} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
        return found["class"]

    best, name = {}, {}
    for source in ("captions", "class names", "image-to-image"):  # the choice of guidance, on stimuli of its own
        right = [measure(f"(choice) {source}, guidance {g:g}", source, count // 4, g, seed=7) for g in GUIDANCES]
        best[source] = GUIDANCES[np.argmax(right)]
        name[source] = f"guidance {best[source]:g}" if best[source] > 1 else "no guidance"
    measure("renderings (the judge itself)", "renderings", 4000)
    measure("reconstructions by the autoencoder", "reconstructions", 1000)
    measure(f"captions, {name['captions']}, 25 steps", "captions", count, best["captions"])
    measure("captions, no guidance, 25 steps", "captions", count)
    measure("captions, no guidance, 50 steps", "captions", count // 2, steps=50)
    measure(f"class names, {name['class names']}, 25 steps", "class names", count, best["class names"])
    measure("class names, no guidance, 25 steps", "class names", count)
    refined = f"image-to-image to another class's name, strength {STRENGTH}, {name['image-to-image']}, 25 steps"
    measure(refined, "image-to-image", count, best["image-to-image"])
    card = card_text(rows, *clip_retrieval(folder))
    (folder / "README.md").write_text(card)
    return card


def card_text(rows: list[str], by_caption: float, by_name: float) -> str:
    """The committed card with other figures (rows of the table, shares that CLIP finds), without how the committed
    weights came about."""
    card = (BACKBONE / "README.md").read_text().partition("\n## How these very weights")[0]
    card = re.sub(r"(?<=background \|\n)(\|.*\n)+", "\n".join(["|---" * 7 + "|", *rows, ""]), card)
    card = re.sub(r"[\d.]+ % are nearest", f"{100 * by_caption:.1f} % are nearest", card)
    return re.sub(r"[\d.]+ % of 512", f"{100 * by_name:.1f} % of 512", card)
