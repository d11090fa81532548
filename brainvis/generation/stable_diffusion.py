"""Stable Diffusion 1.x as a generator: a diffusers folder, or a single file in the layout it was first published in.

Folders `judge/`, a classifier of its pictures, and `clip/`, an open_clip model, may stand in a diffusers folder. A
single file holds weights alone: `sd15/` tells its architecture, open_clip brings the vocabulary.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import open_clip
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as hf_logging

from brainvis.configuration import Generation
from brainvis.files.reading import read_json
from brainvis.files.tensors import check_safetensors, load_safetensors
from brainvis.generation.checkpoints import TEXT_ENCODER, UNET, VAE, read_checkpoint, refusal
from brainvis.generation.clip import Clip
from brainvis.generation.sampler import Sampling, decode, denoise, starting_noise, under_noise
from brainvis.generation.weights import (
    COMPONENTS,
    EXTRAS,
    BackboneError,
    backbone_fingerprint,
    obtain_backbone,
    weights_variant,
)
from brainvis.phantom.judge import load_judge
from brainvis.training import Precision, choose_device, choose_precision, computed_in

CONFIGURATION = Path(__file__).parent / "sd15"
TOKENS = 77  # of a text, with its beginning and end
MERGES = 49152 - 256 - 2  # pairs of the published vocabulary; the file goes on with pairs that are not used
LARGE = 256  # pixels; larger pictures are coded and decoded one by one
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
TOKENIZER = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # the files that one is read from
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # None: no such part
SPARE_ROWS = 64  # of a text encoder, more than tokens: some are made a round number
BATCH = 64  # texts encoded at a time


@dataclass(frozen=True)
class StableDiffusion:
    """A `Generator` with one frozen copy of the weights for both stages, and without a safety checker."""

    name: str
    pipeline: StableDiffusionPipeline
    judge: nn.Module | None
    clip: Clip | None
    fingerprint: str
    precision: Precision | None = None  # of the UNet, whose weights have the type of all; None: that type
    _prompts: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def resolution(self) -> int:
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def conditioning_shape(self) -> tuple[int, int]:
        return self.pipeline.tokenizer.model_max_length, self.pipeline.text_encoder.config.hidden_size

    device = property(lambda self: self.pipeline.unet.device)
    dtype = property(lambda self: self.pipeline.unet.dtype)

    @property
    def number_type(self) -> str:
        """What it computes in, for those who have to tell pictures of one from pictures of another."""
        other = self.precision and self.precision.precision
        return f"{self.dtype}, UNet in {other}" if other else str(self.dtype)

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states of the text encoder, as the pipeline conditions on them: (n, tokens, width) float32, CPU.

        Each text is padded to the longest that there may be; longer ones are cut, with one warning.
        """
        texts, room = list(texts), self.conditioning_shape[0]
        lengths = map(len, self.pipeline.tokenizer(texts, verbose=False).input_ids if texts else [])
        if long := [text for text, length in zip(texts, lengths, strict=True) if length > room]:
            said = f"{len(long)} of {len(texts)} texts have more than {room} tokens and are cut, {long[0]!r} first"
            warnings.warn(said, stacklevel=3)
        embeddings = torch.empty(len(texts), *self.conditioning_shape)
        starts = range(0, len(texts), BATCH)
        with _quiet(), torch.inference_mode():
            for start in tqdm(starts, desc="text embeddings", unit="batch", disable=len(starts) < 4):
                batch = texts[start : start + BATCH]
                encoded, _ = self.pipeline.encode_prompt(batch, self.device, 1, do_classifier_free_guidance=False)
                embeddings[start : start + BATCH] = encoded.float().cpu()
        return embeddings

    def check(self, steps: int, strength: float) -> None:
        """ValueError for settings that leave no step to take, or more than there are."""
        Sampling(steps, guidance=1.0, strength=strength).start(self.pipeline)

    def draw(self, embeddings: Tensor, noise: list[torch.Generator], config: Generation) -> Tensor:
        """Pictures from text embeddings: PLMS, conditioned on the embeddings themselves."""
        sampling = Sampling(config.semantic_steps, config.semantic_guidance)
        return self._pictures(starting_noise(self.pipeline, noise), embeddings, sampling)

    def refine(
        self, pictures: Tensor | None, names: list[str], noise: list[torch.Generator], config: Generation
    ) -> Tensor:
        """Image-to-image generation prompted with names; without pictures, text-to-image."""
        sampling = Sampling(config.refinement_steps, config.refinement_guidance)
        if pictures is None:
            return self._pictures(starting_noise(self.pipeline, noise), self._prompted(names), sampling)
        sampling = replace(sampling, strength=config.strength)
        latents = under_noise(self.pipeline, pictures, noise, sampling)
        return self._pictures(latents, self._prompted(names), sampling)

    @torch.inference_mode()
    def _pictures(self, latents: Tensor, embeddings: Tensor, sampling: Sampling) -> Tensor:
        empty = self._prompted([""]) if sampling.guidance > 1 else None
        with self.precision.context(self.device) if self.precision else nullcontext():
            latents = denoise(self.pipeline, latents, embeddings, empty, sampling)
        return decode(self.pipeline, latents)

    def _prompted(self, names: list[str]) -> Tensor:
        """Embeddings of prompts, each of which is encoded once, whatever batch it comes in."""
        for name in set(names) - self._prompts.keys():
            self._prompts[name] = self.text_embeddings([name])
        return torch.cat([self._prompts[name] for name in names])


