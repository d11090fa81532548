"""`python -m brainvis.phantom FOLDER`: write a phantom of any size, in the file format of EEGCVPR40."""

import argparse
from dataclasses import fields
from pathlib import Path

from brainvis.configuration import Phantom
from brainvis.phantom.published_form import PublishedForm
from brainvis.phantom.recording import write_phantom

PUBLISHED_SIZE = {"subjects": 6, "images_per_class": 50, "classes": 40}
HELP = {
    "subjects": "number of subjects",
    "images_per_class": "number of pictures per class, at least 3",
    "classes": "number of classes shown, at most 40",
    "design": "order of pictures: interleaved, or block (each class in one block)",
    "drift": "amplitude of slow drift, relative to the ongoing EEG",
    "signal": "gain of everything that pictures evoke or induce; 0 leaves only noise",
}
PUBLISHED_HELP = """use the size and the quirks of EEGCVPR40, for a rehearsal: 6 subjects, 40 classes, 1996
pictures, 11965 trials of 491 to 1527 samples (3.2 GB, and as much again while it is being written)"""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the phantom."""
    parser = argparse.ArgumentParser(prog="python -m brainvis.phantom", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write to; must not exist yet")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--published-form", action="store_true", help=PUBLISHED_HELP)
    default = {field.name: field.default for field in fields(Phantom)}
    for name, value in default.items():
        option, text = "--" + name.replace("_", "-"), f"{HELP[name]} (default {value})"
        parser.add_argument(option, type=type(value), default=value, help=text)
    chosen = vars(parser.parse_args(arguments))
    folder, seed, published_form = (chosen.pop(name) for name in ("folder", "seed", "published_form"))
    if published_form:
        if wrong := [name for name, size in PUBLISHED_SIZE.items() if chosen[name] not in (default[name], size)]:
            parser.error(f"--published-form sets the size: leave out {', '.join(wrong)}")
        chosen |= PUBLISHED_SIZE
    try:
        write_phantom(folder, Phantom(**chosen), seed, form=PublishedForm() if published_form else None)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f'Written to {folder}. Read it with load_dataset("eegcvpr40", folder="{folder}").')


if __name__ == "__main__":
    main()
