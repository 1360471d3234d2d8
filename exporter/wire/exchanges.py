"""Records of a proxy: request and response bodies as they were sent, and the status code of the response."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec

from exporter.errors import EventError
from exporter.wire.events import RejectedEvent
from exporter.wire.formats import decode_request, decode_response, request_from_json, response_from_json
from exporter.wire.mapping import ConfiguredModel, Exchange, Validated
from exporter.wire.payload import Payload, attempt, convert, split_documents


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

    @property
    def names(self) -> tuple[str]:
        """The name of the model."""
        return (self.model,)

    @property
    def model_version(self) -> str | None:
        """The version of the model."""
        return self.version

    def predictions(self, model: ConfiguredModel) -> Validated:
        """Return the predictions, and those rejected; the request counts even if its bodies cannot be read."""
        try:
            accepted, rejected = self._decode().predictions(model)
        except EventError as error:
            accepted, rejected = [], [RejectedEvent.of(error)]
        if not accepted:
            accepted, more = self._exchange(Payload([]), Payload([], failed=True)).predictions(model)
            rejected += more
        return accepted, rejected

    def _decode(self) -> Exchange:
        """Decode the bodies; the body of an error response is ignored."""
        request, response = Payload([]), Payload([], failed=True)
        failed = not 200 <= self.code < 300
        if self.request is not None:
            try:
                request = decode_request(self.request)
            except EventError:
                if not failed:  # the server may have refused the request because it is not valid
                    raise
        if self.response is not None and not failed:
            response = decode_response(self.response)
        return self._exchange(request, response)

    def _exchange(self, request: Payload, response: Payload) -> Exchange:
        times = self.time, self.duration_seconds
        return Exchange(self.names, request, response, self.id, self.version, *times, code=self.code)


def read_records(body: bytes, ndjson: bool) -> Iterator[ProxyRecord | EventError]:
    """Yield the records in a body, see `split_documents`; one that is wrong becomes an error in its place."""
    for document in split_documents(body, ndjson):
        yield document if isinstance(document, EventError) else attempt(convert, document, ProxyRecord)


class _Pair(msgspec.Struct):
    """A request and its response, or one object with both ``inputs`` and ``outputs``."""

    request: dict[str, Any] | None = None
    response: Any = msgspec.UNSET
    inputs: Any = None
    outputs: Any = None
    id: str | None = None
    model_version: str | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    duration_seconds: float | None = None
    code: int | None = None


def read_pairs(body: bytes, ndjson: bool, model: str, version: str | None = None) -> Iterator[Exchange | EventError]:
    """Yield the pairs in a body; one that is wrong becomes an error in its place.

    Parameters
    ----------
    body, ndjson
        See `split_documents`, which also says what is raised.
    model, version
        The names in the request's path.
    """
    for document in split_documents(body, ndjson):
        yield document if isinstance(document, EventError) else attempt(_read_pair, document, model, version)


def _read_pair(document: Any, model: str, version: str | None) -> Exchange:
    pair = convert(document, _Pair)
    if pair.request is None and pair.response is msgspec.UNSET:
        for member, value in (("inputs", pair.inputs), ("outputs", pair.outputs)):
            if value is None:
                detail = "is required: send inputs and outputs, or request and response"
                raise EventError(f"/{member}", detail, "missing_field")
        pair.request = pair.response = document
    for member, value in (("request", pair.request), ("response", pair.response)):
        if value is None or value is msgspec.UNSET:
            raise EventError(f"/{member}", "is required: send request and response together", "missing_field")
    return Exchange(
        (model,),
        request_from_json(pair.request),
        response_from_json(pair.response),
        id=pair.id,
        version=version or pair.model_version,
        time=pair.time,
        duration_seconds=pair.duration_seconds,
        code=pair.code,
    )
