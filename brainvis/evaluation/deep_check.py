"""`python -m brainvis check --deep`: reads in full everything that was made or fetched, checking checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

from brainvis.data.phantom import changed_file
from brainvis.data.stored import check_array
from brainvis.files import (
    BrainvisError,
    DamagedError,
    data_folder,
    file_digest,
    read_all_again,
    read_json,
    readable_path,
    runs_folder,
)
from brainvis.generation import weights
from brainvis.generation.text_embeddings import check_text_embeddings
from brainvis.models.original import check_original
from brainvis.study import Study, read_product

READ_AGAIN = "It will be made again the next time it is read."


def deep_check(dataset: str, backbone: str) -> tuple[int, list[str]]:
    """How many runs and files were read, and a sentence for each damaged one, saying how to renew it. What snakemake
    can make again counts as missing from then on."""
    read_all_again()
    wrong, things = [], list(_things(dataset, backbone))
    for thing, check in tqdm(things, desc="reading everything", unit="item"):
        try:
            check(thing)
        except (BrainvisError, OSError) as error:
            wrong.append(str(error))
    return len(things), wrong


def _things(dataset: str, backbone: str) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """What to read, and how."""
    runs = runs_folder()
    marks = (file for ending in ("results.json", "*.whole") for file in runs.glob(f"*/*/*/*/{ending}"))
    for folder in sorted({file.parent for file in marks}):
        yield folder, _run
    for file in sorted(runs.glob("*/*/*/*/*.original.safetensors")):
        yield file, check_original
    for manifest in sorted(data_folder("phantom").glob("*/phantom.json")):
        yield manifest.parent, _phantom
    for name in sorted({"phantom", dataset}):
        for file in sorted(data_folder(name).rglob("*.safetensors")):
            yield file, lambda file: _made_anew(check_array, file)
    for file in sorted(data_folder("text_embeddings").glob("*.safetensors")):
        yield file, lambda file: _made_anew(check_text_embeddings, file)
    for name in sorted({"phantom", backbone}):
        yield Path(name), _backbone
    for key in weights.WEIGHTS:
        if file := weights.find_weights(key):
            yield file, lambda file, key=key: _judge(file, key)


def _run(folder: Path) -> None:
    try:
        read_product(folder)
    except (FileNotFoundError, DamagedError) as error:
        said = str(error) if isinstance(error, DamagedError) else f"{folder / 'results.json'} is missing."
        try:
            results = read_json(folder / "results.json")
            command = Study(**results["study"]).command(results["stage"])
        except (OSError, BrainvisError, KeyError, TypeError):  # not even its study can be read
            command = f"snakemake, with the choices named in {readable_path(folder.parent.parent.parent)}"
        raise DamagedError(f"{said} Make it again: {command}") from error


def _phantom(place: Path) -> None:
    if wrong := changed_file(place):
        raise DamagedError(f"{wrong} is damaged. The phantom will be made again the next time it is read.")


def _made_anew(check: Callable[[Path], None], file: Path) -> None:
    try:
        check(file)
    except DamagedError as error:
        raise DamagedError(f"{error} {READ_AGAIN}") from error


def _backbone(name: Path) -> None:
    if weights.find_backbone(str(name)):
        weights.backbone_fingerprint(str(name))


def _judge(file: Path, key: str) -> None:
    if not file_digest(file).startswith(weights.WEIGHTS[key].sha256):
        raise DamagedError(f"{file} is not the published file: download it again from {weights.WEIGHTS[key].url}")
