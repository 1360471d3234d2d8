"""Pages of the review queue, in each of its orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage._labels import label_error
from exporter.storage._predictions import parts
from exporter.storage._schema import confidence_key, feedback, ranked, suspects
from exporter.storage.review.correction_document import Redacted, correction_document
from exporter.storage.review.corrections import (
    STATUSES,
    Filter,
    conditions,
    content_conditions,
    is_in_state,
    is_ready_correction,
    label_column,
    of_suspect,
    verdicts_of,
)
from exporter.storage.review.rankings import latest_rankings

ORDERS = ("confident", "error", "informative", "newest", "suspect")
"""The most confident prediction, the largest error of a number, the most informative, the newest one, or the one whose
label is most likely to be wrong first."""
PAGE_CHARACTERS = 16 * 2**20
"""Characters of inputs, with unpacked images, in one page: with more it ends early, to bound the memory."""


class Position(NamedTuple):
    """Where a page ended.

    Attributes
    ----------
    key
        The value that it is ordered by; in a ranking minus the position, which is at most 0, and after the ranking the
        time of the feedback.
    id
        The identifier of the last correction.
    snapshot
        Rankings up to this number are used; 0 in other orders.
    """

    key: float
    id: int
    snapshot: int = 0


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
        One of `ORDERS`; corrections without a confidence, or an error, come last. So do those without a position in the
        order ``informative``, the newest first: it has the pending ones that are looked at first.

    Returns
    -------
    tuple
        The corrections as JSON documents, and where this page ended; None if it was the last.
    """
    # Identifiers first: inputs may be large, and only those of a page are read.
    keys, snapshot = _page_keys(connection, chosen, limit, after, order)
    documents, shown = read_documents(connection, [row.id for row in keys[:limit]], chosen.redacted)
    end = Position(keys[shown - 1].key, keys[shown - 1].id, snapshot) if len(keys) > shown else None
    return documents, end


def read_documents(
    connection: sa.Connection, ids: Sequence[int], redacted: Redacted
) -> tuple[list[dict[str, Any]], int]:
    """Return the documents of corrections, as many as `PAGE_CHARACTERS` allows, and how many identifiers they are."""
    ids = _that_fit(connection, ids)
    rows = {row["id"]: row for row in connection.execute(sa.select(feedback).where(feedback.c.id.in_(ids))).mappings()}
    documents: list[dict[str, Any]] = []
    size = shown = 0
    for shown, id_ in enumerate(ids, 1):
        document = correction_document(rows[id_], redacted) if id_ in rows else None
        size += len(memoryview(document["inputs"])) if document and document["inputs"] else 0
        if documents and size > PAGE_CHARACTERS:
            return documents, shown - 1  # the page ends before this one
        documents += [document] if document else []
    return documents, shown


def _page_keys(
    connection: sa.Connection, chosen: Filter, limit: int, after: Position | None, order: str
) -> tuple[Sequence[Any], int]:
    """Return identifiers and keys of a page, and of one more; and the snapshot of the rankings, 0 in other orders."""
    if order != "informative":
        return connection.execute(_page_query(chosen, limit, after, order)).all(), 0
    rankings, snapshot = latest_rankings(connection, chosen.model, after.snapshot if after else 0)
    if after and snapshot != after.snapshot:  # it was deleted meanwhile: begin again, rather than leave out any
        after = None
    is_ranked = ranked.c.ranking.in_(rankings)
    keys: list[Any] = []
    if after is None or after.key < 0:
        query = sa.select(feedback.c.id, (-ranked.c.position).label("key"))
        query = query.join_from(ranked, feedback, ranked.c.feedback_id == feedback.c.id)
        query = query.where(is_ranked, *conditions(chosen))
        if after:
            position = -after.key
            is_later = (ranked.c.position > position) | (feedback.c.id > after.id)
            query = query.where(ranked.c.position >= position, is_later)
        keys += connection.execute(query.order_by(ranked.c.position, feedback.c.id).limit(limit + 1))
        after = None
    if len(keys) <= limit:
        others = feedback.c.id.not_in(sa.select(ranked.c.feedback_id).where(is_ranked))
        keys += connection.execute(_page_query(chosen, limit - len(keys), after, "newest", others))
    return keys, snapshot


def _page_query(
    chosen: Filter, limit: int, after: Position | None, order: str, *further: sa.ColumnElement[bool]
) -> sa.Select[Any]:
    """Build the query of a page's identifiers and keys, and of one more; with further conditions."""
    key = _order_key(order)
    is_after = list(further)
    if after:
        is_after += [key <= after.key, (key < after.key) | (feedback.c.id < after.id)]
    statuses = STATUSES if chosen.status is None else (chosen.status,)
    # The index is ordered within each verdict and status: one query for each, then the first of all.
    selected = sa.select(feedback.c.id, key.label("key"))
    kinds = [
        selected.where(feedback.c.verdict == verdict, is_in_state(chosen.joined is not False))
        for verdict in verdicts_of(chosen)
    ]
    if chosen.joined is None and chosen.source != "sample":
        kinds.append(selected.where(is_ready_correction))
    parts = [
        kind.where(*content_conditions(chosen._replace(status=status)), *is_after)
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
    """Return what a page is ordered by, the greatest first. Of errors and suspects there is no index."""
    if order == "suspect":
        share = (suspects.c.with_likely - suspects.c.with_label) * 1.0 / suspects.c.compared
        of_row = sa.select(share).where(of_suspect).correlate(feedback)
        return sa.func.coalesce(of_row.scalar_subquery(), sa.literal_column("-1.0"))
    if order == "error":
        error = label_error(feedback.c.prediction, label_column)
        return sa.func.coalesce(sa.func.abs(error), sa.literal_column("-1.0"))
    return confidence_key if order == "confident" else feedback.c.created


def _that_fit(connection: sa.Connection, ids: Sequence[int]) -> Sequence[int]:
    """Return the first of these corrections, as many as `PAGE_CHARACTERS` allows, but at least one."""
    sizes = sa.select(feedback.c.id, sa.func.length(feedback.c.inputs)).where(feedback.c.id.in_(ids))
    size = {id_: length or 0 for id_, length in connection.execute(sizes)}
    return next(parts(((id_, size.get(id_, 0)) for id_ in ids), PAGE_CHARACTERS), [])
