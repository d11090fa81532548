"""Published files that a study may need: their names, where they are looked for, and how they are downloaded.

Each is looked for in `data/weights` under its published name, then in the cache of the library that downloads it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from brainvis.files import (
    ROOT,
    BrainvisError,
    digest,
    file_digest,
    file_digests,
    readable_size,
    resolve,
    weights_folder,
)
from brainvis.generation.checkpoints import refusal, safetensors_shapes

PATIENCE = 3.0  # seconds to wait for the hub's first answer: without a network, a download gives up only after 23
TIMEOUT = 30.0  # seconds without an answer before another download gives up


class WeightsError(BrainvisError):
    """Weights of a judge that are missing or cannot be read."""


class MissingWeights(WeightsError):
    """Weights of a judge that are not on this machine and cannot be downloaded."""


class BackboneError(BrainvisError):
    """A text-to-image model that is unknown or cannot be read."""


def cached(repository: str, file: str, revision: str | None = None) -> Path | None:
    """A repository's file in the hub's own cache."""
    found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def first(places: Iterable[Path | None], whole: Callable[[Path], object] = Path.is_file) -> Path | None:
    """The first of several places where something is complete."""
    return next((place for place in places if place and whole(place)), None)


def snapshot(repository: str, file: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Download a repository's files into the hub's own cache, after one request for `file`; returns their folder."""
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
    return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


