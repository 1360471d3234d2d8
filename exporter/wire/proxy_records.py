"""Records of a proxy: request and response bodies as they were sent, and the status code of the response."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from exporter.errors import EventError
from exporter.wire.formats import decode_request, decode_response
from exporter.wire.mapping import PayloadPair
from exporter.wire.payload import Payload, convert, decompress_if_gzip


class ProxyRecord(msgspec.Struct):
    """One request with its response; the bodies are base64, of any content, compressed by gzip or not."""

    model: str
    code: Annotated[int, msgspec.Meta(ge=100, le=599)]
    id: str | None = None
    version: str | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    duration_seconds: float | None = None
    request: bytes | None = None
    response: bytes | None = None

    def without_bodies(self) -> PayloadPair:
        """Return one prediction without inputs and output: what is known when the bodies cannot be read."""
        return PayloadPair(
            Payload([]),
            Payload([], failed=True),
            self.id,
            version=self.version,
            time=self.time,
            duration_seconds=self.duration_seconds,
            code=self.code,
        )

    def decode(self, max_bytes: int) -> PayloadPair:
        """Decode the bodies; the body of an error response is ignored.

        Parameters
        ----------
        max_bytes
            Bytes of a decompressed body.

        Raises
        ------
        EventError
            When a body is of an unknown format, or not valid.
        """
        pair = self.without_bodies()
        failed = not 200 <= self.code < 300
        if self.request is not None:
            try:
                pair = pair._replace(request=decode_request(decompress_if_gzip(self.request, max_bytes)))
            except EventError:
                if not failed:  # the server may have refused the request because it is not valid
                    raise
        if self.response is not None and not failed:
            pair = pair._replace(response=decode_response(decompress_if_gzip(self.response, max_bytes)))
        return pair


def read_record(document: Any) -> ProxyRecord:
    """Read a record from its document.

    Raises
    ------
    EventError
        When a member is missing or wrong.
    """
    return convert(document, ProxyRecord)
