"""Rename a damaged SQLite file at the start, so that an empty database takes its place; nothing is deleted."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

from exporter.config import StoreConfig
from exporter.storage.engine import check_url, is_shared

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""How long the check at the start may take, which is enough for some hundred megabytes. Later damage is an error."""
_OPCODES = 10_000
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def database_file(config: StoreConfig) -> Path | None:
    """Return the file of an SQLite database; None for another one."""
    address = check_url(config.url)
    return None if is_shared(address) else Path(address.database or "")


def quarantine(config: StoreConfig) -> None:
    """Rename the database's file if it is damaged.

    Raises
    ------
    OSError
        When it is damaged and cannot be renamed.
    """
    path = database_file(config)
    if path is None or not path.is_file() or (damage := _damage(path)) is None:
        return
    aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for part in ("", "-wal", "-shm"):  # with these names they still belong together
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{part}").rename(f"{aside}{part}")
    log.error(
        "the database %s is damaged (%s): it was set aside as %s, and an empty one takes its place. Users' feedback is "
        'in the damaged one: sqlite3 %s ".recover" restores what can be read',
        path,
        damage,
        aside,
        aside,
    )


def count_damaged(config: StoreConfig) -> int:
    """Return the number of damaged databases beside the one in use."""
    path = database_file(config)
    if path is None:
        return 0
    files = path.parent.glob(f"{path.name}.damaged-*")
    return sum(not file.name.endswith(("-wal", "-shm")) for file in files)


def _damage(path: Path) -> str | None:
    """Return what is damaged in a database; None if nothing was found in time, or it cannot be checked."""
    deadline = time.monotonic() + CHECK_SECONDS
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=CHECK_SECONDS)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPCODES)
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error) if error.sqlite_errorcode & 0xFF in _DAMAGED else None
    return None if result == "ok" else str(result)
