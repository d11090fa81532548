"""A machine that is locked down: no network, system and checkout cannot be written to, a new home."""

import shutil
import sys
from pathlib import Path

from helpers.world import World

# Runs a command where there is no network but loopback, which kernels are talked to over, and where nothing can be
# written but `writable` (separated by newlines), /dev and whatever other disk is mounted elsewhere. How often anything
# was to go elsewhere, whichever process asked, is counted by the system: packets that no route leads out for.
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
status = subprocess.run(sys.argv[1:]).returncode
with open("/proc/net/snmp") as file:
    names, values = (line.split() for line in file if line.startswith("Ip: "))
abroad = int(values[names.index("OutNoRoutes")])
if os.path.exists("/proc/net/snmp6"):
    with open("/proc/net/snmp6") as file:
        abroad += int(dict(line.split() for line in file)["Ip6OutNoRoutes"])
with open(os.environ["ABROAD"], "w") as file:
    file.write(str(abroad))
sys.exit(status)
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


def locked_world(folder: Path, checkout: Path) -> tuple[World, list[str]]:
    """A world in `folder`, which is all that it can write to, and the words ahead of a command that lock the machine
    down: none, and a plain world, where namespaces of one's own are not allowed.

    Python code says in log/asked whom it asks for, and the system in log/abroad how often that was another machine.
    """
    for name in ("home", "tmp", "runs", "log"):
        (folder / name).mkdir(parents=True)
    listen = folder.with_name("listen")
    listen.mkdir()
    (listen / "sitecustomize.py").write_text(LISTEN)
    world = World(folder, checkout=checkout, PYTHONPATH=str(listen))
    for name in [*world.environment]:
        if name.startswith(("BRAINVIS_", "JUPYTER_", "XDG_", "HF_", "TORCH_")):
            del world.environment[name]
    world.environment |= {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "BRAINVIS_RUNS": str(world.runs),
        "LISTEN_LOG": str(folder / "log" / "asked"),
        "ABROAD": str(folder / "log" / "abroad"),
        "LOCK_DOWN": f"{checkout}\n{folder}",
    }
    lock = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, "-c", LOCK_DOWN]
    if not shutil.which("unshare") or world.run(*lock, "true").returncode:
        return World(folder, checkout=checkout), []
    return world, lock
