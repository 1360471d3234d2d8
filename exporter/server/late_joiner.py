"""Joins feedback and labels with archived predictions."""

from __future__ import annotations

import logging
import time

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.monitoring.background import BackgroundTask
from exporter.storage import Store
from exporter.storage.archive import Archive
from exporter.storage.late_rows import LateRows, find_archived

log = logging.getLogger(__name__)

SECONDS, BUSY_SHARE = 600.0, 0.05
"""Pause between two looks for what waits, and share of the time that looking into the archive takes, at most."""
SEARCH_SECONDS = 30.0
"""Time after which a search ends: the oldest files of a large archive are not looked at."""


class LateJoiner(BackgroundTask):
    """Looks into the archive for the predictions of feedback and labels that arrive after the retention.

    Parameters
    ----------
    config
        The configuration of the store; its ``archive`` is set.
    store
        The store.
    """

    def __init__(self, config: StoreConfig, store: Store) -> None:
        super().__init__("late-joins", "late feedback was not joined", SECONDS, busy_share=BUSY_SHARE)
        self._archive = Archive(config.archive or "", config.archive_share)
        self._store, self._late = store, LateRows()

    def refresh(self) -> None:
        """Look for the predictions of what waits since the last look."""
        end = time.monotonic() + SEARCH_SECONDS
        with self._store.reading() as connection:
            ids = self._late.identifiers(connection)
            for rows in find_archived(connection, self._archive, ids):
                if rows and (number := self._store.join(rows)):
                    log.info("feedback or labels of %d archived predictions were joined", number)
                ids.difference_update(*(row.ids for row in rows))
                if not ids or time.monotonic() > end or self.closing.is_set():
                    break

    def on_error(self, error: Exception) -> None:
        """Log what the database or the archive says; the next call looks for everything that waits again."""
        self._late = LateRows()
        if isinstance(error, StoreError):
            log.error("%s: %s", self.failure, error)
        else:
            super().on_error(error)
