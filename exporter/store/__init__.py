"""The only SQL: predictions and users' feedback, on disk."""

from exporter.store.database import Store, Verdict, Word
from exporter.store.schema import InputsPolicy, prediction_rows

__all__ = ["InputsPolicy", "Store", "Verdict", "Word", "prediction_rows"]
