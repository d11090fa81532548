"""Files made to harm: every reader answers in one sentence that names the file, within seconds and 2 GB; nothing runs.

What is tried is in `helpers.hostile`; one process reads all that the readers of a module get: its peak is that of the
worst.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from helpers.hostile import (
    ARRAYS,
    BIDS,
    EPOCHS,
    JSON,
    MARKER,
    OLD,
    PICTURES,
    PLACES,
    RECORDINGS,
    SAFETENSORS,
    WEIGHTS,
    YAML,
    png,
)
from PIL import Image
from safetensors.torch import save_file

SECONDS, BYTES = 5.0, 2 * 10**9
READERS = {  # name: (how the worker calls it, ending of the file's name, what is tried)
    "JSON": (("brainvis.files.reading", "reading.read_json(file)"), ".json", JSON | PLACES),
    "YAML": (("brainvis.files.reading", "reading.read_yaml(file)"), ".yml", YAML | PLACES),
    "settings": (("brainvis.data.source", "source.read_yaml(file)"), ".yml", YAML | PLACES),
    "preset": (("brainvis.configuration", "configuration.configure(str(file), 'full')"), ".yml", YAML | PLACES),
    "weights": (("brainvis.files.tensors", "tensors.load_tensors(file)"), ".pth", WEIGHTS | OLD | PLACES),
    "old weights": (("brainvis.files.tensors", "tensors.load_tensors(file, old=True)"), ".pth", WEIGHTS | OLD | PLACES),
    "checkpoint": (
        ("brainvis.generation.checkpoints", "checkpoints.read_checkpoint(file)"),
        ".ckpt",
        {**WEIGHTS, **PLACES},
    ),
    "safetensors": (("brainvis.files.tensors", "tensors.load_safetensors(file)"), ".safetensors", SAFETENSORS | PLACES),
    "shapes": (
        ("brainvis.generation.checkpoints", "checkpoints.safetensors_shapes(file)"),
        ".safetensors",
        SAFETENSORS | PLACES,
    ),
    "judge": (
        ("brainvis.evaluation.judges", "judges.NETWORKS['AlexNet 2'].read(file)"),
        ".pth",
        WEIGHTS | OLD | PLACES,
    ),
    "backbone": (
        ("brainvis.generation.stable_diffusion", "stable_diffusion.load_stable_diffusion(file, 'cpu')"),
        ".safetensors",
        SAFETENSORS | PLACES,
    ),
    "backbone checkpoint": (
        ("brainvis.generation.stable_diffusion", "stable_diffusion.load_stable_diffusion(file, 'cpu')"),
        ".ckpt",
        WEIGHTS | OLD | PLACES,
    ),
    "picture": (("brainvis.files.reading", "reading.open_picture(file)"), ".png", PICTURES | PLACES),
    "recording": (("brainvis.data.recordings_continuous", "recorded(file)"), "", RECORDINGS),
    "BIDS": (("brainvis.data.recordings_continuous", "recorded(file, 'bids')"), "", BIDS),
    "epochs": (("brainvis.data.recordings_epochs", "epoched(file)"), "", EPOCHS),
    "array": (("brainvis.data.recordings_epochs", "recordings_epochs.read_array(file)"), ".npy", ARRAYS | PLACES),
}
# What does no harm where it is put, and is read: calls that are only noted, one colour painted once more.
HARMLESS = {("checkpoint", name) for name in ("exec", "eval", "open", "loads", "getattr", "popen")}
HARMLESS |= {("YAML", "nothing"), ("settings", "nothing")}
WORKER = """
import json, resource, signal, sys, time, warnings
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

from brainvis.files import BrainvisError

module = sys.argv[1].rpartition(".")[2]
globals()[module] = import_module(sys.argv[1])  # only what the reader needs, that its own memory is seen
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))


def recorded(file, kind="continuous"):
    from brainvis.data.recordings_files import Recording

    if file.name.endswith("-eve.fif"):
        return recordings_continuous.read_events(Recording(file, 1, "", file), None)
    recording = Recording(file, 1, "", None, kind)
    raw = recordings_continuous.open_recording(recording)
    with recordings_continuous.readable(file):
        raw.load_data(verbose="ERROR")
    recordings_continuous.read_events(recording, raw)


def epoched(file):
    from brainvis.data.recordings_files import Recording

    epochs = recordings_epochs.open_epochs(Recording(file, 1, "", None, "epochs"), None, None)
    with recordings_epochs.readable(file):
        epochs.load_data()


def late(*_):
    raise BaseException("too slow")


