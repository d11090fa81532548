"""What is known of a data set before any trial is read: who took part, whether there are pictures."""

from __future__ import annotations

from pathlib import Path

from brainvis.configuration import Phantom

EEGCVPR40_SUBJECTS = 6


def dataset_subjects(name: str, folder: Path, phantom: Phantom) -> tuple[int, ...]:
    """Numbers of the subjects of a data set.

    Raises:
        DatasetError: a folder of recordings that is not there or not laid out as one subfolder a subject.
    """
    if name == "recordings":
        from brainvis.datasets.recordings_settings import find_recordings

        return tuple(sorted({recording.subject for recording in find_recordings(folder)}))
    return tuple(range(1, (phantom.subjects if name == "phantom" else EEGCVPR40_SUBJECTS) + 1))


def dataset_has_images(name: str, folder: Path) -> bool:
    """Whether the pictures that were shown are at hand."""
    return name == "phantom" or (name == "eegcvpr40" and (folder / "image").is_dir())
