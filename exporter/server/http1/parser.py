"""Requests out of bytes, and what is no request."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import httptools

from exporter.server.http1 import headers

if TYPE_CHECKING:
    from exporter.server.http1.connection import Front

log = logging.getLogger(__name__)

WRONG = "something went wrong here; the log says what"
_STEP = 1024  # bytes that may be heads of many requests: each that waits takes more room than it has bytes
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_HOST = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


class Reader:
    """Tells a connection what comes on it, part by part; once the connection is deaf, nothing any more.

    Attributes
    ----------
    midst, heading
        Whether a request has begun and is not whole, and whether not even its head is.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._fields: list[headers.Field] = []
        self._url = self._framing = b""
        self._quiet = self._due = 0
        self._repeated = False
        self.midst = self.heading = False

    def close(self) -> None:
        """Let go what refers back."""
        del self._parser, self._front

    @property
    def step(self) -> int:
        """Bytes to read next: as many as the body under way still has, or a few where heads may come."""
        return max(_STEP, self._due)

    def read(self, data: bytes) -> None:
        """Read bytes."""
        self._quiet += len(data)
        if not self.midst and not data.isascii():
            line, end, rest = data.partition(b"\n")  # some clients send an address as its user wrote it
            data = _NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line) + end + rest
        front = self._front
        while data and not front.deaf:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:  # which nobody grants: the answer is in HTTP/1.1
                data = data[upgrade.args[0] :]
                self._repeat()
                continue
            except httptools.HttpParserCallbackError as error:
                log.error("a request cannot be worked on", exc_info=error.__context__)
                front.malformed(500, WRONG)
            except httptools.HttpParserError as error:
                if not front.deaf:
                    front.malformed(400, f"the request is no HTTP/1.1: {error}")
            break
        if self._quiet > headers.MAX_HEAD and not front.deaf:
            front.malformed(431, f"expected a head of at most {headers.MAX_HEAD} bytes")

    def _repeat(self) -> None:
        """Take a new parser: that of a request to upgrade takes the body for requests. Tell it what body comes."""
        self._parser = httptools.HttpRequestParser(self)
        framing, self._framing = self._framing, b""
        if framing:
            self._repeated = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.midst = self.heading = True
        self._front.touched = self._front.loop.time()
        self._fields = []
        self._url = b""

    def on_url(self, part: bytes) -> None:
        """Take the target, or a part of it."""
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or a trailer."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Make a request of the head."""
        fields, self._fields = self._fields, []
        self._quiet = 0
        self.heading = False
        if self._front.deaf or self._repeated:
            self._repeated = False
            return
        parser, known = self._parser, headers.known(fields)
        method, old = parser.get_method(), parser.get_http_version() != "1.1"
        request = headers.Request(method, _origin(self._url), parser.should_keep_alive(), old, fields, known)
        coding = known.get(b"transfer-encoding")
        if coding is not None and (old or coding.lower() != b"chunked"):
            self._front.malformed(501, "expected no transfer coding but chunked, and that in HTTP/1.1")
        elif method == b"CONNECT":
            self._front.malformed(501, "CONNECT is for proxies that lead anywhere, and this one does not")
        elif b"," in known.get(b"host", b""):  # without one it is whoever typed it by hand: nothing here goes by it
            self._front.malformed(400, "the request is no HTTP/1.1: expected one Host field")
        else:
            self._due = request.length
            if parser.should_upgrade() and (coding or self._due):
                self._framing = b"Transfer-Encoding: chunked\r\n" if coding else b"Content-Length: %d\r\n" % self._due
            self._front.request(request)

    def on_body(self, part: bytes) -> None:
        """Pass a part of the body on."""
        self._quiet = 0
        self._due -= len(part)
        self._front.body(part)

    def on_message_complete(self) -> None:
        """End the request, unless it is one to upgrade whose body comes now."""
        self._quiet = 0
        if not self._framing:
            self.midst = False
            self._front.whole(self._fields)


def _origin(target: bytes) -> bytes:
    """A target without the host, which some clients name in front of it.

    >>> _origin(b"http://a:80/b?c"), _origin(b"http://a?c"), _origin(b"/http://a")
    (b'/b?c', b'/?c', b'/http://a')
    """
    if target[:1] == b"/" or not (host := _HOST.match(target)):
        return target
    rest = target[host.end() :]
    return rest if rest[:1] == b"/" else b"/" + rest
