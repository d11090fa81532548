"""The figures of notebooks 04 and 05: do they show the numbers they are given?"""

import numpy as np
import torch

from brainvis.evaluation.scores import classification_scores, paired_difference
from brainvis.generation.text_embeddings import interpolation_position
from brainvis.plots import decoding
from brainvis.training import History

NAMES = ("red star", "red ring", "blue star", "blue ring")
WORDS = {"first word": ["red", "red", "blue", "blue"], "second word": ["star", "ring", "star", "ring"]}


def test_comparison_shows_every_score_and_difference():
    labels, rng = np.arange(8) % 4, np.random.default_rng(0)
    logits = {name: rng.normal(size=(8, 4)) + np.eye(4)[labels] for name in ("time", "fused")}
    scores = {name: classification_scores(values, labels) for name, values in logits.items()}
    difference = paired_difference(logits["fused"], logits["time"], labels)
    left, right = decoding.comparison_figure(scores, {"time": difference}).axes
    shown = [measure for measure in decoding.SCORES if measure in scores["time"]]  # of four classes no top-3
    assert shown == ["top1", "balanced_accuracy", "macro_f1"]
    drawn = [container.lines[0].get_ydata()[0] for container in left.containers]
    assert drawn == [100 * scores[name][measure]["value"] for name in scores for measure in shown]
    assert right.containers[0].lines[0].get_ydata()[0] == 100 * difference["top1"]["value"]
    sure = {name: {"top1": {"value": 0.5, "low": 0.4, "high": 0.6, "p": p}} for name, p in (("a", 1e-3), ("b", 0.02))}
    _, right = decoding.comparison_figure(scores | dict.fromkeys("ab", scores["time"]), sure).axes
    assert [text.get_text() for text in right.texts] == ["p = 0.002", "p = 0.02"]  # of two, corrected


def test_confusion_puts_equal_words_side_by_side():
    matrix = np.diag([2, 1, 1, 1])
    matrix[0, 1] = 2  # red star taken for red ring
    first, second, _ = decoding.confusion_figure(matrix, NAMES, WORDS, np.eye(4)).axes
    assert np.asarray(first.images[0].get_array())[0].tolist() == [50, 50, 0, 0]
    assert np.asarray(second.images[0].get_array())[0].tolist() == [50, 0, 50, 0]
    assert [text.get_text() for text in second.get_yticklabels()] == ["star", "ring"]


def test_without_attributes_similar_classes_are_side_by_side():
    means = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]])
    axis = decoding.confusion_figure(np.eye(4, dtype=int), ("a", "b", "c", "d"), {}, means).axes[0]
    order = "".join(text.get_text() for text in axis.get_yticklabels())
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("ac"), frozenset("bd")}


def test_embeddings_take_the_colours_that_words_name():
    points, unseen = np.arange(8.0).reshape(4, 2), [False, False, True, True]
    named, other = decoding.embedding_figure(
        points, {"colour": ["red", "blue", "red", "blue"], "shape": ["ring", "star", "star", "ring"]}, unseen
    ).axes
    large = [group for group in named.collections if len(group.get_offsets()) and group.get_sizes()[0] > 6]
    assert {tuple(group.get_facecolor()[0][:3]) for group in large} == {(1, 0, 0), (0, 0, 1)}
    assert sum(len(group.get_offsets()) for group in named.collections) == len(points)
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["ring", "star"]


def test_attributes_are_drawn_or_said_to_be_missing():
    part = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.25}
    axis = decoding.attributes_figure({"fused": {"first word": part}}, {"first word": "colour"}).axes[0]
    assert axis.containers[0].lines[0].get_ydata()[0] == 50
    assert "not built alike" in decoding.attributes_figure({"fused": {}}, {}).axes[0].texts[0].get_text()


def test_figures_of_alignment():
    generator = torch.Generator().manual_seed(0)
    coarse, fine, states = (torch.randn(n, 3, 5, generator=generator) for n in (2, 4, 4))
    labels = torch.tensor([0, 0, 1, 1])
    similarity = decoding.text_similarity_figure(coarse, fine, labels).axes[1].images[0].get_array()
    flat = fine.flatten(1)
    expected = torch.tensor([[torch.dot(a, b) / (a.norm() * b.norm()) for b in flat] for a in flat])
    assert np.allclose(similarity, expected, atol=1e-6)
    terms = ("loss", "cosine_coarse", "cosine_fine")
    epochs = [{"epoch": e} | {f"{part}_{t}": e / 10 for part in ("train", "validation") for t in terms} for e in (1, 2)]
    curves = decoding.alignment_curves_figure(History(epochs, 2, 0.0)).axes
    assert curves[1].get_ylim() == curves[2].get_ylim()
    assert curves[2].lines[1].get_ydata().tolist() == [0.1, 0.2]
    score = {"value": 0.3, "low": 0.2, "high": 0.4, "chance": 0.1, "class_scores_alone": 0.25}
    axis = decoding.retrieval_figure({"caption": {"top1": score}}).axes[0]
    assert axis.containers[0].lines[0].get_ydata()[0] == 30
    levels = {line.get_linestyle(): line.get_ydata().tolist() for line in axis.lines if len(line.get_xdata()) == 2}
    assert levels == {"--": [10, 10], ":": [25, 25]}
    own, other = (interpolation_position(states, coarse[which], fine) for which in (labels, 1 - labels))
    left = decoding.interpolation_figure(own, other).axes[0]
    assert np.allclose(left.collections[1].get_offsets(), np.stack([own["position"], own["off_axis"]], 1))
