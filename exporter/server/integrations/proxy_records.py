"""Exchanges as a proxy saw them: bodies as they went over the wire, and how the request ended, whatever they say."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from exporter.errors import EventError
from exporter.server.integrations.detect import request, response
from exporter.server.integrations.mapping import PayloadPair
from exporter.server.integrations.payload import Body, convert, unpacked


class Recorded(msgspec.Struct):
    """One exchange; its bodies are base64, of JSON or what else was sent, gzip or not."""

    model: str
    code: Annotated[int, msgspec.Meta(ge=100, le=599)]
    id: str | None = None
    version: str | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    duration_seconds: float | None = None
    request: bytes | None = None
    response: bytes | None = None

    def alone(self) -> PayloadPair:
        """What is known without a look into the bodies: one request, and how it ended."""
        return PayloadPair(
            Body([]),
            Body([], failed=True),
            self.id,
            version=self.version,
            time=self.time,
            duration_seconds=self.duration_seconds,
            code=self.code,
        )

    def read(self, most: int) -> PayloadPair:
        """The same with what the bodies say; a response that is no success says nothing of the model's.

        Parameters
        ----------
        most
            Bytes of a body once unpacked.

        Raises
        ------
        EventError
            When a body is of no known format, or wrong.
        """
        exchange = self.alone()
        failed = not 200 <= self.code < 300
        if self.request is not None:
            try:
                exchange = exchange._replace(request=request(unpacked(self.request, most)))
            except EventError:  # what was refused may well be no request
                if not failed:
                    raise
        if self.response is not None and not failed:
            exchange = exchange._replace(response=response(unpacked(self.response, most)))
        return exchange


def read(item: Any) -> Recorded:
    """One exchange from its document.

    Raises
    ------
    EventError
        When a member is missing or wrong.
    """
    return convert(item, Recorded)
