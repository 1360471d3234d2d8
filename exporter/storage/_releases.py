"""What tasks keep: releases of datasets, requests for retraining, and snapshots of windows.

A release is its content in compressed chunks, and one row that describes it, which is written last. Chunks without a
row belong to a release that is being made, or was never finished. A request for retraining is recorded before it is
sent, so that neither a restart nor a second replica repeats one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.errors import StoreError, StoreFullError
from exporter.storage import _database as db
from exporter.storage._retention import StoreSize

CHUNK = 2**20
"""Bytes in a chunk before it is compressed."""
STEP = 500
"""Rows that are changed in one transaction: feedback must not wait long for the writer."""
UNFINISHED_SECONDS = 6 * 3600.0
"""Older chunks without a row belong to a release that was never finished."""

Row = sa.RowMapping
"""A row of the table ``releases``."""


class PublishResult(NamedTuple):
    """The result of `Releases.publish`.

    Attributes
    ----------
    row
        The release, or the existing release with which it conflicts.
    new
        Whether it was published now.
    conflict
        What the existing release has in common: ``"name"`` or ``"content"``; empty without a conflict.
    """

    row: Row
    new: bool
    conflict: str = ""


class Content(NamedTuple):
    """What was written of a release's content.

    Attributes
    ----------
    build
        Its chunks.
    sha256, bytes
        Its SHA-256 and its size, whether it was written or not.
    refused
        Why a chunk was not written, as the store has no room: the same release may exist.
    """

    build: str
    sha256: str
    bytes: int
    refused: StoreFullError | None = None


class Releases:
    """The releases of a store; every verb raises StoreError when the database fails."""

    def __init__(self, store: db.Transactions, size: StoreSize) -> None:
        self._store, self._size = store, size

    def write(self, build: str, content: Iterator[bytes]) -> Content:
        """Write the content of a release that is being made, in chunks."""
        refused: StoreFullError | None = None

        def write(number: int, data: bytes) -> None:
            nonlocal refused
            if refused is None:
                try:
                    self._store.write(lambda connection: write_chunk(connection, build, number, data), len(data))
                except StoreFullError as error:
                    refused = error

        return write_content(build, content, write)._replace(refused=refused)

    def publish(self, values: Mapping[str, Any], content: Content) -> PublishResult:
        """Make a release of written content, unless there is one of the same content or name already.

        Parameters
        ----------
        values
            The row without its content, ``seq`` and ``marked``.
        content
            The content; if a chunk of it was refused and there is no such release yet, that is raised.
        """
        values = {**values, "build": content.build, "sha256": content.sha256, "bytes": content.bytes}

        def write(connection: sa.Connection) -> PublishResult:
            # The two differ once it is redacted.
            is_same = (db.releases.c.id == values["id"]) | (db.releases.c.sha256 == values["sha256"])
            by_content = sa.select(db.releases).where(is_same)
            by_name = sa.select(db.releases).where(db.releases.c.name == values["name"])
            for query, conflict in ((by_content, "content"), (by_name, "name")):
                if row := connection.execute(query).mappings().first():
                    is_equal = conflict == "content" and row["name"] == values["name"]
                    return PublishResult(row, new=False, conflict="" if is_equal else conflict)
            if content.refused:
                raise content.refused
            self._size.require(connection, len(values["lineage"]))
            connection.execute(db.releases.insert().values(**values, marked=False))
            return PublishResult(connection.execute(by_content).mappings().one(), new=True)

        return self._store.write(write)

    def chunks(self, row: Row) -> Iterator[bytes]:
        """Yield the content of a release, chunk by chunk, each read with a connection of its own.

        Raises
        ------
        StoreError
            When it was rewritten meanwhile, or is damaged.
        """
        return read_chunks(self._store.reading, row)

    def find(self, key: str) -> Row | None:
        """Return the release with this identifier or name."""
        found = self._store.rows(sa.select(db.releases).where((db.releases.c.id == key) | (db.releases.c.name == key)))
        return found[0] if found else None

    def list(self, model: str | None, limit: int, before: int | None = None) -> Sequence[Row]:
        """Return at most ``limit`` releases, the newest first; with ``before``, those with a lower ``seq``."""
        query = sa.select(db.releases).order_by(db.releases.c.seq.desc()).limit(limit)
        if model is not None:
            query = query.where(db.releases.c.model == model)
        return self._store.rows(query if before is None else query.where(db.releases.c.seq < before))

    def unmarked(self) -> Sequence[Row]:
        """Return releases whose examples are not all marked as released yet."""
        return self._store.rows(sa.select(db.releases).where(~db.releases.c.marked))

    def mark_examples(self, correction_ids: Sequence[int]) -> None:
        """Mark corrections as released."""
        for start in range(0, len(correction_ids), STEP):
            is_next = db.feedback.c.id.in_(correction_ids[start : start + STEP]) & ~db.feedback.c.released
            self._store.change(db.feedback.update().where(is_next).values(released=True))

    def set_marked(self, seq: int) -> None:
        """Record that all examples of a release are marked."""
        self._store.change(db.releases.update().where(db.releases.c.seq == seq).values(marked=True))

    def delete_chunks(self, build: str) -> None:
        """Delete the chunks of an unfinished release, a few at a time; the first one last, by which it is found."""
        number, of_build = db.release_chunks.c.number, db.release_chunks.c.build == build
        last = sa.select(number).where(of_build).order_by(number.desc()).limit(8)
        step = db.release_chunks.delete().where(of_build, number.in_(last))
        while self._store.change(step):
            pass

    def unfinished_builds(self, now: float) -> Sequence[str]:
        """Return the builds of releases that were never finished, for example because of a crash."""
        finished = sa.select(db.releases.c.build)
        chunks = db.release_chunks.c
        is_old = (chunks.created < now - UNFINISHED_SECONDS) & (chunks.number == 0)
        query = sa.select(chunks.build).where(is_old, chunks.build.not_in(finished))
        return [row["build"] for row in self._store.rows(query)]


def write_content(build: str, content: Iterator[bytes], write: Callable[[int, bytes], object]) -> Content:
    """Write a release's content in chunks with their numbers."""
    digest, size, number = hashlib.sha256(), 0, 0
    waiting = bytearray()
    for text in content:
        digest.update(text)
        size += len(text)
        waiting += text
        while len(waiting) >= CHUNK:
            write(number, bytes(waiting[:CHUNK]))
            del waiting[:CHUNK]
            number += 1
    if waiting:
        write(number, bytes(waiting))
    return Content(build, digest.hexdigest(), size)


