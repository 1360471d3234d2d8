"""Heads of requests and responses: what is passed on, what is for one connection alone (RFC 9110, section 7.6)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from exporter.server.http1 import headers
from exporter.server.http1.headers import Field, Request

PSEUDONYM = b"model-exporter-" + secrets.token_hex(4).encode()
"""What this process calls itself in ``Via``, so that it knows a request that it has passed on before."""
_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te".split()
    + b"transfer-encoding upgrade".split()
)
OF_REQUESTS = frozenset([b"host", b"via", b"x-forwarded-for", b"x-request-id"])
"""Fields that `request` writes itself."""
OF_ANSWERS = frozenset([b"x-request-id"])
_ENDS = frozenset([b"content-length", b"host", b"x-request-id"])  # which no Connection field takes away
_ID = re.compile(rb"[!-~]{1,120}")  # shorter than the exporter's bound, for rows add theirs


class Head(NamedTuple):
    """The fields of a message.

    Attributes
    ----------
    lines
        Those to pass on, as they are written.
    known
        The values of all of them; see `exporter.server.http1.headers.known`.
    """

    lines: list[bytes]
    known: Mapping[bytes, bytes]

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return b"transfer-encoding" in self.known

    @property
    def codings(self) -> bool:
        """Whether there are transfer codings beside chunks, which nobody uses and nothing here understands."""
        return self.known.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked"


def read(raw: Sequence[Field], apart: frozenset[bytes] = frozenset()) -> Head:
    """The fields of a message as they came, but for those of its connection and those that the caller writes itself."""
    known = headers.known(raw)
    lines = [
        b"%b: %b\r\n" % (name, value) for name, value in raw if (low := name.lower()) not in _HOP and low not in apart
    ]
    if named := {part.strip().lower() for part in known.get(b"connection", b"").split(b",")} & known.keys() - _ENDS:
        lines = [line for line in lines if line.partition(b":")[0].lower() not in named]
    return Head(lines, known)


def identifier(given: bytes | None) -> str | None:
    """The identifier that a request came with; None where it is none that the exporter takes."""
    return given.decode("ascii") if given is not None and _ID.fullmatch(given) else None


def request(asked: Request, head: Head, name: str, peer: str, host: tuple[bytes | None, bytes]) -> bytes:
    """A request's head for the upstream.

    Parameters
    ----------
    asked
        Its method and target.
    head
        Its fields.
    name
        Its identifier.
    peer
        The client's address; empty where it has none.
    host
        The host to ask for in place of the client's, if any, and that to ask for where the client named none.
    """
    known = head.known
    lines = [b"%b %b HTTP/1.1\r\n" % asked[:2], *head.lines]
    lines.append(b"Host: %b\r\n" % (host[0] or known.get(b"host", host[1])))
    lines.append(b"X-Request-Id: %b\r\n" % name.encode())
    if peer:
        lines.append(b"X-Forwarded-For: %b\r\n" % _after(known.get(b"x-forwarded-for"), peer.encode()))
    if b"x-forwarded-proto" not in known:
        lines.append(b"X-Forwarded-Proto: http\r\n")
    if b"host" in known and b"x-forwarded-host" not in known:
        lines.append(b"X-Forwarded-Host: %b\r\n" % known[b"host"])
    lines.append(b"Via: %b\r\n" % _after(known.get(b"via"), b"1.1 " + PSEUDONYM))
    if b"trailers" in known.get(b"te", b"").lower():
        lines.append(b"TE: trailers\r\nConnection: TE\r\n")
    lines.append(b"Transfer-Encoding: chunked\r\n\r\n" if head.chunked else b"\r\n")
    return b"".join(lines)


def _after(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else before + b", " + value


def last_chunk(trailers: Sequence[Field]) -> bytes:
    """The end of a body in chunks."""
    return b"0\r\n%b\r\n" % b"".join(read(trailers).lines) if trailers else b"0\r\n\r\n"
