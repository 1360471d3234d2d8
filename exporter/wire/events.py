"""The wire types of events, and the checks that their types cannot express."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.validation import preview, suggestion

_serial = itertools.count()
_process = os.urandom(5).hex()

MAX_ID, MAX_LABEL = 128, 100_000
"""Longest identifier, and longest prediction or label, in characters."""
NO_EVENTS = "the body has no events"
"""What is wrong with an empty array, and with NDJSON without a line."""
MAX_REJECTED = 1000
"""Most rejected events of a request that are explained; the rest of the request is then ignored."""
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
    ``shadow``, no user saw the answer: it is only compared with the one that the user saw.
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


def make_id() -> str:
    """Return a unique identifier; later ones are greater."""
    return f"{time.time_ns() // 1_000_000:011x}-{_process}-{next(_serial):08x}"


MAX_AHEAD = timedelta(minutes=5)
"""How far the time of a label may be ahead of the exporter's clock: clocks differ."""
MAX_TIME_OFF = timedelta(days=1)
"""Distance of a prediction's time from the exporter's clock above which one of the two is probably wrong."""
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


def describe_member(name: str) -> tuple[str, bool]:
    """Describe an unknown member of a prediction; return also whether another one was probably meant.

    >>> describe_member("confidance")
    ('is not known and is ignored; did you mean "confidence"?', True)
    """
    meant = _similar_member(name) if len(name) <= MAX_ID else None
    return f"is not known and is ignored{f'; did you mean {preview(meant)}?' if meant else ''}", bool(meant)


@functools.lru_cache(1000)
def _similar_member(name: str) -> str | None:
    close = difflib.get_close_matches(name, Prediction.__struct_fields__, n=1, cutoff=0.75)
    return _MEANT.get(name.lower()) or (close[0] if close else None)


def time_off(events: Sequence[Prediction]) -> str | None:
    """Return what is wrong with the time of the first or the last event if it is far from the exporter's clock."""
    for event in (events[0], events[-1]):
        if event.time is not None:
            distance = datetime.now(UTC) - event.time
            if abs(distance) > MAX_TIME_OFF:
                side = "before" if distance > timedelta() else "after"
                detail = f"{abs(distance).days} days {side} the exporter's clock"
                return f"a prediction of {preview(event.model)} has a time {detail}; is the client's clock right?"
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
            detail = (
                f"expected a time that is not in the future, got {item.time.isoformat()}; is the client's clock right?"
            )
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
