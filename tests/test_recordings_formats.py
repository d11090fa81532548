"""The same recording in every form that a person's own may have: the same trials come back."""

import json

import numpy as np
import pytest
import torch
import yaml
from helpers import formats

from brainvis.configuration import Configuration
from brainvis.data import DATASETS, DatasetError, load_dataset

RATE, NAMES, TRIALS = 128.0, ["Oz", "O1", "O2", "Pz"], 10
SETTINGS = {"window": [0.5, 2.0], "filter": [2, 40], "classes": {1: "rest", 2: "12 Hz"}, "standardise": "none"}


def recording(seed=0, trials=TRIALS):
    """(channel, time) volts, which do not end with a second, and events called "1" and "2", 3 s apart."""
    rng, onsets = np.random.default_rng(seed), ((np.arange(trials) * 3 + 1) * RATE).astype(int)
    volts = rng.normal(0, 10e-6, (len(NAMES), int((trials * 3 + 2.3) * RATE)))
    for trial in range(1, trials, 2):
        span = np.arange(int(2.5 * RATE)) / RATE
        volts[:, onsets[trial] : onsets[trial] + len(span)] += 20e-6 * np.sin(2 * np.pi * 12 * span)
    return volts, [(int(onset), str(trial % 2 + 1)) for trial, onset in enumerate(onsets)]


def written(folder, write, seeds=(0, 1), **changes):
    """A folder with one subject's recordings in this form, one a session."""
    for session, seed in enumerate(seeds, 1):
        volts, events = recording(seed)
        (folder / "subject03").mkdir(parents=True, exist_ok=True)
        write(folder / "subject03" / f"day{session}", volts, RATE, NAMES, events)
    if changes != {"settings": None}:  # else there are none
        content = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
        (folder / "recordings.yml").write_text(yaml.safe_dump(content))
    return folder


def load(folder):
    return load_dataset("recordings", folder=folder)


def fingerprint(folder):
    return DATASETS["recordings"].fingerprint(folder, Configuration())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return load(written(tmp_path_factory.mktemp("fif"), formats.fif))


@pytest.mark.parametrize("form", formats.CONTINUOUS)
def test_continuous_recordings_in_every_form_give_the_same_trials(form, expected, tmp_path):
    data = load(written(tmp_path, formats.CONTINUOUS[form]))
    assert data.subjects.unique().tolist() == [3] and data.sessions.tolist() == [0] * TRIALS + [1] * TRIALS
    assert torch.equal(data.labels, expected.labels) and data.sampling_rate == RATE and data.channels == tuple(NAMES)
    # 16 bits over 2 mV are 0.03 microvolts; a padded end is cut, which moves the filter's edge by as much
    exact = {"EDF": 0.05, "BDF": 0.001}.get(form, 1e-3)
    middle = slice(1, TRIALS - 1)
    torch.testing.assert_close(data.trials[middle], expected.trials[middle], atol=exact, rtol=1e-3)
    assert data.lengths[0] == 3 * RATE
    padded = any("ends are cut off" in note for note in data.notes)
    assert padded == (form in ("EDF", "BDF", "GDF"))


@pytest.mark.parametrize("form", formats.READY)
def test_ready_epochs_and_arrays_are_taken_as_they_are(form, tmp_path):
    said = {"filter": None, "classes": {"1": "rest", "2": "12 Hz"}}
    if form == "arrays":
        said["arrays"] = {"sampling_rate": RATE, "channels": NAMES, "start": -0.2}
    data = load(written(tmp_path, formats.READY[form], **said))
    assert data.trials.shape == (2 * TRIALS, 4, 1.5 * RATE) and data.class_names == ("rest", "12 Hz")
    assert data.labels.tolist() == [0, 1] * TRIALS and data.channels == tuple(NAMES)
    assert data.start == 0.5 and len(data.splits["test"]) == TRIALS
    (volts, events), first = recording(1), round(-0.2 * RATE)
    own = formats.epochs_of(volts, RATE, NAMES, events).get_data()[3] * 1e6
    begin = round(0.5 * RATE) - first
    torch.testing.assert_close(data.trials[TRIALS + 3].double().numpy(), own[:, begin : begin + data.trials.shape[-1]],
                               atol=1e-3, rtol=1e-4)  # fmt: skip


