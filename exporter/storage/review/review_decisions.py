"""Decide corrections: of several reviewers of the same correction, the first decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from exporter.storage._engine import update_of_row
from exporter.storage._schema import decisions, feedback
from exporter.storage.review.correction_document import Redacted, correction_document
from exporter.storage.review.corrections import Filter, conditions
from exporter.storage.review.decision import Decision


def decide(
    connection: sa.Connection, correction_id: int, decision: Decision, redacted: Redacted
) -> tuple[bool, dict[str, Any] | None]:
    """Decide a correction, unless another reviewer was first.

    Parameters
    ----------
    connection
        In a transaction.
    correction_id
        The correction's identifier.
    decision
        The decision.
    redacted
        Inputs that are not shown; see `correction_document`.

    Returns
    -------
    tuple
        Whether the decision is stored, and the correction as it is now; None if there is none. A reviewer who repeats
        a decision, because the response to it was lost, learns that it is stored.
    """
    return decide_all(connection, [(correction_id, decision)], redacted)[0]


def decide_all(
    connection: sa.Connection, batch: Sequence[tuple[int, Decision]], redacted: Redacted
) -> list[tuple[bool, dict[str, Any] | None]]:
    """Decide corrections in order; see `decide`. Each is returned as it is after the last decision."""
    now = time.time()
    stored = [_store(connection, id_, decision, now) for id_, decision in batch]
    entries = [
        {"feedback_id": id_, "time": now, **decision._asdict(), "revision": decision.revision + 1}
        for (id_, decision), is_stored in zip(batch, stored, strict=True)
        if is_stored
    ]
    if entries:
        connection.execute(decisions.insert(), entries)
    stored = _with_repeats(connection, batch, stored)
    query = sa.select(feedback).where(feedback.c.id.in_({id_ for id_, _ in batch}), _in_review)
    documents = {row["id"]: correction_document(row, redacted) for row in connection.execute(query).mappings()}
    return [(is_stored, documents.get(id_)) for (id_, _), is_stored in zip(batch, stored, strict=True)]


def _with_repeats(
    connection: sa.Connection, batch: Sequence[tuple[int, Decision]], stored: Sequence[bool]
) -> list[bool]:
    """Return which decisions are stored: those that are, and those that repeat the latest one of the same reviewer."""
    late = {
        id_ for (id_, decision), is_stored in zip(batch, stored, strict=True) if decision.reviewer and not is_stored
    }
    if not late:
        return list(stored)
    query = sa.select(decisions).join(feedback, decisions.c.feedback_id == feedback.c.id)
    query = query.where(feedback.c.id.in_(late), decisions.c.revision == feedback.c.revision)
    latest = {row.feedback_id: row for row in connection.execute(query)}

    def is_repeat(decision: Decision, latest: sa.Row[Any] | None) -> bool:
        if latest is None or decision.reviewer is None:
            return False
        is_same = (latest.reviewer, latest.status, latest.label) == (decision.reviewer, decision.status, decision.label)
        return is_same and latest.revision == decision.revision + 1

    return [
        is_stored or is_repeat(decision, latest.get(id_))
        for (id_, decision), is_stored in zip(batch, stored, strict=True)
    ]


def count_decided(connection: sa.Connection, since: float, reviewer: str | None, model: str | None) -> int:
    """Return how many corrections were decided, those that are pending again not counted.

    Parameters
    ----------
    connection
        To read with.
    since
        Unix time in seconds of the first decision that counts.
    reviewer, model
        Whose decisions on what; None for those of all.
    """
    decided = sa.select(decisions.c.feedback_id).where(decisions.c.time >= since)
    if reviewer is not None:
        decided = decided.where(decisions.c.reviewer == reviewer)
    query = sa.select(sa.func.count()).where(feedback.c.id.in_(decided), feedback.c.status != "pending")
    if model is not None:
        query = query.where(feedback.c.model == model)
    return connection.execute(query).scalar() or 0


_in_review = sa.and_(*conditions(Filter(source="all")))
_update = update_of_row(feedback, ("status", "reviewer", "reviewed", "revision")).where(
    feedback.c.revision == sa.bindparam("seen_revision"), _in_review
)
_update_with_label = _update.values(reviewed_label=sa.bindparam("new_label"))


def _store(connection: sa.Connection, correction_id: int, decision: Decision, now: float) -> bool:
    """Store a decision, unless the correction has another revision than the reviewer saw; return whether it did."""
    values = {
        "row_id": correction_id,
        "seen_revision": decision.revision,
        "new_status": decision.status,
        "new_reviewer": decision.reviewer,
        "new_reviewed": now,
        "new_revision": decision.revision + 1,
    }
    if decision.label is None and decision.status != "pending":
        result = connection.execute(_update, values)
    else:
        result = connection.execute(_update_with_label, {**values, "new_label": decision.label})
    return bool(result.rowcount)
