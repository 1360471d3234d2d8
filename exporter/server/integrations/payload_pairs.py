"""Payload pairs: a request and its response in one object, as logs of model servers are made into."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec

from exporter.errors import EventError
from exporter.server.integrations.detect import read_request, read_response
from exporter.server.integrations.mapping import PayloadPair
from exporter.server.integrations.payload import convert, document


class _Pair(msgspec.Struct):
    """A pair; a request that has its outputs with it is one, too."""

    request: dict[str, Any] | None = None
    response: Any = msgspec.UNSET
    inputs: Any = None
    outputs: Any = None
    id: str | None = None
    model_version: str | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    duration_seconds: float | None = None
    code: int | None = None


def items(body: bytes, lines: bool) -> Iterator[Any]:
    """The pairs of a body, not looked at yet: one, an array of them, or with ``lines`` one a line.

    A line that is no JSON is an `EventError` among them.

    Raises
    ------
    EventError
        When the body is not JSON.
    """
    if lines:
        yield from (_line(part) for part in io.BytesIO(body) if part.strip())
        return
    found = _document(body)
    yield from found if isinstance(found, list) else [found]


def _line(part: bytes) -> Any:
    try:
        return _document(part)
    except EventError as error:
        return error


def _document(part: bytes) -> Any:
    found, rest = document(part)
    if rest:
        raise EventError("", "the body is not JSON: there is more behind it", "malformed")
    return found


def read(item: Any, version: str | None = None) -> PayloadPair:
    """One pair.

    Parameters
    ----------
    item
        Its document.
    version
        Of the model, where the path says it.

    Raises
    ------
    EventError
        When a part of it is missing or wrong.
    """
    pair = convert(item, _Pair)
    known = {"id": pair.id, "version": version or pair.model_version, "time": pair.time}
    if pair.request is None and pair.response is msgspec.UNSET:
        for member, there in (("inputs", pair.inputs), ("outputs", pair.outputs)):
            if there is None:
                detail = "is required beside its counterpart, or a request and a response in their stead"
                raise EventError(f"/{member}", detail, "missing_field")
        pair.request = pair.response = item
    for member, half in (("request", pair.request), ("response", pair.response)):
        if half is None or half is msgspec.UNSET:
            raise EventError(f"/{member}", "is required beside its counterpart", "missing_field")
    return PayloadPair(
        read_request(pair.request),
        read_response(pair.response),
        duration_seconds=pair.duration_seconds,
        code=pair.code,
        **known,  # type: ignore[arg-type]
    )
