"""Snapshots of windows: one row per replica, model and version.

A further row per replica, with an empty model, is its lease: it names the exporter that saves under that name.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Collection

import sqlalchemy as sa

from exporter.errors import StoreError
from exporter.storage._engine import Transactions
from exporter.storage._schema import windows

LEASE_SECONDS = 90.0
"""An exporter whose lease has not changed for this long no longer runs."""
MAX_AGE_SECONDS = 62 * 86400.0
"""Twice the longest window: the replica of an older snapshot no longer exists."""
_LEASE = ""  # no model has an empty name


class Snapshots:
    """The snapshots of a store; every verb raises StoreError when the database fails."""

    def __init__(self, store: Transactions) -> None:
        self._store = store

    def save(self, model: str, version: str, data: bytes) -> None:
        """Replace the snapshot of a model version."""
        row = {"replica": self._store.replica, "model": model, "version": version, "saved": time.time(), "data": data}

        def write(connection: sa.Connection) -> None:
            connection.execute(windows.delete().where(_is(self._store, model, version)))
            connection.execute(windows.insert().values(row))

        self._store.write(write)

    def load(self, models: Collection[str] | None = None) -> list[tuple[str, str, bytes]]:
        """Return models, versions and snapshots of this replica, of some models or of all."""
        is_wanted = (windows.c.replica == self._store.replica) & (windows.c.model != _LEASE)
        if models is not None:
            is_wanted &= windows.c.model.in_(models)
        query = sa.select(windows.c.model, windows.c.version, windows.c.data).where(is_wanted)
        with self._store.reading() as connection:
            return [(model, version, data) for model, version, data in connection.execute(query)]

    def of_other_replicas(self, model: str, version: str, since: float) -> list[bytes]:
        """Return the snapshots of a version that other replicas have saved since a Unix time."""
        is_other = windows.c.replica != self._store.replica
        is_other &= (windows.c.model == model) & (windows.c.version == version)
        with self._store.reading() as connection:
            rows = connection.execute(sa.select(windows.c.data).where(is_other & (windows.c.saved > since)))
            return [bytes(data) for (data,) in rows]

    def delete_others(self, live: Collection[tuple[str, str]]) -> None:
        """Delete this replica's snapshots of other models and versions, and those of replicas that no longer exist."""
        is_own = (windows.c.replica == self._store.replica) & (windows.c.model != _LEASE)
        is_old = windows.c.saved < time.time() - MAX_AGE_SECONDS
        with self._store.reading() as connection:
            rows = connection.execute(sa.select(windows.c.model, windows.c.version).where(is_own)).all()
            obsolete = [is_old] if connection.execute(sa.select(windows.c.model).where(is_old).limit(1)).first() else []
        obsolete += [_is(self._store, model, version) for model, version in rows if (model, version) not in live]
        if obsolete:
            self._store.write(lambda connection: connection.execute(windows.delete().where(sa.or_(*obsolete[:500]))))


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

    def __init__(self, store: Transactions) -> None:
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
        lease = connection.execute(sa.select(windows.c.data, windows.c.saved).where(self._is_lease)).first()
        if lease is not None and bytes(lease.data) != self._data:
            other = (bytes(lease.data), float(lease.saved))
            if other != self._seen or now - self._seen_at < LEASE_SECONDS:
                return other
        row = {"replica": self._store.replica, "model": _LEASE, "version": _LEASE, "saved": time.time()}
        connection.execute(windows.delete().where(self._is_lease))
        connection.execute(windows.insert().values(**row, data=self._data))
        return None

    def release(self) -> None:
        """Let another exporter have the lease at once.

        Raises
        ------
        StoreError
            When the database fails.
        """
        if self._store.replica:
            is_own = self._is_lease & (windows.c.data == self._data)
            self._store.write(lambda connection: connection.execute(windows.delete().where(is_own)))


def _is(store: Transactions, model: str, version: str) -> sa.ColumnElement[bool]:
    return (windows.c.replica == store.replica) & (windows.c.model == model) & (windows.c.version == version)
