"""Snapshots of windows: one row a replica, model and version."""

from __future__ import annotations

import time
from collections.abc import Collection

import sqlalchemy as sa

from exporter.storage.schema import windows
from exporter.storage.store import Store

FORGOTTEN_SECONDS = 62 * 86400.0
"""After twice the longest window a snapshot is of no use to anybody: its replica is no more."""


def save_snapshot(store: Store, model: str, version: str, data: bytes) -> None:
    """Write a version's snapshot in place of the one before.

    Raises
    ------
    StoreError
        See `Store.execute`; so with all of these.
    """
    row = {"replica": store.replica, "model": model, "version": version, "saved": time.time(), "data": data}

    def write(connection: sa.Connection, _: object) -> None:
        connection.execute(windows.delete().where(_is(store, model, version)))
        connection.execute(windows.insert().values(row))

    store.execute(write)


def load_snapshots(store: Store) -> list[tuple[str, str, bytes]]:
    """Models, versions and their snapshots, of this replica."""
    mine = windows.c.replica == store.replica
    with store.reading() as connection:
        rows = connection.execute(sa.select(windows.c.model, windows.c.version, windows.c.data).where(mine)).all()
    return [(model, version, data) for model, version, data in rows]


def forget_others(store: Store, living: Collection[tuple[str, str]]) -> None:
    """Delete this replica's snapshots of all but these models and versions, and those of replicas long gone."""
    mine = windows.c.replica == store.replica
    old = windows.c.saved < time.time() - FORGOTTEN_SECONDS
    with store.reading() as connection:
        rows = connection.execute(sa.select(windows.c.model, windows.c.version).where(mine)).all()
        gone = [old] if connection.execute(sa.select(windows.c.model).where(old).limit(1)).first() else []
    gone += [_is(store, model, version) for model, version in rows if (model, version) not in living]
    if gone:
        store.execute(lambda connection, _: connection.execute(windows.delete().where(sa.or_(*gone[:500]))))


def _is(store: Store, model: str, version: str) -> sa.ColumnElement[bool]:
    return (windows.c.replica == store.replica) & (windows.c.model == model) & (windows.c.version == version)
