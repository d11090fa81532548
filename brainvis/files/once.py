"""Shared answers, computed once while nothing on disk changes: thousands of runs are planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

_answers: dict[tuple, object] | None = None


@contextmanager
def unchanging() -> Iterator[None]:
    """Within this context, methods decorated with `shared_by` cache their answers; afterwards all are forgotten."""
    global _answers
    before, _answers = _answers, {} if _answers is None else _answers
    try:
        yield
    finally:
        _answers = before


def shared_by(*names: str) -> Callable:
    """Mark a method whose answer depends only on these fields of its object, its arguments and the disk."""

    def decorate(method: Callable) -> Callable:
        @wraps(method)
        def ask(self: object, *arguments: object) -> object:
            if _answers is None:
                return method(self, *arguments)
            key = (method.__qualname__, *(getattr(self, name) for name in names), *arguments)
            if key not in _answers:
                _answers[key] = method(self, *arguments)
            return _answers[key]

        return ask

    return decorate
