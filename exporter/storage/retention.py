"""What is deleted: predictions that are too old or too many, and feedback whose prediction never came."""

from __future__ import annotations

import logging
import math
import random
import time

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.storage.engine import is_shared, write_alone
from exporter.storage.schema import feedback, history, predictions
from exporter.validation import parse_duration, parse_size

log = logging.getLogger(__name__)

SECONDS, SIZE_SECONDS = 60.0, 5.0
"""Time between two looks for what is too old, and for what is too much, while nothing is."""
JUMP_SECONDS, HOLD_SECONDS = 60.0, 3600.0
"""A clock that jumps by more may be wrong: so long it has time to be put right before anything is deleted by it."""
STEP_SECONDS = 0.05
"""How long one step may keep the database from others: as many rows as fit in are deleted at a time."""
STEP, LEAST, MOST = 200, 10, 5000
"""Rows of the first step, and of any."""
SAMPLE = 500
"""Rows of which PostgreSQL is asked how much room they take."""


class Retention:
    """Deletes in small steps, the oldest first; feedback and what it keeps of its prediction stays.

    Parameters
    ----------
    config
        How long and how much is kept.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._seconds = parse_duration(config.retention)
        self._bytes = parse_size(config.max_size) if config.max_size else None
        self._step = STEP
        self._offset, self._held_until = time.time() - time.monotonic(), -math.inf
        self.pause = SECONDS if self._bytes is None else SIZE_SECONDS

    def _before(self) -> float:
        """The Unix time before which predictions are too old; after the clock jumped, none is for a while."""
        now, monotonic = time.time(), time.monotonic()
        jumped, self._offset = now - monotonic - self._offset, now - monotonic
        if abs(jumped) > JUMP_SECONDS:
            log.warning("the clock jumped by %+.0f s: nothing is deleted for its age for an hour", jumped)
            self._held_until = monotonic + HOLD_SECONDS
        return now - self._seconds if monotonic >= self._held_until else -math.inf

    def sweep(self, engine: sa.Engine, added: int) -> bool:
        """Delete one step; whether more is left.

        Parameters
        ----------
        engine
            The database.
        added
            Predictions written since the step before: were fewer deleted, a busy machine would never get ahead.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            When the database did not take it.
        """
        old = self._before()
        step, start = min(max(self._step, 2 * added), MOST), time.perf_counter()
        with engine.begin() as connection:
            write_alone(connection)
            surplus = self._surplus(connection)
            too_old = sa.true() if surplus else predictions.c.received < old
            limit = min(step, surplus) if surplus else step
            # The oldest are the first: nothing else is read to find them.
            oldest = sa.select(predictions.c.seq).order_by(predictions.c.seq).limit(limit)
            deleted = connection.execute(predictions.delete().where(predictions.c.seq.in_(oldest), too_old)).rowcount
            unjoined = sa.select(feedback.c.id).where(~feedback.c.joined & (feedback.c.updated < old)).limit(step)
            forgotten = connection.execute(unjoined).scalars().all()
            if forgotten:
                connection.execute(history.delete().where(history.c.feedback_id.in_(forgotten)))
                connection.execute(feedback.delete().where(feedback.c.id.in_(forgotten)))
        passed = time.perf_counter() - start
        if deleted == step or passed > STEP_SECONDS:
            self._step = int(min(max(step * min(STEP_SECONDS / passed, 2), LEAST), MOST))
        return deleted == limit or len(forgotten) == step

    def _surplus(self, connection: sa.Connection) -> int:
        """About how many predictions there are too many, by the room that all of them take."""
        if self._bytes is None:
            return 0
        used = _bytes_used(connection)
        return 0 if used <= self._bytes else math.ceil((1 - self._bytes / used) * len(_places(connection)))


def _places(connection: sa.Connection) -> range:
    """The places of predictions, from the first to the last; few between them are empty."""
    first = connection.execute(sa.select(sa.func.min(predictions.c.seq))).scalar()
    last = connection.execute(sa.select(sa.func.max(predictions.c.seq))).scalar()
    return range(0) if first is None or last is None else range(first, last + 1)


def _bytes_used(connection: sa.Connection) -> float:
    """What is in use: pages of SQLite's file, or the room of PostgreSQL's table of predictions with its indexes."""
    if is_shared(connection):
        return _bytes_of_table(connection)
    pages, free, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
        for name in ("page_count", "freelist_count", "page_size")
    )
    return float((pages - free) * size)


def _bytes_of_table(connection: sa.Connection) -> float:
    """The table's files; as they do not shrink, the room that its rows take where that is less."""
    total = float(connection.execute(sa.select(sa.func.pg_total_relation_size(predictions.name))).scalar() or 0)
    key, places = predictions.c.seq, _places(connection)
    chosen = random.sample(places, min(SAMPLE, len(places)))
    texts = [column for column in predictions.c if isinstance(column.type, sa.Text)]
    width = sum((sa.func.coalesce(sa.func.pg_column_size(column), 0) for column in texts), start=sa.literal(0))
    in_index = sa.func.coalesce(sa.func.pg_column_size(predictions.c.id), 0)
    # 28 bytes of a row's head, some 64 of its numbers; 44 of both index entries, in pages that are 70 % full.
    row = width + 28 + 64 + (44 + in_index) / 0.7
    there, mean = connection.execute(sa.select(sa.func.count(), sa.func.avg(row)).where(key.in_(chosen))).one()
    if not there:
        return total
    return float(min(total, float(mean) * there / len(chosen) * len(places)))
