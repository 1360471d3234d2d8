"""How many bytes the store holds, and whether there is room for more: ``store.max_size``.

Predictions are deleted to make room. The rest is kept: feedback with its history, review decisions, releases and
snapshots. Nothing is added to it for which there would be no room even without predictions; and a sender of feedback
and labels leaves some for the others, and for the decisions of reviewers.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError, StoreFullError
from exporter.storage import _database as db
from exporter.storage._database import predictions
from exporter.storage._predictions import delete_old_blocks
from exporter.validation import parse_duration, parse_size

log = logging.getLogger(__name__)

SAMPLE = 200
"""Predictions whose size the database is asked for, to estimate that of all."""
ROW_BYTES = 512
"""Assumed size of any other row of the kept tables with its index entries, without its texts."""
MEASURE_SECONDS = 1.0
"""How old the mean size of a prediction may be where it decides whether there is room."""
SENDER_PARTS = 9
"""A sender may add so many times what it leaves free, in the life of the process: nine tenths of what was free."""
FULL_LOG_SECONDS = 60.0
"""Time between two lines that tell that there is no room."""


class Usage(NamedTuple):
    """Bytes of the predictions, and of everything else."""

    predictions: float = 0.0
    kept: float = 0.0


class StoreSize:
    """Measures the store, and refuses what it has no room for; used by the writer's thread alone.

    Parameters
    ----------
    max_size
        ``store.max_size`` of the configuration.

    Attributes
    ----------
    limit : int or None
        The maximum size in bytes.
    usage : Usage
        As it was last measured; any thread may read it.
    """

    def __init__(self, max_size: str | None) -> None:
        self.limit = parse_size(max_size) if max_size else None
        self.usage = Usage()
        self._row_bytes, self._added = 0.0, Counter[str]()
        self._measured_at = self._log_at = -math.inf

    def measure(self, connection: sa.Connection) -> Usage:
        """Measure the store: SQLite's used pages, or PostgreSQL's tables with their indexes."""
        self._measured_at = time.monotonic()
        self._row_bytes = _mean_row_bytes(connection)
        self.usage = self._usage(connection)
        return self.usage

    def _usage(self, connection: sa.Connection) -> Usage:
        estimate = self._row_bytes * len(prediction_range(connection))
        deletable = [predictions.name, db.inputs.name]
        kept = [name for name in db.metadata.tables if name not in deletable]
        return Usage(*db.backend(connection).measure(connection, estimate, deletable, kept))

    def require(self, connection: sa.Connection, size: int, sender: str | None = None) -> None:
        """Check that there is room for about ``size`` more bytes of what is kept; feedback and labels have a sender.

        Raises
        ------
        StoreFullError
            When there is none, even without any predictions, or what is left is for others.
        """
        if self.limit is None:
            return
        if not self._row_bytes or time.monotonic() > self._measured_at + MEASURE_SECONDS:
            self.measure(connection)
        kept = self._usage(connection).kept
        left = self.limit - kept - size
        # What a sender added is at most all that is kept: the rest of it was deleted since.
        added = size if sender is None else min(self._added[sender], int(kept)) + size
        if left < 0 or (sender is not None and added > SENDER_PARTS * left):
            detail = (
                f"the store has no room: feedback and what else is kept takes {kept / 1e6:.0f} MB of the "
                f"{self.limit / 1e6:.0f} MB of store.max_size"
                f"{'' if left < 0 else '; the rest is for other senders and for reviewers'}; nothing was stored"
            )
            if time.monotonic() >= self._log_at:
                self._log_at = time.monotonic() + FULL_LOG_SECONDS
                log.error("%s", detail)
            raise StoreFullError(detail)
        if sender is not None:
            self._added[sender] = added


def text_bytes(rows: Iterable[Any]) -> int:
    """Return about how many bytes rows of the kept tables take."""
    return sum(ROW_BYTES + sum(len(value) for value in row.values() if isinstance(value, str)) for row in rows)


def prediction_range(connection: sa.Connection) -> range:
    """Return the numbers of predictions, from the first to the last; few in between are unused."""
    first = connection.execute(sa.select(sa.func.min(predictions.c.seq))).scalar()
    last = connection.execute(sa.select(sa.func.max(predictions.c.seq))).scalar()
    return range(0) if first is None or last is None else range(first, last + 1)


def _mean_row_bytes(connection: sa.Connection) -> float:
    """Return the mean bytes of a prediction for each number of `prediction_range`, from a sample."""
    numbers = prediction_range(connection)
    sample = random.sample(numbers, min(SAMPLE, len(numbers)))
    if not sample:
        return 0.0

    def size(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(db.backend(connection).stored_bytes(column), 0)

    texts = [column for column in predictions.c if isinstance(column.type, sa.Text)]
    of_block = sa.select(size(db.inputs.c.data) / db.inputs.c.rows).where(db.inputs.c.id == predictions.c.block)
    # 28 bytes of a row's header, some 64 of its numbers; 44 of both index entries, in pages that are 70% full.
    indexed = 44 + size(predictions.c.id) + size(predictions.c.alias)
    row_bytes = sum(map(size, texts), start=sa.literal(0)) + 28 + 64 + indexed / 0.7
    row_bytes += sa.func.coalesce(of_block.scalar_subquery(), 0)
    query = sa.select(sa.func.count(), sa.func.avg(row_bytes)).where(predictions.c.seq.in_(sample))
    count, mean = connection.execute(query).one()
    return float(mean or 0) * float(count) / len(sample)


SECONDS, SIZE_SECONDS = 60.0, 5.0
"""Time between two sweeps that find nothing to delete: without a maximum size, and with one."""
JUMP_SECONDS, HOLD_SECONDS = 60.0, 3600.0
"""After a clock jumped by more than the first, nothing is deleted for its age during the second: it may be wrong."""
LOST_LOG_SECONDS = 60.0
"""Time between two lines that tell that predictions are lost to the archive."""
MAX_DAY = 10**6
"""A day after all others."""
LATE_SECONDS = 2 * 86400.0
"""How much older than the retention predictions may become before the log says that they are not archived."""
FIRST_BLOCKS = 100
"""Blocks of bins among which the one that began first is."""
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
        self._lost_log_at = self._late_log_at = -math.inf
        self._size = size
        self._step = STEP
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
            db.write_alone(connection)
            surplus = self._surplus(connection)
            too_old = sa.true() if surplus else predictions.c.received < oldest_kept
            if self._archives:
                too_old &= self._is_archived(connection, surplus, archived_up_to(connection))
            limit = min(step, surplus) if surplus else step
            # The oldest have the lowest numbers: only they are read.
            oldest = sa.select(predictions.c.seq).order_by(predictions.c.seq).limit(limit)
            is_next = predictions.c.seq.in_(oldest) & too_old
            start = time.perf_counter()  # what else a step does takes as long with fewer rows
            last_block = connection.execute(sa.select(sa.func.max(predictions.c.block)).where(is_next)).scalar()
            deleted = connection.execute(predictions.delete().where(is_next)).rowcount
            passed = time.perf_counter() - start
            _delete_inputs(connection, last_block or 0)
            orphans = _end_waiting(connection, oldest_kept, step)
            delete_old_blocks(connection, step)
            old_labels = _delete_labels(connection, oldest_kept, step, archives=self._archives)
            late = self._archives and not deleted and _is_late(connection, oldest_kept)
        if deleted == step or passed > STEP_SECONDS:
            self._step = int(min(max(step * min(STEP_SECONDS / passed, 2), MIN_STEP), MAX_STEP))
        if late and time.monotonic() >= self._late_log_at:
            self._late_log_at = time.monotonic() + LOST_LOG_SECONDS
            raise StoreError("predictions older than store.retention are kept until `model-exporter archive` has run")
        return deleted == limit or step in {orphans, old_labels}

    def _is_archived(self, connection: sa.Connection, surplus: int, last: int) -> sa.ColumnElement[bool]:
        """Return the condition of rows that may be deleted: archived ones and, beyond the maximum size, all."""
        if not surplus:
            return predictions.c.seq <= last
        if prediction_range(connection).start > last and time.monotonic() >= self._lost_log_at:
            self._lost_log_at = time.monotonic() + LOST_LOG_SECONDS
            log.error("predictions are deleted that are not archived: the store is larger than store.max_size")
        return sa.true()

    def _surplus(self, connection: sa.Connection) -> int:
        """Estimate how many predictions exceed the maximum size."""
        used, limit = sum(self._size.measure(connection)), self._size.limit
        if limit is None or used <= limit:
            return 0
        return math.ceil((1 - limit / used) * len(prediction_range(connection)))


def _delete_inputs(connection: sa.Connection, last: int) -> None:
    """Delete the blocks of inputs of deleted predictions: blocks are numbered about in the order of the predictions.

    The last block of those that were just deleted is the last of all if the predictions that follow have no inputs.
    """
    first = (
        sa.select(predictions.c.block)
        .order_by(predictions.c.seq)
        .limit(db.backend(connection).NUMBERED_TOGETHER)
        .subquery()
    )
    oldest = sa.func.coalesce(sa.select(sa.func.min(first.c.block)).scalar_subquery(), last + 1)
    is_old = (db.inputs.c.id < oldest) | ~sa.exists(sa.select(predictions.c.seq))
    connection.execute(db.inputs.delete().where(is_old))


def _is_late(connection: sa.Connection, oldest_kept: float) -> bool:
    """Return whether predictions wait for the archive since days ago: the timer that writes it may have failed."""
    oldest = connection.execute(sa.select(predictions.c.received).order_by(predictions.c.seq).limit(1)).scalar()
    return oldest is not None and oldest < oldest_kept - LATE_SECONDS


def _delete_labels(connection: sa.Connection, oldest_kept: float, limit: int, *, archives: bool) -> int:
    """Delete labels that arrived too long ago, and return their number, at most ``limit``.

    Labels of a day stay as long as there are predictions or bins of it: what is asked of the database, or of the
    archive, finds all three there. Labels that nothing came for are archived as they are.
    """
    oldest = sa.select(db.labels.c.id).order_by(db.labels.c.id).limit(limit)
    is_old = db.labels.c.id.in_(oldest) & (db.labels.c.received < oldest_kept)
    first = sa.select(predictions.c.received).order_by(predictions.c.seq).limit(1).scalar_subquery()
    block = sa.select(db.bin_codes.c.first).order_by(db.bin_codes.c.seq).limit(FIRST_BLOCKS).subquery()
    starts = connection.execute(sa.select(first, sa.select(sa.func.min(block.c.first)).scalar_subquery())).one()
    first_day = int(min((start for start in starts if start is not None), default=86400.0 * MAX_DAY) // 86400)
    is_old &= db.labels.c.day < first_day
    if archives:
        queued = {"id": db.labels.c.prediction_id, "label_time": db.labels.c.time, "received": sa.literal(time.time())}
        queued |= {name: db.labels.c[name] for name in ("model", "label")}
        waited = sa.select(*queued.values()).where(is_old, db.is_waiting)
        connection.execute(db.late_labels.insert().from_select([*queued], waited))
    return connection.execute(db.labels.delete().where(is_old)).rowcount


def _end_waiting(connection: sa.Connection, oldest_kept: float, limit: int) -> int:
    """End the wait for predictions that do not come: feedback that describes its own stays, other is deleted.

    Returns
    -------
    int
        How much feedback no longer waits; at most ``limit``.
    """
    query = sa.select(db.feedback.c.id, db.feedback.c.version).limit(limit)
    rows = connection.execute(query.where(db.is_unjoined, db.feedback.c.updated < oldest_kept)).all()
    described = [row.id for row in rows if row.version is not None]
    orphans = [row.id for row in rows if row.version is None]
    if described:
        joined = db.feedback.update().where(db.feedback.c.id.in_(described))
        connection.execute(joined.values(joined=True, predicted=db.feedback.c.created))
    if orphans:
        connection.execute(db.history.delete().where(db.history.c.feedback_id.in_(orphans)))
        connection.execute(db.feedback.delete().where(db.feedback.c.id.in_(orphans)))
    return len(rows)


def archived_up_to(connection: sa.Connection) -> int:
    """Return the number of the last archived prediction; 0 for none."""
    return connection.execute(sa.select(db.archived.c.seq)).scalar() or 0


def archived_before(connection: sa.Connection) -> int:
    """Return the day, since 1970, before which predictions are or are being archived; 0 for none."""
    return connection.execute(sa.select(db.archived.c.day)).scalar() or 0


def set_archived(connection: sa.Connection, **values: int) -> None:
    """Store ``seq``, the number of the last archived prediction, or ``day``, see `archived_before`."""
    if not connection.execute(db.archived.update().values(values)).rowcount:
        connection.execute(db.archived.insert().values(values))
