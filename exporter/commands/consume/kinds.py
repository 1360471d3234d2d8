"""The kinds of messages that a topic may hold, and the exporter's route for each."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of message that a topic may hold.

    Attributes
    ----------
    route
        Where they are posted.
    batched
        Whether many messages, each one JSON object, are posted as one array. Otherwise each message is a request of
        its own, with its content type and the attributes of its CloudEvent.
    content_type
        Of the request, unless a message that is a request of its own has a header ``content-type``.
    """

    route: str
    batched: bool = True
    content_type: str = "application/json"


KINDS = {
    "predictions": Kind("/v1/predictions"),
    "feedback": Kind("/v1/feedback"),
    "labels": Kind("/v1/labels"),
    "events": Kind("/v1/events"),
    "kserve": Kind("/v1/kserve", batched=False),
    "logs": Kind("/v1/logs", batched=False, content_type="application/x-protobuf"),
    "traces": Kind("/v1/traces", batched=False, content_type="application/x-protobuf"),
}
"""The kinds of messages by name; logs and traces are those of OpenTelemetry."""
