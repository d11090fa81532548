"""Reads the checkpoints that the authors send on request into our models, for the trainings of a study to pick up.

Five kinds of file are told apart by their content, never by their names. Nothing in a file is ever executed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainvis.files import OriginalError, read_json, read_origin, sealed_origin, write_aside
from brainvis.generation.checkpoints import StandIn, read_checkpoint
from brainvis.models.alignment import AlignedEncoder, AlignmentNetwork
from brainvis.models.frequency import FrequencyEncoder
from brainvis.models.fusion import FusedEncoder
from brainvis.models.time import LatentMaskedModel, TimeEncoder

FILES = (
    "the authors' files (pretrain_model_epoch300.pkl, finetune_model_epoch80.pkl, lstm__subject0_epoch_900.pth, "
    "timefreqmodel.pkl, clipfinetune_model.pkl) fit preset=paper and dataset=eegcvpr40"
)
AGAIN = "; write it again: python -m brainvis original FILE ..."
KINDS = {  # kinds of file in training order: the stage and the training that produce these weights
    "pretrained": ("lmm_pretraining", "pre-training"),
    "finetuned": ("lmm_pretraining", "fine-tuning"),
    "frequency": ("frequency_branch", "the training of the frequency branch"),
    "fused": ("fusion", "fusion"),
    "aligned": ("alignment", "alignment"),
}
TIME, FREQUENCY, FUSED = "pretrained_model_time.", "pretrained_model_freq.", "pretrained_model."
PLACES = {  # kinds of file that contain these weights, the right one first, and the prefix of their names there
    "pretrained": {"pretrained": "", "finetuned": "", "fused": TIME, "aligned": FUSED + TIME},
    "finetuned": {"finetuned": "", "fused": TIME, "aligned": FUSED + TIME},
    "frequency": {"frequency": "", "fused": FREQUENCY, "aligned": FUSED + FREQUENCY},
    "fused": {"fused": "", "aligned": FUSED},
    "aligned": {"aligned": ""},
}


def _within(ours: str, theirs: str, names: dict[str, str]) -> dict[str, str]:
    return {ours + our: theirs + their for our, their in names.items()}


# Prefixes of names: ours <- theirs.
IN_TIME = {"projection.": "input_projection.", "position": "position.pe.weight", "transformer.layers.": "encoder.TRMs."}
IN_FREQUENCY = {"lstm.": "lstm.", "output.": "output."}
IN_BRANCHES = _within("branches.time.", TIME, IN_TIME) | _within("branches.frequency.", FREQUENCY, IN_FREQUENCY)
IN_FUSED = IN_BRANCHES | {"classifier.": "fc01."}
IN_NETWORK = dict(zip("012345", ("fc01", "fc02", "fc03", "fc04", "fc05", "fc6"), strict=True))
NAMES = {
    LatentMaskedModel: _within("encoder.", "", IN_TIME)
    | {"target_encoder.layers.": "momentum_encoder.TRMs.", "mask_token": "mask_token"}
    | {"regressor.layers.": "reg.layers.", "tokeniser.": "tokenizer.center."},
    TimeEncoder: IN_TIME | {"classifier.": "predict_head."},
    FrequencyEncoder: IN_FREQUENCY | {"classifier.": "classifier."},
    FusedEncoder: IN_FUSED,
    AlignedEncoder: _within("fused.", FUSED, IN_FUSED) | _within("network.layers.", "", IN_NETWORK),
}
LAYER = {  # parts of names, in every layer of a transformer
    ".attention.query.": ".attn.linear_layers.0.",
    ".attention.key.": ".attn.linear_layers.1.",
    ".attention.value.": ".attn.linear_layers.2.",
    ".attention.output.": ".attn.output_linear.",
    ".feedforward.0.": ".ffn.linear1.",
    ".feedforward.2.": ".ffn.linear2.",
    ".scale1": ".skipconnect1.a",
    ".scale2": ".skipconnect2.a",
    ".norm1.": ".skipconnect1.norm.",
    ".norm2.": ".skipconnect2.norm.",
}


@dataclass(frozen=True)
class Released:
    """One of the authors' files."""

    path: Path
    kind: str  # a key of `KINDS`
    parameters: dict[str, Tensor]  # under the authors' names
    sha256: str  # of the file


