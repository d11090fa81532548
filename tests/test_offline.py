"""A study on a machine that is locked down: no network, system and checkout cannot be written to, a new home."""

import json
import re

import pytest
from helpers.world import JOBS, World

# What packages keep in a new home; the docs name them.
CACHES = {".cache/matplotlib", ".cache/snakemake", ".config/matplotlib", ".ipython/profile_default"}
LOOPBACK = ("127.", "::1", "localhost", "ip6-localhost")


@pytest.fixture(scope="module")
def world(locked_study):
    """Its folder is all that the study could write to."""
    if not json.loads((locked_study / "answer.json").read_text())["locked"]:
        pytest.skip("this machine allows no namespaces of one's own: unshare --map-root-user --net --mount")
    return World(locked_study / "written")


def test_the_study_ran_without_a_network_from_a_checkout_that_cannot_be_written_to(world):
    assert world.results("sub-01", "full", "generation")["metrics"]
    assert (world.runs / "figures" / "phantom_smoke" / "results.md").exists()


def test_it_asks_for_no_name_and_connects_to_nobody(world):
    asked = [json.loads(line) for line in (world.folder / "log" / "asked").read_text().splitlines()]
    assert len(asked) >= sum(JOBS.values())  # each notebook's kernel has listened
    abroad = []
    for event, address in asked:
        host = address[0] if isinstance(address, list) else address
        if host and not str(host).startswith((*LOOPBACK, "/", "\0")):  # a path is a socket of this machine
            abroad.append((event, address))
    assert not abroad


def test_no_process_of_it_connects_to_another_machine(world):
    trace = world.folder / "log" / "connects"
    if not trace.exists():
        pytest.skip("strace is not installed, or not allowed")
    connects = re.findall(r"connect\(.*", trace.read_text())
    assert connects
    here = ("AF_UNIX", 'inet_addr("127.', '"::1"', "AF_UNSPEC")
    assert [call for call in connects if not any(place in call for place in here)] == []


def test_it_leaves_nothing_elsewhere_but_known_caches(world):
    home = world.folder / "home"
    assert {str(folder.relative_to(home)) for folder in home.glob("*/*")} <= CACHES
    assert [
        entry.name for entry in (world.folder / "tmp").iterdir() if not entry.name.startswith("torchinductor_")
    ] == []
    assert {entry.name for entry in world.folder.iterdir()} == {"home", "tmp", "runs", "log"}
