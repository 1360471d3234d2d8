"""The wire types of events, which are decoded and checked here, once.

The strict decoder reads valid events at full speed. Only what it refuses is decoded again, one event at a time, to say
what is wrong with it.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from exporter.errors import EventError
from exporter.features.lenient_json import parse_integer, sanitize
from exporter.validation import explain, json_pointer, preview, suggestion

_serial = itertools.count()
_process = os.urandom(5).hex()

MAX_ID, MAX_LABEL = 128, 100_000
"""Longest identifier, and longest prediction or label, in characters."""
MAX_NAME = 32
"""Longest unknown member that is compared with the known ones."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
_Name = Annotated[str, msgspec.Meta(max_length=128)]
_Version = Annotated[str, msgspec.Meta(max_length=128)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Code = Annotated[int, msgspec.Meta(ge=100, le=599)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL)] | int | float | bool | None

FIRST_YEAR, LAST_YEAR = 1678, 2261
"""Years of an event's time: those that pandas and Arrow can hold as nanoseconds, in every time zone."""

NO_VERSION = "unknown"
"""The version of an event without one."""


class Prediction(msgspec.Struct, gc=False):
    """A request to a model, answered or failed; see ``POST /v1/predictions`` in the API documentation.

    ``inputs`` stays undecoded JSON: only the aggregator needs its values, and the store saves the text.
    """

    model: _Name
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID)] | None = None
    version: _Version | None = None
    time: _Time | None = None
    inputs: msgspec.Raw = msgspec.Raw()
    prediction: Label = None
    confidence: _Share | None = None
    duration_seconds: _Seconds | None = None
    code: _Code | None = None


