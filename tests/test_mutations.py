"""Every kind of file that brainvis reads, damaged a thousand times: nothing is silent, nothing is a traceback.

The table for the docs: pytest -s tests/test_mutations.py (MUTATIONS=100 for a quick look)
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers import mutated_data, mutated_runs, mutated_weights  # noqa: F401  (they fill the table of kinds)
from helpers.mutations import KINDS, OUTCOMES, Kind, survey, table

SURVEYS: dict[str, Counter] = {}


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """In memory where there is room: whenever a file is written over, many a file system waits for the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 2**30:
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory, prefix="brainvis-") as place:
        yield Path(place) / "kind"


@pytest.fixture(autouse=True)
def quick(folder, monkeypatch):
    """Folders of a kind's own, and no wait for the disk: no power is lost here."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("BRAINVIS_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BRAINVIS_DATA", str(folder / "data"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_mended_or_said(name, folder, monkeypatch):
    kind = KINDS[name](folder, monkeypatch)
    found = survey(kind)
    SURVEYS[name] = found.counts
    assert found.counts.total() == sum(found.counts[one] for one in OUTCOMES) == kind.mutations
    assert not found.wrong, f"{len(found.wrong)} wrong, such as\n" + "\n".join(found.wrong[:20])


def test_silence_and_tracebacks_would_be_seen(folder):
    file = folder / "a.json"
    file.write_text(json.dumps({"words": ["red star", "blue ring"], "numbers": [1.5, 2.5]}))
    found = survey(
        Kind("a file without a checksum", folder, [file], lambda: json.loads(file.read_text()), mutations=1000)
    )
    assert found.counts["silent"] > 100 and found.counts["raw"] > 100 and found.counts["clear"] == 0
    assert len(found.wrong) == found.counts["silent"] + found.counts["raw"]
    assert json.loads(file.read_text())["numbers"] == [1.5, 2.5]


def test_table_counts_every_mutation():
    print("\n" + table(SURVEYS))
    assert all(f"| {name} | {counts.total():,} |" in table(SURVEYS) for name, counts in SURVEYS.items())
