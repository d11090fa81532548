"""Stable Diffusion 1.x in its original layout: all weights in one file, under the names of the latent-diffusion code.

Names are stated here part by part, in the order in which that code builds its networks, for a network of any width
with the number of levels and blocks that its configuration says. What brainvis reads them with is not used.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

# Of one residual block, one attention block: (original, diffusers).
UNET_RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
VAE_RESIDUAL = tuple((name, name) for name in ("norm1", "conv1", "norm2", "conv2")) + (
    ("nin_shortcut", "conv_shortcut"),
)
VAE_ATTENTION = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
UNET_ENDS = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)


def original_state(pipeline) -> dict[str, Tensor]:
    """All weights of a pipeline under their original names."""
    state = {f"model.diffusion_model.{name}": value for name, value in _unet(pipeline.unet)}
    state |= {f"first_stage_model.{name}": value for name, value in _vae(pipeline.vae)}
    for name, value in pipeline.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name}"] = value
    positions = torch.arange(pipeline.text_encoder.config.max_position_embeddings)[None]
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
    state["alphas_cumprod"] = pipeline.scheduler.alphas_cumprod.clone()
    return state


def write_safetensors(pipeline, path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in original_state(pipeline).items()}, path)
    return path


def _take(state: dict[str, Tensor], old: str, new: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ("weight", "bias"):
        if f"{new}.{kind}" in state:
            yield f"{old}.{kind}", state.pop(f"{new}.{kind}")


def _pairs(state, names, old: str, new: str) -> Iterator[tuple[str, Tensor]]:
    for left, right in names:
        yield from _take(state, f"{old}.{left}", f"{new}.{right}")


def _transformer(state, old: str, new: str) -> Iterator[tuple[str, Tensor]]:
    """Spatial transformers have the same names in both layouts."""
    for name in [name for name in state if name.startswith(new + ".")]:
        yield old + name.removeprefix(new), state.pop(name)


def _unet(unet) -> Iterator[tuple[str, Tensor]]:
    state = dict(unet.state_dict())
    for old, new in UNET_ENDS:
        yield from _take(state, old, new)

    # input_blocks: 0 is the first convolution; of each level its blocks, then, but for the last, a downsampling.
    number = 1
    for level, down in enumerate(unet.down_blocks):
        for block in range(len(down.resnets)):
            yield from _pairs(state, UNET_RESIDUAL, f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{block}")
            yield from _transformer(state, f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{block}")
            number += 1
        if down.downsamplers is not None:
            yield from _take(state, f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv")
            number += 1

    # middle_block: residual, transformer, residual.
    yield from _pairs(state, UNET_RESIDUAL, "middle_block.0", "mid_block.resnets.0")
    yield from _transformer(state, "middle_block.1", "mid_block.attentions.0")
    yield from _pairs(state, UNET_RESIDUAL, "middle_block.2", "mid_block.resnets.1")

    # output_blocks: of each level one block more; the last of a level ends with its upsampling.
    number = 0
    for level, up in enumerate(unet.up_blocks):
        for block in range(len(up.resnets)):
            yield from _pairs(state, UNET_RESIDUAL, f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{block}")
            attention = list(_transformer(state, f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{block}"))
            yield from attention
            if block == len(up.resnets) - 1:
                place = f"output_blocks.{number}.{2 if attention else 1}.conv"
                yield from _take(state, place, f"up_blocks.{level}.upsamplers.0.conv")
            number += 1
    assert not state, f"no original name for {list(state)}"


def _vae(vae) -> Iterator[tuple[str, Tensor]]:
    state = dict(vae.state_dict())
    for side in ("encoder", "decoder"):
        yield from _pairs(state, (("conv_in", "conv_in"), ("norm_out", "conv_norm_out")), side, side)
        yield from _take(state, f"{side}.conv_out", f"{side}.conv_out")
        for old, new in (("block_1", "resnets.0"), ("block_2", "resnets.1")):
            yield from _pairs(state, VAE_RESIDUAL, f"{side}.mid.{old}", f"{side}.mid_block.{new}")
        for name, value in _pairs(state, VAE_ATTENTION, f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"):
            matrix = name.endswith("weight") and value.ndim == 2
            yield name, value[:, :, None, None] if matrix else value  # originally convolutions of one pixel

    for level, down in enumerate(vae.encoder.down_blocks):
        for block in range(len(down.resnets)):
            place = f"encoder.down.{level}.block.{block}"
            yield from _pairs(state, VAE_RESIDUAL, place, f"encoder.down_blocks.{level}.resnets.{block}")
        new = f"encoder.down_blocks.{level}.downsamplers.0.conv"
        yield from _take(state, f"encoder.down.{level}.downsample.conv", new)
    levels = len(vae.decoder.up_blocks)
    for step, up in enumerate(vae.decoder.up_blocks):  # the original numbers levels by their size, the largest first
        level = levels - 1 - step
        for block in range(len(up.resnets)):
            place = f"decoder.up.{level}.block.{block}"
            yield from _pairs(state, VAE_RESIDUAL, place, f"decoder.up_blocks.{step}.resnets.{block}")
        new = f"decoder.up_blocks.{step}.upsamplers.0.conv"
        yield from _take(state, f"decoder.up.{level}.upsample.conv", new)
    for name in ("quant_conv", "post_quant_conv"):
        yield from _take(state, name, name)
    assert not state, f"no original name for {list(state)}"
