"""The ideal observer: a decoder that knows how a phantom was made, and so gives a ceiling on what its responses can
reveal.

It knows a subject's sources, how each attribute drives them, and the noise; it does not know what was shown, nor the
latencies, phases and amplitudes that vary from trial to trial, over which it averages likelihoods. It learns nothing,
so every trial may be used. It makes some simplifying assumptions:

- noise is Gaussian, independent across frequencies (Whittle's likelihood), and equal in every trial: in fact blinks and
  alpha bursts are rarer and larger, and slow drift changes the power of sources;
- attributes with evoked responses are read with colour's bursts treated as noise, and colour from what is left after
  the likeliest evoked response is subtracted, each of its four bands separately; bursts, whose phases differ between
  sources, are treated as Gaussian, although their time and amplitude are common to all sources.

So the true ceiling is slightly higher. Slow potentials are not used: in a block design they reveal the class through
time.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from scipy.special import logsumexp

from brainvis.configuration import Phantom
from brainvis.phantom import sources
from brainvis.phantom.recording import ATTRIBUTES, record
from brainvis.phantom.sources import COLOUR_BANDS, COLOUR_PAIRS, OngoingEEG, PictureResponses, Subject
from brainvis.phantom.spectrum import BAND_PASS, SAMPLING_RATE, waveforms_of
from brainvis.phantom.stimuli import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SHOWN_CLASSES, SIZES, plan_session

WINDOW = slice(20, 460)  # samples of a trial that models read: `lengths` of EEGCVPR40 are cropped to them
BINS = slice(1, 56)  # of the window's Fourier transform: 2 to 125 Hz; without the mean, which is slow drift
LEVELS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "position": POSITIONS, "background": BACKGROUNDS}
NOISE_TRIALS = 200  # simulated to estimate the power of each source
LATENCIES = 24  # draws over which an evoked response is averaged
BURSTS = 300  # trials drawn to estimate the power of a band's bursts
BATCH = 100  # trials read at once


@dataclass(frozen=True)
class Ceiling:
    """What the ideal observer reads in one subject's trials, by image, in the order of the phantom's pictures."""

    log_likelihoods: dict[str, np.ndarray]  # attribute -> (image, level), up to a constant per image
    logits: np.ndarray  # (image, class), of shape and colour together
    truth: dict[str, np.ndarray]  # attribute, and "class" -> (image,)
    classes: np.ndarray  # (class, 2): shape and colour of each

    def accuracy(self, images: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Accuracy over `images`: of every attribute read separately, of the class from shape alone and from colour
        alone (if several classes share it, the mean over guesses among them), and of the class from both."""
        found = {}
        for name, values in self.log_likelihoods.items():
            # A level that no class has would never be guessed.
            shown = np.unique(self.truth[name]) if name in ("shape", "colour") else np.arange(values.shape[1])
            right = shown[values[images][:, shown].argmax(1)] == self.truth[name][images]
            found[name] = float(right.mean())
            if name in ("shape", "colour"):
                column = self.classes[:, ("shape", "colour").index(name)]
                alike = (column == self.truth[name][images][:, None]).sum(1)
                found[f"class by {name}"] = float((right / alike).mean())
        right = self.logits[images].argmax(1) == self.truth["class"][images]
        return {**found, "class": float(right.mean())}


