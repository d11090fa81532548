"""The phantom's head: a sphere with 128 real electrode positions, and the scalp potentials of dipoles inside it.

Coordinates are in metres, with the origin at the sphere's centre: x to the right, y to the front, z upwards.
"""

from functools import lru_cache

import mne
import numpy as np
from numpy.random import Generator

MONTAGE = "brainproducts-RNP-BA-128"
NOT_EEG = ("FCz", "Fpz")  # the montage's reference and ground: 128 of its 130 names are recorded
RADIUS = 0.095  # of the scalp, metres; as in MNE's standard montages
BRAIN_RADIUS = 0.9 * RADIUS  # MNE's default ratio of brain to scalp


@lru_cache(maxsize=1)
def electrodes() -> tuple[tuple[str, ...], np.ndarray]:
    """Names and positions (128, 3) of the recorded electrodes, in metres."""
    positions = mne.channels.make_standard_montage(MONTAGE).get_positions()["ch_pos"]
    names = tuple(name for name in positions if name not in NOT_EEG)
    return names, np.stack([positions[name] for name in names])


def lead_field(positions: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Scalp potentials (channel, source) of dipoles in a four-shell sphere, relative to the average of all electrodes,
    in volts per ampere metre. Positions (source, 3) are in metres; orientations (source, 3) may have any length.
    ValueError: a dipole outside the brain."""
    depth = np.linalg.norm(positions, axis=1)
    if (depth >= BRAIN_RADIUS).any():
        found, allowed = 1000 * depth.max(), 1000 * BRAIN_RADIUS
        raise ValueError(f"Dipole {depth.argmax()} is {found:.1f} mm from the centre: the brain ends at {allowed:.1f}.")
    names, places = electrodes()
    directions = orientations / np.linalg.norm(orientations, axis=1, keepdims=True)
    with mne.utils.use_log_level("error"):
        info = mne.create_info(list(names), 1000.0, "eeg")
        # Already in head coordinates: otherwise MNE would move the electrodes so that the ears lie at z = 0.
        montage = mne.channels.make_dig_montage(dict(zip(names, places, strict=True)), coord_frame="head")
        info.set_montage(montage)
        sphere = mne.make_sphere_model(r0=(0.0, 0.0, 0.0), head_radius=RADIUS)
        space = mne.setup_volume_source_space(pos={"rr": positions, "nn": directions}, sphere=sphere, sphere_units="m")
        forward = mne.make_forward_solution(info, trans=None, src=space, bem=sphere, meg=False, eeg=True)
        forward = mne.convert_forward_solution(forward, force_fixed=True)
    field = forward["sol"]["data"].astype(np.float64)
    return field - field.mean(axis=0)  # average reference


def topographies(positions: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Lead fields scaled to a root mean square of one over channels: (channel, source), float32. A source's amplitude
    is then its amplitude at the scalp, whatever its depth."""
    field = lead_field(positions, orientations)
    return (field / np.sqrt((field**2).mean(axis=0))).astype(np.float32)


def random_sources(count: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dipoles anywhere in the outer brain: positions (count, 3) in metres, orientations (count, 3)."""
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[:, 2] = np.where(directions[:, 2] < -0.4, -directions[:, 2], directions[:, 2])  # no brain in the neck
    radii = BRAIN_RADIUS * rng.uniform(0.5, 0.95, (count, 1))
    return directions * radii, rng.standard_normal((count, 3))


def rotated(orientations: np.ndarray, angle: float, rng: Generator) -> np.ndarray:
    """Unit vectors rotated by about `angle` (radians) in random directions, as cortical folding differs between
    heads."""
    unit = orientations / np.linalg.norm(orientations, axis=1, keepdims=True)
    return unit + np.tan(angle) * rng.standard_normal(unit.shape) / np.sqrt(2)