# BIDS


def bids(root, subjects=("01", "02"), **options):
    for number, subject in enumerate(subjects):
        for session in (1, 2):
            volts, events = recording(10 * number + session)
            named = [(sample, {"1": "rest", "2": "flicker"}[name]) for sample, name in events]
            formats.bids(root, volts, RATE, NAMES, named, subject, f"0{session}", **options)
    return root


@pytest.fixture(scope="module")
def bids_root(tmp_path_factory):
    return bids(tmp_path_factory.mktemp("bids") / "recordings", bad=["Pz"], lasting=1.5)


def test_bids_without_settings(bids_root):
    data = load(bids_root)
    assert data.class_names == ("flicker", "rest") and data.labels[:4].tolist() == [1, 0, 1, 0]
    assert data.channels == ("Oz", "O1", "O2")  # channels.tsv marks Pz
    assert data.trials.shape == (4 * TRIALS, 3, 1.5 * RATE) and data.start == 0.0  # events last 1.5 s
    assert data.subjects.unique().tolist() == [1, 2] and len(data.splits["test"]) == 2 * TRIALS
    (note,) = [note for note in data.notes if note.startswith("BIDS")]
    assert "(flicker, rest)" in note and "1.5 s" in note and "1 to 40 Hz" in note
    assert fingerprint(bids_root) == data.fingerprint


