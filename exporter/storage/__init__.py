"""The only SQL: predictions, users' feedback, its review and the datasets released from it, on disk."""

from exporter.storage.feedback import CountedFeedback, FeedbackResult
from exporter.storage.prediction_rows import InputsPolicy, prediction_rows
from exporter.storage.store import Store

__all__ = ["CountedFeedback", "FeedbackResult", "InputsPolicy", "Store", "prediction_rows"]
