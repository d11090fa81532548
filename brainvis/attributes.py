"""What class names have in common: "red star" shares a word with "red ring" and another with "blue star".

Where all names are built alike, each place in the name is an attribute, and a wrong class may still be half right.
Read from the names alone, so it holds for any data set whose names are built that way, and is empty for all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

PLACES = ("first word", "second word", "third word")


def class_attributes(class_names: Sequence[str]) -> dict[str, list[str]]:
    """Attributes of the classes, by the place of the word in the name.

    Returns:
        Place -> word of every class; only places that have at least two different words, and no more than half as many
        as there are classes. Empty unless all names have the same number of words, two or three.
    """
    names = [name.split() for name in class_names]
    if len({len(name) for name in names}) != 1 or not 2 <= len(names[0]) <= len(PLACES):
        return {}
    words = {place: list(column) for place, column in zip(PLACES, zip(*names, strict=True), strict=False)}
    return {place: column for place, column in words.items() if 1 < len(set(column)) <= len(column) / 2}


def attribute_hits(predicted: Tensor, labels: Tensor, words: Sequence[str]) -> Tensor:
    """Whether the predicted class has the right word, right class or not.

    Args:
        predicted, labels: classes (trial,) int64.
        words: word of every class, from `class_attributes`.

    Returns:
        (trial,) bool.
    """
    number = {word: index for index, word in enumerate(dict.fromkeys(words))}
    word_of_class = torch.tensor([number[word] for word in words])
    return word_of_class[predicted] == word_of_class[labels]


def attribute_chance(words: Sequence[str]) -> float:
    """How often a class drawn at random has the right word, when all classes are shown equally often."""
    return sum((count / len(words)) ** 2 for count in Counter(words).values())
