"""Leases: a correction that a reviewer is looking at is not given to another one.

A lease changes what is listed, not who may decide. The table has at most one row for each correction that waits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage.correction_pages import Position, list_corrections
from exporter.storage.corrections import Filter, conditions
from exporter.storage.engine import is_shared
from exporter.storage.schema import feedback, leases

if TYPE_CHECKING:
    from exporter.storage import Store


TRANSACTION_SECONDS = 60.0
"""By how much a lease may seem too long: it is newer than the transaction that reads it, whose clock stands still."""


class Lease(NamedTuple):
    """Who holds corrections, and for how many seconds."""

    reviewer: str
    seconds: float


def held_by_others(connection: sa.Connection, lease: Lease) -> sa.Select[tuple[int]]:
    """Return the query of the corrections that other reviewers hold now."""
    is_others = (leases.c.reviewer != lease.reviewer) & _is_current(connection, lease)
    return sa.select(leases.c.feedback_id).where(is_others)


def count_held_by_others(connection: sa.Connection, chosen: Filter, lease: Lease) -> int:
    """Return how many of the corrections that a filter selects are held by other reviewers."""
    is_held = feedback.c.id.in_(held_by_others(connection, lease))
    return connection.execute(sa.select(sa.func.count()).where(is_held, *conditions(chosen))).scalar_one()


class Assignment(NamedTuple):
    """Corrections for a reviewer.

    Attributes
    ----------
    corrections
        Their documents.
    end
        Where the page ended; None if it was the last.
    expires
        The Unix time until which the reviewer holds them.
    """

    corrections: list[dict[str, Any]]
    end: Position | None
    expires: float


def assign_corrections(
    store: Store, lease: Lease, chosen: Filter, limit: int, after: Position | None, *, order: str
) -> Assignment:
    """Return a page of pending corrections that no other reviewer holds, and take their leases.

    Two reviewers who ask at the same moment get different corrections. If the leases cannot be stored, the page has
    the corrections without them: nobody can decide then either. See `list_corrections`.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """

    def list_free(connection: sa.Connection) -> tuple[list[dict[str, Any]], Position | None]:
        free = chosen._replace(without=held_by_others(connection, lease))
        return list_corrections(connection, free, limit, after, order)

    def take(connection: sa.Connection, page: list[dict[str, Any]], end: Position | None) -> Assignment:
        taken, expires = take_leases(connection, [int(document["id"]) for document in page], lease)
        return Assignment([document for document in page if int(document["id"]) in taken], end, expires)

    with store.reading() as connection:
        page, end = list_free(connection)
    if not page:
        return Assignment([], end, 0.0)
    try:
        # The list may take a while: only if others took all of it meanwhile, it is read where nobody else writes.
        assigned = store.execute(lambda connection, _: take(connection, page, end))
        return (
            assigned
            if assigned.corrections
            else store.execute(lambda connection, _: take(connection, *list_free(connection)))
        )
    except StoreError:
        return Assignment(page, end, 0.0)


def take_leases(connection: sa.Connection, ids: Sequence[int], lease: Lease) -> tuple[set[int], float]:
    """Take or renew the leases of pending corrections.

    Parameters
    ----------
    connection
        In a transaction, the only one that writes.
    ids
        The corrections. Those that are decided, or that another reviewer holds, are left out.
    lease
        For whom, and for how long.

    Returns
    -------
    tuple
        The corrections that the reviewer holds now, and the Unix time until then.
    """
    is_current = _is_current(connection, lease)
    is_renewed = leases.c.feedback_id.in_(ids) & (leases.c.reviewer == lease.reviewer)
    connection.execute(leases.delete().where(~is_current | is_renewed))
    is_free = feedback.c.id.not_in(sa.select(leases.c.feedback_id))
    free = sa.select(feedback.c.id).where(feedback.c.id.in_(ids), is_free, *_pending)
    taken = set(connection.execute(free).scalars())
    expires = round(_now(connection) + lease.seconds, 3)  # as precise as in a document
    if taken:
        rows = [{"feedback_id": id_, "reviewer": lease.reviewer, "expires": expires} for id_ in taken]
        connection.execute(leases.insert(), rows)
    return taken, expires


def give_back(connection: sa.Connection, ids: Sequence[int], reviewer: str, expires: float | None = None) -> None:
    """End a reviewer's leases of corrections; only those that expire by a Unix time, if one is given."""
    ended = leases.delete().where(leases.c.feedback_id.in_(ids), leases.c.reviewer == reviewer)
    connection.execute(ended if expires is None else ended.where(leases.c.expires <= expires))


def end_leases(connection: sa.Connection, ids: Sequence[int]) -> None:
    """End all leases of corrections: they are decided."""
    connection.execute(leases.delete().where(leases.c.feedback_id.in_(ids)))


_pending = conditions(Filter(source="all", status="pending"))


def _is_current(connection: sa.Connection, lease: Lease) -> sa.ColumnElement[bool]:
    """Return the condition of leases that have not expired.

    One that would last longer than a new one is from before the clock was set back: it has expired, too.
    """
    now = _now(connection)
    return (leases.c.expires > now) & (leases.c.expires <= now + lease.seconds + TRANSACTION_SECONDS)


def _now(connection: sa.Connection) -> float:
    """Return the Unix time: that of the server if exporters, whose clocks may differ, share the database."""
    if not is_shared(connection):
        return time.time()
    return float(connection.exec_driver_sql("SELECT extract(epoch FROM now())").scalar_one())
