"""Back up and restore an SQLite database: the copy is one state of it, also while the exporter writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage.database_file import DatabaseLock, database_path, rename_database
from exporter.storage.engine import shown_url
from exporter.storage.migrations import SCHEMA_VERSION

BUSY_SECONDS = 60
"""How long a backup waits for another program's lock, such as that of a migration."""
_COUNTS = """SELECT
    (SELECT count(*) FROM predictions),
    {labels},
    (SELECT count(*) FROM feedback WHERE verdict <> 'sampled'),
    (SELECT count(*) FROM feedback WHERE verdict = 'corrected' AND status = 'pending' AND joined),
    (SELECT count(*) FROM releases),
    (SELECT count(*) FROM windows WHERE model <> '')
"""


class BackupSummary(NamedTuple):
    """The contents of a database, counted.

    Attributes
    ----------
    bytes
        The size of its file.
    predictions, labels, feedback, pending, releases, windows
        Numbers of predictions, labels, pieces of feedback, corrections that wait for review, releases, and versions
        with a snapshot of their windows.
    """

    bytes: int
    predictions: int
    labels: int
    feedback: int
    pending: int
    releases: int
    windows: int

    def describe(self) -> str:
        """Return the contents of a verified backup as text."""
        return (
            f"{self.bytes / 2**20:.1f} MiB, verified: {self.predictions:,} predictions, "
            f"{self.labels:,} labels, {self.feedback:,} feedback ({self.pending:,} to review), "
            f"{self.releases:,} releases, windows of {self.windows:,} versions"
        )


def back_up(config: StoreConfig, target: Path) -> BackupSummary:
    """Copy the database to a new file, verify the copy, and give it its name once it is on disk.

    Raises
    ------
    StoreError
        When the database cannot be read, is damaged or is none of the exporter's, or the file exists or cannot be
        written.
    """
    source = _sqlite_path(config, "back it up with pg_dump --format=custom")
    with _new_file(target) as partial, _explained(f"{source}: cannot be backed up to {target}"):
        with _open(source) as database, contextlib.closing(sqlite3.connect(partial)) as copy:
            database.backup(copy)  # all pages in one step: in more steps, each write would make it start again
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        return verify(partial)


def restore(config: StoreConfig, backup: Path) -> BackupSummary:
    """Put a verified copy of a backup in the place of the database, whose files are renamed to ``FILE.replaced-…``.

    Raises
    ------
    StoreError
        When the backup is not valid, an exporter uses the database, or a file cannot be written.
    """
    path = _sqlite_path(config, "restore it with pg_restore")
    summary = verify(backup)
    with _explained(f"{path}: {backup} cannot be restored"):
        lock = DatabaseLock(path)
        try:
            owner = (path if path.exists() else path.parent).stat()
            _set_owner(Path(f"{path}.lock"), owner)
            with _new_file(path, lambda: rename_database(path, "replaced")) as partial:
                shutil.copyfile(backup, partial)
                _set_owner(partial, owner)
        finally:
            lock.release()
    return summary


def _set_owner(path: Path, owner: os.stat_result) -> None:
    """Give a file to the user of the exporter when root restores its database."""
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def verify(path: Path) -> BackupSummary:
    """Check every page and index of a database, and the content of each release against its hash.

    Raises
    ------
    StoreError
        When something is wrong with it.
    """
    with _explained(f"{path}: is not a backup"), _open(path) as database:
        tables = _check_schema(path, database)
        (result,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            raise StoreError(f"{path}: is damaged: {result}")
        for name, build, sha256 in database.execute("SELECT name, build, sha256 FROM releases").fetchall():
            if _release_hash(database, build) != sha256:
                raise StoreError(f"{path}: the content of the release {name} does not match its SHA-256 {sha256}")
        labels = "(SELECT count(*) FROM labels)" if "labels" in tables else "0"  # an older version has none
        counts = database.execute(_COUNTS.format(labels=labels)).fetchone()
    return BackupSummary(path.stat().st_size, *counts)


def _sqlite_path(config: StoreConfig, instead: str) -> Path:
    path = database_path(config)
    if path is None:
        raise StoreError(
            f"store.url: {shown_url(config.url)} is PostgreSQL: {instead}, as docs/operations.md describes"
        )
    return path


def _check_schema(path: Path, database: sqlite3.Connection) -> set[str]:
    """Return the names of the tables."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"schema", "feedback"} <= tables:
        raise StoreError(f"{path}: expected a database of model-exporter, got one without its tables")
    (version,) = database.execute("SELECT max(version) FROM schema").fetchone()
    if version is not None and version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: has schema {version}, newer than this version understands; it knows {SCHEMA_VERSION}: use the "
            "newer exporter"
        )
    return tables


def _release_hash(database: sqlite3.Connection, build: str) -> str:
    digest = hashlib.sha256()
    for (data,) in database.execute("SELECT data FROM release_chunks WHERE build = ? ORDER BY number", (build,)):
        digest.update(zlib.decompress(data))
    return digest.hexdigest()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database; SQLite would create one that does not exist."""
    if not path.is_file():
        raise StoreError(f"{path}: does not exist")
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
        yield connection


@contextlib.contextmanager
def _new_file(target: Path, move_aside: Callable[[], object] | None = None) -> Iterator[Path]:
    """Yield a file to write that gets its name at the end; nothing stays of it when the block fails.

    Parameters
    ----------
    target
        The name. A file that has it is an error, unless ``move_aside`` renames it.
    move_aside
        Called once the new file is on disk.
    """
    if move_aside is None and target.exists():
        raise StoreError(f"{target}: exists already; choose another name")
    partial = target.with_name(f"{target.name}.partial")
    with _explained(f"{target}: cannot be written"):
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield partial
        _flush(partial)
        if move_aside:
            move_aside()
        partial.rename(target)
        _flush(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise StoreError(f"{what}: {error.filename} exists: another backup is running; if not, delete it") from None
    except (OSError, sqlite3.Error, zlib.error) as error:
        raise StoreError(f"{what}: {getattr(error, 'strerror', None) or error}") from None
