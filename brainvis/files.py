"""Folders, atomic writes, locks and hashes: all that touches a disk in more than one place."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open

ROOT = Path(__file__).resolve().parent.parent
WHOLE = 64 * 2**20  # bytes; of a larger file samples are hashed
SAMPLES, SAMPLE, END = 256, 2**14, 2**21  # samples of a large file, bytes in each, bytes at its end


class BrainvisError(Exception):
    """Something that a person can mend; the message says what is wrong and what to do."""


class OriginalError(BrainvisError):
    """A file of the authors' weights, or a study for them, that cannot be used; the message says why and what to do."""


# Folders


def data_folder(name: str) -> Path:
    """Folder of one data set: `data/<name>`, or `$BRAINVIS_DATA/<name>`."""
    return Path(os.environ.get("BRAINVIS_DATA", ROOT / "data")) / name


def weights_folder() -> Path:
    """Folder for published weights, under their published names: searched before any cache."""
    return data_folder("weights")


def runs_folder() -> Path:
    """Folder of all runs: `papermill_runs`, or `$BRAINVIS_RUNS`."""
    return Path(os.environ.get("BRAINVIS_RUNS", ROOT / "papermill_runs"))


def figures_folder() -> Path:
    """Folder of the paper's figures and tables: `figures`, or `$BRAINVIS_FIGURES`."""
    return Path(os.environ.get("BRAINVIS_FIGURES", ROOT / "figures"))


def resolve(path: str | Path) -> Path:
    """A path as somebody typed it: from the current folder, else from the repository (Jupyter sits in notebooks/)."""
    path = Path(path).expanduser()
    inside = ROOT / path
    return inside if not path.exists() and inside.exists() else path


def readable_path(path: Path | str) -> str:
    """A path as people write it: relative to the repository, or to their home."""
    path = Path(path)
    for base, name in ((ROOT, ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return name + str(path.relative_to(base))
    return str(path)


def readable_size(size: int) -> str:
    """Bytes as people read them: "2.5 GB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


# Reading and writing


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader never meets half a file, whatever is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")  # runs of two subjects may write the same file at once
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: object, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_aside(path, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path, missing: dict | None = None) -> dict:
    """A dictionary from a JSON file; `missing`, where that is given, if there is no file.

    Raises:
        FileNotFoundError: no file, and no `missing`.
        BrainvisError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    except ValueError as error:
        raise BrainvisError(f"{path} is damaged: it is not JSON ({error}). Repair or remove it.") from error
    if not isinstance(content, dict):
        raise BrainvisError(f"{path} holds a {type(content).__name__}, not a dictionary. Repair or remove it.")
    return content


def read_origin(path: Path) -> dict[str, str]:
    """Where the authors' weights in `path` are from, as `brainvis.models.original` wrote it; empty without a file.

    Raises:
        OriginalError: the file is damaged, or nothing in it says where it is from.
    """
    try:
        with safe_open(path, framework="np") as content:
            return {key: content.metadata()[key] for key in ("file", "sha256", "kind", "stands_in")}
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise OriginalError(f"{path} is damaged; write it again: python -m brainvis original FILE ...") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`; the system takes it back if this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


# Hashes


def digest(description: object) -> str:
    """Twelve hexadecimal digits that stand for any JSON-ready value."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits that stand for a file's content.

    Files over 64 MiB are sampled: size, 256 evenly spaced blocks of 16 KiB, and the last 2 MiB, where files that torch
    saved have the checksums of all that is in them.
    """
    state = path.stat()
    return _file_digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)  # a plan asks for the same files once for each of its runs; a file that changed is read again
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        total = hashlib.sha256(str(size).encode())
        for sample in range(SAMPLES):
            stream.seek(sample * (size - SAMPLE) // (SAMPLES - 1))
            total.update(stream.read(SAMPLE))
        stream.seek(-END, os.SEEK_END)
        total.update(stream.read())
        return total.hexdigest()[:16]


def code_digest(*modules: str, leave_out: tuple[str, ...] = ()) -> str:
    """Twelve hexadecimal digits that stand for the code of modules and of what they import from their own package.

    Comments, docstrings and layout do not count. What is imported from a package is followed to the module that it is
    from; what a package itself defines is a table, whose chosen entries the caller names among `modules`.

    Args:
        modules: dotted names. Those outside of `brainvis` are followed into `brainvis` as well.
        leave_out: dotted names of modules and packages that are not followed.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or any(name == left or name.startswith(f"{left}.") for left in leave_out):
            continue
        found[name], imported = _code_of(name)
        waiting += imported
    return digest(sorted(found.items()))


def source_digest(source: str) -> tuple[str, list[str]]:
    """A digest of Python source without comments and docstrings, and the modules of `brainvis` that it imports."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            if isinstance(body[0].value.value, str) and not isinstance(node, ast.If | ast.For | ast.While | ast.Try):
                del body[0]
    return digest(ast.dump(tree)), sorted(set(_imports(tree)))


@lru_cache(maxsize=4096)
def _code_of(module: str) -> tuple[str, list[str]]:
    file = _file(module)
    return (module, []) if file is None else source_digest(file.read_text(encoding="utf-8"))


def _file(module: str) -> Path | None:
    """Where a module's source is, without importing anything of `brainvis`; None if it has none."""
    if module.split(".")[0] == "brainvis":
        place = ROOT.joinpath(*module.split("."))
        return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    spec = find_spec(module)
    return Path(spec.origin) if spec and str(spec.origin).endswith(".py") else None


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of the modules of `brainvis` that code imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("brainvis."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "brainvis":
            yield from filter(None, (_home(node.module, alias.name) for alias in node.names))


def _home(package: str, name: str) -> str | None:
    """The module that `from package import name` takes `name` from; None if the package itself defines it."""
    file = _file(package)
    if file is None or file.name != "__init__.py":
        return package
    if _file(f"{package}.{name}") is not None:
        return f"{package}.{name}"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _home(node.module, name)
    return None
