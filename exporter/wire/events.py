"""The wire types of events, and the checks that their types cannot express."""

from __future__ import annotations

import functools
import io
import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

import msgspec

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.validation import closest, explain, json_pointer, preview, suggestion

_serial = itertools.count()
_process = os.urandom(5).hex()

MAX_ID, MAX_LABEL = 128, 100_000
"""Longest identifier, and longest prediction or label, in characters."""
NO_EVENTS = "the body has no events"
"""What is wrong with an empty array, and with NDJSON without a line."""
MAX_OBJECTS = 1_000_000
"""Objects in one body."""
MAX_DECODED = 64 * 2**20
"""Bytes that one event, or a body of another server's format, takes decoded; see `check_size`."""
LARGE_EVENT = 2**20
"""Bytes of JSON up to which an event is not measured: decoded, it takes less than that."""
WHOLE_EVENT = 4 * 2**20
"""Characters of an event in an array that has others which are not valid."""
MAX_REJECTED = 1000
"""Most rejected events of a request that are explained; the rest of the request is then ignored."""
NOT_CHECKED = "not checked: "
"""How the detail of the first event begins that was not looked at, after `MAX_REJECTED` others."""
MAX_COMPARED = 1000
"""Longest label, in characters, and longest prediction, as JSON, with which it is compared: thousands of both are in
memory at once."""

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

    ``inputs`` stays undecoded JSON: only the aggregator needs its values, and the store saves the text. With
    ``shadow``, no user saw the answer: it is only compared with the one that the user saw. ``alias`` is what others
    call the prediction.
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
    shadow: bool = False
    alias: Annotated[str, msgspec.Meta(max_length=MAX_ID)] | None = None


Verdict = Literal["accepted", "corrected", "rejected"]
"""What a user says of a prediction: it is right, it is wrong and what would be right, or it is wrong."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Feedback(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A user's feedback on a prediction.

    Unknown members are ignored, unless they resemble a known one: a misspelt label must not be lost.
    """

    prediction_id: _Id | None = None
    model: _Name | None = None
    version: _Version | None = None
    verdict: Verdict | None = None
    label: Label = None
    prediction: Label = None
    inputs: msgspec.Raw = msgspec.Raw()
    user: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    comment: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    time: _Time | None = None


class LabelEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The true label of a prediction, known later.

    Unknown members are ignored, unless they resemble a known one.
    """

    prediction_id: _Id
    label: Annotated[str, msgspec.Meta(max_length=MAX_COMPARED)] | int | float | bool | None = None
    model: _Name | None = None
    time: _Time | None = None


class BusinessEvent(msgspec.Struct, gc=False):
    """One occurrence of a declared business event, or several."""

    event: _Name
    model: _Name
    version: _Version | None = None
    value: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 1.0


class LabelledPrediction(NamedTuple):
    """A prediction whose label is known now, or another one than before.

    Attributes
    ----------
    model, version
        Of the prediction.
    predicted
        The prediction's Unix time.
    prediction, confidence, segment
        As they were logged.
    label
        The label.
    replaced
        The label that counted before; None without one.
    delay
        Seconds from the prediction to the label.
    first_received
        Unix time at which the prediction's first label arrived; minus infinity in a shared database, where another
        exporter may have counted it.
    """

    model: str
    version: str
    predicted: float
    prediction: Any
    confidence: float | None
    segment: str | None
    label: Any
    replaced: Any | None
    delay: float
    first_received: float = -math.inf


_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")  # the last two end lines in some viewers of logs


class RejectedEvent(msgspec.Struct, gc=False):
    """An event that was rejected, by its index in the request."""

    index: int
    pointer: str
    detail: str
    reason: str

    @classmethod
    def of(cls, error: EventError, index: int = 0) -> RejectedEvent:
        """Return the event that an error refuses."""
        return cls(index, error.pointer, error.detail, error.reason)


def check_names(events: Sequence[msgspec.Struct], names: Sequence[str] = ("id", "version", "alias")) -> None:
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
    for name in names:
        for value in map(attrgetter(name), events):
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
        time: datetime | None = getattr(event, "time", None)
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


def check_predictions(models: Collection[str], events: Sequence[Prediction]) -> None:
    """Raise an error for a model that is not in the configuration, or for a shadow answer without an identifier.

    Raises
    ------
    EventError
        At the first one.
    """
    for model in {event.model for event in events}.difference(models):
        check_model(models, model)
    if any(event.shadow and not event.id for event in events):
        detail = "is required with shadow: the identifier of the prediction that the user saw"
        raise EventError("/id", detail, "missing_field")


def check_size(text: bytes, pointer: str = "") -> None:
    """Refuse JSON that takes too much memory decoded, by the number of its arrays, objects, values and strings.

    Raises
    ------
    EventError
        When it may take more than `MAX_DECODED`.
    """
    size = 80 * (text.count(b"[") + text.count(b"{")) + 32 * text.count(b",") + 25 * text.count(b'"')
    if size > MAX_DECODED:
        detail = f"takes about {size >> 20} MiB of memory decoded, {MAX_DECODED >> 20} MiB are the most"
        detail = detail if pointer else f"the JSON {detail}"
        raise EventError(pointer, detail, "too_large")


def make_id() -> str:
    """Return a unique identifier; later ones are greater."""
    return f"{time.time_ns() // 1_000_000:011x}-{_process}-{next(_serial):08x}"


MAX_AHEAD = timedelta(minutes=5)
"""How far the time of a label or a prediction may be ahead of the exporter's clock: clocks differ."""
MAX_TIME_OFF = timedelta(days=1)
"""Age of a prediction above which its time or the exporter's clock is probably wrong."""
_MEANT = {
    "data": "inputs",
    "duration": "duration_seconds",
    "features": "inputs",
    "instances": "inputs",
    "latency": "duration_seconds",
    "output": "prediction",
    "prediction_id": "id",
    "probability": "confidence",
    "request_id": "id",
    "score": "confidence",
    "status": "code",
    "status_code": "code",
    "timestamp": "time",
}
"""Members of a prediction by other names that they have elsewhere."""


@functools.lru_cache(1000)
def describe_member(name: str) -> tuple[str, bool]:
    """Describe an unknown member of a prediction; return also whether another one was probably meant.

    >>> describe_member("confidance")
    ('is not known and is ignored; did you mean "confidence"?', True)
    """
    meant = _MEANT.get(name.lower()) or closest(name, Prediction.__struct_fields__, 0.75)
    return f"is not known and is ignored{f'; did you mean {preview(meant)}?' if meant else ''}", bool(meant)


def time_off(events: Sequence[Prediction]) -> str | None:
    """Return what is wrong with the time of the first or the last event if it is far from the exporter's clock."""
    for event in (events[0], events[-1]):
        if event.time is not None:
            distance = datetime.now(UTC) - event.time
            if not -MAX_AHEAD <= distance <= MAX_TIME_OFF:
                side = "before" if distance > timedelta() else "after"
                off = abs(distance)
                days = f"{off.days} day{'s' if off.days > 1 else ''}" if off.days else f"{off.seconds // 60} minutes"
                question = "are the client's clock and time zone right?"
                when = f"{days} {side} the exporter's clock"
                return f"a prediction of {preview(event.model)} has a time {when}; {question}"
    return None


def check_feedback(models: Mapping[str, ModelConfig], items: Sequence[Feedback]) -> None:
    """Check feedback and set its verdict where the labels determine it.

    Raises
    ------
    EventError
        At the first feedback object with an unknown model or without a required member.
    """
    for feedback in items:
        if feedback.model is not None:
            check_model(models, feedback.model)
        if feedback.prediction_id is None:
            _check_without_prediction(feedback)
        if feedback.verdict is None:
            raise EventError("/verdict", "is required: accepted, corrected or rejected", "missing_field")
        if feedback.verdict == "corrected" and feedback.label is None:
            detail = "is required with the verdict corrected: send the correct label, or the verdict rejected"
            raise EventError("/label", detail, "missing_field")


