"""`python -m brainvis.phantom FOLDER`: write a phantom of any size, in the files of EEGCVPR40."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from brainvis.configuration import Phantom

HELP = {
    "subjects": "number of subjects",
    "images_per_class": "pictures of each class, from 3",
    "classes": "classes shown, up to 40",
    "design": "order of pictures: interleaved, or block (each class in one block)",
    "drift": "amplitude of slow drift, relative to the ongoing EEG",
    "signal": "gain of everything that pictures evoke or induce; 0 leaves noise alone",
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the phantom."""
    parser = argparse.ArgumentParser(prog="python -m brainvis.phantom", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random (default 0)")
    for field in fields(Phantom):
        option = "--" + field.name.replace("_", "-")
        value_type = type(field.default)
        parser.add_argument(
            option, type=value_type, default=field.default, help=f"{HELP[field.name]} (default {field.default})"
        )
    chosen = vars(parser.parse_args(arguments))
    folder, seed = chosen.pop("folder"), chosen.pop("seed")

    from brainvis.phantom.recording import write_phantom  # after parsing: it imports torch

    try:
        write_phantom(folder, Phantom(**chosen), seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f'Written to {folder}. Read it with load_dataset("eegcvpr40", folder="{folder}").')


if __name__ == "__main__":
    main()
