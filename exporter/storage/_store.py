"""The store: predictions, users' feedback and labels in one database.

One thread writes. Predictions wait in a bounded buffer and are committed in groups. Feedback is committed, and on disk,
before it is acknowledged, and so are labels; feedback that waits at the same time shares a commit.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from exporter.config import StoreConfig, sampled_share
from exporter.errors import StoreError, StoreFullError
from exporter.storage import _database as db
from exporter.storage._feedback import CountedFeedback, Counts, FeedbackRecorder, FeedbackResult, Redact, Tolerances
from exporter.storage._labels import (
    Labels,
    LabelsResult,
    Loss,
    Marked,
    class_loss,
    read_corrections,
    read_losses,
)
from exporter.storage._predictions import (
    BinBlock,
    RecordedBins,
    Rows,
    insert_block,
    insert_predictions,
    prediction_rows,
    store_inputs,
)
from exporter.storage._releases import Releases, RetrainRequests, Snapshots
from exporter.storage._retention import Retention, StoreSize
from exporter.storage._review import SCRAPE_TIMEOUT_SECONDS, Review
from exporter.storage._sqlite import (
    DatabaseFile,
    DatabaseLock,
    count_damaged,
    database_path,
    is_damage,
    last_backup,
    quarantine,
)
from exporter.validation import Tolerance
from exporter.wire.batch import Batch
from exporter.wire.events import Feedback, LabelEvent, LabelledPrediction

MAX_ROWS = 50_000
"""Predictions that may wait for the disk, at most."""
MAX_BYTES = 128 * 2**20
"""Bytes of inputs that may wait for the disk, at most."""
BUSY_SHARE = 0.08
"""Share of both while the database takes what is written: predictions of others must not wait long behind them."""
GROUP = 2000
"""Predictions in one transaction: enough to be fast, few enough that feedback does not wait long."""


_ATTEMPTS = 3


class Refusal(NamedTuple):
    """Since which Unix time a database has refused writes, and why."""

    since: float
    why: str


class WriteTransactions:
    """Run calls in transactions, one after the other, and check the file of an SQLite database before each.

    Parameters
    ----------
    engine
        The database. SQLite keeps one connection; for PostgreSQL each transaction takes one from the pool, which
        replaces lost ones.

    Attributes
    ----------
    unavailable : bool
        Whether the database could not be reached at the last attempt.
    refusal : Refusal or None
        Since when, and why, the database has refused what was written; None while it does not.
    file : DatabaseFile or None
        The file of an SQLite database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.unavailable = False
        self.refusal: Refusal | None = None
        self._connection = None if db.is_shared(engine) else engine.connect()
        self.file = self._connection and DatabaseFile(Path(engine.url.database or "").resolve(), self._connection)

    @property
    def fault(self) -> str | None:
        """Why nothing is written until somebody acts; None where the file of an SQLite database is in order."""
        return self.file.fault if self.file else None

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()

    def run(self, call: Callable[[sa.Connection], _T]) -> _T:
        """Run a call in a transaction and return its result; repeat it when it collided with another exporter's."""
        attempts = _ATTEMPTS
        while True:
            attempts -= 1
            try:
                with self.begin() as connection:
                    result = call(connection)
            except Exception as error:
                if attempts and db.is_retryable(error):
                    continue
                self.unavailable = db.is_unavailable(error)
                if isinstance(error, sa.exc.SQLAlchemyError):
                    why = "it cannot be reached" if self.unavailable else db.error_message(error)
                    self.refusal = Refusal(self.refusal.since if self.refusal else time.time(), why)
                raise
            self.unavailable, self.refusal = False, None
            return result

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Begin a transaction, which is committed at the end."""
        if self._connection is None:
            with self._engine.begin() as connection:
                yield connection
        else:
            with self._connection.begin():
                if self.file:
                    self.file.check(self._connection)
                yield self._connection


log = logging.getLogger(__name__)

GATHER_SECONDS = 0.2
"""How long a group may take to fill: fewer commits cost the disk less."""
IDLE_SECONDS = 60.0
"""How long the writer sleeps while there is nothing to do."""
FILE_SECONDS = 5.0
"""How often the file of an SQLite database is checked while nothing is written."""
LOG_SECONDS = 60.0
"""Time between two log lines of the same error: clients send feedback while it lasts."""
ROOM_SECONDS = 10.0
"""How long a slow disk may delay the counting of events."""

_T = TypeVar("_T")
Call = Callable[[sa.Connection], tuple[_T, Counts]]
"""Runs in a transaction; returns its result, and what counts once that is on disk. It may run twice."""
_Job = tuple[Call[Any], Future[Any]]


class _Group(NamedTuple):
    """Predictions that were written in one transaction.

    Attributes
    ----------
    transaction
        The server's number of the transaction; None where none is needed, see `write_beside`.
    entries
        Entries of the buffer that it holds.
    counts
        What counts with this commit.
    """

    transaction: int | None
    entries: int
    counts: list[Counts]


class Writer:
    """Commit predictions from a bounded buffer in groups, and run submitted calls; calls that wait share a commit.

    Parameters
    ----------
    engine
        The database.
    retention
        Deletes old rows.
    recorders
        Join what came before its prediction.
    on_commit
        Called after each commit of calls, and of predictions for which something waited, with what counts.
    on_failure
        Called with the error of each failed write.

    Attributes
    ----------
    transactions : WriteTransactions
        Whether, and since when, the database takes what is written.
    """

    def __init__(
        self,
        engine: sa.Engine,
        retention: Retention,
        recorders: tuple[FeedbackRecorder, Labels],
        on_commit: Callable[[Sequence[Counts]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._retention = retention
        self._recorders = recorders
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._entries: deque[tuple[Rows, int]] = deque()
        self._rows = self._bytes = 0
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = self._failing = False
        self._pending_calls = 0
        self._uncertain: _Group | None = None
        self._added_since_sweep = 0
        self._retry_at = self._pause = self._sweep_at = self._check_at = 0.0
        self._failed, self._failed_at = "", -math.inf
        self.transactions = WriteTransactions(engine)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """The number of predictions that are not on disk yet."""
        return self._rows

    def close(self, timeout: float) -> None:
        """Write what waits, within ``timeout`` seconds, and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        if not self.alive:
            self.transactions.close()

    def add(self, rows: Rows) -> int:
        """Queue predictions; see `Store.add`."""
        size = rows.size

        def has_room(share: float) -> bool:
            return self._rows + len(rows) <= share * MAX_ROWS and self._bytes + size <= share * MAX_BYTES

        with self._wake:
            self._wake.wait_for(lambda: self._failing or not self._rows or has_room(BUSY_SHARE), ROOM_SECONDS)
            if not has_room(1):
                return len(rows)
            self._entries.append((rows, size))
            self._rows += len(rows)
            self._bytes += size
            self._wake.notify_all()
        return 0

    def submit(self, call: Call[_T]) -> Future[_T]:
        """Queue a call; see `Store.submit`."""
        future: Future[_T] = Future()
        with self._wake:
            if self._closing:
                raise StoreError("the store is closing")
            # One call tries the database; the others need not wait for it.
            if self.transactions.unavailable and self._pending_calls:
                raise StoreError("nothing was stored: the database cannot be reached")
            self._pending_calls += 1
            self._jobs.append((call, future))
            self._wake.notify_all()
        future.add_done_callback(self._call_done)
        return future

    def _call_done(self, _: Future[Any]) -> None:
        with self._wake:
            self._pending_calls -= 1

    def _run(self) -> None:
        while not (self._closing and not self._jobs and (self._failing or not self._rows)):
            try:
                self._step()
            except Exception as error:  # without this thread nothing is ever written again
                self._on_failure(error)
                log.exception("the store's writer continues after an error")
                time.sleep(0.5)

    def _step(self) -> None:
        with self._wake:
            now = time.monotonic()
            until = min(self._sweep_at, self._check_at, self._retry_at if self._rows else now + IDLE_SECONDS)
            self._wake.wait_for(self._has_work, max(until - now, 0.0))
            if self._has_work() and not self._is_urgent():
                self._wake.wait_for(self._is_urgent, GATHER_SECONDS)
            jobs, self._jobs = self._jobs, deque()
        now = time.monotonic()
        if self._rows and (self._closing or now >= self._retry_at):
            if self._write_group():
                self._pause = 0.0
            else:
                self._pause = min(2 * self._pause or 0.5, 10.0)
                self._retry_at = now + self._pause
        if jobs:  # after the predictions, so that feedback that follows its prediction finds it
            self._run_jobs(jobs)
        self._check_file(now)
        if now >= self._sweep_at:
            self._sweep_at = now + (0.0 if self._sweep() else self._retention.pause)

    def _check_file(self, now: float) -> None:
        """Check the file from time to time: metrics and readiness must tell of a fault without any traffic."""
        if now < self._check_at:
            return
        self._check_at = now + FILE_SECONDS if self.transactions.file else math.inf
        before = self.transactions.fault
        try:
            with self.transactions.begin():
                pass
        except Exception as error:
            if self.transactions.fault != before:
                self._log(error, "nothing can be stored")
            else:
                self._on_failure(error)

    def _has_work(self) -> bool:
        return bool(self._jobs or self._closing or (self._rows and time.monotonic() >= self._retry_at))

    def _log(self, error: Exception, what: str) -> None:
        self._on_failure(error)
        expected = isinstance(error, sa.exc.SQLAlchemyError | StoreError)
        log.error("%s: %s", what, db.error_message(error), exc_info=not expected)

    def _is_urgent(self) -> bool:
        return bool(self._jobs) or self._rows >= GROUP or self._closing

    def _run_jobs(self, jobs: Iterable[_Job]) -> None:
        """Run calls in one transaction; if that fails, run each in its own, so that none makes the others fail."""
        live = [job for job in jobs if job[1].running() or job[1].set_running_or_notify_cancel()]
        try:
            self._jobs.extendleft(reversed(live[self._commit(live) :]))
        except Exception as error:
            if len(live) == 1 or db.is_unavailable(error):
                self._fail(live, error)
                return
            for job in live:
                try:
                    self._commit([job])
                except Exception as job_error:
                    self._fail([job], job_error)

    def _fail(self, jobs: Iterable[_Job], error: Exception) -> None:
        if isinstance(error, StoreFullError):  # the database works
            for _, future in jobs:
                future.set_exception(error)
            return
        message, now = db.error_message(error), time.monotonic()
        if message != self._failed or now > self._failed_at + LOG_SECONDS:
            self._failed, self._failed_at = message, now
            self._log(error, "a write failed")
        else:
            self._on_failure(error)
        is_lost = getattr(error, "connection_invalidated", False)  # perhaps after the commit
        what = "it is not known whether the database stored it" if is_lost else "the database did not store it"
        for _, future in jobs:
            future.set_exception(StoreError(f"{what}: {message}"))

    def _commit(self, jobs: Sequence[_Job]) -> int:
        """Run calls in one transaction for a moment, and return how many it ran."""

        def run(connection: sa.Connection) -> list[tuple[Any, Counts]]:
            db.write_alone(connection)
            until = time.monotonic() + 0.1  # predictions wait for it
            begun = itertools.takewhile(lambda job: job is jobs[0] or time.monotonic() < until, jobs)
            return [call(connection) for call, _ in begun]

        results = self.transactions.run(run)
        # This is on disk: a failure from here on must not make a client send it again.
        self._on_commit([counts for _, counts in results])
        for (_, future), (result, _) in zip(jobs, results, strict=False):
            future.set_result(result)
        return len(results)

    def _write_group(self) -> bool:
        """Commit the next group of predictions; return whether that worked."""
        try:
            written = self._resolve_uncertain_commit() or self._insert_group()
        except Exception as error:
            self._log(error, f"{self._rows} predictions wait for the database")
            with self._wake:
                self._failing = True
                self._wake.notify_all()
            return False
        self._uncertain = None
        with self._wake:
            for _ in range(written.entries):
                rows, size = self._entries.popleft()
                self._rows -= len(rows)
                self._bytes -= size
                self._added_since_sweep += len(rows)
            self._failing = False
            self._wake.notify_all()
        if any(map(any, written.counts)):
            self._on_commit(written.counts)
        return True

    def _resolve_uncertain_commit(self) -> _Group | None:
        """Return the group whose commit the server did not confirm, if it was committed nevertheless."""
        if self._uncertain is None or self._uncertain.transaction is None:
            return None
        with self._engine.connect() as connection:
            number = self._uncertain.transaction
            return self._uncertain if db.backend(connection).was_committed(connection, number) else None

    def _insert_group(self) -> _Group:
        group, count = list[Rows](), 0
        while len(group) < len(self._entries) and count < GROUP:
            group.append(self._entries[len(group)][0])
            count += len(group[-1])

        def insert(connection: sa.Connection) -> _Group:
            self._uncertain = None
            transaction = db.write_beside(connection)
            store_inputs(connection, group)
            insert_predictions(connection, group)
            counts = [recorder.join(connection, group) for recorder in self._recorders]
            self._uncertain = _Group(transaction, len(group), counts)
            return self._uncertain

        return self.transactions.run(insert)

    def _sweep(self) -> bool:
        """Delete one step of old rows; return whether more are left."""
        try:
            added, self._added_since_sweep = self._added_since_sweep, 0
            return self._retention.sweep(self._engine, added)
        except Exception as error:
            self._log(error, "retention")
        return False


