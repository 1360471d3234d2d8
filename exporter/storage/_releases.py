"""Releases of datasets: the content in compressed chunks, and one row that describes it.

The row is written last. Chunks without a row belong to a release that is being made, or was never finished.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.errors import StoreError, StoreFullError
from exporter.storage._engine import Transactions
from exporter.storage._retention import StoreSize
from exporter.storage._schema import feedback, release_chunks, releases

CHUNK = 2**20
"""Bytes in a chunk before it is compressed."""
STEP = 500
"""Rows that are changed in one transaction: feedback must not wait long for the writer."""
UNFINISHED_SECONDS = 6 * 3600.0
"""Older chunks without a row belong to a release that was never finished."""

Row = Mapping[Any, Any]
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

    def __init__(self, store: Transactions, size: StoreSize) -> None:
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
            is_same = (releases.c.id == values["id"]) | (releases.c.sha256 == values["sha256"])  # differ once redacted
            by_content = sa.select(releases).where(is_same)
            by_name = sa.select(releases).where(releases.c.name == values["name"])
            same_content: Any = connection.execute(by_content).mappings().first()
            if same_content is not None:
                conflict = "" if same_content["name"] == values["name"] else "content"
                return PublishResult(same_content, new=False, conflict=conflict)
            same_name: Any = connection.execute(by_name).mappings().first()
            if same_name is not None:
                return PublishResult(same_name, new=False, conflict="name")
            if content.refused:
                raise content.refused
            self._size.require(connection, len(values["lineage"]))
            connection.execute(releases.insert().values(**values, marked=False))
            row: Any = connection.execute(by_content).mappings().one()
            return PublishResult(row, new=True)

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
        with self._store.reading() as connection:
            query = sa.select(releases).where((releases.c.id == key) | (releases.c.name == key))
            row: Any = connection.execute(query).mappings().first()
        return row  # type: ignore[no-any-return]

    def list(self, model: str | None, limit: int, before: int | None = None) -> Sequence[Row]:
        """Return at most ``limit`` releases, the newest first; with ``before``, those with a lower ``seq``."""
        with self._store.reading() as connection:
            return list_releases(connection, model, limit, before)

    def unmarked(self) -> Sequence[Row]:
        """Return releases whose examples are not all marked as released yet."""
        with self._store.reading() as connection:
            rows: Any = connection.execute(sa.select(releases).where(~releases.c.marked)).mappings().all()
        return rows  # type: ignore[no-any-return]

    def mark_examples(self, correction_ids: Sequence[int]) -> None:
        """Mark corrections as released."""
        for start in range(0, len(correction_ids), STEP):
            is_next = feedback.c.id.in_(correction_ids[start : start + STEP]) & ~feedback.c.released
            self._change(feedback.update().where(is_next).values(released=True))

    def set_marked(self, seq: int) -> None:
        """Record that all examples of a release are marked."""
        self._change(releases.update().where(releases.c.seq == seq).values(marked=True))

    def _change(self, change: sa.Update) -> None:
        self._store.write(lambda connection: connection.execute(change))

    def delete_chunks(self, build: str) -> None:
        """Delete the chunks of an unfinished release, a few at a time; the first one last, by which it is found."""
        of_build = release_chunks.c.build == build
        last = sa.select(release_chunks.c.number).where(of_build).order_by(release_chunks.c.number.desc()).limit(8)
        step = release_chunks.delete().where(of_build, release_chunks.c.number.in_(last))
        while self._store.write(lambda connection: connection.execute(step).rowcount):
            pass

    def unfinished_builds(self, now: float) -> Sequence[str]:
        """Return the builds of releases that were never finished, for example because of a crash."""
        finished = sa.select(releases.c.build)
        is_old = release_chunks.c.created < now - UNFINISHED_SECONDS
        query = sa.select(release_chunks.c.build).where(
            release_chunks.c.number == 0, is_old, release_chunks.c.build.not_in(finished)
        )
        with self._store.reading() as connection:
            return connection.execute(query).scalars().all()


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
    is_chunk = (release_chunks.c.build == build) & (release_chunks.c.number == number)
    if connection.execute(sa.select(release_chunks.c.number).where(is_chunk)).first() is None:
        connection.execute(release_chunks.insert().values(values))


def read_chunks(reading: Callable[[], AbstractContextManager[sa.Connection]], row: Row) -> Iterator[bytes]:
    """Yield the content of a release, chunk by chunk, each read with a connection of its own.

    Raises
    ------
    StoreError
        When it was rewritten meanwhile, or is damaged.
    """
    number = size = 0
    while size < row["bytes"]:
        is_chunk = (release_chunks.c.build == row["build"]) & (release_chunks.c.number == number)
        with reading() as connection:
            data = connection.execute(sa.select(release_chunks.c.data).where(is_chunk)).scalar()
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
    is_row = (releases.c.seq == row["seq"]) & (releases.c.build == row["build"])
    replaced = bool(connection.execute(releases.update().where(is_row).values(**values)).rowcount)
    obsolete = row["build"] if replaced else values["build"]
    connection.execute(release_chunks.delete().where(release_chunks.c.build == obsolete))
    return replaced


def list_releases(connection: sa.Connection, model: str | None, limit: int, before: int | None) -> Sequence[Row]:
    """Return at most ``limit`` releases, the newest first; with ``before``, those with a lower ``seq``."""
    query = sa.select(releases)
    if model is not None:
        query = query.where(releases.c.model == model)
    if before is not None:
        query = query.where(releases.c.seq < before)
    rows: Any = connection.execute(query.order_by(releases.c.seq.desc()).limit(limit)).mappings().all()
    return rows  # type: ignore[no-any-return]
