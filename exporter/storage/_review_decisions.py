"""Decide corrections, of several reviewers of the same correction the first; and read the history of a correction."""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.features.base import decode_label
from exporter.storage._engine import update_of_row
from exporter.storage._review_queue import Filter, Redacted, conditions, correction_document, label_column
from exporter.storage._schema import decisions, feedback, history
from exporter.validation import rfc3339


class Decision(NamedTuple):
    """A reviewer's decision.

    Attributes
    ----------
    status
        One of `STATUSES`.
    label
        The reviewer's label as stored JSON; None keeps the label. The label of a correction that becomes pending again
        is the user's.
    revision
        The revision that the reviewer saw.
    """

    status: str
    label: str | None
    revision: int
    reviewer: str | None


class Outcome(NamedTuple):
    """Whether a decision is stored, and the correction as it is now; None if there is none."""

    stored: bool
    correction: dict[str, Any] | None

    def lacks_label(self, decision: Decision) -> bool:
        """Return whether a decision was not stored because it would accept a correction without a label."""
        seen = self.correction or {"revision": None}
        return not self.stored and decision.status == "accepted" and seen["revision"] == decision.revision


def decide(connection: sa.Connection, batch: Sequence[tuple[int, Decision]], redacted: Redacted) -> list[Outcome]:
    """Decide corrections in order, unless another reviewer was first.

    A reviewer who repeats the latest decision, because the response to it was lost, learns that it is stored.

    Parameters
    ----------
    connection
        In a transaction.
    batch
        Identifiers of corrections, each with the decision.
    redacted
        Inputs that are not shown.

    Returns
    -------
    list of Outcome
        Of each decision; corrections are as they are after the last one.
    """
    now = time.time()
    stored = [_store(connection, id_, decision, now) for id_, decision in batch]
    entries = [
        {"feedback_id": id_, "time": now, **decision._asdict(), "revision": decision.revision + 1}
        for (id_, decision), is_stored in zip(batch, stored, strict=True)
        if is_stored
    ]
    if entries:
        connection.execute(decisions.insert(), entries)
    query = sa.select(feedback).where(feedback.c.id.in_({id_ for id_, _ in batch}), _in_review)
    documents = {row["id"]: correction_document(row, redacted) for row in connection.execute(query).mappings()}
    late = {id_ for (id_, _), is_stored in zip(batch, stored, strict=True) if not is_stored}
    latest = _latest_decisions(connection, late)
    return [
        Outcome(
            is_stored or (decision.reviewer is not None and latest.get(id_) == decision),
            documents.get(id_),
        )
        for (id_, decision), is_stored in zip(batch, stored, strict=True)
    ]


def _latest_decisions(connection: sa.Connection, ids: Collection[int]) -> dict[int, Decision]:
    """Return the decision that made the current revision of each correction, where one did."""
    if not ids:
        return {}
    query = sa.select(decisions).join(feedback, decisions.c.feedback_id == feedback.c.id)
    query = query.where(feedback.c.id.in_(ids), decisions.c.revision == feedback.c.revision)
    return {
        row.feedback_id: Decision(row.status, row.label, row.revision - 1, row.reviewer)
        for row in connection.execute(query)
    }


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
_update_labelled = _update.where(label_column.is_not(None))
_update_with_label = _update.values(reviewed_label=sa.bindparam("new_label"))


def _store(connection: sa.Connection, correction_id: int, decision: Decision, now: float) -> bool:
    """Store a decision, and return whether it did.

    It does not where the correction has another revision than the reviewer saw, or would be accepted without a label.
    """
    values = {
        "row_id": correction_id,
        "seen_revision": decision.revision,
        "new_status": decision.status,
        "new_reviewer": decision.reviewer,
        "new_reviewed": now,
        "new_revision": decision.revision + 1,
    }
    if decision.label is None and decision.status != "pending":
        result = connection.execute(_update_labelled if decision.status == "accepted" else _update, values)
    else:
        result = connection.execute(_update_with_label, {**values, "new_label": decision.label})
    return bool(result.rowcount)


HISTORY_CHARACTERS = 4 * 2**20
"""Characters of labels and comments after which a page ends."""
_ROWS = 16  # that the driver fetches at a time
_LATEST = 2**31 - 1  # the position after the current feedback, which has no number in the history


class HistoryPosition(NamedTuple):
    """Where a page ended: the numbers of the last earlier feedback and of the last decision."""

    feedback: int = 0
    decision: int = 0


START = HistoryPosition()


def correction_history(
    connection: sa.Connection, correction_id: int, limit: int = 100, after: HistoryPosition = START
) -> tuple[list[dict[str, Any]], HistoryPosition | None]:
    """Return a page of the events of a correction, the earliest first.

    Users' feedback has ``verdict``, ``label``, ``user`` and ``comment``; a sample for review has the verdict
    ``sampled``, and its user is the reviewer who drew it. Decisions have ``status``, ``label``, ``reviewer`` and
    ``revision``. All have ``time``.

    Parameters
    ----------
    connection
        To read with.
    correction_id
        The correction.
    limit
        How many events at most; fewer if their texts are long, see `HISTORY_CHARACTERS`.
    after
        Where the previous page ended.

    Returns
    -------
    tuple
        The events, and where this page ended; None if it was the last.
    """
    streams = (
        _read(connection, query.limit(limit + 1), name) for name, query in _queries(correction_id, after).items()
    )
    events: list[dict[str, Any]] = []
    characters, position = 0, after
    for name, row in heapq.merge(*streams, key=lambda item: item[1]["time"]):
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(events) == limit or (events and characters > HISTORY_CHARACTERS):
            return events, position
        position = position._replace(**{name: row.pop("number")})
        events.append({**row, "time": rfc3339(row["time"]), "label": decode_label(row["label"])})
    return events, None


def _queries(correction_id: int, after: HistoryPosition) -> dict[str, sa.Select[Any]]:
    """Build the queries of users' feedback and of decisions, each in its order."""
    given = ("verdict", "label", "user", "comment")
    earlier = sa.select(history.c.id.label("number"), history.c.time, *(history.c[name] for name in given)).where(
        history.c.feedback_id == correction_id, history.c.id > after.feedback
    )
    latest = sa.select(
        sa.literal(_LATEST).label("number"), feedback.c.updated.label("time"), *(feedback.c[name] for name in given)
    ).where(feedback.c.id == correction_id, feedback.c.verdict != "sampled", sa.literal(after.feedback) < _LATEST)
    columns = ("time", "status", "label", "reviewer", "revision")
    decided = sa.select(decisions.c.id.label("number"), *(decisions.c[name] for name in columns)).where(
        decisions.c.feedback_id == correction_id, decisions.c.id > after.decision
    )
    all_feedback = sa.union_all(earlier, latest).subquery()
    return {
        "feedback": sa.select(all_feedback).order_by(all_feedback.c.number),
        "decision": decided.order_by(decisions.c.id),
    }


def _read(connection: sa.Connection, query: sa.Select[Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with connection.execute(query.execution_options(yield_per=_ROWS)) as result:
        for row in result.mappings():
            yield name, dict(row)
