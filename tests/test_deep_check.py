"""`python -m brainvis check --deep`: everything is read, what is damaged is named, and what renews it."""

import re

import pytest
import torch

from brainvis.__main__ import main
from brainvis.configuration import PRESETS
from brainvis.data import load_dataset
from brainvis.files import BrainvisError, DamagedError, data_folder
from brainvis.files.running import MADE
from brainvis.generation.text_embeddings import TextEmbeddings, build_text_embeddings, check_text_embeddings
from brainvis.graph import mark
from brainvis.study import Study


class Encoder:
    """A generator that only encodes texts."""

    fingerprint, conditioning_shape = "encoder", (2, 4)

    def text_embeddings(self, texts):
        return torch.arange(8.0 * len(texts)).reshape(len(texts), 2, 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run, a phantom with its converted EEG, and text embeddings."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("RUNS", "DATA", "FIGURES"):
            monkeypatch.setenv(f"BRAINVIS_{name}", str(folder / name.lower()))
        load_dataset("phantom", configuration=PRESETS["smoke"])
        study = Study(preset="smoke")
        study.save("fusion", {"value": 1}, weights={"fused": torch.nn.Linear(3, 2)}, arrays={"labels": torch.arange(9)})
        build_text_embeddings(Encoder(), ["a red star"], data_folder("text_embeddings") / "encoder.safetensors")
        yield study, folder


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return bytes(content)


def test_all_is_well(made, capsys):
    assert main(["check", "--deep"]) == 0
    assert "All 5 runs, data files and weight files are intact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("runs/*/*/*/fusion/fused.safetensors", "Make it again: mkdir -p .* papermill notebooks/04_fusion.ipynb"),
        ("runs/*/*/*/fusion/results.json", "Make it again: "),
        ("data/phantom/*/captions.json", "made again the next time it is read"),
        ("data/phantom/*/image/*/*.png", "made again the next time it is read"),
        ("data/phantom/*/*.safetensors", "made again the next time it is read"),
        ("data/text_embeddings/*.safetensors", "made again the next time it is read"),
    ],
)
def test_what_is_damaged_is_named_with_what_renews_it(made, capsys, pattern, words):
    study, folder = made
    file = sorted(folder.glob(pattern))[0]
    content, whole = file.read_bytes(), study.folder("fusion") / mark(study.fingerprint("fusion"))
    flip(file)
    (whole.parent / MADE).write_text(whole.name)
    try:
        assert main(["check", "--deep"]) == 1
        said = capsys.readouterr().out
        assert file.name in said
        assert re.search(words, said), said
        if "fusion" in pattern:
            assert not whole.exists()  # so that snakemake makes it again
            assert not (whole.parent / MADE).exists()  # and takes it for made by nobody
            with pytest.raises(BrainvisError, match=file.name):
                study.load("fusion")
    finally:
        file.write_bytes(content)
        whole.touch()


def test_a_run_without_its_results_is_no_run(made, capsys):
    study, _ = made
    folder, whole = study.folder("alignment"), study.folder("alignment") / mark(study.fingerprint("alignment"))
    folder.mkdir(parents=True)
    whole.touch()
    assert main(["check", "--deep"]) == 1 and "results.json is missing" in capsys.readouterr().out
    assert not whole.exists()
    folder.rmdir()


def test_every_byte_of_text_embeddings_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path))
    file = tmp_path / "encoder.safetensors"
    build_text_embeddings(Encoder(), ["a red star"], file)
    content = file.read_bytes()
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedError):
            check_text_embeddings(file)


def test_text_embeddings_that_are_damaged_are_encoded_anew(made):
    _, folder = made
    file = folder / "data" / "text_embeddings" / "encoder.safetensors"
    damaged = flip(file)
    found = build_text_embeddings(Encoder(), ["a red star"], file)
    assert isinstance(found, TextEmbeddings) and file.read_bytes() != damaged
    assert torch.equal(found.embeddings.float(), torch.arange(8.0).reshape(1, 2, 4))