def test_bids_gives_the_trials_of_the_same_recordings_elsewhere(bids_root, tmp_path):
    settings = {**SETTINGS, "classes": {"rest": "rest", "flicker": "12 Hz"}, "channels": NAMES}
    (tmp_path / "chosen.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    data = load_dataset("recordings", folder=bids_root, settings=tmp_path / "chosen.yml")
    plain = load(written(tmp_path / "plain", formats.fif, seeds=(1, 2)))
    torch.testing.assert_close(data.trials[: 2 * TRIALS], plain.trials, atol=1e-3, rtol=1e-3)
    assert torch.equal(data.labels[: 2 * TRIALS], plain.labels)


def test_bids_tables_count_and_tasks_are_chosen(tmp_path):
    root = bids(tmp_path / "recordings", subjects=("anna", "ben"))
    before = fingerprint(root)
    assert DATASETS["recordings"].subjects(root, Configuration()) == (1, 2)  # labels without numbers, in their order
    (table,) = root.glob("sub-anna/ses-01/eeg/*_channels.tsv")
    table.write_text(table.read_text().replace("good", "bad", 1))
    assert fingerprint(root) != before and load(root).channels == tuple(NAMES[1:])
    assert not list(root.rglob("*.lock"))
    for file in root.glob("sub-ben/ses-02/eeg/*_events.tsv"):
        file.write_text(file.read_text().replace("trial_type", "kind"))
    with pytest.raises(DatasetError, match="sub-ben.*no events table with a trial_type column. Say in recordings"):
        load(root)
    for file in sorted(root.glob("sub-ben/ses-02/eeg/*")):
        file.rename(file.with_name(file.name.replace("task-look", "task-rest")))
    with pytest.raises(DatasetError, match="several tasks: look, rest.*`task: look`"):
        load(root)
    (root / "recordings.yml").write_text("task: look\n")
    assert len(load(root)) == 3 * TRIALS
    (root / "recordings.yml").write_text("task: loop\n")
    with pytest.raises(DatasetError, match="no recordings of the task 'loop', only of look, rest"):
        load(root)


def test_types_with_several_values_are_one_class(tmp_path):
    root = bids(tmp_path / "recordings", subjects=("01",))
    for file in root.rglob("*_events.tsv"):  # every second event of a type has another value
        head, *rows = file.read_text().splitlines()
        value = head.split("\t").index("value")
        cells = [row.split("\t") for row in rows]
        for number, row in enumerate(cells):
            row[value] = str(number)
        file.write_text("\n".join([head, *("\t".join(row) for row in cells)]) + "\n")
    assert load(root).class_names == ("flicker", "rest")


# Events


def test_a_lone_trigger_channel_is_read_and_of_several_the_file_is_named(tmp_path):
    folder = written(tmp_path, lambda *what: formats.fif_with_triggers(*what, channels=("STI 1", "STI 2")))
    told = (
        r"day1_raw.fif has no events.*no day1-eve.fif beside it, and 2 trigger channels to choose from .STI 1, STI 2.*"
    )
    with pytest.raises(DatasetError, match=told + r"Write its events with mne.write_events\(.day1-eve.fif."):
        load(folder)


def test_events_without_their_recording_are_named_and_do_not_count(tmp_path):
    folder = written(tmp_path, formats.fif)
    before = fingerprint(folder)
    (folder / "subject03" / "S1-eve.fif").write_bytes(b"events of R_S1_raw.fif")
    data = load(folder)
    assert data.fingerprint == before and any("S1-eve.fif belongs to no recording" in note for note in data.notes)


def test_epochs_beside_recordings_are_ignored_and_named(tmp_path):
    folder = written(tmp_path, formats.fif)
    before = fingerprint(folder)
    volts, events = recording()
    formats.epochs_fif(folder / "subject03" / "cut", volts, RATE, NAMES, events)
    data = load(folder)
    assert len(data) == 2 * TRIALS and data.fingerprint == before
    assert any("the first is cut-epo.fif) are not read" in note for note in data.notes)


# Amplitudes and padding


@pytest.mark.parametrize(
    ("factor", "meant"), [(1e6, "microvolts that their files call volts"), (1.0, None),
                          (1e-6, "volts that their files call microvolts"),
                          (1e3, "microvolts that their files call millivolts")],
)  # fmt: skip
def test_impossible_amplitudes_are_noted(factor, meant, tmp_path):
    folder = written(tmp_path, lambda file, volts, *rest: formats.fif(file, volts * factor, *rest), seeds=(0,))
    notes = [note for note in load(folder).notes if "have a standard deviation of" in note]
    assert len(notes) == (meant is not None) and all(meant in note and "day1_raw.fif" in note for note in notes)


def test_padding_does_not_enter_what_recordings_are_standardised_by(tmp_path):
    """Zeros at the end of an EDF would else lower the deviation; the offset of the last second raise it."""

    def padded(file, volts, rate, names, events):
        raw = formats.raw_of(np.pad(volts, ((0, 0), (0, 20 * int(rate)))), rate, names, events)
        raw.save(file.with_name(f"{file.name}_raw.fif"), verbose="ERROR")

    plain, long = (
        load(written(tmp_path / form, write, standardise="channel"))
        for form, write in (("plain", formats.fif), ("padded", padded))
    )
    middle = slice(1, TRIALS - 1)
    torch.testing.assert_close(long.trials[middle], plain.trials[middle], atol=1e-3, rtol=1e-3)
    assert any("up to 20.0" in note for note in long.notes)


# The array file


def test_recordings_are_read_once(tmp_path, monkeypatch):
    folder = written(tmp_path, formats.fif)
    first = load(folder)
    file = folder / "recordings.trials.safetensors"
    assert file.is_file()
    monkeypatch.setattr("brainvis.data.recordings._cut", lambda *_: pytest.fail("cut again"))
    again = load(folder)
    for name in ("trials", "before", "labels", "lengths", "order", "sessions", "subjects"):
        assert torch.equal(getattr(again, name), getattr(first, name)), name
    assert again.notes == first.notes and again.channels == first.channels and again.start == first.start
    monkeypatch.undo()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], b""):
        file.unlink()
        file.write_bytes(damaged)
        assert torch.equal(load(folder).trials, first.trials) and file.read_bytes() == whole
    written(folder, formats.fif, seeds=(), window=[0.5, 1.0])
    assert load(folder).trials.shape[-1] == RATE / 2  # made anew for other settings ...
    volts, events = recording(7)
    (folder / "subject03" / "day1_raw.fif").unlink()
    formats.fif(folder / "subject03" / "day1", volts, RATE, NAMES, events)
    assert not torch.equal(load(folder).trials, first.trials[..., : int(RATE / 2)])  # ... and other recordings
    assert [one.name for one in folder.glob("*.safetensors")] == [file.name]


