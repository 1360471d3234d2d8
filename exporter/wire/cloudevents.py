"""CloudEvents 1.0 over HTTP, as inference loggers send them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from exporter.errors import EventError
from exporter.validation import preview
from exporter.wire.events import NO_EVENTS
from exporter.wire.payload import convert, decode_one

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MAX_IDENTIFIERS = 2000
"""Characters of all identifiers of a message together."""
_SIDES = {"inference.request": "request", "inference.response": "response"}


class LoggedMessage(NamedTuple):
    """A logged request or response.

    Attributes
    ----------
    side
        ``request`` or ``response``.
    key
        What a request and its response have in common.
    id
        The identifier of the prediction.
    names
        Names of the inference service and its model, the most specific first.
    json_length
        The ``Inference-Header-Content-Length``, if it is known.
    """

    side: str
    key: tuple[str, ...]
    id: str
    body: bytes
    time: datetime | None = None
    names: tuple[str, ...] = ()
    json_length: int | None = None


class _Attributes(msgspec.Struct):
    id: str
    type: str
    time: datetime | None = None
    requestid: str = ""  # requestid and modelid are Seldon's
    modelid: str = ""
    inferenceservicename: str = ""
    namespace: str = ""
    component: str = ""
    endpoint: str = ""


def read_events(headers: Mapping[str, str], body: bytes) -> list[LoggedMessage | EventError]:
    """Decode the messages of a request; an event that is wrong becomes an error in its place.

    Parameters
    ----------
    headers
        By their names in lower case.
    body
        The data in binary mode, otherwise one event or a batch of them.

    Raises
    ------
    EventError
        When the body itself cannot be decoded, or has no event.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in {STRUCTURED, BATCH}:
        attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
        return [_message(attributes, body, headers.get("inference-header-content-length"))]
    document = decode_one(body)
    events = convert(document, list[Any]) if media_type == BATCH else [document]
    if not events:
        raise EventError("", NO_EVENTS, "malformed")
    return [_message_or_error(event) for event in events]


def _message_or_error(event: Any) -> LoggedMessage | EventError:
    try:
        attributes = convert(event, dict[str, Any])
        return _message(attributes, _data(attributes), attributes.get("inferenceheadercontentlength"))
    except EventError as error:
        return error


def _message(attributes: Mapping[str, Any], body: bytes, json_length: Any) -> LoggedMessage:
    if "id" not in attributes:
        raise EventError("/id", f"is required: a header ce-id, or a body of {STRUCTURED}", "missing_field")
    event = convert(attributes, _Attributes)
    side = next((side for suffix, side in _SIDES.items() if event.type.endswith(suffix)), None)
    if side is None:
        detail = f"expected …{' or …'.join(_SIDES)}, got {preview(event.type)}"
        raise EventError("/type", detail, "wrong_type")
    request_id = event.requestid or event.id
    service = event.inferenceservicename
    key = (event.namespace, service, event.component, event.endpoint, event.modelid, request_id)
    if sum(map(len, key)) > MAX_IDENTIFIERS or not request_id:
        detail = f"expected identifiers of at most {MAX_IDENTIFIERS} characters together"
        raise EventError("/id", detail, "too_long")
    return LoggedMessage(
        side,
        key,
        request_id,
        body,
        event.time if event.time and event.time.tzinfo else None,
        (f"{event.namespace}/{service}", service, event.modelid),
        _length(json_length),
    )


def _length(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _data(attributes: Mapping[str, Any]) -> bytes:
    if (data := attributes.get("data_base64")) is not None:
        try:
            return base64.b64decode(convert(data, str, ("data_base64",)), validate=True)
        except (binascii.Error, ValueError):
            raise EventError("/data_base64", "is not base64", "malformed") from None
    data = attributes.get("data")
    if isinstance(data, str) and "json" not in str(attributes.get("datacontenttype", "json")):
        return data.encode("utf-8", "replace")
    return msgspec.json.encode(data)
