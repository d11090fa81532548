"""Every figure once, on made-up data: axes say what they show; branches and classes may have any name."""

import inspect
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from brainvis.configuration import Configuration, Fusion
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation.analysis import Successions
from brainvis.evaluation.confounds import Audit
from brainvis.models.time import MaskedPrediction
from brainvis.plots import data as looks
from brainvis.plots import decoding, images, method, style, summary, training
from brainvis.training import History

PLAIN = ("red disc", "green disc", "blue ring", "black ring")
ODD = ("costs $5_a$", "$x^{_$", r"_under_score $\frac$", "100 % ^ & #")  # as formulas, they do not parse
HOSTILE = (
    "$x_1$ a|b <script>alert('x')</script> \\frac{",
    "line\nbreak\tand\0zero {braces} `x` %s",
    "_\U0001f600\u202egnirts \u200f" + "\u05d0" * 30,
    "very long " * 3000 + "x" * 3000,
)
BRANCHES = ("time", "eegnet", "loudness", "braindecode.EEGConformer", "shallow", "frequency")
TRIALS, SAMPLES, RATE = 24, 100, 250.0
RNG = np.random.default_rng


def recorded(folder, names) -> EEGDataset:
    """Two subjects see three pictures of each class, in random order, with the electrodes' places known."""
    count, generator = len(names), torch.Generator().manual_seed(0)
    images_of = torch.arange(TRIALS) % (3 * count)
    ids = tuple(f"n{image // 3}_{image}" for image in range(3 * count))
    for number, image in enumerate(ids):
        file = folder / image.split("_")[0] / f"{image}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG(number).integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    return EEGDataset(
        name="toy",
        trials=torch.randn(TRIALS, 6, SAMPLES, generator=generator),
        sampling_rate=RATE,
        start=-0.1,
        channels=("Fz", "Cz", "Pz", "Oz", "C3", "C4"),
        montage="standard_1020",
        labels=images_of // 3,
        subjects=1 + (torch.arange(TRIALS) >= TRIALS // 2).long(),
        images=images_of,
        image_ids=ids,
        class_names=tuple(names),
        captions={image: f"a picture of {names[number // 3]}" for number, image in enumerate(ids)},
        image_folder=folder,
        splits={"train": torch.arange(16), "val": torch.arange(16, 20), "test": torch.arange(20, TRIALS)},
        lengths=torch.arange(TRIALS) + SAMPLES,
        order=torch.randperm(TRIALS, generator=generator),
        fingerprint="made up",
    )


def score(value: float, **more) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "chance": 0.25, "p": 0.01, "trials": 7} | more


LMM = ("regression", "regression_of_mean", "classification", "token_accuracy", "token_chance", "perplexity")


def history(*terms: str) -> History:
    curves = [f"{part}_{term}" for part in ("train", "validation") for term in terms]
    epochs = [
        {"epoch": epoch, "residual_scale": epoch / 100, "variance_over_trials": 0.5, "variance_over_positions": 0.4}
        | {"probe_accuracy": epoch / 10, "probe_of_all_units": epoch / 20}
        | {curve: (number + 1) / (epoch + number) for number, curve in enumerate(curves)}
        for epoch in range(1, 6)
    ]
    return History(epochs, 3, 0.0)


def classified(branches) -> dict[str, dict]:
    return {name: {key: score(0.3 + 0.05 * at) for key in decoding.SCORES} for at, name in enumerate(branches)}


def rows() -> pd.DataFrame:
    """What two subjects' runs with many branches say, as `report.gather_scores` does."""
    found = []
    for subject, ablation in product((1, 2), ("full", "no_time")):
        named = [("fusion", f"{branch}.{top}") for branch in (*BRANCHES, "fused") for top in ("top1", "top3", "top5")]
        named += [("generation", f"{stage}.generation_accuracy") for stage in summary.PICTURES_OF]
        for at, (stage, name) in enumerate(named):
            run = {"subject": subject, "ablation": ablation, "stage": stage, "score": name}
            found.append(run | score(0.2 + 0.02 * at + 0.1 * subject))
    return pd.DataFrame(found)


def differences() -> pd.DataFrame:
    """As `comparisons.ablation_differences` gives them."""
    families = product(("CA top-1", "GA", "another"), ("no_time", "no_semantic"))
    return pd.DataFrame([score(0.1, measure=m, ablation=a, p_holm=0.02, family=2) for m, a in families])


