"""What ``/metrics`` says: monitors read out as metric families, and rendered."""

from exporter.metrics.exposition import Exposition

__all__ = ["Exposition"]
