"""The phantom in exactly the form in which EEGCVPR40 was published, with its size and its quirks, for rehearsals.

Known: 1,996 pictures of 40 classes in one mixed list; 11,965 trials, 491 to 1,527 samples long, mostly 499 and on
average 511.6, ten with 700 or more; splits of 7970 / 1998 / 1997 and of 669 / 167 / 164 trials; no recording order.
Invented: trials are listed by subject, then by picture; one picture lacks four subjects' trials, and seven lack one.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from brainvis.phantom.spectrum import SAMPLES
from brainvis.phantom.stimuli import Session

SHORTEST, MODE, LONG, LONGEST = 491, 499, 700, 1527  # samples
FADE = 80  # samples over which one stretch of ongoing EEG fades into the next


@dataclass(frozen=True)
class PublishedForm:
    """Counts as published; use smaller ones for small rehearsals."""

    lost_images: int = 4  # each of a different class
    gaps: tuple[int, ...] = (4, 1, 1, 1, 1, 1, 1, 1)  # images that lack the trials of that many subjects
    long_trials: int = 10
    held_out: tuple[int, int] = (1998, 1997)  # trials of the validation and test parts, over all subjects
    single: tuple[int, int, int] = (669, 167, 164)  # trials of train, val, test among the first in the list


def published_session(session: Session, form: PublishedForm, rng: Generator) -> Session:
    """The session without its lost images, with the others in one mixed list."""
    classes = rng.choice(np.unique(session.labels), form.lost_images, replace=False)
    lost = [rng.choice(np.flatnonzero(session.labels == label)) for label in classes]
    kept = rng.permutation(np.setdiff1d(np.arange(len(session.labels)), lost))
    stimuli, image_ids = ([values[image] for image in kept] for values in (session.stimuli, session.image_ids))
    return replace(session, stimuli=stimuli, labels=session.labels[kept], image_ids=image_ids)


def published_trials(subjects: int, images: int, form: PublishedForm, rng: Generator) -> np.ndarray:
    """Which trials exist: (subject, image) bool."""
    there = np.ones((subjects, images), bool)
    for image, missing in zip(rng.choice(images, len(form.gaps), replace=False), form.gaps, strict=True):
        there[rng.choice(subjects, missing, replace=False), image] = False
    return there


def published_lengths(there: np.ndarray, form: PublishedForm, rng: Generator) -> np.ndarray:
    """Recorded samples of each trial, (subject, image): most often 499, 511.6 on average, with a long tail."""
    kind = rng.random(there.shape)
    short = np.where(kind < 0.45, MODE, rng.integers(SHORTEST, MODE, there.shape))
    lengths = np.where(kind < 0.53, short, np.minimum(MODE + rng.geometric(1 / 26.3, there.shape), LONG - 1))
    trials = rng.permutation(np.flatnonzero(there))
    lengths.flat[trials[: form.long_trials]] = rng.integers(LONG, LONGEST + 1, form.long_trials)
    lengths.flat[trials[0]] = LONGEST
    lengths.flat[trials[-1]] = SHORTEST
    return lengths


def published_splits(
    labels: np.ndarray, there: np.ndarray, form: PublishedForm, count: int, rng: Generator
) -> tuple[list[dict], dict]:
    """`count` splits over all subjects, and one for a single subject: part -> indices into the list of trials. They are
    made from labels (image,) and from which trials are `there` (subject, image). A part is filled with images that all
    subjects saw, as evenly over classes as possible, then with one that fewer saw if that gives the published
    number."""
    place = np.where(there, there.ravel().cumsum().reshape(there.shape) - 1, -1)  # of each trial in the list
    trials_of = there.sum(0)  # per image

    def over_all() -> dict[str, list[int]]:
        complete = trials_of == len(there)
        left = [i for seen in (complete, ~complete) for i in _mixed_classes(np.flatnonzero(seen), labels, rng)]
        parts = {"train": left, "val": [], "test": []}
        for part, size in zip(("val", "test"), form.held_out, strict=True):
            for image in left.copy():
                if trials_of[image] <= size:
                    parts[part].append(image)
                    left.remove(image)
                    size -= trials_of[image]
        return {part: np.sort(place[:, images][there[:, images]]).tolist() for part, images in parts.items()}

    first = np.argwhere(there)[: sum(form.single), 1]  # images of the first trials in the list
    mixed = _mixed_classes(np.arange(len(first)), labels[first], rng)
    _, val, test = form.single
    single = {"train": mixed[val + test :], "val": mixed[:val], "test": mixed[val : val + test]}
    return [over_all() for _ in range(count)], {part: sorted(map(int, trials)) for part, trials in single.items()}


def _mixed_classes(items: np.ndarray, labels: np.ndarray, rng: Generator) -> list[int]:
    """Items in an order in which every stretch has about equally many of each class; labels are by item."""
    items = rng.permutation(items)
    own = labels[items]
    turn = [np.count_nonzero(own[:place] == label) for place, label in enumerate(own)]  # earlier items of its class
    return items[np.lexsort((rng.random(len(items)), turn))].tolist()


def joined(stretches: list[np.ndarray], length: int) -> np.ndarray:
    """One signal (channel, length) from unrelated stretches (channel, SAMPLES); weights on a quarter circle, in the
    `FADE` samples where two overlap, preserve their power."""
    ramp = np.sin(np.linspace(0, np.pi / 2, FADE, dtype=np.float32))
    whole = stretches[0]
    for following in stretches[1:]:
        passing = whole[:, -FADE:] * ramp[::-1] + following[:, :FADE] * ramp
        whole = np.concatenate([whole[:, :-FADE], passing, following[:, FADE:]], axis=1)
    return whole[:, :length]


def stretches_needed(length: int) -> int:
    """How many stretches make up a trial: one, unless it is longer than one period can hold."""
    return 1 if length < LONG else -(-int(length) // (SAMPLES - FADE))
