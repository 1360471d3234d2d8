"""The only SQL: predictions, their labels, users' feedback, its review and the datasets released from it, on disk."""

from exporter.storage._archive import StoredPredictions, archive, shown_archive
from exporter.storage._database import check_store, shown_url
from exporter.storage._feedback import CountedFeedback, FeedbackResult
from exporter.storage._labels import MAX_MARKED
from exporter.storage._predictions import BinBlock, BlockFilter, InputsPolicy, RecordedBins, hash_ids
from exporter.storage._redaction import Forgotten, Redaction, open_redaction
from exporter.storage._releases import PublishResult, ReplicaLease
from exporter.storage._releases import Row as ReleaseRow
from exporter.storage._releases import Row as RetrainRow
from exporter.storage._review import (
    ADDED,
    BARS,
    ORDERS,
    PARAMETERS,
    SOURCES,
    STATUSES,
    WAITING_SECONDS,
    AccuracyCounts,
    Decision,
    Filter,
    LabelledRow,
    Mix,
    Outcome,
    PageStatistics,
    Position,
    ReviewState,
    Selection,
    Suspect,
)
from exporter.storage._sqlite import back_up, database_path, restore
from exporter.storage._store import COMMIT_TIMEOUT_SECONDS, Store, commit_timeout

__all__ = [
    "ADDED",
    "BARS",
    "COMMIT_TIMEOUT_SECONDS",
    "MAX_MARKED",
    "ORDERS",
    "PARAMETERS",
    "SOURCES",
    "STATUSES",
    "WAITING_SECONDS",
    "AccuracyCounts",
    "BinBlock",
    "BlockFilter",
    "CountedFeedback",
    "Decision",
    "FeedbackResult",
    "Filter",
    "Forgotten",
    "InputsPolicy",
    "LabelledRow",
    "Mix",
    "Outcome",
    "PageStatistics",
    "Position",
    "PublishResult",
    "RecordedBins",
    "Redaction",
    "ReleaseRow",
    "ReplicaLease",
    "RetrainRow",
    "ReviewState",
    "Selection",
    "Store",
    "StoredPredictions",
    "Suspect",
    "archive",
    "back_up",
    "check_store",
    "commit_timeout",
    "database_path",
    "hash_ids",
    "open_redaction",
    "restore",
    "shown_archive",
    "shown_url",
]
