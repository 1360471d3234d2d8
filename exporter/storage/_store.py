"""The store: predictions, users' feedback and labels in one database.

One thread writes. Predictions wait in a bounded buffer and are committed in groups. Feedback is committed, and on disk,
before it is acknowledged, and so are labels; feedback that waits at the same time shares a commit.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage._bins import BinBlock, RecordedBins, insert_block
from exporter.storage._engine import error_message, is_shared, open_engine, shown_url, statement_timeout
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
from exporter.storage._predictions import prediction_rows
from exporter.storage._releases import Releases
from exporter.storage._retention import Retention, StoreSize
from exporter.storage._retraining import RetrainRequests
from exporter.storage._review import SCRAPE_TIMEOUT_SECONDS, Review
from exporter.storage._schema import migrate
from exporter.storage._snapshots import Snapshots
from exporter.storage._sqlite import DatabaseLock, count_damaged, database_path, is_damage, last_backup, quarantine
from exporter.storage._writer import Refusal, Writer
from exporter.validation import Tolerance
from exporter.wire.batch import Batch
from exporter.wire.events import Feedback, LabelEvent, LabelledPrediction

log = logging.getLogger(__name__)

PART = 1000
"""Predictions that are queued for the writer at once."""

COMMIT_TIMEOUT_SECONDS = 10.0
"""How long a caller waits for a commit."""

_T = TypeVar("_T")


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
    size : StoreSize
        The bytes that the store holds, and its limit.
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
        self.review = Review(self, self.size, tolerances)
        path = database_path(config)
        self._lock: DatabaseLock | None = None
        try:
            self._lock = DatabaseLock(path) if path else None
            quarantine(config)
            self.set_aside = count_damaged(config)
            migrate(config)
            self._engine = open_engine(config)
            self.is_shared = is_shared(self._engine)
            self.replica = (config.replica or socket.gethostname()) if self.is_shared else ""
            self._recorder = FeedbackRecorder(redact, tolerances, self.size)
            self._labels = Labels(self.size, loss, archives=config.archive is not None)
            retention = Retention(config, self.size)
            self._writer = Writer(
                self._engine, retention, (self._recorder, self._labels), self._on_commit, self._failed
            )
        except BaseException as error:
            self._unlock()
            if isinstance(error, sa.exc.SQLAlchemyError | OSError):
                raise StoreError(f"store.url: cannot open {shown_url(config.url)}: {error_message(error)}") from None
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
        return sum(self._writer.add(part) for part in prediction_rows(batch).parts(PART))

    def submit(self, call: Callable[[sa.Connection], _T], adds: int | None = None) -> Future[_T]:
        """Run a call in the writer's thread, in a transaction; the future has its result once that is on disk.

        Calls that wait at the same time share a commit. No other transaction writes meanwhile, not even
        another exporter's: what a call reads stays true until it is committed.

        Parameters
        ----------
        call
            Takes the connection. It may run twice: a call with which it shared a commit may have failed.
        adds
            About how many bytes it adds to what is kept; None if it checks that itself, or must not be refused.

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
            return call(connection), Counts()

        return self._writer.submit(checked)

    def write(self, call: Callable[[sa.Connection], _T], adds: int | None = None) -> _T:
        """Run a call as `submit` does, and wait for its result.

        Raises
        ------
        StoreError
            When nothing was written, or it is not known yet whether it will be: repeat the call.
        """
        return self._result(self.submit(call, adds))

    def submit_feedback(self, items: Sequence[Feedback], key: str | None) -> Future[list[FeedbackResult]]:
        """Record the checked feedback of one request, with its idempotency key; see `submit`."""
        return self._writer.submit(partial(self._recorder.record, items=items, key=key))

    def record_feedback(self, items: Sequence[Feedback], key: str | None) -> list[FeedbackResult]:
        """Record feedback as `submit_feedback` does, and wait for the result; see `write`."""
        return self._result(self.submit_feedback(items, key))

    def record_labels(self, items: Sequence[LabelEvent]) -> LabelsResult:
        """Record checked labels in one transaction, and wait for the result; see `write`.

        The writer works on nothing else meanwhile: split many labels in several calls.
        """
        return self._result(self._writer.submit(partial(self._labels.record, items=items)))

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
            raise StoreError(error_message(error)) from None

    def _connect(self) -> sa.Connection:
        if not self._writer.transactions.unavailable:
            return self._engine.connect()
        with statement_timeout(SCRAPE_TIMEOUT_SECONDS):
            return self._engine.connect()

    @property
    def releases(self) -> Releases:
        """The releases of datasets."""
        return Releases(self, self.size)

    @property
    def retrain_requests(self) -> RetrainRequests:
        """The requests for retraining."""
        return RetrainRequests(self)

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots of windows."""
        return Snapshots(self)

    @property
    def bins(self) -> RecordedBins:
        """The recorded bins of predictions."""
        return RecordedBins(self.reading)

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
    def alive(self) -> bool:
        """Whether the writer's thread lives."""
        return self._writer.alive

    @property
    def fault(self) -> str | None:
        """What is wrong with the file of an SQLite database, so that nothing is stored until somebody acts."""
        return self._writer.transactions.fault or self._damage

    @property
    def refusal(self) -> Refusal | None:
        """Since when, and why, the database has refused what was written; None while it does not."""
        return self._writer.transactions.refusal

    def last_backup(self) -> float:
        """Return the Unix time of the last backup of an SQLite database by ``model-exporter backup``; 0 without one."""
        return last_backup(self._config)

    def count_set_aside(self) -> int:
        """Count the damaged databases and write-ahead logs beside the database in use; reads its directory."""
        self.set_aside = count_damaged(self._config)
        return self.set_aside

    @property
    def waiting(self) -> int:
        """The number of predictions that are not on disk yet."""
        return self._writer.waiting

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for all queued predictions to reach the disk; return whether they did."""
        deadline = time.monotonic() + timeout
        while self.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self.waiting

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, within ``timeout`` seconds, and stop; return whether everything was written."""
        self._writer.close(timeout)
        self._engine.dispose()
        self._unlock()
        return not self.waiting

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
            self._damage = f"the database is damaged: {error_message(error)}"
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
    return StoreError(
        "the database is slow, and it is not known yet whether this was stored: repeat it, with an Idempotency-Key"
    )
