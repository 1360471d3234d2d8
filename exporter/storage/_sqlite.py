"""The file of an SQLite database while an exporter uses it: one exporter at a time, and only while it stays in place.

SQLite detects neither: it continues in a deleted file, and what it commits there is lost when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import sqlite3
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage._database import SCHEMA_VERSION, FlatRows, check_url, is_shared, shown_url

LOCK_SECONDS = 10
"""How long SQLite waits for another connection's transaction."""
_PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",
    "journal_size_limit": 64 * 2**20,
    "wal_autocheckpoint": 4000,  # pages: those of an index change often, and a checkpoint copies each once
}
_DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ROWS_PER_STATEMENT = 32
"""For each statement SQLite releases the interpreter lock and waits to get it back, which costs more than a row."""

NUMBERED_TOGETHER = 200
LOCKED = ""
# The first prediction alone: a client may have sent a million with one identifier.
FIRST_PREDICTIONS = """
    SELECT {found} FROM json_each(:ids) AS wanted
    CROSS JOIN predictions p ON p.seq = (
        SELECT q.seq FROM predictions q
        WHERE q.day IN (SELECT value FROM json_each(:days)) AND q.id = wanted.value {of_model}
        ORDER BY q.day, q.seq LIMIT 1
    )
    LEFT JOIN labels l ON l.day = p.day AND l.prediction_id = p.id AND l.model = p.model
"""
STORED_LABELS = """
    SELECT {stored} FROM json_each(:ids) AS wanted CROSS JOIN labels l
    WHERE l.day IN (SELECT value FROM json_each(:days)) AND l.prediction_id = wanted.value
"""

PARTS = ("", "-wal", "-shm")
"""The endings of the files that belong to a database."""


