"""The judge of the phantom's world: a classifier that recognises what a picture shows."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from brainvis.files import file_digest, read_json, write_aside, write_json
from brainvis.files.tensors import load_safetensors
from brainvis.phantom.stimuli import BACKGROUNDS, CLASS_NAMES, POSITIONS, SIZES

HEADS = {"class": len(CLASS_NAMES), "position": len(POSITIONS), "size": len(SIZES), "background": len(BACKGROUNDS)}


class PhantomJudge(nn.Module):
    """Convolutional classifier of pictures (n, 3, 64, 64) in [0, 1], with one head per attribute."""

    class_names = CLASS_NAMES
    fingerprint = ""  # of the file that the weights come from

    def __init__(self, width: int = 32, num_features: int = 128):
        super().__init__()
        self.width, self.num_features = width, num_features
        layers, channels = [], (3, width, 2 * width, 2 * width, 2 * width, 3 * width)
        for before, after, stride in zip(channels, channels[1:], (2, 2, 1, 2, 2), strict=False):  # 64 -> 4 pixels
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.trunk = nn.Sequential(*layers)
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(3 * width * 16, num_features), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(num_features, levels) for name, levels in HEADS.items()})

    def features(self, images: Tensor) -> Tensor:
        """Features for distances between sets of pictures: (n, 3, 64, 64) in [0, 1] -> (n, num_features)."""
        return self.embed(self.trunk(images * 2 - 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute: class (n, 60), position (n, 9), size (n, 3), background (n, 4)."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


def save_judge(judge: PhantomJudge, folder: str | Path) -> None:
    """Write configuration and weights (half precision)."""
    write_json(Path(folder) / "config.json", {"width": judge.width, "num_features": judge.num_features}, indent=2)
    save_halves(judge, Path(folder) / "model.safetensors")


def save_halves(network: nn.Module, file: Path) -> None:
    """Write a network's weights in half precision."""
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    write_aside(file, lambda aside: save_file(halves, aside, metadata={"format": "pt"}))


def load_judge(folder: str | Path) -> PhantomJudge:
    """The trained judge in `folder`, in single precision and evaluation mode."""
    weights = Path(folder) / "model.safetensors"
    judge = PhantomJudge(**read_json(Path(folder) / "config.json"))
    judge.load_state_dict(load_safetensors(weights))
    judge.fingerprint = file_digest(weights)
    return judge.float().eval().requires_grad_(False)


@torch.no_grad()
def judged(judge: PhantomJudge, images: Tensor) -> dict[str, Tensor]:
    """The judge's answer for each picture (n, 3, 64, 64) in [0, 1]: a dict of indices (n,)."""
    answers = [judge(batch) for batch in images.split(256)]
    return {name: torch.cat([answer[name] for answer in answers]).argmax(-1) for name in HEADS}