def read(path: Path) -> Released:
    """Reads one of the authors' files: either parameters, or a whole pickled module, of which only the parameters are
    used.

    OriginalError if the file does not exist, is damaged, or holds anything else.
    """
    if not path.is_file():
        raise OriginalError(f"{path} is missing; {FILES}")
    try:
        content = read_checkpoint(path)
        parameters = dict(_state(content) if isinstance(content, StandIn) else content)
        if {(type(name), isinstance(value, Tensor)) for name, value in parameters.items()} != {(str, True)}:
            raise ValueError("it holds no model parameters")
    except Exception as error:  # a damaged or foreign file can raise anything
        raise OriginalError(f"{path} was rejected, and nothing in it was run: {str(error)[:300]}; {FILES}") from error
    marks = {"aligned": FUSED, "fused": (TIME, FREQUENCY), "finetuned": "input_projection.", "frequency": "lstm."}
    kind = next((kind for kind, starts in marks.items() if any(name.startswith(starts) for name in parameters)), None)
    if kind is None:
        raise OriginalError(f"{path} has unknown parameters: {', '.join(parameters)[:100]}, ...; {FILES}")
    # Pre-training does not use the classifier and leaves its initial values: all biases are 0.1.
    bias = parameters.get("predict_head.bias", torch.tensor(0.1))
    if kind == "finetuned" and (bias == torch.tensor(0.1)).all():
        kind = "pretrained"
    with path.open("rb") as stream:
        return Released(path, kind, parameters, hashlib.file_digest(stream, "sha256").hexdigest())


