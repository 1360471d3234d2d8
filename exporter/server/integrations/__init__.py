"""Other servers' formats: bytes in, predictions out. One module a format; nothing here knows HTTP or state."""

from exporter.server.integrations.mapping import PayloadPair, predictions, resolve
from exporter.server.integrations.outputs import Known

__all__ = ["Known", "PayloadPair", "predictions", "resolve"]
