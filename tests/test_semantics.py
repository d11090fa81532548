"""Text embeddings: encoded once, kept in a file of their backbone; retrieval and position between coarse and fine."""

import json
import logging.handlers
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_backbone import TOKENS, WIDTH, write_backbone
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from brainvis.generation.stable_diffusion import StableDiffusion, load_stable_diffusion
from brainvis.generation.text_embeddings import (
    TextEmbeddings,
    _checksums,
    average_embeddings,
    build_text_embeddings,
    interpolation_position,
    retrieval_ranks,
    text_cosines,
)

TEXTS = ["red star", "blue ring", "red star", "a small red star at the top left"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_stable_diffusion(
        write_backbone(tmp_path_factory.mktemp("backbone") / "tiny", judge=False, clip=False), "cpu"
    )


@pytest.fixture
def encoded(monkeypatch):
    """The texts that the encoder was asked for."""
    asked = []
    original = StableDiffusion.text_embeddings

    def listen(self, texts, *arguments, **settings):
        asked.extend(texts)
        return original(self, texts, *arguments, **settings)

    monkeypatch.setattr(StableDiffusion, "text_embeddings", listen)
    return asked


def test_every_different_text_is_encoded_once(backbone, encoded):
    embeddings = build_text_embeddings(backbone, TEXTS)
    assert sorted(encoded) == sorted(set(TEXTS))
    assert embeddings.embeddings.shape == (3, TOKENS, WIDTH)


def test_lookup_follows_the_order_and_repetitions_asked_for(backbone):
    asked = ["blue ring", "red star", "red star"]
    found = build_text_embeddings(backbone, TEXTS).lookup(asked)
    assert torch.equal(found, backbone.text_embeddings(asked).half())
    assert torch.equal(found[1], found[2])


def test_many_texts_are_encoded_in_pieces_and_come_out_the_same(backbone, monkeypatch, tmp_path):
    whole = build_text_embeddings(backbone, TEXTS)
    monkeypatch.setattr("brainvis.generation.text_embeddings.ENCODED", 1)
    build_text_embeddings(backbone, TEXTS[:1], tmp_path / "texts.safetensors")
    pieces = build_text_embeddings(backbone, TEXTS, tmp_path / "texts.safetensors")
    assert pieces.texts == whole.texts and len(whole.texts) == 3
    torch.testing.assert_close(pieces.embeddings, whole.embeddings)


def test_lookup_of_a_text_that_was_not_encoded_names_it(backbone):
    with pytest.raises(ValueError, match=r"1 texts were never encoded \(the first is 'green square'\)"):
        build_text_embeddings(backbone, TEXTS).lookup(["red star", "green square"])


def test_a_matching_file_is_used_again_and_gives_the_same_numbers(backbone, encoded, tmp_path):
    file = tmp_path / "folder" / "embeddings.safetensors"
    first = build_text_embeddings(backbone, TEXTS, file)
    encoded.clear()
    second = build_text_embeddings(backbone, TEXTS[1:], file)
    assert encoded == []
    assert torch.equal(first.lookup(TEXTS), second.lookup(TEXTS))
    assert [path.name for path in file.parent.iterdir()] == ["embeddings.safetensors"]  # nothing left beside it


def test_missing_texts_are_added_and_the_others_kept(backbone, encoded, tmp_path):
    file = tmp_path / "embeddings.safetensors"
    build_text_embeddings(backbone, TEXTS, file)
    encoded.clear()
    grown = build_text_embeddings(backbone, ["green square", "red star"], file)
    assert encoded == ["green square"]
    assert set(grown.texts) == {*TEXTS, "green square"}
    encoded.clear()
    again = build_text_embeddings(backbone, [*TEXTS, "green square"], file)
    assert encoded == []
    assert torch.equal(again.embeddings, grown.embeddings)


def test_the_file_of_another_backbone_is_replaced(backbone, encoded, tmp_path):
    file = tmp_path / "embeddings.safetensors"
    build_text_embeddings(backbone, TEXTS, file)
    encoded.clear()
    other = replace(backbone, fingerprint="another")
    assert set(build_text_embeddings(other, ["red star"], file).texts) == {"red star"}
    assert encoded == ["red star"]
    with safe_open(file, framework="pt") as content:
        assert content.metadata()["generator"] == "another"


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all, but long enough to look at"])
def test_an_unreadable_file_is_replaced(backbone, tmp_path, content):
    file = tmp_path / "embeddings.safetensors"
    file.write_bytes(content)
    build_text_embeddings(backbone, TEXTS, file)
    with safe_open(file, framework="pt") as opened:
        assert opened.get_tensor("embeddings").dtype == torch.float16


def test_a_file_cut_short_or_of_another_shape_is_replaced(backbone, encoded, tmp_path):
    file = tmp_path / "embeddings.safetensors"
    whole = build_text_embeddings(backbone, TEXTS, file)
    content, notes = load_file(file)["embeddings"].clone(), safe_open(file, framework="pt").metadata()
    file.write_bytes(file.read_bytes()[:-100])
    again = build_text_embeddings(backbone, TEXTS, file)
    assert len(encoded) == 2 * len(whole.texts) and torch.equal(again.embeddings, content)
    for wrong in (content[:, 1:], content[1:], content.float()):
        save_file({"embeddings": wrong.contiguous()}, file, metadata=notes)
        assert torch.equal(build_text_embeddings(backbone, TEXTS, file).embeddings, content)
    for texts in ("{", json.dumps(None)):
        save_file({"embeddings": content}, file, metadata={**notes, "texts": texts})
        assert torch.equal(build_text_embeddings(backbone, TEXTS, file).embeddings, content)


def test_two_that_build_at_once_lose_nothing_but_time(backbone, encoded, tmp_path, monkeypatch):
    file = tmp_path / "embeddings.safetensors"
    encode = StableDiffusion.text_embeddings

    def meanwhile(self, texts, *arguments, **settings):
        monkeypatch.setattr(StableDiffusion, "text_embeddings", encode)
        build_text_embeddings(backbone, ["green square", "blue star"], file)  # is done before the other has written
        return encode(self, texts, *arguments, **settings)

    monkeypatch.setattr(StableDiffusion, "text_embeddings", meanwhile)
    first = build_text_embeddings(backbone, TEXTS, file)
    assert set(first.texts) == set(TEXTS) == set(build_text_embeddings(backbone, TEXTS, file).texts)
    encoded.clear()
    embeddings = build_text_embeddings(backbone, ["green square", "red star"], file)
    assert encoded == ["green square"]
    assert torch.equal(embeddings.lookup(["green square"]), backbone.text_embeddings(["green square"]).half())


def resident() -> int:
    """Kilobytes that this process holds in memory."""
    return int(Path("/proc/self/smaps_rollup").read_text().split("Rss:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_a_file_is_read_once_then_mapped_and_only_what_is_looked_up_is_read(backbone, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr("brainvis.files.checksums.SETTLED", 0.0)
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    file, texts = tmp_path / "embeddings.safetensors", [f"text {number}" for number in range(40_000)]
    embeddings = torch.ones(len(texts), TOKENS, WIDTH, dtype=torch.float16)  # 41 MB
    checksums = "".join(_checksums(TextEmbeddings(tuple(texts), embeddings, backbone.fingerprint)))
    notes = {"generator": backbone.fingerprint, "texts": json.dumps(texts), "checksums": checksums}
    save_file({"embeddings": embeddings}, file, metadata=notes)
    build_text_embeddings(backbone, texts[:5], file)
    kilobytes, before = embeddings.nbytes // 1024, resident()
    opened = build_text_embeddings(backbone, texts[:5], file)
    assert resident() - before < kilobytes / 3 and encoded == []  # the texts, not the embeddings
    assert (opened.lookup(texts[-3:]) == 1).all()
    assert resident() - before < kilobytes / 3
    opened.embeddings.sum()
    assert resident() - before > kilobytes * 0.9  # the measure does see it


@pytest.fixture
def notes():
    """What diffusers and transformers log."""
    handler, loggers = (
        logging.handlers.BufferingHandler(1000),
        [logging.getLogger(n) for n in ("diffusers", "transformers")],
    )
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.buffer
    for logger in loggers:
        logger.removeHandler(handler)


def test_texts_that_are_too_long_are_one_warning(backbone, tmp_path, notes):
    long = [f"{colour} star " * TOKENS for colour in ("red", "green", "blue")]
    file = tmp_path / "embeddings.safetensors"
    with pytest.warns(UserWarning, match=f"3 of 4 texts have more than {TOKENS} tokens") as warned:
        embeddings = build_text_embeddings(backbone, [*long, "red star"], file)
    assert len(warned) == 1 and not notes
    cut = "red star " * ((TOKENS - 2) // 2)
    assert torch.equal(embeddings.lookup(long[:1]), build_text_embeddings(backbone, [cut]).embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_text_embeddings(backbone, long, file)  # known: nothing to say


def test_an_interrupted_write_leaves_the_old_file(backbone, tmp_path, monkeypatch):
    file = tmp_path / "embeddings.safetensors"
    build_text_embeddings(backbone, TEXTS, file)
    before = file.read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("brainvis.generation.text_embeddings.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        build_text_embeddings(backbone, ["green square"], file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_retrieval_ranks_match_a_plain_sort():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(20, 3, 5, generator=generator)
    candidates = torch.randn(12, 3, 5, generator=generator)
    truth = torch.randint(0, 12, (20,), generator=generator)
    ranks = retrieval_ranks(predicted, candidates, truth)
    for trial in range(20):
        a = predicted[trial].double().numpy().ravel()
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for b in candidates.double().numpy().reshape(12, -1)
        ]
        assert int(ranks[trial]) == sorted(range(12), key=lambda i: -cosines[i]).index(int(truth[trial]))  # noqa: B023


def test_what_is_computed_block_by_block_is_what_all_at_once_gives():
    generator = torch.Generator().manual_seed(0)
    embeddings, fine = torch.randn(300, 3, 5, generator=generator), torch.randn(520, 3, 5, generator=generator).half()
    coarse = torch.randn(7, 3, 5, generator=generator).half()
    labels, captions = (torch.randint(0, count, (300,), generator=generator) for count in (7, 520))
    cosines = torch.nn.functional.cosine_similarity(
        embeddings.double().flatten(1)[:, None], fine.double().flatten(1), dim=2
    )
    torch.testing.assert_close(text_cosines(embeddings, fine), cosines.float())
    right = cosines.gather(1, captions[:, None])
    assert torch.equal(retrieval_ranks(embeddings, fine, captions), (cosines > right).sum(1))
    among = torch.rand(300, 520, generator=generator) < 0.1
    among[torch.arange(300), captions] = True
    own = [(cosines[i, among[i]] > right[i]).sum() for i in range(300)]
    assert torch.equal(retrieval_ranks(embeddings, fine, captions, among), torch.stack(own))
    mean = (coarse.double()[labels] + fine.double()[captions]).mean(0, keepdim=True)
    torch.testing.assert_close(average_embeddings(coarse, fine, labels, captions), mean.float())
    whole = interpolation_position(embeddings, coarse[labels], fine[captions])
    one_by_one = [
        interpolation_position(embeddings[i : i + 1], coarse[labels[i : i + 1]], fine[captions[i : i + 1]])
        for i in range(300)
    ]
    for name, values in whole.items():
        torch.testing.assert_close(values, torch.cat([one[name] for one in one_by_one]))


def test_retrieval_of_the_candidates_themselves_is_perfect_whatever_their_length():
    candidates = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(1))
    ranks = retrieval_ranks(candidates * torch.rand(9, 1, 1) + 1e-6, candidates, torch.arange(9))
    assert (ranks == 0).all()


def test_a_constant_prediction_does_not_win_by_ties():
    candidates = torch.ones(4, 2, 3)  # all the same: no information
    assert (retrieval_ranks(torch.ones(4, 2, 3), candidates, torch.arange(4)) == 3).all()


def test_interpolation_position_of_points_made_from_known_coefficients():
    generator = torch.Generator().manual_seed(0)
    coarse, fine, other = (torch.randn(5, 4, 6, generator=generator) for _ in range(3))
    axis = (fine - coarse).flatten(1)
    across = other.flatten(1)
    across = across - (across * axis).sum(1, keepdim=True) / axis.square().sum(1, keepdim=True) * axis
    across = across / across.norm(dim=1, keepdim=True) * axis.norm(dim=1, keepdim=True)
    along = torch.tensor([0.0, 1.0, 0.5, -0.25, 2.0])
    away = torch.tensor([0.0, 0.0, 0.3, 1.0, 2.0])
    predicted = coarse + (along[:, None] * axis + away[:, None] * across).view_as(coarse)
    where = interpolation_position(predicted, coarse, fine)
    torch.testing.assert_close(where["position"], along, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(where["off_axis"], away, atol=1e-5, rtol=1e-5)
    expected = torch.nn.functional.cosine_similarity(predicted.flatten(1), fine.flatten(1))
    torch.testing.assert_close(where["cosine_fine"], expected)
    assert where["cosine_coarse"][0] == pytest.approx(1)


def test_interpolation_position_is_undefined_where_coarse_and_fine_are_the_same():
    coarse = torch.randn(2, 3, 4)
    where = interpolation_position(torch.randn(2, 3, 4), coarse, coarse)
    assert torch.isnan(where["position"]).all()
    assert torch.isfinite(where["cosine_fine"]).all()
