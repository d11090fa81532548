"""The phantom's pictures: one coloured shape on a dark background, with its class name, caption and attributes.

Ten shapes in six colours make 60 classes ("red star"). Within a class, size, position, background, jitter and rotation
vary. Everything that is shown can be said in one sentence of at most 14 words, the caption.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow", "hourglass")
COLOURS = ("red", "yellow", "green", "blue", "pink", "white")
SIZES = ("small", "medium", "large")
POSITIONS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
BACKGROUNDS = ("plain black", "dark blue striped", "grey checkered", "brown dotted")

# Classes are ordered by colour, then by shape: class = colour * 10 + shape.
CLASS_NAMES = tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
WNIDS = tuple(f"p{index:08d}" for index in range(len(CLASS_NAMES)))

# The 40 classes shown to subjects: every shape in four colours, every colour with six or seven shapes.
SHOWN_CLASSES = tuple(
    colour * len(SHAPES) + shape
    for colour, shape in product(range(len(COLOURS)), range(len(SHAPES)))
    if (colour - shape) % 3 != 0
)

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
        """0 to 59."""
        return self.colour * len(SHAPES) + self.shape

    @property
    def class_name(self) -> str:
        """The coarse semantics, such as "red star"."""
        return CLASS_NAMES[self.class_index]

    @property
    def caption(self) -> str:
        """The fine semantics, such as "a small red star at the top left on a dark blue striped background"."""
        return (
            f"a {SIZES[self.size]} {self.class_name} at the {POSITIONS[self.position]}"
            f" on a {BACKGROUNDS[self.background]} background"
        )

    @property
    def combination(self) -> int:
        """Index of (class, size, position, background), 0 to 6479."""
        within = (self.size * len(POSITIONS) + self.position) * len(BACKGROUNDS) + self.background
        return self.class_index * (len(SIZES) * len(POSITIONS) * len(BACKGROUNDS)) + within

    @property
    def is_held_out(self) -> bool:
        """Whether the backbone never saw this combination in training (a tenth of all, by a multiplicative hash)."""
        return (self.combination * 2654435761 % 2**32) >> 16 < 2**16 // 10


def sample_stimuli(count: int, rng: np.random.Generator, class_index: int | None = None) -> list[Stimulus]:
    """Draw stimuli at random, of one class or of all.

    Positions, backgrounds, sizes and (without `class_index`) classes each occur equally often as far as `count` allows;
    every 36 draws in a row show all pairs of a position and a background.
    """

    def balanced(levels: int) -> np.ndarray:
        """Permutations of 0 .. levels - 1, one after the other, up to `count`."""
        return np.concatenate([rng.permutation(levels) for _ in range(-(-count // levels))] or [np.empty(0, int)])[
            :count
        ]

    places = balanced(len(POSITIONS) * len(BACKGROUNDS))
    sizes = balanced(len(SIZES))
    classes = balanced(len(CLASS_NAMES)) if class_index is None else np.full(count, class_index)
    jitters = rng.uniform(-JITTER, JITTER, (count, 2))
    rotations = rng.uniform(-ROTATION, ROTATION, count)
    return [
        Stimulus(
            shape=int(classes[i]) % len(SHAPES),
            colour=int(classes[i]) // len(SHAPES),
            size=int(sizes[i]),
            position=int(places[i]) // len(BACKGROUNDS),
            background=int(places[i]) % len(BACKGROUNDS),
            jitter=(float(jitters[i, 0]), float(jitters[i, 1])),
            rotation=float(rotations[i]),
        )
        for i in range(count)
    ]


def render(stimuli: list[Stimulus], resolution: int = 64) -> np.ndarray:
    """Draw stimuli, antialiased: uint8 (n, resolution, resolution, 3)."""
    backgrounds = _backgrounds(resolution)  # (4, resolution, resolution, 3)
    pictures = np.empty((len(stimuli), resolution, resolution, 3), np.uint8)
    shapes = np.array([stimulus.shape for stimulus in stimuli], int)
    for shape in range(len(SHAPES)):
        members = np.flatnonzero(shapes == shape)
        for start in range(0, len(members), 64):  # 64 pictures at a time stay in the cache
            chunk = members[start : start + 64]
            pictures[chunk] = _draw([stimuli[i] for i in chunk], DISTANCES[shape], backgrounds, resolution)
    return pictures


def _draw(stimuli: list[Stimulus], distance, backgrounds: np.ndarray, resolution: int) -> np.ndarray:
    """Pictures of stimuli of one shape, uint8 (n, resolution, resolution, 3)."""
    radius = WIDTHS[[s.size for s in stimuli]] / 2
    positions = np.array([s.position for s in stimuli])
    centres = np.stack([CENTRES[positions % 3], CENTRES[positions // 3]], -1) + np.array([s.jitter for s in stimuli])
    centres = np.clip(centres, radius[:, None], 1 - radius[:, None])  # the object stays in the frame
    angle = np.deg2rad([s.rotation for s in stimuli])

    # Pixel centres in the object's frame: unit = its radius, x to the right, y upwards.
    grid = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    x = ((grid - centres[:, :1]) / radius[:, None]).astype(np.float32)[:, None, :]  # (n, 1, resolution)
    y = ((centres[:, 1:] - grid) / radius[:, None]).astype(np.float32)[:, :, None]  # (n, resolution, 1)
    cosine, sine = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    x, y = cosine * x + sine * y, cosine * y - sine * x  # (n, resolution, resolution)

    # A signed distance of half a pixel on either side of the outline goes from full to no coverage.
    coverage = np.clip(0.5 - distance(x, y) * (radius * resolution)[:, None, None], 0, 1)[..., None]
    behind = backgrounds[[s.background for s in stimuli]]
    colour = COLOUR_VALUES[[s.colour for s in stimuli]][:, None, None, :]
    return (behind + coverage * (colour - behind) + 0.5).astype(np.uint8)


def _backgrounds(resolution: int) -> np.ndarray:
    """The four backgrounds, float32 (4, resolution, resolution, 3): plain, striped, checkered, dotted."""
    grid = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution * 8  # eight periods to the width
    x, y = grid[None, :], grid[:, None]

    def step(value: np.ndarray) -> np.ndarray:
        """Soft step, two pixels wide at a resolution of 64."""
        return np.clip(0.5 + 4 * value, 0, 1)

    distance_to_dot = np.hypot(x % 1 - 0.5, y % 1 - 0.5)
    texture = np.stack(
        [
            np.zeros((resolution, resolution), np.float32),
            step(np.abs((x + y) % 2 - 1) - 0.5),
            np.abs(step(np.abs(x % 2 - 1) - 0.5) - step(np.abs(y % 2 - 1) - 0.5)),
            step(0.3 - distance_to_dot),
        ]
    )[..., None]
    return BACKGROUND_BASE[:, None, None] + texture * (BACKGROUND_TONE - BACKGROUND_BASE)[:, None, None]


# Signed distances of the shapes, negative inside, within about the unit disc. Corners are those of intersected half
# planes, which is the exact outline; beyond a pixel from it only the sign counts.


def _polygon(x: np.ndarray, y: np.ndarray, *corners: tuple[float, float]) -> np.ndarray:
    """A convex polygon, its corners counter-clockwise."""
    inside = None
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = np.hypot(x1 - x0, y1 - y0)
        edge = x * ((y1 - y0) / length) - y * ((x1 - x0) / length) - (x0 * (y1 - y0) - y0 * (x1 - x0)) / length
        inside = edge if inside is None else np.maximum(inside, edge)
    return inside


def _circle(x, y):
    return np.hypot(x, y) - 0.95


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x, y):
    return _polygon(x, y, (-0.93, -0.72), (0.93, -0.72), (0.0, 0.95))


def _star(x, y):
    # A point is in a pentagram if at most one of its five lines separates it from the centre.
    angles = np.pi / 2 + 2 * np.pi * np.arange(5) / 5
    first = second = np.full_like(x, -np.inf)
    for angle in angles:
        line = -x * np.float32(np.cos(angle)) - y * np.float32(np.sin(angle)) - 0.33
        second = np.maximum(second, np.minimum(first, line))
        first = np.maximum(first, line)
    return second


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.3)


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.75) - 0.22


def _heart(x, y):
    x = np.abs(x)
    lobe = np.hypot(x - 0.46, y - 0.33) - 0.5
    tip = np.maximum((x - y) * np.float32(np.sqrt(0.5)) - 0.594, y - 0.33)
    return np.minimum(lobe, np.maximum(tip, x - 0.84))


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 0.97, 0.8 - np.hypot(x - 0.5, y))


def _arrow(x, y):
    head = _polygon(x, y, (0.05, -0.85), (1.0, 0.0), (0.05, 0.85))
    shaft = np.maximum(np.maximum(np.abs(y) - 0.3, x - 0.1), -0.95 - x)
    return np.minimum(head, shaft)


def _hourglass(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(y - 0.92, (x - 0.78 * y - 0.06) * 0.79)


DISTANCES = (_circle, _square, _triangle, _star, _cross, _ring, _heart, _crescent, _arrow, _hourglass)