def figures(folder, names) -> dict[str, Figure]:
    """Name of the function -> what it draws, with classes of these names."""
    data, generator, count = recorded(folder, names), torch.Generator().manual_seed(1), len(names)
    hertz, labels = torch.arange(1, 31.0), torch.arange(count).repeat_interleave(2)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    def pixels(*shape: int) -> np.ndarray:
        return RNG(2).integers(0, 256, (*shape, 16, 16, 3), np.uint8)

    def prediction() -> MaskedPrediction:
        masked, values = torch.arange(6), [noise(4, 6, 8) for _ in range(2)]
        return MaskedPrediction(masked, masked + 6, *values, tokens=masked.repeat(4, 1), token_scores=noise(4, 6, 9))

    def calibration() -> dict:
        row = {"seeds": 2, "flags": 1, "gain": 3.0, "gain_reach": 1.0}
        names = ("slow drift", "order of labels")
        places = [(design, drift) for design in ("block", "interleaved") for drift in (0.0, 0.1)]
        rows = [{**row, "design": where, "drift": drift, "audit": name} for where, drift in places for name in names]
        return {"family": ["slow drift"], "rows": rows}

    def texts() -> dict[str, torch.Tensor]:
        return {name: noise(9) for name in ("position", "off_axis", "cosine_coarse", "cosine_fine")}

    words = {"colour": [name.split()[0] for name in names], "shape": [name.split()[-1] for name in names]}
    of_trials = {title: [own[label] for label in labels] for title, own in words.items()}
    shown, wrong = [names[0], names[1]], [names[2], names[3]]
    errors = pd.DataFrame({"shown": shown, "predicted": wrong, "trials": [3, 2]})
    stages = {"semantic": pixels(2, 2), "refined": pixels(2, 2)}
    several = Configuration(fusion=Fusion(branches=BRANCHES[:4]))
    parts = {part: score(0.5) for part in ("all", "right", "wrong")}
    seen = {"attributes": {name: score(0.5) for name in ("position", "size")}}
    judged = {"generation_accuracy": score(0.5), "by_prediction": {"wrong": score(0.1)}, **seen}
    controls, titles = {"cascade": judged, "noise": judged}, {"cascade": "the cascade", "noise": "noise"}
    bands = {"slow waves": (0.5, 4.0), "fast": (4.0, 30.0)}
    return {
        "stimuli_figure": looks.stimuli_figure(data, list(range(7))),
        "counts_figure": looks.counts_figure(data),
        "single_trials_figure": looks.single_trials_figure(data, [0, 9, 20]),
        "evoked_figure": looks.evoked_figure(data, noise(6, SAMPLES)),
        "class_evoked_figure": looks.class_evoked_figure(data, noise(count, 6, SAMPLES), torch.arange(count)),
        "share_figure": looks.share_figure(hertz, {"class": noise(6, 30), names[1]: noise(6, 30)}, "Hz", "shares"),
        "spectra_figure": looks.spectra_figure(hertz, {"1": noise(30, 6), "2": noise(30, 6)}, noise(30, 6), 4.0),
        "order_figure": looks.order_figure(data, Successions(*(noise(count) for _ in range(4)))),
        "confounds_figure": looks.confounds_figure({"time": Audit("from time", 0.9, noise(99).double() / 2)}),
        "calibration_figure": looks.calibration_figure(calibration()),
        "mask_figure": training.mask_figure(data, 3, torch.arange(10) % 2 == 0, torch.arange(5)),
        "latents_figure": training.latents_figure({"before": prediction(), "after": prediction()}),
        "pretraining_figure": training.pretraining_figure(
            history(*LMM), {"mean_of_units": 0.1, "all_units": 0.2}, 0.25, 64
        ),
        "classifier_figure": training.classifier_figure(history("loss", "accuracy"), 0.25),
        "codebook_figure": training.codebook_figure({"before": noise(20), "after": noise(20)}),
        "scores_figure": training.scores_figure({"all": {"top1": score(0.5), "trials": 7}}, "loudness"),
        "group_spectra_figure": training.group_spectra_figure(hertz, {"class": (list(names), noise(count, 30, 6))}),
        "bands_figure": training.bands_figure(
            {name: {"without": 0.3, "alone": 0.4} for name in (*bands, "all bands")}, bands, 0.25
        ),
        "comparison_figure": decoding.comparison_figure(
            classified((*BRANCHES, "fused")), {name: {"top1": score(0.1)} for name in BRANCHES}
        ),
        "attributes_figure": decoding.attributes_figure(
            {branch: {"word": score(0.5)} for branch in BRANCHES}, {"word": f"as {names[0]}"}
        ),
        "confusion_figure": decoding.confusion_figure(np.eye(count) + 1, names, words, np.eye(count)),
        "embedding_figure": decoding.embedding_figure(noise(2 * count, 2), of_trials, labels % 2 == 0),
        "text_similarity_figure": decoding.text_similarity_figure(noise(count, 3, 5), noise(2 * count, 3, 5), labels),
        "alignment_curves_figure": decoding.alignment_curves_figure(history("loss", "cosine_coarse", "cosine_fine")),
        "retrieval_figure": decoding.retrieval_figure(
            {texts: {"top1": score(0.2), "top5": score(0.5)} for texts in ("class names", "captions")}
        ),
        "interpolation_figure": decoding.interpolation_figure(texts(), texts()),
        "reconstruction_figure": images.reconstruction_figure(
            pixels(2), stages, shown, wrong, {stage: [shown, wrong] for stage in stages}
        ),
        "accuracy_figure": images.accuracy_figure({stage: parts for stage in stages}, score(0.6), 0.25),
        "recovery_figure": images.recovery_figure(
            {stage: {"colour": score(0.5), "shape": score(0.4)} for stage in stages}
        ),
        "controls_figure": images.controls_figure(controls, titles, score(0.6), 0.02),
        "layout_figure": images.layout_figure(controls, titles),
        "classification_figure": summary.classification_figure(rows(), {1: 118, 2: 119}),
        "ablation_figure": summary.ablation_figure(rows(), 1),
        "differences_figure": summary.differences_figure(differences()),
        "results_grid_figure": summary.results_grid_figure(
            {"shown": pixels(2), "semantic": pixels(2), "refined": pixels(2), "ceiling": pixels(2)},
            *(shown, wrong, {"semantic": shown, "refined": wrong}, "made up"),
        ),
        "wrong_figure": summary.wrong_figure(pixels(2), pixels(2), shown, wrong),
        "errors_figure": summary.errors_figure(labels, labels.flip(0), words, errors),
        "framework_figure": method.framework_figure(several, data, (77, 768), {"shown": pixels(1)[0]}),
    }


