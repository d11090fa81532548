"""Warm kernels: the kernels of a study's notebooks start as copies of one process that has already imported the
libraries.

A cold kernel spends longer on imports than many of its cells spend computing. So a study starts one server, which
imports every library that `brainvis` uses, unloads `brainvis` itself so that each kernel reads its current code, and
forks whenever a kernel is requested. Jupyter runs this file as a script in place of the kernel: it passes on the
request, and whatever happens to either process. Without a server, or with one for another environment, kernels start
cold; so they do on systems other than Linux, whose libraries do not survive a fork.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

WARM = "BRAINVIS_WARM"  # the server's socket; set by the Snakefile, inherited by jobs
# What may differ between the server's environment and a kernel's: nothing that libraries read during import; each
# kernel sets its own module search path.
OF_A_JOB = ("BRAINVIS_", "PATH", "PYTHONPATH", "JPY_", "JUPYTER_", "PYDEVD_", "SNAKEMAKE_", "PYTEST_", "TMP", "TEMP")
OF_A_JOB += ("PS1", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES", "_")
ALSO_USED = ("ipykernel.kernelapp", "ipykernel.ipkernel", "sklearn.manifold")
ALSO_USED += ("torch._dynamo",)  # imported by the first optimiser of a process, which takes a second
INLINE = "module://matplotlib_inline.backend_inline"  # imported by each kernel: it looks for the shell only on import
COLD = "cold"  # the server's answer to requests that it cannot serve
PARENT = "--IPKernelApp.parent_handle"  # when this process ends, so does the kernel
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def start(environment: dict[str, str] | None = None) -> str | None:
    """Start a server that lives as long as this process. Returns the path of its socket, which appears once everything
    is imported (kernels requested earlier start cold), or None if forking is not safe.

    Args:
        environment: for the server and the kernels that it will serve; None: that of this process.
    """
    import subprocess
    from tempfile import mkdtemp

    if not sys.platform.startswith("linux"):
        return None
    place = Path(mkdtemp(prefix="brainvis-")) / "warm"  # a private folder of this user
    if len(str(place)) > 100:  # longer socket names are rejected
        place.parent.rmdir()
        return None
    words = [sys.executable, __file__, str(place)]
    environment = {**(os.environ if environment is None else environment), **one_thread()}
    # The pipe closes when this process ends, for whatever reason.
    files = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    subprocess.Popen(words, env=environment, start_new_session=True, **files)
    return str(place)


def one_thread() -> dict[str, str]:
    """The variables with which Snakemake limits the libraries of a single-threaded job."""
    names = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "GOTO_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM")
    return {f"{name}_THREADS": "1" for name in names}


def kernel_spec(place: str, folder: Path) -> None:
    """Write to `folder`, for JUPYTER_PATH, a kernel spec that makes "python3" a kernel from the server at `place`."""
    argv = [sys.executable, "-P", __file__, place, "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"}
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def serve(place: Path) -> None:
    """Import what kernels need, then fork one for each connection to the socket at `place`, until standard input is
    closed. A kernel ends with its connection, and a connection with its kernel, whose exit status is sent over it."""
    import select

    for number in SIGNALS:  # the terminal's signals are for the study; it closes the pipe when it ends
        signal.signal(number, signal.SIG_IGN)
    before = dict(os.environ)
    _import_libraries()
    own, added = _environment(before), {name: os.environ[name] for name in os.environ.keys() - before.keys()}
    waiting, listener = select.poll(), socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen(64)
    # Connection, process and the process's handle, keyed by the file numbers of the connection and of the handle.
    kernels: dict[int, tuple[socket.socket, int, int]] = {}
    for file in (0, listener.fileno()):
        waiting.register(file, select.POLLIN)
    while True:
        file, _ = waiting.poll()[0]  # one at a time: the number of a closed file may be reused by the next
        if file == 0:
            for _, process, _ in kernels.values():
                _kill(process)
            return
        if file == listener.fileno():
            connection, _ = listener.accept()
            if process := _fork(connection, own, added, [listener, *(other for other, _, _ in kernels.values())]):
                kernel = connection, process, os.pidfd_open(process)
                for file in (connection.fileno(), kernel[2]):
                    kernels[file] = kernel
                    waiting.register(file, select.POLLIN)
        else:
            connection, process, handle = kernels[file]
            _kill(process)  # and whatever it has left running
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            with suppress(OSError):  # nobody is listening any more
                connection.sendall(f"{status}\n".encode())
            for file in (connection.fileno(), handle):
                waiting.unregister(file)
                del kernels[file]
            connection.close()
            os.close(handle)


def _import_libraries() -> None:
    """Import everything that any module of brainvis imports, but none of those modules."""
    import importlib
    import pkgutil
    import select

    import brainvis

    ours = [module.name for module in pkgutil.walk_packages(brainvis.__path__, "brainvis.")]
    for name in (*ALSO_USED, *(name for name in ours if not name.endswith("__main__"))):
        if select.select([0], [], [], 0)[0]:
            sys.exit()  # nobody is waiting for it any more
        with suppress(Exception):  # an optional library is missing, or the kernel will report the error itself
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "brainvis"]:
        del sys.modules[name]


def _fork(connection: socket.socket, own: dict, added: dict, others: list[socket.socket]) -> int | None:
    """Fork a kernel as requested on the connection and return its process; None if the environment differs, or the
    connection is gone."""
    try:
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as stream:
            asked = json.loads(stream.readline())
    except (OSError, ValueError):
        connection.close()
        return None
    given = _environment(asked["environment"])
    own = own | {name: value for name, value in added.items() if given.get(name) == value}  # imported there too
    differing = sorted(name for name in {**own, **given} if own.get(name) != given.get(name))
    process = None if differing else os.fork()
    if process == 0:
        asked["environment"] = added | asked["environment"]
        _become(asked, files, [connection, *others])
    for file in files:
        os.close(file)
    with suppress(OSError):  # its absence will be noticed
        connection.sendall(f"{process or ' '.join((COLD, *differing))}\n".encode())
    if process is None:
        connection.close()
    return process


def _become(asked: dict, files: list[int], others: list[socket.socket]) -> None:
    """In the forked process: become the kernel, and never return."""
    import runpy

    status = 1
    try:
        os.setsid()
        for other in others:
            other.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path[:] = asked["path"]
        sys.argv[:] = ["ipykernel_launcher", *asked["arguments"], f"{PARENT}={os.getppid()}"]
        _shuffle()
        _show_figures()
        runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _shuffle() -> None:
    """Give each kernel different random numbers wherever nothing is seeded, as in cold kernels."""
    import random
    import tempfile

    import numpy
    import torch

    random.seed()
    numpy.random.seed()
    torch.seed()
    tempfile.tempdir = None  # looked up again when needed


def _show_figures() -> None:
    """Set Matplotlib's backend, which it chooses on import from variables that only kernels have."""
    import matplotlib

    matplotlib.rcParams["backend"] = os.environ.setdefault("MPLBACKEND", INLINE)


