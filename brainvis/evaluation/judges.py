"""The networks that judge pictures: a generator's own if it comes with them, else the published ones.

Each published network is loaded when used and freed afterwards, so that at most one is in memory: no more than the
2.5 GB of ViT-H/14 in single precision (half of that on a GPU) and a batch of four pictures.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import shorten

import numpy as np
import open_clip
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchmetrics.image.fid import NoTrainInceptionV3
from torchvision import models
from tqdm.auto import tqdm

from brainvis.data.classes import IMAGENET_INDICES
from brainvis.data.dataset import EEGDataset
from brainvis.files import readable_size
from brainvis.files.tensors import load_safetensors, load_tensors
from brainvis.generation import Generator
from brainvis.generation.pictures import as_tensor
from brainvis.generation.weights import WEIGHTS, MissingWeights, WeightsError, obtain_weights, weights_fingerprint
from brainvis.training import choose_device

# From pictures, uint8 (n, height, width, 3), to a network's answer for each: "features" (n, ...) and, of a classifier,
# the logits of "class" and of whatever else it distinguishes, (n, levels); float32 on the CPU.
Look = Callable[[NDArray[np.uint8]], dict[str, Tensor]]
State = dict[str, Tensor]  # the tensors in a file


@dataclass(frozen=True)
class Judge:
    """A network that looks at pictures."""

    name: str
    load: Callable[[], Look]
    fingerprint: Callable[[], str]  # of its weights: 16 hexadecimal digits
    class_names: tuple[str, ...] = ()
    wordnet: Mapping[str, int] = field(default_factory=dict)  # WordNet id -> class, as far as known
    batch_size: int = 128
    key: str = ""  # in `WEIGHTS`, if listed there

    def look(self, *sets: NDArray[np.uint8]) -> list[dict[str, Tensor]]:
        """Its answers for each picture of sets (n, height, width, 3); loaded once for all of them."""
        see = self.load()
        said = [list(self.batches(see, images)) for images in sets]
        return [{name: torch.cat([batch[name] for batch in batches]) for name in batches[0]} for batches in said]

    def batches(self, see: Look, images: NDArray[np.uint8]) -> Iterator[dict[str, Tensor]]:
        """Its answers, one batch at a time."""
        with tqdm(total=len(images), desc=self.name, unit="image", delay=2) as bar:
            for start in range(0, len(images), self.batch_size):
                # Contiguous, as the last digits of convolutions depend on the memory layout.
                batch = np.ascontiguousarray(images[start : start + self.batch_size])
                yield see(batch)
                bar.update(len(batch))

    def vocabulary(self, data: EEGDataset) -> tuple[str, ...]:
        """Names of its classes: its own, or the data set's if both have a class, matched by WordNet id.

        What torchvision calls "sorrel" is called "sorrel horse" in EEGCVPR40.
        """
        names = list(self.class_names)
        for label, image in zip(data.labels.tolist(), data.images.tolist(), strict=True):
            known = self.wordnet.get(data.image_ids[image].split("_")[0]) if image >= 0 else None
            if known is not None:
                names[known] = data.class_names[label]
        return tuple(names)

    @property
    def origin(self) -> dict[str, str]:
        """What a result records about the network that it comes from."""
        return {"network": self.name, "weights": self.fingerprint()}

    @property
    def note(self) -> str:
        """A sentence if its weights are not the published ones, else an empty string."""
        if not self.key or self.fingerprint().startswith(WEIGHTS[self.key].sha256):
            return ""
        known, foreign = WEIGHTS[self.key], "are not the published ones: their sha256 begins with"
        published = f"that of the published {known.file} with {known.sha256}"
        return f"The weights of {known.name} {foreign} {self.fingerprint()}, {published}."


@dataclass(frozen=True)
class Judges:
    """The judges of a generator's pictures; None if there is no such judge."""

    classifier: Judge | None = None  # generation accuracy, and the attributes it knows
    inception: Judge | None = None  # Inception Score, FID: features and logits of "class"
    clip: Judge | None = None  # CLIP similarity: features of unit length
    identification: Mapping[str, Judge] = field(default_factory=dict)  # two-way identification, by name of the features
    missing: tuple[str, ...] = ()  # what is left out because a network is missing, and what to do

    def ways(self, wanted: int = 50) -> int:
        """Number of classes that compete for generation accuracy: `wanted`, or as many as the classifier knows."""
        return min(wanted, len(self.classifier.class_names)) if self.classifier else wanted

    def table(self) -> list[dict[str, str]]:
        """Which judge measures what, one row per measure."""
        asked = {"generation accuracy": self.classifier, "Inception Score, FID": self.inception}
        asked |= {"CLIP similarity": self.clip}
        asked |= {f"two-way identification by {name}": judge for name, judge in self.identification.items()}
        files = {key: f"{weights.file}, {readable_size(weights.size)}" for key, weights in WEIGHTS.items()}
        cells = {
            measure: (judge.name, files.get(judge.key, "of the backbone")) if judge else ("none: left out", "")
            for measure, judge in asked.items()
        }
        return [{"measure": measure, "judge": name, "weights": place} for measure, (name, place) in cells.items()]