def load_stable_diffusion(
    name: str | Path = "phantom",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    configuration: Path = CONFIGURATION,
    precision: str = "auto",
) -> StableDiffusion:
    """Load a backbone ("phantom", "sd15" or a path), frozen and in evaluation mode.

    Memory for Stable Diffusion 1.5, calculated from its layers, not measured: on a GPU 2.1 GB of weights and 0.6 GB of
    activations for 4 pictures of 512 x 512 under guidance, under 4 GB with what CUDA takes; on a CPU twice as much.

    `dtype` None: see `choose_types`, which hears of `precision`; `configuration` is the folder that says the
    architecture of a single file.
    BackboneError if it is unknown, absent and not to be fetched, or unreadable.
    """
    place, device, judge, clip = obtain_backbone(name), choose_device(device), None, None
    dtype, of_unet = (dtype, None) if dtype else choose_types(device, precision)
    try:
        if place.is_file():
            pipeline = read_single_file(place, dtype, configuration)
        else:
            settings = {"dtype": dtype, "variant": weights_variant(place), "use_safetensors": True, **NO_CHECKER}
            _check_folder(place)
            with _quiet():
                pipeline = StableDiffusionPipeline.from_pretrained(str(place), local_files_only=True, **settings)
            _check_vocabulary(pipeline)
            if (place / "judge").is_dir():
                judge = load_judge(place / "judge").to(device)
            if (folder := place / "clip").is_dir():
                model = open_clip.create_model(f"local-dir:{folder}", device=device).float()
                clip = Clip(model.eval().requires_grad_(False))
    except Exception as error:  # whatever the libraries raise for a file that is absent, cut short or foreign
        raise BackboneError(f"backbone {str(name)!r} cannot be read from {place}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)  # the stages show one of their own, over all pictures
    pipeline.to(device)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    for norm in (module for module in pipeline.unet.modules() if of_unet and isinstance(module, nn.GroupNorm)):
        norm.register_forward_pre_hook(lambda _, given: (given[0].float(),))  # in bfloat16 it takes three times as long
    backbone = StableDiffusion(str(name), pipeline, judge, clip, backbone_fingerprint(name), of_unet)
    said = {"precision": backbone.number_type, "device": device.type}
    computed_in["generator"] = said | ({"why": of_unet.why} if of_unet else {})
    if backbone.resolution > LARGE:
        pipeline.vae.enable_slicing()
    if device.type == "mps":
        pipeline.enable_attention_slicing()  # attention there keeps all its weights
    return backbone


def choose_types(device: torch.device, precision: str = "auto") -> tuple[torch.dtype, Precision | None]:
    """The type of a generator's numbers on a device, and the precision of its UNet if that is another.

    "auto" on a CUDA GPU is float16, within whose range Stable Diffusion 1.x stays; elsewhere it is float32, as CPUs are
    slow in half precision and MPS has given black pictures. bfloat16, which has steps near 1 as large as those between
    grey levels, is for the UNet of a CPU alone, whose output is summed up in float32: it moves pixels by a sixth of a
    grey level on average.
    """
    if device.type == "cuda":
        return {"auto": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}[precision], None
    chosen = choose_precision(device, precision, convolutions=True)
    return torch.float32, chosen if chosen.precision != "float32" else None


def read_single_file(path: Path, dtype: torch.dtype, configuration: Path = CONFIGURATION) -> StableDiffusionPipeline:
    """A pipeline from a single file, in evaluation mode, on the CPU, without a safety checker.

    Not by `from_single_file`, which leaves a text encoder's lacking weights empty without a word. The averaged copy
    (`model_ema.`) of a training is left alone, as the published samplers do. ValueError or RuntimeError names another
    kind of model, and weights that are missing or of another shape.
    """
    state = load_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)  # mapped from the file
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if wrong := refusal({name: value.shape for name, value in state.items()}):
        raise ValueError(f"the file {wrong}")

    def part(prefix: str) -> dict[str, Tensor]:
        return {name: state.pop(name) for name in list(state) if name.startswith(prefix)}

    unet = UNet2DConditionModel.load_config(configuration / "unet")
    vae = AutoencoderKL.load_config(configuration / "vae")
    text_encoder = CLIPTextConfig.from_pretrained(configuration / "text_encoder")
    texts = {name.removeprefix(TEXT_ENCODER).removeprefix("text_model."): w for name, w in part(TEXT_ENCODER).items()}
    texts.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: no weight, some files have it
    return StableDiffusionPipeline(
        _filled(lambda: AutoencoderKL.from_config(vae), convert_ldm_vae_checkpoint(part(VAE), vae), dtype),
        _filled(lambda: CLIPTextModel(text_encoder), texts, dtype),
        clip_tokenizer(),
        _filled(lambda: UNet2DConditionModel.from_config(unet), convert_ldm_unet_checkpoint(part(UNET), unet), dtype),
        PNDMScheduler.from_pretrained(configuration / "scheduler", local_files_only=True),
        **NO_CHECKER,
    )


