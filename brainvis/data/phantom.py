"""The phantom as a data set: generated on first use, then read like EEGCVPR40. Light to import."""

import shutil
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from tqdm.auto import tqdm

from brainvis.configuration import Configuration, Phantom
from brainvis.data.eegcvpr40_files import EEGCVPR40Settings
from brainvis.data.source import DatasetError, Source
from brainvis.files import BrainvisError, digest, file_digests, locked, read_json, read_sealed
from brainvis.phantom import phantom_identity


def load_phantom(folder: Path, configuration: Configuration, seed: int = 0, **options):  # -> EEGDataset
    """Load the phantom of `configuration.phantom` and `seed`, generated if necessary into its own folder under
    `folder`. `options` are fields of `EEGCVPR40Settings`. DatasetError: sizes that make no data set, or damaged
    files."""
    from brainvis.data.eegcvpr40 import load_published

    place = ensure_phantom(folder, configuration.phantom, seed)
    data = load_published(place, EEGCVPR40Settings.validated(options, "Data set phantom"))
    made, fingerprint = read_json(place / "phantom.json"), phantom_fingerprint(folder, configuration, seed, **options)
    channels = tuple(made["channels"])
    return replace(data, name="phantom", channels=channels, montage=made["montage"], fingerprint=fingerprint)


def phantom_fingerprint(folder: Path, configuration: Configuration, seed: int = 0, **options) -> str:
    """Identifies everything that determines the phantom; needs no files."""
    return digest({**phantom_identity(configuration.phantom, seed), "options": options})


def phantom_folder(folder: Path, phantom: Phantom, seed: int) -> Path:
    """Where the phantom with these parameters is stored: subjects x classes x images, design, seed, and a hash of them
    all."""
    size = f"{phantom.subjects}x{phantom.classes}x{phantom.images_per_class}"
    return Path(folder) / f"{size}-{phantom.design}-seed{seed}-{digest(phantom_identity(phantom, seed))[:8]}"


def ensure_phantom(folder: Path, phantom: Phantom, seed: int) -> Path:
    """Folder of the phantom. One of several processes generates it if it is missing, or if a file in it is not what was
    generated; such a folder is set aside. DatasetError if it cannot be generated."""
    place = phantom_folder(folder, phantom, seed)
    if place.is_dir() and not changed_file(place):
        return place
    from brainvis.phantom.recording import write_phantom

    with locked(place):
        if place.is_dir() and (wrong := changed_file(place)):
            aside = place.with_name(f"{place.name}.changed-{token_hex(4)}")
            place.rename(aside)
            tqdm.write(f"{wrong} is not what was generated: the phantom is made again; the old one is kept in {aside}.")
        if not place.is_dir():  # another process may have made it while this one waited
            for remains in place.parent.glob(f".{place.name}.*.tmp"):
                shutil.rmtree(remains)  # of a process that was killed: it no longer holds a lock
            try:
                write_phantom(place, phantom, seed)
            except ValueError as error:
                raise DatasetError(str(error)) from error
            except (OSError, RuntimeError) as error:  # torch has its own error for a full disk
                raise DatasetError(f"The phantom cannot be written to {place}: {error}") from error
    return place


def changed_file(place: Path) -> Path | None:
    """The first file of a phantom that is missing or not what was generated."""
    manifest = place / "phantom.json"
    try:
        written = {place / name: sha256 for name, sha256 in read_sealed(manifest)["files"].items()}
        found = file_digests(written, f"checksums of {place.name}")
    except FileNotFoundError as error:
        return Path(error.filename)
    except BrainvisError:
        return manifest
    return next((file for file in written if found[file] != written[file]), None)


def phantom_attributes(dataset) -> dict:
    """The ground truth: shape, colour, size, position and background shown in each trial of the `EEGDataset`, as
    tensors (trial,) of indices into the words of `brainvis.phantom.stimuli`."""
    import torch

    truth = read_json(dataset.image_folder.parent / "attributes.json")
    shown = [truth[dataset.image_ids[image]] for image in dataset.images.tolist()]
    return {name: torch.tensor([attributes[name] for attributes in shown]) for name in shown[0]}


PHANTOM = Source(
    load=load_phantom,
    fingerprint=phantom_fingerprint,
    subjects=lambda folder, configuration, **_: tuple(range(1, configuration.phantom.subjects + 1)),
    has_images=lambda *_, **__: True,
)
