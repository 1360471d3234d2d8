"""Joins feedback and labels with archived predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.monitoring.background import BackgroundTask
from exporter.storage import Store
from exporter.storage._archive import Archive, LateRows, find_archived
from exporter.storage._predictions import Rows
from exporter.storage._schema import archived_up_to

log = logging.getLogger(__name__)

SECONDS, BUSY_SHARE = 600.0, 0.05
"""Pause between two looks for what waits, and share of the time that looking into the archive takes, at most."""
SEARCH_SECONDS = 30.0
"""Time after which a search is interrupted; the next call continues it."""


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
        self._search: Iterator[list[Rows]] | None = None

    def refresh(self) -> None:
        """Continue the search that was interrupted, or look for the predictions of what waits since the last look."""
        end = time.monotonic() + SEARCH_SECONDS
        if self._search is None:
            with self._store.reading() as connection:
                waiting, last = self._late.waiting(connection), archived_up_to(connection)
            self._search = find_archived(self._archive, last, waiting)
        for rows in self._search:
            if rows and (number := self._store.join(rows)):
                log.info("feedback or labels of %d archived predictions were joined", number)
            if time.monotonic() > end or self.closing.is_set():
                return
        self._search = None

    def on_error(self, error: Exception) -> None:
        """Log what the database or the archive says; the next call looks for everything that waits again."""
        self._late, self._search = LateRows(), None
        if isinstance(error, StoreError):
            log.error("%s: %s", self.failure, error)
        else:
            super().on_error(error)
