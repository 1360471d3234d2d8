"""The review queue: corrections listed, and decided by one reviewer at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.store.schema import decisions, feedback

STATUSES = ("accepted", "pending", "rejected")
"""What a correction can be: accepted corrections become training data."""


class Filter(NamedTuple):
    """Which corrections; None does not filter."""

    model: str | None = None
    version: str | None = None
    status: str | None = None


def corrections(
    connection: sa.Connection, chosen: Filter, limit: int, after: tuple[float, int] | None
) -> tuple[list[dict[str, Any]], tuple[float, int] | None]:
    """A page of corrections, the newest first.

    Parameters
    ----------
    connection
        To read with.
    chosen
        Which.
    limit
        How many at most.
    after
        Where the page before ended.

    Returns
    -------
    tuple
        The corrections as JSON documents, and where this page ended; None when it was the last.
    """
    query = sa.select(feedback).where(*conditions(chosen))
    if after:
        created, place = after
        earlier = (feedback.c.created < created) | ((feedback.c.created == created) & (feedback.c.id < place))
        query = query.where(earlier)
    query = query.order_by(feedback.c.created.desc(), feedback.c.id.desc()).limit(limit + 1)
    rows = connection.execute(query).mappings().all()
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    return [document(row) for row in rows[:limit]], (last["created"], last["id"]) if last else None


def conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """The filter as SQL: current words that correct a known model's prediction."""
    found: list[sa.ColumnElement[bool]] = [feedback.c.verdict == "corrected", feedback.c.joined]
    if chosen.model is not None:
        found.append(feedback.c.model == chosen.model)
    if chosen.version is not None:
        found.append(feedback.c.version == chosen.version)
    if chosen.status is not None:
        found.append(feedback.c.status == chosen.status)
    return found


def document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A correction as its JSON document; ``label`` is the reviewer's where there is one."""
    label = row["label"] if row["reviewed_label"] is None else row["reviewed_label"]
    return {
        "id": str(row["id"]),
        "prediction_id": row["prediction_id"],
        "model": row["model"],
        "version": row["version"],
        "inputs": msgspec.Raw(row["inputs"].encode()) if row["inputs"] else None,
        "prediction": decoded(row["prediction"]),
        "confidence": row["confidence"],
        "predicted": moment(row["predicted"]),
        "label": decoded(label),
        "user_label": decoded(row["label"]),
        "user": row["user"],
        "comment": row["comment"],
        "created": moment(row["created"]),
        "status": row["status"],
        "reviewer": row["reviewer"],
        "reviewed": moment(row["reviewed"]),
        "revision": row["revision"],
    }


def decoded(text: str | None) -> Any:
    """A stored label or prediction as a value."""
    return None if text is None else msgspec.json.decode(text)


def moment(seconds: float | None) -> str | None:
    """Unix time as RFC 3339."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class Decision(NamedTuple):
    """What a reviewer decides; ``label`` is the stored spelling, None keeps what it was."""

    status: str
    label: str | None
    revision: int
    reviewer: str | None


def decide(connection: sa.Connection, place: int, decision: Decision) -> tuple[bool, dict[str, Any] | None]:
    """Decide a correction, unless another reviewer was first.

    Parameters
    ----------
    connection
        In a transaction.
    place
        The correction's identifier.
    decision
        What, and on which revision.

    Returns
    -------
    tuple
        Whether the decision took, and the correction as it stands now; None when there is none.
    """
    now = time.time()
    values: dict[str, Any] = {
        "status": decision.status,
        "reviewer": decision.reviewer,
        "reviewed": now,
        "revision": decision.revision + 1,
    }
    if decision.label is not None:
        values["reviewed_label"] = decision.label
    mine = (feedback.c.id == place) & (feedback.c.revision == decision.revision) & (feedback.c.verdict == "corrected")
    taken = connection.execute(feedback.update().where(mine).values(values)).rowcount == 1
    if taken:
        connection.execute(
            decisions.insert().values(
                feedback_id=place,
                time=now,
                reviewer=decision.reviewer,
                status=decision.status,
                label=decision.label,
                revision=decision.revision + 1,
            )
        )
    query = sa.select(feedback).where(feedback.c.id == place, *conditions(Filter()))
    row = connection.execute(query).mappings().first()
    return taken, None if row is None else document(row)
