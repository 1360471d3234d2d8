"""The Parquet files of the archive: their columns, and how they are listed, read and written."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from exporter.errors import ArchiveError, StoreError

LABELS = "_labels"
"""The folder of late labels. pyarrow and Spark do not read names that begin with an underscore as predictions."""
LIST_SECONDS = 60.0
"""How long a list of the files may take. Every read begins with one, so a store that hangs ends it after this time."""
RETRY_SECONDS = 30
"""How long a request to Google Cloud Storage is tried again after an error."""


class ArchiveFiles:
    """Files in a folder or an object store.

    Parameters
    ----------
    location
        ``store.archive``: the path of a folder, or a URL of pyarrow's file systems such as ``s3://bucket/folder``.

    Attributes
    ----------
    shown : str
        The location for messages: without its query, which may hold a key.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self.shown, _, self._query = location.partition("?")

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        from pyarrow.fs import FileSystem, LocalFileSystem

        if "://" not in self._location:
            return LocalFileSystem(), self._location
        location = self._location
        if location.startswith("gs://") and "retry_limit_seconds=" not in self._query:
            location += f"{'&' if self._query else '?'}retry_limit_seconds={RETRY_SECONDS}"  # instead of 15 minutes
        system, root = FileSystem.from_uri(location)
        if system.type_name == "s3":
            # That of a URL tries a request 31 times; a copy, as others that Python makes, 3 times. A copy that lacks
            # an option of the URL, such as tls_verify_certificates, is not equal.
            copied = copy.copy(system)
            system = copied if copied == system else system
        return system, root.rstrip("/")

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Raise errors of files as an `ArchiveError` that says what cannot be done."""
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are among these
            detail = str(error).split("\n", 1)[0] or "it does not answer"  # a TimeoutError has no message
            if isinstance(error, FileNotFoundError) and not error.errno:  # the message is a path alone
                detail = f"there is no {detail}"
            if self._query:
                detail = detail.replace(self._query, "***")
            raise ArchiveError(f"store.archive: {self.shown}: {what}: {detail}") from None

    def dataset(self) -> Any:
        """Return all files as one data set of pyarrow, with the day of their folder as the column ``date``."""
        import pyarrow as pa
        from pyarrow import dataset

        system, root = self._opened
        columns = schema_with_day()
        partitioning = dataset.partitioning(pa.schema([columns.field("date")]), flavor="hive")
        return _listed(dataset.dataset, root, columns, "parquet", system, partitioning)

    def late_labels(self, since: date) -> Any:
        """Return the files of late labels that arrived since a day as one data set of pyarrow, the oldest first."""
        from pyarrow import dataset
        from pyarrow.fs import FileSelector

        system, root = self._opened
        first = f"{root}/{labels_name(since, 0)}"
        found = _listed(system.get_file_info, FileSelector(f"{root}/{LABELS}", allow_not_found=True))
        paths = sorted(info.path for info in found if info.path >= first and info.extension == "labels")
        return dataset.dataset(paths, label_schema(), "parquet", system)

    def names(self) -> list[str]:
        """Return the names of all files of predictions such as ``date=2026-11-27/00…1.parquet``."""
        from pyarrow.fs import FileSelector

        system, root = self._opened
        found = _listed(system.get_file_info, FileSelector(root, allow_not_found=True, recursive=True))
        return [info.path.removeprefix(f"{root}/") for info in found if info.extension == "parquet"]

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file as pyarrow's ``ParquetFile``."""
        from pyarrow.parquet import ParquetFile

        system, root = self._opened
        with system.open_input_file(f"{root}/{name}") as file, ParquetFile(file) as parquet:
            yield parquet

    def write(self, name: str, content: Any) -> None:
        """Write a file, or write one again.

        Raises
        ------
        StoreError
            When there is a file of this name with other predictions under the numbers of these.
        """
        from pyarrow.fs import FileType

        system, root = self._opened
        target = f"{root}/{name}"
        system.create_dir(target.rpartition("/")[0])
        if system.get_file_info(target).type != FileType.NotFound:
            with self.open(name) as stored:
                if _holds_others(stored, content):
                    raise another_database(target)
        self.replace(name, content)

    def replace(self, name: str, content: Any) -> None:
        """Write a file in an existing folder, which has its name once it is complete and on disk."""
        from pyarrow.fs import LocalFileSystem

        system, root = self._opened
        target = f"{root}/{name}"
        if not isinstance(system, LocalFileSystem):  # an object appears when it is complete
            with system.open_output_stream(target) as stream:
                stream.write(content)
            return
        path = Path(target)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        for changed in (path.parent, Path(root)):
            descriptor = os.open(changed, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _listed(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call that lists files; raise TimeoutError after `LIST_SECONDS`.

    pyarrow has no limit for some stores, and cannot be interrupted: its thread is left behind then.
    """
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(call(*arguments))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="archive-list", daemon=True).start()
    return result.result(LIST_SECONDS)


def labels_name(arrived: date, first: int) -> str:
    """Return the name of a file of late labels: the day on which they arrived, and the number of the first one.

    It does not end with ``parquet``, so that patterns such as ``**/*.parquet`` find files of predictions alone.
    """
    return f"{LABELS}/{arrived}-{first:020}.labels"


def another_database(path: str) -> StoreError:
    """Return the error of a file that this database did not write."""
    hint = "give each database an archive of its own; after a restore, move this file elsewhere"
    return StoreError(f"store.archive: {path}: holds predictions of another database: {hint}")


def _holds_others(stored: Any, content: Any) -> bool:
    """Return whether a file has other predictions under the numbers of these."""
    from pyarrow import BufferReader
    from pyarrow.parquet import ParquetFile

    tables = [file.read(columns=["seq", "id"]) for file in (stored, ParquetFile(BufferReader(content)))]
    known, new = (dict(zip(*(table[name].to_pylist() for name in ("seq", "id")), strict=True)) for table in tables)
    return any(known.get(seq, id_) != id_ for seq, id_ in new.items())


def schema() -> Any:
    """Return the columns, see ``docs/configuration.md``."""
    import pyarrow as pa

    time = pa.timestamp("us", "UTC")
    return pa.schema(
        {
            "seq": pa.int64(),
            "id": pa.string(),
            "model": pa.string(),
            "version": pa.string(),
            "time": time,
            "received": time,
            "prediction": pa.string(),
            "confidence": pa.float64(),
            "code": pa.int32(),
            "duration_seconds": pa.float64(),
            "confident": pa.bool_(),
            "segment": pa.string(),
            "inputs": pa.string(),
            "weight": pa.float64(),
            "label": pa.string(),
            "label_time": time,
            "loss": pa.float64(),
        }
    )


def label_schema() -> Any:
    """Return the columns of late labels."""
    import pyarrow as pa

    names = ("seq", "id", "model", "label", "label_time", "loss", "received")
    fields = [schema().field(name) for name in names]
    return pa.schema([*fields, pa.field("date", pa.date32())])


def schema_with_day() -> Any:
    """Return the columns, and the day of the folder as ``date``."""
    import pyarrow as pa

    return schema().append(pa.field("date", pa.date32()))
