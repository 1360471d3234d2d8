"""The one thread that writes: predictions in groups, users' words as they come, and what is too old away."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage.engine import (
    error_message,
    is_retryable,
    is_shared,
    is_unavailable,
    was_committed,
    write_alone,
    write_beside,
)
from exporter.storage.feedback import CountedFeedback, FeedbackRecorder
from exporter.storage.prediction_rows import Rows, insert_predictions
from exporter.storage.retention import Retention

log = logging.getLogger(__name__)

GROUP = 2000
"""Predictions in one transaction: enough to be fast, few enough that feedback never waits long."""
GATHER_SECONDS = 0.2
"""Patience for a group to fill: a commit a moment later costs the disk as much as one now."""
IDLE_SECONDS = 60.0
"""How long the writer sleeps when there is nothing to do."""
ROOM_SECONDS = 10.0
"""How long a slow disk may hold up the counting of events."""
BUFFER = 50_000
"""Predictions that may wait for the disk."""
BUFFER_BYTES = 128 * 2**20
"""Bytes of inputs that may wait for the disk."""

_T = TypeVar("_T")
_Job = tuple[Callable[[sa.Connection, list[CountedFeedback]], Any], Future[Any]]


class _Group(NamedTuple):
    """Predictions in one transaction: which, their parts and rows in the buffer, and what they joined."""

    transaction: int | None
    parts: int
    rows: int
    size: int
    joined: set[str]
    verdicts: list[CountedFeedback]


class Writer:
    """Predictions wait in a bounded buffer and are committed in groups; calls that wait share a commit.

    Parameters
    ----------
    engine
        The database.
    retention
        What is deleted.
    words
        Joins predictions with feedback that came before them.
    settled
        Called after each commit of calls, and of predictions that feedback waited for, with what counts now.
    failed
        Called at each failed write.

    Attributes
    ----------
    out : bool
        Whether the database could not be reached at the last try.
    """

    def __init__(
        self,
        engine: sa.Engine,
        retention: Retention,
        words: FeedbackRecorder,
        settled: Callable[[Iterable[CountedFeedback]], None],
        failed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._retention = retention
        self._words = words
        self._settled = settled
        self._failed = failed
        self._buffer: deque[tuple[Rows, int]] = deque()
        self._buffered = self._bytes = 0
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = self._failing = self.out = False
        self._trying = 0
        self._doubt: _Group | None = None
        self._added = 0
        self._retry_at = self._pause = self._sweep_at = 0.0
        # One to PostgreSQL is taken anew each time: so a lost one is found before anything is written with it.
        self._kept = None if is_shared(engine) else engine.connect()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Predictions that are not on disk yet."""
        return self._buffered

    def close(self, timeout: float) -> None:
        """Write what waits, within ``timeout`` seconds, and end."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        if self._kept and not self.alive:
            self._kept.close()

    def add(self, rows: Rows) -> int:
        """See `Store.add`."""
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

    def ask(self, call: Callable[[sa.Connection, list[CountedFeedback]], _T]) -> Future[_T]:
        """See `Store.ask`."""
        future: Future[_T] = Future()
        with self._wake:
            if self._closing:
                raise StoreError("the store is closing")
            if self.out and self._trying:  # one finds out whether it is back; the others need not wait for that
                raise StoreError("nothing was taken: the database cannot be reached")
            self._trying += 1
            self._jobs.append((call, future))
            self._wake.notify_all()
        future.add_done_callback(self._tried)
        return future

    def _tried(self, _: Future[Any]) -> None:
        with self._wake:
            self._trying -= 1

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
        log.error("%s: %s", what, error_message(error), exc_info=not isinstance(error, sa.exc.SQLAlchemyError))

    def _is_urgent(self) -> bool:
        return bool(self._jobs) or self._buffered >= GROUP or self._closing

    def _run_jobs(self, jobs: Iterable[_Job]) -> None:
        """Run calls in one transaction; should that fail, each in one of its own, so that none spoils the others."""
        live = [job for job in jobs if job[1].set_running_or_notify_cancel()]
        try:
            self._commit(live)
        except Exception as error:
            if len(live) == 1 or is_unavailable(error):
                self._log(error, "a write failed")
                for _, future in live:
                    future.set_exception(StoreError(f"the database did not take it: {error_message(error)}"))
                return
            for call, future in live:
                try:
                    self._commit([(call, future)])
                except Exception as own:
                    self._log(own, "a write failed")
                    future.set_exception(StoreError(f"the database did not take it: {error_message(own)}"))

    def _commit(self, jobs: Sequence[_Job]) -> None:
        def run(connection: sa.Connection) -> tuple[list[Any], list[CountedFeedback]]:
            verdicts: list[CountedFeedback] = []
            write_alone(connection)
            return [call(connection, verdicts) for call, _ in jobs], verdicts

        answers, verdicts = self._transact(run)
        # On disk. What fails from here on must not make anybody write it again.
        self._settled(verdicts)
        for (_, future), answer in zip(jobs, answers, strict=True):
            future.set_result(answer)

    def _transact(self, call: Callable[[sa.Connection], _T]) -> _T:
        """What the call answers in a transaction, which is committed then; again where two exporters' collided."""
        tries = 3
        while True:
            tries -= 1
            try:
                if self._kept is None:
                    with self._engine.begin() as connection:
                        answer = call(connection)
                else:
                    with self._kept.begin():
                        answer = call(self._kept)
            except Exception as error:
                if tries and is_retryable(error):
                    continue
                self.out = is_unavailable(error)
                raise
            self.out = False
            return answer

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
            self._settled(written.verdicts)
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
            verdicts: list[CountedFeedback] = []
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
