"""Releases of datasets: the content in compressed chunks, and one row that describes it.

The row is written last. Chunks without a row belong to a release that is being made, or was never finished.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.errors import StoreError, StoreFullError
from exporter.storage._schema import feedback, release_chunks, releases
from exporter.storage._store import Store

STEP = 500
"""Rows that are changed in one transaction: feedback must not wait long for the writer."""
UNFINISHED_SECONDS = 6 * 3600.0
"""Older chunks without a row belong to a release that was never finished."""

Row = Mapping[Any, Any]
"""A row of the table ``releases``."""


class PublishResult(NamedTuple):
    """The result of `publish`.

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


def write_chunk(connection: sa.Connection, build: str, number: int, data: bytes) -> None:
    """Write the next chunk of a release that is being made, in a transaction that may be repeated."""
    values = {"build": build, "number": number, "created": time.time(), "data": zlib.compress(data)}
    is_chunk = (release_chunks.c.build == build) & (release_chunks.c.number == number)
    if connection.execute(sa.select(release_chunks.c.number).where(is_chunk)).first() is None:
        connection.execute(release_chunks.insert().values(values))


def publish(store: Store, values: Mapping[str, Any], refused: StoreFullError | None = None) -> PublishResult:
    """Make a release of written chunks, unless there is one of the same content or name already.

    Parameters
    ----------
    store
        The store with the chunks.
    values
        The row without ``seq`` and ``marked``.
    refused
        Why a chunk was not written; raised if there is no such release yet.

    Raises
    ------
    StoreError
        See `Store.execute`; the other functions with a store raise it, too.
    """

    def write(connection: sa.Connection, _: object) -> PublishResult:
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
        if refused:
            raise refused
        store.size.require(connection, len(values["lineage"]))
        connection.execute(releases.insert().values(**values, marked=False))
        row: Any = connection.execute(by_content).mappings().one()
        return PublishResult(row, new=True)

    return store.execute(write)


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


def find_release(connection: sa.Connection, key: str) -> Row | None:
    """Return the release with this identifier or name."""
    query = sa.select(releases).where((releases.c.id == key) | (releases.c.name == key))
    row: Any = connection.execute(query).mappings().first()
    return row  # type: ignore[no-any-return]


def list_releases(connection: sa.Connection, model: str | None, limit: int, before: int | None) -> Sequence[Row]:
    """Return at most ``limit`` releases, the newest first; with ``before``, those with a lower ``seq``."""
    query = sa.select(releases)
    if model is not None:
        query = query.where(releases.c.model == model)
    if before is not None:
        query = query.where(releases.c.seq < before)
    rows: Any = connection.execute(query.order_by(releases.c.seq.desc()).limit(limit)).mappings().all()
    return rows  # type: ignore[no-any-return]


def unmarked_releases(connection: sa.Connection) -> Sequence[Row]:
    """Return releases whose examples are not all marked as released yet."""
    rows: Any = connection.execute(sa.select(releases).where(~releases.c.marked)).mappings().all()
    return rows  # type: ignore[no-any-return]


def mark_released(store: Store, correction_ids: Sequence[int]) -> None:
    """Mark corrections as released."""
    for start in range(0, len(correction_ids), STEP):
        is_next = feedback.c.id.in_(correction_ids[start : start + STEP]) & ~feedback.c.released
        _change(store, feedback.update().where(is_next).values(released=True))


def set_marked(store: Store, seq: int) -> None:
    """Record that all examples of a release are marked."""
    _change(store, releases.update().where(releases.c.seq == seq).values(marked=True))


def _change(store: Store, change: sa.Update) -> None:
    store.execute(lambda connection, _: connection.execute(change))


def delete_chunks(store: Store, build: str) -> None:
    """Delete the chunks of an unfinished release, a few at a time; the first one last, by which it is found."""
    of_build = release_chunks.c.build == build
    last = sa.select(release_chunks.c.number).where(of_build).order_by(release_chunks.c.number.desc()).limit(8)
    step = release_chunks.delete().where(of_build, release_chunks.c.number.in_(last))
    while store.execute(lambda connection, _: connection.execute(step).rowcount):
        pass


def unfinished_builds(connection: sa.Connection, now: float) -> Sequence[str]:
    """Return the builds of releases that were never finished, for example because of a crash."""
    finished = sa.select(releases.c.build)
    is_old = release_chunks.c.created < now - UNFINISHED_SECONDS
    query = sa.select(release_chunks.c.build).where(
        release_chunks.c.number == 0, is_old, release_chunks.c.build.not_in(finished)
    )
    return connection.execute(query).scalars().all()
