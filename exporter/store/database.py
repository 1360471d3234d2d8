"""The only SQL: predictions and users' feedback, on disk.

One thread writes. Predictions wait in a bounded buffer and are committed in groups; a user's
word is committed, and on disk, before it is acknowledged. Words that wait at the same time
share a commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.config import StoreConfig, duration
from exporter.errors import StoreError
from exporter.events import NO_VERSION, Feedback
from exporter.store.schema import (
    COLUMNS,
    SCHEMA_VERSION,
    feedback,
    find_prediction,
    history,
    metadata,
    open_engine,
    predictions,
    releases,
    schema_table,
    snapshot,
    spelling,
)

log = logging.getLogger(__name__)

GROUP = 2000
"""Predictions in one transaction: enough to be fast, few enough that feedback never waits long."""
GATHER_SECONDS = 0.2
"""Patience for a group to fill: a commit a moment later costs the disk as much as one now."""
ROOM_SECONDS = 10.0
"""How long a slow disk may hold up the counting of events."""
BUFFER = 50_000
"""Predictions that may wait for the disk."""
BUFFER_BYTES = 128 * 2**20
"""Bytes of inputs that may wait for the disk."""
MAX_WAITING = 100_000
"""Identifiers of unjoined feedback kept in memory; past it the database is asked for each group."""


Row = tuple[Any, ...]
"""A prediction in the order of `exporter.store.schema.COLUMNS`."""
_ID = COLUMNS.index("id")


class Word(msgspec.Struct):
    """A user's word as it was taken.

    ``repeat`` says that nothing was new in it, ``joined`` that its prediction is known.
    """

    id: int
    prediction_id: str | None
    verdict: str
    joined: bool
    repeat: bool


class Verdict(msgspec.Struct):
    """A word that now counts: for a known prediction, or for one that was never logged."""

    model: str
    version: str
    verdict: str
    correction: bool


class ReviewState(msgspec.Struct, frozen=True):
    """By model: corrections that wait for review, the Unix time of the oldest, and released examples."""

    pending: dict[str, int]
    oldest: dict[str, float]
    examples: dict[str, int]


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

    Raises
    ------
    StoreError
        When the database cannot be opened.
    """

    def __init__(
        self, config: StoreConfig, counted: Callable[[Verdict], None], failed: Callable[[], None] = lambda: None
    ) -> None:
        self._counted = counted
        self._failed = failed
        self._retention = duration(config.retention)
        self._buffer: deque[tuple[list[Row], int]] = deque()
        self._buffered = self._bytes = 0
        self._jobs: deque[tuple[Sequence[Feedback], str | None, Future[list[Word]]]] = deque()
        self._wake = threading.Condition()
        self._closing = self._failing = False
        self._review: ReviewState | None = None
        self._swept = 0.0
        try:
            self._engine = open_engine(config.url)
            # Rows go to the driver as they are: the statement is compiled once, to positional parameters.
            self._insert = str(predictions.insert().compile(dialect=self._engine.dialect, column_keys=COLUMNS))
            with self._engine.begin() as connection:
                metadata.create_all(connection)
                found = connection.execute(sa.select(sa.func.max(schema_table.c.version))).scalar()
                if found is None:
                    connection.execute(schema_table.insert().values(version=SCHEMA_VERSION))
                elif found > SCHEMA_VERSION:
                    raise StoreError(f"store.url: the database has schema {found}, newer than this version understands")
                waiting = sa.select(feedback.c.prediction_id).where(~feedback.c.joined).limit(MAX_WAITING + 1)
                self._waiting = set(connection.execute(waiting).scalars())
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise StoreError(f"store.url: cannot open {sa.make_url(config.url)!r}: {reason(error)}") from None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def add(self, rows: list[Row], size: int) -> int:
        """Hand over rows of predictions (see `prediction_rows`).

        Parameters
        ----------
        rows
            The rows.
        size
            Their inputs' bytes.

        Returns
        -------
        int
            How many were dropped. While the disk is only slow this waits for room, so that the queue
            before it fills and clients hear 503; while the database fails, what finds no room is lost.
        """
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

    def feedback(self, words: Sequence[Feedback], key: str | None, timeout: float = 10.0) -> list[Word]:
        """Take users' words; they are on disk when this returns.

        Parameters
        ----------
        words
            The words, checked.
        key
            The request's idempotency key.
        timeout
            Seconds to wait for the disk.

        Raises
        ------
        StoreError
            When they could not be written: none of them was taken.
        """
        future: Future[list[Word]] = Future()
        with self._wake:
            if self._closing:
                raise StoreError("the store is closing")
            self._jobs.append((words, key, future))
            self._wake.notify_all()
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.cancel():
                raise StoreError("the database did not answer in time") from None
            return future.result(timeout)  # it is being written at this moment

    def review_state(self) -> ReviewState:
        """What waits for review and what was released.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        if self._review is None:
            pending = (
                sa.select(feedback.c.model, sa.func.count(), sa.func.min(feedback.c.created))
                .where(feedback.c.verdict == "corrected", feedback.c.status == "pending", feedback.c.model.is_not(None))
                .group_by(feedback.c.model)
            )
            released = sa.select(releases.c.model, sa.func.sum(releases.c.examples)).group_by(releases.c.model)
            try:
                with self._engine.connect() as connection:
                    rows = connection.execute(pending).all()
                    examples = {model: int(total) for model, total in connection.execute(released)}
            except sa.exc.SQLAlchemyError as error:
                self._failed()
                raise StoreError(reason(error)) from None
            self._review = ReviewState(
                pending={model: count for model, count, _ in rows},
                oldest={model: created for model, _, created in rows},
                examples=examples,
            )
        return self._review

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
        pause = 0.0
        while True:
            with self._wake:
                if not self._jobs and (pause or not self._buffer) and not self._closing:
                    self._wake.wait(pause or 10.0)
                if not self._jobs and self._buffered < GROUP and not self._closing:
                    self._wake.wait_for(self._is_urgent, GATHER_SECONDS)
                if self._closing and not self._jobs and (pause or not self._buffer):
                    return
                jobs, self._jobs = self._jobs, deque()
            if jobs:
                self._take_words(jobs)
            pause = min(2 * pause or 0.5, 10.0) if self._write_group() is None else 0.0
            if not pause and not self._buffer:
                self._sweep()

    def _log(self, error: Exception, what: str) -> None:
        self._failed()
        log.error("%s: %s", what, reason(error), exc_info=not isinstance(error, sa.exc.SQLAlchemyError))

    def _is_urgent(self) -> bool:
        return bool(self._jobs) or self._buffered >= GROUP or self._closing

    def _take_words(self, jobs: Iterable[tuple[Sequence[Feedback], str | None, Future[list[Word]]]]) -> None:
        live = [job for job in jobs if job[2].set_running_or_notify_cancel()]
        verdicts: list[Verdict] = []
        try:
            with self._engine.begin() as connection:
                answers = [self._take(connection, words, key, verdicts) for words, key, _ in live]
        except Exception as error:
            self._log(error, "feedback was not written")
            for *_, future in live:
                future.set_exception(StoreError(f"the database did not take it: {reason(error)}"))
            return
        self._settle(verdicts)
        for (*_, future), answer in zip(live, answers, strict=True):
            future.set_result(answer)

    def _settle(self, verdicts: Iterable[Verdict]) -> None:
        self._review = None
        for verdict in verdicts:
            self._counted(verdict)

    def _take(
        self, connection: sa.Connection, words: Sequence[Feedback], key: str | None, verdicts: list[Verdict]
    ) -> list[Word]:
        return [
            self._take_one(connection, word, f"{key}/{index}" if key else None, verdicts)
            for index, word in enumerate(words)
        ]

    def _take_one(self, connection: sa.Connection, word: Feedback, key: str | None, verdicts: list[Verdict]) -> Word:
        now = time.time()
        said = {"verdict": word.verdict, "label": spelling(word.label), "user": word.user, "comment": word.comment}
        same = [feedback.c.prediction_id == word.prediction_id] if word.prediction_id is not None else []
        same += [feedback.c.idempotency_key == key] if key is not None else []
        known = connection.execute(sa.select(feedback).where(sa.or_(*same))).mappings().first() if same else None
        if known and (known["idempotency_key"] == key is not None or all(known[k] == v for k, v in said.items())):
            return Word(known["id"], known["prediction_id"], known["verdict"], known["joined"], True)
        values: dict[str, Any] = {**said, "updated": now, "idempotency_key": key}
        if known:
            values |= {"status": "pending", "revision": known["revision"] + 1}
            row = {**known, **values}
        else:
            row = self._first_word(connection, word, now) | values
        if row["joined"]:
            correction = bool(row["verdict"] == "corrected" and row["confident"] and not row["counted"])
            row["counted"] = values["counted"] = row["counted"] or correction
            verdicts.append(Verdict(row["model"], row["version"], row["verdict"], correction))
        if known:
            connection.execute(feedback.update().where(feedback.c.id == known["id"]).values(values))
        else:
            row["id"] = connection.execute(feedback.insert().values(row)).inserted_primary_key[0]  # type: ignore[index]
        connection.execute(history.insert().values(feedback_id=row["id"], time=now, **said))
        return Word(row["id"], row["prediction_id"], row["verdict"], row["joined"], False)

    def _first_word(self, connection: sa.Connection, word: Feedback, now: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "prediction_id": word.prediction_id,
            "created": now,
            "counted": False,
            "confident": False,
            "status": "pending",
            "revision": 1,
            "joined": word.prediction_id is None,
        }
        if word.prediction_id is None:
            inputs = bytes(memoryview(word.inputs)).decode("utf-8", "replace")
            spoken = {"version": word.version or NO_VERSION, "prediction": spelling(word.prediction)}
            return row | spoken | {"model": word.model, "inputs": inputs or None, "predicted": now}
        # Noted before the look-up: a prediction that is committed from now on finds it.
        self._waiting.add(word.prediction_id)
        if prediction := find_prediction(connection, word.prediction_id):
            self._waiting.discard(word.prediction_id)
            row |= snapshot(prediction)
        return row

    def _write_group(self) -> int | None:
        """Commit the next group of predictions; None when the database did not take it."""
        group: list[Row] = []
        taken = size = 0
        while taken < len(self._buffer) and len(group) < GROUP:
            rows, length = self._buffer[taken]
            group += rows
            size += length
            taken += 1
        if not group:
            return 0
        verdicts: list[Verdict] = []
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(self._insert, group)
                joined = self._join(connection, group, verdicts)
        except Exception as error:
            self._log(error, f"{self._buffered} predictions wait for the database")
            with self._wake:
                self._failing = True
                self._wake.notify_all()
            return None
        with self._wake:
            for _ in range(taken):
                self._buffer.popleft()
            self._buffered -= len(group)
            self._bytes -= size
            self._failing = False
            self._wake.notify_all()
        self._waiting -= joined
        if verdicts:
            self._settle(verdicts)
        return len(group)

    def _join(self, connection: sa.Connection, group: Sequence[Row], verdicts: list[Verdict]) -> set[str]:
        """Join feedback that came before its prediction."""
        rows = {row[_ID]: row for row in reversed(group)}
        ids = list(rows) if len(self._waiting) > MAX_WAITING else [i for i in rows if i in self._waiting]
        for start in range(0, len(ids), 500):
            chosen = feedback.c.prediction_id.in_(ids[start : start + 500]) & ~feedback.c.joined
            for known in connection.execute(sa.select(feedback).where(chosen)).mappings().all():
                values = snapshot(dict(zip(COLUMNS, rows[known["prediction_id"]], strict=True)))
                said = sa.select(history.c.verdict).where(history.c.feedback_id == known["id"]).order_by(history.c.id)
                counted = False
                for verdict in connection.execute(said).scalars().all():
                    correction = bool(verdict == "corrected" and values["confident"] and not counted)
                    counted = counted or correction
                    verdicts.append(Verdict(values["model"], values["version"], verdict, correction))
                connection.execute(
                    feedback.update().where(feedback.c.id == known["id"]).values(**values, counted=counted)
                )
        return set(ids)

    def _sweep(self) -> None:
        """Delete what is older than the retention, in small steps."""
        now = time.time()
        if now - self._swept < 60:
            return
        old = now - self._retention
        steps = (
            (predictions, predictions.c.seq, predictions.c.received < old),
            (feedback, feedback.c.id, ~feedback.c.joined & (feedback.c.updated < old)),
        )
        deleted = 0
        try:
            for table, key, condition in steps:
                chosen = sa.select(key).where(condition).order_by(key).limit(1000)
                with self._engine.begin() as connection:
                    deleted += connection.execute(table.delete().where(key.in_(chosen))).rowcount
        except sa.exc.SQLAlchemyError as error:
            self._log(error, "retention")
        if deleted < 1000:
            self._swept = now


def reason(error: BaseException) -> str:
    """What the driver said, without the statement and its parameters: these are users' data."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