def judges_of(generator: Generator, device: torch.device | None = None) -> Judges:
    """The judges of a generator's pictures: its own classifier and CLIP pair, else the published networks.

    Files of published networks are found, downloaded if necessary, and opened, so that missing ones are known before
    any picture is made. WeightsError: a file exists but cannot be read.
    """
    missing: dict[str, str] = {}  # by file: AlexNet is requested twice

    def published(name: str) -> Judge | None:
        try:
            return published_judge(name, device) if NETWORKS[name].key not in missing else None
        except MissingWeights as error:
            missing[NETWORKS[name].key] = str(error)

    clip = own_clip(generator) if generator.clip else published("CLIP")
    if generator.judge:
        classifier = inception = own_judge(generator)
        identification = {"judge": classifier}
    else:
        classifier, inception = published("ViT-H/14"), published("Inception of FID")
        identification = {name: published(name) for name in ("AlexNet 2", "AlexNet 5", "Inception")}
    there = {name: judge for name, judge in (identification | {"CLIP": clip}).items() if judge}
    return Judges(classifier, inception, clip, there, tuple(missing.values()))


def own_judge(generator: Generator) -> Judge:
    """The classifier that comes with a generator."""
    network = generator.judge

    def look(images: NDArray[np.uint8]) -> dict[str, Tensor]:
        batch = as_tensor(images).to(next(network.parameters()).device)
        with torch.inference_mode():
            answers = {**network(batch), "features": network.features(batch)}
        return {name: values.float().cpu() for name, values in answers.items()}

    name, classes = f"judge of backbone {generator.name}", tuple(network.class_names)
    return Judge(name, lambda: look, lambda: network.fingerprint, classes)


def own_clip(generator: Generator) -> Judge:
    """The CLIP pair that comes with a generator."""

    def look(images: NDArray[np.uint8]) -> dict[str, Tensor]:
        return {"features": generator.clip.image_features(images)}

    return Judge(f"CLIP pair of backbone {generator.name}", lambda: look, lambda: generator.fingerprint, batch_size=64)


def published_judge(name: str, device: torch.device | None = None) -> Judge:
    """One of `NETWORKS`, its file found and opened; MissingWeights: not found; WeightsError: it cannot be read."""
    network = NETWORKS[name]
    file, wordnet = obtain_weights(network.key), IMAGENET_INDICES if network.class_names else {}
    network.read(file)  # only for its errors: weights are mapped, not read
    title = WEIGHTS[network.key].name + (f", {network.layer}" if network.layer else "")
    load, fingerprint = partial(network.open, file, choose_device(device)), partial(weights_fingerprint, file)
    return Judge(title, load, fingerprint, tuple(network.class_names), wordnet, network.batch_size, network.key)