def test_a_folder_that_cannot_be_written_has_its_array_file_beside_the_runs(tmp_path, monkeypatch):
    folder = written(tmp_path / "data", formats.fif)
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("brainvis.data.source.read_only", lambda place: True)
    assert len(load(folder)) == 2 * TRIALS and not list(folder.glob("*.safetensors"))
    assert (tmp_path / "runs" / "data" / "data" / "recordings.trials.safetensors").is_file()


def test_pictures_and_captions_do_not_cut_anew(tmp_path, monkeypatch):
    folder = written(tmp_path, formats.fif)
    first = load(folder)
    (folder / "shown").mkdir()
    (folder / "captions.json").write_text(json.dumps({"a_1": "a lamp", "b_1": "a lamp that flickers"}))
    monkeypatch.setattr("brainvis.data.recordings._cut", lambda *_: pytest.fail("cut again"))
    images = {"folder": "shown", "events": {1: "a_1", 2: "b_1"}, "captions": "captions.json"}
    data = load(written(folder, None, seeds=(), images=images))
    assert torch.equal(data.images, data.labels) and data.fingerprint != first.fingerprint


# Ready epochs that cannot be used


def test_ready_epochs_that_do_not_fit_are_one_sentence(tmp_path):
    said = {"filter": None, "window": None, "classes": None}
    form = {"sampling_rate": RATE, "channels": NAMES, "start": -0.2}
    folder = written(tmp_path, formats.arrays, **said, arrays=form)
    data = load(folder)
    assert data.class_names == ("1", "2") and data.start == pytest.approx(-0.2, abs=1 / RATE)
    for changes, message in (
        ({"arrays": None}, "recordings.yml: the key arrays is missing; it must be a table with sampling_rate"),
        ({"arrays": {**form, "channels": NAMES[:3]}}, "has 4 channels, but arrays.channels names 3"),
        ({"arrays": {"channels": NAMES}}, "the key arrays.sampling_rate is missing; it must be a positive number"),
        ({"filter": [1, 40]}, "filter is for continuous recordings"),
        ({"window": [0.0, 5.0]}, r"day1.npy: its epochs extend from -0.2\d* to 2.5 s, but the window is 0 to 5 s"),
        ({"classes": {1: "a", 3: "b"}}, r"no recording has the event 3; the recordings have 1 \(10 times\)"),
    ):
        with pytest.raises(DatasetError, match=message):
            load(written(folder, None, seeds=(), **{**said, "arrays": form, **changes}))
    written(folder, None, seeds=(), **said, arrays=form)
    labels = folder / "subject03" / "day2-labels.npy"
    np.save(labels, np.arange(3))
    with pytest.raises(DatasetError, match="day2-labels.npy holds int64 .3,., not 10 whole numbers or strings"):
        load(folder)
    np.save(labels, np.array([1, "a"] * 5, dtype=object))
    with pytest.raises(DatasetError, match="NumPy cannot read .*day2-labels.npy"):
        load(folder)
    labels.unlink()
    with pytest.raises(DatasetError, match="day2.npy has no labels. Put them beside it as day2-labels.npy"):
        load(folder)


def test_epochs_need_no_settings_and_do_not_mix_with_recordings(tmp_path):
    folder = written(tmp_path, formats.epochs_eeglab, settings=None)
    assert load(folder).class_names == ("1", "2")
    volts, events = recording(5)
    formats.eeglab(folder / "subject03" / "day3", volts, RATE, NAMES, events)
    with pytest.raises(DatasetError, match="day1.set holds epochs, but .*day3.set is a continuous"):
        load(folder)