def write_chunk(connection: sa.Connection, build: str, number: int, data: bytes) -> None:
    """Write the next chunk of a release that is being made, in a transaction that may be repeated."""
    values = {"build": build, "number": number, "created": time.time(), "data": zlib.compress(data)}
    is_chunk = (db.release_chunks.c.build == build) & (db.release_chunks.c.number == number)
    if connection.execute(sa.select(db.release_chunks.c.number).where(is_chunk)).first() is None:
        connection.execute(db.release_chunks.insert().values(values))


def read_chunks(reading: Callable[[], AbstractContextManager[sa.Connection]], row: Row) -> Iterator[bytes]:
    """Yield the content of a release, chunk by chunk, each read with a connection of its own.

    Raises
    ------
    StoreError
        When it was rewritten meanwhile, or is damaged.
    """
    number = size = 0
    while size < row["bytes"]:
        is_chunk = (db.release_chunks.c.build == row["build"]) & (db.release_chunks.c.number == number)
        with reading() as connection:
            data = connection.execute(sa.select(db.release_chunks.c.data).where(is_chunk)).scalar()
        try:
            content = zlib.decompress(data or b"")
        except zlib.error:
            detail = "cannot be read completely: repeat the request; if that fails, the database is damaged"
            raise StoreError(f"the release {row['name']} {detail}") from None
        yield content
        size += len(content)
        number += 1


def replace_content(connection: sa.Connection, row: Row, values: Mapping[str, Any]) -> bool:
    """Give a release other chunks, in a transaction, and delete the earlier ones; return whether it still had these."""
    is_row = (db.releases.c.seq == row["seq"]) & (db.releases.c.build == row["build"])
    replaced = bool(connection.execute(db.releases.update().where(is_row).values(**values)).rowcount)
    obsolete = row["build"] if replaced else values["build"]
    connection.execute(db.release_chunks.delete().where(db.release_chunks.c.build == obsolete))
    return replaced


KEPT = 1000
"""Requests of a model that are kept."""


_columns = db.retrain_requests.c
_is_open = _columns.next_attempt.is_not(None)