def _check_without_prediction(feedback: Feedback) -> None:
    if feedback.model is None:
        raise EventError("/prediction_id", "is required, unless a model and a label are given", "missing_field")
    required = "prediction" if feedback.verdict == "rejected" else "label"
    if getattr(feedback, required) is None:
        raise EventError(f"/{required}", "is required without a prediction_id", "missing_field")
    if feedback.verdict is None:
        feedback.verdict = "corrected"  # unless it is the prediction itself, see `effective_verdict`


def check_labels(models: Mapping[str, ModelConfig], items: Sequence[LabelEvent]) -> None:
    """Check that labels have a value, a time that is not in the future, and no model that is not configured.

    Raises
    ------
    EventError
        At the first one that is not valid.
    """
    latest = datetime.now(UTC) + MAX_AHEAD
    for item in items:
        if item.model is not None:
            check_model(models, item.model)
        if item.label is None:
            raise EventError("/label", "is required: a string, a number or a boolean", "missing_field")
        if item.time is not None and item.time > latest:
            given = item.time.isoformat()
            detail = f"expected a time that is not in the future, got {given}; is the client's clock right?"
            raise EventError("/time", detail, "out_of_range")


def check_business_events(models: Mapping[str, ModelConfig], events: Sequence[BusinessEvent]) -> None:
    """Check that the models and their events are configured.

    Raises
    ------
    EventError
        At the first event that is not.
    """
    for event in events:
        check_model(models, event.model)
        declared = models[event.model].events
        if event.event not in declared:
            hint = suggestion(event.event, declared)
            detail = f"{preview(event.event)} is not among the model's events in the configuration; {hint}"
            raise EventError("/event", detail, "unknown_event")


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
        self._names = [name for name in ("id", "prediction_id", "version", "alias") if name in kind.__struct_fields__]
        strict = kind.__struct_config__.forbid_unknown_fields
        self._similar = {form: name for name in kind.__struct_fields__ for form in _spellings(name)} if strict else {}
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
            When the body starts like an array, but is not JSON, or has no event or more than `MAX_OBJECTS`. A single
            object that is not JSON is a rejected event.
        """
        if len(body) > LARGE_EVENT and body.count(b"{") > MAX_OBJECTS:
            raise EventError("", f"the body has more than {MAX_OBJECTS:,} objects", "too_large")
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
        if not events:
            raise EventError("", NO_EVENTS, "malformed")
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
                if len(view) > LARGE_EVENT:
                    check_size(bytes(view), "/inputs")
        check_names(events, self._names)
        check_times(events)
        self._check(events)

    def _decode_one_by_one(self, body: bytes, lines: bool) -> Decoded[_Event]:
        good: list[_Event] = []
        rejected: list[RejectedEvent] = []
        unknown: str | None = None
        parts = (line for line in io.BytesIO(body) if line.strip()) if lines else _items(body)
        for index, part in enumerate(parts):
            if len(rejected) == MAX_REJECTED:
                detail = f"{NOT_CHECKED}{MAX_REJECTED} events before it were rejected"
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
            check_size(text)
            document = _lenient(text)
        label = document.get("label") if self._has_label and isinstance(document, dict) else None
        if isinstance(label, float) and math.isinf(label):  # as a string, it would count as a class
            detail = "expected a finite number, a string or a boolean, got an infinite number"
            raise EventError("/label", detail, "out_of_range")
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


def _items(body: bytes) -> Iterator[bytes]:
    """Yield the elements of an array, or the only document, one at a time: a hostile body takes no more memory.

    Raises
    ------
    EventError
        When the array is not JSON, or an element has more than `WHOLE_EVENT` characters.
    """
    text = body.decode("utf-8", "replace").strip()
    if text[:1] != "[":
        yield text.encode()
        return
    position = _skip_space(text, 1)
    more = text[position : position + 1] != "]"
    head = text[:WHOLE_EVENT]
    while more:
        try:
            _, end = _SCANNER.raw_decode(head, position)
        except (ValueError, RecursionError) as error:
            if len(head) == len(text):
                raise _malformed(error) from None
            if len(head) == position + WHOLE_EVENT:
                detail = f"the event at character {position} has more than {WHOLE_EVENT:,} characters, or is not JSON"
                raise EventError("", detail, "too_large") from None
            head = text[: position + WHOLE_EVENT]
            continue
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
