"""Bodies too large to join: made piece by piece in threads, no faster than the client reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

STREAMED = "exporter.streamed"
"""The key of the WSGI environment that marks an answer to be streamed."""
STREAMS = 8
"""Bodies streamed at a time."""

Step = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a call in a thread."""


class Streamed(NamedTuple):
    """An answer whose body is made while it is sent: ``first`` is its beginning, ``rest`` what follows."""

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    rest: Iterator[bytes]
    close: Callable[[], None]
