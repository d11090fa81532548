"""Checks for what could inflate a result (duplicate recordings, the same picture on both sides of a split, missing
trials) and for signals that are unlikely to be EEG.

Everything is compared by content (samples, decoded pixels), not by name, and only exact matches count: a picture saved
again at another quality, or a recording shifted by one sample, is not found.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from brainvis.data.dataset import EEGDataset
from brainvis.data.source import DatasetError

EXAMPLES = 3
THREADS = 4  # decode pictures; more do not help
LOOKED_AT = 60  # trials per subject, evenly spread, whose channels are checked
CLIPPED = 0.01  # share of a channel's samples at its maximum or minimum; at least `CLIPPED_SAMPLES` of them
CLIPPED_SAMPLES = 10
SCALES = (0.01, 1000.0)  # of EEG, standardised or in microvolts: standard deviation of a typical channel
APART = 20.0  # times larger or smaller than the typical subject's


@dataclass(frozen=True)
class Finding:
    """One question about the data: how many cases there are, and the first of them."""

    question: str
    count: int
    examples: tuple[str, ...]
    leak: bool  # whether a count above zero can inflate a test score


@dataclass(frozen=True)
class Audit:
    """All findings, by short name."""

    findings: dict[str, Finding]

    @property
    def counts(self) -> dict[str, int]:
        """Only the counts, for the results."""
        return {name: finding.count for name, finding in self.findings.items()}

    @property
    def rows(self) -> list[dict[str, object]]:
        """One row per question, for a table."""
        found = self.findings.values()
        return [{"question": f.question, "count": f.count, "for example": "; ".join(f.examples)} for f in found]

    @property
    def verdict(self) -> str:
        """One sentence: whether anything found here can inflate a test score."""
        leaks = [f"{f.question}: {f.count}" for f in self.findings.values() if f.leak and f.count]
        if not leaks:
            return "Nothing was found in more than one part of the split: no score is too good for that reason."
        return "TEST SCORES MAY BE TOO GOOD. " + "; ".join(leaks) + "."


def audit(data: EEGDataset) -> Audit:
    """Run all checks on a data set: seconds for the trials, and a few more to read every picture."""
    findings: dict[str, Finding] = {}

    def note(name: str, question: str, cases: Iterable[str], leak: bool = False) -> None:
        cases = tuple(cases)
        findings[name] = Finding(question, len(cases), cases[:EXAMPLES], leak)

    used = {trial: name for name, trials in data.splits.items() for trial in trials.tolist()}
    subjects, part = data.subjects.tolist(), [used.get(trial) for trial in range(len(data))]
    pictures = [None if image < 0 else data.image_ids[image] for image in data.images.tolist()]  # by trial

    def describe(trials: list[int]) -> str:
        return " = ".join(
            f"trial {trial} (subject {subjects[trial]}, {pictures[trial] or 'no picture'}, {part[trial] or 'unused'})"
            for trial in trials[:EXAMPLES]
        )

    twins = identical_trials(data)
    note("identical_trials", "trials that occur more than once", map(describe, twins))
    for name, where, values in (
        ("identical_across_subjects", "under two subjects", subjects),
        ("identical_across_pictures", "under two pictures", pictures),
        ("identical_across_parts", "in two parts of the split", part),
    ):
        apart = (trials for trials in twins if len({values[trial] for trial in trials} - {None}) > 1)
        note(name, f"the same trial {where}", map(describe, apart), leak=values is part)

    content, missing = picture_contents(data)
    if data.has_images:
        names = (" = ".join(data.image_ids[image] for image in group) for group in _groups(content.tolist()))
        note("identical_pictures", "the same picture under two names", names)
        note("pictures_without_file", "pictures whose file is missing or damaged", missing)
    shown = defaultdict(lambda: (set(), set()))  # content -> names and parts in which it is shown
    for image, picture, name in zip(data.images.tolist(), pictures, part, strict=True):
        if picture is not None and name is not None:
            names, parts = shown[int(content[image])]
            names.add(picture)
            parts.add(name)
    in_two = [(" = ".join(sorted(names)), parts) for names, parts in shown.values() if len(parts) > 1]
    cases = (f"{names} in {' and '.join(sorted(parts, key=list(data.splits).index))}" for names, parts in in_two)
    note("pictures_across_parts", "pictures in two parts of the split", cases, leak=True)

    gaps, lacking = [(str(subject), data.image_ids[image]) for subject, image in missing_trials(data)], {}
    for subject, name in gaps:
        lacking.setdefault(name, []).append(subject)
    most = sorted(lacking, key=lambda name: -len(lacking[name]))
    cases = (f"{name}: no usable trial of subject {', '.join(lacking[name])}" for name in most)
    note("pictures_not_for_all", "pictures without a usable trial for some subjects", cases)
    cases = (f"subject {subject}, {name}" for subject, name in gaps)
    note("missing_trials", "pairs of subject and picture without a usable trial", cases)
    for name, (question, cases) in strange_signals(data).items():
        note(name, question, cases)
    return Audit(findings)


def identical_trials(data: EEGDataset) -> list[list[int]]:
    """Groups of trials whose samples are all identical, each in ascending order. One channel distinguishes almost all
    trials, so little of a mapped array is read; only trials that agree there are compared in full."""
    middle, found = data.trials[:, data.trials.shape[1] // 2].contiguous().numpy(), []  # (trial, time)
    for alike in _groups(map(_hash, middle)):
        whole = (_hash(data.trials[trial].contiguous().numpy()) for trial in alike)
        found += [[alike[place] for place in group] for group in _groups(whole)]
    return found


def picture_contents(data: EEGDataset) -> tuple[Tensor, list[str]]:
    """A number for each picture's content, shared by equal pictures, (image,) int64; and a list of what could not be
    read. Equal means the same size and the same decoded RGB pixels. An unreadable picture equals no other."""
    count = len(data.image_ids)
    if not data.has_images:
        return torch.arange(count), []

    def read(image: int) -> Hashable:
        try:
            picture = data.image(image)
        except DatasetError:
            return None
        return picture.size, _hash(picture.tobytes())

    with ThreadPoolExecutor(THREADS) as pool:
        contents = list(tqdm(pool.map(read, range(count)), total=count, desc="pictures", unit="picture"))
    missing = [name for name, content in zip(data.image_ids, contents, strict=True) if content is None]
    first: dict[Hashable, int] = {}
    numbers = [image if content is None else first.setdefault(content, image) for image, content in enumerate(contents)]
    return torch.tensor(numbers, dtype=torch.int64), missing


def missing_trials(data: EEGDataset) -> list[tuple[int, int]]:
    """Pairs (subject, image) without a usable trial, for pictures seen by at least one other subject. Empty if subjects
    do not share pictures: a picture meant for one subject is not missing from the others."""
    known = data.images >= 0
    seen = set(zip(data.subjects[known].tolist(), data.images[known].tolist(), strict=True))
    images = data.images[known].unique().tolist()
    if 2 * sum(count > 1 for count in Counter(image for _, image in seen).values()) <= len(images):
        return []
    return [(s, image) for s in data.subjects[known].unique().tolist() for image in images if (s, image) not in seen]


def distance_in_time(data: EEGDataset) -> Tensor | None:
    """Distance, in positions of the recording, from each test trial to the nearest training trial of its subject, (test
    trial,), infinite if there is none; None if the recording order is unknown. Small where a split mixes neighbours."""
    if data.order is None:
        return None
    test, train = data.splits["test"], data.splits["train"]
    distance = torch.full((len(test),), torch.inf)
    for subject in data.subjects[test].unique():
        asked = data.subjects[test] == subject
        known = data.order[train[data.subjects[train] == subject]].sort().values
        if len(known):
            place = data.order[test[asked]]
            after = torch.searchsorted(known, place).clamp(max=len(known) - 1)
            near = torch.stack([known[after], known[(after - 1).clamp(min=0)]])
            distance[asked] = (near - place).abs().amin(0).float()
    return distance


def strange_signals(data: EEGDataset) -> dict[str, tuple[str, list[str]]]:
    """Channels that are constant or clipped, and scales that EEG cannot have: name -> question, cases. Reads
    `LOOKED_AT` trials of each subject."""
    dead, clipped, scales = [], [], {}
    for subject in data.subjects.unique().tolist():
        own = torch.nonzero(data.subjects == subject).flatten()
        signals = data.trials[own[:: len(own) // LOOKED_AT + 1]]  # (trial, channel, time)
        high, low = signals.amax((0, 2)), signals.amin((0, 2))  # (channel,)
        flat = (signals.amax(2) == signals.amin(2)).all(0)
        at_edge = ((signals == high[:, None]) | (signals == low[:, None])).sum((0, 2))
        cut = ~flat & (at_edge >= max(CLIPPED_SAMPLES, CLIPPED * signals[:, 0].numel()))
        for where, found in ((flat, dead), (cut, clipped)):
            found += [f"subject {subject}, {data.channels[channel]}" for channel in torch.nonzero(where).flatten()]
        if not flat.all():
            scales[subject] = signals.double().std((0, 2))[~flat].median().item() if signals[:, 0].numel() > 1 else 1.0
    usual = sorted(scales.values())[len(scales) // 2] if scales else 1.0
    odd = [
        f"subject {subject}: standard deviation {scale:.3g}"
        for subject, scale in scales.items()
        if not SCALES[0] <= scale <= SCALES[1] or not 1 / APART <= scale / usual <= APART
    ]
    return {
        "constant_channels": ("channels that are constant in a subject's trials", dead),
        "clipped_channels": ("channels that stay at their highest or lowest value, as clipped channels do", clipped),
        "impossible_scales": (
            "subjects whose scale fits neither standardised EEG nor microvolts, or differs greatly from the others'",
            odd,
        ),
    }


def _groups(values: Iterable[Hashable]) -> list[list[int]]:
    """Positions of values that occur more than once, ordered by first occurrence."""
    places = defaultdict(list)
    for place, value in enumerate(values):
        places[value].append(place)
    return [group for group in places.values() if len(group) > 1]


def _hash(content) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
