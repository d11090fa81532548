"""What a study needs from outside: each data file and weight, found or missing, and its source.

Nothing is fetched or read that takes time: this takes a second, unless the data are to be opened.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from brainvis.configuration import Configuration
from brainvis.data import DATASETS, DatasetError, load_dataset
from brainvis.data import eegcvpr40_files as eegcvpr40
from brainvis.data import recordings_files as recordings
from brainvis.data.recordings_settings import read_settings, settings_file
from brainvis.data.source import read_about
from brainvis.files import ROOT, BrainvisError, data_folder, read_json, readable_path, readable_size, weights_folder
from brainvis.generation import GENERATORS, weights
from brainvis.generation.captioners import CAPTIONER, CAPTIONERS, find_captioner
from brainvis.generation.weights import STABLE_DIFFUSION
from brainvis.graph import load_extensions

# How much the chosen run needs an item: "needed", it cannot start without it; "useful", parts are left out; "-".
TITLES = {
    "needed": "Needed by this run",
    "useful": "Useful to this run: if one is missing, what needs it is left out, with a note",
    "-": "For other runs",
}
EVERY, PICTURES = "01-08", "05-08"  # notebooks
PERCEIVELAB = "github.com/perceivelab/eeg_visual_classification"
WORDNET = re.compile(r"n\d{8}$")  # an ImageNet class
HUB_CACHE = "the huggingface_hub cache"


@dataclass(frozen=True)
class Item:
    """One thing that a study needs or can use."""

    what: str
    found: Path | None
    size: str  # of what was found, else of what is to be fetched
    looked_in: str
    source: str  # where it comes from
    notebooks: str  # the ones that need it
    need: str  # by the chosen run: one of `TITLES`
    wrong: str = ""  # why what was found cannot be used

    @property
    def state(self) -> str:
        """The state in one word; in capitals if the chosen run cannot start."""
        word = "wrong" if self.wrong else "found" if self.found else "missing"
        return word.upper() if self.need == "needed" and word != "found" else word

    @property
    def place(self) -> str:
        """Where it is, what is wrong with it, or where it was looked for."""
        return self.wrong or (readable_path(self.found) if self.found else self.looked_in)


def check(dataset: str = "phantom", backbone: str = "phantom", opened: bool = False) -> list[Item]:
    """Every data file and weight, those needed by this data set and backbone first; DatasetError: no such data set.
    With `opened`, data that seem to be present are opened as a run opens them, which reveals problems inside: the first
    time, this takes as long as reading them."""
    load_extensions()
    if dataset not in DATASETS:
        raise DatasetError(f"Unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}.")
    items, wrong = _items(dataset, backbone), ""
    if opened and dataset != "phantom" and all(item.state == "found" for item in _first(items)):
        _, wrong = _tried(lambda: load_dataset(dataset).checked_for("clean"))
        items = _items(dataset, backbone)  # reading them has added information
    if wrong:
        place = items.index(_first(items)[0])
        items[place] = replace(items[place], wrong=wrong)
    return items


def _first(items: list[Item]) -> list[Item]:
    """The data items that the chosen run needs."""
    return [item for item in items if item.need == "needed" and not item.what.startswith("backbone")]


def _items(dataset: str, backbone: str) -> list[Item]:
    described = {"eegcvpr40": _eegcvpr40, "recordings": _recordings}
    items = []
    for name in DATASETS:
        own = described.get(name, partial(_dataset, name))(data_folder(name))
        items += own if name == dataset else (replace(item, need="-") for item in own)
    pictures = DATASETS[dataset].has_images(data_folder(dataset), Configuration())
    pictures |= any(item.what.endswith("pictures") and item.need != "-" for item in items)  # even if they are missing
    return sorted([*items, *_backbones(backbone, pictures)], key=lambda item: list(TITLES).index(item.need))


def command(dataset: str, backbone: str) -> str:
    """The command that starts the study of all subjects of a data set that can be opened."""
    chosen = {name: value for name, value in (("dataset", dataset), ("backbone", backbone)) if value != "phantom"}
    words = [f"{name}={value}" for name, value in chosen.items()]
    words += ["preset=paper"] if chosen and dataset != "recordings" else []
    if dataset != "phantom":
        subjects = DATASETS[dataset].subjects(data_folder(dataset), Configuration())
        words.append(f"'subjects=[{','.join(map(str, subjects))}]'")
    return "make reproduce" + f' ARGS="--config {" ".join(words)}"' * bool(words)


def can_start(items: Sequence[Item]) -> bool:
    """Whether everything that the chosen run cannot do without is present."""
    return all(item.state == "found" for item in items if item.need == "needed")


def rows(items: Sequence[Item]) -> list[dict[str, str]]:
    """The items in words, column by column."""
    return [
        {"chosen run": item.need, "what": item.what, "state": item.state, "size": item.size}
        | {"notebooks": item.notebooks, "where": item.place, "comes from": item.source}
        for item in items
    ]


def as_text(items: Sequence[Item]) -> str:
    """The table for a terminal: each item, where it is or belongs, and its source if it is missing."""
    lines = [f"{'state':<9}{'what, and where it is or should be':<66}{'size':>8}   notebooks"]
    for need, group in groupby(items, lambda item: item.need):
        lines += ["", TITLES[need], "-" * len(TITLES[need])]
        for item in group:
            lines += [f"{item.state:<9}{item.what:<66}{item.size:>8}   {item.notebooks}", f"{'':<9}{item.place}"]
            lines += [f"{'':<9}from {item.source}"] if item.state != "found" else []
    return "\n".join(lines)


def _file(what: str, file: Path, size: str, *rest: str) -> Item:
    """An item for a file; `rest` holds the remaining fields of the item, from its source on."""
    found, size = (file, readable_size(file.stat().st_size)) if file.is_file() else (None, size)
    return Item(what, found, size, readable_path(file), *rest)


def _tried(function: Callable, *arguments) -> tuple[Any, str]:
    """The return value of a function, or else why it failed."""
    try:
        return function(*arguments), ""
    except BrainvisError as error:
        return None, str(error)


def _dataset(name: str, folder: Path) -> Iterator[Item]:
    """The phantom, or a data set that a user added to the table; what it needs if it is the chosen one, as below."""
    what, made = "phantom: simulated EEG and pictures", "made on first use"
    if name != "phantom":
        _, wrong = _tried(DATASETS[name].fingerprint, folder, Configuration())
        yield Item(f"data set: {name}", folder, "-", "", "brainvis.data.DATASETS", EVERY, "needed", wrong)
    elif folder.is_dir():
        yield Item(what, folder, "1 GB", "", made, EVERY, "needed")
    else:
        yield Item(f"{what}, {made}", ROOT / "brainvis" / "phantom", "1 GB", "", made, EVERY, "needed")


def _eegcvpr40(folder: Path) -> Iterator[Item]:
    settings, wrong = _tried(eegcvpr40.read_settings, folder, {})
    settings = settings or eegcvpr40.EEGCVPR40Settings()
    for band, name in eegcvpr40.EEG_FILES.items():
        need = "needed" if band == settings.band else "-"
        yield _file(f"EEGCVPR40: EEG, band {band}", folder / name, "3.1 GB", PERCEIVELAB, EVERY, need, wrong)
    for split in ("all", "single"):
        file, need = folder / eegcvpr40.SPLIT_FILES[split], "needed" if settings.split.startswith(split) else "-"
        yield _file(f"EEGCVPR40: splits, {split}", file, "0.2 MB", PERCEIVELAB, EVERY, need)
    about = read_about(eegcvpr40.array_file(folder, settings))  # empty until the EEG file has been read
    if about and not about["images"]:
        return  # they name no pictures
    published, shown = all(map(WORDNET.match, about.get("labels", []))), about.get("images", [])
    pictures, captions = folder / "image", folder / "captions.json"
    found, place = pictures if pictures.is_dir() else None, readable_path(pictures) + "/<WordNet id>/<name>.JPEG"
    lacking = [image for image in shown if not any(pictures.glob(f"{image.split('_')[0]}/{image}.*"))] if found else []
    wrong = f"{len(lacking)} of {len(shown)} pictures are missing, the first is {lacking[0]}" if lacking else ""
    source, count, size = "ImageNet (ILSVRC 2012, training images)", 1996, "0.2 GB"
    if not published:
        source, count, size, place = (
            "you",
            len(shown),
            "-",
            place.replace("<WordNet id>/<name>.JPEG", "<class>/<name>.png"),
        )
    yield Item(f"EEGCVPR40: {count:,} pictures", found, size, place, source, PICTURES, "useful", wrong)
    known, _ = _tried(read_json, captions, {})
    lacking = [image for image in shown if image not in (known or {})]
    wrong = f"{len(lacking)} of {len(shown)} pictures have no caption" if captions.is_file() and lacking else ""
    source, need = "python -m brainvis caption --dataset eegcvpr40", "needed" if found else "useful"
    yield _file("EEGCVPR40: captions", captions, "0.2 MB", source, PICTURES, need, wrong)
    need = "useful" if wrong or not captions.is_file() else "-"  # only for making the captions
    source = f'the hub: downloaded by that command, or by: hf download {CAPTIONER} --exclude "*.bin" --exclude "*.h5"'
    size = readable_size(CAPTIONERS[CAPTIONER])
    yield Item(f"captioner: {CAPTIONER}", find_captioner(CAPTIONER), size, HUB_CACHE, source, "before 05", need)


def _recordings(folder: Path) -> Iterator[Item]:
    found, file = folder if folder.is_dir() else None, settings_file(folder)
    values, bad = _tried(read_settings, folder, None, True)
    survey, wrong = _tried(recordings.survey, folder, values and values.task) if found else (None, "")
    files = [recording.file for recording in survey.recordings] if survey else []
    size = readable_size(sum(file.stat().st_size for file in files)) if files else "-"
    kinds = {recording.kind for recording in survey.recordings} if survey else set()
    named = {"bids": " of a BIDS data set", "epochs": " of ready epochs", "array": " of arrays"}
    what = f"recordings: {len(files)} files{named.get(''.join(kinds), '')}" if files else "recordings of your own"
    yield Item(what, found, size, readable_path(folder) + "/<subject>/", "you", "01-04", "needed", wrong)
    if file.is_file() or not kinds or not kinds <= {"bids", "epochs"}:
        yield _file(
            f"recordings: {file.name}", file, "-", "brainvis/data/recordings_example.yml", "01-04", "needed", bad
        )
    for note in survey.notes if survey else ():
        yield Item("recordings: files that are not read", folder, "-", "", "you", "01-04", "useful", note)


def _backbones(chosen: str, drawn: bool) -> Iterator[Item]:
    """The text-to-image models, and the published networks that judge pictures of a backbone without its own judge."""
    judged = False
    for name in dict.fromkeys((chosen, *GENERATORS)):
        title, size, looked_in, source = name, "-", "", "this repository" if name == "phantom" else ""
        place, wrong = _tried(weights.find_backbone, name)
        if name == STABLE_DIFFUSION.name:
            title, size = STABLE_DIFFUSION.title, readable_size(STABLE_DIFFUSION.size)
            looked_in = f"{readable_path(STABLE_DIFFUSION.places[0])}, or {HUB_CACHE}"
            source = f"the hub: downloaded on first use, or by: {STABLE_DIFFUSION.command}"
        elif name in GENERATORS and name != "phantom":  # a user added it to the table
            place, wrong = Path("brainvis.generation.GENERATORS"), ""
        if place and place.exists():
            size = readable_size(sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file()))
            judged |= name == chosen and (place / "judge").is_dir()
        need = "needed" if name == chosen else "-"
        yield Item(f"backbone: {title}", place, size, looked_in, source, PICTURES, need, wrong)
    for key, published in weights.WEIGHTS.items():
        place, need = weights.find_weights(key), "useful" if drawn and not judged else "-"
        size = readable_size(place.stat().st_size if place else published.size)
        looked_in = f"{readable_path(weights_folder() / published.file)}, or the {published.source} cache"
        yield Item(f"judge: {published.name}", place, size, looked_in, published.url, "06", need)
