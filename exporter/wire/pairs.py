"""Payload pairs: a request and its response in one object, as log pipelines of model servers write them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec

from exporter.errors import EventError
from exporter.wire.events import NO_EVENTS
from exporter.wire.formats import request_from_json, response_from_json
from exporter.wire.mapping import PayloadPair
from exporter.wire.payload import convert, decode_one


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


def split_pairs(body: bytes, ndjson: bool) -> Iterator[Any]:
    """Yield the documents of the pairs in a body: one object, the entries of an array, or the lines of NDJSON.

    A line that is not JSON is yielded as an `EventError`.

    Raises
    ------
    EventError
        When the body is not JSON, or has no pair.
    """
    documents: Iterator[Any]
    if ndjson:
        documents = (_decode_line(line) for line in io.BytesIO(body) if line.strip())
    else:
        document = decode_one(body)
        documents = iter(document if isinstance(document, list) else [document])
    is_empty = True
    for document in documents:
        is_empty = False
        yield document
    if is_empty:
        raise EventError("", NO_EVENTS, "malformed")


def _decode_line(line: bytes) -> Any:
    try:
        return decode_one(line)
    except EventError as error:
        return error


def read_pair(document: Any, version: str | None = None) -> PayloadPair:
    """Read a pair from its document.

    Parameters
    ----------
    document
        Decoded JSON.
    version
        The version of the model in the request's path.

    Raises
    ------
    EventError
        When a part of it is missing or wrong.
    """
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
    return PayloadPair(
        request_from_json(pair.request),
        response_from_json(pair.response),
        id=pair.id,
        version=version or pair.model_version,
        time=pair.time,
        duration_seconds=pair.duration_seconds,
        code=pair.code,
    )
