"""Files of weights and what belongs to them, one small one of each kind: generators, judges, the authors' models."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import torch
from pytest import MonkeyPatch
from torch import Tensor, nn

from brainvis.configuration import FrequencyBranch
from brainvis.evaluation.judges import Judge, Network
from brainvis.files import BrainvisError
from brainvis.generation import text_embeddings, weights
from brainvis.models import original
from brainvis.models.frequency import FrequencyEncoder
from brainvis.study import Study
from helpers.mutations import Kind, kind, light, plain
from helpers.original_layout import write_safetensors
from helpers.released import SIZES, released_models, save_all
from helpers.tiny_backbone import write_backbone

# Generators


@kind("text embeddings")
def embedded(folder: Path, patch: MonkeyPatch) -> Kind:
    texts = ["a red star", "un café Ω", "naïve", "a blue ring, number 12"]
    file = folder / "text_embeddings" / "painter.safetensors"

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([[len(text), *text.encode()[:5]] for text in texts]).reshape(-1, 2, 3).float()

    generator = SimpleNamespace(conditioning_shape=(2, 3), fingerprint="painter 1", text_embeddings=encode)

    def read() -> object:
        return plain(text_embeddings.build_text_embeddings(generator, texts, file).lookup(texts))

    read()
    return Kind("", folder, [file], read)


def linked(source: Path, place: Path) -> Path:
    """A folder of links to the files of another: only what is damaged is written."""
    for file in source.rglob("*"):
        if file.is_file() and ".git" not in file.parts:
            link = place / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return place


def committed(folder: Path, patch: MonkeyPatch) -> Path:
    place = linked(weights.PHANTOM, folder / "backbone")
    (folder / "backbone.sha256").write_bytes(weights.PHANTOM.with_suffix(".sha256").read_bytes())
    patch.setattr(weights, "PHANTOM", place)
    return place


@kind("the phantom's backbone")
def phantom_backbone(folder: Path, patch: MonkeyPatch) -> Kind:
    place = committed(folder, patch)
    files = sorted(file for file in place.rglob("*") if file.is_file())
    contents = partial(weights.backbone_contents, "phantom")
    return Kind("", folder, files, contents, named=lambda file: file.relative_to(place).as_posix())


@kind("backbone.sha256")
def backbone_list(folder: Path, patch: MonkeyPatch) -> Kind:
    committed(folder, patch)
    return Kind("", folder, [folder / "backbone.sha256"], lambda: weights.backbone_contents("phantom"))


def pipeline_content(pipeline) -> object:
    """Weights, sampler and words of a pipeline."""
    networks = [pipeline.unet, pipeline.vae, pipeline.text_encoder]
    words = pipeline.tokenizer(["a red star", "top left"]).input_ids
    return plain(networks), words, dict(pipeline.scheduler.config), [str(network.config) for network in networks]


def of_backbone(place: Path, folder: Path, patch: MonkeyPatch, load: Callable[[], object]) -> Kind:
    """A backbone that somebody names by its path: a run made with it is refused once it is another."""
    choice = light(patch) | {"backbone": str(place)}
    Study(**choice).save("alignment", {"loss": 1.0})
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]

    def named(file: Path) -> str:
        return file.relative_to(place).as_posix() if place.is_dir() else file.name

    def later() -> None:
        Study(**choice).load("alignment")

    contents = partial(weights.backbone_contents, str(place))
    return Kind("", folder, files, contents, later=later, whole=load, every=100, named=named)


@kind("a backbone's folder")
def own_backbone(folder: Path, patch: MonkeyPatch) -> Kind:
    from brainvis.generation.stable_diffusion import load_stable_diffusion

    place = linked(write_backbone(folder.parent / f"{folder.name}-backbone", clip=False), folder / "mine")

    def load() -> object:
        loaded = load_stable_diffusion(place, "cpu")
        return pipeline_content(loaded.pipeline), plain(loaded.judge)

    return of_backbone(place, folder, patch, load)


def single_file(ending: str) -> Callable[[Path, MonkeyPatch], Kind]:
    def build(folder: Path, patch: MonkeyPatch) -> Kind:
        from safetensors.torch import load_file

        from brainvis.generation.stable_diffusion import load_stable_diffusion

        tiny = write_backbone(folder.parent / f"{folder.name}-backbone", judge=False, clip=False)
        pipeline = load_stable_diffusion(tiny, "cpu").pipeline
        file = write_safetensors(pipeline, folder / "mine.safetensors")
        if ending == ".ckpt":
            torch.save({"state_dict": load_file(file), "epoch": 3}, folder / "mine.ckpt")
            file.unlink()
        file = file.with_suffix(ending)

        def load() -> object:
            return pipeline_content(load_stable_diffusion(file, "cpu", configuration=tiny).pipeline)

        return of_backbone(file, folder, patch, load)

    return build


kind("a backbone's single file (.safetensors)")(single_file(".safetensors"))
kind("a backbone's single file (.ckpt)")(single_file(".ckpt"))


# The authors' weights


@kind("the authors' weights, as they are kept (.original.safetensors)")
def kept_original(folder: Path, patch: MonkeyPatch) -> Kind:
    file, config = folder / "frequency.original.safetensors", FrequencyBranch(width=4)
    origin = {"file": "lstm__subject0_epoch_900.pth", "sha256": "ab" * 32, "kind": "frequency", "stands_in": ""}
    original.write_original(file, FrequencyEncoder(2, 20, 100.0, 3, config), origin)

    def read() -> object:
        model = FrequencyEncoder(2, 20, 100.0, 3, config)
        return original.load_original(file, model), plain(model), original.read_origin(file)

    return Kind("", folder, [file], read)


@kind("the authors' files (.pkl, .pth)")
def released(folder: Path, patch: MonkeyPatch) -> Kind:
    files = save_all(released_models(SIZES), folder / "authors")

    @cache
    def content(file: Path, sha256: str) -> object:
        found = original.read(file)
        return found.kind, plain(found.parameters)

    def read() -> object:
        return [content(file, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files.values()]

    return Kind("", folder, list(files.values()), read)


@kind("weights of a judge")
def judge(folder: Path, patch: MonkeyPatch) -> Kind:
    file, module = folder / "judge.pth", nn.Linear(6, 4)
    torch.save(module.state_dict(), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    patch.setitem(weights.WEIGHTS, "alexnet", replace(weights.WEIGHTS["alexnet"], url=file.name, sha256=sha256))

    def build(state: dict[str, Tensor]) -> nn.Module:
        network = nn.Linear(6, 4)
        network.load_state_dict(state)
        return network

    network = Network("alexnet", build, None)

    def read() -> object:
        found = network.read(file)
        asked = Judge("judge", lambda: None, lambda: weights.weights_fingerprint(file), key="alexnet")
        if asked.note:  # stands in the results and in the report
            raise BrainvisError(asked.note)
        return plain(found)

    return Kind("", folder, [file], read)