def reason(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# Networks that judge pictures


@dataclass(frozen=True)
class Weights:
    """A published file."""

    name: str  # of the network
    url: str
    size: int  # bytes
    sha256: str  # first digits
    metrics: tuple[str, ...]  # that need it
    source: str = "torchvision"  # who provides the download
    repository: str = ""  # on the Hugging Face hub, if it is hosted there

    @property
    def file(self) -> str:
        """Where it is looked for in `data/weights`."""
        return "/".join([*self.repository.split("/")[1:], Path(self.url).name])


TORCHVISION = "https://download.pytorch.org/models/"
TORCH_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
CLIP = "timm/vit_large_patch14_clip_224.openai"
WEIGHTS = {
    "vit_h_14": Weights(
        "ViT-H/14 (SWAG, fine-tuned on ImageNet-1k at 518 pixels)",
        TORCHVISION + "vit_h_14_swag-80465313.pth",
        2_534_033_850,  # to the kilobyte: torchvision states 2416.643 MiB
        "80465313",
        ("generation accuracy",),
    ),
    "inception_fid": Weights(
        "Inception of FID (2015-12-05)",
        TORCH_FIDELITY + "weights-inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d",
        ("Inception Score", "FID"),
        "torch-fidelity",
    ),
    "alexnet": Weights(
        "AlexNet (ImageNet-1k)",
        TORCHVISION + "alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be79",
        ("two-way identification by AlexNet 2", "two-way identification by AlexNet 5"),
    ),
    "inception_v3": Weights(
        "Inception v3 (ImageNet-1k)",
        TORCHVISION + "inception_v3_google-0cc3c7bd.pth",
        108_949_747,
        "0cc3c7bd",
        ("two-way identification by Inception",),
    ),
    # OpenAI's own ViT-L-14.pt is a TorchScript program, which cannot be read as plain weights: this is its content.
    "clip": Weights(
        "CLIP ViT-L/14 (OpenAI)",
        f"https://huggingface.co/{CLIP}/resolve/main/open_clip_model.safetensors",
        1_710_517_724,
        "9ce2e8a8",
        ("CLIP similarity", "two-way identification by CLIP"),
        "open_clip",
        CLIP,
    ),
}


def find_weights(key: str) -> Path | None:
    """Location of a network's file; None if it is not on this machine. Downloads nothing."""
    weights, name = WEIGHTS[key], Path(WEIGHTS[key].file).name
    in_cache = cached(weights.repository, name) if weights.repository else torch_cache() / name
    return first((weights_folder() / weights.file, in_cache))


def obtain_weights(key: str) -> Path:
    """The file of a network, downloaded with a progress bar if missing; MissingWeights if that fails."""
    weights, name, patience = WEIGHTS[key], Path(WEIGHTS[key].file).name, socket.getdefaulttimeout()
    if found := find_weights(key):
        return found
    try:
        if weights.repository:
            return snapshot(weights.repository, name, [name]) / name
        import torch

        target = torch_cache() / name
        target.parent.mkdir(parents=True, exist_ok=True)
        print(f"Downloading {weights.url} ({readable_size(weights.size)}) to {target}")
        socket.setdefaulttimeout(TIMEOUT)  # torch would wait forever
        torch.hub.download_url_to_file(weights.url, str(target), weights.sha256)
        return target
    except Exception as error:  # whatever the libraries raise without a connection, or for half a file
        raise MissingWeights(
            f"{weights.name} is missing and could not be downloaded ({reason(error)}). Left out: "
            f"{', '.join(weights.metrics)}. Put {name} ({readable_size(weights.size)}, {weights.url}) at "
            f"{weights_folder() / weights.file} and run this again; pictures already generated are kept."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def torch_cache() -> Path:
    """Where `torch.hub` keeps downloaded weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def weights_fingerprint(file: Path) -> str:
    """First 16 hexadecimal digits of a file's sha256, to compare with the published one."""
    return file_digest(file)


# Text-to-image models

PHANTOM = ROOT / "brainvis" / "phantom" / "backbone"
NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
COMPONENTS = (*NETWORKS, "tokenizer", "scheduler")
EXTRAS = ("judge", "clip")  # may lie beside the components
SUFFIXES = (".safetensors", ".ckpt")
ALLOWED = "choose phantom, sd15, or the path of a Stable Diffusion model: a diffusers folder or a single file "
ALLOWED += f"({' or '.join(SUFFIXES)})"


class StableDiffusion15:
    """Stable Diffusion 1.5 as published, and where it is looked for here: half precision, no safety checker."""

    name, title = "sd15", "Stable Diffusion 1.5"
    repository, revision = "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    size = 2_135_000_000  # bytes of the repository's files that are downloaded
    settings = (
        *("model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in NETWORKS)),
        *(f"tokenizer/{name}" for name in ("special_tokens_map.json", "tokenizer_config.json", "vocab.json")),
        "tokenizer/merges.txt",
    )
    files = (*settings, *(f"{part}/{stem}.fp16.safetensors" for part, stem in NETWORKS.items()))
    single_files = {  # also published, in the original layout, with their sizes in bytes
        "v1-5-pruned-emaonly.safetensors": 4_265_146_304,
        "v1-5-pruned-emaonly.ckpt": 4_265_380_512,
        "v1-5-pruned.safetensors": 7_703_324_291,
    }
    patterns = '--include "*.json" --include "tokenizer/*" --include "*.fp16.safetensors" --exclude "safety_checker/*"'
    command = f"hf download {repository} --revision {revision} {patterns}"  # downloads it into the hub's own cache

    @property
    def places(self) -> tuple[Path, ...]:
        """Where it is looked for before the hub's cache; the first one found is used."""
        return tuple(weights_folder() / name for name in (*self.single_files, self.repository.split("/")[1]))


STABLE_DIFFUSION = StableDiffusion15()


def find_backbone(name: str | Path) -> Path | None:
    """Location of a backbone, a folder or a single file; None if `name` is known but not on this machine.

    BackboneError if it is neither a known name nor an existing path, or if the path holds no such backbone.
    """
    model, known = STABLE_DIFFUSION, {"phantom": (PHANTOM,), STABLE_DIFFUSION.name: STABLE_DIFFUSION.places}
    if place := first(known.get(str(name), (resolve(name),)), Path.exists):
        if problem := _problem(place):
            raise BackboneError(f"backbone {str(name)!r}: {problem}; {ALLOWED}")
        return place
    if str(name) not in known:
        raise BackboneError(f"unknown backbone {str(name)!r}; {ALLOWED}")
    index = cached(model.repository, "model_index.json", model.revision) if str(name) == model.name else None
    whole = index and all((index.parent / file).exists() for file in model.settings) and not _problem(index.parent)
    return index.parent if whole else None


def obtain_backbone(name: str | Path) -> Path:
    """Location of a backbone; a published one that is missing is downloaded. BackboneError if that fails."""
    if place := find_backbone(name):
        return place
    if str(name) == "phantom":
        mend = "restore it from git or train it: python docs/backbone/train_backbone.py --output FOLDER"
        raise BackboneError(f"the phantom backbone is missing from {PHANTOM}; {mend}")
    model = STABLE_DIFFUSION
    size, (single, single_size) = readable_size(model.size), next(iter(model.single_files.items()))
    print(f"{model.title} is not on this machine: downloading {size} from {model.repository}", file=sys.stderr)
    try:
        return snapshot(model.repository, "model_index.json", model.files, model.revision)
    except Exception as error:  # whatever the library raises without a connection, or for half a file
        raise BackboneError(
            f"backbone {model.name!r} ({model.title}) is not on this machine and cannot be downloaded "
            f"({reason(error)}).\nLooked for: {', '.join(map(str, model.places))}, and revision "
            f"{model.revision[:7]} of {model.repository} in {huggingface_hub.constants.HF_HUB_CACHE}.\n"
            f"Either download it where there is network access ({size}):\n  {model.command}\n"
            f"or put the single file {single} ({readable_size(single_size)}) into {weights_folder()}."
        ) from error


def backbone_fingerprint(name: str | Path) -> str:
    """Hexadecimal digits that identify all configuration and weight files of a backbone, wherever it lies."""
    contents, place = backbone_contents(name), obtain_backbone(name)
    return contents[place.name] if place.is_file() else digest(contents)


def backbone_contents(name: str | Path) -> dict[str, str]:
    """Digests of every configuration and weight file of a backbone, by name; BackboneError for a file known to be
    damaged: one of the phantom's, or one in the hub's cache."""
    place = obtain_backbone(name)
    if place.is_file():
        return {place.name: _published(place, file_digest(place))}
    files = [file for part in (*COMPONENTS, *EXTRAS) for file in (place / part).rglob("*") if file.is_file()]
    files = [file for file in files if file.suffix in (".json", ".txt", ".safetensors", ".bin")]
    files.append(place / "model_index.json")  # other files, such as a README, are not part of the backbone
    found = file_digests(files, f"checksums of {place.name}")
    by_name = {file.relative_to(place).as_posix(): _published(file, found[file]) for file in files}
    if place == PHANTOM and (wrong := _not_committed(by_name)) is not None:  # "" for a line without a name
        mend = f"restore both: git checkout -- {place.parent}"
        raise BackboneError(f"{place / wrong} does not match {PHANTOM.name}.sha256; {mend}")
    return {name: sha256[:16] for name, sha256 in by_name.items()}


def _not_committed(found: dict[str, str]) -> str | None:
    """The first file of the phantom's backbone that differs from the list of checksums beside it."""
    listed = PHANTOM.with_suffix(".sha256")
    text = listed.read_text(encoding="utf-8", errors="replace") if listed.is_file() else ""
    pairs = (line.partition("  ")[::2] for line in text.splitlines())
    known = {name.removeprefix(f"{PHANTOM.name}/"): sha256 for sha256, name in pairs}
    return next((name for name in sorted({*found, *known}) if found.get(name) != known.get(name)), None)


def _published(file: Path, sha256: str) -> str:
    """The digest itself; BackboneError for a file in the hub's cache that does not match its name there."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and len(blob.name) == 64 and not blob.name.startswith(sha256):
        mend = f"Remove {blob}, and it will be downloaded again"
        raise BackboneError(f"{file} is damaged: it differs from the published file. {mend}")
    return sha256


def weights_variant(folder: Path) -> str | None:
    """Which weights of a diffusers folder are read: None for those with plain names, "fp16" for half precision."""
    return "fp16" if _lacking_weights(folder, "") else None


def _lacking_weights(folder: Path, variant: str) -> list[str]:
    files = [f"{part}/{stem}{variant}.safetensors" for part, stem in NETWORKS.items()]
    return [file for file in files if not (folder / file).is_file()]


def _problem(place: Path) -> str | None:
    """Why `place` does not hold a backbone, judging by file names."""
    if place.is_dir():
        lacking = [part for part in ("model_index.json", *COMPONENTS) if not (place / part).exists()]
        lacking = lacking or min((_lacking_weights(place, variant) for variant in ("", ".fp16")), key=len)
        return f"{place} has no {', '.join(lacking)}" if lacking else None
    if place.suffix not in SUFFIXES:
        return f"{place} does not end in {' or '.join(SUFFIXES)}"
    try:
        wrong = refusal(safetensors_shapes(place)) if place.suffix == ".safetensors" else None
    except ValueError as error:
        wrong = str(error)
    return f"{place} {wrong}" if wrong else None
