"""Payload formats of other servers: bytes in, predictions out. One module per format; no HTTP, no state."""

from exporter.server.integrations.mapping import ModelNames, PayloadPair, to_predictions
from exporter.server.integrations.outputs import ConfiguredModel

__all__ = ["ConfiguredModel", "ModelNames", "PayloadPair", "to_predictions"]
