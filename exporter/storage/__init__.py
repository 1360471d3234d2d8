"""The only SQL: predictions, users' feedback, its review and the datasets released from it, on disk."""

from exporter.storage.feedback import Verdict, Word
from exporter.storage.prediction_rows import InputsPolicy, prediction_rows
from exporter.storage.store import Store

__all__ = ["InputsPolicy", "Store", "Verdict", "Word", "prediction_rows"]
