"""Training data in batches: files of any size, and production from the store.

A source is read several times, from the start each time, and never holds more than a batch.
"""

from exporter.profiles.readers.base import Batch, Source
from exporter.profiles.readers.files import FileSource
from exporter.profiles.readers.store import CONFIDENCE, PREDICTION, TIME, StoreSource

__all__ = ["CONFIDENCE", "PREDICTION", "TIME", "Batch", "FileSource", "Source", "StoreSource"]
