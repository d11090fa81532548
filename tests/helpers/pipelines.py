"""What tests of Stable Diffusion compare pipelines by."""

from copy import copy

import torch

from brainvis.generation.sampler import PLMS

CAPTIONS = [
    "a photo of a cat",
    "An image of jack-o'-lantern, isn't it? We've 12 of them; they're GREAT!!",
    "a dog's 2 legs ... and 3,000 smiling-faced  people\nin a row",
    "naïve café – ñandú, Zürich, 東京, Ω, ☂️ emoji 🙂",
    "",
    "supercalifragilisticexpialidocious antidisestablishmentarianism qwrtzp",
    "100% e-mail@example.com #tag $5.99 (a+b)^2 <tag> [x] {y} ~z~ \\ / | `",
]


def networks(pipeline):
    return {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}


def assert_same_weights(read, expected, dtype=torch.float32):
    for part, network in networks(expected).items():
        state, wanted = networks(read)[part].state_dict(), network.state_dict()
        assert state.keys() == wanted.keys()
        for name in wanted:
            assert state[name].dtype == dtype and torch.equal(state[name], wanted[name].to(dtype)), f"{part} {name}"


def stock(kind, backbone):
    """A pipeline of diffusers over the same networks, with our sampler."""
    scheduler = PLMS.like(backbone.pipeline.scheduler)
    pipeline = kind(**{**backbone.pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unchecked(config, **changes):
    """A configuration with values that it would refuse: what reads them has checks of its own."""
    other = copy(config)
    for name, value in changes.items():
        object.__setattr__(other, name, value)  # it is frozen
    return other