def open_engine(address: sa.URL, _password_file: str | None, _seconds: float) -> sa.Engine:
    """See `Backend`; the folder of the file is created, and the file, which only its owner may read."""
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # it exists, or SQLite says why it cannot be created
            os.close(os.open(address.database, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    engine = sa.create_engine(address, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _: Any) -> None:
        for name, value in _PRAGMAS.items():
            _set_pragma(connection, f"{name}={value}")

    return engine


def _set_pragma(connection: sqlite3.Connection, pragma: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").close()
            return
        except sqlite3.OperationalError as error:
            # If several connections switch a new file to write-ahead logging, all but one fail without waiting.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def write_alone(_: sa.Connection) -> None:
    """See `Backend`: there is one writer."""


def write_beside(connection: sa.Connection) -> int | None:
    """See `Backend`."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    return None


def was_committed(_: sa.Connection, _transaction: int) -> bool:
    """See `Backend`: what the driver does not confirm was not committed."""
    return False


@contextlib.contextmanager
def exclusive(engine: sa.Engine) -> Iterator[sa.Connection]:
    """See `Backend`: Python's driver does not begin a transaction before CREATE or ALTER."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


@contextlib.contextmanager
def lock_commands(connection: sa.Connection) -> Iterator[bool]:
    """See `Backend`: SQLite locks the file itself. What is deleted meanwhile is overwritten with zeros."""
    path = Path(f"{connection.engine.url.database}.redact-lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        url = connection.engine.url.render_as_string(hide_password=True)
        raise StoreError(f"store.url: {url}: {path}: {error.strerror}") from None
    try:
        connection.exec_driver_sql("PRAGMA secure_delete=ON").close()
        connection.rollback()
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def insert_rows(connection: sa.Connection, rows: FlatRows) -> None:
    """See `Backend`: a row takes 1.4 µs of processor time, with SQLAlchemy's INSERT 16 µs."""
    width = len(rows.names)
    for start in range(0, len(rows.values), width * _ROWS_PER_STATEMENT):
        values = rows.values[start : start + width * _ROWS_PER_STATEMENT]
        text = _insert_text(rows.table, rows.shared_names, rows.names, len(values) // width)
        connection.exec_driver_sql(text, (*rows.shared, *values))


@functools.cache
def _insert_text(table: str, shared_names: tuple[str, ...], names: tuple[str, ...], rows: int) -> str:
    """Return the INSERT of this number of rows; its parameters are the shared values, then those of each row."""
    row = ", ".join([*(f"?{number}" for number in range(1, len(shared_names) + 1)), *("?" * len(names))])
    columns, values = ", ".join((*shared_names, *names)), ", ".join([f"({row})"] * rows)
    # If it fails, its whole transaction is rolled back: SQLite need not prepare to undo this statement alone.
    return f"INSERT OR FAIL INTO {table} ({columns}) VALUES {values}"  # noqa: S608 (constant names)


def update_rows(connection: sa.Connection, table: str, names: Sequence[str], rows: Sequence[Any]) -> None:
    """See `Backend`."""
    if rows:
        text = f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608
        connection.exec_driver_sql(text, [*map(attrgetter(*names, "id"), rows)])


def index_scans(_: sa.Connection) -> contextlib.nullcontext[None]:
    """See `Backend`: the index is used anyway."""
    return contextlib.nullcontext()


def measure(
    connection: sa.Connection, estimate: float, _deletable: Sequence[str], _kept: Sequence[str]
) -> tuple[float, float]:
    """See `Backend`: pages of one file, of which some are free."""
    pages, free, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
        for name in ("page_count", "freelist_count", "page_size")
    )
    used = float((pages - free) * size)
    return min(estimate, used), max(used - estimate, 0.0)


def stored_bytes(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """See `Backend`."""
    if sqlite3.sqlite_version_info >= (3, 43):
        return sa.func.octet_length(column)  # does not read the text
    return sa.func.length(sa.cast(column, sa.LargeBinary))


def purge(connection: sa.Connection, _: Sequence[str]) -> bool:
    """See `Backend`: the write-ahead log is emptied."""
    busy, *_rest = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    return not busy


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite found its file damaged."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return isinstance(cause, sqlite3.DatabaseError) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGE_CODES


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


_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint, salt 1, salt 2, checksum 1, checksum 2
_FRAME = struct.Struct(">2I8s2I")  # page, pages of the database if this frame ends a transaction, salts, checksums
_MAGIC = (0x377F0682, 0x377F0683)
_PAGE_BYTES = 4096
"""SQLite's default, assumed where the header cannot be read."""


class WalCommits(NamedTuple):
    """Transactions of a log.

    Attributes
    ----------
    salts
        Frames of this generation of the log carry these salts.
    frames
        The numbers of the frames that end a transaction, from 1, whether SQLite can read the transaction or not.
    """

    salts: bytes
    frames: list[int]


def has_header(path: Path) -> bool:
    """Return whether the log has a valid header."""
    with path.open("rb") as log:
        return _has_header(log.read(_HEADER.size))


def read_commits(path: Path) -> WalCommits | None:
    """Return the transactions of a log; None if there are none. Checksums of frames are not verified."""
    try:
        with path.open("rb") as log:
            header = log.read(_HEADER.size)
            valid = _has_header(header)
            page_bytes = _HEADER.unpack(header)[2] if valid else _PAGE_BYTES
            heads = []
            while len(head := log.read(_FRAME.size)) == _FRAME.size:
                heads.append(_FRAME.unpack(head))
                log.seek(page_bytes, 1)
    except FileNotFoundError:
        return None
    if not heads:
        return None
    salts = header[16:24] if valid else Counter(head[2] for head in heads).most_common(1)[0][0]
    frames = [number for number, head in enumerate(heads, 1) if head[1] and head[2] == salts]
    return WalCommits(salts, frames) if frames else None


def _has_header(header: bytes) -> bool:
    if len(header) < _HEADER.size or _HEADER.unpack(header)[0] not in _MAGIC:
        return False
    # The magic number tells in which byte order the checksum reads the six numbers before it.
    words = struct.unpack(f"{'>' if header[3] & 1 else '<'}6I", header[:24])
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == _HEADER.unpack(header)[6:]


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


BUSY_SECONDS = 60
"""How long a backup waits for another program's lock, such as that of a migration."""
_COUNTS = """SELECT
    (SELECT count(*) FROM predictions),
    (SELECT count(*) FROM labels),
    (SELECT count(*) FROM feedback WHERE verdict <> 'sampled'),
    (SELECT count(*) FROM feedback WHERE verdict IN ('corrected', 'rejected') AND status = 'pending' AND joined),
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
        summary = verify(partial)
    with _explained(f"{source}: the time of the backup cannot be recorded"):
        marker = _backup_marker(source)
        marker.touch()
        _set_owner(marker, source.stat())
    return summary


def last_backup(config: StoreConfig) -> float:
    """Return the Unix time of the last `back_up`; 0 without one."""
    path = database_path(config)
    try:
        return _backup_marker(path).stat().st_mtime if path else 0.0
    except OSError:
        return 0.0


def _backup_marker(database: Path) -> Path:
    return Path(f"{database}.last-backup")


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
        _check_schema(path, database)
        (result,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            raise StoreError(f"{path}: is damaged: {result}")
        for name, build, sha256 in database.execute("SELECT name, build, sha256 FROM releases").fetchall():
            if _release_hash(database, build) != sha256:
                raise StoreError(f"{path}: the content of the release {name} does not match its SHA-256 {sha256}")
        counts = database.execute(_COUNTS).fetchone()
    return BackupSummary(path.stat().st_size, *counts)


def _sqlite_path(config: StoreConfig, instead: str) -> Path:
    path = database_path(config)
    if path is None:
        url = shown_url(config.url)
        raise StoreError(f"store.url: {url} is PostgreSQL: {instead}, as docs/operations.md describes")
    return path


def _check_schema(path: Path, database: sqlite3.Connection) -> None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"schema", "feedback"} <= tables:
        raise StoreError(f"{path}: expected a database of model-exporter, got one without its tables")
    (version,) = database.execute("SELECT max(version) FROM schema").fetchone()
    if version is not None and version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: has schema {version}, newer than this version understands; it knows {SCHEMA_VERSION}: use the "
            "newer exporter"
        )


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
        flush(partial)
        if move_aside:
            move_aside()
        partial.rename(target)
        flush(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
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
