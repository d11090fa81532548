"""When and where the class is told is found where it was put; facts of a recording are those that it was made with."""

import math
from dataclasses import replace

import pytest
import torch

from brainvis.configuration import TimeBranch
from brainvis.configuration.differences import preset_differences
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation import masking, text_line, time_resolved
from brainvis.evaluation.analysis import codebook_use
from brainvis.models.time import LatentMaskedModel, TimeEncoder
from brainvis.plots.follow import followed_trial, nearest

RATE, SAMPLES, CHANNELS, PER_CLASS, CLASSES = 200.0, 80, 6, 60, 4
SIGNAL = {"waveform": (slice(24, 32), 2), "power": (slice(48, 56), 4)}  # samples, channel


def recorded(power: bool = True, gain: tuple[float, float] = (1.0, 1.0)) -> EEGDataset:
    """Two subjects; the class is in the mean of one channel's window, and in the power of another's."""
    generator = torch.Generator().manual_seed(0)
    count = 2 * CLASSES * PER_CLASS
    labels = torch.arange(count) % CLASSES
    subjects = 1 + (torch.arange(count) >= count // 2).long()
    trials = torch.randn(count, CHANNELS, SAMPLES, generator=generator)
    strength = torch.tensor(gain)[subjects - 1]
    when, where = SIGNAL["waveform"]
    trials[:, where, when] += (strength * (labels - 1.5))[:, None]
    if power:
        when, where = SIGNAL["power"]
        trials[:, where, when] *= (1 + labels)[:, None] ** strength[:, None]
    part = torch.arange(count) // CLASSES % 4  # of four trials of a class two teach, one chooses, one is for the test
    return EEGDataset(
        name="toy", trials=trials, sampling_rate=RATE, start=0.05, channels=tuple("ABCDEF"), montage=None,
        labels=labels, subjects=subjects, images=torch.arange(count), image_ids=tuple(f"n{i}_0" for i in range(count)),
        class_names=tuple("abcd"), captions={}, image_folder=None, lengths=torch.full((count,), SAMPLES), order=None,
        splits={"train": torch.nonzero(part < 2).flatten(), "val": torch.nonzero(part == 2).flatten(),
                "test": torch.nonzero(part == 3).flatten()}, fingerprint="made up",
    )  # fmt: skip


def test_the_class_is_told_when_and_where_it_was_put():
    data = recorded()
    partition = data.partition("clean")
    centres = time_resolved.windows(data)
    over_time = time_resolved.decode_time(data, partition)
    over_scalp = time_resolved.decode_sensors(data, partition)
    assert len(centres) == 10 and centres[0] == pytest.approx(0.05 + 3.5 / RATE)
    for name, (when, where) in SIGNAL.items():
        window = when.start // 8
        assert over_time[name].trials == len(partition.validation) and over_time[name].chance == 0.25
        assert over_time[name].above.nonzero().flatten().tolist() == [window], name
        assert over_scalp[name].above.nonzero().flatten().tolist() == [where], name
        assert over_time[name].accuracy[window] > 0.4


def test_test_trials_have_no_part_in_it():
    data = recorded()
    before = time_resolved.decode_time(data, data.partition("clean"))
    data.trials[data.splits["test"]] = 1e6
    after = time_resolved.decode_time(data, data.partition("clean"))
    assert all(torch.equal(before[name].hits, after[name].hits) for name in before)


def test_whose_eeg_tells_the_class():
    data = recorded(power=False, gain=(2.0, 0.0))
    first, second = time_resolved.subject_quality(data, data.partition("clean")).values()
    assert first["accuracy"] > 0.35 > second["accuracy"]
    assert first["class_share"] > 0.05 > second["class_share"]
    response = torch.zeros(CHANNELS, SAMPLES)
    response[:, 10:20] = 2.0  # the same in all trials of the second subject: power 4 in an eighth of the samples
    data.trials[data.subjects == 2] = data.trials[data.subjects == 2] + response
    _, second = time_resolved.subject_quality(data, data.partition("clean")).values()
    assert second["evoked_snr_db"] == pytest.approx(10 * math.log10(4 / 8), abs=0.3)


def test_facts_of_a_recording():
    data = recorded(power=False)
    spectrum = torch.fft.rfft(data.trials)
    hertz = torch.fft.rfftfreq(SAMPLES, 1 / RATE)
    spectrum[..., (hertz < 10) | (hertz > 40)] = 0
    data.trials[:] = torch.fft.irfft(spectrum, n=SAMPLES)
    data.trials.sub_(data.trials.mean(1, keepdim=True))
    facts = time_resolved.recording_facts(data, torch.arange(100))
    assert facts["passband"].startswith("10 to 40 Hz") and facts["window"].startswith("50 to 445 ms")
    assert "yes" in facts["reference"] and facts["unit"].startswith("standardised")
    data.trials.mul_(20)
    assert time_resolved.recording_facts(data, torch.arange(100))["unit"].startswith("microvolts")
    data.trials.add_(torch.randn(len(data), 1, SAMPLES))
    assert ": no (" in time_resolved.recording_facts(data, torch.arange(100))["reference"]


def test_a_window_is_a_sample_at_least_and_a_trial_at_most():
    data = recorded()
    assert len(time_resolved.windows(data, 0.001)) == SAMPLES and len(time_resolved.windows(data, 9.0)) == 1


def test_subjects_that_cannot_be_tested_are_left_out():
    data = recorded()
    partition = data.partition("clean")
    first = replace(partition, validation=partition.validation[data.subjects[partition.validation] == 1])
    assert list(time_resolved.subject_quality(data, first)) == [1]
    apart = replace(first, train=partition.train[data.subjects[partition.train] == 2])
    assert time_resolved.decode_time(data, apart) == {} == time_resolved.subject_quality(data, apart)
    assert time_resolved.in_words(data, torch.zeros(0), {}, {})[0].startswith("No subject")


def test_words_follow_the_numbers():
    data = recorded()
    centres, places = torch.tensor([0.1, 0.2, 0.3]), {"waveform": [40, 50, 10], "power": [10, 12, 9]}
    over_time = {name: time_resolved.Decoded(torch.tensor(hits), 60, 0.25) for name, hits in places.items()}
    over_scalp = {name: time_resolved.Decoded(torch.tensor([9, 9, 48, 9, 9, 9]), 60, 0.25) for name in places}
    first, second = time_resolved.in_words(data, centres, over_time, over_scalp)
    assert first.startswith("waveform: above chance between 100 and 200 ms (2 of 3 windows), at best 83.3% at 200 ms")
    assert first.endswith("1 of 6 single channels above chance, C best with 80.0%") and "nowhere above chance" in second


def test_the_followed_trial_is_the_same_in_every_notebook():
    data = recorded()
    test = data.partition("clean").test
    of_all = followed_trial(data, test, subject=2)
    own = data.of_subject(2)
    of_one = followed_trial(own, own.partition("clean").test)
    assert data.images[of_all] == own.images[of_one] and data.labels[of_all] == 2
    assert followed_trial(data, test.flip(0), subject=2) == of_all
    assert followed_trial(data, test, subject=9) == followed_trial(data, test)
    with pytest.raises(ValueError, match="no trial to follow"):
        followed_trial(data, test[:0])


def test_masks_are_nested():
    masks = masking.nested_masks(22, seed=3)
    assert [int(mask.sum()) for mask in masks.values()] == [2, 5, 8, 12, 16, 19]
    for smaller, larger in zip(list(masks.values())[:-1], list(masks.values())[1:], strict=True):
        assert not (smaller & ~larger).any()
    assert list(masking.nested_masks(3, seed=0)) == [0.4, 0.55, 0.75, 0.9]


def test_the_middle_between_two_texts_is_shorter():
    """As long as the cosine of the ends says: sqrt((1 + c) / 2)."""
    coarse, fine = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    coarse[0, 0, 0], fine[0, 0, :2] = 2.0, torch.tensor([0.15, (1 - 0.15**2) ** 0.5]) * 2
    found = text_line.line_geometry(coarse, fine)
    expected = math.sqrt(1.15 / 2)
    assert found["place"][2] == 0.5 and found["length"][2] == pytest.approx(expected, abs=1e-3)
    assert found["cosine_fine"][2] == pytest.approx(expected, abs=1e-3)
    ends = [found["cosine_coarse"][end] for end in (0, -1)]
    assert ends == pytest.approx([1, 0.15], abs=1e-3)


def test_presets_differ_in_what_they_change():
    rows = {row["setting"]: row for row in preset_differences("demo", part="generation")}
    assert rows["generation.samples"] == {"setting": "generation.samples", "paper": "4", "demo": "2"}
    assert not any(name.startswith("time.") for name in rows) and "generation.strength" not in rows
    assert preset_differences("paper") == []


def test_the_true_text_is_always_listed():
    cosines, texts = torch.tensor([0.1, 0.9, 0.5, 0.7]), "abcd"
    assert [text for text, _, _ in nearest(cosines, texts, true=2, count=2)] == ["b", "d", "c"]
    assert [true for _, _, true in nearest(cosines, texts, true=3, count=2)] == [False, True]


def test_tokens_of_every_unit():
    """As `codebook_use` counts them."""
    config = TimeBranch(unit_length=8, width=8, heads=2, layers=1, feedforward=8, regressor_layers=1, codewords=5)
    data = recorded()
    model = LatentMaskedModel(TimeEncoder(**data.signature, config=config)).eval()
    tokens = masking.tokens_of(model, data.view(torch.arange(12)))
    assert tokens.shape == (12, 10)
    assert torch.equal(tokens.flatten().bincount(minlength=5), codebook_use(model, data.view(torch.arange(12))))
