"""Measure a trained backbone on held-out stimuli and write its card."""

from pathlib import Path

import open_clip
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import normalize

from .backbone_evaluation import (
    described,
    from_captions,
    from_names,
    from_pictures,
    judge_reconstructions,
    judge_renders,
)
from .backbone_training import as_tensor, draw
from .judge import load_judge
from .stimuli import CLASS_NAMES, JITTER, ROTATION, render

GUIDANCES = (1.0, 1.5, 2.0, 3.0)

CARD = """# The phantom's backbone

A complete Stable Diffusion in miniature, trained from nothing on pictures and captions of the phantom's world
(`brainvis/phantom/stimuli.py`), with a judge and a CLIP pair. Nothing in it comes from other data or other weights, and
what it can do says nothing about what the real Stable Diffusion can do.

## Files
| folder | what | parameters | size |
|---|---|---|---|
{files}

All weights are safetensors in half precision, {total:.1f} MB together.

## Loading
```python
StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
brainvis.phantom.judge.load_judge(folder / "judge")  # single precision, evaluation mode
open_clip.create_model(f"local-dir:{{folder / 'clip'}}")  # its tokenizer: open_clip.get_tokenizer, same argument
```
`brainvis.backbone.load_backbone("phantom")` does all three.

## Data
60 classes (10 shapes x 6 colours), 3 sizes, 9 positions, 4 backgrounds: 6480 combinations, each with free jitter
(+-{jitter:g} of the width) and rotation (+-{rotation:g} degrees). A tenth of the combinations, chosen by a hash
(`Stimulus.is_held_out`), was seen by no network here in training; all figures below are on that tenth, except those
from class names, which leave everything else open.
24,000 rendered pictures trained the autoencoder, 30,000 the judge, 40,000 the denoiser, 30,000 the CLIP pair.

## Recipe
`python -m brainvis.phantom.train_backbone --output FOLDER` trains everything; one core of a 2-core machine (AVX2,
single precision), AdamW, moving average of the weights, warm-up and cosine decay.
- Autoencoder ({vae_minutes:.0f} minutes): 64 x 64 x 3 to 8 x 8 x 12. Crops of 32 x 32 around the object, whole
  pictures for the last 30 %; absolute and squared error, objects and outlines weighted up; KL divergence of the mean
  latent number weighted 5e-3. Channels are standardised, and emptied ones silenced, inside the convolutions around the
  latents.
- Judge ({judge_minutes:.0f} minutes): pictures partly blurred and noisy.
- Text encoder and denoiser, jointly ({unet_minutes:.0f} minutes): v-prediction, all noise levels weighted alike,
  batches of 32; prompts are captions (65 %), class names (25 %) or empty (10 %). Beside cross-attention, the text
  states, pooled, join the time embedding (an option of UNet2DConditionModel that Stable Diffusion 1.5 does not use).
- Denoiser alone, on states between texts ({between_minutes:g} minutes): in place of a caption's states a point on the
  line from those of the class name, a quarter of the way at least, of half its length at least. Predictions from EEG
  are such states. A model that had met only whole captions did not follow them: at 0.37 of the way it placed 10 of 60
  objects rightly, afterwards 60 of 60. How well Stable Diffusion follows such states was not measured here.
- CLIP pair ({clip_minutes:.0f} minutes): contrastive, captions and (a third) class names, batches of 96.

Training is limited by time, not steps, so a faster machine gives a better model and no two runs are equal to the bit.

## Figures
Shares of pictures that the judge reads as asked, in per cent. PNDM scheduler; guidance 1 is none. Guidances were
compared on one draw of held-out stimuli ("choice"), the rest is measured on others.

{figures}

CLIP: of 256 held-out pictures with 256 different captions, {clip_caption:.1f} % are nearest to their own caption and
{clip_name:.1f} % of 512 nearest to their own class name among 60.
"""


