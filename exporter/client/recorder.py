"""The interface of `Monitor` that decorators and wrapped models use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from exporter.client.sender import Sender


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
