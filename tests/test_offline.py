"""A study on a machine that is locked down: no network, system and checkout cannot be written to, a new home."""

import json
import socket
import sys

import pytest
from helpers.locked import locked_world
from helpers.world import JOBS, World, copy_checkout

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


def test_no_process_of_it_sends_anything_to_another_machine(world):
    assert (world.folder / "log" / "abroad").read_text() == "0"


@pytest.mark.parametrize("kind, address", [("STREAM", "192.0.2.1"), ("DGRAM", "192.0.2.1"), ("STREAM", "2001:db8::1")])
def test_that_would_be_seen(world, tmp_path, kind, address):
    locked, lock = locked_world(tmp_path / "written", copy_checkout(tmp_path / "checkout"))
    send = "import socket, sys; socket.socket(int(sys.argv[1]), int(sys.argv[2])).connect((sys.argv[3], 53))"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    words = [str(int(family)), str(int(getattr(socket, f"SOCK_{kind}"))), address]
    assert "unreachable" in locked.run(*lock, sys.executable, "-c", send, *words).stderr
    assert (locked.folder / "log" / "abroad").read_text() == "1"
    last = (locked.folder / "log" / "asked").read_text().splitlines()[-1]
    assert json.loads(last) == ["socket.connect", [address, 53]]


def test_it_leaves_nothing_elsewhere_but_known_caches(world):
    home = world.folder / "home"
    assert {str(folder.relative_to(home)) for folder in home.glob("*/*")} <= CACHES
    assert [
        entry.name for entry in (world.folder / "tmp").iterdir() if not entry.name.startswith("torchinductor_")
    ] == []
    assert {entry.name for entry in world.folder.iterdir()} == {"home", "tmp", "runs", "log"}
