"""Payload pairs: a request and its response in one object, as log pipelines of model servers write them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec

from exporter.errors import EventError
from exporter.wire.formats import request_from_json, response_from_json
from exporter.wire.mapping import Exchange
from exporter.wire.payload import attempt, convert, split_documents


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


def read(body: bytes, ndjson: bool, model: str, version: str | None = None) -> Iterator[Exchange | EventError]:
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
