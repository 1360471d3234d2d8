"""The review queue: corrections listed, and decided by one reviewer at a time."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.features.png_codec import DENSEST, PREFIX, unpack_json
from exporter.storage.schema import decisions, feedback, history, spelling, sureness

STATUSES = ("accepted", "pending", "rejected")
"""What a correction can be: accepted corrections become training data."""
ORDERS = ("confident", "newest")
"""The most confident mistake first, or the latest."""
VERDICTS = {"user": ("corrected",), "sample": ("sampled",), "all": ("corrected", "sampled")}
"""What is reviewed, by its source: users' corrections, and predictions drawn without any word of a user."""

PAGE_CHARACTERS = 16 * 2**20
"""Of inputs in one page: where they are larger, it ends early, so that large inputs cannot fill the memory."""

Position = tuple[float, int]
"""Where a page ended: what it is ordered by, and the identifier."""
label_column = sa.func.coalesce(feedback.c.reviewed_label, feedback.c.label)
"""The label that counts: the reviewer's where there is one."""


class Filter(NamedTuple):
    """Which corrections; None does not filter.

    Attributes
    ----------
    label, predicted
        The label that counts, and the prediction, as the JSON that is stored.
    source
        A key of `VERDICTS`.
    since, until
        Unix time in seconds of the user's first word; until is not part of the period.
    confidence_from, confidence_to
        Both are part of the range.
    q
        Text within comment, user, prediction's identifier or inputs, whatever its case.
    """

    model: str | None = None
    version: str | None = None
    status: str | None = None
    label: str | None = None
    predicted: str | None = None
    segment: str | None = None
    source: str = "user"
    since: float | None = None
    until: float | None = None
    confidence_from: float | None = None
    confidence_to: float | None = None
    q: str | None = None


def corrections(
    connection: sa.Connection, chosen: Filter, limit: int, after: Position | None, order: str = "newest"
) -> tuple[list[dict[str, Any]], Position | None]:
    """A page of corrections.

    Parameters
    ----------
    connection
        To read with.
    chosen
        Which.
    limit
        How many at most; fewer where their inputs are large, see `PAGE_CHARACTERS`.
    after
        Where the page before ended, in the same order.
    order
        One of `ORDERS`; those without a confidence are the least confident.

    Returns
    -------
    tuple
        The corrections as JSON documents, and where this page ended; None when it was the last.
    """
    key = sureness if order == "confident" else feedback.c.created
    before: list[sa.ColumnElement[bool]] = []
    if after:
        value, place = after
        before = [key <= value, (key < value) | (feedback.c.id < place)]
    # Identifiers first: inputs may be large, and only a page's are read. In the index each status is by itself.
    parts = [
        sa.select(feedback.c.id, key.label("key"))
        .where(*conditions(chosen._replace(source=source, status=status)), *before)
        .order_by(key.desc(), feedback.c.id.desc())
        .limit(limit + 1)
        for source in (("user", "sample") if chosen.source == "all" else (chosen.source,))
        for status in (STATUSES if chosen.status is None else (chosen.status,))
    ]
    several = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
    together = sa.select(several).order_by(several.c.key.desc(), several.c.id.desc()).limit(limit + 1)
    found = connection.execute(together if len(parts) > 1 else parts[0]).all()
    ids = _that_fit(connection, [place for place, _ in found[:limit]])
    rows = {row["id"]: row for row in connection.execute(sa.select(feedback).where(feedback.c.id.in_(ids))).mappings()}
    end = (found[len(ids) - 1].key, ids[-1]) if len(found) > len(ids) else None
    return [document(rows[place]) for place in ids if place in rows], end


def _that_fit(connection: sa.Connection, ids: list[int]) -> list[int]:
    """The first of some corrections, as many as their inputs allow."""
    length = sa.func.length(feedback.c.inputs)
    shown = sa.case((feedback.c.inputs.contains(PREFIX), 4 * DENSEST * length), else_=length)  # ", 255" a number
    sizes = sa.select(feedback.c.id, shown).where(feedback.c.id.in_(ids))
    size = {place: length or 0 for place, length in connection.execute(sizes)}
    total = list(itertools.accumulate(size.get(place, 0) for place in ids))
    return ids[: max(bisect.bisect_right(total, PAGE_CHARACTERS), 1)]


def conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """The filter as SQL: current words that correct a known model's prediction, or drawn predictions."""
    verdicts = VERDICTS[chosen.source]
    one = len(verdicts) == 1
    found: list[sa.ColumnElement[bool]] = [
        feedback.c.verdict == verdicts[0] if one else feedback.c.verdict.in_(map(sa.literal, verdicts)),
        feedback.c.joined,
    ]
    if chosen.status is None:  # each of the three by itself: so the index finds a model's, or a day's, in all of them
        found.append(feedback.c.status.in_(map(sa.literal, STATUSES)))
    for column, value in (
        (feedback.c.model, chosen.model),
        (feedback.c.version, chosen.version),
        (feedback.c.status, chosen.status),
        (feedback.c.segment, chosen.segment),
    ):
        if value is not None:
            found.append(column == value)
    found += labelled(feedback.c.prediction, label_column, chosen)
    if chosen.since is not None:
        found.append(feedback.c.created >= chosen.since)
    if chosen.until is not None:
        found.append(feedback.c.created < chosen.until)
    if chosen.confidence_from is not None:
        found.append(feedback.c.confidence >= chosen.confidence_from)
    if chosen.confidence_to is not None:
        found.append(feedback.c.confidence <= chosen.confidence_to)
    if chosen.q is not None:
        searched = (feedback.c.comment, feedback.c.user, feedback.c.prediction_id, feedback.c.inputs)
        found.append(sa.or_(*(column.icontains(chosen.q, autoescape=True) for column in searched)))
    return found


