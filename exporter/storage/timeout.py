"""How long a statement may take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

STATEMENT_SECONDS = 8.0
"""How long one statement may take, or a server that says nothing may be waited for."""

_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextlib.contextmanager
def statement_timeout(seconds: float) -> Iterator[None]:
    """Wait for the server at most so long in this block, if that is shorter than what its engine allows."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def remaining_timeout() -> float | None:
    """How long the server may be waited for in this block; None outside of one."""
    return _patience.get()