class RetrainRequests:
    """The requests for retraining of a store; every verb raises StoreError when the database fails."""

    def __init__(self, store: db.Transactions) -> None:
        self._store = store

    def add(self, model: str, reason: str, context: str, last: float | None) -> Row | None:
        """Record a request, unless the model has an open one, or one that was made after ``last``.

        Parameters
        ----------
        model, reason
            What it is about.
        context
            More about the reason, as JSON.
        last
            Unix time in seconds of the newest request that the caller knows of; None does not check that.

        Returns
        -------
        Mapping or None
            The request; None when it was not recorded.
        """

        def write(connection: sa.Connection) -> Row | None:
            of_model = _columns.model == model
            is_in_the_way = _is_open if last is None else _is_open | (_columns.created > last)
            if connection.execute(sa.select(_columns.seq).where(of_model, is_in_the_way)).first():
                return None
            id_, now = uuid.uuid4().hex, time.time()
            values = {"id": id_, "model": model, "reason": reason, "context": context, "created": now}
            connection.execute(db.retrain_requests.insert().values(**values, attempts=0, next_attempt=now))
            oldest = sa.select(_columns.seq).where(of_model).order_by(_columns.seq.desc()).offset(KEPT)
            if obsolete := connection.execute(oldest).scalars().all():
                connection.execute(db.retrain_requests.delete().where(_columns.seq.in_(obsolete)))
            return connection.execute(sa.select(db.retrain_requests).where(_columns.id == id_)).mappings().one()

        return self._store.write(write)

    def claim_due(self, now: float, until: float) -> Row | None:
        """Return the next request that is due at the Unix time ``now``, and leave it to the caller ``until`` then."""
        waiting = sa.select(db.retrain_requests).order_by(_columns.next_attempt)
        due = waiting.where(_columns.next_attempt <= now).limit(1)

        def write(connection: sa.Connection) -> Row | None:
            if row := connection.execute(due).mappings().first():
                change = db.retrain_requests.update().where(_columns.seq == row["seq"])
                connection.execute(change.values(next_attempt=until))
            return row

        return self._store.write(write) if self._store.rows(due) else None  # nearly always there is none

    def update(self, seq: int, **values: Any) -> None:
        """Change a request."""
        self._store.change(db.retrain_requests.update().where(_columns.seq == seq).values(**values))

    def list(self, model: str | None, limit: int, reason: str | None = None) -> Sequence[Row]:
        """Return at most ``limit`` requests, the newest first."""
        query = sa.select(db.retrain_requests).order_by(_columns.seq.desc()).limit(limit)
        if model is not None:
            query = query.where(_columns.model == model)
        return self._store.rows(query if reason is None else query.where(_columns.reason == reason))

    def count_unreleased(self, model: str) -> int:
        """Return the number of accepted corrections, samples found wrong included, that are in no release yet."""
        query = sa.select(sa.func.count().label("number")).where(
            db.feedback.c.model == model,
            db.is_accepted,
            ~db.feedback.c.released,
            sa.func.coalesce(db.feedback.c.reviewed_label, db.feedback.c.label) != db.feedback.c.prediction,
        )
        return int(self._store.rows(query)[0]["number"])


LEASE_SECONDS = 90.0
"""An exporter whose lease has not changed for this long no longer runs."""
MAX_AGE_SECONDS = 62 * 86400.0
"""Twice the longest window: the replica of an older snapshot no longer exists."""
_LEASE = ""  # no model has an empty name


