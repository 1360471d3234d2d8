"""Join waiting feedback and labels with predictions as these arrive, and report what was joined after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from exporter.storage.feedback_join import CountedFeedback, UnjoinedFeedback
from exporter.storage.labels import LabelCounts, WaitingLabels
from exporter.storage.prediction_rows import Rows

Joined = tuple[set[str], set[str]]
"""Identifiers of predictions for which no feedback waits any more, and of those for which no label does."""


class Counts(NamedTuple):
    """Counts that apply when a transaction is committed; each attempt has its own, so that nothing counts twice."""

    feedback: list[CountedFeedback]
    labels: LabelCounts

    @classmethod
    def empty(cls) -> Counts:
        """Return one without anything."""
        return cls([], LabelCounts([], []))


class Joins(NamedTuple):
    """Feedback and labels that came before their prediction; used by the writer's thread alone."""

    feedback: UnjoinedFeedback
    labels: WaitingLabels

    def join(self, connection: sa.Connection, group: Sequence[Rows], counts: Counts) -> Joined:
        """Join waiting feedback and labels in the transaction that writes these predictions; extend ``counts``."""
        feedback = self.feedback.join(connection, group, counts.feedback)
        return feedback, self.labels.join(connection, group, counts.labels)

    def forget(self, joined: Joined) -> None:
        """Forget identifiers once their join is committed."""
        self.feedback.ids.forget(joined[0])
        self.labels.ids.forget(joined[1])
