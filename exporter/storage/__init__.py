"""The only SQL: predictions, their labels, users' feedback, its review and the datasets released from it, on disk."""

from exporter.storage.feedback import FeedbackResult
from exporter.storage.feedback_join import CountedFeedback
from exporter.storage.labels import LabelsResult
from exporter.storage.prediction_rows import InputsPolicy, prediction_rows
from exporter.storage.store import COMMIT_TIMEOUT_SECONDS, Store, commit_timeout

__all__ = [
    "COMMIT_TIMEOUT_SECONDS",
    "CountedFeedback",
    "FeedbackResult",
    "InputsPolicy",
    "LabelsResult",
    "Store",
    "commit_timeout",
    "prediction_rows",
]