class Snapshots:
    """The snapshots of a store; every verb raises StoreError when the database fails."""

    def __init__(self, store: db.Transactions) -> None:
        self._store = store

    def save(self, model: str, version: str, data: bytes) -> None:
        """Replace the snapshot of a model version."""
        row = {"replica": self._store.replica, "model": model, "version": version, "saved": time.time(), "data": data}

        def write(connection: sa.Connection) -> None:
            connection.execute(db.windows.delete().where(_is(self._store, model, version)))
            connection.execute(db.windows.insert().values(row))

        self._store.write(write)

    def load(self, models: Collection[str] | None = None) -> list[tuple[str, str, bytes]]:
        """Return models, versions and snapshots of this replica, of some models or of all."""
        is_wanted = (db.windows.c.replica == self._store.replica) & (db.windows.c.model != _LEASE)
        if models is not None:
            is_wanted &= db.windows.c.model.in_(models)
        query = sa.select(db.windows.c.model, db.windows.c.version, db.windows.c.data).where(is_wanted)
        return [(row["model"], row["version"], row["data"]) for row in self._store.rows(query)]

    def of_other_replicas(self, model: str, version: str, since: float) -> list[bytes]:
        """Return the snapshots of a version that other replicas have saved since a Unix time."""
        is_other = db.windows.c.replica != self._store.replica
        is_other &= (db.windows.c.model == model) & (db.windows.c.version == version)
        query = sa.select(db.windows.c.data).where(is_other & (db.windows.c.saved > since))
        return [bytes(row["data"]) for row in self._store.rows(query)]

    def delete_others(self, live: Collection[tuple[str, str]]) -> None:
        """Delete this replica's snapshots of other models and versions, and those of replicas that no longer exist."""
        is_own = (db.windows.c.replica == self._store.replica) & (db.windows.c.model != _LEASE)
        is_old = db.windows.c.saved < time.time() - MAX_AGE_SECONDS
        obsolete = [is_old] if self._store.rows(sa.select(db.windows.c.model).where(is_old).limit(1)) else []
        own = [
            (row["model"], row["version"])
            for row in self._store.rows(sa.select(db.windows.c.model, db.windows.c.version).where(is_own))
        ]
        obsolete += [_is(self._store, *key) for key in own if key not in live]
        if obsolete:
            self._store.change(db.windows.delete().where(sa.or_(*obsolete[:500])))


class ReplicaLease:
    """Lets one exporter at a time save snapshots under a replica's name in a shared database.

    The lease has a number that its exporter changes each time. So two exporters need no common clock, and one that
    follows a killed one is not mistaken for a second one.

    Parameters
    ----------
    store
        The store.

    Attributes
    ----------
    holder : str or None
        The other exporter that runs and has the lease: its host and process.
    """

    def __init__(self, store: db.Transactions) -> None:
        self.holder: str | None = None
        self._store = store
        self._is_lease = _is(store, _LEASE, _LEASE)
        self._owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._data = f"{secrets.token_hex(8)} {self._owner}".encode()
        self._seen: tuple[bytes, float] | None = None
        self._seen_at = 0.0

    def renew(self, now: float) -> bool:
        """Return whether this exporter has the lease, after taking it where no running exporter has it.

        Parameters
        ----------
        now
            Monotonic time in seconds.

        Raises
        ------
        StoreError
            When another running exporter has it, or the database fails.
        """
        if not self._store.replica:  # nobody else uses an SQLite file
            return True
        other = self._store.write(lambda connection: self._take(connection, now))
        if other is None:
            self._seen = self.holder = None
            return True
        if self._seen is None or other != self._seen:
            if self._seen and other[0] == self._seen[0]:  # the same exporter has renewed it: it runs
                self.holder = other[0].decode("utf-8", "replace").partition(" ")[2]
            self._seen, self._seen_at = other, now
        if self.holder:
            self._store.report_failure()
            raise StoreError(
                f"store.replica: {self._store.replica!r} is also the name of another exporter ({self.holder}): "
                "give each its own store.replica, and restart"
            )
        return False

    def _take(self, connection: sa.Connection, now: float) -> tuple[bytes, float] | None:
        """Take or renew the lease; return the data and the number of the one that another exporter has."""
        lease = connection.execute(sa.select(db.windows.c.data, db.windows.c.saved).where(self._is_lease)).first()
        if lease is not None and bytes(lease.data) != self._data:
            other = (bytes(lease.data), float(lease.saved))
            if other != self._seen or now - self._seen_at < LEASE_SECONDS:
                return other
        row = {"replica": self._store.replica, "model": _LEASE, "version": _LEASE, "saved": time.time()}
        connection.execute(db.windows.delete().where(self._is_lease))
        connection.execute(db.windows.insert().values(**row, data=self._data))
        return None

    def release(self) -> None:
        """Let another exporter have the lease at once.

        Raises
        ------
        StoreError
            When the database fails.
        """
        if self._store.replica:
            is_own = self._is_lease & (db.windows.c.data == self._data)
            self._store.change(db.windows.delete().where(is_own))


def _is(store: db.Transactions, model: str, version: str) -> sa.ColumnElement[bool]:
    return (db.windows.c.replica == store.replica) & (db.windows.c.model == model) & (db.windows.c.version == version)
