"""The networks of the phantom's backbone: a complete Stable Diffusion, tiny, and a CLIP pair beside it.

Everything is of the published classes (diffusers, transformers, open_clip), only narrower, so that what runs on the
backbone runs on the real model too.
"""

from collections import Counter
from itertools import pairwise

from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .stimuli import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES

MAX_TOKENS = 16  # the longest caption has 14 words
LATENT_CHANNELS = 12
TEXT_WIDTH = 96


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer for the words of the captions, each of which becomes one token.

    Byte-pair encoding is learned on these words until none is left in pieces; other words are spelled out.
    """
    sentences = ("a at the on background", *SHAPES, *COLOURS, *SIZES, *POSITIONS, *BACKGROUNDS)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-()"
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    words = sorted({(*word[:-1], word[-1] + "</w>") for word in " ".join(sentences).split()})
    merges = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        vocabulary.append("".join(best))
        words = [_merged(word, best) for word in words]
    tokens = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The pieces of a word after joining every occurrence of a pair of pieces."""
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text transformer, 96 wide and two layers deep; its states are (n, 16, 96)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae() -> AutoencoderKL:
    """Variational autoencoder: pictures (n, 3, 64, 64) to latents (n, 12, 8, 8), a factor of 8 as in Stable Diffusion.

    Without attention it is local, so it can be trained on crops.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # each latent channel is standardised inside quant_conv instead
    )


def build_unet() -> UNet2DConditionModel:
    """Denoiser of latents (n, 12, 8, 8), conditioned on text states (n, 16, 96)."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # The text states, pooled, also join the time embedding: so small a network learns where to draw much sooner.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        attention_head_dim=4,  # in this class of diffusers: the number of heads
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())  # on a CPU faster in training than torch's fused attention
    return unet


def build_scheduler() -> PNDMScheduler:
    """Stable Diffusion's scheduler and noise schedule, with v-prediction."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type="v_prediction",
    )


# Configuration of the CLIP pair, as open_clip reads it; pictures are scaled to -1..1, no more.
CLIP = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "head_width": 48},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "width": 64,
            "heads": 4,
            "layers": 2,
            "hf_tokenizer_name": "local",  # open_clip then reads the tokenizer beside this file
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def assemble(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The pipeline of these networks, without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