@dataclass(frozen=True)
class Network:
    """How to load a published network and get its answers."""

    key: str  # in `WEIGHTS`
    build: Callable[[State], nn.Module]  # from its file's tensors, on the CPU
    # For one picture: the library's own, through PIL, as its manual says; None: the network's own.
    transform: Callable[[Image.Image], Tensor] | None
    answer: Callable[[nn.Module, Tensor], dict[str, Tensor]] = lambda network, batch: {"features": network(batch)}
    layer: str = ""  # the layer read, if not the last
    batch_size: int = 32
    half: bool = False  # whether half precision is enough on a GPU
    class_names: Sequence[str] = ()  # ImageNet's, for a classifier

    def prepare(self, images: NDArray[np.uint8]) -> Tensor:
        """Pictures (n, height, width, 3) as the network takes them, (n, 3, height, width)."""
        if self.transform:
            return torch.stack([self.transform(Image.fromarray(image)) for image in images])
        return rearrange(torch.as_tensor(images), "n h w c -> n c h w")

    def read(self, file: Path) -> nn.Module:
        """The network, frozen, with a file's weights mapped into memory; WeightsError: they do not fit this network."""
        try:
            state = load_safetensors(file) if file.suffix == ".safetensors" else load_tensors(file, old=True)
            return self.build(state).eval().requires_grad_(False)
        except Exception as error:  # whatever the libraries raise for a truncated or foreign file
            reason, weights = shorten(str(error) or repr(error), 300, placeholder=" ..."), WEIGHTS[self.key]
            size = file.stat().st_size if file.is_file() else 0
            raise WeightsError(
                f"{file} cannot be read as {weights.name}: {reason} "
                f"It has {size:,} bytes, the published file {weights.size:,}. Remove it, and it will be "
                f"downloaded again, or put the right file there ({weights.url})."
            ) from error

    def open(self, file: Path, device: torch.device) -> Look:
        """The network on its device, ready to look at pictures; freed together with the returned function."""
        dtype = torch.float16 if self.half and device.type == "cuda" else torch.float32
        network = self.read(file).to(device, dtype)
        if hasattr(network, "heads"):  # half precision would cause ties among a thousand classes
            network.heads.float().register_forward_pre_hook(lambda _, given: (given[0].float(),))

        def look(images: NDArray[np.uint8]) -> dict[str, Tensor]:
            batch = self.prepare(images)
            batch = batch.to(device, dtype if batch.is_floating_point() else batch.dtype)
            with torch.inference_mode():
                return {name: values.float().cpu() for name, values in self.answer(network, batch).items()}

        return look


def _filled(new: Callable[[], nn.Module], state: State) -> nn.Module:
    """A network without memory of its own that takes over the tensors from a file."""
    with torch.device("meta"):
        network = new()
    network.load_state_dict(state, assign=True)
    return network


def _vit(state: State) -> nn.Module:
    return _filled(lambda: models.vit_h_14(image_size=VIT.meta["min_size"][0]), state)


def _answer_vit(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {"class": network(batch)}


def _alexnet(layers: int, state: State) -> nn.Module:
    return _filled(models.alexnet, state).features[:layers]


def _inception_v3(state: State) -> nn.Module:
    # These weights expect pictures from -1 to 1; `transform_input` converts them.
    network = _filled(lambda: models.inception_v3(transform_input=True, init_weights=False), state)
    network.fc = nn.Identity()  # leaves the 2048 pooled features
    return network


def _inception_fid(state: State) -> nn.Module:
    copy = io.BytesIO()  # torchmetrics unpickles what it is given: here, only tensors, read as such
    torch.save(state, copy)
    copy.seek(0)
    return NoTrainInceptionV3("inception-v3-compat", ["2048"], copy)


def _answer_fid(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    features = network(batch)  # (n, 2048)
    return {"features": features, "class": features @ network.fc.weight.T}  # logits without the bias, as is usual


def _clip(state: State) -> nn.Module:
    visual = {name[7:]: values for name, values in state.items() if name.startswith("visual.")}
    return _filled(lambda: open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-quickgelu")).visual, visual)


def _answer_clip(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {"features": normalize(network(batch).float())}


VIT = models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1
# Two-way identification uses whole pictures, as in the papers (MindEye, and those on THINGS after it): they resize as
# torchvision does, without cropping. AlexNet is read at the ReLUs after its second and fifth convolutions.
WHOLE_256 = models.AlexNet_Weights.IMAGENET1K_V1.transforms(crop_size=256)
WHOLE_342 = models.Inception_V3_Weights.IMAGENET1K_V1.transforms(crop_size=342)
CLIP_224 = open_clip.image_transform(224, is_train=False)  # with OpenAI's mean and deviation

NETWORKS = {
    "ViT-H/14": Network(
        "vit_h_14", _vit, VIT.transforms(), _answer_vit, batch_size=4, half=True, class_names=VIT.meta["categories"]
    ),
    "Inception of FID": Network("inception_fid", _inception_fid, None, _answer_fid),
    "AlexNet 2": Network("alexnet", partial(_alexnet, 5), WHOLE_256, layer="features.4"),
    "AlexNet 5": Network("alexnet", partial(_alexnet, 12), WHOLE_256, layer="features.11"),
    "Inception": Network("inception_v3", _inception_v3, WHOLE_342, layer="avgpool"),
    "CLIP": Network("clip", _clip, CLIP_224, _answer_clip, batch_size=16, half=True),
}