def labelled(
    prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any], chosen: Filter
) -> list[sa.ColumnElement[bool]]:
    """What the filter says of prediction and label."""
    return [
        # As a profile takes it: a number is the category that is spelt like it.
        spelt == value if value.startswith('"') else spelt.in_((value, spelling(value)))
        for spelt, value in ((label, chosen.label), (prediction, chosen.predicted))
        if value is not None
    ]


def document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A correction as its JSON document; ``label`` is the reviewer's where there is one."""
    label = row["label"] if row["reviewed_label"] is None else row["reviewed_label"]
    return {
        "id": str(row["id"]),
        "prediction_id": row["prediction_id"],
        "model": row["model"],
        "version": row["version"],
        "segment": row["segment"],
        "source": "sample" if row["verdict"] == "sampled" else "user",
        "inputs": msgspec.Raw(unpack_json(row["inputs"]).encode()) if row["inputs"] else None,
        "prediction": decoded(row["prediction"]),
        "confidence": row["confidence"],
        "predicted": moment(row["predicted"]),
        "label": decoded(label),
        "user_label": None if row["verdict"] == "sampled" else decoded(row["label"]),
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


def correction(connection: sa.Connection, place: int) -> dict[str, Any] | None:
    """One correction or drawn prediction as its document; None when there is none."""
    query = sa.select(feedback).where(feedback.c.id == place, *conditions(Filter(source="all")))
    row = connection.execute(query).mappings().first()
    return None if row is None else document(row)


def correction_history(connection: sa.Connection, place: int) -> list[dict[str, Any]]:
    """What happened to a correction, the earliest first.

    Users' words have ``verdict``, ``label``, ``user`` and ``comment`` (of a draw for review the
    verdict is ``sampled``, and the user the one who drew), decisions ``status``, ``label``,
    ``reviewer`` and ``revision``; all have ``time``.
    """
    said = ("verdict", "label", "user", "comment")
    earlier = sa.select(history.c.time, *map(history.c.get, said)).where(history.c.feedback_id == place)
    latest = sa.select(feedback.c.updated.label("time"), *map(feedback.c.get, said)).where(
        feedback.c.id == place, feedback.c.verdict != "sampled"
    )
    columns = (decisions.c.time, decisions.c.status, decisions.c.label, decisions.c.reviewer, decisions.c.revision)
    decided = sa.select(*columns).where(decisions.c.feedback_id == place)
    queries = (earlier.order_by(history.c.id), latest, decided.order_by(decisions.c.id))
    found = [dict(row) for query in queries for row in connection.execute(query).mappings()]
    found.sort(key=lambda event: event["time"])
    return [{**event, "time": moment(event["time"]), "label": decoded(event["label"])} for event in found]


class Decision(NamedTuple):
    """What a reviewer decides.

    ``label`` is the stored spelling. None keeps what it was; a correction that waits again has the user's.
    """

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
    return decide_several(connection, [(place, decision)])[0]


def decide_several(
    connection: sa.Connection, several: Sequence[tuple[int, Decision]]
) -> list[tuple[bool, dict[str, Any] | None]]:
    """Decide corrections one after the other; see `decide`. Each is returned as it stands after the last."""
    now = time.time()
    taken = [_take(connection, place, decision, now) for place, decision in several]
    noted = [
        {"feedback_id": place, "time": now, **decision._asdict(), "revision": decision.revision + 1}
        for (place, decision), took in zip(several, taken, strict=True)
        if took
    ]
    if noted:
        connection.execute(decisions.insert(), noted)
    query = sa.select(feedback).where(feedback.c.id.in_({place for place, _ in several}), _in_review)
    known = {row["id"]: document(row) for row in connection.execute(query).mappings()}
    return [(took, known.get(place)) for (place, _), took in zip(several, taken, strict=True)]


_in_review = sa.and_(*conditions(Filter(source="all")))
_decided = ("status", "reviewer", "reviewed", "revision")
_change = (
    feedback.update()
    .where(feedback.c.id == sa.bindparam("place"), feedback.c.revision == sa.bindparam("seen"), _in_review)
    .values({name: sa.bindparam(f"new_{name}") for name in _decided})
)
_relabel = _change.values(reviewed_label=sa.bindparam("new_label"))


def _take(connection: sa.Connection, place: int, decision: Decision, now: float) -> bool:
    values = {
        "place": place,
        "seen": decision.revision,
        "new_status": decision.status,
        "new_reviewer": decision.reviewer,
        "new_reviewed": now,
        "new_revision": decision.revision + 1,
    }
    if decision.label is None and decision.status != "pending":
        return bool(connection.execute(_change, values).rowcount)
    return bool(connection.execute(_relabel, {**values, "new_label": decision.label}).rowcount)
