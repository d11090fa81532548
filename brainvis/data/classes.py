"""Class names: the forty of EEGCVPR40, and the attributes shared by names with the same structure.

"red star" shares a word with "red ring" and another with "blue star": each position in such names is an attribute, so a
wrong class may still be half right.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

# WordNet id -> index among ImageNet-1k's classes, name, and the name in the released code's prompts where it differs,
# including stray spaces and typos; its table of coarse targets also has "lectric guitar" and "orange jack-o’-lantern".
CLASSES = {
    "n02389026": (339, "sorrel horse"),
    "n03888257": (701, "parachute"),
    "n03584829": (606, "smoothing iron"),
    "n02607072": (393, "anemone fish"),
    "n03297495": (550, "espresso maker"),
    "n03063599": (504, "coffee mug"),
    "n03792782": (671, "mountain bike", "mountain bike, all-terrain bike"),
    "n04086273": (763, "revolver", "revolver, six-shooter"),
    "n02510455": (388, "panda"),
    "n11939491": (985, "daisy"),
    "n02951358": (472, "canoe", "canoe or kayak"),
    "n02281787": (326, "lycaenid butterfly"),
    "n02106662": (235, "German shepherd", "german shepherd dog"),
    "n04120489": (770, "running shoe"),
    "n03590841": (607, "jack-o'-lantern", "Orange jack-o’-lantern"),
    "n02992529": (487, "cellular telephone"),
    "n03445777": (574, "golf ball"),
    "n03180011": (527, "desktop computer"),
    "n02906734": (462, "broom"),
    "n07873807": (963, "pizza"),
    "n03773504": (657, "missile"),
    "n02492035": (378, "capuchin", "Cebus capucinus"),
    "n03982430": (736, "pool table", "pool table, billiard table, snooker table "),
    "n03709823": (636, "mailbag"),
    "n03100240": (511, "convertible", "old convertible"),
    "n03376595": (559, "folding chair"),
    "n03877472": (697, "pajama"),
    "n03775071": (658, "mitten", "mitten,glove"),
    "n03272010": (546, "electric guitar"),
    "n04069434": (759, "reflex camera", "eflex camera"),
    "n03452741": (579, "grand piano"),
    "n03792972": (672, "mountain tent"),
    "n07753592": (954, "banana"),
    "n13054560": (997, "bolete"),
    "n03197337": (531, "digital watch"),
    "n02504458": (386, "African elephant"),
    "n02690373": (404, "airliner"),
    "n03272562": (547, "electric locomotive"),
    "n04044716": (755, "radio telescope"),
    "n02124075": (285, "Egyptian cat", "cat "),
}
IMAGENET_INDICES = {wnid: index for wnid, (index, *_) in CLASSES.items()}
CLASS_NAMES = {wnid: name for wnid, (_, name, *_) in CLASSES.items()}  # for targets and prompts alike
RELEASED_NAMES = {wnid: names[-1] for wnid, (_, *names) in CLASSES.items()}

PLACES = ("first word", "second word", "third word")


def class_attributes(class_names: Sequence[str]) -> dict[str, list[str]]:
    """Attributes of the classes: position in the name -> word of every class. A position has at least two different
    words, and at most half as many as there are classes. Empty unless all names have the same number of words, two or
    three."""
    names = [name.split() for name in class_names]
    if len({len(name) for name in names}) != 1 or not 2 <= len(names[0]) <= len(PLACES):
        return {}
    words = {place: list(column) for place, column in zip(PLACES, zip(*names, strict=True), strict=False)}
    return {place: column for place, column in words.items() if 1 < len(set(column)) <= len(column) / 2}


def attribute_hits(predicted: Tensor, labels: Tensor, words: Sequence[str]) -> Tensor:
    """Whether each predicted class, (trial,) int64, has the right word, even if the class is wrong: (trial,) bool.
    `words` are the words of the classes, from `class_attributes`."""
    word_of_class = torch.tensor([words.index(word) for word in words])
    return word_of_class[predicted] == word_of_class[labels]


def attribute_chance(words: Sequence[str]) -> float:
    """How often a class drawn at random has the right word, if all classes are shown equally often."""
    return sum((count / len(words)) ** 2 for count in Counter(words).values())


def attribute_ceiling(words: Sequence[str]) -> float:
    """Accuracy of a decoder that knows this word of every name and nothing else, if all classes are shown equally
    often: it guesses among the classes that share a word."""
    return len(set(words)) / len(words)
