"""Check decoded events against the configured models."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.validation import preview, suggestion
from exporter.wire.events import MAX_ID, BusinessEvent, Feedback, Prediction, check_model

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
            raise EventError("/verdict", "is required: accepted or corrected", "missing_field")
        if feedback.verdict == "corrected" and feedback.label is None:
            raise EventError(
                "/label", "is required with the verdict corrected: send the correct label", "missing_field"
            )


def _check_without_prediction(feedback: Feedback) -> None:
    if feedback.model is None:
        raise EventError("/prediction_id", "is required, unless a model and a label are given", "missing_field")
    if feedback.label is None:
        raise EventError("/label", "is required without a prediction_id", "missing_field")
    if feedback.verdict is None:
        feedback.verdict = "corrected"  # unless it is the prediction itself, see `effective_verdict`


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
