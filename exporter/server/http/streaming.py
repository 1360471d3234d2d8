"""Responses that are too large for memory: threads produce them piece by piece, as fast as the client reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

STREAMED = "exporter.streamed"
"""The key in the WSGI environment of a response that is streamed."""
STREAMS = 8
"""Responses that are streamed at the same time."""


class Streamed(NamedTuple):
    """A response whose body is produced while it is sent: ``first`` is its beginning, ``rest`` yields what follows."""

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    rest: Iterator[bytes]
    close: Callable[[], None]
