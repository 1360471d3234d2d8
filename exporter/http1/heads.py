"""What messages begin with, as they are written."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

Field = tuple[bytes, bytes]

MAX_HEAD = 64 * 1024
"""Bytes of a head, of trailers, or of whatever else is no body."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}


class Line(NamedTuple):
    """What a request begins with.

    Attributes
    ----------
    keep
        Whether its connection may be used again.
    old
        Whether it is of HTTP/1.0.
    """

    method: bytes
    target: bytes
    keep: bool = True
    old: bool = False


def response(status: int, reason: bytes, lines: Iterable[bytes], ends: bytes) -> bytes:
    """A response's head for the client; ``ends`` are the lines that say how it and its connection end."""
    return b"".join([b"HTTP/1.1 %d %b\r\n" % (status, reason), *lines, ends, b"\r\n"])


def phrase(status: int) -> bytes:
    """The words for a status."""
    return _PHRASES.get(status, b"")


def chunk(data: bytes) -> bytes:
    """A piece of a body as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
