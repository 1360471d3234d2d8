"""Find requests in the bytes of a connection, and refuse those that are not HTTP/1.1 or are too large."""

from __future__ import annotations

import re
from abc import abstractmethod

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from exporter.server.http.problem import Reply
from exporter.server.http.response_writer import ResponseWriter

MAX_HEAD = 64 * 1024
"""Bytes of a head, of trailers, or of the lines between chunks."""
SMALL_CHUNKS = 10_000
"""Chunks of a few bytes that a body may have: each costs as much as a kilobyte."""
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_NO_PATH = re.compile(rb"(https?://[^/?]+)(?=$|\?)", re.IGNORECASE)
_FRAMING = (b"content-length", b"transfer-encoding")


class RequestParser(HttpToolsProtocol):
    """What a connection does with the bytes that it receives; `exporter.server.http.protocol` has the rest.

    Parameters
    ----------
    config, server_state
        Uvicorn's.
    """

    _writer: ResponseWriter

    def __init__(self, config: Config, server_state: ServerState) -> None:
        super().__init__(config, server_state, {})
        self._error: Reply | None = None  # what the client is told once its earlier requests are answered
        self._in_message = self._in_head = False
        self._framing = b""  # of a body beside an offer to upgrade, which its parser would skip
        self._resuming = False
        self._overhead = self._body_left = self._body_size = self._chunks = 0
        self._head_since = self.loop.time()

    @abstractmethod
    def fail(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a problem document once earlier requests are answered, and close the connection."""

    def _feed(self, data: bytes) -> None:
        """Parse bytes, and refuse a request that is not HTTP/1.1 or has too large a head."""
        self._overhead += len(data)
        if not self._in_message and not data.isascii():
            line, end, rest = data.partition(b"\n")  # some clients do not percent-encode what their user typed
            data = _NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line) + end + rest
        while data and self._error is None:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._decline_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self.fail(400, f"the request is not valid HTTP/1.1: {error}")
        if self._overhead > MAX_HEAD:
            self.fail(431, f"expected a head of at most {MAX_HEAD} bytes")

    def _decline_upgrade(self) -> bytes:
        """Make a new parser, for that of an offer to upgrade skips the body; return the head it needs to read one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        framing, self._framing = self._framing, b""
        self._resuming = bool(framing)
        return b"POST / HTTP/1.1\r\n%b\r\n" % framing if framing else b""

    # --- what httptools finds ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._resuming:
            self._in_message = self._in_head = True
            self._head_since = self.loop.time()
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        if not self._resuming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are ignored."""
        if self._in_head:
            super().on_header(name, value)
            if self.headers[-1][0] == b"content-length":
                self._body_left = int(value)

    def on_headers_complete(self) -> None:
        """Start a request, or queue it."""
        if self._resuming:
            self._resuming = False
            return
        self._in_head = False
        self._overhead = self._body_size = self._chunks = 0
        if self._error is not None:
            return
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            self.fail(400, f"the request is not valid HTTP/1.1: its version is {version}")
            return
        if self.url[:1] != b"/":
            self.url = _NO_PATH.sub(rb"\1/", self.url)
        if self.parser.should_upgrade():
            self._framing = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in _FRAMING)
        if version == "1.0":  # which has no interim answers
            self.expect_100_continue = False
        super().on_headers_complete()
        self.cycle.transport = self._writer  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._overhead = 0
        self._body_left -= len(body)
        self._body_size += len(body)
        self._chunks += 1
        if self._error is None:
            super().on_body(body)
            if self._chunks > SMALL_CHUNKS and self._body_size < 64 * self._chunks:
                self.fail(400, "the body comes in far too many chunks")

    def on_message_complete(self) -> None:
        """End a request, unless its body follows an offer to upgrade."""
        self._overhead = 0
        if not self._framing:
            self._in_message = False
            self._body_left = 0
            if self._error is None:
                self.cycle.keep_alive &= self.parser.should_keep_alive()  # trailers can end the connection, too
                super().on_message_complete()
