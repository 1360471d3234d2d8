"""What messages begin with, as they are read and written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple

Field = tuple[bytes, bytes]

MAX_HEAD = 64 * 1024
"""Bytes of a head, of trailers, or of whatever else is no body."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}


class Request(NamedTuple):
    """What a request begins with.

    Attributes
    ----------
    method, target
        What is asked for; the target is without a host.
    keep
        Whether its connection may be used again.
    old
        Whether it is of HTTP/1.0.
    fields
        The header as it came.
    known
        The same by names in small letters; see `known`.
    """

    method: bytes
    target: bytes
    keep: bool
    old: bool
    fields: Sequence[Field]
    known: dict[bytes, bytes]

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return b"transfer-encoding" in self.known

    @property
    def length(self) -> int:
        """Bytes of the body, where it does not come in chunks."""
        return int(self.known.get(b"content-length", 0))


def known(fields: Sequence[Field]) -> dict[bytes, bytes]:
    """The values of fields by their names in small letters, joined with commas where there are several.

    >>> known([(b"A", b"1"), (b"B", b"2"), (b"a", b"3")])
    {b'a': b'1, 3', b'b': b'2'}
    """
    found = {name.lower(): value for name, value in fields}
    if len(found) == len(fields):
        return found
    several: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        several.setdefault(name.lower(), []).append(value)
    return {name: b", ".join(values) for name, values in several.items()}


def response(status: int, reason: bytes, lines: Iterable[bytes], ends: bytes) -> bytes:
    """A response's head for the client; ``ends`` are the lines that say how it and its connection end."""
    return b"".join([b"HTTP/1.1 %d %b\r\n" % (status, reason), *lines, ends, b"\r\n"])


def connection(keep: bool, old: bool) -> bytes:
    """The line that says whether a connection goes on; none where HTTP/1.1 has it so anyway."""
    if not keep:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if old else b""


def phrase(status: int) -> bytes:
    """The words for a status."""
    return _PHRASES.get(status, b"")


def chunk(data: bytes) -> bytes:
    """A piece of a body as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
