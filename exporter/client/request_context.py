"""The request that a service answers at this moment: its identifier, its duration, and what was recorded in it."""

from __future__ import annotations

import os
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from exporter.client.encoding import encoded, rfc3339, share, single
from exporter.client.ids import time_ordered

if TYPE_CHECKING:
    from exporter.client.sender import Sender

HELD = 1000
"""Events that wait for the end of their request; what is recorded in it beyond that leaves without its duration."""
_ID = re.compile(r"[!-~]{1,128}")

current: ContextVar[RequestContext | None] = ContextVar("model_exporter_call", default=None)


Event = tuple[int, str, int | str, Any, Any, Any, float | None, int | None]
"""Bytes it takes, id, time, inputs, prediction, confidence, duration, code; plain, for it is made often."""
EVENT_BYTES = 256
"""About what an event takes beside its inputs."""


def document(event: Event, model: str, version: str | None) -> bytes:
    """An event as the exporter takes it."""
    _, name, moment, inputs, prediction, confidence, seconds, code = event
    return encoded(
        {
            "id": name,
            "model": model,
            "version": version,
            "time": moment if isinstance(moment, str) else rfc3339(moment // 1000 / 1e6),
            "inputs": inputs,
            "prediction": single(prediction),
            "confidence": share(confidence),
            "duration_seconds": seconds,
            "code": 200 if code is None else code,
        }
    )


class RequestContext:
    """One request under way.

    Parameters
    ----------
    sender
        Takes the event of a request in which nothing was recorded.
    given
        The identifier that the request came with, if any; what is none that the exporter takes is not used.
    """

    def __init__(self, sender: Sender, given: str | None = None) -> None:
        self._sender = sender
        self._held: list[tuple[Sender, Event]] = []
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._time = time.time_ns()
        self.id = given if given and _ID.fullmatch(given) else time_ordered(self._time)
        self.code: int | None = None
        self.done = False

    @property
    def recorded(self) -> int:
        """How many events were recorded in the request."""
        return len(self._held)

    def hold(self, sender: Sender, event: Event) -> None:
        """Keep an event until it is known how the request ended."""
        if not self._held:
            self.id = event[1]
        if len(self._held) < HELD:
            self._held.append((sender, event))
        else:
            sender.put(event)

    def end(self) -> None:
        """The last byte has been answered."""
        self._ended = self._ended or time.perf_counter()

    @property
    def ended(self) -> bool:
        """Whether the last byte has been answered."""
        return self._ended is not None

    def finish(self) -> None:
        """Hand on what was recorded, complete with the request's duration and code; or the request alone."""
        if self.done:
            return
        self.done = True
        self.end()
        seconds = (self._ended or 0.0) - self._started
        code = 200 if self.code is None else self.code
        if not self._held:
            self._sender.put((EVENT_BYTES, self.id, self._time, None, None, None, seconds, code))
        for sender, (*values, took, said) in self._held:
            event = (*values, seconds if took is None else took, code if said is None else said)
            sender.put(event)
        self._held.clear()


def _leave() -> None:
    """A forked process answers no request of its parent's."""
    if (call := current.get()) is not None:
        call.done = True
        current.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)
