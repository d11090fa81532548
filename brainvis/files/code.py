"""The code behind a result: digests of modules and of what they import, without comments and docstrings."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from brainvis.files.checksums import digest
from brainvis.files.folders import ROOT


@lru_cache(maxsize=256)  # lives as long as what it reads: each module is read once
def code_digest(*modules: str, leave_out: tuple[str, ...] = ()) -> str:
    """Twelve hexadecimal digits that identify the code of modules and of what they import from their own package.

    Comments, docstrings and layout do not count. A name imported from a package is followed to the module that defines
    it; what a package itself defines is a table, whose selected entries the caller names among `modules`.

    Args:
        modules: dotted names. Those outside `brainvis` are also followed into `brainvis`.
        leave_out: dotted names of modules and packages not to follow.
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


def notebook_code(notebook: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a notebook's code cells except the first (the parameters), and the modules of `brainvis` they
    import."""
    file = ROOT / "notebooks" / f"{notebook}.ipynb"
    return _cells(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _cells(file: Path, changed: int) -> tuple[str, tuple[str, ...]]:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = [
        cell for cell in cells if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", ())
    ]
    digest_of_cells, modules = source_digest("\n".join("".join(cell["source"]) for cell in code))
    return digest_of_cells, tuple(modules)


@lru_cache(maxsize=4096)
def _code_of(module: str) -> tuple[str, list[str]]:
    file = _file(module)
    return (module, []) if file is None else source_digest(file.read_text(encoding="utf-8"))


def _file(module: str) -> Path | None:
    """Path of a module's source, found without importing anything from `brainvis`; None if it has none."""
    if module.split(".")[0] == "brainvis":
        place = ROOT.joinpath(*module.split("."))
        return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    spec = find_spec(module)
    return Path(spec.origin) if spec and str(spec.origin).endswith(".py") else None


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of the modules of `brainvis` that code imports, anywhere in it."""
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
