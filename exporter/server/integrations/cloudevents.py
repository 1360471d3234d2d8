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
from exporter.server.integrations.payload import convert, document
from exporter.validation import preview

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_SIDES = {"inference.request": "request", "inference.response": "response"}


class LoggedMessage(NamedTuple):
    """A request or a response that was logged.

    Attributes
    ----------
    side
        ``request`` or ``response``.
    key
        What both halves have in common.
    id
        Of the prediction.
    names
        What the inference service and its model are called, the best first.
    head
        The ``Inference-Header-Content-Length``, where it is known.
    """

    side: str
    key: tuple[str, ...]
    id: str
    body: bytes
    time: datetime | None = None
    names: tuple[str, ...] = ()
    head: int | None = None


class _Attributes(msgspec.Struct):
    id: str
    type: str
    time: datetime | None = None
    requestid: str = ""  # Seldon's, and so is the next
    modelid: str = ""
    inferenceservicename: str = ""
    namespace: str = ""
    component: str = ""
    endpoint: str = ""


def read(headers: Mapping[str, str], body: bytes) -> list[LoggedMessage | EventError]:
    """The halves in a request, or why one is none.

    Parameters
    ----------
    headers
        By their names in small letters.
    body
        The data in binary mode, else one event, or a batch of them.

    Raises
    ------
    EventError
        When the body as a whole is wrong.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {STRUCTURED, BATCH}:
        attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
        return [_half(attributes, body, headers.get("inference-header-content-length"))]
    found, rest = document(body)
    if rest:
        raise EventError("", "the body is not JSON: there is more behind it", "malformed")
    events = convert(found, list[Any]) if kind == BATCH else [found]
    return [_caught(event) for event in events]


def _caught(event: Any) -> LoggedMessage | EventError:
    try:
        attributes = convert(event, dict[str, Any])
        return _half(attributes, _data(attributes), attributes.get("inferenceheadercontentlength"))
    except EventError as error:
        return error


def _half(attributes: Mapping[str, Any], body: bytes, head: Any) -> LoggedMessage:
    if "id" not in attributes:
        raise EventError("/id", f"is required: a header ce-id, or a body of {STRUCTURED}", "missing_field")
    found = convert(attributes, _Attributes)
    side = next((side for end, side in _SIDES.items() if found.type.endswith(end)), None)
    if side is None:
        detail = f"expected …{' or …'.join(_SIDES)}, got {preview(found.type)}"
        raise EventError("/type", detail, "wrong_type")
    name = found.requestid or found.id
    service = found.inferenceservicename
    key = (found.namespace, service, found.component, found.endpoint, found.modelid, name)
    if sum(map(len, key)) > 2000 or not name:
        raise EventError("/id", "expected identifiers of at most 2000 characters together", "too_long")
    time = found.time if found.time and found.time.tzinfo else None
    length = int(head) if head is not None and str(head).isdecimal() and len(str(head)) < 10 else None
    return LoggedMessage(side, key, name, body, time, (f"{found.namespace}/{service}", service, found.modelid), length)


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
