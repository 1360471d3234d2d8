"""The review queue: filter, list and show corrections."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.correction_document import Redacted, correction_document
from exporter.storage.label_numbers import label_error
from exporter.storage.redaction import may_hold
from exporter.storage.schema import confidence_key, feedback, is_described, is_unjoined, label_json

STATUSES = ("accepted", "pending", "rejected")
"""A correction's status; accepted corrections become training data."""
ORDERS = ("confident", "error", "newest")
"""The most confident prediction first, the largest error of a number, or the newest correction."""
VERDICTS = {"user": ("corrected",), "sample": ("sampled",), "all": ("corrected", "sampled")}
"""Verdicts by source: users' corrections, and predictions without feedback that were sampled for review."""

WAITING_SECONDS = 3600.0
"""How long feedback that describes its prediction waits for it, before it can be reviewed without."""

PAGE_CHARACTERS = 16 * 2**20
"""Characters of inputs, with unpacked images, in one page: with more it ends early, to bound the memory."""

Position = tuple[float, int]
"""Where a page ended: the value that it is ordered by, and the identifier."""
_ready_before = sa.bindparam("ready_before", callable_=lambda: time.time() - WAITING_SECONDS, type_=sa.Float)
is_ready = is_described & (feedback.c.created < _ready_before)
"""Feedback that waited long enough for its prediction, which it describes."""
# With coalesce, SQLite does not use an index of all unjoined feedback.
is_ready_correction = is_ready & (sa.func.coalesce(feedback.c.verdict, "") == "corrected")
label_column = sa.func.coalesce(feedback.c.reviewed_label, feedback.c.label)
"""The effective label: the reviewer's if there is one, else the user's."""


class Filter(NamedTuple):
    """Selects corrections; None does not filter.

    Attributes
    ----------
    label, predicted
        The effective label, and the prediction, as stored JSON.
    source
        A key of `VERDICTS`.
    joined
        True for corrections of logged predictions only; False for all feedback whose prediction has not arrived, of
        either verdict; None for what can be reviewed.
    since, until
        Unix time in seconds of the user's first feedback; ``until`` is exclusive.
    confidence_from, confidence_to
        Both are inclusive.
    error_from, error_to
        The effective label minus the prediction, where both are numbers; ``error_to`` is exclusive.
    q
        Text in the comment, the user, the prediction's identifier or the inputs; case does not matter.
    redacted
        Inputs that are neither shown nor searched; see `exporter.storage.correction_document.correction_document`.
    """

    model: str | None = None
    version: str | None = None
    status: str | None = None
    label: str | None = None
    predicted: str | None = None
    segment: str | None = None
    source: str = "user"
    joined: bool | None = None
    since: float | None = None
    until: float | None = None
    confidence_from: float | None = None
    confidence_to: float | None = None
    error_from: float | None = None
    error_to: float | None = None
    q: str | None = None
    redacted: Redacted = MappingProxyType({})


PARAMETERS = tuple(name for name in Filter._fields if name != "redacted")
"""The fields of a `Filter` that clients choose."""


def list_corrections(
    connection: sa.Connection, chosen: Filter, limit: int, after: Position | None, order: str = "newest"
) -> tuple[list[dict[str, Any]], Position | None]:
    """Return a page of corrections.

    Parameters
    ----------
    connection
        To read with.
    chosen
        Which corrections.
    limit
        How many at most; fewer if their inputs are large, see `PAGE_CHARACTERS`.
    after
        Where the previous page ended, in the same order.
    order
        One of `ORDERS`; corrections without a confidence, or an error, come last.

    Returns
    -------
    tuple
        The corrections as JSON documents, and where this page ended; None if it was the last.
    """
    # Identifiers first: inputs may be large, and only those of a page are read.
    keys = connection.execute(_page_query(chosen, limit, after, order)).all()
    ids = _that_fit(connection, [row.id for row in keys[:limit]])
    rows = {row["id"]: row for row in connection.execute(sa.select(feedback).where(feedback.c.id.in_(ids))).mappings()}
    documents: list[dict[str, Any]] = []
    size = shown = 0
    for shown, id_ in enumerate(ids, 1):
        document = correction_document(rows[id_], chosen.redacted) if id_ in rows else None
        size += len(memoryview(document["inputs"])) if document and document["inputs"] else 0
        if documents and size > PAGE_CHARACTERS:
            shown -= 1  # noqa: PLW2901 (the page ends before this one)
            break
        documents += [document] if document else []
    return documents, (keys[shown - 1].key, ids[shown - 1]) if len(keys) > shown else None


def _page_query(chosen: Filter, limit: int, after: Position | None, order: str) -> sa.Select[Any]:
    """Build the query of a page's identifiers and keys, and of one more."""
    key = _order_key(order)
    is_after: list[sa.ColumnElement[bool]] = []
    if after:
        value, id_ = after
        is_after = [key <= value, (key < value) | (feedback.c.id < id_)]
    statuses = STATUSES if chosen.status is None else (chosen.status,)
    # The index is ordered within each verdict and status: one query for each, then the first of all.
    selected = sa.select(feedback.c.id, key.label("key"))
    kinds = [
        selected.where(feedback.c.verdict == verdict, _in_state(chosen.joined is not False))
        for verdict in _verdicts(chosen)
    ]
    if chosen.joined is None and chosen.source != "sample":
        kinds.append(selected.where(is_ready_correction))
    parts = [
        kind.where(*_content_conditions(chosen._replace(status=status)), *is_after)
        .order_by(key.desc(), feedback.c.id.desc())
        .limit(limit + 1)
        for kind in kinds
        for status in statuses
    ]
    if len(parts) == 1:
        return parts[0]
    union = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
    return sa.select(union).order_by(union.c.key.desc(), union.c.id.desc()).limit(limit + 1)


