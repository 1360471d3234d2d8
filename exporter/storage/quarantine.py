"""Set aside what is damaged in an SQLite database at the start, so that the exporter can run; nothing is deleted."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import time
from pathlib import Path

from exporter.config import StoreConfig
from exporter.storage.database_file import database_path, rename_database
from exporter.storage.engine import is_damage
from exporter.storage.write_ahead_log import WalCommits, read_commits

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""How long the check at the start may take, which is enough for some hundred megabytes. Later damage is an error."""
_OPCODES = 10_000


def quarantine(config: StoreConfig) -> None:
    """Rename the database's files if they are damaged; copy a write-ahead log of which only a part can be read.

    Raises
    ------
    OSError
        When it is damaged and cannot be renamed.
    """
    path = database_path(config)
    if path is None:
        return
    damage = _damage_of_files(path)
    if damage is None and path.exists():
        damage = _damage(path)
    if damage is None:
        return
    aside = rename_database(path, "damaged")
    log.error(
        "the database %s is damaged (%s): it was set aside as %s, and an empty one takes its place. Users' feedback is "
        'in the damaged one and in the last backup: sqlite3 %s ".recover" restores what can be read',
        path,
        damage,
        aside,
        aside,
    )


def count_damaged(config: StoreConfig) -> int:
    """Return the number of damaged databases and write-ahead logs beside the one in use."""
    path = database_path(config)
    if path is None:
        return 0
    files = path.parent.glob(f"{path.name}.damaged-*")
    return len({file.name.removesuffix("-wal").removesuffix("-shm") for file in files})


def _damage_of_files(path: Path) -> str | None:
    """Return what is wrong with the files before SQLite opens them: it would delete the log of an empty database."""
    if path.is_file():
        return "the file is empty" if path.stat().st_size == 0 else None
    log_file = Path(f"{path}-wal")
    if not path.exists() and log_file.is_file() and log_file.stat().st_size:
        return "the file is gone, and its write-ahead log is still there"
    return None


def _damage(path: Path) -> str | None:
    """Return what is damaged in a database; None if nothing was found in time, or it cannot be checked."""
    deadline = time.monotonic() + CHECK_SECONDS
    log_file = Path(f"{path}-wal")
    commits = read_commits(log_file)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=CHECK_SECONDS)) as connection:
            if commits:
                _check_log(connection, path, log_file, commits)
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPCODES)
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error) if is_damage(error) else None
    return None if result == "ok" else str(result)


def _check_log(connection: sqlite3.Connection, path: Path, log_file: Path, commits: WalCommits) -> None:
    """Copy the write-ahead log if SQLite does not read all of its transactions: it deletes the log in the end."""
    connection.execute("PRAGMA synchronous=FULL")
    busy, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    unread = sum(frame > frames for frame in commits.frames)
    now = read_commits(log_file)
    if busy or not unread or now is None or now.salts != commits.salts:  # or another program has written meanwhile
        return
    aside = Path(f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-wal")
    shutil.copyfile(log_file, aside)
    log.error(
        "the write-ahead log %s is damaged: %d of its %d transactions cannot be read, and the database continues "
        "without them. A copy of the log is %s. If users' feedback is missing, restore the last backup",
        log_file,
        unread,
        len(commits.frames),
        aside,
    )
