"""One recording in every form that a person's own may have. Each writer takes a file without its suffix, volts
(channel, time), hertz, channel names, and events (sample, name)."""

import struct
import warnings
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pybv
from edfio import Bdf, BdfSignal, Edf, EdfAnnotation, EdfSignal
from eeglabio.epochs import export_set as export_epochs
from eeglabio.raw import export_set as export_raw

Events = list[tuple[int, str]]
STEP = 1000.0  # microvolts that 16 or 24 bits reach to


def raw_of(volts: np.ndarray, rate: float, names: list[str], events: Events = ()) -> mne.io.RawArray:
    raw = mne.io.RawArray(volts, mne.create_info(list(names), rate, "eeg"), verbose="ERROR")
    return raw.set_annotations(mne.Annotations([s / rate for s, _ in events], 0.0, [name for _, name in events]))


def fif(file: Path, volts, rate, names, events) -> None:
    raw_of(volts, rate, names, events).save(file.with_name(f"{file.name}_raw.fif"), verbose="ERROR")


def fif_with_triggers(file: Path, volts, rate, names, events, channels=("STI",)) -> None:
    """Events are steps of trigger channels, and nothing else."""
    raw, steps = raw_of(volts, rate, names), np.zeros((len(channels), volts.shape[1]))
    for sample, name in events:
        steps[:, sample : sample + 3] = int(name)
    info = mne.create_info(list(channels), rate, "stim")
    raw.add_channels([mne.io.RawArray(steps, info, verbose="ERROR")], force_update_info=True)
    raw.save(file.with_name(f"{file.name}_raw.fif"), verbose="ERROR")


def edf(file: Path, volts, rate, names, events) -> None:
    """In records of one second, the last of which is filled up with zeros."""
    padded = np.pad(volts, ((0, 0), (0, -volts.shape[1] % int(rate))))
    signals = [EdfSignal(one * 1e6, rate, label=name, physical_dimension="uV", physical_range=(-STEP, STEP))
               for name, one in zip(names, padded, strict=True)]  # fmt: skip
    notes = [EdfAnnotation(sample / rate, None, name) for sample, name in events]
    Edf(signals, data_record_duration=1, annotations=notes).write(file.with_suffix(".edf"))


def bdf(file: Path, volts, rate, names, events) -> None:
    """As BioSemi writes it: events are in the lower bits of a channel called Status, above them are the amplifier's."""
    padded = np.pad(volts, ((0, 0), (0, -volts.shape[1] % int(rate))), mode="edge")
    signals = [BdfSignal(one * 1e6, rate, label=name, physical_dimension="uV", physical_range=(-STEP, STEP))
               for name, one in zip(names, padded, strict=True)]  # fmt: skip
    status = np.full(padded.shape[1], 2**20, np.int32)
    for sample, name in events:
        status[sample : sample + 3] += int(name)
    edges = (-(2**23), 2**23 - 1)
    signals.append(BdfSignal.from_digital(status, rate, label="Status", physical_range=edges, digital_range=edges))
    Bdf(signals, data_record_duration=1).write(file.with_suffix(".bdf"))


def brainvision(file: Path, volts, rate, names, events) -> None:
    table = np.array([(sample, int(name)) for sample, name in events])
    pybv.write_brainvision(
        data=volts, sfreq=rate, ch_names=list(names), fname_base=file.name, folder_out=file.parent, events=table,
    )  # fmt: skip


def gdf(file: Path, volts, rate, names, events) -> None:
    """GDF 1.25: float32 in microvolts, one record a second, a table of events after the signals."""
    count, size = len(names), int(rate)
    records = np.pad(volts * 1e6, ((0, 0), (0, -volts.shape[1] % size)), mode="edge").reshape(count, -1, size)
    head = b"GDF 1.25" + b"X X".ljust(80) + b"X".ljust(80) + b"2001010112000000"
    head += struct.pack("<q", 256 * (count + 1)) + bytes(24 + 20)
    head += struct.pack("<qIII", records.shape[1], 1, 1, count)
    columns = [name.encode().ljust(16) for name in names], [bytes(80)] * count, [b"uV".ljust(8)] * count
    columns += tuple([struct.pack(kind, value)] * count for kind, value in (("<d", -STEP), ("<d", STEP),
                     ("<q", -int(STEP)), ("<q", int(STEP)))) + ([bytes(80)] * count,)  # fmt: skip
    columns += tuple([struct.pack("<i", value)] * count for value in (size, 16)) + ([bytes(32)] * count,)
    signals = records.transpose(1, 0, 2).astype("<f4").tobytes()
    table = struct.pack("<B3BI", 1, size % 256, size // 256, 0, len(events))
    table += b"".join(struct.pack("<I", sample + 1) for sample, _ in events)
    table += b"".join(struct.pack("<H", int(name)) for _, name in events)
    file.with_suffix(".gdf").write_bytes(head + b"".join(map(b"".join, columns)) + signals + table)


def eeglab(file: Path, volts, rate, names, events) -> None:
    notes = [[name for _, name in events], np.array([sample for sample, _ in events]) / rate, np.zeros(len(events))]
    export_raw(str(file.with_suffix(".set")), volts, rate, list(names), annotations=notes)


def bids(root: Path, volts, rate, names, events, subject="01", session="01", bad=(), lasting=0.0) -> None:
    """One recording of a BIDS data set, by mne-bids; events last `lasting` seconds."""
    raw = raw_of(volts, rate, names, events)
    raw.annotations.duration[:] = lasting
    raw.info["bads"], raw.info["line_freq"] = list(bad), 50
    path = mne_bids.BIDSPath(subject=subject, session=session, task="look", datatype="eeg", root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne_bids.write_raw_bids(raw, path, format="BrainVision", allow_preload=True, verbose="ERROR")


def epochs_of(volts, rate, names, events: Events, window=(-0.2, 2.5)) -> mne.Epochs:
    codes = {name: code for code, name in enumerate(dict.fromkeys(name for _, name in events), 11)}
    table = np.array([(sample, 0, codes[name]) for sample, name in events])
    first, last = (round(edge * rate) for edge in window)
    span = {"tmin": first / rate, "tmax": (last - 1) / rate, "baseline": None, "preload": True}
    return mne.Epochs(raw_of(volts, rate, names), table, codes, **span, verbose="ERROR")


def epochs_fif(file: Path, volts, rate, names, events) -> None:
    epochs_of(volts, rate, names, events).save(file.with_name(f"{file.name}-epo.fif"), verbose="ERROR")


def epochs_eeglab(file: Path, volts, rate, names, events) -> None:
    made = epochs_of(volts, rate, names, events)
    span, codes = (made.tmin, made.tmax), made.event_id
    export_epochs(str(file.with_suffix(".set")), made.get_data(), rate, made.events, *span, list(names), codes)


def arrays(file: Path, volts, rate, names, events) -> None:
    made = epochs_of(volts, rate, names, events)
    np.save(file.with_suffix(".npy"), (made.get_data() * 1e6).astype(np.float32))
    np.save(file.with_name(f"{file.name}-labels.npy"), np.array([name for _, name in events]))


CONTINUOUS = {"FIF": fif, "FIF with triggers": fif_with_triggers, "EDF": edf, "BDF": bdf, "BrainVision": brainvision,
              "GDF": gdf, "EEGLAB": eeglab}  # fmt: skip
READY = {"epochs": epochs_fif, "EEGLAB epochs": epochs_eeglab, "arrays": arrays}
