"""Leases: a correction that a reviewer is looking at is not given to another one.

A lease changes what is listed, not who may decide. The table has at most one row for each correction that waits.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage._engine import is_shared
from exporter.storage._schema import feedback, leases, second_opinions
from exporter.storage.review.correction_pages import Position, list_corrections, read_documents
from exporter.storage.review.corrections import Filter, conditions
from exporter.storage.review.second_opinions import as_before, awaited_from, disputed_by

if TYPE_CHECKING:
    from exporter.storage import Store


MAX_AWAITED = 1000
"""Corrections that await a second opinion for the longest time, of the chosen model: a page has some of them."""
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


class Assignment(NamedTuple):
    """Corrections for a reviewer.

    Attributes
    ----------
    corrections
        Their documents; those of `blind` as before the first decision.
    end
        Where the page ended; None if it was the last.
    expires
        The Unix time until which the reviewer holds them; 0 without leases.
    blind
        Those for which a second opinion is asked.
    """

    corrections: list[dict[str, Any]]
    end: Position | None
    expires: float = 0.0
    blind: frozenset[str] = frozenset()


class Assigner:
    """Gives pages of pending corrections to a reviewer, and some that await a second opinion among them.

    Parameters
    ----------
    lease
        Of the reviewer.
    chosen, limit, after, order
        Which corrections, see `list_corrections`.
    second_opinions
        Whether to ask for second opinions.
    """

    def __init__(
        self,
        lease: Lease,
        chosen: Filter,
        limit: int,
        after: Position | None,
        *,
        order: str = "newest",
        second_opinions: bool = False,
    ) -> None:
        self._lease = lease
        self._chosen = chosen
        self._limit = limit
        self._after = after
        self._order = order
        # Others would show what the first reviewer decided.
        blinded = chosen._replace(
            label=None, error_from=None, error_to=None, second_opinion=None, alike=None, suspect=None
        )
        self._asks = second_opinions and blinded == chosen

    def assign(self, store: Store) -> Assignment:
        """Return a page of corrections that no other reviewer holds, and take their leases.

        Two reviewers who ask at the same moment get different corrections. If the leases cannot be stored, the page
        has the corrections without them: nobody can decide then either.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        with store.reading() as connection:
            page = self._list(connection)
        if not page.corrections:
            return page
        try:
            # The list may take a while: only if others took all of it meanwhile, it is read where nobody else writes.
            assigned = store.execute(lambda connection, _: self._take(connection, page))
            if not assigned.corrections:
                assigned = store.execute(lambda connection, _: self._take(connection, self._list(connection)))
        except StoreError:
            return page
        return assigned

    def _list(self, connection: sa.Connection) -> Assignment:
        held = held_by_others(connection, self._lease)
        blind = self._list_blind(connection, held, self._limit // 5)
        without = [held]
        if self._chosen.second_opinion != "disputed":  # others should settle them
            without.append(disputed_by(self._lease.reviewer))
        chosen = self._chosen._replace(without=tuple(without))
        page, end = list_corrections(connection, chosen, self._limit - len(blind), self._after, self._order)
        if not page and self._after is None:
            blind = self._list_blind(connection, held, self._limit)
        for document in blind:  # anywhere on the page, always at the same place
            page.insert(zlib.crc32(document["id"].encode()) % (len(page) + 1), document)
        return Assignment(page, end, blind=frozenset(document["id"] for document in blind))

    def _list_blind(self, connection: sa.Connection, held: sa.Select[tuple[int]], limit: int) -> list[dict[str, Any]]:
        if not self._asks or not limit:
            return []
        without = [held]
        if self._after:  # those of the pages before are on them
            without.append(sa.select(leases.c.feedback_id).where(leases.c.reviewer == self._lease.reviewer))
        awaited = awaited_from(self._lease.reviewer)
        if self._chosen.model is not None:
            awaited = awaited.where(second_opinions.c.model == self._chosen.model)
        ids = connection.execute(awaited.limit(MAX_AWAITED)).scalars().all()
        chosen = self._chosen._replace(status=None, without=tuple(without))
        query = sa.select(feedback.c.id).where(feedback.c.id.in_(ids), *conditions(chosen)).limit(limit)
        documents, _ = read_documents(connection, list(connection.execute(query).scalars()), chosen.redacted)
        return [as_before(document) for document in documents]

    def _take(self, connection: sa.Connection, page: Assignment) -> Assignment:
        taken, expires = take_leases(connection, [int(document["id"]) for document in page.corrections], self._lease)
        corrections = [document for document in page.corrections if int(document["id"]) in taken]
        return page._replace(corrections=corrections, expires=expires)


def take_leases(connection: sa.Connection, ids: Sequence[int], lease: Lease) -> tuple[set[int], float]:
    """Take or renew the leases of corrections that are pending, or await a second opinion from the reviewer.

    Parameters
    ----------
    connection
        In a transaction, the only one that writes.
    ids
        The corrections. Others, and those that another reviewer holds, are left out.
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
    is_free = feedback.c.id.in_(ids) & feedback.c.id.not_in(sa.select(leases.c.feedback_id))
    awaited = awaited_from(lease.reviewer).where(second_opinions.c.feedback_id.in_(ids))
    taken = set(connection.execute(sa.select(feedback.c.id).where(is_free, *_pending)).scalars())
    taken |= set(connection.execute(sa.select(feedback.c.id).where(is_free, feedback.c.id.in_(awaited))).scalars())
    expires = round(_now(connection) + lease.seconds, 3)  # as precise as in a document
    if taken:
        rows = [{"feedback_id": id_, "reviewer": lease.reviewer, "expires": expires} for id_ in taken]
        connection.execute(leases.insert(), rows)
    return taken, expires


def is_asked(connection: sa.Connection, correction_id: int, lease: Lease) -> bool:
    """Return whether a reviewer holds a correction that awaits the reviewer's second opinion."""
    held = sa.select(leases.c.feedback_id).where(leases.c.reviewer == lease.reviewer, _is_current(connection, lease))
    awaited = awaited_from(lease.reviewer).where(second_opinions.c.feedback_id == correction_id)
    return connection.execute(awaited.where(second_opinions.c.feedback_id.in_(held))).first() is not None


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