def _check_folder(place: Path) -> None:
    """BrainvisError or ValueError for a diffusers folder whose files the libraries should not be given: settings that
    are none or name other modules to import, weights that are no safetensors, no tokenizer, which they make up."""
    for name, origin in read_json(place / "model_index.json").items():
        if isinstance(origin, list) and origin[:1] not in ([library] for library in LIBRARIES):
            raise ValueError(f"model_index.json takes {name} from {origin}; it may be from diffusers or transformers")
    for part in (*COMPONENTS, *EXTRAS):
        for file in (place / part).glob("*.json"):
            read_json(file)
        for file in (place / part).glob("*.safetensors"):
            check_safetensors(file)
    if (place / "clip").is_dir() and not any((place / "clip").glob("*.safetensors")):
        raise ValueError("clip has no safetensors file; other weights are not read")
    whole = [all((place / "tokenizer" / name).is_file() for name in names) for names in TOKENIZER]
    if not any(whole):
        raise ValueError(f"tokenizer has neither {' nor '.join(' with '.join(names) for names in TOKENIZER)}")


def _check_vocabulary(pipeline: StableDiffusionPipeline) -> None:
    """ValueError for a tokenizer that is not the text encoder's, or lacks the pairs that its tokens are merged from."""
    tokens, rows = pipeline.tokenizer.get_vocab(), pipeline.text_encoder.config.vocab_size
    if not 0 <= rows - len(tokens) < SPARE_ROWS:
        raise ValueError(
            f"the tokenizer has {len(tokens):,} tokens, its text encoder {rows:,}: its files are not whole"
        )
    merges = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    made = {"".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges}
    made |= set(pipeline.tokenizer.get_added_vocab())
    if lost := [token for token in tokens if len(token.removesuffix("</w>")) > 1 and token not in made]:
        few = f"{len(lost):,} of {len(tokens):,} tokens, {lost[0]!r} first"
        raise ValueError(f"the tokenizer lacks the pairs that make {few}: merges.txt is missing or cut short")


def _filled(build: Callable[[], nn.Module], state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    with init_empty_weights():
        network = build()
    # A weight that the file lacks is None after diffusers' conversion.
    network.load_state_dict({name: w.to(dtype) for name, w in state.items() if w is not None}, assign=True)
    return network.eval()


def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion 1.x: 49,408 tokens, built from the byte pairs that open_clip ships."""
    with gzip.open(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : MERGES + 1]]  # the first is a title
    # Bytes that print stand for themselves, in this order; the others have the letters from 256 on.
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in (*printing, *range(256, 512 - len(printing)))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token="<|endoftext|>")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' bars over a handful of files, and their notes on every text that is cut."""
    before = [(lib, lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in (diffusers_logging, hf_logging)]
    for library, *_ in before:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
