"""Requests for retraining: recorded before they are sent, so that neither a restart nor a second replica repeats one.

A request is open until it is delivered or given up. A model has at most one open request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage._engine import Transactions
from exporter.storage._schema import feedback, is_accepted, retrain_requests

KEPT = 1000
"""Requests of a model that are kept."""

Row = Mapping[Any, Any]
"""A row of the table ``retrain_requests``."""

_columns = retrain_requests.c
_is_open = _columns.next_attempt.is_not(None)


class NewRequest(NamedTuple):
    """A request to record.

    Attributes
    ----------
    id, model, reason
        Its identifier, and what it is about.
    context
        More about the reason, as JSON.
    created
        Unix time in seconds.
    """

    id: str
    model: str
    reason: str
    context: str
    created: float


class RetrainRequests:
    """The requests for retraining of a store; every verb raises StoreError when the database fails."""

    def __init__(self, store: Transactions) -> None:
        self._store = store

    def add(self, new: NewRequest, last: float | None) -> Row | None:
        """Record a request, unless the model has an open one, or one that was made after ``last``.

        Parameters
        ----------
        new
            The request.
        last
            Unix time in seconds of the newest request that the caller knows of; None does not check that.

        Returns
        -------
        Mapping or None
            The request; None when it was not recorded.
        """

        def write(connection: sa.Connection) -> Row | None:
            of_model = _columns.model == new.model
            is_in_the_way = _is_open if last is None else _is_open | (_columns.created > last)
            if connection.execute(sa.select(_columns.seq).where(of_model, is_in_the_way)).first():
                return None
            values = new._asdict()
            connection.execute(retrain_requests.insert().values(**values, attempts=0, next_attempt=new.created))
            oldest = sa.select(_columns.seq).where(of_model).order_by(_columns.seq.desc()).offset(KEPT)
            if obsolete := connection.execute(oldest).scalars().all():
                connection.execute(retrain_requests.delete().where(_columns.seq.in_(obsolete)))
            row: Any = connection.execute(sa.select(retrain_requests).where(_columns.id == new.id)).mappings().one()
            return row  # type: ignore[no-any-return]

        return self._store.write(write)

    def claim_due(self, now: float, until: float) -> Row | None:
        """Return the next request that is due at the Unix time ``now``, and leave it to the caller ``until`` then."""
        due = sa.select(retrain_requests).where(_columns.next_attempt <= now).order_by(_columns.next_attempt).limit(1)

        def write(connection: sa.Connection) -> Row | None:
            row: Any = connection.execute(due).mappings().first()
            if row is not None:
                change = retrain_requests.update().where(_columns.seq == row["seq"])
                connection.execute(change.values(next_attempt=until))
            return row  # type: ignore[no-any-return]

        with self._store.reading() as connection:  # nearly always there is none: do not write each time
            if connection.execute(due).first() is None:
                return None
        return self._store.write(write)

    def update(self, seq: int, **values: Any) -> None:
        """Change a request."""
        change = retrain_requests.update().where(_columns.seq == seq).values(**values)
        self._store.write(lambda connection: connection.execute(change))

    def list(self, model: str | None, limit: int, reason: str | None = None) -> Sequence[Row]:
        """Return at most ``limit`` requests, the newest first."""
        query = sa.select(retrain_requests)
        if model is not None:
            query = query.where(_columns.model == model)
        if reason is not None:
            query = query.where(_columns.reason == reason)
        with self._store.reading() as connection:
            rows: Any = connection.execute(query.order_by(_columns.seq.desc()).limit(limit)).mappings().all()
        return rows  # type: ignore[no-any-return]

    def count_unreleased(self, model: str) -> int:
        """Return the number of accepted corrections, samples found wrong included, that are in no release yet."""
        query = sa.select(sa.func.count()).where(
            feedback.c.model == model,
            is_accepted,
            ~feedback.c.released,
            sa.func.coalesce(feedback.c.reviewed_label, feedback.c.label) != feedback.c.prediction,
        )
        with self._store.reading() as connection:
            return int(connection.execute(query).scalar_one())