def write_card(folder: Path, minutes: dict[str, float], count: int = 240) -> str:
    """Measure the backbone in `folder` and write `README.md` there; the card is returned as well."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipeline.unet.set_attn_processor(AttnProcessor())
    judge = load_judge(folder / "judge")
    rows = []

    def measure(what: str, figures: dict[str, float]) -> dict[str, float]:
        rows.append((what, figures))
        print(f"{what}: {described(figures)}", flush=True)
        return figures

    # Choice of guidance, on stimuli of its own.
    choice: dict[str, float] = {}
    kinds = {"captions": from_captions, "class names": from_names, "image-to-image": from_pictures}
    for kind, made_from in kinds.items():
        right = {
            guidance: measure(
                f"(choice) {kind}, guidance {guidance:g}", made_from(pipeline, judge, count // 4, guidance, 25, seed=7)
            )["class"]
            for guidance in GUIDANCES
        }
        choice[kind] = max(right, key=right.get)
    measure("renderings (the judge itself)", judge_renders(judge, 4000))
    measure("reconstructions by the autoencoder", judge_reconstructions(pipeline.vae, judge, 1000))
    best = {kind: f"guidance {guidance:g}" if guidance > 1 else "no guidance" for kind, guidance in choice.items()}
    runs = (
        (f"captions, {best['captions']}, 25 steps", from_captions, count, choice["captions"], 25),
        ("captions, no guidance, 25 steps", from_captions, count, 1.0, 25),
        ("captions, no guidance, 50 steps", from_captions, count // 2, 1.0, 50),
        (f"class names, {best['class names']}, 25 steps", from_names, count, choice["class names"], 25),
        ("class names, no guidance, 25 steps", from_names, count, 1.0, 25),
        (
            f"image-to-image to another class's name, strength 0.85, {best['image-to-image']}, 25 steps",
            from_pictures,
            count,
            choice["image-to-image"],
            25,
        ),
    )
    for what, made_from, number, guidance, steps in runs:
        measure(what, made_from(pipeline, judge, number, guidance, steps))
    clip_caption, clip_name = clip_retrieval(folder)
    card = CARD.format(
        files="\n".join(_files(folder)),
        total=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
        figures=_table(rows),
        jitter=JITTER,
        rotation=ROTATION,
        clip_caption=100 * clip_caption,
        clip_name=100 * clip_name,
        **{f"{stage}_minutes": time for stage, time in minutes.items()},
    )
    (folder / "README.md").write_text(card)
    return card


@torch.no_grad()
def clip_retrieval(folder: Path) -> tuple[float, float]:
    """Share of held-out pictures nearest to their caption among 256, and to their class name among 60."""
    clip = open_clip.create_model(f"local-dir:{folder / 'clip'}").float().eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")
    stimuli = list({s.caption: s for s in draw(1000, seed=106, held_out=True)}.values())[:512]

    def features_of(texts: list[str]) -> Tensor:
        return normalize(clip.encode_text(tokenizer(texts)), dim=-1)

    pictures = normalize(clip.encode_image(2 * as_tensor(render(stimuli)) - 1), dim=-1)
    captions = (pictures[:256] @ features_of([s.caption for s in stimuli[:256]]).T).argmax(1)
    names = (pictures @ features_of(list(CLASS_NAMES)).T).argmax(1)
    truth = torch.tensor([s.class_index for s in stimuli])
    return (captions == torch.arange(256)).float().mean().item(), (names == truth).float().mean().item()


def _files(folder: Path) -> list[str]:
    """Rows of the card's table of files."""
    from safetensors.torch import load_file

    what = {
        "unet": "UNet2DConditionModel, latents 8 x 8 x 12",
        "vae": "AutoencoderKL, factor 8",
        "text_encoder": "CLIPTextModel, 16 tokens x 96",
        "judge": "classifier with heads for class, position, size, background; 128 features",
        "clip": "open_clip ModifiedResNet and text transformer",
    }
    rows = []
    for name, description in what.items():
        file = next((folder / name).glob("*.safetensors"))
        count = sum(value.numel() for value in load_file(file).values())
        rows.append(f"| `{name}/` | {description} | {count / 1e6:.2f} M | {file.stat().st_size / 1e6:.1f} MB |")
    return [*rows, "| `tokenizer/`, `scheduler/` | CLIPTokenizer of 219 tokens; PNDMScheduler, v-prediction | - | - |"]


def _table(rows: list[tuple[str, dict[str, float]]]) -> str:
    """Figures as a Markdown table, one line a measurement."""
    columns = ("class", "shape", "colour", "position", "size", "background")
    lines = ["| pictures from | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for what, figures in rows:
        cells = [f"{100 * figures[name]:.1f}" if name in figures else "-" for name in columns]
        what += f" ({figures['psnr']:.1f} dB)" if "psnr" in figures else ""
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