@pytest.fixture(scope="module", params=[PLAIN, ODD, HOSTILE], ids=["plain", "odd", "hostile"])
def drawn(request, tmp_path_factory):
    """All figures, with classes of plain or of odd names, as they lie in a file."""
    made = figures(tmp_path_factory.mktemp("pictures"), request.param)
    for figure in made.values():
        figure.set_dpi(40)
        figure.draw_without_rendering()
    return made


def test_every_figure_is_drawn(drawn):
    modules = (looks, training, decoding, images, method, summary)
    functions = {name for module in modules for name, _ in inspect.getmembers(module, inspect.isfunction)}
    assert {name for name in functions if name.endswith("_figure")} - {"empty_figure"} == set(drawn)
    assert all(isinstance(figure, Figure) and figure.axes for figure in drawn.values())


def test_every_axis_says_what_it_shows(drawn):
    """Labels with units, colour bars on maps, titles of panels."""
    missing = {name: found for name, figure in drawn.items() if (found := style.unlabelled(figure))}
    assert not missing, missing


def test_what_a_reader_would_miss_is_found():
    figure, (lines, image, photograph, shared) = style.panels(1, 4)
    lines.plot([0.1, 0.2], [1, 2])
    picture = image.imshow(np.eye(3))
    image.set(xticks=range(3), yticks=range(3), xlabel="unit", ylabel="unit")
    photograph.imshow(np.zeros((4, 4, 3), np.uint8))
    photograph.set(xticks=[], yticks=[])
    shared.bar(["name", "caption"], [1, 2])  # names are no numbers
    shared.sharey(lines)
    found = style.unlabelled(figure)
    assert [line.partition(": ")[2] for line in found] == ["no x label", "no y label", "a map without a colour bar",
                                                           "no y label"]  # fmt: skip
    lines.set(xlabel="time (ms)", ylabel="accuracy")
    bar = figure.colorbar(picture, ax=image)
    assert [line.partition(": ")[2] for line in style.unlabelled(figure)] == ["a colour bar without a label"]
    bar.set_label("share (%)")
    assert not style.unlabelled(figure)


