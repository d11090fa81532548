"""The straight line between two text embeddings, and how long points on it are compared with a prompt's embedding."""

import torch
from torch import Tensor

from brainvis.generation.text_embeddings import text_cosines

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # between the embedding of a class name and that of a caption


def between_texts(coarse: Tensor, fine: Tensor) -> dict[float, Tensor]:
    """Points on the straight line from coarse to fine embeddings, each (trial, tokens, width), at `PLACES`."""
    coarse, fine = coarse.float(), fine.float()
    return {place: (1 - place) * coarse + place * fine for place in PLACES}


def line_geometry(coarse: Tensor, fine: Tensor) -> dict[str, list[float]]:
    """Along the same line, means over trials: `place`; cosines with both ends, `cosine_coarse` and `cosine_fine`; the
    `length` of a point relative to that of the ends, which is 1 if all point the same way.

    For a cosine c between ends of equal length, the midpoint has length sqrt((1 + c) / 2) and this cosine with both.
    """
    ends = {"cosine_coarse": coarse.float(), "cosine_fine": fine.float()}
    sizes = [end.flatten(1).norm(dim=1) for end in ends.values()]
    found = {"place": [], "cosine_coarse": [], "cosine_fine": [], "length": []}
    for place, point in between_texts(coarse, fine).items():
        found["place"].append(place)
        expected = (1 - place) * sizes[0] + place * sizes[1]
        found["length"].append((point.flatten(1).norm(dim=1) / expected).mean().item())
        for name, end in ends.items():
            pairs = [text_cosines(point[[row]], end[[row]]) for row in range(len(point))]
            found[name].append(torch.cat(pairs).mean().item())
    return found
