"""Delete predictions that are too old or too many with their bins, old labels, and unjoined feedback."""

from __future__ import annotations

import logging
import math
import time

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.storage.archive import archived_up_to
from exporter.storage.bin_codes import delete_old_blocks
from exporter.storage.engine import write_alone
from exporter.storage.schema import feedback, history, is_unjoined, labels, predictions
from exporter.storage.size import StoreSize, prediction_range
from exporter.storage.unjoined_log import UnjoinedLog
from exporter.validation import parse_duration

log = logging.getLogger(__name__)

SECONDS, SIZE_SECONDS = 60.0, 5.0
"""Time between two sweeps that find nothing to delete: without a maximum size, and with one."""
JUMP_SECONDS, HOLD_SECONDS = 60.0, 3600.0
"""After a clock jumped by more than the first, nothing is deleted for its age during the second: it may be wrong."""
LOG_SECONDS = 60.0
"""Time between two lines that tell that predictions are lost to the archive."""
MAX_DAY = 10**6
"""A day after all others."""
HOUR = 3600.0
"""Seconds."""
STEP_SECONDS = 0.05
"""How long one step may lock the database: the number of rows in a step follows from it."""
STEP, MIN_STEP, MAX_STEP = 200, 10, 5000
"""Rows of the first step, and bounds of any step's."""


class Retention:
    """Deletes in small steps, the oldest first; joined feedback and its copy of the prediction stay.

    Parameters
    ----------
    config
        The retention.
    size
        Measures the store; knows the maximum size.
    """

    def __init__(self, config: StoreConfig, size: StoreSize) -> None:
        self._seconds = parse_duration(config.retention)
        self._archives = config.archive is not None
        self._samples = config.archive is not None and config.archive_share < 1
        self._lost_log_at = -math.inf
        self._size = size
        self._step = STEP
        self._unjoined_log = UnjoinedLog()
        self._offset, self._held_until = time.time() - time.monotonic(), -math.inf
        self.pause = SECONDS if size.limit is None else SIZE_SECONDS

    def _oldest_kept(self) -> float:
        """Return the Unix time before which predictions are too old; for an hour after a jump of the clock, none is."""
        now, monotonic = time.time(), time.monotonic()
        jumped, self._offset = now - monotonic - self._offset, now - monotonic
        if abs(jumped) > JUMP_SECONDS:
            log.warning("the clock jumped by %+.0f s: for an hour, nothing is deleted because of its age", jumped)
            self._held_until = monotonic + HOLD_SECONDS
        return now - self._seconds if monotonic >= self._held_until else -math.inf

    def sweep(self, engine: sa.Engine, added: int) -> bool:
        """Delete one step; return whether more is left to delete.

        Parameters
        ----------
        engine
            The database.
        added
            Predictions written since the previous step; twice as many may be deleted, so that deletion catches up.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            When the database fails.
        """
        oldest_kept = self._oldest_kept()
        step = min(max(self._step, 2 * added), MAX_STEP)
        with engine.begin() as connection:
            write_alone(connection)
            surplus = self._surplus(connection)
            too_old = sa.true() if surplus else predictions.c.received < oldest_kept
            archived = archived_up_to(connection)
            if self._archives:
                too_old &= self._is_archived(connection, surplus, archived)
            if archived:  # SQLite would give the numbers of what is archived again, once the table is empty
                too_old &= predictions.c.seq < sa.select(sa.func.max(predictions.c.seq)).scalar_subquery()
            limit = min(step, surplus) if surplus else step
            # The oldest have the lowest numbers: only they are read.
            oldest = sa.select(predictions.c.seq).order_by(predictions.c.seq).limit(limit)
            start = time.perf_counter()  # what else a step does takes as long with fewer rows
            deleted = connection.execute(predictions.delete().where(predictions.c.seq.in_(oldest), too_old)).rowcount
            passed = time.perf_counter() - start
            orphans = _end_waiting(connection, oldest_kept, step)
            old_labels = _delete_labels(connection, oldest_kept, step, archived if self._archives else None)
            # Whether an hour had drift is asked until all of it is archived.
            delete_old_blocks(connection, step, HOUR if self._samples and not surplus else 0.0)
            self._unjoined_log.write(connection)
        if deleted == step or passed > STEP_SECONDS:
            self._step = int(min(max(step * min(STEP_SECONDS / passed, 2), MIN_STEP), MAX_STEP))
        return deleted == limit or step in {orphans, old_labels}

    def _is_archived(self, connection: sa.Connection, surplus: int, last: int) -> sa.ColumnElement[bool]:
        """Return the condition of rows that may be deleted: archived ones and, beyond the maximum size, all."""
        if not surplus:
            return predictions.c.seq <= last
        if prediction_range(connection).start > last and time.monotonic() >= self._lost_log_at:
            self._lost_log_at = time.monotonic() + LOG_SECONDS
            log.error("predictions are deleted that are not archived: the store is larger than store.max_size")
        return sa.true()

    def _surplus(self, connection: sa.Connection) -> int:
        """Estimate how many predictions exceed the maximum size."""
        used, limit = sum(self._size.measure(connection)), self._size.limit
        if limit is None or used <= limit:
            return 0
        return math.ceil((1 - limit / used) * len(prediction_range(connection)))


def _delete_labels(connection: sa.Connection, oldest_kept: float, limit: int, archived: int | None) -> int:
    """Delete labels that arrived too long ago, and return their number, at most ``limit``.

    Those of predictions that are to be archived stay: ``archived`` is the number of the last one that is.
    """
    oldest = sa.select(labels.c.id).order_by(labels.c.id).limit(limit)
    is_old = labels.c.id.in_(oldest) & (labels.c.received < oldest_kept)
    if archived is not None:
        first = sa.select(predictions.c.day).where(predictions.c.seq > archived).order_by(predictions.c.seq).limit(1)
        is_old &= labels.c.day < sa.func.coalesce(first.scalar_subquery(), MAX_DAY)
    return connection.execute(labels.delete().where(is_old)).rowcount


def _end_waiting(connection: sa.Connection, oldest_kept: float, limit: int) -> int:
    """End the wait for predictions that do not come: feedback that describes its own stays, other is deleted.

    Returns
    -------
    int
        How much feedback no longer waits; at most ``limit``.
    """
    query = sa.select(feedback.c.id, feedback.c.version).where(is_unjoined, feedback.c.updated < oldest_kept)
    rows = connection.execute(query.limit(limit)).all()
    described = [row.id for row in rows if row.version is not None]
    orphans = [row.id for row in rows if row.version is None]
    if described:
        joined = feedback.update().where(feedback.c.id.in_(described))
        connection.execute(joined.values(joined=True, predicted=feedback.c.created))
    if orphans:
        connection.execute(history.delete().where(history.c.feedback_id.in_(orphans)))
        connection.execute(feedback.delete().where(feedback.c.id.in_(orphans)))
    return len(rows)
