"""The only SQL: predictions, their labels, users' feedback, its review and the datasets released from it, on disk."""

from exporter.storage._archive import Archive, Archived, ArchiveFilter, HasDrift, archive
from exporter.storage._bins import PAIRED, BinBlock, BlockFilter, Codes, RecordedBins, hash_ids
from exporter.storage._feedback import CountedFeedback, FeedbackResult
from exporter.storage._labels import MAX_MARKED, LabelsResult, LabelSums
from exporter.storage._predictions import InputsPolicy
from exporter.storage._schema import decode_label, label_json, rfc3339
from exporter.storage._store import COMMIT_TIMEOUT_SECONDS, Store, commit_timeout

__all__ = [
    "COMMIT_TIMEOUT_SECONDS",
    "MAX_MARKED",
    "PAIRED",
    "Archive",
    "ArchiveFilter",
    "Archived",
    "BinBlock",
    "BlockFilter",
    "Codes",
    "CountedFeedback",
    "FeedbackResult",
    "HasDrift",
    "InputsPolicy",
    "LabelSums",
    "LabelsResult",
    "RecordedBins",
    "Store",
    "archive",
    "commit_timeout",
    "decode_label",
    "hash_ids",
    "label_json",
    "rfc3339",
]
