"""The phantom's pictures: what they show is what they say, drawn smoothly and always the same."""

from collections import Counter

import numpy as np
import pytest

from brainvis.phantom.stimuli import (
    BACKGROUNDS,
    CENTRES,
    CLASS_NAMES,
    COLOUR_VALUES,
    COLOURS,
    POSITIONS,
    SHAPES,
    SHOWN_CLASSES,
    SIZES,
    WIDTHS,
    WNIDS,
    Stimulus,
    render,
    sample_stimuli,
)


def test_sixty_classes_of_which_forty_are_shown_in_balance():
    assert len(SHAPES) == 10 and len(COLOURS) == 6 and len(set(CLASS_NAMES)) == len(set(WNIDS)) == 60
    assert all(len(wnid) == 9 for wnid in WNIDS)
    assert len(set(SHOWN_CLASSES)) == 40
    shown = [CLASS_NAMES[index].split() for index in SHOWN_CLASSES]
    assert set(Counter(shape for _, shape in shown).values()) == {4}
    assert set(Counter(colour for colour, _ in shown).values()) == {6, 7}


def test_class_and_caption_say_the_attributes():
    stimulus = Stimulus(SHAPES.index("star"), COLOURS.index("red"), 0, 0, BACKGROUNDS.index("dark blue striped"))
    assert stimulus.class_name == CLASS_NAMES[stimulus.class_index] == "red star"
    assert stimulus.caption == "a small red star at the top left on a dark blue striped background"


def test_samples_are_balanced_and_repeat_with_the_seed():
    stimuli = sample_stimuli(360, np.random.default_rng(3))
    assert stimuli == sample_stimuli(360, np.random.default_rng(3)) != sample_stimuli(360, np.random.default_rng(4))
    assert set(Counter((s.position, s.background) for s in stimuli).values()) == {10}
    assert set(Counter(s.class_index for s in stimuli).values()) == {6}
    assert set(Counter(s.size for s in stimuli).values()) == {120}
    one_class = sample_stimuli(20, np.random.default_rng(0), class_index=17)
    assert {s.class_index for s in one_class} == {17} and len({(s.position, s.background) for s in one_class}) == 20
    assert sample_stimuli(0, np.random.default_rng(0)) == []


def test_a_tenth_of_the_combinations_is_held_out():
    stimuli = sample_stimuli(5000, np.random.default_rng(0))
    assert 0.08 < np.mean([s.is_held_out for s in stimuli]) < 0.12
    held_out = [s for s in stimuli if s.is_held_out]
    assert {s.class_index for s in held_out} == set(range(60)) and {s.position for s in held_out} == set(range(9))


def test_the_same_stimulus_is_the_same_picture_alone_or_among_others():
    stimuli = sample_stimuli(30, np.random.default_rng(5))
    together = render(stimuli)
    assert together.shape == (30, 64, 64, 3) and together.dtype == np.uint8
    np.testing.assert_array_equal(together, np.concatenate([render([stimulus]) for stimulus in stimuli]))
    assert render([], 64).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
@pytest.mark.parametrize("size", range(len(SIZES)), ids=SIZES)
def test_objects_are_where_and_as_large_as_they_say(shape, size):
    white = COLOURS.index("white")
    pictures = render([Stimulus(shape, white, size, position, 0) for position in range(len(POSITIONS))], 128)
    for position, picture in enumerate(pictures):
        rows, columns = np.nonzero(picture.min(-1) > 128)
        width = (max(np.ptp(rows), np.ptp(columns)) + 1) / 128
        assert 0.25 <= width and 0.75 < width / WIDTHS[size] < 1.15
        middle = (np.array([rows.min() + rows.max(), columns.min() + columns.max()]) + 1) / 2 / 128
        assert np.abs(middle - CENTRES[[position // 3, position % 3]]).max() < 0.08  # a crescent is not centred


def test_outlines_are_antialiased():
    """A small picture is nearly the average of a large one, far nearer than a picture with jagged outlines is."""
    stimuli = sample_stimuli(20, np.random.default_rng(1))
    small = render(stimuli, 64).astype(float)
    large = render(stimuli, 256).astype(float)
    averaged = large.reshape(20, 64, 4, 64, 4, 3).mean((2, 4))
    jagged = large[:, 2::4, 2::4]
    assert np.square(small - averaged).mean() < 0.3 * np.square(jagged - averaged).mean()


def test_objects_are_brighter_than_any_background():
    pictures = render([Stimulus(0, colour, 1, 4, 0) for colour in range(len(COLOURS))])
    np.testing.assert_array_equal(pictures[:, 32, 32], COLOUR_VALUES.astype(np.uint8))
    corners = render([Stimulus(0, 0, 1, 4, background) for background in range(len(BACKGROUNDS))])[:, :16]
    assert corners.max() < COLOUR_VALUES.max(-1).min() - 60
    textures = {corner.tobytes() for corner in corners}
    assert len(textures) == len(BACKGROUNDS)
