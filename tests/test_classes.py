"""What classes are called, and what names that are built alike have in common."""

import pytest
import torch

from brainvis.data.classes import attribute_ceiling, attribute_chance, attribute_hits, class_attributes
from brainvis.phantom.stimuli import CLASS_NAMES, SHOWN_CLASSES

NAMES = ("red star", "red ring", "blue star", "blue ring")


def test_words_of_class_names_are_attributes():
    assert class_attributes(NAMES) == {
        "first word": ["red", "red", "blue", "blue"],
        "second word": ["star", "ring", "star", "ring"],
    }
    shown = class_attributes([CLASS_NAMES[index] for index in SHOWN_CLASSES])
    assert len(set(shown["first word"])) == 6 and len(set(shown["second word"])) == 10
    assert class_attributes(("rest", "13 Hz", "21 Hz", "17 Hz")) == {}  # not built alike
    assert class_attributes(("13 Hz", "21 Hz", "17 Hz", "7 Hz")) == {}  # one word is everybody's, the other nobody's
    assert class_attributes(("rest", "go")) == {}


def test_half_right_counts_for_the_word_that_is_right():
    words = class_attributes(NAMES)
    predicted, labels = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 0, 0])
    assert attribute_hits(predicted, labels, words["first word"]).tolist() == [True, True, False, False]
    assert attribute_hits(predicted, labels, words["second word"]).tolist() == [True, False, True, False]


def test_chance_of_a_word_is_that_of_a_class_drawn_at_random():
    words = ["a", "a", "a", "b"]
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    assert attribute_chance(words) == pytest.approx(attribute_hits(*pairs.T, words).double().mean().item())


def test_ceiling_of_a_word_is_a_guess_among_the_classes_that_share_it():
    words = class_attributes([CLASS_NAMES[index] for index in SHOWN_CLASSES])
    assert [attribute_ceiling(of) for of in words.values()] == [6 / 40, 10 / 40]
    words = ["a", "a", "a", "b"]  # who is shown "a" is right in one of three trials
    assert attribute_ceiling(words) == pytest.approx((3 * 1 / 3 + 1) / 4)
