"""Other servers' formats: bytes in, predictions out. One module a format; nothing here knows HTTP or state."""

from exporter.wire.answers import Known
from exporter.wire.mapping import Exchange, predictions, resolve

__all__ = ["Exchange", "Known", "predictions", "resolve"]
