"""Snapshots of windows: one row a model and version."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from exporter.store.database import Store
from exporter.store.schema import windows


def keep(store: Store, model: str, version: str, data: bytes) -> None:
    """Write a version's snapshot in place of the one before.

    Raises
    ------
    StoreError
        See `Store.write`; so with all of these.
    """

    def write(connection: sa.Connection, _: object) -> None:
        connection.execute(windows.delete().where(_is(model, version)))
        connection.execute(windows.insert().values(model=model, version=version, data=data))

    store.write(write)


def kept(store: Store) -> list[tuple[str, str, bytes]]:
    """Models, versions and their snapshots."""
    with store.reading() as connection:
        rows = connection.execute(sa.select(windows.c.model, windows.c.version, windows.c.data)).all()
    return [(model, version, data) for model, version, data in rows]


def forget_others(store: Store, living: Collection[tuple[str, str]]) -> None:
    """Delete the snapshots of all but these models and versions."""
    with store.reading() as connection:
        rows = connection.execute(sa.select(windows.c.model, windows.c.version)).all()
    if gone := [_is(model, version) for model, version in rows if (model, version) not in living]:
        store.write(lambda connection, _: connection.execute(windows.delete().where(sa.or_(*gone[:500]))))


def _is(model: str, version: str) -> sa.ColumnElement[bool]:
    return (windows.c.model == model) & (windows.c.version == version)
