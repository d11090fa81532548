"""Stable Diffusion 1.x as a generator: a diffusers folder, or a single file in its original published layout.

A diffusers folder may contain `judge/`, a classifier of its pictures, and `clip/`, an open_clip model. A single file
holds only weights: `sd15/` defines the architecture, and open_clip provides the vocabulary.
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
TOKENS = 77  # per text, including the start and end tokens
MERGES = 49152 - 256 - 2  # pairs of the published vocabulary; the rest of the file is unused
LARGE = 256  # pixels; larger pictures are encoded and decoded one by one
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
TOKENIZER = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either set of files is enough
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # None: no such part
SPARE_ROWS = 64  # of a text encoder, beyond its tokens: some sizes are rounded up
BATCH = 64  # texts encoded at a time


@dataclass(frozen=True)
class StableDiffusion:
    """A `Generator` with one frozen copy of the weights for both stages and no safety checker."""

    name: str
    pipeline: StableDiffusionPipeline
    judge: nn.Module | None
    clip: Clip | None
    fingerprint: str
    precision: Precision | None = None  # of the UNet; its weights share the common type; None: that type
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
        """The number type of its computations, to tell apart pictures made in different types."""
        other = self.precision and self.precision.precision
        return f"{self.dtype}, UNet in {other}" if other else str(self.dtype)

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states of the text encoder, as the pipeline conditions on them: (n, tokens, width) float32, CPU.

        Each text is padded to the maximum length; longer ones are truncated, with one warning.
        """
        texts, room = list(texts), self.conditioning_shape[0]
        lengths = map(len, self.pipeline.tokenizer(texts, verbose=False).input_ids if texts else [])
        if long := [text for text, length in zip(texts, lengths, strict=True) if length > room]:
            said = f"{len(long)} of {len(texts)} texts have more than {room} tokens and are cut"
            warnings.warn(f"{said} (the first is {long[0]!r})", stacklevel=3)
        embeddings = torch.empty(len(texts), *self.conditioning_shape)
        starts = range(0, len(texts), BATCH)
        with _quiet(), torch.inference_mode():
            for start in tqdm(starts, desc="text embeddings", unit="batch", disable=len(starts) < 4):
                batch = texts[start : start + BATCH]
                encoded, _ = self.pipeline.encode_prompt(batch, self.device, 1, do_classifier_free_guidance=False)
                embeddings[start : start + BATCH] = encoded.float().cpu()
        return embeddings

    def check(self, steps: int, strength: float) -> None:
        """ValueError for settings that leave no steps, or more than there are."""
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
        """Embeddings of prompts; each prompt is encoded only once, whatever its batch."""
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

    Memory for Stable Diffusion 1.5, calculated from its layers, not measured: on a GPU, 2.1 GB of weights and 0.6 GB of
    activations for 4 pictures of 512 x 512 with guidance, under 4 GB with CUDA's overhead; on a CPU, twice as much.

    `dtype` None: see `choose_types`, which receives `precision`; `configuration` is the folder that defines the
    architecture of a single file. BackboneError if it is unknown, unreadable, or missing and cannot be downloaded.
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
    except Exception as error:  # the libraries can raise anything for a bad file
        raise BackboneError(f"backbone {str(name)!r} cannot be read from {place}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)  # the stages show their own, over all pictures
    pipeline.to(device)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    for norm in (module for module in pipeline.unet.modules() if of_unet and isinstance(module, nn.GroupNorm)):
        norm.register_forward_pre_hook(lambda _, given: (given[0].float(),))  # three times as slow in bfloat16
    backbone = StableDiffusion(str(name), pipeline, judge, clip, backbone_fingerprint(name), of_unet)
    said = {"precision": backbone.number_type, "device": device.type}
    computed_in["generator"] = said | ({"why": of_unet.why} if of_unet else {})
    if backbone.resolution > LARGE:
        pipeline.vae.enable_slicing()
    if device.type == "mps":
        pipeline.enable_attention_slicing()  # attention keeps all its weights there
    return backbone


def choose_types(device: torch.device, precision: str = "auto") -> tuple[torch.dtype, Precision | None]:
    """The number type of a generator on a device, and the precision of its UNet if that differs.

    "auto" is float16 on a CUDA GPU, as Stable Diffusion 1.x stays within its range. Elsewhere it is float32, because
    CPUs are slow in half precision and MPS has produced black pictures. bfloat16, whose steps near 1 are as large as
    those between grey levels, is used only for the UNet on a CPU, whose output is summed in float32: it changes pixels
    by a sixth of a grey level on average.
    """
    if device.type == "cuda":
        return {"auto": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}[precision], None
    chosen = choose_precision(device, precision, convolutions=True)
    return torch.float32, chosen if chosen.precision != "float32" else None


def read_single_file(path: Path, dtype: torch.dtype, configuration: Path = CONFIGURATION) -> StableDiffusionPipeline:
    """A pipeline from a single file, in evaluation mode, on the CPU, without a safety checker.

    Does not use `from_single_file`, which silently leaves missing text encoder weights empty. The averaged copy
    (`model_ema.`) from training is ignored, as in the published samplers. ValueError or RuntimeError names the kind of
    model if it is a different one, and weights that are missing or have the wrong shape.
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
    texts.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: not a weight, but in some files
    return StableDiffusionPipeline(
        _filled(lambda: AutoencoderKL.from_config(vae), convert_ldm_vae_checkpoint(part(VAE), vae), dtype),
        _filled(lambda: CLIPTextModel(text_encoder), texts, dtype),
        clip_tokenizer(),
        _filled(lambda: UNet2DConditionModel.from_config(unet), convert_ldm_unet_checkpoint(part(UNET), unet), dtype),
        PNDMScheduler.from_pretrained(configuration / "scheduler", local_files_only=True),
        **NO_CHECKER,
    )


def _check_folder(place: Path) -> None:
    """BrainvisError or ValueError for a diffusers folder whose files must not be passed to the libraries: invalid
    settings or settings that name other modules to import, weights that are not safetensors, or no tokenizer, which the
    libraries would make up."""
    for name, origin in read_json(place / "model_index.json").items():
        if isinstance(origin, list) and origin[:1] not in ([library] for library in LIBRARIES):
            raise ValueError(f"model_index.json takes {name} from {origin}; only diffusers or transformers is allowed")
    for part in (*COMPONENTS, *EXTRAS):
        for file in (place / part).glob("*.json"):
            read_json(file)
        for file in (place / part).glob("*.safetensors"):
            check_safetensors(file)
    if (place / "clip").is_dir() and not any((place / "clip").glob("*.safetensors")):
        raise ValueError("folder clip has no safetensors file; weights in other formats are not read")
    whole = [all((place / "tokenizer" / name).is_file() for name in names) for names in TOKENIZER]
    if not any(whole):
        raise ValueError(f"folder tokenizer has neither {' nor '.join(' with '.join(names) for names in TOKENIZER)}")


def _check_vocabulary(pipeline: StableDiffusionPipeline) -> None:
    """ValueError for a tokenizer that does not belong to the text encoder, or lacks the merge pairs of its tokens."""
    tokens, rows = pipeline.tokenizer.get_vocab(), pipeline.text_encoder.config.vocab_size
    if not 0 <= rows - len(tokens) < SPARE_ROWS:
        raise ValueError(
            f"the tokenizer has {len(tokens):,} tokens, but its text encoder has {rows:,}: its files are incomplete"
        )
    merges = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    made = {"".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges}
    made |= set(pipeline.tokenizer.get_added_vocab())
    if lost := [token for token in tokens if len(token.removesuffix("</w>")) > 1 and token not in made]:
        few = f"{len(lost):,} of {len(tokens):,} tokens (the first is {lost[0]!r})"
        raise ValueError(f"the tokenizer lacks the merge pairs for {few}: merges.txt is missing or cut short")


def _filled(build: Callable[[], nn.Module], state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    with init_empty_weights():
        network = build()
    # A weight missing from the file is None after diffusers' conversion.
    network.load_state_dict({name: w.to(dtype) for name, w in state.items() if w is not None}, assign=True)
    return network.eval()


def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion 1.x: 49,408 tokens, built from the byte pairs that open_clip ships."""
    with gzip.open(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : MERGES + 1]]  # the first line is a title
    # Printable bytes stand for themselves, in this order; the others are mapped to characters from 256 on.
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in (*printing, *range(256, 512 - len(printing)))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token="<|endoftext|>")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the libraries' progress bars over a few files and their notes on every truncated text."""
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
