"""The only SQL: predictions and users' feedback, on disk.

One thread writes. Predictions wait in a bounded buffer and are committed in groups; a user's
word is committed, and on disk, before it is acknowledged. Words that wait at the same time
share a commit.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.events import Feedback
from exporter.store.backlog import GLANCE_SECONDS, Backlog, ReviewState
from exporter.store.damage import damaged, set_aside
from exporter.store.engine import (
    is_chance,
    is_out,
    is_shared,
    open_engine,
    patience,
    reason,
    shown_url,
    was_committed,
    write_alone,
    write_beside,
)
from exporter.store.migrations import migrate
from exporter.store.retention import Retention
from exporter.store.rows import Rows, insert_predictions
from exporter.store.words import Redact, Verdict, Word, Words

log = logging.getLogger(__name__)

GROUP = 2000
"""Predictions in one transaction: enough to be fast, few enough that feedback never waits long."""
GATHER_SECONDS = 0.2
"""Patience for a group to fill: a commit a moment later costs the disk as much as one now."""
IDLE_SECONDS = 60.0
"""How long the writer sleeps when there is nothing to do."""
DISK_SECONDS = 10.0
"""How long one waits for a commit."""
ROOM_SECONDS = 10.0
"""How long a slow disk may hold up the counting of events."""
BUFFER = 50_000
"""Predictions that may wait for the disk."""
BUFFER_BYTES = 128 * 2**20
"""Bytes of inputs that may wait for the disk."""

_T = TypeVar("_T")
_Job = tuple[Callable[[sa.Connection, list[Verdict]], Any], Future[Any]]


class _Group(NamedTuple):
    """Predictions in one transaction: which, their parts and rows in the buffer, and what they joined."""

    transaction: int | None
    parts: int
    rows: int
    size: int
    joined: set[str]
    verdicts: list[Verdict]


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
        See `Words`.

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
        counted: Callable[[Verdict], None],
        failed: Callable[[], None] = lambda: None,
        redact: Redact = lambda _, inputs: inputs,
    ) -> None:
        self._counted = counted
        self._failed = failed
        self._retention = Retention(config)
        self._buffer: deque[tuple[Rows, int]] = deque()
        self._buffered = self._bytes = 0
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = self._failing = self._out = False
        self._trying = 0
        self._doubt: _Group | None = None
        self._added = 0
        self._retry_at = self._pause = self._sweep_at = 0.0
        self._config = config
        try:
            set_aside(config)
            migrate(config)
            self._engine = open_engine(config)
            self._shared = is_shared(self._engine)
            self._backlog = Backlog(self.reading, shared=self._shared)
            self.replica = (config.replica or socket.gethostname()) if self._shared else ""
            with self._engine.begin() as connection:
                self._words = Words(connection, redact)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise StoreError(f"store.url: cannot open {shown_url(config.url)}: {reason(error)}") from None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

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
        size = rows.size
        with self._wake:
            if not self._has_room(len(rows), size):
                self._wake.wait_for(lambda: self._failing or self._has_room(len(rows), size), ROOM_SECONDS)
            if not self._has_room(len(rows), size):
                return len(rows)
            self._buffer.append((rows, size))
            self._buffered += len(rows)
            self._bytes += size
            self._wake.notify_all()
        return 0

    def _has_room(self, rows: int, size: int) -> bool:
        return self._buffered + rows <= BUFFER and self._bytes + size <= BUFFER_BYTES

    def ask(self, call: Callable[[sa.Connection, list[Verdict]], _T]) -> Future[_T]:
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
        future: Future[_T] = Future()
        with self._wake:
            if self._closing:
                raise StoreError("the store is closing")
            if self._out and self._trying:  # one finds out whether it is back; the others need not wait for that
                raise StoreError("nothing was taken: the database cannot be reached")
            self._trying += 1
            self._jobs.append((call, future))
            self._wake.notify_all()
        future.add_done_callback(self._tried)
        return future

    def _tried(self, _: Future[Any]) -> None:
        with self._wake:
            self._trying -= 1

    def write(self, call: Callable[[sa.Connection, list[Verdict]], _T]) -> _T:
        """Wait for what `ask` asks.

        Raises
        ------
        StoreError
            When nothing was written, or nobody knows yet whether it will be: repeat it.
        """
        return _waited_for(self.ask(call))

    def ask_feedback(self, words: Sequence[Feedback], key: str | None) -> Future[list[Word]]:
        """Have users' words taken, checked ones, of a request with an idempotency key; see `ask`."""
        return self.ask(lambda connection, verdicts: self._words.take(connection, words, key, verdicts))

    def feedback(self, words: Sequence[Feedback], key: str | None) -> list[Word]:
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
            raise StoreError(reason(error)) from None

    def _connected(self) -> sa.Connection:
        if not self._out:
            return self._engine.connect()
        with patience(GLANCE_SECONDS):
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
        return self._thread.is_alive()

    @property
    def damaged(self) -> int:
        """Damaged databases that were set aside and still lie there."""
        return damaged(self._config)

    @property
    def waiting(self) -> int:
        """Predictions that are not on disk yet."""
        return self._buffered

    def flush(self, timeout: float) -> bool:
        """Wait until what was handed over is on disk; whether it is, after ``timeout`` seconds at most."""
        deadline = time.monotonic() + timeout
        while self._buffered and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._buffered

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, within ``timeout`` seconds, and end; whether all was written."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        self._engine.dispose()
        return not self._buffered

    # --- the writer's thread -----------------------------------------------------------------

    def _run(self) -> None:
        while not (self._closing and not self._jobs and (self._failing or not self._buffer)):
            try:
                self._turn()
            except Exception:  # whatever it was: without this thread nothing is ever written again
                self._failed()
                log.exception("the store's writer goes on after an error")
                time.sleep(0.5)

    def _turn(self) -> None:
        with self._wake:
            now = time.monotonic()
            until = min(self._sweep_at, self._retry_at if self._buffer else now + IDLE_SECONDS)
            self._wake.wait_for(self._has_work, max(until - now, 0.0))
            if self._has_work() and not self._is_urgent():
                self._wake.wait_for(self._is_urgent, GATHER_SECONDS)
            jobs, self._jobs = self._jobs, deque()
        if jobs:
            self._run_jobs(jobs)
        now = time.monotonic()
        if self._buffer and (self._closing or now >= self._retry_at):
            if self._write_group():
                self._pause = 0.0
            else:
                self._pause = min(2 * self._pause or 0.5, 10.0)
                self._retry_at = now + self._pause
        if now >= self._sweep_at:
            self._sweep_at = now + (0.0 if self._sweep() else self._retention.pause)

    def _has_work(self) -> bool:
        return bool(self._jobs or self._closing or (self._buffer and time.monotonic() >= self._retry_at))

    def _log(self, error: Exception, what: str) -> None:
        self._failed()
        log.error("%s: %s", what, reason(error), exc_info=not isinstance(error, sa.exc.SQLAlchemyError))

    def _is_urgent(self) -> bool:
        return bool(self._jobs) or self._buffered >= GROUP or self._closing

    def _run_jobs(self, jobs: Iterable[_Job]) -> None:
        """Run calls in one transaction; should that fail, each in one of its own, so that none spoils the others."""
        live = [job for job in jobs if job[1].set_running_or_notify_cancel()]
        try:
            self._commit(live)
        except Exception as error:
            if len(live) == 1 or is_out(error):
                self._log(error, "a write failed")
                for _, future in live:
                    future.set_exception(StoreError(f"the database did not take it: {reason(error)}"))
                return
            for call, future in live:
                try:
                    self._commit([(call, future)])
                except Exception as own:
                    self._log(own, "a write failed")
                    future.set_exception(StoreError(f"the database did not take it: {reason(own)}"))

    def _commit(self, jobs: Sequence[_Job]) -> None:
        def run(connection: sa.Connection) -> tuple[list[Any], list[Verdict]]:
            verdicts: list[Verdict] = []
            write_alone(connection)
            return [call(connection, verdicts) for call, _ in jobs], verdicts

        answers, verdicts = self._transact(run)
        # On disk. What fails from here on must not make anybody write it again.
        self._settle(verdicts)
        for (_, future), answer in zip(jobs, answers, strict=True):
            future.set_result(answer)

    def _transact(self, call: Callable[[sa.Connection], _T]) -> _T:
        """What the call answers in a transaction, which is committed then; again where two exporters' collided."""
        tries = 3
        while True:
            tries -= 1
            try:
                with self._engine.begin() as connection:
                    answer = call(connection)
            except Exception as error:
                if tries and is_chance(error):
                    continue
                self._out = is_out(error)
                raise
            self._out = False
            return answer

    def _settle(self, verdicts: Iterable[Verdict]) -> None:
        self._backlog.changed()
        for verdict in verdicts:
            try:
                self._counted(verdict)
            except Exception:
                log.exception("a word was written and not counted")

    def _write_group(self) -> bool:
        """Commit the next group of predictions; whether the database took it."""
        try:
            written = self._doubted() or self._insert_group()
        except Exception as error:
            self._log(error, f"{self._buffered} predictions wait for the database")
            with self._wake:
                self._failing = True
                self._wake.notify_all()
            return False
        self._doubt = None
        self._added += written.rows
        with self._wake:
            for _ in range(written.parts):
                self._buffer.popleft()
            self._buffered -= written.rows
            self._bytes -= written.size
            self._failing = False
            self._wake.notify_all()
        self._words.settled(written.joined)
        if written.verdicts:
            self._settle(written.verdicts)
        return True

    def _doubted(self) -> _Group | None:
        """The group whose commit was not answered, if it was committed nevertheless."""
        if self._doubt is None or self._doubt.transaction is None:
            return None
        with self._engine.connect() as connection:
            return self._doubt if was_committed(connection, self._doubt.transaction) else None

    def _insert_group(self) -> _Group:
        group: list[Rows] = []
        count = size = 0
        while len(group) < len(self._buffer) and count < GROUP:
            rows, length = self._buffer[len(group)]
            group.append(rows)
            count += len(rows)
            size += length

        def insert(connection: sa.Connection) -> _Group:
            verdicts: list[Verdict] = []
            self._doubt = None
            transaction = write_beside(connection)
            insert_predictions(connection, group)
            joined = self._words.join(connection, group, verdicts)
            self._doubt = _Group(transaction, len(group), count, size, joined, verdicts)
            return self._doubt

        return self._transact(insert)

    def _sweep(self) -> bool:
        try:
            added, self._added = self._added, 0
            return self._retention.sweep(self._engine, added)
        except Exception as error:
            self._log(error, "retention")
        return False


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