def _kill(process: int) -> None:
    for end in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            end(process, signal.SIGKILL)


def _environment(every: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in every.items() if not name.startswith(OF_A_JOB)}


def _stand_in(place: str, arguments: list[str]) -> int:
    """Act as the kernel for Jupyter; returns the kernel's exit status."""
    import select

    path = [os.getcwd(), *sys.path]  # as for `python -m`
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "path": path}
    answer = COLD
    connection = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        connection.connect(place)
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(asked).encode() + b"\n")
        stream = connection.makefile("r")
        answer = stream.readline().strip() or COLD
    if answer.startswith(COLD):
        names = answer.removeprefix(COLD).strip()
        why = f"its environment differs in {names}" if names else "it does not answer"
        print(f"Starting a kernel without the warm server: {why}", file=sys.stderr)
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
    kernel, parent = int(answer), os.getppid()
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.kill(kernel, number))
    while os.getppid() == parent:  # the process that starts kernels may be killed
        if select.select([connection], [], [], 1.0)[0]:
            return int(stream.readline().strip() or 1)
    return 1


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.path[0] = str(Path(__file__).parents[2])  # not -P, a flag that kernels would inherit
        try:
            serve(Path(sys.argv[1]))
        finally:
            Path(sys.argv[1]).unlink(missing_ok=True)
            Path(sys.argv[1]).parent.rmdir()
    else:
        sys.exit(_stand_in(sys.argv[1], sys.argv[2:]))
