"""Figures that teach: drawn once with classes of any name; each says what it shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_plots import HOSTILE, ODD, PLAIN, RATE, RNG, SAMPLES, recorded

from brainvis.data.unit import unit_of
from brainvis.evaluation import masking
from brainvis.evaluation.time_resolved import Decoded
from brainvis.graph import NOTEBOOKS
from brainvis.plots import follow, insight, interactive, style
from brainvis.plots.framework import BOXES, LIT, framework_strip


def pixels_of(count: int) -> np.ndarray:
    return RNG(2).integers(0, 256, (count, 16, 16, 3), np.uint8)


def decoded(places: int) -> dict[str, Decoded]:
    return {name: Decoded(torch.arange(places) * 5, 60, 0.25) for name in ("waveform", "power")}


def figures(folder, names) -> dict[str, Figure]:
    """Name -> figure, with classes of these names."""
    data, generator = recorded(folder, names), torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    quality = {"evoked_snr_db": -9.0, "class_share": 0.1, "accuracy": 0.3, "chance": 0.25, "validation_trials": 8}
    hertz, blind = torch.arange(1, 31.0), replace(data, image_folder=None, montage=None)
    line = {name: [0.0, 0.5, 1.0] for name in ("place", "cosine_coarse", "cosine_fine", "length")}
    states = {name: noise(5, 80) for name in ("predicted", "class name", "caption")}
    texts = {what: [(name, 0.5, name == names[1]) for name in names] for what in ("class names", "captions")}
    rows = {names[0]: pixels_of(2), "refined": pixels_of(2)}
    return {
        "waveform": follow.waveform_figure(data, 20),
        "waveform without pictures": follow.waveform_figure(blind, 20),
        "spectrum": follow.spectrum_figure(hertz, noise(30, 6), noise(9, 30, 6)),
        "neighbours": follow.neighbours_figure(data, 20, [0, 1, 2], [0.9, 0.8, 0.7]),
        "text state": follow.text_state_figure(states, texts),
        "verdict": follow.verdict_figure({name: pixels_of(1)[0] for name in names}, {names[1]: names[2]}, names[0]),
        "time resolved": insight.time_resolved_figure(data, torch.arange(4) / 10, decoded(4), decoded(6)),
        "time resolved without positions": insight.time_resolved_figure(
            blind, torch.arange(4) / 10, decoded(4), decoded(6)
        ),
        "quality": insight.quality_figure({1: quality, 2: quality | {"evoked_snr_db": None}}),
        "moving average": insight.moving_average_figure(0.99, 30, torch.arange(40).reshape(4, 10) % 7),
        "no moving average": insight.moving_average_figure(0.0, 30, torch.zeros(4, 10, dtype=torch.int64)),
        "line": insight.line_figure(line, 0.15),
        "sweep": insight.sweep_figure(pixels_of(2), rows, names[:2], {"refined": [True, False]}),
    }


@pytest.fixture(scope="module", params=[PLAIN, ODD, HOSTILE], ids=["plain", "odd", "hostile"])
def drawn(request, tmp_path_factory):
    made = figures(tmp_path_factory.mktemp("pictures"), request.param)
    for figure in made.values():
        figure.set_dpi(40)
        figure.draw_without_rendering()
    return made


def test_every_axis_says_what_it_shows(drawn):
    missing = {name: found for name, figure in drawn.items() if (found := style.unlabelled(figure))}
    assert not missing, missing


def test_names_stay_in_their_figure(drawn):
    for name, figure in drawn.items():
        box = figure.get_tightbbox()
        assert box.width < 2 * figure.get_figwidth() + 2 and box.height < 2 * figure.get_figheight() + 2, name
        for text in figure.findobj(Text):
            assert all(letter.isprintable() for letter in text.get_text().replace("\n", "")), name
            assert text.get_parse_math() is False or "$" not in text.get_text(), name


@pytest.mark.parametrize("names", [PLAIN, HOSTILE], ids=["plain", "hostile"])
def test_choices_are_drawn(tmp_path, names):
    data = recorded(tmp_path, names)
    by_class = torch.randn(len(names), 6, SAMPLES, generator=torch.Generator().manual_seed(0))
    masks = masking.nested_masks(10, 0)
    quality = {"tokens_right": 0.3, "most_frequent_token": 0.2, "relative_error": 1.1}
    stages = {"shown": pixels_of(2), "refined": pixels_of(2)}
    made = {
        "evoked": interactive.evoked_choice(data, by_class, torch.arange(len(names)), electrodes=2, most=2),
        "mask": interactive.mask_choice(data, 20, masks, dict.fromkeys(masks, quality)),
        "pictures": interactive.picture_choice(stages, names[:2], {"refined": names[2:]}, [4, 9]),
        "line": interactive.line_choice({0.0: pixels_of(2), 1.0: pixels_of(2)}, names[:2], names[2:], pixels_of(2)),
    }
    assert list(made["evoked"].controls["class"])[0] == "all classes" and len(made["evoked"].controls["electrode"]) == 2
    assert made["mask"].controls == {"mask ratio": [f"{ratio:g}" for ratio in masks]}
    assert made["pictures"].controls["stage"] == ["refined"] and len(made["line"].controls["text"]) == 2
    for name, choice in made.items():
        assert "<script" not in choice.html and "alert('x')</" not in choice.html, name


def test_a_class_called_like_the_mean_of_all(tmp_path):
    data = recorded(tmp_path, ("all classes", "b", "b", "c"))
    by_class = torch.randn(4, 6, SAMPLES)
    choice = interactive.evoked_choice(data, by_class, torch.arange(4), electrodes=1)
    assert len(set(choice.controls["class"])) == len(choice.controls["class"]) == 5


def test_the_box_of_a_notebook_is_lit():
    for stage in NOTEBOOKS:
        axes = framework_strip(stage).axes[0]
        lit = [box for box in axes.patches if box.get_edgecolor()[:3] == tuple(LIT[:3]) and box.get_linewidth() > 1]
        left, bottom, *_ = BOXES[stage][0]
        assert len(lit) == 1 and np.allclose(lit[0].get_bbox().min, (left, bottom))
        assert {text.get_text()[:2] for text in axes.texts} >= {name[:2] for name in NOTEBOOKS.values()}
    assert framework_strip("eegnet_branch").axes
    with pytest.raises(ValueError, match="no stage 'fusoin'"):
        framework_strip("fusoin")


def test_units_by_their_size(tmp_path):
    data = recorded(tmp_path, PLAIN)
    assert unit_of(data) == "z"
    for factor, unit in ((20, "µV"), (1e-6, "V"), (1e9, "unknown units")):
        data.trials.mul_(factor)
        assert unit_of(data) == unit
    assert data.sampling_rate == RATE
