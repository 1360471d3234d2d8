"""Check decoded events against the configured models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.events import BusinessEvent, Feedback, check_model
from exporter.validation import preview, suggestion


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
