"""A damaged file of SQLite is set aside at the start, never deleted, and an empty one takes its place."""

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
"""How long the start may look for damage: some hundred megabytes. What is found later fails loudly."""
_OPCODES = 10_000
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def file_of(config: StoreConfig) -> Path | None:
    """The file of an SQLite database; None of another one."""
    address = check_url(config.url)
    return None if is_shared(address) else Path(address.database or "")


def quarantine(config: StoreConfig) -> None:
    """Rename a damaged database, so that the next one to open it begins anew.

    Raises
    ------
    OSError
        When it is damaged and cannot be renamed.
    """
    path = file_of(config)
    if path is None or not path.is_file() or (what := _damage(path)) is None:
        return
    aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for part in ("", "-wal", "-shm"):  # so named they still belong together
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{part}").rename(f"{aside}{part}")
    log.error(
        "the database %s is damaged (%s): it was set aside as %s, and an empty one takes its place. What users said is "
        'in the damaged one: sqlite3 %s ".recover" saves what can be read',
        path,
        what,
        aside,
        aside,
    )


def damaged(config: StoreConfig) -> int:
    """How many damaged databases lie beside the one in use."""
    path = file_of(config)
    if path is None:
        return 0
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sum(not name.name.endswith(("-wal", "-shm")) for name in found)


def _damage(path: Path) -> str | None:
    """What is wrong with a database; None where nothing was found in time, or it cannot be looked at."""
    deadline = time.monotonic() + CHECK_SECONDS
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=CHECK_SECONDS)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPCODES)
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error) if error.sqlite_errorcode & 0xFF in _DAMAGED else None
    return None if found == "ok" else str(found)
