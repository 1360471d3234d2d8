"""The time limit of a statement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

STATEMENT_SECONDS = 8.0
"""How long one statement may take, and how long a silent server is waited for."""

_timeout: ContextVar[float | None] = ContextVar("statement_timeout", default=None)


@contextlib.contextmanager
def statement_timeout(seconds: float) -> Iterator[None]:
    """Limit how long this block waits for the server, if that is less than its engine allows."""
    token = _timeout.set(seconds)
    try:
        yield
    finally:
        _timeout.reset(token)


def remaining_timeout() -> float | None:
    """Return the limit of the current block; None outside of one."""
    return _timeout.get()
