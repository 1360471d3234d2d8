"""Responses too large to join: made piece by piece in threads, no faster than the client reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

STREAMED = "exporter.streamed"
"""The key of the WSGI environment that marks a response to be streamed."""
STREAMS = 8
"""Bodies streamed at a time."""


class Streamed(NamedTuple):
    """A response whose body is made while it is sent: ``first`` is its beginning, ``rest`` what follows."""

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    rest: Iterator[bytes]
    close: Callable[[], None]
