"""Decode the bodies of requests into events.

The strict decoder reads valid events at full speed. Only what it refuses is decoded again, one event at a time, to say
what is wrong with it.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from exporter.errors import EventError
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.validation import explain, json_pointer, preview
from exporter.wire.events import MAX_REJECTED, VERDICTS, RejectedEvent, check_names, check_times

MAX_NAME = 32
"""Longest unknown member that is compared with the known ones."""
_SCANNER = json.JSONDecoder(parse_int=parse_integer)
_SPACE = re.compile(r"[ \t\r\n]*")
_UNKNOWN_MEMBER = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$[^`]*`)?$", re.DOTALL)
_Event = TypeVar("_Event", bound=msgspec.Struct)
_Result = TypeVar("_Result")
_Read = Callable[[msgspec.json.Decoder[_Event], msgspec.json.Decoder[list[_Event]]], _Result]


class Decoded(NamedTuple, Generic[_Event]):
    """The events of a body.

    Attributes
    ----------
    events, rejected
        The valid ones, and those that are refused.
    unknown
        The name of the first member that is not known and is ignored; None without one.
    """

    events: list[_Event]
    rejected: list[RejectedEvent]
    unknown: str | None


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
        self._has_label = "label" in kind.__struct_fields__
        self._one: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(kind)
        self._many: msgspec.json.Decoder[list[_Event]] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        refusing: Any = msgspec.defstruct(kind.__name__, [], bases=(kind,), forbid_unknown_fields=True, gc=False)
        self._strict_one, self._strict_many = msgspec.json.Decoder(refusing), msgspec.json.Decoder(list[refusing])

    def decode(self, body: bytes, lines: bool = False) -> Decoded[_Event]:
        """Return the valid events of a body, and the rejected ones.

        Parameters
        ----------
        body
            A JSON object or an array of objects, or with ``lines`` an object in each line.
        lines
            Whether the body is NDJSON.

        Raises
        ------
        EventError
            When the body starts like an array, but is not JSON. A single object that is not JSON is a rejected event.
        """
        body = body.removeprefix(b"\xef\xbb\xbf")
        try:
            if lines:
                events, unknown = self._read(lambda one, _: one.decode_lines(body))
            elif body.lstrip()[:1] == b"[":
                events, unknown = self._read(lambda _, many: many.decode(body))
            else:
                event, unknown = self._read(lambda one, _: one.decode(body))
                events = [event]
            self._check_events(events)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, EventError):
            return self._decode_one_by_one(body, lines)
        return Decoded(events, [], unknown)

    def _read(self, read: _Read[_Event, _Result]) -> tuple[_Result, str | None]:
        """Call ``read`` with the decoders of one event and of an array; return also the first unknown member."""
        try:
            return read(self._strict_one, self._strict_many), None
        except msgspec.ValidationError as error:
            match = _UNKNOWN_MEMBER.match(str(error))
            if match is None:
                raise
            return read(self._one, self._many), match[1]

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

    def _decode_one_by_one(self, body: bytes, lines: bool) -> Decoded[_Event]:
        good: list[_Event] = []
        rejected: list[RejectedEvent] = []
        unknown: str | None = None
        for index, part in enumerate(_lines(body) if lines else _items(body)):
            if len(rejected) == MAX_REJECTED:
                detail = f"ignored: {MAX_REJECTED} events before it were rejected"
                rejected.append(RejectedEvent(index, "", detail, "malformed"))
                break
            try:
                event, name = self._single(part)
                unknown = unknown or name
                self._check_events([event])
                good.append(event)
            except EventError as error:
                rejected.append(RejectedEvent.of(error, index))
        return Decoded(good, rejected, unknown)

    def _single(self, text: bytes) -> tuple[_Event, str | None]:
        try:
            return self._read(lambda one, _: one.decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = _lenient(text)
        if self._has_label:
            _check_label(document)
        document = _plain(document)
        try:
            if isinstance(document, dict):
                known = self._known(document) if self._similar else document
                encoded = msgspec.json.encode(known)
                return self._read(lambda one, _: one.decode(encoded))
            raise EventError("", f'expected an object such as {{"model": …}}, got {_kind(text)}', "wrong_type")
        except msgspec.ValidationError as error:
            path, detail, reason = explain(error, document, choices={"verdict": VERDICTS})
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


def _check_label(item: Any) -> None:
    """Refuse an infinite number as a label, such as 1e999; decoded as a string, it would count as a class."""
    label = item.get("label") if isinstance(item, dict) else None
    if isinstance(label, float) and math.isinf(label):
        detail = "expected a finite number, a string or a boolean, got an infinite number"
        raise EventError("/label", detail, "out_of_range")


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