def _order_key(order: str) -> sa.ColumnElement[float]:
    """Return what a page is ordered by, the greatest first. Of errors there is no index: a page reads all."""
    if order == "error":
        error = label_error(feedback.c.prediction, label_column)
        return sa.func.coalesce(sa.func.abs(error), sa.literal_column("-1.0"))
    return confidence_key if order == "confident" else feedback.c.created


def _that_fit(connection: sa.Connection, ids: list[int]) -> list[int]:
    """Return the first of these corrections, as many as `PAGE_CHARACTERS` allows, but at least one."""
    sizes = sa.select(feedback.c.id, sa.func.length(feedback.c.inputs)).where(feedback.c.id.in_(ids))
    size = {id_: length or 0 for id_, length in connection.execute(sizes)}
    total = list(itertools.accumulate(size.get(id_, 0) for id_ in ids))
    return ids[: max(bisect.bisect_right(total, PAGE_CHARACTERS), 1)]


def conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """Return the filter as SQL conditions; they select corrections and samples, not other joined feedback."""
    verdicts = _verdicts(chosen)
    has_verdict = (
        feedback.c.verdict == verdicts[0] if len(verdicts) == 1 else feedback.c.verdict.in_(map(sa.literal, verdicts))
    )
    return [has_verdict, _in_state(chosen.joined), *_content_conditions(chosen)]


def _verdicts(chosen: Filter) -> tuple[str, ...]:
    return ("accepted", "corrected") if chosen.joined is False else VERDICTS[chosen.source]


def _in_state(joined: bool | None) -> sa.ColumnElement[bool]:
    """Return the condition for `Filter.joined`."""
    if joined is None:  # both values by name: so the index finds a model's in each of them
        return feedback.c.joined.in_((sa.true(), sa.false())) & (feedback.c.joined | is_ready)
    return feedback.c.joined if joined else is_unjoined


def _content_conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    result: list[sa.ColumnElement[bool]] = []
    if chosen.status is None:  # all three by name: so the index finds a model's, or a day's, in each of them
        result.append(feedback.c.status.in_(map(sa.literal, STATUSES)))
    for column, value in (
        (feedback.c.model, chosen.model),
        (feedback.c.version, chosen.version),
        (feedback.c.status, chosen.status),
        (feedback.c.segment, chosen.segment),
    ):
        if value is not None:
            result.append(column == value)
    result += label_conditions(feedback.c.prediction, label_column, chosen)
    result += _range_conditions(chosen)
    if chosen.q is not None:
        searched = (feedback.c.comment, feedback.c.user, feedback.c.prediction_id)
        in_inputs = feedback.c.inputs.icontains(chosen.q, autoescape=True)
        for model, names in chosen.redacted.items():
            in_inputs &= feedback.c.model.is_distinct_from(model) | ~may_hold(feedback.c.inputs, names)
        result.append(sa.or_(*(column.icontains(chosen.q, autoescape=True) for column in searched), in_inputs))
    return result


def _range_conditions(chosen: Filter) -> Iterator[sa.ColumnElement[bool]]:
    if chosen.since is not None:
        yield feedback.c.created >= chosen.since
    if chosen.until is not None:
        yield feedback.c.created < chosen.until
    if chosen.confidence_from is not None:
        yield feedback.c.confidence >= chosen.confidence_from
    if chosen.confidence_to is not None:
        yield feedback.c.confidence <= chosen.confidence_to


def label_conditions(
    prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any], chosen: Filter
) -> list[sa.ColumnElement[bool]]:
    """Return the filter's conditions on prediction and label."""
    result = [
        # As in profiles, a number and the string of its digits are the same category.
        column == value if value.startswith('"') else column.in_((value, label_json(value)))
        for column, value in ((label, chosen.label), (prediction, chosen.predicted))
        if value is not None
    ]
    error = label_error(prediction, label)
    result += [error >= chosen.error_from] if chosen.error_from is not None else []
    return result + ([error < chosen.error_to] if chosen.error_to is not None else [])


def of_any_label(chosen: Filter) -> Filter:
    """Return a filter without its conditions on prediction and label."""
    return chosen._replace(label=None, predicted=None, error_from=None, error_to=None)


def find_correction(connection: sa.Connection, correction_id: int, redacted: Redacted) -> dict[str, Any] | None:
    """Return a correction, a prediction sampled for review, or unjoined feedback as its document; None for others."""
    is_shown = sa.or_(sa.and_(*conditions(Filter(source="all"))), is_unjoined)
    query = sa.select(feedback).where(feedback.c.id == correction_id, is_shown)
    row = connection.execute(query).mappings().first()
    return None if row is None else correction_document(row, redacted)
