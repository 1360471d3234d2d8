"""CloudEvents 1.0 over HTTP, as KServe's inference logger sends them: read, and matched in bounded memory."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from exporter.errors import EventError
from exporter.validation import preview
from exporter.wire.events import NO_EVENTS
from exporter.wire.formats import attempt, convert, decode_one, decode_request, decode_response
from exporter.wire.mapping import Exchange

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
    if media_type not in {STRUCTURED, BATCH} or "ce-type" in headers:  # else the type is that of the logged body
        attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
        return [_message(attributes, body, headers.get("inference-header-content-length"))]
    document = decode_one(body)
    events = convert(document, list[Any]) if media_type == BATCH else [document]
    if not events:
        raise EventError("", NO_EVENTS, "malformed")
    return [attempt(_message, event) for event in events]


def _message(document: Any, body: bytes | None = None, json_length: str | None = None) -> LoggedMessage:
    """Read the attributes of an event, and its data where there is no ``body`` beside them."""
    attributes = convert(document, dict[str, Any])
    if body is None:
        body, json_length = _data(attributes), str(attributes.get("inferenceheadercontentlength"))
    if "id" not in attributes:
        raise EventError("/id", f"is required: a header ce-id, or a body of {STRUCTURED}", "missing_field")
    event = convert(attributes, _Attributes)
    side = next((side for suffix, side in _SIDES.items() if event.type.endswith(suffix)), None)
    if side is None:
        detail = f"expected …{' or …'.join(_SIDES)}, got {preview(event.type)}"
        raise EventError("/type", detail, "wrong_type")
    service = event.inferenceservicename
    key = (event.namespace, service, event.component, event.endpoint, event.id)
    if sum(map(len, key)) > MAX_IDENTIFIERS or not event.id:
        detail = f"expected identifiers of at most {MAX_IDENTIFIERS} characters together"
        raise EventError("/id", detail, "too_long")
    return LoggedMessage(
        side,
        key,
        event.id,
        body,
        event.time if event.time and event.time.tzinfo else None,
        (f"{event.namespace}/{service}", service),
        int(json_length) if json_length and json_length.isdecimal() and len(json_length) < 10 else None,
    )


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


def to_exchange(message: LoggedMessage, counterpart: LoggedMessage) -> Exchange:
    """Decode a request and its response, in either order.

    Raises
    ------
    EventError
        When a body is of an unknown format, or not valid.
    """
    request, response = (message, counterpart) if message.side == "request" else (counterpart, message)
    seconds = (response.time - request.time).total_seconds() if request.time and response.time else -1.0
    inputs = decode_request(request.body, request.json_length)
    outputs = decode_response(response.body, response.json_length)
    return Exchange(
        (outputs.model, *request.names),
        inputs,
        outputs,
        request.id,
        time=request.time,
        duration_seconds=seconds if seconds >= 0 else None,
    )


MAX_WAITING = 20_000
"""Messages that wait for their counterpart."""
MAX_WAITING_BYTES = 64 * 2**20
"""Bytes of their bodies."""
MAX_SECONDS = 300.0
"""Seconds that a message waits."""
_OVERHEAD = 500  # bytes of a waiting message beside its body
_OTHER_SIDE = {"request": "response", "response": "request"}
_Key = tuple[str, tuple[str, ...]]


class RequestResponsePairer:
    """Pairs requests and responses by their key, in whichever order they arrive; thread-safe.

    Parameters
    ----------
    clock
        Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: OrderedDict[_Key, tuple[float, LoggedMessage]] = OrderedDict()
        self._bytes = 0
        self._unpaired = dict.fromkeys(_OTHER_SIDE, 0)
        self._lock = threading.Lock()

    def pair(self, message: LoggedMessage) -> LoggedMessage | None:
        """Remove and return the counterpart of a message; without one the message waits, and None is returned."""
        with self._lock:
            self._expire()
            if counterpart := self._remove((_OTHER_SIDE[message.side], message.key)):
                return counterpart
            self._remove((message.side, message.key))  # sent again
            self._waiting[message.side, message.key] = (self._clock() + MAX_SECONDS, message)
            self._bytes += _size(message)
            while len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
                self._drop_oldest()
            return None

    def _remove(self, key: _Key) -> LoggedMessage | None:
        if (entry := self._waiting.pop(key, None)) is None:
            return None
        self._bytes -= _size(entry[1])
        return entry[1]

    def _drop_oldest(self) -> None:
        key = next(iter(self._waiting))
        self._remove(key)
        self._unpaired[key[0]] += 1

    def _expire(self) -> None:
        now = self._clock()
        while self._waiting and next(iter(self._waiting.values()))[0] <= now:
            self._drop_oldest()

    def counts(self) -> tuple[dict[str, int], int]:
        """Return how many messages of each side were dropped without a counterpart, and how many wait."""
        with self._lock:
            self._expire()
            return dict(self._unpaired), len(self._waiting)


def _size(message: LoggedMessage) -> int:
    return len(message.body) + sum(map(len, message.key)) + _OVERHEAD
