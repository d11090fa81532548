"""Files appear whole or not at all, whoever is killed, and whatever the disk refuses; checksums and their memory."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from brainvis.files import (
    DamagedError,
    UnsealedError,
    WriteError,
    checksums,
    file_digest,
    file_digests,
    read_sealed,
    remove_leftovers,
    verified,
    write_aside,
    write_sealed,
    writing,
)

WRITERS = {
    "text": lambda path: path.write_text("x" * 3_000_000),
    "torch": lambda path: torch.save(torch.zeros(750_000), path),
    "safetensors": lambda path: save_file({"zeros": torch.zeros(750_000)}, path),
}
IN_NAMESPACE = ["unshare", "-rm", "--"]  # mounts of its own, gone with the process


def namespaces() -> bool:
    """Whether a process here may mount for itself."""
    try:
        return not subprocess.run(
            [*IN_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
        ).returncode
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def half(path: Path, host: str, pid: int) -> Path:
    file = path.with_name(f".{path.name}.{host}.{pid}.0a0b0c0d.part")
    file.write_text("half")
    return file


def test_half_files_of_the_killed_are_removed_by_the_next_writer_and_no_others(tmp_path):
    file, gone = tmp_path / "weights.safetensors", subprocess.Popen(["true"])
    gone.wait()
    dead, alive = half(file, writing.HOST, gone.pid), half(file, writing.HOST, os.getppid())
    elsewhere, long_ago = half(file, "n1", gone.pid), half(file, "n2", os.getppid())
    os.utime(long_ago, (time.time() - 2 * writing.DAY,) * 2)
    other = half(tmp_path / "arrays.safetensors", writing.HOST, gone.pid)
    write_aside(file, lambda path: path.write_text("whole"))
    assert file.read_text() == "whole"
    assert {path.name for path in tmp_path.glob(".*.part")} == {alive.name, elsewhere.name, other.name}
    assert not dead.exists() and not long_ago.exists()
    remove_leftovers(tmp_path)
    assert not other.exists() and alive.exists()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_disk_that_refuses_is_one_sentence_and_leaves_what_was_there(tmp_path, writer, disk):
    if not namespaces():
        pytest.skip("this process may not mount anything")
    script = f"""
import subprocess, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from brainvis.files import WriteError, write_aside
from test_writing import WRITERS
folder = Path({str(tmp_path)!r}) / "disk"
folder.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
file = folder / "file"
write_aside(file, lambda path: path.write_text("before"))
if {disk!r} == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
try:
    write_aside(file, WRITERS[{writer!r}])
except WriteError as error:
    print(error)
assert file.read_text() == "before" and [path.name for path in folder.iterdir()] == ["file"]
"""
    said = subprocess.run([*IN_NAMESPACE, sys.executable, "-c", script], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    (sentence,) = said.stdout.strip().splitlines()
    assert "disk/file cannot be written: " in sentence and "run it again" in sentence


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: happened.append("to disk"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: (happened.append("named"), replace(*paths)))
    write_aside(tmp_path / "file", lambda path: path.write_text("x"))
    assert happened == ["to disk", "named", "to disk"]  # the file, then its folder


def test_a_seal_is_broken_by_any_other_value(tmp_path):
    file = tmp_path / "results.json"
    write_sealed(file, {"accuracy": 0.25, "names": ["a", "b"]})
    assert read_sealed(file) == {"accuracy": 0.25, "names": ["a", "b"]}
    file.write_text(file.read_text().replace("0.25", "0.75"))
    with pytest.raises(DamagedError, match="results.json is damaged or was edited"):
        read_sealed(file)
    file.write_text(json.dumps({"accuracy": 0.25}))
    with pytest.raises(UnsealedError, match="earlier version"):
        read_sealed(file)


def test_a_file_is_read_once_and_again_when_it_may_have_changed(tmp_path, monkeypatch):
    file, read = tmp_path / "file", []
    reader = checksums._read_digest
    monkeypatch.setattr(checksums, "_read_digest", lambda path, bar: (read.append(path.name), reader(path, bar))[1])
    file.write_bytes(b"a" * 2**20)
    first = file_digest(file)
    assert file_digest(file) == first and len(read) == 2  # so young that a change might not show
    monkeypatch.setattr(checksums, "SETTLED", -1.0)
    assert [file_digest(file) for _ in range(3)] == [first] * 3 and len(read) == 3
    checksums._memories.clear()  # as another process
    assert file_digest(file) == first and len(read) == 3
    state = file.stat()
    file.write_bytes(b"b" * 2**20)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # size and time as before: the inode's own time tells
    assert file_digest(file) != first and len(read) == 4


def test_a_damaged_memory_is_none(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(checksums, "SETTLED", -1.0)
    file = tmp_path / "file"
    file.write_bytes(b"a" * 2**20)
    digest = file_digest(file)
    memory = runs / checksums.MEMORY
    memory.write_text(memory.read_text().replace(digest, digest[::-1]))
    checksums._memories.clear()
    assert file_digest(file) == digest


def test_a_check_that_failed_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "SETTLED", -1.0)
    file, asked = tmp_path / "file", []
    file.write_text("x")

    def fail():
        asked.append("failed")
        raise DamagedError("file is damaged")

    for _ in range(2):
        with pytest.raises(DamagedError):
            verified(file, "blocks", fail)
    verified(file, "blocks", lambda: asked.append("passed"))
    verified(file, "blocks", fail)
    assert asked == ["failed", "failed", "passed"]


def test_of_watched_files_it_is_said_which_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checksums, "SETTLED", -1.0)
    file = tmp_path / "captions.json"
    file.write_text("{}")
    file_digests([file], watched=True)
    file.write_text("{ }")
    file_digests([file], watched=True)
    assert "captions.json has changed since it was last read." in capsys.readouterr().out


def test_nothing_is_checked_in_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WriteError, match="file/runs cannot be written to"):
        writing.check_writable(tmp_path / "file" / "runs")
    with pytest.raises(WriteError, match="Not enough disk space: .* needed"):
        writing.check_writable(tmp_path, size=10**18)
