"""Text states: encoded once, kept in a file that knows its backbone; retrieval and position between coarse and fine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_backbone import TOKENS, WIDTH, write_backbone

from brainvis.backbone import Backbone, load_backbone
from brainvis.semantics import build_text_states, interpolation_position, retrieval_accuracy, retrieval_ranks

TEXTS = ["red star", "blue ring", "red star", "a small red star at the top left"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_backbone(write_backbone(tmp_path_factory.mktemp("backbone") / "tiny", judge=False, clip=False), "cpu")


@pytest.fixture
def encoded(monkeypatch):
    """The texts that the encoder was asked for."""
    asked = []
    original = Backbone.text_states

    def listen(self, texts, *arguments, **settings):
        asked.extend(texts)
        return original(self, texts, *arguments, **settings)

    monkeypatch.setattr(Backbone, "text_states", listen)
    return asked


def test_every_different_text_is_encoded_once(backbone, encoded):
    states = build_text_states(backbone, TEXTS, batch_size=2)
    assert sorted(encoded) == sorted(set(TEXTS))
    assert states.states.shape == (3, TOKENS, WIDTH)


def test_lookup_follows_the_order_and_repetitions_asked_for(backbone):
    asked = ["blue ring", "red star", "red star"]
    found = build_text_states(backbone, TEXTS).lookup(asked)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, backbone.text_states(asked), atol=2e-3, rtol=1e-3)  # kept in half precision
    assert torch.equal(found[1], found[2])


def test_lookup_of_a_text_that_was_not_encoded_names_it(backbone):
    with pytest.raises(ValueError, match="1 texts were never encoded, 'green square' first"):
        build_text_states(backbone, TEXTS).lookup(["red star", "green square"])


def test_a_matching_file_is_used_again_and_gives_the_same_numbers(backbone, encoded, tmp_path):
    file = tmp_path / "folder" / "states.safetensors"
    first = build_text_states(backbone, TEXTS, file)
    encoded.clear()
    second = build_text_states(backbone, TEXTS[1:], file)
    assert encoded == []
    assert torch.equal(first.lookup(TEXTS), second.lookup(TEXTS))
    assert [path.name for path in file.parent.iterdir()] == ["states.safetensors"]  # nothing left beside it


def test_missing_texts_are_added_and_the_others_kept(backbone, encoded, tmp_path):
    file = tmp_path / "states.safetensors"
    build_text_states(backbone, TEXTS, file)
    encoded.clear()
    grown = build_text_states(backbone, ["green square", "red star"], file)
    assert encoded == ["green square"]
    assert set(grown.texts) == {*TEXTS, "green square"}
    encoded.clear()
    again = build_text_states(backbone, [*TEXTS, "green square"], file)
    assert encoded == []
    assert torch.equal(again.states, grown.states)


def test_the_file_of_another_backbone_is_replaced(backbone, encoded, tmp_path):
    file = tmp_path / "states.safetensors"
    build_text_states(backbone, TEXTS, file)
    encoded.clear()
    other = replace(backbone, fingerprint="another")
    assert set(build_text_states(other, ["red star"], file).texts) == {"red star"}
    assert encoded == ["red star"]
    with safe_open(file, framework="pt") as content:
        assert content.metadata()["backbone"] == "another"


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all, but long enough to look at"])
def test_an_unreadable_file_is_replaced(backbone, tmp_path, content):
    file = tmp_path / "states.safetensors"
    file.write_bytes(content)
    build_text_states(backbone, TEXTS, file)
    with safe_open(file, framework="pt") as opened:
        assert opened.get_tensor("states").dtype == torch.float16


def test_an_interrupted_write_leaves_the_old_file(backbone, tmp_path, monkeypatch):
    file = tmp_path / "states.safetensors"
    build_text_states(backbone, TEXTS, file)
    before = file.read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("brainvis.semantics.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        build_text_states(backbone, ["green square"], file)
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
    accuracy = retrieval_accuracy(ranks, 12, top=(1, 5))
    assert accuracy["top5"] == {"value": pytest.approx(float((ranks < 5).double().mean())), "chance": 5 / 12}


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
