"""The state of the review queue for scrapes: cached until a commit changes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec
import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage._engine import statement_timeout
from exporter.storage._feedback import Tolerances
from exporter.storage._schema import feedback, is_released, is_unjoined, is_waiting, labels, retrain_requests
from exporter.storage.review.accuracy_counts import AccuracyCounts, accuracy_counts
from exporter.storage.review.corrections import STATUSES, is_ready_correction

SCRAPE_TIMEOUT_SECONDS = 2.0
"""How long a scrape waits for the database, and any reader while the database is unavailable."""
REVIEW_SECONDS, SHARED_REVIEW_SECONDS = 60.0, 5.0
"""How old the cached state may be: feedback becomes ready for review, and others write into a shared database."""
REVIEW_RETRY_SECONDS = 10.0
"""How long scrapes fail at once after the database did not answer one."""


class ReviewState(msgspec.Struct, frozen=True):
    """The review queue's state.

    Attributes
    ----------
    pending, oldest, examples
        By model: corrections that wait for review, the Unix time of the oldest, and released examples.
    accuracy_counts
        By model and version.
    unjoined, oldest_unjoined
        By model, empty for feedback that names none: feedback whose prediction has not arrived, and the Unix time of
        the oldest.
    undelivered
        By model: the Unix time of the first request for retraining after the last delivered one. A model whose newest
        request was delivered is left out.
    unjoined_labels, oldest_unjoined_label
        Labels whose prediction has not arrived, and the Unix time at which the first of them did; None without any.
    """

    pending: dict[str, int]
    oldest: dict[str, float]
    examples: dict[str, int]
    accuracy_counts: dict[tuple[str, str], AccuracyCounts]
    unjoined: dict[str, int]
    oldest_unjoined: dict[str, float]
    undelivered: dict[str, float]
    unjoined_labels: int
    oldest_unjoined_label: float | None


class Backlog:
    """Caches the state of the review queue.

    Parameters
    ----------
    reading
        Opens a connection that sees one state of the database.
    tolerances
        See `accuracy_counts`.
    shared
        Whether other exporters write into the database, too.
    """

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[sa.Connection]],
        tolerances: Tolerances,
        *,
        shared: bool,
    ) -> None:
        self._reading = reading
        self._tolerances = tolerances
        self._max_age = SHARED_REVIEW_SECONDS if shared else REVIEW_SECONDS
        self._cached: ReviewState | None = None
        self._read_at = self._retry_at = 0.0
        self._generation = 0

    def invalidate(self) -> None:
        """Read the state anew next time: a commit may have changed it."""
        self._generation += 1
        self._cached = None

    def state(self) -> ReviewState:
        """Return the current state; see `REVIEW_SECONDS`.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        cached = self._cached
        now = time.monotonic()
        if cached is not None and now <= self._read_at + self._max_age:
            return cached
        if now < self._retry_at:
            raise StoreError("the database did not answer a moment ago")
        try:
            with statement_timeout(SCRAPE_TIMEOUT_SECONDS), self._reading() as connection:
                generation = self._generation
                state = read_state(connection, self._tolerances)
        except StoreError:
            self._retry_at = time.monotonic() + REVIEW_RETRY_SECONDS
            raise
        if generation == self._generation:  # else a commit came in between: the next call reads again
            self._cached, self._read_at = state, now
        return state


def read_state(connection: sa.Connection, tolerances: Tolerances) -> ReviewState:
    """Read the state from the database, with queries that indexes answer."""
    number, oldest = sa.func.count().label("number"), sa.func.min(feedback.c.created).label("oldest")
    by_model = sa.select(feedback.c.model, number, oldest).group_by(feedback.c.model)
    is_pending = feedback.c.status == "pending"
    in_queue = feedback.c.verdict.in_(("accepted", "corrected")) & feedback.c.status.in_(STATUSES)
    examples = sa.select(feedback.c.model, sa.func.count()).where(is_released).group_by(feedback.c.model)
    rows = [
        *connection.execute(by_model.where(feedback.c.verdict == "corrected", is_pending, feedback.c.joined)),
        *connection.execute(by_model.where(is_ready_correction, is_pending)),
    ]
    unjoined = connection.execute(by_model.where(in_queue, is_unjoined)).all()
    # Labels are numbered as they arrive: the index has the number, but not the time.
    waiting, first = connection.execute(sa.select(sa.func.count(), sa.func.min(labels.c.id)).where(is_waiting)).one()
    received = sa.select(labels.c.received).where(labels.c.id == first)
    return ReviewState(
        pending={row.model: sum(other.number for other in rows if other.model == row.model) for row in rows},
        oldest={row.model: min(other.oldest for other in rows if other.model == row.model) for row in rows},
        examples={model: int(total) for model, total in connection.execute(examples)},
        accuracy_counts=accuracy_counts(connection, tolerances),
        unjoined={row.model or "": row.number for row in unjoined},
        oldest_unjoined={row.model or "": row.oldest for row in unjoined},
        undelivered=_undelivered(connection),
        unjoined_labels=waiting,
        oldest_unjoined_label=connection.execute(received).scalar() if waiting else None,
    )


def _undelivered(connection: sa.Connection) -> dict[str, float]:
    asked, later = retrain_requests.c, retrain_requests.alias().c
    is_passed = sa.exists().where(later.model == asked.model, later.seq > asked.seq, later.delivered.is_not(None))
    query = sa.select(asked.model, sa.func.min(asked.created)).where(asked.delivered.is_(None), ~is_passed)
    return {model: float(created) for model, created in connection.execute(query.group_by(asked.model))}