class Feedback(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A user's feedback on a prediction.

    Unknown members are ignored, unless they resemble a known one: a misspelt label must not be lost.
    """

    prediction_id: _Id | None = None
    model: _Name | None = None
    version: _Version | None = None
    verdict: Literal["accepted", "corrected"] | None = None
    label: Label = None
    prediction: Label = None
    inputs: msgspec.Raw = msgspec.Raw()
    user: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    comment: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    time: _Time | None = None


class BusinessEvent(msgspec.Struct, gc=False):
    """One occurrence of a declared business event, or several."""

    event: _Name
    model: _Name
    version: _Version | None = None
    value: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 1.0


_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")  # the last two end lines in some viewers of logs
MAX_REJECTED = 1000
"""Most rejected events of a request that are explained; the rest of the request is then ignored."""
_SCANNER = json.JSONDecoder(parse_int=parse_integer)
_SPACE = re.compile(r"[ \t\r\n]*")
_UNKNOWN_MEMBER = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$[^`]*`)?$", re.DOTALL)
_Event = TypeVar("_Event", bound=msgspec.Struct)
_Result = TypeVar("_Result")
_Read = Callable[[msgspec.json.Decoder[_Event], msgspec.json.Decoder[list[_Event]]], _Result]


class RejectedEvent(msgspec.Struct, gc=False):
    """An event that was rejected, by its index in the request."""

    index: int
    pointer: str
    detail: str
    reason: str


class Decoder(Generic[_Event]):
    """Decode the body of a request into events of one type.

    Parameters
    ----------
    kind
        The wire type.
    check
        Raises `EventError` if one of several events is wrong in a way that the type cannot express, such as an unknown
        model.
    """

    def __init__(self, kind: type[_Event], check: Callable[[Sequence[_Event]], None]) -> None:
        self._kind = kind
        self._check = check
        self._has_inputs = "inputs" in kind.__struct_fields__
        self._names = [name for name in ("id", "prediction_id", "version") if name in kind.__struct_fields__]
        strict = kind.__struct_config__.forbid_unknown_fields
        self._similar = {form: name for name in kind.__struct_fields__ for form in _spellings(name)} if strict else {}
        self._has_time = "time" in kind.__struct_fields__
        self._one: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(kind)
        self._many: msgspec.json.Decoder[list[_Event]] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        refusing: Any = msgspec.defstruct(kind.__name__, [], bases=(kind,), forbid_unknown_fields=True, gc=False)
        self._strict_one, self._strict_many = msgspec.json.Decoder(refusing), msgspec.json.Decoder(list[refusing])

    def decode(
        self, body: bytes, lines: bool = False, unknown: list[str] | None = None
    ) -> tuple[list[_Event], list[RejectedEvent]]:
        """Return the valid events of a body, and the rejected ones.

        Parameters
        ----------
        body
            A JSON object or an array of objects, or with ``lines`` an object in each line.
        lines
            Whether the body is NDJSON.
        unknown
            Gets the name of the first member that is not known, if there is one. Such members are ignored.

        Raises
        ------
        EventError
            When the body starts like an array, but is not JSON. A single object that is not JSON is a rejected event.
        """
        body = body.removeprefix(b"\xef\xbb\xbf")
        try:
            if lines:
                events = self._read(lambda one, _: one.decode_lines(body), unknown)
            elif body.lstrip()[:1] == b"[":
                events = self._read(lambda _, many: many.decode(body), unknown)
            else:
                events = [self._read(lambda one, _: one.decode(body), unknown)]
            self._check_events(events)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, EventError):
            return self._decode_one_by_one(body, lines, unknown)
        return events, []

    def _read(self, read: _Read[_Event, _Result], unknown: list[str] | None) -> _Result:
        """Call ``read`` with the decoders of one event and of an array; with ``unknown``, first with strict ones."""
        if unknown is not None:
            try:
                return read(self._strict_one, self._strict_many)
            except msgspec.ValidationError as error:
                match = _UNKNOWN_MEMBER.match(str(error))
                if match is None:
                    raise
                if not unknown:
                    unknown.append(match[1])
        return read(self._one, self._many)

    def _check_events(self, events: Sequence[_Event]) -> None:
        if self._has_inputs:
            for event in events:
                view = memoryview(event.inputs)  # type: ignore[attr-defined]
                if view and view[0] not in b"{n":
                    detail = f"expected an object with one member for each feature, got {_kind(bytes(view[:1]))}"
                    raise EventError("/inputs", detail, "wrong_type")
        check_names(events, self._names)
        if self._has_time:
            check_times(events)
        self._check(events)

    def _decode_one_by_one(
        self, body: bytes, lines: bool, unknown: list[str] | None
    ) -> tuple[list[_Event], list[RejectedEvent]]:
        good: list[_Event] = []
        rejected: list[RejectedEvent] = []
        for index, part in enumerate(_lines(body) if lines else _items(body)):
            if len(rejected) == MAX_REJECTED:
                detail = f"ignored: {MAX_REJECTED} events before it were rejected"
                rejected.append(RejectedEvent(index, "", detail, "malformed"))
                break
            try:
                event = self._single(part, unknown)
                self._check_events([event])
                good.append(event)
            except EventError as error:
                rejected.append(RejectedEvent(index, error.pointer, error.detail, error.reason))
        return good, rejected

    def _single(self, text: bytes, unknown: list[str] | None) -> _Event:
        try:
            return self._read(lambda one, _: one.decode(text), unknown)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = _plain(_lenient(text))
        try:
            if isinstance(document, dict):
                known = self._known(document) if self._similar else document
                encoded = msgspec.json.encode(known)
                return self._read(lambda one, _: one.decode(encoded), unknown)
            raise EventError("", f'expected an object such as {{"model": …}}, got {_kind(text)}', "wrong_type")
        except msgspec.ValidationError as error:
            path, detail, reason = explain(error, document, choices={"verdict": ("accepted", "corrected")})
            raise EventError(json_pointer(path), detail, reason) from None

    def _known(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the known members of an event; one that is probably a misspelt known member is refused."""
        names = frozenset(self._kind.__struct_fields__)
        for key in document.keys() - names:
            similar = {self._similar.get(form) for form in _spellings(key)} if len(key) <= MAX_NAME else ()
            if missing := sorted(names.difference(document).intersection(similar)):
                detail = f"is not known; did you mean {preview(missing[0])}?"
                raise EventError(json_pointer((key,)), detail, "wrong_type")
        return {key: value for key, value in document.items() if key in names}


def _spellings(word: str) -> list[str]:
    """Return a word without case, ``-`` and ``_``, and without one of its characters.

    Words that share one of these forms differ in a character, or in two that are swapped. `difflib` takes ten times as
    long, and a body may have a million members.

    >>> _spellings("User_")
    ['user', 'ser', 'uer', 'usr', 'use']
    """
    plain = word.lower().replace("-", "").replace("_", "")
    return [plain, *(plain[:index] + plain[index + 1 :] for index in range(len(plain)))]


def _kind(text: bytes) -> str:
    """Return the type of a JSON text. Messages do not quote it: it may be personal data, and clients log messages."""
    kinds = {b'"': "a string", b"[": "an array", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
    return kinds.get(text.lstrip()[:1], "a number")


def _lines(body: bytes) -> Iterator[bytes]:
    return (line for line in io.BytesIO(body) if line.strip())


def _items(body: bytes) -> Iterator[bytes]:
    """Yield the elements of an array, or the only document, one at a time: a hostile body takes no more memory."""
    text = body.decode("utf-8", "replace").strip()
    if text[:1] != "[":
        yield text.encode()
        return
    position = _skip_space(text, 1)
    more = text[position : position + 1] != "]"
    while more:
        try:
            _, end = _SCANNER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _malformed(error) from None
        yield text[position:end].encode()
        position = _skip_space(text, end)
        more = text[position : position + 1] == ","
        if more:
            position = _skip_space(text, position + 1)
    if text[position:] != "]":
        raise EventError("", f"the body is not JSON: expected , or ] at character {position}", "malformed")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _lenient(text: bytes) -> Any:
    """Decode JSON as Python writes it, with ``NaN`` and ``Infinity``."""
    if not text.strip():
        raise EventError("", "the body is empty", "malformed")
    try:
        return json.loads(text.decode("utf-8", "replace"), parse_int=parse_integer)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> EventError:
    if isinstance(error, RecursionError):
        return EventError("", "the JSON is nested too deeply", "malformed")
    hint = "; for one object in each line use Content-Type: application/x-ndjson" if "Extra data" in str(error) else ""
    return EventError("", f"the body is not JSON: {error}{hint}", "malformed")


def _plain(item: Any) -> Any:
    """Return an event as strict JSON allows it.

    Numbers that are not finite are sanitized in inputs, else they become strings; a label that is NaN is missing.
    """
    if isinstance(item, dict):
        item = {key: value if key == "inputs" else _finite_or_text(key, value) for key, value in item.items()}
    return sanitize(item)


def _finite_or_text(key: str, value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if key == "label" and math.isnan(value) else json.dumps(value)  # NaN is pandas' missing label


def check_names(events: Sequence[msgspec.Struct], names: Sequence[str] = ("id", "version")) -> None:
    """Raise an error for a name with a control character, which would garble logs and terminals.

    Parameters
    ----------
    events
        Decoded events.
    names
        Members to check: strings or None.

    Raises
    ------
    EventError
        At the first one.
    """
    for event in events:
        for name in names:
            value = getattr(event, name)
            if value and not value.isprintable() and _CONTROL.search(value):
                detail = f"expected no control characters, got {json.dumps(value[:60])}"
                raise EventError(f"/{name}", detail, "wrong_type")


def check_times(events: Iterable[Any]) -> None:
    """Raise an error for a time that other programs cannot represent.

    Raises
    ------
    EventError
        At the first one whose year is not from `FIRST_YEAR` to `LAST_YEAR`.
    """
    for event in events:
        time: datetime | None = event.time
        if time is not None and not FIRST_YEAR <= time.year <= LAST_YEAR:
            detail = f"expected a year from {FIRST_YEAR} to {LAST_YEAR}, got {preview(time.isoformat())}"
            raise EventError("/time", detail, "out_of_range")


def check_model(models: Collection[str], model: str | None) -> None:
    """Raise an error for a model that is not in the configuration.

    Raises
    ------
    EventError
        With the model that was probably meant.
    """
    if model not in models:
        detail = f"no model {preview(model)} is configured; {suggestion(str(model), models)}"
        raise EventError("/model", detail, "unknown_model")


def check_models(models: Collection[str], events: Iterable[Prediction]) -> None:
    """Raise an error if a prediction is of a model that is not in the configuration, see `check_model`."""
    for model in {event.model for event in events}.difference(models):
        check_model(models, model)


def make_id() -> str:
    """Return a unique identifier; later ones are greater."""
    return f"{time.time_ns() // 1_000_000:011x}-{_process}-{next(_serial):08x}"
