"""The order of classes within sessions: can a trial's position, or what was recorded before it, predict its class?

If sessions share an order of classes, any drift common to all of them (fatigue, drying electrodes) can pass for class
information. What was recorded before the event cannot contain a response to it.
"""

import mne
import numpy as np

from brainvis.data.recordings_settings import RecordingsSettings

REACH = 4  # positions checked on either side, nearer ones with more weight
EXCHANGES = 199  # permutations of labels within sessions
LEVEL = 0.01  # for a note; the audits of notebook 01 have their own level
BEFORE = 1.0  # seconds before the event, or as many as are free of the preceding trial
LEAST_BEFORE = 0.2  # seconds; less says nothing about rhythms


def class_from_place(
    labels: np.ndarray, places: np.ndarray, sessions: np.ndarray, seed: int = 0
) -> tuple[float, np.ndarray] | None:
    """How often a trial's class can be predicted from its position in its session, given the same positions in all
    other sessions.

    Args:
        labels, sessions: (trial,) int; session numbers are unique across subjects.
        places: (trial,) int, position of the trial in its session, starting at 0.

    Returns:
        That share, and the shares (exchange,) after permuting labels within sessions; None with fewer than two
        sessions.
    """
    _, sessions = np.unique(sessions, return_inverse=True)
    _, labels = np.unique(labels, return_inverse=True)
    if sessions.max() == 0:
        return None
    rng, found = np.random.default_rng(seed), []
    for exchange in range(1 + EXCHANGES):
        mixed = np.lexsort((rng.random(len(labels)), sessions)) if exchange else np.lexsort((places, sessions))
        of_trial = np.empty_like(labels)
        of_trial[np.lexsort((places, sessions))] = labels[mixed]
        found.append((_scores(of_trial, places, sessions).argmax(1) == of_trial).mean())
    return float(found[0]), np.array(found[1:])


def places_in_sessions(order: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """Position of each trial (trial,) in its session, from its position in the subject's recording."""
    places = np.empty_like(order)
    for one in np.unique(sessions):
        own = np.flatnonzero(sessions == one)
        places[own[order[own].argsort(kind="stable")]] = np.arange(len(own))
    return places


def order_note(labels: np.ndarray, order: np.ndarray, sessions: np.ndarray) -> str | None:
    """What a reader should know about the order of classes; None if the position predicts nothing."""
    found = class_from_place(labels, places_in_sessions(order, sessions), sessions)
    if found is None:
        return None
    value, null = found
    if (p := (1 + (null >= value).sum()) / (1 + len(null))) > LEVEL:
        return None
    sequences = {tuple(labels[sessions == one][order[sessions == one].argsort()]) for one in np.unique(sessions)}
    how = "Every session shows the classes in" if len(sequences) == 1 else "Sessions show the classes partly in"
    told = f"from the other sessions, the position in a session predicts the class of {value:.0%} of the trials"
    drift = "slow drift (fatigue, drying electrodes) may pass for class information"
    return f"{how} the same order: {told} (by chance {null.mean():.0%}, p = {p:.3f}), so {drift}."


def seconds_before(onsets: list[np.ndarray], values: RecordingsSettings) -> float:
    """Seconds before every event, at most `BEFORE`, that lie within its recording and after the preceding trial; 0 if
    there are too few. `onsets` (trial,) of each recording are in seconds from its first sample."""
    free = [np.diff(times, prepend=-values.window[1]) - values.window[1] for times in onsets]
    least = min([BEFORE, *(gaps.min() for gaps in free)])
    return least if least >= LEAST_BEFORE else 0.0


def cut_before(
    raw: mne.io.BaseRaw, onsets: np.ndarray, seconds: float, channels: tuple[str, ...], rate: float, values
) -> np.ndarray:
    """The samples just before each event, (trial, channel, time) float32, of a loaded recording, which is modified in
    place.

    Unlike the trials, they are filtered causally (minimum phase): nothing after an event can leak into what precedes
    it. `onsets` are samples counted from the start of the recording. Each channel gets mean 0 and standard deviation 1.
    """
    table = np.array([[sample + raw.first_samp, 0, trial] for trial, sample in enumerate(onsets)])
    raw.pick(list(channels), exclude=[], verbose="ERROR").reorder_channels(list(channels))
    low, high = values.filter
    raw.filter(low or None, high, picks="all", phase="minimum", verbose="ERROR")
    if values.notch:
        raw.notch_filter(list(values.notch), picks="all", phase="minimum", verbose="ERROR")
    if raw.info["sfreq"] != rate:
        raw, table = raw.resample(rate, events=table, verbose="ERROR")
    raw.apply_function(lambda signal: (signal - signal.mean()) / max(signal.std(), 1e-30), picks="all", verbose="ERROR")
    window = {"tmin": -int(seconds * rate) / rate, "tmax": -1 / rate, "baseline": None, "reject_by_annotation": False}
    epochs = mne.Epochs(raw, table, **window, picks="all", proj=False, preload=True, verbose="ERROR")
    return epochs.get_data(copy=False).astype(np.float32)


def _scores(labels: np.ndarray, places: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """Class scores (trial, class): how often each class occurs at and near the position in the other sessions."""
    reach = 2 * REACH
    shown = np.zeros((sessions.max() + 1, places.max() + 1 + reach, labels.max() + 1))  # (session, place, class)
    shown[sessions, places + REACH, labels] = 1
    ends = range(reach + 1)
    near = sum(np.exp(-abs(end - REACH)) * shown[:, end : shown.shape[1] - reach + end] for end in ends)
    return (near.sum(0) - near)[sessions, places]
