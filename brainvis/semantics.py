"""Text states of class names (coarse semantics) and captions (fine semantics): the targets of alignment.

Every different text is encoded once per backbone and kept in one file; trials refer to texts, so nothing is stored
per trial.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from .backbone import Backbone
from .paths import write_aside


@dataclass(frozen=True)
class TextStates:
    """Text states of a list of different texts."""

    texts: tuple[str, ...]
    states: Tensor  # (text, tokens, width) float16
    fingerprint: str  # of the backbone that encoded them

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each text."""
        return {text: row for row, text in enumerate(self.texts)}

    def lookup(self, texts: Sequence[str]) -> Tensor:
        """Text states of `texts`, in their order and repeated as they are: (n, tokens, width) float32.

        Raises:
            ValueError: a text that was not encoded.
        """
        unknown = [text for text in texts if text not in self.index]
        if unknown:
            raise ValueError(
                f"{len(unknown)} texts were never encoded, {unknown[0]!r} first; pass them to `build_text_states`"
            )
        return self.states[[self.index[text] for text in texts]].float()


def build_text_states(
    backbone: Backbone, texts: Sequence[str], file: str | Path | None = None, batch_size: int = 64
) -> TextStates:
    """Encode every different text once.

    Args:
        backbone: whose text encoder is asked.
        texts: any number of texts, repetitions welcome.
        file: a safetensors file to keep the states in. What it holds of the same backbone is re-used, missing texts
            are added; a file of another backbone, or one that cannot be read, is replaced.
        batch_size: texts encoded at a time.

    Returns:
        States of at least `texts`; half precision, whether read or just encoded, so that both give the same results.
    """
    known = _read(Path(file), backbone.fingerprint) if file else None
    if known is None:
        known = TextStates((), torch.empty(0, *backbone.states_shape, dtype=torch.float16), backbone.fingerprint)
    missing = [text for text in dict.fromkeys(texts) if text not in known.index]
    if not missing:
        return known
    parts = [known.states]
    batches = range(0, len(missing), batch_size)
    for start in tqdm(batches, desc="text states", unit="batch", disable=len(batches) < 4):
        parts.append(backbone.text_states(missing[start : start + batch_size]).half())
    built = TextStates((*known.texts, *missing), torch.cat(parts), backbone.fingerprint)
    if file:
        _write(built, Path(file))
    return built


def _read(file: Path, fingerprint: str) -> TextStates | None:
    """The states in `file`, memory-mapped; None if it is not there, not readable, or of another backbone."""
    try:
        with safe_open(file, framework="pt") as content:
            notes = content.metadata() or {}
            if notes.get("backbone") != fingerprint:
                return None
            return TextStates(tuple(json.loads(notes["texts"])), content.get_tensor("states"), fingerprint)
    except (FileNotFoundError, SafetensorError, KeyError, json.JSONDecodeError):
        return None


def _write(states: TextStates, file: Path) -> None:
    notes = {"backbone": states.fingerprint, "texts": json.dumps(states.texts)}
    content = {"states": states.states.contiguous()}
    write_aside(file, lambda path: save_file(content, path, metadata=notes))


# What the predicted states say


def retrieval_ranks(predicted: Tensor, candidates: Tensor, truth: Tensor) -> Tensor:
    """Rank of the right text among candidates, sorted by cosine with the predicted states; 0 is best.

    Args:
        predicted: (trial, tokens, width).
        candidates: (text, tokens, width), states of different texts.
        truth: (trial,) row of the right text.

    Returns:
        (trial,) int64. Candidates that tie with the right one count as ranked before it.
    """
    cosines = normalize(predicted.flatten(1), dim=-1) @ normalize(candidates.flatten(1), dim=-1).T  # (trial, text)
    right = cosines.gather(1, truth[:, None])
    return (cosines >= right).sum(1) - 1  # the right one is not before itself


def retrieval_accuracy(ranks: Tensor, candidates: int, top: Sequence[int] = (1, 5)) -> dict[str, dict[str, float]]:
    """Share of trials whose right text is among the first k, beside chance.

    Args:
        ranks: (trial,) from `retrieval_ranks`.
        candidates: number of texts to choose from.
        top: the values of k.
    """
    return {f"top{k}": {"value": float((ranks < k).float().mean()), "chance": min(1.0, k / candidates)} for k in top}


def interpolation_position(predicted: Tensor, coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
    """Where predictions lie between the coarse and the fine states of their trials.

    Args:
        predicted, coarse, fine: (trial, tokens, width).

    Returns:
        Tensors (trial,): `position`, the coefficient of the projection of predicted - coarse on fine - coarse (0 at
        the coarse state, 1 at the fine one, NaN where both are the same); `off_axis`, the distance from that line
        relative to the distance between coarse and fine; `cosine_coarse` and `cosine_fine`.
    """
    predicted, coarse, fine = (states.flatten(1).double() for states in (predicted, coarse, fine))
    axis, offset = fine - coarse, predicted - coarse
    squared = axis.square().sum(1)
    position = (offset * axis).sum(1) / squared  # 0 / 0 is NaN, as promised
    residual = offset - torch.nan_to_num(position)[:, None] * axis
    unit = normalize(predicted, dim=-1)
    return {
        "position": position.float(),
        "off_axis": (residual.norm(dim=1) / squared.sqrt()).float(),
        "cosine_coarse": (unit * normalize(coarse, dim=-1)).sum(1).float(),
        "cosine_fine": (unit * normalize(fine, dim=-1)).sum(1).float(),
    }
