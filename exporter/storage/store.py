"""The only SQL: predictions and users' feedback, on disk.

One thread writes. Predictions wait in a bounded buffer and are committed in groups; a user's
word is committed, and on disk, before it is acknowledged. Words that wait at the same time
share a commit.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.events import Feedback
from exporter.storage.backlog import GLANCE_SECONDS, Backlog, ReviewState
from exporter.storage.engine import error_message, is_shared, open_engine, shown_url
from exporter.storage.feedback import CountedFeedback, FeedbackRecorder, FeedbackResult, Redact
from exporter.storage.migrations import migrate
from exporter.storage.prediction_rows import Rows
from exporter.storage.quarantine import damaged, quarantine
from exporter.storage.retention import Retention
from exporter.storage.timeout import statement_timeout
from exporter.storage.writer import Writer

log = logging.getLogger(__name__)

DISK_SECONDS = 10.0
"""How long one waits for a commit."""

_T = TypeVar("_T")


class Store:
    """Predictions and feedback in one database.

    Parameters
    ----------
    config
        Where, and how long.
    counted
        Called from the writer's thread with each word that counts, after its commit.
    failed
        Called at each failed read or write.
    redact
        See `FeedbackRecorder`.

    Attributes
    ----------
    replica : str
        Whose snapshots of windows are this exporter's: a shared database holds those of several.

    Raises
    ------
    StoreError
        When the database cannot be opened.
    """

    def __init__(
        self,
        config: StoreConfig,
        counted: Callable[[CountedFeedback], None],
        failed: Callable[[], None] = lambda: None,
        redact: Redact = lambda _, inputs: inputs,
    ) -> None:
        self._counted = counted
        self._failed = failed
        self._config = config
        try:
            quarantine(config)
            migrate(config)
            self._engine = open_engine(config)
            self._shared = is_shared(self._engine)
            self._backlog = Backlog(self.reading, shared=self._shared)
            self.replica = (config.replica or socket.gethostname()) if self._shared else ""
            with self._engine.begin() as connection:
                self._words = FeedbackRecorder(connection, redact)
            self._writer = Writer(self._engine, Retention(config), self._words, self._settled, failed)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise StoreError(f"store.url: cannot open {shown_url(config.url)}: {error_message(error)}") from None

    def add(self, rows: Rows) -> int:
        """Hand over predictions.

        Parameters
        ----------
        rows
            The predictions.

        Returns
        -------
        int
            How many were dropped. While the disk is only slow this waits for room, so that the queue
            before it fills and clients hear 503; while the database fails, what finds no room is lost.
        """
        return self._writer.add(rows)

    def ask(self, call: Callable[[sa.Connection, list[CountedFeedback]], _T]) -> Future[_T]:
        """Have a call run in the writer's thread, in a transaction; what it says is on disk once it is there.

        Calls that wait at the same time share a commit. No other transaction writes meanwhile, not even
        another exporter's: what a call reads stays true until it is committed.

        Parameters
        ----------
        call
            Takes the connection, and a list for what counts once it is committed. It may run
            twice: what shared its commit may have failed.

        Returns
        -------
        Future
            Raises StoreError where nothing was written.

        Raises
        ------
        StoreError
            When it is known already that nothing will be.
        """
        return self._writer.ask(call)

    def write(self, call: Callable[[sa.Connection, list[CountedFeedback]], _T]) -> _T:
        """Wait for what `ask` asks.

        Raises
        ------
        StoreError
            When nothing was written, or nobody knows yet whether it will be: repeat it.
        """
        return _waited_for(self.ask(call))

    def ask_feedback(self, words: Sequence[Feedback], key: str | None) -> Future[list[FeedbackResult]]:
        """Have users' words taken, checked ones, of a request with an idempotency key; see `ask`."""
        return self.ask(lambda connection, verdicts: self._words.take(connection, words, key, verdicts))

    def feedback(self, words: Sequence[Feedback], key: str | None) -> list[FeedbackResult]:
        """Wait for what `ask_feedback` asks; see `write`."""
        return _waited_for(self.ask_feedback(words, key))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the database, beside the writer.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        try:
            with self._connected() as connection:
                if self._shared:
                    connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except sa.exc.SQLAlchemyError as error:
            self._failed()
            raise StoreError(error_message(error)) from None

    def _connected(self) -> sa.Connection:
        if not self._writer.out:
            return self._engine.connect()
        with statement_timeout(GLANCE_SECONDS):
            return self._engine.connect()

    def review_state(self) -> ReviewState:
        """What waits for review and what was released.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        return self._backlog.state()

    @property
    def alive(self) -> bool:
        """Whether the writer's thread lives."""
        return self._writer.alive

    @property
    def damaged(self) -> int:
        """Damaged databases that were set aside and still lie there."""
        return damaged(self._config)

    @property
    def waiting(self) -> int:
        """Predictions that are not on disk yet."""
        return self._writer.waiting

    def flush(self, timeout: float) -> bool:
        """Wait until what was handed over is on disk; whether it is, after ``timeout`` seconds at most."""
        deadline = time.monotonic() + timeout
        while self.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self.waiting

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, within ``timeout`` seconds, and end; whether all was written."""
        self._writer.close(timeout)
        self._engine.dispose()
        return not self.waiting

    def _settled(self, verdicts: Iterable[CountedFeedback]) -> None:
        self._backlog.changed()
        for verdict in verdicts:
            try:
                self._counted(verdict)
            except Exception:
                log.exception("a word was written and not counted")


def _waited_for(future: Future[_T]) -> _T:
    try:
        return future.result(DISK_SECONDS)
    except TimeoutError:
        raise given_up(future) from None


def given_up(future: Future[Any]) -> StoreError:
    """What is to be said where an answer did not come in `DISK_SECONDS`; it will not be written but if it just is."""
    if future.cancel():
        return StoreError("nothing was taken: the database did not answer in time")
    return StoreError(
        "the database is slow, and it is not known yet whether it was taken: repeat it, with an Idempotency-Key"
    )
