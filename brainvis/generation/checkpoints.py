"""Single weight files: detecting the kind of model from names and shapes, and reading them safely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError, safe_open

from brainvis.files import BrainvisError
from brainvis.files.tensors import check_safetensors, load_tensors

UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."

# How other kinds of file are recognised: part of a parameter's name, and what the file then is.
OTHER_KINDS = (
    (("lora_", ".lora"), "a LoRA: changes to a model's weights, without the model itself"),
    (("control_model.", "controlnet_"), "a ControlNet"),
    (("conditioner.embedders.",), "Stable Diffusion XL"),
    (("cond_stage_model.model.",), "Stable Diffusion 2, which has a different text encoder"),
    (("joint_blocks.",), "Stable Diffusion 3"),
    (("double_blocks.", "single_transformer_blocks."), "FLUX"),
    (("down_blocks.", "mid_block."), "one network of a diffusers folder; give the folder that contains them all"),
)
OTHER_INPUTS = {5: "a depth-to-image model", 8: "InstructPix2Pix", 9: "an inpainting model"}  # by input channels


def refusal(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Why a file with these parameter shapes is not a text-to-image Stable Diffusion 1.x; None: it may be one."""
    names = "\n".join(shapes)
    for marks, kind in OTHER_KINDS:
        if any(mark in names for mark in marks):
            return f"is {kind}"
    parts = {"UNet": UNET + "input_blocks.", "VAE": VAE, "text encoder": TEXT_ENCODER}
    lacking = [part for part, prefix in parts.items() if not any(name.startswith(prefix) for name in shapes)]
    if lacking == ["UNet", "text encoder"] or any(name.startswith("encoder.conv_in.") for name in shapes):
        return "is only a VAE"
    if lacking:
        return f"has no {' and no '.join(lacking)}" + ("" if len(lacking) < 3 else ": it is not Stable Diffusion")
    inputs = shapes.get(UNET + "input_blocks.0.0.weight", (0, 4))[1]
    if inputs != 4:
        return f"is {OTHER_INPUTS.get(inputs, 'a different model')}: its UNet has {inputs} input channels instead of 4"
    return None


def safetensors_shapes(path: Path) -> dict[str, Sequence[int]]:
    """Shape of each parameter of a safetensors file, from its header alone; ValueError if damaged or cut short."""
    try:
        check_safetensors(path)
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}
    except BrainvisError as error:
        raise ValueError(str(error).removeprefix(f"{path} ")) from error
    except (SafetensorError, OSError, MemoryError) as error:
        if "incomplete metadata" in str(error):  # the header lists more than the file holds
            raise ValueError(f"is cut short: it has {path.stat().st_size:,} bytes; fetch it again") from error
        raise ValueError("is not a safetensors file, or is damaged") from error


class StandIn:
    """Replaces a class or function that a pickle names: keeps the given state and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


def read_checkpoint(path: Path) -> object:
    """Reads what `torch.save` wrote, memory-mapping tensors. Nothing that its pickle names is imported or called.

    UnpicklingError for a file that is damaged, older than torch 1.6, a TorchScript program, or needs more than tensors,
    plain containers and `StandIn`s.
    """
    try:
        return load_tensors(path, stand_in=StandIn)
    except (BrainvisError, OSError) as error:
        raise UnpicklingError(f"it {str(error).removeprefix(f'{path} ')}") from error
