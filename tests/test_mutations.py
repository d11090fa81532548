"""Every kind of file that brainvis reads, damaged a thousand times: nothing is silent, nothing is a traceback.

The table for the docs: pytest -s tests/test_mutations.py (MUTATIONS=100 for a quick look)
"""

import json
import os
from collections import Counter

import pytest
from helpers import mutated_data, mutated_runs, mutated_weights  # noqa: F401  (they fill the table of kinds)
from helpers.mutations import KINDS, OUTCOMES, Kind, survey, table

SURVEYS: dict[str, Counter] = {}


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Folders of a kind's own, and no wait for the disk: no power is lost here."""
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BRAINVIS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_mended_or_said(name, tmp_path, monkeypatch):
    kind = KINDS[name](tmp_path, monkeypatch)
    found = survey(kind)
    SURVEYS[name] = found.counts
    assert found.counts.total() == sum(found.counts[one] for one in OUTCOMES) == kind.mutations
    assert not found.wrong, f"{len(found.wrong)} wrong, such as\n" + "\n".join(found.wrong[:20])


def test_silence_and_tracebacks_would_be_seen(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"words": ["red star", "blue ring"], "numbers": [1.5, 2.5]}))
    found = survey(
        Kind("a file without a checksum", tmp_path, [file], lambda: json.loads(file.read_text()), mutations=1000)
    )
    assert found.counts["silent"] > 100 and found.counts["raw"] > 100 and found.counts["clear"] == 0
    assert len(found.wrong) == found.counts["silent"] + found.counts["raw"]
    assert json.loads(file.read_text())["numbers"] == [1.5, 2.5]


def test_table_counts_every_mutation():
    print("\n" + table(SURVEYS))
    assert all(f"| {name} | {counts.total():,} |" in table(SURVEYS) for name, counts in SURVEYS.items())
