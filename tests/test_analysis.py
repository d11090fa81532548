"""The looks at EEG of notebooks 01 to 03, against numbers that were put in."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from brainvis.configuration import TimeBranch
from brainvis.data.dataset import EEGDataset
from brainvis.evaluation import analysis
from brainvis.models.time import LatentMaskedModel, TimeEncoder

RATE = 256.0


def dataset(trials, labels, *, subjects=None, order=None, name="made up", captions=None):
    count = len(labels)
    captions = captions or {}
    images = torch.arange(count) if captions else torch.full((count,), -1)
    everywhere = torch.arange(count)
    return EEGDataset(
        name=name,
        trials=trials,
        sampling_rate=RATE,
        start=0.0,
        channels=tuple(f"C{number}" for number in range(trials.shape[1])),
        montage=None,
        labels=labels,
        subjects=torch.ones(count, dtype=torch.int64) if subjects is None else subjects,
        images=images,
        image_ids=tuple(captions),
        class_names=tuple(f"class {label}" for label in range(int(labels.max()) + 1)),
        captions=captions,
        image_folder=None,
        splits={"train": everywhere[: count // 2], "val": everywhere[count // 2 : -1], "test": everywhere[-1:]},
        lengths=torch.full((count,), trials.shape[-1]),
        order=order,
        fingerprint="made up",
    )


def oscillations(hertz, phases, samples=256):
    """(trial, 1, time): a unit sine of one frequency and one phase a trial."""
    time = torch.arange(samples) / RATE
    return torch.sin(2 * math.pi * hertz[:, None] * time + phases[:, None])[:, None]


def test_group_means_are_those_of_each_group():
    torch.manual_seed(0)
    values, groups = torch.randn(300, 2, 3), torch.randint(3, 6, (300,))  # more than one batch
    present, means = analysis.group_means(values, groups)
    assert present.tolist() == [3, 4, 5]
    for group, mean in zip(present, means, strict=True):
        assert torch.allclose(mean, values[groups == group].mean(0), atol=1e-6)


def test_variance_share_is_what_was_put_in_and_zero_on_average_without_effect():
    torch.manual_seed(0)
    groups, subjects = torch.arange(4000) % 4, torch.arange(4000) // 2000
    effect = torch.tensor([-1.0, -1.0, 1.0, 1.0])[groups] * (1 - 2 * subjects)  # the other way round in subject 1
    noise = torch.randn(4000, 200)
    values = torch.cat([effect[:, None] + noise[:, :1], noise[:, 1:]], 1)
    groupings = {"put in": groups, "another": torch.randint(0, 4, (4000,))}
    shares = analysis.variance_shares(values, groupings, subjects)
    assert abs(shares["another"].mean().item()) < 5e-4  # together with others, each by itself
    share = shares["put in"]
    assert share[0].item() == pytest.approx(0.5, abs=0.03)
    assert abs(share[1:].mean().item()) < 5e-4  # uncorrected it would be 3 / 2000 = 1.5e-3
    everybody = torch.zeros(4000, dtype=torch.int64)
    of_all = analysis.variance_shares(effect[:, None], {"put in": groups}, everybody)
    assert of_all["put in"].item() == pytest.approx(0, abs=1e-3)


def test_variance_share_needs_more_trials_than_groups():
    with pytest.raises(ValueError, match="3 trials are too few for 3 groups"):
        analysis.variance_shares(torch.randn(3, 2), {"each": torch.arange(3)}, torch.zeros(3, dtype=torch.int64))


def test_same_class_successions_tell_blocks_from_a_mixed_order():
    labels = torch.arange(400) % 4
    place = torch.empty(400, dtype=torch.int64)
    place[labels.argsort(stable=True)] = torch.arange(400)
    trials = torch.zeros(400, 1, 4)
    found = analysis.same_class_successions(dataset(trials, labels, order=place))
    assert found.share.tolist() == pytest.approx([0.99, 0.99, 0.99, 1.0]) and found.above.all()
    assert found.expected.tolist() == pytest.approx([99 / 399] * 4)
    mixed = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    found = analysis.same_class_successions(dataset(trials, labels, order=mixed))
    assert found.share.tolist() == pytest.approx([99 / 399] * 4, abs=0.15) and not found.above.all()
    assert (found.low < found.expected).all() and (found.expected < found.high).all()
    first = torch.cat([torch.zeros(100), 1 + torch.arange(300) % 3]).long()  # one class in a block, before the others
    found = analysis.same_class_successions(dataset(trials, first, order=torch.arange(400)))
    assert found.share.tolist() == pytest.approx([0.99, 0, 0, 0]) and found.above.tolist() == [
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(ValueError, match="order"):
        analysis.same_class_successions(dataset(trials, labels))


def test_a_class_of_most_trials_is_expected_to_follow_itself():
    """Seven trials of eight are no targets, in random order: nothing is in a block."""
    labels = (torch.randperm(400, generator=torch.Generator().manual_seed(1)) % 8 == 0).long()
    found = analysis.same_class_successions(dataset(torch.zeros(400, 1, 4), labels, order=torch.arange(400)))
    assert found.share[0] > 0.8 and found.expected.tolist() == pytest.approx([349 / 399, 49 / 399])
    assert not found.above.any()


def test_known_attributes_are_the_phantoms_truth_in_words_and_nobody_elses(tmp_path):
    shown = [
        {"shape": 3, "colour": 0, "size": 0, "position": 0, "background": 1},
        {"shape": 5, "colour": 3, "size": 2, "position": 4, "background": 0},
    ]
    (tmp_path / "image").mkdir()
    (tmp_path / "attributes.json").write_text(json.dumps(dict(zip("ab", shown, strict=True))))
    data = dataset(torch.zeros(2, 1, 4), torch.tensor([0, 1]), name="phantom", captions={"a": "", "b": ""})
    found = analysis.known_attributes(replace(data, image_folder=tmp_path / "image"))
    said = {name: [words[i] for i in index] for name, (words, index) in found.items()}
    assert (
        said["shape"] == ["star", "ring"] and said["colour"] == ["red", "blue"] and said["size"] == ["small", "large"]
    )
    assert said["position"] == ["top left", "centre"] and said["background"] == ["dark blue striped", "plain black"]
    assert analysis.known_attributes(data) == {}  # no images, no truth beside them
    assert analysis.known_attributes(replace(data, name="eegcvpr40", image_folder=tmp_path / "image")) == {}


def test_linear_probe_solves_ridge_regression_and_reads_what_is_linear():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    features = nn.functional.one_hot(labels, 3).float() @ torch.randn(3, 6) + 0.3 * torch.randn(300, 6)

    def accuracy(inputs: torch.Tensor) -> float:
        return analysis.linear_probe(inputs[:200], labels[:200], inputs[200:], labels[200:]).double().mean().item()

    assert accuracy(features) > 0.9
    noise = torch.randn(300, 6)
    assert accuracy(noise) < 0.5
    rescaled = features * torch.logspace(-3, 3, 6) + 100  # the probe standardises
    assert accuracy(rescaled) == accuracy(features)


def test_the_probe_gives_the_same_in_the_space_of_the_trials_as_in_that_of_the_inputs():
    from sklearn.linear_model import Ridge

    torch.manual_seed(0)
    labels = torch.arange(90) % 5
    for width in (20, 200):  # fewer inputs than trials, and more
        inputs = torch.randn(90, width) + 0.3 * nn.functional.one_hot(labels, 5).float() @ torch.randn(5, width)
        known = (inputs - inputs[:60].mean(0)) / inputs[:60].std(0)
        ridge = Ridge(alpha=0.1 * 60).fit(known[:60], nn.functional.one_hot(labels[:60]))
        right = torch.from_numpy(ridge.predict(known[60:])).argmax(1) == labels[60:]
        assert torch.equal(analysis.linear_probe(inputs[:60], labels[:60], inputs[60:], labels[60:]), right)


def units_of_a_class(blurred: bool):
    """An encoder whose two units know the class, if not `blurred`; if so, their mean knows nothing of it."""

    def units_of(trials: torch.Tensor) -> torch.Tensor:
        signal = trials.mean(-1)
        return torch.stack([signal, -signal if blurred else signal], dim=1)  # (trial, unit, channel)

    return SimpleNamespace(units_of=units_of)


def test_an_encoder_is_probed_within_the_training_trials_by_the_mean_of_its_units_and_by_all():
    labels = torch.arange(40) % 2
    noise = 0.01 * torch.randn(40, 2, 8, generator=torch.Generator().manual_seed(0))
    data = dataset(labels[:, None, None] + noise, labels)
    partition = data.partition("clean")
    assert analysis.probe_encoder(units_of_a_class(False), data, partition) == {"mean_of_units": 1, "all_units": 1}
    blurred = analysis.probe_encoder(units_of_a_class(True), data, partition)
    assert blurred["all_units"] == 1 and blurred["mean_of_units"] < 0.8
    data.trials[torch.cat([partition.validation, partition.test])] = 0  # whatever is in the other parts
    assert analysis.probe_encoder(units_of_a_class(True), data, partition) == blurred


@pytest.mark.parametrize("each", [1, 2, 3])
def test_an_encoder_of_few_trials_is_probed_all_the_same(each):
    labels = torch.arange(2 * 6 * each) % 6
    data = dataset(torch.randn(len(labels), 2, 8), labels)
    found = analysis.probe_encoder(units_of_a_class(False), data, data.partition("clean"))
    assert all(0 <= value <= 1 for value in found.values()) and len(found) == 2


def test_no_more_units_are_probed_than_memory_holds(monkeypatch):
    labels = torch.arange(80) % 2
    data = dataset(torch.randn(80, 2, 8), labels)
    asked = []

    def units_of(trials: torch.Tensor) -> torch.Tensor:
        asked.append(len(trials))
        return trials.reshape(len(trials), 2, 8)  # 2 units of 8 numbers

    monkeypatch.setattr(analysis, "MOST_NUMBERS", 12 * 16)
    analysis.probe_encoder(SimpleNamespace(units_of=units_of), data, data.partition("clean"))
    assert sum(asked) == 1 + 12


def test_pretraining_is_watched_after_each_epoch_and_probed_now_and_then(monkeypatch):
    monkeypatch.setattr(analysis, "probe_encoder", lambda *_: {"mean_of_units": 0.25, "all_units": 0.5})
    labels = torch.arange(40) % 2
    data = dataset(torch.randn(40, 2, 8), labels)
    encoder = TimeEncoder(**data.signature, config=TimeBranch(unit_length=2, width=4, layers=1, heads=1, feedforward=4))
    monitor = analysis.pretraining_monitor(data, data.partition("clean"), epochs=20, readings=6)
    said = [monitor(SimpleNamespace(encoder=encoder), epoch) for epoch in range(1, 21)]
    assert [epoch for epoch, one in enumerate(said, 1) if "probe_accuracy" in one] == [3, 6, 9, 12, 15, 18, 20]
    assert said[2]["probe_of_all_units"] == 0.5 and said[0]["residual_scale"] == pytest.approx(1e-8)
    assert said[0]["variance_over_trials"] > 0.01 and said[0]["variance_over_positions"] > 0.01
    nn.init.zeros_(encoder.projection.weight)  # every trial is the same to it
    assert monitor(SimpleNamespace(encoder=encoder), 1)["variance_over_trials"] == pytest.approx(0, abs=1e-6)


def test_pictures_of_masked_modeling_do_not_depend_on_chance_and_count_every_unit():
    torch.manual_seed(0)
    config = TimeBranch(
        unit_length=8, width=16, layers=1, heads=2, feedforward=16, regressor_layers=1, codewords=12, dropout=0.5
    )
    model, trials = LatentMaskedModel(TimeEncoder(3, 64, RATE, config=config)).train(), torch.randn(5, 3, 64)
    mask = model.draw_mask(torch.Generator().manual_seed(0))
    once, again = (analysis.masked_prediction(model, trials, mask) for _ in range(2))
    assert torch.equal(once.regressed, again.regressed) and not once.regressed.requires_grad
    use = analysis.codebook_use(model, trials)
    assert use.shape == (12,) and use.sum() == 5 * 8
    assert torch.equal(
        use, torch.bincount(model.tokeniser(model.encoder.project(trials)).argmax(-1).flatten(), minlength=12)
    )


def test_bands_cover_what_the_branch_reads():
    bands = analysis.bands_between(10.0, 120.0)
    assert list(bands) == ["alpha", "low beta", "high beta", "low gamma", "high gamma"]
    assert bands["high gamma"][0] == 55.0 and bands["high gamma"][1] > 120.0


def test_exchanging_a_band_moves_that_band_within_subjects_and_nothing_else():
    torch.manual_seed(0)
    trials, subjects = torch.randn(6, 2, 256), torch.tensor([1, 1, 1, 2, 2, 2])
    exchanged = analysis.exchange_band(trials, RATE, [(8.0, 13.0)], subjects)
    hertz = torch.fft.rfftfreq(256, 1 / RATE)
    inside = (hertz >= 8) & (hertz < 13)
    before, after = torch.fft.rfft(trials), torch.fft.rfft(exchanged)
    assert torch.allclose(before[..., ~inside], after[..., ~inside], atol=1e-3)
    for trial in range(6):
        sources = [
            other for other in range(6) if torch.allclose(before[other][:, inside], after[trial][:, inside], atol=1e-3)
        ]
        assert len(sources) == 1 and sources[0] != trial and subjects[sources[0]] == subjects[trial]


def test_band_reliance_finds_the_band_that_carries_the_class():
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    carrier = torch.where(labels == 0, 18.0, 28.0)  # low beta or high beta
    trials = oscillations(carrier, 6.28 * torch.rand(200)) + oscillations(torch.full((200,), 70.0), torch.rand(200))
    data = dataset(trials, labels)

    def logits(values):  # reads low beta alone
        amplitude = torch.fft.rfft(values).abs()[:, 0, 18]
        return torch.stack([amplitude, torch.full_like(amplitude, 60.0)], 1)

    bands = analysis.bands_between(1.0, 128.0)
    table = analysis.band_reliance(logits, data, torch.arange(200), bands, seed=0)
    assert table["all bands"]["alone"] == 1.0 and table["all bands"]["without"] == pytest.approx(0.5, abs=0.12)
    assert table["low beta"]["without"] == pytest.approx(0.5, abs=0.12) and table["low beta"]["alone"] == 1.0
    assert table["high gamma"]["without"] == 1.0 and table["high gamma"]["alone"] == pytest.approx(0.5, abs=0.12)
    assert table == analysis.band_reliance(logits, data, torch.arange(200), bands, seed=0)
