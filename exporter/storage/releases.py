"""Releases of datasets: frozen bytes in compressed chunks, and one row that says what they are.

The row comes last. Chunks without one are of a release that is being made, or was never finished.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.schema import feedback, release_chunks, releases
from exporter.storage.store import Store

STEP = 500
"""Rows changed in one transaction: feedback must not wait long for the writer."""
UNFINISHED_SECONDS = 6 * 3600.0
"""From then on chunks without a release are of none that is still being made."""

Row = Mapping[Any, Any]
"""A row of the table ``releases``."""


class Taken(NamedTuple):
    """What became of a release.

    Attributes
    ----------
    row
        The release; the one in the way when ``conflict`` says what it has in common.
    new
        Whether it was made just now.
    conflict
        ``"name"`` or ``"content"``; empty for none.
    """

    row: Row
    new: bool
    conflict: str = ""


def write_chunk(store: Store, build: str, number: int, data: bytes) -> None:
    """Write the next bytes of a release that is being made.

    Raises
    ------
    StoreError
        See `Store.execute`; so with all of these.
    """
    values = {"build": build, "number": number, "created": time.time(), "data": zlib.compress(data)}

    def write(connection: sa.Connection, _: object) -> None:
        mine = (release_chunks.c.build == build) & (release_chunks.c.number == number)
        if connection.execute(sa.select(release_chunks.c.number).where(mine)).first() is None:
            connection.execute(release_chunks.insert().values(values))

    store.execute(write)


def publish(store: Store, values: Mapping[str, Any]) -> Taken:
    """Make written chunks a release, unless the same bytes, or the name, are one already.

    Parameters
    ----------
    store
        Where to.
    values
        The row but for ``seq`` and ``marked``.
    """

    def write(connection: sa.Connection, _: object) -> Taken:
        alike = sa.select(releases).where(releases.c.id == values["id"])
        named = sa.select(releases).where(releases.c.name == values["name"])
        same: Any = connection.execute(alike).mappings().first()
        if same is not None:
            return Taken(same, new=False, conflict="" if same["name"] == values["name"] else "content")
        other: Any = connection.execute(named).mappings().first()
        if other is not None:
            return Taken(other, new=False, conflict="name")
        connection.execute(releases.insert().values(**values, marked=False))
        made: Any = connection.execute(alike).mappings().one()
        return Taken(made, new=True)

    return store.execute(write)


def chunks(store: Store, build: str) -> Iterator[bytes]:
    """The bytes of a release, a chunk at a time."""
    number = 0
    while True:
        mine = (release_chunks.c.build == build) & (release_chunks.c.number == number)
        with store.reading() as connection:
            data = connection.execute(sa.select(release_chunks.c.data).where(mine)).scalar()
        if data is None:
            return
        yield zlib.decompress(data)
        number += 1


def find(connection: sa.Connection, key: str) -> Row | None:
    """A release by its identifier or its name."""
    found = sa.select(releases).where((releases.c.id == key) | (releases.c.name == key))
    row: Any = connection.execute(found).mappings().first()
    return row  # type: ignore[no-any-return]


def listed(connection: sa.Connection, model: str | None, limit: int, before: int | None) -> Sequence[Row]:
    """Releases, the newest first, ``limit`` at most; those made before that of the place ``before``."""
    query = sa.select(releases)
    if model is not None:
        query = query.where(releases.c.model == model)
    if before is not None:
        query = query.where(releases.c.seq < before)
    rows: Any = connection.execute(query.order_by(releases.c.seq.desc()).limit(limit)).mappings().all()
    return rows  # type: ignore[no-any-return]


def unmarked(connection: sa.Connection) -> Sequence[Row]:
    """Releases whose examples are not all marked as released yet."""
    rows: Any = connection.execute(sa.select(releases).where(~releases.c.marked)).mappings().all()
    return rows  # type: ignore[no-any-return]


def mark(store: Store, places: Sequence[int]) -> None:
    """Mark corrections as released."""
    for start in range(0, len(places), STEP):
        mine = feedback.c.id.in_(places[start : start + STEP]) & ~feedback.c.released
        _change(store, feedback.update().where(mine).values(released=True))


def marked(store: Store, place: int) -> None:
    """Note that all examples of the release of that place are marked."""
    _change(store, releases.update().where(releases.c.seq == place).values(marked=True))


def _change(store: Store, change: sa.Update) -> None:
    store.execute(lambda connection, _: connection.execute(change))


def discard(store: Store, build: str) -> None:
    """Delete the chunks of what did not become a release, a few at a time; the first at last: `unfinished` finds it."""
    mine = release_chunks.c.build == build
    last = sa.select(release_chunks.c.number).where(mine).order_by(release_chunks.c.number.desc()).limit(8)
    step = release_chunks.delete().where(mine, release_chunks.c.number.in_(last))
    while store.execute(lambda connection, _: connection.execute(step).rowcount):
        pass


def unfinished(connection: sa.Connection, now: float) -> Sequence[str]:
    """Builds that were given up, by a crash perhaps."""
    finished = sa.select(releases.c.build)
    old = release_chunks.c.created < now - UNFINISHED_SECONDS
    query = sa.select(release_chunks.c.build).where(
        release_chunks.c.number == 0, old, release_chunks.c.build.not_in(finished)
    )
    return connection.execute(query).scalars().all()
