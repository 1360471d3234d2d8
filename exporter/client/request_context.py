"""The request that a service is answering: its identifier, its duration, and the events recorded in it."""

from __future__ import annotations

import os
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from exporter.client.encoding import clamp_confidence, encode_document, rfc3339, time_ordered_id, unwrap_single

if TYPE_CHECKING:
    from exporter.client.sender import Sender


MAX_DEFERRED = 1000
"""Events that wait for the end of their request; further ones are sent without its duration."""
_ID = re.compile(r"[!-~]{1,128}")

current: ContextVar[RequestContext | None] = ContextVar("model_exporter_call", default=None)


Event = tuple[int, str, int | str, Any, Any, Any, float | None, int | None]
"""Size in bytes, id, time, inputs, prediction, confidence, duration, code. A tuple, as the fastest to create."""
EVENT_BYTES = 256
"""About the size of an event without its inputs."""


def encode_event(event: Event, model: str, version: str | None, shadow: bool = False) -> bytes:
    """Encode an event as the JSON that the exporter expects."""
    _, event_id, moment, inputs, prediction, confidence, seconds, code = event
    return encode_document(
        {
            "id": event_id,
            "model": model,
            "version": version,
            "time": moment if isinstance(moment, str) else rfc3339(moment // 1000 / 1e6),
            "inputs": inputs,
            "prediction": unwrap_single(prediction),
            "confidence": clamp_confidence(confidence),
            "duration_seconds": seconds,
            "code": 200 if code is None else code,
            **({"shadow": True} if shadow else {}),
        }
    )


class RequestContext:
    """A request that is being answered.

    Parameters
    ----------
    sender
        Sends the event of a request in which nothing was recorded.
    request_id
        The identifier in the request, if any; one that the exporter would refuse is not used.
    """

    def __init__(self, sender: Sender, request_id: str | None = None) -> None:
        self._sender = sender
        self._deferred: list[tuple[Sender, Event]] = []
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._time = time.time_ns()
        self.id = request_id if request_id and _ID.fullmatch(request_id) else time_ordered_id(self._time)
        self.code: int | None = None
        self.done = False

    @property
    def recorded(self) -> int:
        """The number of events recorded in the request."""
        return len(self._deferred)

    def defer(self, sender: Sender, event: Event) -> None:
        """Keep an event until the request ends: its duration and code are known then."""
        if not self._deferred:
            self.id = event[1]
        if len(self._deferred) < MAX_DEFERRED:
            self._deferred.append((sender, event))
        else:
            sender.add(event)

    def end(self) -> None:
        """Note that the last byte of the response was sent."""
        self._ended = self._ended or time.perf_counter()

    @property
    def ended(self) -> bool:
        """Whether the last byte of the response was sent."""
        return self._ended is not None

    def finish(self) -> None:
        """Send the recorded events with the request's duration and code; if there are none, an event of the request."""
        if self.done:
            return
        self.done = True
        self.end()
        seconds = (self._ended or 0.0) - self._started
        code = 200 if self.code is None else self.code
        if not self._deferred:
            self._sender.add((EVENT_BYTES, self.id, self._time, None, None, None, seconds, code))
        for sender, (*values, own_seconds, own_code) in self._deferred:
            event = (*values, seconds if own_seconds is None else own_seconds, code if own_code is None else own_code)
            sender.add(event)
        self._deferred.clear()


def _leave_parents_request() -> None:
    """End the context in a forked process, which does not answer its parent's request."""
    if (context := current.get()) is not None:
        context.done = True
        current.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents_request)


class EventRecorder(Protocol):
    """Records events, and sends them with its sender; `Monitor` is one."""

    sender: Sender

    def record(
        self,
        *,
        inputs: Any = None,
        prediction: Any = None,
        confidence: float | None = None,
        duration_seconds: float | None = None,
        code: int | None = None,
    ) -> str:
        """Record one request to the model; see `Monitor.record`."""
