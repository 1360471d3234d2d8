"""Snapshots of windows: one row per replica, model and version."""

from __future__ import annotations

import time
from collections.abc import Collection

import sqlalchemy as sa

from exporter.storage.schema import windows
from exporter.storage.store import Store

MAX_AGE_SECONDS = 62 * 86400.0
"""Twice the longest window: the replica of an older snapshot no longer exists."""


def save_snapshot(store: Store, model: str, version: str, data: bytes) -> None:
    """Replace the snapshot of a model version.

    Raises
    ------
    StoreError
        See `Store.execute`.
    """
    row = {"replica": store.replica, "model": model, "version": version, "saved": time.time(), "data": data}

    def write(connection: sa.Connection, _: object) -> None:
        connection.execute(windows.delete().where(_is(store, model, version)))
        connection.execute(windows.insert().values(row))

    store.execute(write)


def load_snapshots(store: Store) -> list[tuple[str, str, bytes]]:
    """Return models, versions and snapshots of this replica."""
    is_own = windows.c.replica == store.replica
    with store.reading() as connection:
        rows = connection.execute(sa.select(windows.c.model, windows.c.version, windows.c.data).where(is_own)).all()
    return [(model, version, data) for model, version, data in rows]


def delete_other_snapshots(store: Store, live: Collection[tuple[str, str]]) -> None:
    """Delete this replica's snapshots of other models and versions, and those of replicas that no longer exist."""
    is_own = windows.c.replica == store.replica
    is_old = windows.c.saved < time.time() - MAX_AGE_SECONDS
    with store.reading() as connection:
        rows = connection.execute(sa.select(windows.c.model, windows.c.version).where(is_own)).all()
        obsolete = [is_old] if connection.execute(sa.select(windows.c.model).where(is_old).limit(1)).first() else []
    obsolete += [_is(store, model, version) for model, version in rows if (model, version) not in live]
    if obsolete:
        store.execute(lambda connection, _: connection.execute(windows.delete().where(sa.or_(*obsolete[:500]))))


def _is(store: Store, model: str, version: str) -> sa.ColumnElement[bool]:
    return (windows.c.replica == store.replica) & (windows.c.model == model) & (windows.c.version == version)
