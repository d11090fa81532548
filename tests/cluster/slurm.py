"""The smoke study on a real SLURM, two nodes on this machine: one is lost, the controller killed, two studies at once.

    apt-get install slurm-wlm munge && pip install snakemake-executor-plugin-slurm
    make cluster                              # as root; it writes /etc/slurm/slurm.conf, and no other than its own over
    make cluster ARGS="node many --jobs 1000" # some of it

Each node has a hostname and processes of its own (Linux namespaces), so that a lock's owner on the other one cannot be
looked at, and a node that is killed takes all with it. The figures go to a JSON file. Skipped where SLURM is not.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
from helpers.world import BIN, GRID, World
from kills import content

CONFIGURATION = Path("/etc/slurm/slurm.conf")  # of the whole system, for the executor takes SLURM_* from its jobs
OURS = "# written by tests/cluster/slurm.py\n"
NODES = {"n1": 17001, "n2": 17002}
FAST = ["--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "3"]
FAST += ["--seconds-between-status-checks", "3", "--slurm-keep-successful-logs"]
OTHER_GRID = [*GRID[:2], "ablations=[full,no_time,no_semantic]"]  # shares most stages with GRID


class Cluster:
    """Munge, one controller and two nodes; everything that it starts ends with it."""

    def __init__(self, folder: Path):
        self.folder, self.processes, self.munge = folder, {}, None

    def __enter__(self) -> "Cluster":
        name, state = os.uname().nodename, self.folder
        lines = [
            "ClusterName=brainvis",
            f"SlurmctldHost={name}(127.0.0.1)",
            "SlurmUser=root",
            "AuthType=auth/munge",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SwitchType=switch/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "SlurmdParameters=config_overrides",
            "ReturnToService=2",
            "SlurmdTimeout=15",
            "KillWait=5",
            "MinJobAge=900",
            f"StateSaveLocation={state}/controller",
            f"SlurmdSpoolDir={state}/%n",
            f"SlurmctldPidFile={state}/controller.pid",
            f"SlurmdPidFile={state}/%n.pid",
            *(f"NodeName={n} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=20000" for n, port in NODES.items()),
            f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP",
        ]
        CONFIGURATION.write_text(OURS + "\n".join(lines) + "\n")
        (state / "hosts").write_text(f"127.0.0.1 localhost {name} {' '.join(NODES)}\n")
        (state / "controller").mkdir()
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            self.munge = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"])
            time.sleep(1)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for("idle", set(NODES))
        return self

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["scancel", "--user", "root"])
        for name in list(self.processes):
            self.kill(name)
        if self.munge:
            self.munge.terminate()
        CONFIGURATION.unlink()

    def start_controller(self) -> None:
        self._start("controller", ["slurmctld", "-D"])

    def start_node(self, node: str) -> None:
        inside = f"hostname {node}; mount --bind '{self.folder}/hosts' /etc/hosts; slurmd -N {node} -D & wait"
        self._start(node, ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", inside])

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> None:
        """SIGKILL of the controller, or of a node with everything on it."""
        process = self.processes.pop(name)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()

    def wait_for(self, state: str, nodes: set[str]) -> None:
        """Until these nodes are in this state."""
        for _ in range(120):
            answer = subprocess.run(["sinfo", "-h", "-t", state, "-o", "%n"], capture_output=True, text=True)
            if nodes <= set(answer.stdout.split()):
                return
            time.sleep(0.5)
        raise TimeoutError(f"{nodes} are not {state} after a minute: see {self.folder}")


def start(world: World, grid: list[str], log: Path, *options: str) -> subprocess.Popen:
    command = ["snakemake", "--directory", str(world.folder), "--workflow-profile", "slurm", *FAST, *options]
    with log.open("a") as stream:
        return subprocess.Popen(
            [*command, "--config", *grid], cwd=world.checkout, env=world.environment, stdout=stream, stderr=stream
        )


def whole_runs(world: World) -> int:
    return len(list(world.runs.rglob("*.whole")))


def wait_for_runs(world: World, count: int, process: subprocess.Popen) -> None:
    """Until a study is so far, and a job of its next stage is running."""
    while process.poll() is None and whole_runs(world) < count:
        time.sleep(1)
    time.sleep(5)


def node_lost(cluster: Cluster, world: World) -> dict:
    """A node is killed in the middle of its jobs, and comes back a minute later."""
    process = start(world, GRID, world.folder / "log")
    wait_for_runs(world, 3, process)
    cluster.kill("n1")
    time.sleep(60)
    cluster.start_node("n1")
    return {"exit": [process.wait()], "retried": (world.folder / "log").read_text().count("Trying to restart")}


def controller_restarted(cluster: Cluster, world: World) -> dict:
    """The controller is killed in the middle of the study, and started again after twenty seconds."""
    process = start(world, GRID, world.folder / "log")
    wait_for_runs(world, 3, process)
    cluster.kill("controller")
    time.sleep(20)
    cluster.start_controller()
    return {"exit": [process.wait()], "retried": (world.folder / "log").read_text().count("Trying to restart")}


def two_at_once(cluster: Cluster, world: World) -> dict:
    """Two studies that share most stages, by two snakemakes that know nothing of each other."""
    other = World(world.folder)
    first = start(world, GRID, world.folder / "log", "--jobs", "1")
    second = start(other, OTHER_GRID, world.folder / "log_other", "--jobs", "1")
    codes = [first.wait(), second.wait()]
    logs = "".join(file.read_text() for file in world.folder.rglob("slurm_logs/**/*.log"))
    return {"exit": codes, "waited": logs.count(": waiting for "), "shared": logs.count("made by another study")}


SCENARIOS = {"node": node_lost, "controller": controller_restarted, "two": two_at_once}


def study(name: str, cluster: Cluster, folder: Path, right: dict[str, str]) -> dict:
    """One scenario in a folder of its own, and how many products are as in a local study."""
    world = World(folder / name)
    world.folder.mkdir()
    began = time.time()
    figures = SCENARIOS[name](cluster, world)
    found = content(world)
    if name == "two":  # 07 and 08 gather the runs of both studies
        right = {k: v for k, v in right.items() if "/ablations/" not in k and "/figures/" not in k}
    same = [product for product in right if found.get(product) == right[product]]
    figures |= {"seconds": round(time.time() - began), "products": len(right), "identical": len(same)}
    figures["differ"] = sorted(set(right) - set(same))
    return figures


def many(folder: Path, jobs: int, group: int) -> dict:
    """A grid of stand-ins: seconds a job, and the memory of snakemake."""
    import nbformat

    notebook, world = folder / "tiny.ipynb", World(folder / f"many_{jobs}_{group}")
    cells = [nbformat.v4.new_code_cell("1 + 1")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), notebook)
    world.folder.mkdir()
    here = Path(__file__).parent
    options = ["--snakefile", str(here / "Snakefile")]
    if group > 1:
        options += ["--groups", "tiny=short", "--group-components", f"short={group}", "--resources", "mem_mb=300"]
    profile = here.parent.parent / "profiles" / "slurm" / "config.yaml"
    grid, began = [f"jobs={jobs}", f"notebook={notebook}"], time.time()
    process = start(world, grid, world.folder / "log", *options, "--workflow-profile", str(profile))
    peak = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.5)
    seconds, done = time.time() - began, len(list(world.folder.glob("*/0a.whole")))
    executed = [json.loads(file.read_text())["metadata"]["papermill"] for file in world.folder.glob("*/tiny.ipynb")]
    notebooks = sum(run["duration"] for run in executed) / max(len(executed), 1)
    figures = {"jobs": jobs, "in a group": group, "done": done, "exit": process.returncode, "seconds": round(seconds)}
    figures |= {"seconds a job": round(seconds / jobs * len(NODES), 2), "of it the notebook": round(notebooks, 2)}
    return figures | {"snakemake_mb": round(peak / 1e6)}


def alone(folder: Path) -> float:
    """Seconds of papermill for the stand-in, by itself."""
    began = time.time()
    for _ in range(5):
        command = [str(BIN / "papermill"), "--kernel", "python3", str(folder / "tiny.ipynb"), str(folder / "out.ipynb")]
        subprocess.run(command, check=True, capture_output=True)
    return round((time.time() - began) / 5, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"{', '.join(SCENARIOS)}, many; default: all")
    parser.add_argument("--jobs", type=int, default=1000, help="of the grid of stand-ins")
    parser.add_argument("--ungrouped", type=int, default=30, help="of them, how many one by one")
    parser.add_argument("--reference", type=Path, help="folder of a local study that is whole")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("figures.json"))
    chosen = parser.parse_args()
    lacking = [tool for tool in ("slurmctld", "slurmd", "munged", "unshare") if not shutil.which(tool)]
    lacking += [] if find_spec("snakemake_executor_plugin_slurm") else ["snakemake-executor-plugin-slurm"]
    if lacking or os.geteuid() or (CONFIGURATION.exists() and not CONFIGURATION.read_text().startswith(OURS)):
        print(f"skipped: it wants root, SLURM and no other {CONFIGURATION}" + f"; missing: {lacking}" * bool(lacking))
        return 0
    figures = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="cluster-") as temporary:
        folder, parts = Path(temporary), chosen.parts or [*SCENARIOS, "many"]
        right = {}
        if set(parts) & set(SCENARIOS):
            reference = World(chosen.reference or folder / "reference")
            if not reference.runs.exists():
                reference.folder.mkdir(exist_ok=True)
                assert reference.snakemake().returncode == 0, "the study fails without a cluster"
            right = content(reference)
        for part in parts:
            state = folder / f"state_{part}"
            state.mkdir()
            with Cluster(state) as cluster:
                if part == "many":
                    grids = [many(folder, chosen.ungrouped, 1), many(folder, chosen.jobs, 50)]
                    figures["many"] = {"papermill alone": alone(folder), "grids": grids}
                else:
                    figures[part] = study(part, cluster, folder, right)
            print(part, json.dumps(figures[part], indent=1), flush=True)
            chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    wrong = [part for part in SCENARIOS if part in figures and (figures[part]["differ"] or any(figures[part]["exit"]))]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
