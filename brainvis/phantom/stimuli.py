"""The phantom's pictures: one coloured shape on a dark background, with its class name, caption and attributes.

Ten shapes in six colours make 60 classes. Within a class, size, position, background, jitter and rotation vary. The
caption, one sentence of at most 14 words, states everything that is shown.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.random import Generator

from brainvis.configuration import Phantom

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow", "hourglass")
COLOURS = ("red", "yellow", "green", "blue", "pink", "white")
SIZES = ("small", "medium", "large")
POSITIONS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
BACKGROUNDS = ("plain black", "dark blue striped", "grey checkered", "brown dotted")

# Classes are ordered by colour, then by shape: class = colour * 10 + shape.
CLASS_NAMES = tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
WNIDS = tuple(f"p{index:08d}" for index in range(len(CLASS_NAMES)))

# The 40 classes shown to subjects: every shape in four colours, every colour with six or seven shapes.
SHOWN_CLASSES = tuple(place for place in range(len(WNIDS)) if (place // len(SHAPES) - place % len(SHAPES)) % 3)

COLOUR_VALUES = np.array(
    [(225, 40, 40), (245, 210, 40), (40, 190, 70), (60, 110, 250), (255, 130, 195), (245, 245, 245)], np.float32
)
WIDTHS = np.array([0.34, 0.44, 0.54], np.float32)  # of the object, as a fraction of the picture's width
CENTRES = np.array([0.28, 0.5, 0.72], np.float32)  # of the 3 x 3 positions, as fractions of the width
JITTER = 0.02  # largest shift of a centre, fraction of the width
ROTATION = 8.0  # largest rotation, degrees
# Each background is a dark base, a lighter tone, and a texture at a fixed phase that blends the two.
BACKGROUND_BASE = np.array([(14, 14, 16), (18, 26, 62), (54, 54, 56), (62, 40, 22)], np.float32)
BACKGROUND_TONE = np.array([(14, 14, 16), (34, 48, 104), (78, 78, 80), (98, 68, 40)], np.float32)


@dataclass(frozen=True)
class Stimulus:
    """What one picture shows; the attributes are indices into the tuples of words above."""

    shape: int
    colour: int
    size: int
    position: int
    background: int
    jitter: tuple[float, float] = (0.0, 0.0)  # shift of the centre (right, down), fractions of the width
    rotation: float = 0.0  # degrees, counter-clockwise

    @property
    def class_index(self) -> int:
        return self.colour * len(SHAPES) + self.shape

    @property
    def class_name(self) -> str:  # such as "red star", the coarse semantics
        return CLASS_NAMES[self.class_index]

    @property
    def caption(self) -> str:  # the fine semantics
        what = f"a {SIZES[self.size]} {self.class_name} at the {POSITIONS[self.position]}"
        return f"{what} on a {BACKGROUNDS[self.background]} background"

    @property
    def is_held_out(self) -> bool:
        """Whether this combination was held out from the backbone's training: a tenth of 6480, by a multiplicative
        hash."""
        place = (self.size * len(POSITIONS) + self.position) * len(BACKGROUNDS) + self.background
        combination = self.class_index * (len(SIZES) * len(POSITIONS) * len(BACKGROUNDS)) + place
        return (combination * 2654435761 % 2**32) >> 16 < 2**16 // 10


def sample_stimuli(count: int, rng: Generator, class_index: int | None = None) -> list[Stimulus]:
    """Draw stimuli at random, of one class or of all. Positions, backgrounds, sizes and (without `class_index`) classes
    each occur equally often, as far as `count` allows; 36 in a row show all pairs of a position and a background."""

    def balanced(levels: int) -> np.ndarray:
        """Permutations of 0 .. levels - 1, one after another, up to `count`."""
        permutations = [rng.permutation(levels) for _ in range(-(-count // levels))]
        return np.concatenate([np.empty(0, int), *permutations])[:count]

    places = balanced(len(POSITIONS) * len(BACKGROUNDS))
    sizes = balanced(len(SIZES))
    classes = balanced(len(CLASS_NAMES)) if class_index is None else np.full(count, class_index)
    jitters = rng.uniform(-JITTER, JITTER, (count, 2))
    rotations = rng.uniform(-ROTATION, ROTATION, count)
    columns = (values.tolist() for values in (classes, sizes, places, jitters, rotations))
    return [
        Stimulus(kind % len(SHAPES), kind // len(SHAPES), size, *divmod(place, len(BACKGROUNDS)), tuple(jitter), turn)
        for kind, size, place, jitter, turn in zip(*columns, strict=True)
    ]


@dataclass(frozen=True)
class Session:
    """What is shown, before anything is recorded; trials of a subject are numbered by image."""

    stimuli: list[Stimulus]  # by image
    labels: np.ndarray  # (image,) 0 .. classes - 1
    image_ids: list[str]


def plan_session(phantom: Phantom, rng: Generator) -> Session:
    """Choose the pictures, which all subjects see."""
    shown, numbers = SHOWN_CLASSES[: phantom.classes], range(phantom.images_per_class)
    return Session(
        stimuli=[stimulus for index in shown for stimulus in sample_stimuli(len(numbers), rng, index)],
        labels=np.repeat(np.arange(len(shown)), len(numbers)),
        image_ids=[f"{WNIDS[index]}_{number:04d}" for index in shown for number in numbers],
    )


def render(stimuli: list[Stimulus], resolution: int = 64) -> np.ndarray:
    """Draw stimuli, antialiased: uint8 (n, resolution, resolution, 3)."""
    backgrounds = _backgrounds(resolution)
    pictures = [_draw(stimulus, backgrounds) for stimulus in stimuli]
    return np.array(pictures, np.uint8).reshape(-1, resolution, resolution, 3)


def _draw(stimulus: Stimulus, backgrounds: np.ndarray) -> np.ndarray:
    resolution = backgrounds.shape[1]
    radius = WIDTHS[stimulus.size] / 2
    row, column = divmod(stimulus.position, 3)
    centre = np.array([CENTRES[column], CENTRES[row]]) + np.array(stimulus.jitter)
    centre = np.clip(centre, radius, 1 - radius)  # the object stays in the frame
    angle = np.deg2rad(stimulus.rotation)
    # Pixel centres in the object's frame: unit = its radius, x to the right, y upwards.
    grid = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    x = ((grid - centre[0]) / radius).astype(np.float32)[None, :]
    y = ((centre[1] - grid) / radius).astype(np.float32)[:, None]
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = cosine * x + sine * y, cosine * y - sine * x  # (resolution, resolution)
    # Coverage goes from full to none within a signed distance of half a pixel on either side of the outline.
    coverage = np.clip(0.5 - _distance(SHAPES[stimulus.shape], x, y) * (radius * resolution), 0, 1)[..., None]
    behind = backgrounds[stimulus.background]
    return (behind + coverage * (COLOUR_VALUES[stimulus.colour] - behind) + 0.5).astype(np.uint8)


def _backgrounds(resolution: int) -> np.ndarray:
    """The four backgrounds, float32 (4, resolution, resolution, 3): plain, striped, checkered, dotted."""
    grid = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution * 8  # eight periods across the width
    x, y = grid[None, :], grid[:, None]

    def step(value: np.ndarray) -> np.ndarray:  # soft, two pixels wide at a resolution of 64
        return np.clip(0.5 + 4 * value, 0, 1)

    plain = np.zeros((resolution, resolution), np.float32)
    stripes = step(np.abs((x + y) % 2 - 1) - 0.5)
    checks = np.abs(step(np.abs(x % 2 - 1) - 0.5) - step(np.abs(y % 2 - 1) - 0.5))
    dots = step(0.3 - np.hypot(x % 1 - 0.5, y % 1 - 0.5))
    texture = np.stack([plain, stripes, checks, dots])[..., None]
    return BACKGROUND_BASE[:, None, None] + texture * (BACKGROUND_TONE - BACKGROUND_BASE)[:, None, None]


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape's outline, negative inside; shapes lie within about the unit disc. Corners are those
    of half-planes, whose outline is exact; more than a pixel away from it only the sign matters."""
    across, up = np.abs(x), np.abs(y)
    match shape:
        case "circle":
            return np.hypot(x, y) - 0.95
        case "square":
            return np.maximum(across, up) - 0.8
        case "triangle":
            return _polygon(x, y, (-0.93, -0.72), (0.93, -0.72), (0.0, 0.95))
        case "star":  # within a pentagram if at most one of its five lines separates a point from the centre
            first = second = np.full_like(x, -np.inf)
            for angle in np.pi / 2 + 2 * np.pi * np.arange(5) / 5:
                line = -x * np.float32(np.cos(angle)) - y * np.float32(np.sin(angle)) - 0.33
                second = np.maximum(second, np.minimum(first, line))
                first = np.maximum(first, line)
            return second
        case "cross":
            return np.maximum(np.maximum(across, up) - 0.95, np.minimum(across, up) - 0.3)
        case "ring":
            return np.abs(np.hypot(x, y) - 0.75) - 0.22
        case "heart":
            lobe = np.hypot(across - 0.46, y - 0.33) - 0.5
            tip = np.maximum((across - y) * np.float32(np.sqrt(0.5)) - 0.594, y - 0.33)
            return np.minimum(lobe, np.maximum(tip, across - 0.84))
        case "crescent":
            return np.maximum(np.hypot(x, y) - 0.97, 0.8 - np.hypot(x - 0.5, y))
        case "arrow":
            head = _polygon(x, y, (0.05, -0.85), (1.0, 0.0), (0.05, 0.85))
            return np.minimum(head, np.maximum(np.maximum(up - 0.3, x - 0.1), -0.95 - x))
        case "hourglass":
            return np.maximum(up - 0.92, (across - 0.78 * up - 0.06) * 0.79)
    raise ValueError(f"No shape {shape!r}: there are {', '.join(SHAPES)}.")


def _polygon(x: np.ndarray, y: np.ndarray, *corners: tuple[float, float]) -> np.ndarray:
    """Signed distance to a convex polygon, its corners counter-clockwise."""
    inside = np.float32(-np.inf)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = np.hypot(x1 - x0, y1 - y0)
        edge = x * ((y1 - y0) / length) - y * ((x1 - x0) / length) - (x0 * (y1 - y0) - y0 * (x1 - x0)) / length
        inside = np.maximum(inside, edge)
    return inside
