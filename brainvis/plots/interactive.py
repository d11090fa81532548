"""Interactive choices in notebooks 01, 02 and 06: everything is drawn in advance, see `plots.choose`."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from brainvis.data.dataset import EEGDataset
from brainvis.data.unit import unit_of
from brainvis.plots import style
from brainvis.plots.choose import Choice, Frame
from brainvis.plots.follow import TIME
from brainvis.plots.insight import topography
from brainvis.plots.style import COLOUR_OF, PALETTE, Pixels, panels

ALL = "all classes"


def evoked_choice(data: EEGDataset, by_class: Tensor, classes: Tensor, electrodes: int = 4, most: int = 5) -> Choice:
    """The evoked response at an electrode, for a class (class, channel, time), and its map at the peak of that class.

    Some classes, evenly spaced, and the mean of all; the electrodes whose responses differ most between classes.
    """
    strength = by_class.var(0, correction=0).mean(1) if len(by_class) > 1 else by_class[0].square().mean(1)
    best = strength.argsort(descending=True)[:electrodes].sort().values.tolist()
    rows = np.unique(np.linspace(0, len(classes) - 1, min(most, len(classes))).round().astype(int)).tolist()
    responses = {ALL: by_class.mean(0)}
    for row in rows:  # each (channel, time)
        name = data.class_names[classes[row]]
        responses[f"{name} ({row + 1})" if name in responses else name] = by_class[row]
    times, what = 1000 * data.times.numpy(), f"EEG ({unit_of(data)})"
    limit = 1.05 * max(response[best].abs().max().item() for response in responses.values())
    frames = []
    for name, response in responses.items():
        for channel in best:
            figure, axis = panels(width=5.2, height=2.4)
            axis.plot(times, responses[ALL][channel], color=COLOUR_OF["chance"], linewidth=1, label=ALL)
            if name != ALL:
                axis.plot(times, response[channel], color=COLOUR_OF["time"], label=style.words(name, 24))
            axis.set(xlabel=TIME, ylabel=what, ylim=(-limit, limit))
            axis.set_title(style.words(data.channels[channel], 12))
            axis.legend(loc="upper right", fontsize=8)
            frames.append(Frame({"class": name, "electrode": data.channels[channel]}, figure))
        if data.montage:
            peak = int(response.std(0).argmax())
            figure, axis = panels(width=2.6, height=2.4)
            reach = response[:, peak].abs().max().item()
            shown = topography(axis, data, response[:, peak], cmap=style.DIVERGING, vlim=(-reach, reach))
            figure.colorbar(shown, ax=axis, label=what, shrink=0.8)
            axis.set_title(f"peak: {times[peak]:.0f} ms", loc="center")
            frames.append(Frame({"class": name}, figure))
    options = {"electrode": [data.channels[channel] for channel in best], "class": list(responses)}
    return Choice(options, frames)


def mask_choice(
    data: EEGDataset, trial: int, masks: Mapping[float, Tensor], quality: Mapping[float, Mapping[str, float]]
) -> Choice:
    """One trial under masks of several ratios, and how well the trained model predicts some trials under each
    (`evaluation.masking`)."""
    frames = []
    for ratio, mask in masks.items():
        figure, (left, right) = panels(1, 2, height=2.6, width_ratios=(2.2, 1))
        style.show_trial(left, data, trial, 5, among=[trial])
        length = data.trials.shape[-1] // len(mask) * 1000 / data.sampling_rate  # milliseconds per unit
        first = 1000 * data.times[0].item()
        for place in mask.nonzero().flatten().tolist():
            start = first + place * length
            left.axvspan(start, start + length, color=(0.5, 0.5, 0.5, 0.35), linewidth=0)
        left.set_xlim(first, first + len(mask) * length)
        left.set(ylabel="channel", title=f"{int(mask.sum())} of {len(mask)} units masked")
        for name, colour, label in (
            ("tokens_right", PALETTE[0], "masked-token accuracy"),
            ("most_frequent_token", COLOUR_OF["chance"], "most frequent token"),
        ):
            right.plot(list(quality), [100 * of[name] for of in quality.values()], ".-", color=colour, label=label)
        right.plot(ratio, 100 * quality[ratio]["tokens_right"], "o", color=PALETTE[0], markersize=9)
        right.set(xlabel="mask ratio", ylabel="tokens (%)", xlim=(0, 1), ylim=(0, None))
        right.legend(fontsize=7)
        error = quality[ratio]["relative_error"]
        words = f"Regression error: {error:.0%} of the variance over trials; 100 % is what the mean of each unit gives."
        frames.append(Frame({"mask ratio": f"{ratio:g}"}, figure, words))
    return Choice({"mask ratio": [f"{ratio:g}" for ratio in masks]}, frames, sliders=["mask ratio"])


def picture_choice(
    stages: Mapping[str, Pixels], shown: Sequence[str], words: Mapping[str, Sequence[str]], trials: Sequence[int]
) -> Choice:
    """A trial and a stage: the picture that was shown next to the one that was made, and what the judge sees in it.

    `stages`: name -> (trial, height, width, 3), the first being the pictures shown; `words`: stage -> the judge's words
    (trial,).
    """
    first, *others = stages
    names = {row: f"trial {trial}: {style.words(shown[row], 24)}" for row, trial in enumerate(trials)}
    frames = [Frame({"trial": name}, stages[first][row], first) for row, name in names.items()]
    for stage in others:
        for row, name in names.items():
            said = f"{stage}; the judge sees: {words[stage][row]}" if stage in words else stage
            frames.append(Frame({"trial": name, "stage": stage}, stages[stage][row], said))
    return Choice({"trial": list(names.values()), "stage": others}, frames)


def line_choice(
    pictures: Mapping[float, Pixels], names: Sequence[str], captions: Sequence[str], truth: Pixels
) -> Choice:
    """A trial, and a slider from its class name to its caption: what the semantic stage draws at each place between the
    two text embeddings -> (trial, height, width, 3); next to it, what was shown, (trial, height, width, 3)."""
    of_trial = [f"{row + 1}: {style.words(name, 24)}" for row, name in enumerate(names)]
    places = {f"{place:g}": made for place, made in pictures.items()}
    frames = [
        Frame({"text": text}, truth[row], f"shown. Name: {names[row]}. Caption: {captions[row]}")
        for row, text in enumerate(of_trial)
    ]
    frames += [
        Frame({"text": text, "from name (0) to caption (1)": place}, made[row], "drawn")
        for place, made in places.items()
        for row, text in enumerate(of_trial)
    ]
    controls = {"text": of_trial, "from name (0) to caption (1)": list(places)}
    return Choice(controls, frames, sliders=["from name (0) to caption (1)"])
