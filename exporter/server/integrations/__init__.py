"""Payload formats of other servers: bytes in, predictions out. One module per format; no HTTP, no state."""

from exporter.server.integrations.mapping import PayloadPair, resolve_model, to_predictions
from exporter.server.integrations.outputs import ConfiguredModel

__all__ = ["ConfiguredModel", "PayloadPair", "resolve_model", "to_predictions"]