PART = 1000
"""Predictions that are queued for the writer at once."""

COMMIT_TIMEOUT_SECONDS = 10.0
"""How long a caller waits for a commit."""


class Store:
    """Predictions, feedback and labels in one database.

    `reading`, `write` and `submit` give a connection: they are for the modules of the storage, which no other uses.

    Parameters
    ----------
    config
        The database's URL, and how long predictions are kept.
    on_counted
        Called from the writer's thread with each feedback that counts, after its commit.
    on_failure
        Called at each failed read or write.
    redact, tolerances
        See `FeedbackRecorder`.
    on_labelled
        Called from the writer's thread with the labels that count with a commit, after it.
    on_unusable
        Called there with the predictions whose label waited for them and cannot be compared with them.
    loss
        Compares labels with predictions; by default as classes.

    Attributes
    ----------
    review : Review
        The review queue.
    releases, retrain_requests, snapshots, bins
        Releases of datasets, requests for retraining, snapshots of windows, and the bins of predictions.
    size : StoreSize
        The bytes that the store holds, and its limit.
    writer : Writer
        The thread that writes.
    replica : str
        The name under which this exporter saves snapshots: a shared database holds those of several exporters.
    set_aside : int
        The last result of `count_set_aside`.
    tolerances : Callable
        The tolerance of each model's corrections.
    is_shared : bool
        Whether other exporters write into the database, too.
    deadline : float
        Monotonic time until which callers wait for a commit at most: the exporter ends then.

    Raises
    ------
    StoreError
        When the database cannot be opened.
    """

    def __init__(
        self,
        config: StoreConfig,
        on_counted: Callable[[CountedFeedback], None],
        on_failure: Callable[[], None] = lambda: None,
        redact: Redact = lambda _, inputs: inputs,
        *,
        tolerances: Tolerances = lambda _: Tolerance(),
        on_labelled: Callable[[Sequence[LabelledPrediction]], None] = lambda _: None,
        on_unusable: Callable[[Sequence[str]], None] = lambda _: None,
        loss: Loss = class_loss,
    ) -> None:
        self._on_counted = on_counted
        self._on_labelled = on_labelled
        self._on_unusable = on_unusable
        self._on_failure = on_failure
        self.tolerances = tolerances
        self.deadline = math.inf
        self._config = config
        self._damage: str | None = None
        self.size = StoreSize(config.max_size)
        self.review = Review(self, self.size, tolerances, redact, with_inputs=sampled_share(config.inputs) is not None)
        self.releases, self.retrain_requests = Releases(self, self.size), RetrainRequests(self)
        self.snapshots, self.bins = Snapshots(self), RecordedBins(self.reading)
        path = database_path(config)
        self._lock: DatabaseLock | None = None
        try:
            self._lock = DatabaseLock(path) if path else None
            quarantine(config)
            self.set_aside = count_damaged(config)
            db.migrate(config)
            self._engine = db.open_engine(config)
            self.is_shared = db.is_shared(self._engine)
            self.replica = (config.replica or socket.gethostname()) if self.is_shared else ""
            self._recorder = FeedbackRecorder(redact, tolerances, self.size)
            self._labels = Labels(self.size, loss, archives=config.archive is not None)
            retention = Retention(config, self.size)
            self.writer = Writer(self._engine, retention, (self._recorder, self._labels), self._on_commit, self._failed)
        except BaseException as error:
            self._unlock()
            if isinstance(error, sa.exc.SQLAlchemyError | OSError):
                message = db.error_message(error)
                raise StoreError(f"store.url: cannot open {db.shown_url(config.url)}: {message}") from None
            raise

    def add(self, batch: Batch) -> int:
        """Queue predictions for the next commit.

        Parameters
        ----------
        batch
            The predictions, which arrived at one time; of their inputs those that are ``kept`` are stored.

        Returns
        -------
        int
            The number of dropped predictions. While the disk is only slow, this waits for room, so that the queue
            before it fills and clients get 503. While the database fails, predictions that find no room are lost.
        """
        return sum(self.writer.add(part) for part in prediction_rows(batch).parts(PART))

    def submit(
        self,
        call: Callable[[sa.Connection], _T],
        adds: int | None = None,
        counts: Callable[[_T], Counts] = lambda _: Counts(),
    ) -> Future[_T]:
        """Run a call in the writer's thread, in a transaction; the future has its result once that is on disk.

        Calls that wait at the same time share a commit. No other transaction writes meanwhile, not even
        another exporter's: what a call reads stays true until it is committed.

        Parameters
        ----------
        call
            Takes the connection. It may run twice: a call with which it shared a commit may have failed.
        adds
            About how many bytes it adds to what is kept; None if it checks that itself, or must not be refused.
        counts
            Takes the call's result; returns what counts once that is on disk.

        Returns
        -------
        Future
            Raises StoreError when nothing was written; StoreFullError when there is no room for it.

        Raises
        ------
        StoreError
            When it is already known that nothing will be written.
        """

        def checked(connection: sa.Connection) -> tuple[_T, Counts]:
            if adds is not None:
                self.size.require(connection, adds)
            result = call(connection)
            return result, counts(result)

        return self.writer.submit(checked)

    def write(
        self,
        call: Callable[[sa.Connection], _T],
        adds: int | None = None,
        counts: Callable[[_T], Counts] = lambda _: Counts(),
    ) -> _T:
        """Run a call as `submit` does, and wait for its result.

        Raises
        ------
        StoreError
            When nothing was written, or it is not known yet whether it will be: repeat the call.
        """
        return self._result(self.submit(call, adds, counts))

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        """Return the rows of a query; see `reading`."""
        with self.reading() as connection:
            return connection.execute(query).mappings().all()

    def change(self, statement: sa.Update | sa.Delete) -> int:
        """Run a statement, and return how many rows it has changed; see `write`."""
        return self.write(lambda connection: connection.execute(statement).rowcount)

    def submit_feedback(
        self, items: Sequence[Feedback], key: str | None, sender: str = ""
    ) -> Future[list[FeedbackResult]]:
        """Record the checked feedback of a sender's request, with its idempotency key; see `submit`."""
        return self.writer.submit(partial(self._recorder.record, items=items, key=key, sender=sender))

    def record_labels(self, items: Sequence[LabelEvent], sender: str = "") -> LabelsResult:
        """Record a sender's checked labels in one transaction, and wait for the result; see `write`.

        The writer works on nothing else meanwhile: split many labels in several calls.
        """
        return self._result(self.writer.submit(partial(self._labels.record, items=items, sender=sender)))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a connection that sees one state of the database, beside the writer.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        try:
            with self._connect() as connection:
                if self.is_shared:
                    connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except sa.exc.SQLAlchemyError as error:
            self._failed(error)
            raise StoreError(db.error_message(error)) from None

    def _connect(self) -> sa.Connection:
        if not self.writer.transactions.unavailable:
            return self._engine.connect()
        with db.statement_timeout(SCRAPE_TIMEOUT_SECONDS):
            return self._engine.connect()

    def add_bins(self, block: BinBlock) -> Future[None]:
        """Store the bins of predictions; see `submit`."""
        return self.submit(lambda connection: insert_block(connection, block))

    def corrections(self, model: str, version: str | None, since: float) -> Marked:
        """Return the confident predictions that users corrected, with their users; not those that a reviewer rejected.

        Parameters
        ----------
        model, version
            Of the predictions; all versions when None.
        since
            Unix time in seconds of the first feedback on the prediction.

        Raises
        ------
        StoreError
            When the database cannot be read; other verbs that read raise it, too.
        """
        with self.reading() as connection:
            return read_corrections(connection, model, version, since)

    def losses(self, model: str, version: str | None, since: float) -> Marked:
        """Return the losses of predictions with a label that were made since a Unix time in seconds."""
        with self.reading() as connection:
            return read_losses(connection, model, version, since)

    @property
    def fault(self) -> str | None:
        """What is wrong with the file of an SQLite database, so that nothing is stored until somebody acts."""
        return self.writer.transactions.fault or self._damage

    def last_backup(self) -> float:
        """Return the Unix time of the last backup of an SQLite database by ``model-exporter backup``; 0 without one."""
        return last_backup(self._config)

    def count_set_aside(self) -> int:
        """Count the damaged databases and write-ahead logs beside the database in use; reads its directory."""
        self.set_aside = count_damaged(self._config)
        return self.set_aside

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for all queued predictions to reach the disk; return whether they did."""
        deadline = time.monotonic() + timeout
        while self.writer.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self.writer.waiting

    def close(self, timeout: float = 10.0) -> int:
        """Write what waits, within ``timeout`` seconds, and stop; return how many predictions were not written."""
        self.writer.close(timeout)
        self._engine.dispose()
        self._unlock()
        return self.writer.waiting

    def report_failure(self) -> None:
        """Count a failure that the database does not know of."""
        self._on_failure()

    def _result(self, future: Future[_T]) -> _T:
        try:
            return future.result(min(COMMIT_TIMEOUT_SECONDS, max(self.deadline - time.monotonic(), 0.0)))
        except TimeoutError:
            raise commit_timeout(future) from None

    def _unlock(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None

    def _failed(self, error: Exception) -> None:
        self._on_failure()
        if self._damage is None and is_damage(error):
            self._damage = f"the database is damaged: {db.error_message(error)}"
            log.error("%s: restart the exporter, which sets a damaged file aside", self._damage)

    def _on_commit(self, committed: Sequence[Counts]) -> None:
        self.review.invalidate()
        calls: list[Callable[[], None]] = []
        for counts in committed:
            calls += [partial(self._on_counted, item) for item in counts.feedback]
            if counts.labelled:
                calls.append(partial(self._on_labelled, counts.labelled))
            if counts.unusable:
                calls.append(partial(self._on_unusable, counts.unusable))
        for call in calls:
            try:
                call()
            except Exception:
                log.exception("feedback or labels were stored and not counted")


def commit_timeout(future: Future[Any]) -> StoreError:
    """Cancel a call that did not finish in `COMMIT_TIMEOUT_SECONDS`, and return the error for the client.

    A call that is already running cannot be cancelled: then it is not known whether it will be committed.
    """
    if future.cancel():
        return StoreError("nothing was stored: the database did not answer in time")
    unknown = "it is not known yet whether this was stored: repeat it, with an Idempotency-Key"
    return StoreError(f"the database is slow, and {unknown}")
