"""Backbones with random weights, small enough for any test: like the phantom's, and like Stable Diffusion 1.5."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS, WIDTH, RESOLUTION = 16, 32, 64
WORDS = "a an the at on red green blue yellow star ring circle square top left small large background plain".split()


def tokenizer() -> CLIPTokenizer:
    """Letters, with and without the end of a word, and the words above merged letter by letter."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    merges = list(dict.fromkeys(merges))
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=TOKENS
    )


def write_backbone(folder: Path, seed: int = 0, judge: bool = True, clip: bool = True, half: bool = False) -> Path:
    """Write a pipeline folder with random weights, with a judge and a CLIP pair beside it."""
    torch.manual_seed(seed)
    words = tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    torch.nn.init.normal_(text_encoder.final_layer_norm.bias)  # so that a forgotten layer norm would be noticed
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    pipeline = StableDiffusionPipeline(vae, text_encoder, words, unet, scheduler, None, None, None, False)
    if half:
        pipeline.to(torch.float16)
    pipeline.save_pretrained(folder)
    if judge:
        from brainvis.phantom.judge import PhantomJudge, save_judge

        save_judge(PhantomJudge(width=4, num_features=8), folder / "judge")
    if clip:
        write_clip(folder / "clip")
    return folder


def write_clip(folder: Path) -> None:
    """An open_clip folder: a one-layer vision transformer and a one-layer text transformer."""
    import open_clip

    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocessing = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocessing}))
    save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")


def shrunken_configuration(folder: Path) -> Path:
    """Configuration files of Stable Diffusion 1.5 with few channels; levels, blocks and vocabulary are the same."""
    from brainvis.generation.stable_diffusion import CONFIGURATION

    changes = {
        "unet": {"block_out_channels": [16, 32, 32, 48], "cross_attention_dim": WIDTH, "norm_num_groups": 8},
        "vae": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": RESOLUTION},
        "text_encoder": {
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "projection_dim": WIDTH,
        },
    }
    changes["unet"]["sample_size"] = RESOLUTION // 8
    changes["text_encoder"]["num_hidden_layers"] = 2
    for file in CONFIGURATION.rglob("*.json"):
        content = json.loads(file.read_text()) | changes.get(file.parent.name, {})
        target = folder / file.relative_to(CONFIGURATION)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content))
    return folder


def random_pipeline(configuration: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """A pipeline of the architecture that configuration files say, with random weights."""
    from brainvis.generation.stable_diffusion import clip_tokenizer

    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)  # so that a large one is never held in single precision
    try:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configuration / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(configuration / "vae"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(configuration / "text_encoder"))
    finally:
        torch.set_default_dtype(torch.float32)
    for network in (unet, vae, text_encoder):
        for name, value in network.named_parameters():
            if "norm" in name:  # ones and zeros, in which a pair that was swapped would not be noticed
                value.data += 0.1 * torch.randn(value.shape).to(dtype)
        network.eval()
    scheduler = PNDMScheduler.from_pretrained(configuration / "scheduler")
    return StableDiffusionPipeline(vae, text_encoder, clip_tokenizer(), unet, scheduler, None, None, None, False)
