"""The history of a correction, in pages: a client may change its feedback any number of times."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage._schema import decisions, decode_label, feedback, history, rfc3339

PAGE_CHARACTERS = 4 * 2**20
"""Characters of labels and comments after which a page ends."""
ROWS = 16
"""Rows that the driver fetches at a time."""
LATEST = 2**31 - 1
"""The position after the current feedback, which has no number in the history."""


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
        How many events at most; fewer if their texts are long, see `PAGE_CHARACTERS`.
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
        if len(events) == limit or (events and characters > PAGE_CHARACTERS):
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
        sa.literal(LATEST).label("number"), feedback.c.updated.label("time"), *(feedback.c[name] for name in given)
    ).where(feedback.c.id == correction_id, feedback.c.verdict != "sampled", sa.literal(after.feedback) < LATEST)
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
    with connection.execute(query.execution_options(yield_per=ROWS)) as result:
        for row in result.mappings():
            yield name, dict(row)
