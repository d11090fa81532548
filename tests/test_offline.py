"""A study on a machine that is locked down: no network, system and checkout cannot be written to, a new home."""

import json
import re
import shutil
import sys

import pytest
from helpers.world import ODD, World, copy_checkout

GRID = ["preset=smoke", "subjects=[1]", "ablations=[full]"]
# What packages keep in a new home; the docs name them.
CACHES = {".cache/matplotlib", ".cache/snakemake", ".config/matplotlib", ".ipython/profile_default"}
LOOPBACK = ("127.", "::1", "localhost", "ip6-localhost")

# Runs a command where there is no network but loopback, which kernels are talked to over, and where nothing can be
# written but `writable` (separated by newlines), /dev and whatever other disk is mounted elsewhere.
LOCK_DOWN = """
import fcntl, os, socket, struct, subprocess, sys

with socket.socket() as any_socket:  # ip link set lo up
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 1))
read_only, *writable = os.environ["LOCK_DOWN"].split("\\n")
for folder in (*writable, read_only):
    subprocess.run(["mount", "--bind", folder, folder], check=True)
for folder in (read_only, "/"):
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
os.chdir(read_only)
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Every Python process of the study imports this when it starts, and so says whom it asks for and connects to.
LISTEN = """
import json, os, sys

ASKS = {"connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo"}

def listen(event, arguments):
    if event.startswith("socket.") and event.removeprefix("socket.") in ASKS:
        address = next((value for value in arguments if isinstance(value, (str, bytes, tuple))), None)
        with open(os.environ["LISTEN_LOG"], "a") as log:
            log.write(json.dumps([event, address], default=str) + "\\n")

sys.addaudithook(listen)
listen("socket.connect", ["localhost"])  # so that the log shows who listens
"""


@pytest.fixture(scope="module")
def locked_down(tmp_path_factory):
    """A smoke study under lock: its world, whose folder is all that it can write to, and snakemake's answer."""
    folder = tmp_path_factory.mktemp("locked")
    checkout, written = copy_checkout(folder / ODD), folder / "written"
    for name in ("home", "tmp", "runs", "log"):
        (written / name).mkdir(parents=True)
    (folder / "listen").mkdir()
    (folder / "listen" / "sitecustomize.py").write_text(LISTEN)
    world = World(written, checkout=checkout, PYTHONPATH=str(folder / "listen"))
    for name in [
        name for name in world.environment if name.startswith(("BRAINVIS_", "JUPYTER_", "XDG_", "HF_", "TORCH_"))
    ]:
        del world.environment[name]
    world.environment |= {
        "HOME": str(written / "home"),
        "TMPDIR": str(written / "tmp"),
        "BRAINVIS_RUNS": str(world.runs),
        "LISTEN_LOG": str(written / "log" / "asked"),
        "LOCK_DOWN": f"{checkout}\n{written}",
    }
    lock = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, "-c", LOCK_DOWN]
    if not shutil.which("unshare") or world.run(*lock, "true").returncode:
        pytest.skip("this machine allows no namespaces of one's own: unshare --map-root-user --net --mount")
    trace = ["strace", "--follow-forks", "--seccomp-bpf", "--trace=connect", f"--output={written / 'log' / 'connects'}"]
    if shutil.which("strace") and world.run(*lock, *trace, "true").returncode == 0:  # sees what is not Python, too
        lock += trace
    study = [sys.executable, "-m", "snakemake", "--directory", str(world.runs), "--cores", "2", "--config", *GRID]
    return world, world.run(*lock, *study)


def test_a_study_runs_without_a_network_from_a_checkout_that_cannot_be_written_to(locked_down):
    world, answer = locked_down
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert world.results("sub-01", "full", "generation")["metrics"]
    assert (world.runs / "figures" / "phantom_smoke" / "results.md").exists()


def test_it_asks_for_no_name_and_connects_to_nobody(locked_down):
    world, _ = locked_down
    asked = [json.loads(line) for line in (world.folder / "log" / "asked").read_text().splitlines()]
    assert len(asked) >= 8  # each notebook's kernel has listened
    abroad = []
    for event, address in asked:
        host = address[0] if isinstance(address, list) else address
        if host and not str(host).startswith((*LOOPBACK, "/", "\0")):  # a path is a socket of this machine
            abroad.append((event, address))
    assert not abroad


def test_no_process_of_it_connects_to_another_machine(locked_down):
    world, _ = locked_down
    trace = world.folder / "log" / "connects"
    if not trace.exists():
        pytest.skip("strace is not installed, or not allowed")
    connects = re.findall(r"connect\(.*", trace.read_text())
    assert connects
    here = ("AF_UNIX", 'inet_addr("127.', '"::1"', "AF_UNSPEC")
    assert [call for call in connects if not any(place in call for place in here)] == []


def test_it_leaves_nothing_elsewhere_but_known_caches(locked_down):
    world, _ = locked_down
    home = world.folder / "home"
    assert {str(folder.relative_to(home)) for folder in home.glob("*/*")} <= CACHES
    assert list((world.folder / "tmp").iterdir()) == []
    assert {entry.name for entry in world.folder.iterdir()} == {"home", "tmp", "runs", "log"}