signal.signal(signal.SIGALRM, late)  # of the clock, while seconds are those of the processor: machines are shared
for line in sys.stdin:
    call, path = json.loads(line)
    file, start, said, kind = Path(path), time.process_time(), "", "read"
    signal.alarm(30)
    try:
        eval(call)
    except (BrainvisError, UnpicklingError) as error:
        said, kind = str(error), "refused"
    except ValueError as error:  # of the two readers whose callers say which file it was
        said, kind = f"{path} {error}", "refused" if call.startswith("checkpoints.") else "raw"
    except FileNotFoundError as error:
        said, kind = str(error), "absent"
    except BaseException as error:
        said, kind = f"{type(error).__name__}: {error}", "raw"
    signal.alarm(0)
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps([call, path, kind, said, time.process_time() - start, peak]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Where the files of a reader are, and what it said of each; one process reads for all readers of a module."""
    known: dict[str, tuple[Path, dict[str, list]]] = {}

    def of(reader: str) -> tuple[Path, list]:
        (module, _), _, _ = READERS[reader]
        if module not in known:
            folder = tmp_path_factory.mktemp("hostile")
            known[module] = folder, asked(module, folder)
        folder, said = known[module]
        return folder, said.get(reader, [])

    return of


def asked(module: str, folder: Path) -> dict[str, list]:
    """The worker's lines for each reader of a module."""
    calls, readers = [], []
    for reader, ((place, call), ending, attacks) in READERS.items():
        if place != module:
            continue
        calls.append([call, str(folder / f"absent{ending}")])  # imports what is imported late
        readers.append(None)
        for number, (name, write) in enumerate(attacks.items()):
            file = folder / reader / str(number) / (f"file{ending}" if ending else name)
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file)
            calls.append([call, str(file)])
            readers.append(reader)
    command, lines = [sys.executable, "-c", WORKER, module], "\n".join(map(json.dumps, calls))
    answer = subprocess.run(command, input=lines, text=True, capture_output=True, cwd=folder)
    print(answer.stderr[-2000:])
    said, given = defaultdict(list), [line for line in answer.stdout.splitlines() if line.startswith("[")]
    for reader, line in zip(readers, given, strict=False):  # it may have ended early
        said[reader].append(json.loads(line))
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and limits of Linux")
@pytest.mark.parametrize("reader", READERS)
def test_hostile_files_are_refused_in_a_sentence(reader, answers):
    attacks, (folder, lines) = READERS[reader][2], answers(reader)
    assert len(lines) == len(attacks), f"ended at {list(attacks)[len(lines)]}"
    wrong = []
    for name, (_, path, kind, said, seconds, peak) in zip(attacks, lines, strict=True):
        expected = "read" if (reader, name) in HARMLESS else "refused"
        whole = expected == "read" or (Path(path).name in said or reader in ("checkpoint",)) and "\n" not in said
        if kind != expected or not whole or seconds > SECONDS or peak > BYTES:
            wrong.append(f"{name}: {kind} in {seconds:.1f} s, peak {peak / 1e9:.2f} GB: {said[:300]!r}")
    assert not wrong, "\n".join(wrong)
    assert not list(folder.rglob(f"*{MARKER}*")), "code of a file was run"
    slowest, peak = max(line[4] for line in lines), lines[-1][5] / 1e9
    print(f"{reader}: {len(lines)} files, slowest {slowest:.2f} s, peak {peak:.2f} GB")


def test_the_same_readers_read_what_is_no_attack(tmp_path):
    from brainvis.files import reading, tensors

    state = {"a": torch.ones(3), "b": {"c": [torch.arange(4)]}}
    for old in (False, True):
        torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
        assert torch.equal(tensors.load_tensors(tmp_path / "x.pth", old=True)["b"]["c"][0], torch.arange(4))
    tied = torch.nn.Linear(4, 4)
    torch.save({"one": tied.weight, "two": tied.weight, "part": tied.weight[1:]}, tmp_path / "x.pth")
    assert set(tensors.load_tensors(tmp_path / "x.pth")) == {"one", "two", "part"}
    save_file({"a": torch.ones(3)}, tmp_path / "x.safetensors")
    assert tensors.load_safetensors(tmp_path / "x.safetensors")["a"].sum() == 3
    (tmp_path / "x.yml").write_text("a: {b: [1, 2.5, text, null, 2001-01-01]}\n")
    assert reading.read_yaml(tmp_path / "x.yml")["a"]["b"][:2] == [1, 2.5]
    (tmp_path / "x.json").write_text('{"a": {"ä": [1e3, -0.5]}}')
    assert reading.read_json(tmp_path / "x.json") == {"a": {"ä": [1000.0, -0.5]}}
    assert reading.read_json(tmp_path / "absent.json", {"b": 1}) == {"b": 1}
    with pytest.raises(FileNotFoundError):
        reading.read_json(tmp_path / "absent.json")
    for mode, kind in (("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG")):
        Image.new(mode, (50, 40)).save(tmp_path / "x", kind, **({"progressive": True} if kind == "JPEG" else {}))
        assert (read := reading.open_picture(tmp_path / "x")).size == (50, 40) and read.mode == "RGB"
    png(8000, 7999)(tmp_path / "large.png")
    assert reading.open_picture(tmp_path / "large.png").size == (8000, 7999)
