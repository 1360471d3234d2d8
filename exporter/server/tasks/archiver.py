"""Archives predictions before the retention deletes them, and labels that arrive after that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.monitoring.background import BackgroundTask
from exporter.storage import Store
from exporter.storage._archive import ArchiveWriter, HasDrift
from exporter.storage._engine import error_message, is_shared, open_engine
from exporter.storage._labels import forget_late_labels
from exporter.storage._schema import archived_before, set_archived
from exporter.validation import parse_duration

log = logging.getLogger(__name__)

SECONDS = 60.0
"""Pause between two looks for predictions to archive."""
BUSY_SHARE = 0.5
"""Share of the time that archiving takes, at most: events are counted beside it."""
READ_SECONDS = 600.0
"""How long a statement may take on PostgreSQL."""
_ARCHIVE_LOCK = 0x61726368  # the advisory lock of the exporter that archives


class Archiver(BackgroundTask):
    """Writes what is older than the retention to the archive, in parts; of several exporters, one at a time does it.

    Parameters
    ----------
    config
        The configuration of the store; its ``archive`` is set.
    store
        The store.
    redact
        See `exporter.storage._feedback.Redact`.
    has_drift, redacted
        See `exporter.storage._archive.ArchiveWriter.write_part`.
    count
        Called with the number of predictions that were archived.
    """

    def __init__(
        self,
        config: StoreConfig,
        store: Store,
        redact: Callable[[str, str | None], str | None],
        has_drift: HasDrift,
        count: Callable[[float], Any],
        *,
        redacted: Callable[[], object],
    ) -> None:
        super().__init__("archive", "predictions could not be archived", SECONDS, busy_share=BUSY_SHARE)
        self._store, self._count = store, count
        self._redact, self._has_drift, self._redacted = redact, has_drift, redacted
        self._archive = ArchiveWriter(config.archive or "", config.archive_share)
        self._retention = parse_duration(config.retention)
        self._engine = open_engine(config, READ_SECONDS)

    def refresh(self) -> None:
        """Archive one part of the days that are older than the retention."""
        self.seconds = SECONDS
        with self._engine.connect() as connection:
            if not is_shared(connection):
                self._archive_part(connection)
            elif connection.execute(sa.select(sa.func.pg_try_advisory_lock(_ARCHIVE_LOCK))).scalar():
                try:
                    self._archive_part(connection)
                finally:
                    connection.rollback()  # after an error, PostgreSQL refuses further statements
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(_ARCHIVE_LOCK)))

    def _archive_part(self, connection: sa.Connection) -> None:
        """Write a part of the predictions, and one of late labels, and tell the database of each."""
        before_day = int((time.time() - self._retention) // 86400)
        if archived_before(connection) < before_day:  # labels that arrive from now on may be too late for the part
            connection.rollback()
            self._store.execute(partial(_set, day=before_day))
        part = self._archive.write_part(connection, before_day, self._redact, self._has_drift, self._redacted)
        if part.last is not None:
            self._store.execute(partial(_set, seq=part.last))
            self._count(part.rows)
            log.info("%d predictions were archived in %s", part.rows, self._archive.shown)
        late = self._archive.write_late_labels(connection, int(time.time() // 86400))
        if late.last is not None:
            self._store.execute(partial(_forget, late.last))
            log.info("%d late labels were archived in %s", late.rows, self._archive.shown)
        if part.is_full or late.is_full:
            self.seconds = 0.0

    def close(self, timeout: float = 1.0) -> None:
        """See `BackgroundTask.close`."""
        super().close(timeout)
        self._engine.dispose()

    def on_error(self, error: Exception) -> None:
        """Say why predictions are kept; the next call tries again."""
        if not isinstance(error, StoreError | sa.exc.SQLAlchemyError):
            super().on_error(error)
            return
        self._store.report_failure()
        log.error("predictions are kept until they can be archived: %s", error_message(error))


def _set(connection: sa.Connection, _: Any, **values: int) -> None:
    set_archived(connection, **values)


def _forget(last: int, connection: sa.Connection, _: Any) -> None:
    forget_late_labels(connection, last)
