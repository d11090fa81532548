"""Text embeddings of class names (coarse semantics) and captions (fine semantics): the targets of alignment.

Every distinct text is encoded once per generator and stored in one file, which is memory-mapped; trials refer to its
rows. In half precision, 40 class names and 2,000 captions take 241 MB for Stable Diffusion 1.5 (77 tokens of width
768).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from brainvis.files import DamagedError, verified, write_aside
from brainvis.generation import Generator

CHECKSUM = 16  # hexadecimal digits of a SHA-256
BLOCK = 256  # text embeddings converted to single precision at a time: 61 MB at 77 x 768
ENCODED = 4096  # texts encoded at a time, in single precision: 1 GB at 77 x 768, twice EEGCVPR40's texts


@dataclass(frozen=True)
class TextEmbeddings:
    """Text embeddings of a list of distinct texts."""

    texts: tuple[str, ...]
    embeddings: Tensor  # (text, tokens, width) float16, memory-mapped if there is a file
    fingerprint: str  # of the generator that encoded them

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each text."""
        return {text: row for row, text in enumerate(self.texts)}

    def lookup(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of `texts`, in their order: (n, tokens, width) float16. ValueError for a text never encoded."""
        if unknown := [text for text in texts if text not in self.index]:
            raise ValueError(
                f"{len(unknown)} texts were never encoded (the first is {unknown[0]!r}); pass them to "
                "`build_text_embeddings`"
            )
        return self.embeddings[[self.index[text] for text in texts]]


def build_text_embeddings(generator: Generator, texts: Sequence[str], file: str | Path | None = None) -> TextEmbeddings:
    """Embeddings of at least `texts`, each encoded once; in half precision, whether read or newly encoded.

    Missing texts are added to a safetensors `file` of the same generator; a file of another generator, or an unreadable
    one, is replaced. If two processes build it at once, the last one's file is kept whole; texts it lacks are encoded
    next time.
    """
    shape = tuple(generator.conditioning_shape)
    known = _read(Path(file), generator.fingerprint, shape) if file else None
    known = known or TextEmbeddings((), torch.empty(0, *shape, dtype=torch.float16), generator.fingerprint)
    missing = [text for text in dict.fromkeys(texts) if text not in known.index]
    if not missing:
        return known
    encoded = torch.empty(len(known.texts) + len(missing), *shape, dtype=torch.float16)
    encoded[: len(known.texts)] = known.embeddings
    for start in range(0, len(missing), ENCODED):
        some = missing[start : start + ENCODED]
        encoded[len(known.texts) + start :][: len(some)] = generator.text_embeddings(some)
    built = TextEmbeddings((*known.texts, *missing), encoded, generator.fingerprint)
    if not file:
        return built
    notes = {"generator": built.fingerprint, "texts": json.dumps(built.texts), "checksums": "".join(_checksums(built))}
    write_aside(Path(file), lambda path: save_file({"embeddings": built.embeddings}, path, metadata=notes))
    written = _read(Path(file), generator.fingerprint, shape)  # mapped, so that the memory used above is freed
    return written if written and written.texts == built.texts else built


def check_text_embeddings(file: Path) -> TextEmbeddings:
    """The content of a file, memory-mapped and verified once by its checksums; DamagedError if it has changed."""
    try:
        with safe_open(file, framework="pt") as content:
            notes, embeddings = content.metadata(), content.get_tensor("embeddings")
            found = TextEmbeddings(tuple(json.loads(notes["texts"])), embeddings, notes["generator"])
            checksums = notes["checksums"]
            if embeddings.dtype != torch.float16 or not all(isinstance(text, str) for text in found.texts):
                raise ValueError("it does not hold texts and their embeddings")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{file} is damaged: it is not a complete file of text embeddings.") from error
    verified(file, "text embeddings", lambda: _check(file, found, checksums))
    return found


def _read(file: Path, fingerprint: str, shape: tuple[int, int]) -> TextEmbeddings | None:
    """The content of `file`; None if it is missing, damaged, or from another generator."""
    try:
        found = check_text_embeddings(file)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        tqdm.write(f"{error} Its texts will be encoded again.")
        return None
    whole = found.embeddings.dtype == torch.float16 and found.embeddings.shape == (len(found.texts), *shape)
    return found if whole and found.fingerprint == fingerprint else None


def _check(file: Path, found: TextEmbeddings, checksums: str) -> None:
    """DamagedError for embeddings that differ from what was written."""
    if found.embeddings.ndim != 3 or len(found.embeddings) != len(found.texts):
        raise DamagedError(f"{file} is damaged: its texts are not those that were written.")
    known = [checksums[place : place + CHECKSUM] for place in range(0, len(checksums), CHECKSUM)]
    for text, computed, written in zip_longest(found.texts, _checksums(found), known):
        if computed != written:
            raise DamagedError(f"{file} is damaged: the embedding of {text!r} is not what was written.")


def _checksums(embedded: TextEmbeddings) -> Iterator[str]:
    """One checksum per text over the text, its embedding and its generator, so that none of them can change alone."""
    for text, embedding in zip(embedded.texts, embedded.embeddings, strict=True):
        whole = hashlib.sha256(f"{embedded.fingerprint} {text}".encode(errors="surrogatepass"))
        whole.update(embedding.contiguous().numpy())
        yield whole.hexdigest()[:CHECKSUM]


def text_cosines(embeddings: Tensor, others: Tensor) -> Tensor:
    """Cosines (n, m) of whole text embeddings, (n, tokens, width) and (m, tokens, width), each flattened."""
    few = len(embeddings) * len(others) < 1e6
    blocks = tqdm(embeddings.split(BLOCK), desc="cosines", unit="block", leave=False, disable=few)
    units = map(_unit, blocks)
    return torch.cat([torch.cat([unit @ _unit(other).T for other in others.split(BLOCK)], dim=1) for unit in units])


def average_embeddings(coarse: Tensor, fine: Tensor, labels: Tensor, captions: Tensor) -> Tensor:
    """Mean over trials of the sum of both targets, (1, tokens, width) float32: the best prediction without EEG.

    `labels` and `captions` (trial,) give each trial's rows in `coarse` and `fine` (text, tokens, width).
    """
    tokens = range(coarse.shape[1])  # one at a time: all trials' embeddings at once would take gigabytes
    means = [(coarse[labels, token].float() + fine[captions, token].float()).mean(0) for token in tokens]
    return torch.stack(means)[None]


def retrieval_ranks(predicted: Tensor, candidates: Tensor, truth: Tensor, among: Tensor | None = None) -> Tensor:
    """Rank (trial,) by cosine of the correct text, row `truth` (trial,) of candidates (text, tokens, width); 0 is best.

    `among` (trial, text) bool marks the candidates of each trial; None: all. Ties count as ranked before it.
    """
    cosines = text_cosines(predicted, candidates)  # (trial, text)
    right = cosines.gather(1, truth[:, None])
    before = cosines >= right if among is None else (cosines >= right) & among
    return before.sum(1) - 1  # the correct one is not before itself


def interpolation_position(predicted: Tensor, coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
    """Where predictions lie between the coarse and fine embeddings of their trials.

    Tensors (trial,) from (trial, tokens, width): `position`, the coefficient of the projection of predicted - coarse on
    fine - coarse (0 at the coarse embedding, 1 at the fine one, NaN where the two are equal); `off_axis`, the distance
    from that line relative to the distance between coarse and fine; `cosine_coarse` and `cosine_fine`.
    """
    blocks = zip(*(values.split(BLOCK // 8) for values in (predicted, coarse, fine)), strict=True)
    parts = [_interpolation_position(*(values.flatten(1).double() for values in block)) for block in blocks]
    return {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}


def _interpolation_position(predicted: Tensor, coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
    """The same for a batch of trials, (b, tokens * width) float64, which needs a dozen copies."""
    axis, offset = fine - coarse, predicted - coarse
    squared = axis.square().sum(1)
    position = (offset * axis).sum(1) / squared  # 0 / 0 is NaN, as documented
    residual = offset - torch.nan_to_num(position)[:, None] * axis
    unit = normalize(predicted, dim=-1)
    return {
        "position": position,
        "off_axis": residual.norm(dim=1) / squared.sqrt(),
        "cosine_coarse": (unit * normalize(coarse, dim=-1)).sum(1),
        "cosine_fine": (unit * normalize(fine, dim=-1)).sum(1),
    }


def _unit(embeddings: Tensor) -> Tensor:
    """(n, tokens, width) -> (n, tokens * width) float32 of length 1."""
    return normalize(embeddings.flatten(1).float(), dim=-1)