def test_an_amplitude_bar_is_round_and_as_long_as_it_says():
    _, axes = style.panels()
    axes.plot([0, 1], [-40, 40])
    style.amplitude_bar(axes, 17.0, "µV")
    low, high = axes.lines[-1].get_ydata()
    assert high - low == 10 and axes.texts[-1].get_text() == "10 µV"


# What others see of linear RGB: Machado, Oliveira and Fernandes 2009, table of severity 1.
SIGHT = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_those_who_see_two_of_them(sight):
    """Distances in CIE L*a*b*; seaborn's own palette has a pair at 10.8, its green and its grey."""
    linear = np.clip(np.array(SIGHT[sight]) @ (np.array(style.PALETTE).T ** 2.2), 0, 1)
    xyz = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1094, 0.8729]] @ linear
    x, y, z = np.cbrt(xyz)
    lab = np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 11
    named = ["time", "frequency", "fused", "chance"], ["hit", "miss"], ["train", "validation", "test"]
    names = [name for group in named for name in group]
    at = np.array([style.COLOUR_OF[name] for name in names])
    assert len({tuple(colour) for colour in at[:4]}) == 4 and np.abs(at[4] - at[5]).max() > 0.3


def test_branches_of_any_name_have_a_colour_each(drawn):
    """A branch that is not ours takes a colour of the palette, and no two of one figure the same."""
    for names in (BRANCHES, ("x", "y", "$", "_")):
        colours = style.colours_of(names)
        assert len(set(colours.values())) == len(names)
        assert all(colour in style.PALETTE for colour in colours.values())
    for name in ("comparison_figure", "attributes_figure"):
        legend = next(axis.get_legend() for axis in drawn[name].axes[::-1] if axis.get_legend())
        assert {text.get_text() for text in legend.get_texts()} >= set(BRANCHES), name
    ticks = [tick.get_text() for tick in drawn["classification_figure"].axes[0].get_xticklabels()]
    assert ticks == ["time branch", "frequency branch", "eegnet", "loudness", "braindecod ...", "shallow", "BrainVis"]
    boxes = {text.get_text() for text in drawn["framework_figure"].axes[0].texts}
    assert boxes >= {"time branch", *BRANCHES[1:4]}


def test_names_stay_in_their_figure(drawn):
    """The inline figures of notebooks are as large as all that is written: no name makes one that cannot be drawn."""
    for name, figure in drawn.items():
        box = figure.get_tightbbox()
        assert box.width < 2 * figure.get_figwidth() + 2 and box.height < 2 * figure.get_figheight() + 2, name
        for text in figure.findobj(Text):
            assert all(letter.isprintable() for letter in text.get_text().replace("\n", "")), name
        for axis in figure.axes:
            assert not [line for line in axis.lines if str(line.get_label()).startswith("_\U0001f600")], name


def test_tables_show_names_as_text():
    table = pd.DataFrame({"question": ["why"], "for example": ["<script>$x$</script>"]})
    for html in (table.to_html(), table._repr_html_(), table.set_index("question").style.to_html()):
        assert "<script>" not in html and "&lt;script&gt;" in html
    assert "tex2jax_ignore" in table._repr_html_() and "tex2jax_ignore" in table.style.to_html()


@pytest.mark.parametrize("branch", ["eegnet", "loudness", "braindecode.EEGConformer"])
def test_scores_of_a_branch_of_any_name(branch):
    axis = training.scores_figure({"all": {"top1": score(0.5), "trials": 7}}, branch).axes[0]
    assert axis.patches[0].get_facecolor()[:3] in style.PALETTE
    assert axis.patches[0].get_height() == 50


def test_parts_of_the_scores_may_be_missing():
    figure, axis = style.panels()
    style.estimates(axis, {"a": {"x": score(0.3), "y": score(0.4)}, "b": {"x": score(0.5)}}, {"x": "X", "y": "Y"})
    assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [0.25, 0.25]


def test_names_are_shown_as_they_are(drawn):
    """A class is no formula: its dollars are dollars, in titles, at ticks and in legends; powers of ten are set."""
    for name, figure in drawn.items():
        for text in figure.findobj(Text):
            if text.get_visible() and "$" in text.get_text():
                assert text.get_parse_math() == ("mathdefault" in text.get_text()), (name, text.get_text())
    ticks = drawn["spectra_figure"].axes[0].get_yticklabels(which="both")
    assert any("mathdefault" in tick.get_text() for tick in ticks)
