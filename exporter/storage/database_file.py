"""The file of an SQLite database while an exporter uses it: one exporter at a time, and only while it stays in place.

SQLite detects neither: it continues in a deleted file, and what it commits there is lost when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage.engine import check_url, is_shared
from exporter.storage.write_ahead_log import has_header

PARTS = ("", "-wal", "-shm")
"""The endings of the files that belong to a database."""


def database_path(config: StoreConfig) -> Path | None:
    """Return the file of an SQLite database; None for another one."""
    address = check_url(config.url)
    return None if is_shared(address) else Path(address.database or "").resolve()


def rename_database(path: Path, reason: str) -> str:
    """Rename the files of a database, so that they still belong together, to names with a reason and the time."""
    aside = f"{path}.{reason}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for part in PARTS:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{part}").rename(f"{aside}{part}")
    return aside


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; return False if another process has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class DatabaseLock:
    """Keeps other exporters from a database file. The lock ends with the process, however that ends.

    Parameters
    ----------
    path
        The database. The lock is on ``FILE.lock``, because SQLite locks the file itself.

    Raises
    ------
    StoreError
        When another exporter has the lock.
    OSError
        When the file of the lock cannot be created.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not try_lock(self._descriptor):
            owner = os.read(self._descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise StoreError(
                f"store.url: {path} is in use by another exporter, process {owner}: stop it, give each its own "
                "file, or let them share a PostgreSQL database"
            )
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another exporter use the file."""
        os.close(self._descriptor)


class _Files(NamedTuple):
    """The identity of the database and of its write-ahead log, as device and inode; None where there is no file."""

    database: tuple[int, int] | None
    log: tuple[int, int] | None


class DatabaseFile:
    """Tells whether the file of an open database is still in place and complete.

    Parameters
    ----------
    path
        The file.
    connection
        Keeps the database open.

    Attributes
    ----------
    fault : str or None
        What the last check found.
    """

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self.fault: str | None = None
        self._path = path
        self._log = Path(f"{path}-wal")
        with connection.begin():
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").close()  # opens the write-ahead log
            self._page_bytes = int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)
        self._files = _Files(*(_identity(_status(file)) for file in (path, self._log)))
        self._bytes = 0
        sa.event.listen(connection.engine, "do_connect", self._check_place)

    def check(self, connection: sa.Connection) -> None:
        """Check the files, at the start of a transaction of that connection.

        Raises
        ------
        StoreError
            When a file was deleted, replaced or cut.
        """
        self.fault = self._find_fault(connection)
        if self.fault:
            raise StoreError(self.fault)

    def _find_fault(self, connection: sa.Connection) -> str | None:
        database, log = _status(self._path), _status(self._log)
        if moved := self._find_moved(database, log):
            return moved
        if log is not None and log.st_size and not has_header(self._log):
            return f"{self._log} was overwritten or cut: restart the exporter, and restore a backup"
        # Only VACUUM makes the file of a database smaller, to the size that the database has then.
        used = int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0) * self._page_bytes
        size = database.st_size if database else 0
        if size == 0 or size < min(self._bytes, used):
            return f"{self._path} was cut to {size} bytes: restart the exporter, and restore a backup"
        self._bytes = min(size, used)
        return None

    def _find_moved(self, database: os.stat_result | None, log: os.stat_result | None) -> str | None:
        for path, status, expected in zip((self._path, self._log), (database, log), self._files, strict=True):
            if _identity(status) != expected:
                what = "was deleted" if status is None else "was replaced by another file"
                return f"{path} {what}: put the old one back, or restart the exporter"
        return None

    def _check_place(self, *_: object) -> None:
        """Refuse a new connection to a database that is not in place: SQLite would create its files anew."""
        if fault := self._find_moved(_status(self._path), _status(self._log)):
            raise StoreError(fault)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result | None) -> tuple[int, int] | None:
    return (status.st_dev, status.st_ino) if status else None