def _state(module: StandIn, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The state dict of a pickled module."""
    fields = vars(module)
    for name, value in (fields["_parameters"] | fields["_buffers"]).items():
        if value is not None and name not in fields["_non_persistent_buffers_set"]:
            yield prefix + name, value
    for name, child in fields["_modules"].items():
        if child is not None:
            yield from _state(child, f"{prefix}{name}.")


def convert(released: Released, model: nn.Module) -> set[str]:
    """Fills `model`, one of our five, from a file that has its weights; returns the authors' names for them.

    OriginalError for missing or extra names, wrong shapes, or values that are not finite.
    """
    place = PLACES[dict(zip(NAMES, KINDS, strict=True))[type(model)]][released.kind]
    found = {}  # ours: theirs
    for our, their in _within("", place, NAMES[type(model)]).items():
        for name in (name for name in released.parameters if name.startswith(their)):
            renamed = our + name.removeprefix(their)
            for mine, part in LAYER.items():
                renamed = renamed.replace(part, mine)
            found[renamed] = name
    weights = {our: released.parameters[their].float() for our, their in found.items()}
    if broken := [found[name] for name, weight in weights.items() if not weight.isfinite().all()]:
        raise OriginalError(f"{released.path} has values that are not finite in {', '.join(broken[:6])}; copy it again")
    _fill(model, weights, released.path, found)
    return set(found.values())


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path, theirs: dict[str, str]) -> None:
    """`model.load_state_dict(weights)`, all or nothing."""
    have, need = ({name: tuple(w.shape) for name, w in w.items()} for w in (weights, model.state_dict()))
    if wrong := [name for name in need | have if have.get(name) != need.get(name)]:
        said = [f"{theirs.get(w, w)} is {have.get(w, 'missing')} (expected {need.get(w, 'none')})" for w in wrong[:4]]
        what = f"{len(wrong)} parameters of {type(model).__name__}"
        raise OriginalError(f"{path} does not fit {what}: {'; '.join(said)}, ...; {FILES}")
    model.load_state_dict(weights, assign=any(weight.is_meta for weight in model.state_dict().values()))


def write_original(path: Path, model: nn.Module, origin: dict[str, str]) -> None:
    """Writes the weights of `model` and their origin: `file`, `sha256`, `kind`, `stands_in` ("", or for which file)."""
    # clones: an LSTM saved on a GPU keeps all its weights in one block of memory, which safetensors cannot write
    weights = {name: value.cpu().contiguous().clone() for name, value in model.state_dict().items()}
    said = sealed_origin({**origin, "weights": _digest(weights)})
    write_aside(path, lambda aside: save_file(weights, aside, metadata=said))


def _digest(weights: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        total.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        total.update(weight.contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def describe(origin: dict[str, str]) -> str:
    """An origin in words."""
    stands_in = f"; they {origin['stands_in']}" if origin["stands_in"] else ""
    return f"the authors' {origin['file']} (sha256 {origin['sha256'][:12]}){stands_in}"


def load_original(path: Path, model: nn.Module) -> str:
    """Fills all of `model` with the weights that `install` has put in `path`; returns their origin in words."""
    _fill(model, check_original(path), path, {})
    return describe(read_origin(path))


def check_original(path: Path) -> dict[str, Tensor]:
    """The weights in `path`; OriginalError if they differ from what was written."""
    origin = read_origin(path)
    try:
        weights = load_file(path)
        if _digest(weights) == origin["weights"]:
            return weights
    except (SafetensorError, OSError, KeyError) as error:
        raise OriginalError(f"{path} cannot be read ({error}){AGAIN}") from error
    raise OriginalError(f"{path} is damaged{AGAIN}")


def install(study: Any, files: list[Path]) -> list[str]:
    """Puts the authors' weights where the trainings of `study` pick them up; returns sentences that say what was done.

    If a training's own file is missing, the same part of a later file stands in. Everything is read and checked before
    anything is written, and a run whose weights were trained here is never touched. OriginalError for a study or a file
    that cannot be used.
    """
    if (study.protocol, study.ablation) != ("paper", "full"):
        why = "the authors trained the whole method and chose their epochs on the test trials"
        raise OriginalError(f"{study.protocol=}, {study.ablation=}: {why}; choose protocol=paper and ablation=full")
    released: dict[str, Released] = {}
    for file in map(read, files):
        if file.kind in released:
            raise OriginalError(f"{released[file.kind].path} and {file.path} are both {file.kind!r}; choose one")
        released[file.kind] = file
    models, said, writing = _models(study, released.get("aligned")), [], []
    rest = {kind: set(file.parameters) for kind, file in released.items()}
    for name, (stage, training) in KINDS.items():
        path, kinds = study.original_file(stage, name), list(PLACES[name])
        if not (kind := next((kind for kind in kinds if kind in released), None)):
            continue
        present = read_origin(path)
        results = read_json(study.folder(stage) / "results.json", missing={})
        if present and kind != name and kinds.index(present["kind"]) <= kinds.index(kind):
            said.append(f"{stage}, {name}: unchanged, from {describe(present)}.")
        elif results and not results["metrics"].get("origin", {}).get(name):
            if kind == name:
                raise OriginalError(f"{study.readable(stage)} holds weights that were trained here; move it away first")
            said.append(f"{stage}, {name}: was trained here and stays as it is.")
        else:
            rest[kind] -= convert(released[kind], models[name])
            later = ", then ".join(KINDS[kind][1] for kind in kinds[1 : kinds.index(kind) + 1])
            whose = "" if kind == "finetuned" else ", on one subject"
            stands_in = f"stand in for the weights after {training}, and were trained further by {later}{whose}"
            origin = {"file": released[kind].path.name, "sha256": released[kind].sha256, "kind": kind}
            origin["stands_in"] = stands_in if later else ""
            writing.append((path, models[name], origin))
            said.append(f"{stage}, {name}: from {describe(origin)}.")
    for weights in writing:
        write_original(*weights)
    for kind, names in rest.items():
        parts = sorted({name.removeprefix(FUSED).removeprefix(TIME).split(".")[0] for name in names})
        said.append(f"Not needed from {released[kind].path.name} ({kind}): {', '.join(parts) or 'nothing'}.")
    said.append(f"No file states the number of attention heads: {study.configuration.time.heads} are assumed.")
    if {"fused", "aligned"} & set(released):
        said.append(
            f"No file states its subject: {study.subject} is assumed, as given; branches that stand in have learned "
            "from it."
        )
    if study.dataset != "eegcvpr40":
        said.append(f"The authors trained on EEGCVPR40: on the data set {study.dataset} their weights are meaningless.")
    lacking = [
        f"{stage} ({name})" for name, (stage, _) in KINDS.items() if not study.original_file(stage, name).exists()
    ]
    return [*said, f"Run the notebooks in order, as usual. Still to train: {', '.join(lacking) or 'none'}."]


def _models(study: Any, aligned: Released | None) -> dict[str, nn.Module]:
    """The models of this study that files can fill, without weights."""
    data, config = study.data(), study.configuration
    sizes, classes = (*data.trials.shape[1:], data.sampling_rate), len(data.class_names)
    numbers = len(aligned.parameters.get("fc6.weight", [0])) if aligned else 1  # notebook 05 checks whose they are
    if numbers == 77 * 768 and study.backbone == "phantom":
        raise OriginalError(f"{aligned.path} predicts 77 x 768 numbers, for Stable Diffusion 1.5: use backbone=sd15")
    with torch.device("meta"):
        fused, inside = (FusedEncoder(*sizes, classes, config) for _ in range(2))
        network = AlignmentNetwork(fused.width + classes, (1, numbers), config.alignment)
        return {
            "pretrained": LatentMaskedModel(TimeEncoder(*sizes, config=config.time)),
            "finetuned": TimeEncoder(*sizes, classes, config.time),
            "frequency": FrequencyEncoder(*sizes, classes, config.frequency),
            "fused": fused,
            "aligned": AlignedEncoder(inside, network),
        }
