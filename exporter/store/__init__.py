"""The only SQL: predictions, users' feedback, its review and the datasets released from it, on disk."""

from exporter.store.database import Store
from exporter.store.rows import InputsPolicy, prediction_rows
from exporter.store.words import Verdict, Word

__all__ = ["InputsPolicy", "Store", "Verdict", "Word", "prediction_rows"]
