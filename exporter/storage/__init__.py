"""The only SQL: predictions, their labels, users' feedback, its review and the datasets released from it, on disk."""

from exporter.storage._feedback import CountedFeedback, FeedbackResult
from exporter.storage._labels import LabelsResult
from exporter.storage._predictions import InputsPolicy
from exporter.storage._store import COMMIT_TIMEOUT_SECONDS, Store, commit_timeout

__all__ = [
    "COMMIT_TIMEOUT_SECONDS",
    "CountedFeedback",
    "FeedbackResult",
    "InputsPolicy",
    "LabelsResult",
    "Store",
    "commit_timeout",
]
