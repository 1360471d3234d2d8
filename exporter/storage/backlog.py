"""The state of the review queue for scrapes: cached until a commit changes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec
import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage.accuracy_counts import StratumCounts, accuracy_counts
from exporter.storage.schema import feedback, is_released
from exporter.storage.timeout import statement_timeout

SCRAPE_TIMEOUT_SECONDS = 2.0
"""How long a scrape waits for the database, and any reader while the database is unavailable."""
REVIEW_SECONDS = 5.0
"""How old the cached state of a shared database may be: other exporters write into it, too."""
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
    """

    pending: dict[str, int]
    oldest: dict[str, float]
    examples: dict[str, int]
    accuracy_counts: dict[tuple[str, str], StratumCounts]


class Backlog:
    """Caches the state of the review queue.

    Parameters
    ----------
    reading
        Opens a connection that sees one state of the database.
    shared
        Whether other exporters write into the database, too.
    """

    def __init__(self, reading: Callable[[], AbstractContextManager[sa.Connection]], *, shared: bool) -> None:
        self._reading = reading
        self._shared = shared
        self._cached: ReviewState | None = None
        self._read_at = self._retry_at = 0.0
        self._generation = 0

    def invalidate(self) -> None:
        """Read the state anew next time: a commit may have changed it."""
        self._generation += 1
        self._cached = None

    def state(self) -> ReviewState:
        """Return the current state; of a shared database that of some seconds ago.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        cached = self._cached
        now = time.monotonic()
        if cached is not None and not (self._shared and now > self._read_at + REVIEW_SECONDS):
            return cached
        if now < self._retry_at:
            raise StoreError("the database did not answer a moment ago")
        try:
            with statement_timeout(SCRAPE_TIMEOUT_SECONDS), self._reading() as connection:
                generation = self._generation
                state = read_state(connection)
        except StoreError:
            self._retry_at = time.monotonic() + REVIEW_RETRY_SECONDS
            raise
        if generation == self._generation:  # else a commit came in between: the next call reads again
            self._cached, self._read_at = state, now
        return state


def read_state(connection: sa.Connection) -> ReviewState:
    """Read the state from the database, with queries that indexes answer."""
    pending = (
        sa.select(feedback.c.model, sa.func.count(), sa.func.min(feedback.c.created))
        .where(feedback.c.verdict == "corrected", feedback.c.status == "pending", feedback.c.joined)
        .group_by(feedback.c.model)
    )
    examples = sa.select(feedback.c.model, sa.func.count()).where(is_released).group_by(feedback.c.model)
    rows = connection.execute(pending).all()
    return ReviewState(
        pending={model: count for model, count, _ in rows},
        oldest={model: created for model, _, created in rows},
        examples={model: int(total) for model, total in connection.execute(examples)},
        accuracy_counts=accuracy_counts(connection),
    )
