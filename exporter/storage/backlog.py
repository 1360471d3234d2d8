"""What waits for review and what was released, for scrapes: read again when a commit changed it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec
import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage.accuracy_counts import StratumCounts, accuracy_counts
from exporter.storage.schema import feedback, released
from exporter.storage.timeout import statement_timeout

SCRAPE_TIMEOUT_SECONDS = 2.0
"""How long a scrape waits for the database, and a reader when it did not answer a moment ago."""
REVIEW_SECONDS = 5.0
"""How old what a scrape says of a shared database may be: others write into it, too."""
REVIEW_RETRY_SECONDS = 10.0
"""After a scrape that waited for the database in vain, how long the next ones do not wait."""


class ReviewState(msgspec.Struct, frozen=True):
    """By model: corrections that wait for review, the Unix time of the oldest, and released examples.

    ``accuracy_counts`` is by model and version.
    """

    pending: dict[str, int]
    oldest: dict[str, float]
    examples: dict[str, int]
    accuracy_counts: dict[tuple[str, str], StratumCounts]


class Backlog:
    """Remembers the state of the review queue.

    Parameters
    ----------
    reading
        A connection that sees one state of the database.
    shared
        Whether other exporters write into it, too.
    """

    def __init__(self, reading: Callable[[], AbstractContextManager[sa.Connection]], *, shared: bool) -> None:
        self._reading = reading
        self._shared = shared
        self._known: ReviewState | None = None
        self._read_at = self._retry_at = 0.0
        self._generation = 0

    def invalidate(self) -> None:
        """Read the state anew next time: a commit may have changed it."""
        self._generation += 1
        self._known = None

    def state(self) -> ReviewState:
        """As it is, or in a shared database was some seconds ago.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        known = self._known
        now = time.monotonic()
        if known is not None and not (self._shared and now > self._read_at + REVIEW_SECONDS):
            return known
        if now < self._retry_at:
            raise StoreError("the database did not answer a moment ago")
        try:
            with statement_timeout(SCRAPE_TIMEOUT_SECONDS), self._reading() as connection:
                generation = self._generation
                found = read_state(connection)
        except StoreError:
            self._retry_at = time.monotonic() + REVIEW_RETRY_SECONDS
            raise
        if generation == self._generation:  # else a commit came between: the next one reads again
            self._known, self._read_at = found, now
        return found


def read_state(connection: sa.Connection) -> ReviewState:
    """What the database says of it now, in three queries that indexes answer."""
    pending = (
        sa.select(feedback.c.model, sa.func.count(), sa.func.min(feedback.c.created))
        .where(feedback.c.verdict == "corrected", feedback.c.status == "pending", feedback.c.joined)
        .group_by(feedback.c.model)
    )
    examples = sa.select(feedback.c.model, sa.func.count()).where(released).group_by(feedback.c.model)
    rows = connection.execute(pending).all()
    return ReviewState(
        pending={model: count for model, count, _ in rows},
        oldest={model: created for model, _, created in rows},
        examples={model: int(total) for model, total in connection.execute(examples)},
        accuracy_counts=accuracy_counts(connection),
    )