def ceiling(phantom: Phantom, seed: int, subject: int) -> Ceiling:
    """What the ideal observer reads in all trials of a subject (1, 2, ...) of the phantom with this seed. The trials
    are recorded again, which takes seconds and no file. ValueError: no such subject."""
    if not 1 <= subject <= phantom.subjects:
        raise ValueError(f"The phantom has subjects 1 to {phantom.subjects}, not {subject}.")
    pictures, _, *subject_seeds = SeedSequence(seed).spawn(2 + phantom.subjects)  # as in `write_phantom`
    session = plan_session(phantom, default_rng(pictures))
    rng = default_rng(subject_seeds[subject - 1])
    head = Subject(rng)  # drawn first by `record` from the same seed
    responses, ongoing = PictureResponses(head, rng), OngoingEEG(head, rng)
    observer = _Observer(responses, ongoing, phantom.signal, default_rng(0))

    trials = record(session, phantom, default_rng(subject_seeds[subject - 1]))
    found: list[dict[str, np.ndarray]] = []
    batch: list[np.ndarray] = []
    for image, _, eeg in trials:  # in image order
        batch.append(eeg[:, WINDOW].numpy())
        if len(batch) == BATCH or image == len(session.labels) - 1:
            found.append(observer.read(np.stack(batch)))
            batch = []
    values = {name: np.concatenate([part[name] for part in found]) for name in LEVELS}
    truth = {name: np.array([getattr(stimulus, name) for stimulus in session.stimuli]) for name in ATTRIBUTES}
    shown = np.array(SHOWN_CLASSES[: phantom.classes])
    classes = np.stack([shown % len(SHAPES), shown // len(SHAPES)], axis=1)
    logits = values["shape"][:, classes[:, 0]] + values["colour"][:, classes[:, 1]]
    return Ceiling(values, logits, {**truth, "class": session.labels}, classes)


class _Observer:
    """Likelihoods of a subject's trials. A picture drives only a few sources, so a trial is reduced, without loss, to
    what these receive of it after whitening by the noise: (source, bin)."""

    def __init__(self, responses: PictureResponses, ongoing: OngoingEEG, signal: float, rng: Generator):
        self.responses, self.signal = responses, signal
        hertz = np.fft.rfftfreq(WINDOW.stop - WINDOW.start, 1 / SAMPLING_RATE)[BINS]
        nearest = np.abs(hertz[:, None] - COLOUR_BANDS).argmin(1)
        self.bands = [np.flatnonzero(nearest == band) for band in range(len(COLOUR_BANDS))]  # bins of each
        noise = self._noise_covariance(ongoing, rng)  # (bin, channel, channel)
        self.bursts = [self._burst_covariance(band, rng) for band in range(len(self.bands))]  # (bin, bin), per source
        self.evoked = self._draw_evoked()
        fields = responses.topographies.astype(float)  # (channel, source)
        power = np.zeros(len(hertz))
        for bins, covariance in zip(self.bands, self.bursts, strict=True):
            power[bins] = np.diag(covariance).real / 2  # every band is active for half of the colours
        of_colour = fields[:, responses.colour]
        induced = np.einsum("cs,f,ds->fcd", of_colour, power, of_colour)
        # Filters (bin, source, channel), and their response to the sources themselves (bin, source, source).
        self.filters, self.gram = _whitened(noise, fields)
        self.evoked_filters, self.evoked_gram = _whitened(noise + induced, fields)

    def read(self, trials: np.ndarray) -> dict[str, np.ndarray]:
        """Log-likelihoods of each attribute's levels (trial, level), from trials (trial, channel, time)."""
        spectra = _bins(trials)  # (trial, channel, bin)
        received = np.einsum("fsc,ncf->nsf", self.evoked_filters, spectra, optimize=True)
        values, likeliest = self._read_evoked(received)
        received = np.einsum("fsc,ncf->nsf", self.filters, spectra, optimize=True)
        received -= np.einsum("fst,ntf->nsf", self.gram, likeliest, optimize=True)
        ratios = np.stack([self._read_band(received, band) for band in range(len(self.bands))], axis=1)
        return {**values, "colour": ratios[:, COLOUR_PAIRS].sum(-1)}

    def _read_evoked(self, received: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Log-likelihoods of shape, position, size and background, and the likeliest response (trial, source, bin)."""
        best, highest = np.zeros(received.shape, np.complex128), np.full(len(received), -np.inf)
        by_size: list[list[np.ndarray]] = [[] for _ in SIZES]
        for size, parts in self.evoked:  # one draw of the latency
            match, product = {}, {}
            filtered = {name: np.einsum("fst,ltf->lsf", self.evoked_gram, part) for name, part in parts.items()}
            for name, part in parts.items():
                match[name] = 2 * np.einsum("nsf,lsf->nl", received.conj(), part).real  # (trial, level)
                for other in parts:
                    product[name, other] = np.einsum("lsf,msf->lm", part.conj(), filtered[other]).real
            shape, position, background = match["shape"], match["position"], match["background"]
            shape, position, background = (
                values - np.diag(product[name, name])
                for name, values in (("shape", shape), ("position", position), ("background", background))
            )
            joint = shape[:, :, None, None] + position[:, None, :, None] + background[:, None, None, :]
            joint -= 2 * product["shape", "position"][:, :, None]
            joint -= 2 * product["shape", "background"][:, None, :]
            joint -= 2 * product["position", "background"]
            by_size[size].append(joint)  # (trial, shape, position, background)
            top = joint.reshape(len(joint), -1)
            better = np.flatnonzero(top.max(1) > highest)
            highest[better] = top.max(1)[better]
            levels = np.unravel_index(top[better].argmax(1), joint.shape[1:])
            named = zip(("shape", "position", "background"), levels, strict=True)
            best[better] = sum(parts[name][level] for name, level in named)
        joint = np.stack([logsumexp(np.stack(draws), axis=0) for draws in by_size], axis=1)
        axes = {"size": 1, "shape": 2, "position": 3, "background": 4}
        others = {name: tuple(axis for axis in axes.values() if axis != own) for name, own in axes.items()}
        return {name: logsumexp(joint, axis=axis) for name, axis in others.items()}, best

    def _read_band(self, received: np.ndarray, band: int) -> np.ndarray:
        """Log-likelihood ratio (trial,) of bursts in a band against none. Both are Gaussian, with covariances G + G C G
        and G of what is received, where G are the gains and C is the covariance of bursts, over sources and bins."""
        bins, own = self.bands[band], self.responses.colour
        count = own.stop - own.start
        gram = np.einsum("fst,fg->sftg", self.gram[bins][:, own, own], np.eye(len(bins)))
        gram = gram.reshape(count * len(bins), -1)
        bursts = np.kron(np.eye(count), self.bursts[band])
        both = np.eye(len(gram)) + gram @ bursts
        received = received[:, own][..., bins].reshape(len(received), -1)  # (trial, source bin)
        weights = bursts @ np.linalg.inv(both)
        energy = np.einsum("na,ab,nb->n", received.conj(), weights, received, optimize=True).real
        return energy - np.linalg.slogdet(both)[1]

    def _draw_evoked(self) -> list[tuple[int, dict[str, np.ndarray]]]:
        """Draws of the latency: size, and the sources' activity (level, source, bin) for each level of an attribute;
        the onset, common to all, is part of position. One seed gives one latency, whatever is shown."""
        slices = {"shape": self.responses.ventral, "position": self.responses.early}
        slices["background"] = self.responses.background
        drawn = []
        for draw in range(LATENCIES):
            for size in range(len(SIZES)):
                parts = {}
                for name, own in slices.items():
                    activity = np.stack([self._activity(name, level, size, draw) for level in range(len(LEVELS[name]))])
                    alone = np.zeros_like(activity)
                    alone[:, own] = activity[:, own]
                    parts[name] = alone
                drawn.append((size, parts))
        return drawn

    def _activity(self, name: str, level: int, size: int, draw: int) -> np.ndarray:
        """Activity (source, bin) in a trial that shows one level of an attribute."""
        shown = {attribute: np.zeros(1, int) for attribute in ATTRIBUTES}
        shown |= {name: np.array([level]), "size": np.array([size])}
        return self._source_bins(self.responses.spectra(shown, default_rng(draw)))[0]

    def _burst_covariance(self, band: int, rng: Generator) -> np.ndarray:
        """Covariance (bin, bin) of a band's bins in trials in which it is active, the same for each of colour's
        sources."""
        colour = int(np.flatnonzero((COLOUR_PAIRS == band).any(1))[0])
        shown = {attribute: np.zeros(BURSTS, int) for attribute in ATTRIBUTES} | {"colour": np.full(BURSTS, colour)}
        drawn = self._source_bins(self.responses.spectra(shown, rng)[:, self.responses.colour])[..., self.bands[band]]
        return np.einsum("nsf,nsg->fg", drawn, drawn.conj()) / (drawn.shape[0] * drawn.shape[1])

    def _source_bins(self, spectra: np.ndarray) -> np.ndarray:
        return self.signal * _bins(waveforms_of(spectra * BAND_PASS)[..., WINDOW])

    def _noise_covariance(self, ongoing: OngoingEEG, rng: Generator) -> np.ndarray:
        """Covariance of channels in each bin, (bin, channel, channel): sources are independent, and so are sensors."""
        count = ongoing.slow_modulation.shape[1]  # of the background and alpha sources
        spectra = ongoing.spectra(NOISE_TRIALS, np.ones((NOISE_TRIALS, count)), rng)
        power = (np.abs(_bins(waveforms_of(spectra * BAND_PASS)[..., WINDOW])) ** 2).mean(0)  # (source, bin)
        power[: sources.BACKGROUND_SOURCES] = power[: sources.BACKGROUND_SOURCES].mean(0)  # all the same
        white = ongoing.sensor_noise(NOISE_TRIALS, rng)
        sensors = (np.abs(_bins(waveforms_of(white * BAND_PASS)[..., WINDOW])) ** 2).mean((0, 1))  # (bin,)
        fields = ongoing.topographies.astype(float)
        covariance = np.einsum("cs,sf,ds->fcd", fields, power, fields, optimize=True)
        return covariance + sensors[:, None, None] * np.eye(len(fields))


def _bins(waveforms: np.ndarray) -> np.ndarray:
    """Fourier coefficients (..., bin) of what models read, (..., time)."""
    return np.fft.rfft(waveforms, axis=-1)[..., BINS]


def _whitened(noise: np.ndarray, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Filters (bin, source, channel) that weight channels by the inverse of the noise, and their gains (bin, s, s)."""
    filters = np.linalg.solve(noise, np.broadcast_to(fields, (len(noise), *fields.shape))).swapaxes(1, 2)
    return filters, filters @ fields


def main(arguments: list[str] | None = None) -> None:
    """Print the ceilings of a phantom's subjects, for its own gains or for others."""
    parser = argparse.ArgumentParser(
        prog="python -m brainvis.phantom.observer", description="Print the ceilings of a phantom's subjects."
    )
    parser.add_argument("gains", nargs="*", help="response gains to try instead, such as shape=0.3 colour=0.6")
    parser.add_argument("--subjects", type=int, default=1, help="how many subjects, from the first on (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the phantom (default 0)")
    parser.add_argument("--signal", type=float, default=1.0, help="gain of all responses (default 1)")
    chosen = parser.parse_args(arguments)
    for word in chosen.gains:
        name, _, value = word.partition("=")
        if name not in sources.GAINS:
            parser.error(f"{word}: there is no gain {name}; the gains are {', '.join(sources.GAINS)}")
        sources.GAINS[name] = float(value)
    print("gains", sources.GAINS)
    for subject in range(1, chosen.subjects + 1):
        found = ceiling(Phantom(signal=chosen.signal), chosen.seed, subject).accuracy()
        print(f"subject {subject}:", ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
