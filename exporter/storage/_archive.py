"""The Parquet files of the archive: their columns, and how they are listed, read and written."""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import ArchiveError, StoreError
from exporter.features.base import decode_label
from exporter.features.json_inputs import remove_inputs
from exporter.storage import _database as db
from exporter.storage._database import predictions
from exporter.storage._feedback import Redact
from exporter.storage._labels import stored_rows
from exporter.storage._predictions import InputsReader
from exporter.storage._retention import archived_before, archived_up_to, set_archived
from exporter.storage._sqlite import database_path, flush
from exporter.validation import parse_duration

LABELS = "_labels"
"""The folder of late labels. pyarrow and Spark do not read names that begin with an underscore as predictions."""
RETRY_SECONDS = 30
"""How long a request to Google Cloud Storage is tried again after an error, instead of 15 minutes."""


def shown_archive(location: str) -> str:
    """Return the location of an archive for messages: without its query, which may hold a key."""
    return location.partition("?")[0]


class ArchiveFiles:
    """Files in a folder or an object store.

    Parameters
    ----------
    location
        ``store.archive``: the path of a folder, or a URL of pyarrow's file systems such as ``s3://bucket/folder``.

    Attributes
    ----------
    shown : str
        The location for messages.
    """

    def __init__(self, location: str) -> None:
        self._location, self.shown = location, shown_archive(location)
        self._query = location.partition("?")[2]

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        from pyarrow.fs import FileSystem, LocalFileSystem

        if "://" not in self._location:
            return LocalFileSystem(), self._location
        location = self._location
        for scheme, option in (("gs", f"retry_limit_seconds={RETRY_SECONDS}"), ("s3", "allow_delayed_open=true")):
            if location.startswith(f"{scheme}://") and f"{option.partition('=')[0]}=" not in self._query:
                location += f"{'&' if self._query else '?'}{option}"
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
            detail = str(error).split("\n", 1)[0]
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
        day = pa.field("date", pa.date32())
        partitioning = dataset.partitioning(pa.schema([day]), flavor="hive")
        return dataset.dataset(root, schema().append(day), "parquet", system, partitioning)

    def batches(self, names: list[str], chosen: Any) -> Iterator[list[Mapping[str, Any]]]:
        """Yield columns of selected predictions in the order of their numbers.

        Raises
        ------
        StoreError
            When the archive cannot be read.
        """
        with self.explained("cannot be read"):
            found = self.dataset().to_batches(columns=names, filter=chosen, batch_size=2000, **_ONE_AT_A_TIME)
            yield from (batch.to_pylist() for batch in found if batch.num_rows)

    def count(self, chosen: Any) -> int:
        """Return the number of predictions that `batches` yields."""
        with self.explained("cannot be read"):
            return int(self.dataset().count_rows(filter=chosen))

    def names(self, *extensions: str) -> list[str]:
        """Return the names of all files with these extensions, such as ``date=2026-11-27/00…1.parquet``."""
        from pyarrow.fs import FileSelector

        system, root = self._opened
        found = system.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
        return [info.path.removeprefix(f"{root}/") for info in found if info.extension in extensions]

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
        partial.write_bytes(content)
        flush(partial)
        partial.replace(path)
        for changed in (path.parent, Path(root)):
            flush(changed)


def another_database(path: str) -> StoreError:
    """Return the error of a file that this database did not write."""
    hint = "give each database an archive of its own; after a restore, move this file elsewhere"
    return StoreError(f"store.archive: {path}: contains predictions of another database: {hint}")


def _holds_others(stored: Any, content: Any) -> bool:
    """Return whether a file has other predictions under the numbers of these."""
    from pyarrow import BufferReader
    from pyarrow.parquet import ParquetFile

    tables = [file.read(columns=["seq", "id"]) for file in (stored, ParquetFile(BufferReader(content)))]
    known, new = (dict(zip(*(table[name].to_pylist() for name in ("seq", "id")), strict=True)) for table in tables)
    return any(known.get(seq, id_) != id_ for seq, id_ in new.items())


_COLUMNS = (
    "seq int64, id string, model string, version string, time time, received time, prediction string",
    "confidence float64, code int32, duration_seconds float64, confident bool, segment string, inputs string",
    "label string, label_time time, loss float64, alias string",
)


def schema(columns: str = ", ".join(_COLUMNS)) -> Any:
    """Return the columns, see ``docs/configuration.md``."""
    import pyarrow as pa

    types = {"time": pa.timestamp("us", "UTC")}
    fields = (column.split() for column in columns.split(", "))
    return pa.schema([(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in fields])


_LABEL_COLUMNS = (
    "seq int64, id string, model string, label string, label_time time, loss float64, received time, date date32"
)


GROUP_BYTES = 4 * 2**20
"""Bytes of the rows of a row group in memory, at most."""
ROW_BYTES = 1000
"""Assumed bytes of memory of a row without its inputs and label."""


class ParquetBuffer:
    """A Parquet file in memory.

    Parameters
    ----------
    columns
        A schema of pyarrow.
    """

    def __init__(self, columns: Any) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        self._columns = columns
        self._times = [field.name for field in columns if pa.types.is_timestamp(field.type)]
        self._buffer = pa.BufferOutputStream()
        self._writer = ParquetWriter(self._buffer, columns, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes in memory: those that are written, and about those that wait for their row group."""
        return int(self._buffer.tell()) + self._waiting

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, whose times are Unix times in seconds; further values are left out."""
        times = {name: row[name] for name in self._times if row.get(name) is not None}
        self._rows.append({**row, **{name: datetime.fromtimestamp(time, UTC) for name, time in times.items()}})
        self._waiting += ROW_BYTES + len(row.get("inputs") or "") + len(row.get("label") or "")
        if self._waiting > GROUP_BYTES:
            self._flush()

    def content(self) -> Any:
        """Return the whole file."""
        self._flush()
        self._writer.close()
        return self._buffer.getvalue()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._columns))
        self._rows, self._waiting = [], 0


_ONE_AT_A_TIME: Mapping[str, Any] = {"use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}


def archived_predictions(model: str, version: str | None, since: float, up_to: int) -> Any:
    """Select a model's archived predictions that have their inputs, as an expression of pyarrow.

    Parameters
    ----------
    model, version
        The model, and its version; any version when None.
    since
        Unix time in seconds of the oldest one.
    up_to
        The number of the last one.
    """
    from pyarrow import dataset

    field = dataset.field
    start = datetime.fromtimestamp(max(since, 0.0), UTC)
    chosen = (field("date") >= start.date()) & (field("received") >= start) & (field("seq") <= up_to)
    chosen &= (field("model") == model) & field("inputs").is_valid()
    return chosen if version is None else chosen & (field("version") == version)


class StoredPredictions:
    """The predictions of one model that have their inputs: those in the archive, then those in the database.

    Parameters
    ----------
    config
        The configuration of the store.
    model, version
        The model, and its version; any version when None.
    since
        Unix time in seconds of the oldest prediction.

    Attributes
    ----------
    where : str
        The database, the model and the version, for messages.
    has_labels : bool
        Whether the model has labels.

    Raises
    ------
    StoreError
        When the database does not exist or cannot be read.
    """

    def __init__(self, config: StoreConfig, model: str, version: str | None, since: float) -> None:
        self.where = f"{db.shown_url(config.url)}: {model}{f' version {version}' if version else ''}"
        path = database_path(config)
        if path and not path.is_file():
            raise StoreError(f"store.url: there is no database {config.url}")
        self._engine = db.open_engine(config, db.COMMAND_SECONDS)
        table = predictions.c
        chosen = (table.day >= int(since // 86400)) & (table.received >= since) & (table.model == model) & db.has_inputs
        if version:
            chosen &= table.version == version
        of_model = sa.exists().where(db.labels.c.model == model, ~db.is_waiting)
        with self._reading() as connection:
            archived = archived_up_to(connection) if config.archive else 0
            chosen &= table.seq > archived
            last = connection.execute(sa.select(sa.func.max(table.seq)).where(chosen)).scalar()
            self._chosen = chosen & (table.seq <= (last or 0))  # the same rows in each pass, although new ones arrive
            self._rows = connection.execute(sa.select(sa.func.count()).where(self._chosen)).scalar() or 0
            self.has_labels = bool(connection.execute(sa.select(of_model)).scalar())
        self._archive: tuple[ArchiveFiles, Any] | None = None
        if config.archive and archived:
            self._archive = ArchiveFiles(config.archive), archived_predictions(model, version, since, archived)
            self._rows += self._archive[0].count(self._archive[1])
        if self._archive and not self.has_labels:
            from pyarrow import dataset

            files, archived_ones = self._archive
            self.has_labels = files.count(archived_ones & dataset.field("label").is_valid()) > 0

    def read(self) -> Iterator[tuple[list[Mapping[str, Any]], float]]:
        """Yield predictions and how much was read: ``inputs`` as JSON, answer, confidence, time, and label if known."""
        read = 0
        for rows in self._parts():
            read += len(rows)
            decoded = ({name: decode_label(row[name]) for name in ("prediction", "label")} for row in rows)
            yield [{**row, **values} for row, values in zip(rows, decoded, strict=True)], read / max(self._rows, 1)

    def _parts(self) -> Iterator[list[Mapping[str, Any]]]:
        names = ["id", "prediction", "confidence", "received", "label"]
        files, chosen = self._archive or (None, None)
        for part in files.batches([*names, "inputs"], chosen) if files else ():
            yield [{**row, "received": row["received"].timestamp()} for row in part]
        columns = (*names[:-1], "day", "model", "block", "position")
        query = sa.select(*(predictions.c[name] for name in columns)).where(self._chosen)
        with self._reading() as connection:
            reader = InputsReader(connection)
            query = query.order_by(predictions.c.seq).execution_options(yield_per=2000)
            for rows in connection.execute(query).mappings().partitions():
                found = _labels(connection, rows) if self.has_labels else {}
                yield [{"label": None, **row, "inputs": reader.text(row), **found.get(_key(row), {})} for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"{self.where}: cannot be read: {db.error_message(error)}") from None
        finally:
            self._engine.dispose()


PART_ROWS, PART_BYTES = 250_000, 8 * 2**20
"""Predictions, or late labels, of a part, and bytes of its files, at most; a part is made in memory.

pyarrow sends a file of less than 10 MiB to S3 in one request, of which nothing stays if it is cut."""
MAX_LABELLED = 1_000_000
"""Labels that are known to be archived: a second prediction with the identifier of another gets none."""
FETCHED_ROWS = 200
"""Predictions that are fetched at a time."""
_EPOCH = date(1970, 1, 1)
_Named = tuple[str, Mapping[str, Any]]
"""A row with its number as ``seq``, and the name of its file."""


def archive(config: StoreConfig, redact: Redact) -> tuple[int, int]:
    """Write predictions that are older than the retention to the archive, and labels that came too late for them.

    A part holds the predictions that follow the last archived one, and its files are named after its first number. The
    database is told of a part once it is complete, and only then are its predictions deleted. Whatever is killed in
    between, the next call writes the same predictions to the same name.

    Parameters
    ----------
    config
        The configuration of the store; its ``archive`` is set.
    redact
        Removes what must not be stored from the inputs.

    Returns
    -------
    tuple
        The numbers of predictions and of late labels that were written.

    Raises
    ------
    StoreError
        When the database or the archive cannot be read or written. What is complete stays.
    """
    today, before_day = (int((time.time() - ago) // 86400) for ago in (0, parse_duration(config.retention)))
    files = ArchiveFiles(config.archive or "")
    with db.open_database(config) as connection:
        if archived_before(connection) < before_day:  # labels that arrive from now on may be too late for their part
            _record(connection, day=before_day)

        def delete_labels(last: int) -> None:
            with connection.begin():
                connection.execute(db.late_labels.delete().where(db.late_labels.c.seq <= last))

        predicted = partial(_predictions, connection, before_day, redact, set())
        return (
            _write(files, connection, schema(), predicted, lambda last: _record(connection, seq=last)),
            _write(files, connection, schema(_LABEL_COLUMNS), partial(_late_labels, connection, today), delete_labels),
        )


def _record(connection: sa.Connection, **values: int) -> None:
    connection.rollback()
    with connection.begin():
        db.write_alone(connection)
        set_archived(connection, **values)


def _write(
    archive: ArchiveFiles,
    connection: sa.Connection,
    columns: Any,
    read: Callable[[], Generator[_Named]],
    record: Callable[[int], None],
) -> int:
    """Write part after part of the rows that are read, and record the last number of each; return how many rows."""
    total, last, is_full = 0, 0, True
    while is_full:
        files: dict[str, ParquetBuffer] = {}
        is_full, rows = False, 0
        with closing(read()) as found:
            for rows, (name, row) in enumerate(found, 1):
                if name not in files:
                    files[name] = ParquetBuffer(columns)
                files[name].add(row)
                last = row["seq"]
                if is_full := rows == PART_ROWS or sum(file.size for file in files.values()) > PART_BYTES:
                    break
        connection.rollback()
        with archive.explained("cannot be written"):
            # Before its first part is recorded, a database has no other files than those of this part.
            is_first = any(name.endswith(f"/{1:020}.parquet") for name in files)
            if is_first and (others := set(archive.names("parquet")) - files.keys()):
                raise another_database(f"{archive.shown}/{min(others)}")
            for name, file in files.items():
                archive.write(name, file.content())
        if rows:
            record(last)
        total += rows
    return total


def _predictions(connection: sa.Connection, before_day: int, redact: Redact, labelled: set[int]) -> Generator[_Named]:
    """Yield the predictions that follow the last archived one, and were received before a day since 1970.

    A label is of the first prediction with its identifier: those that have theirs are added to ``labelled``.
    """
    if len(labelled) > MAX_LABELLED:
        labelled.clear()
    first = archived_up_to(connection) + 1
    query = sa.select(predictions).where(predictions.c.seq >= first).order_by(predictions.c.seq).limit(PART_ROWS)
    reader = InputsReader(connection)
    with connection.execute(query, execution_options={"yield_per": FETCHED_ROWS}) as result:
        for fetched in result.mappings().partitions():
            old = list(itertools.takewhile(lambda row: row["day"] < before_day, fetched))
            labels = _labels(connection, old)
            for row in old:
                key = hash(_key(row))
                label = labels.get(_key(row)) if key not in labelled else None
                labelled.update({key} if label else ())
                name = f"date={_date(row['day'])}/{first:020}.parquet"
                yield name, {**row, "inputs": redact(row["model"], reader.text(row)), **(label or {})}
            if len(old) < len(fetched):
                return


def _late_labels(connection: sa.Connection, before_day: int) -> Generator[_Named]:
    """Yield labels that were queued before a day since 1970, one file for each day on which they were."""
    query = sa.select(db.late_labels).order_by(db.late_labels.c.seq).limit(PART_ROWS)
    names: dict[int, str] = {}
    with connection.execute(query, execution_options={"yield_per": FETCHED_ROWS}) as result:
        for row in itertools.takewhile(lambda row: row["received"] < before_day * 86400, result.mappings()):
            day = int(row["received"] // 86400)
            # It does not end with parquet, so that patterns such as **/*.parquet find files of predictions alone.
            name = names.setdefault(day, f"{LABELS}/{_date(day)}-{row['seq']:020}.labels")
            yield name, {**row, "date": None if row["day"] is None else _date(row["day"])}


def _date(day: int) -> date:
    return _EPOCH + timedelta(day)


def _key(row: Mapping[Any, Any]) -> tuple[int, str, str]:
    return row["day"], row["id"], row["model"]


def _labels(connection: sa.Connection, rows: Sequence[Mapping[Any, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the columns of the labels that predictions have, by `_key`."""
    found = stored_rows(connection, {row["id"] for row in rows}, sorted({row["day"] for row in rows})) if rows else []
    return {
        (label.day, label.prediction_id, label.model): {
            "label": label.label,
            "label_time": label.time,
            "loss": label.loss,
        }
        for label in found
    }


Change = Callable[[Any], tuple[Any, int]]
"""Returns rows of a file, in pyarrow's form, as they are to be, and how many of them it changed."""


def rewrite_archive(location: str, change: Change, *, dry_run: bool) -> tuple[int, int]:
    """Change the files of predictions and late labels; each is replaced once the new one is complete.

    One file, and one of its row groups as text, are in memory at a time. No command may archive meanwhile.

    Parameters
    ----------
    location
        ``store.archive``.
    change
        `cleaned` or `without_predictions`.
    dry_run
        Whether to count only.

    Returns
    -------
    tuple
        The numbers of files, and of rows in them, that were changed.

    Raises
    ------
    StoreError
        When a file cannot be read or written.
    """
    archive = ArchiveFiles(location)
    with archive.explained("cannot be read"):
        names = sorted(archive.names("parquet", "labels"))
    changed = [_rewrite_file(archive, name, change, dry_run=dry_run) for name in names]
    return sum(number > 0 for number in changed), sum(changed)


def _rewrite_file(archive: ArchiveFiles, name: str, change: Change, *, dry_run: bool) -> int:
    """Return how many rows of a file were changed."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with archive.explained(f"{name} cannot be cleaned; run the command again to continue"), archive.open(name) as file:
        columns = [name for name in ("id", "model", "inputs", "segment") if name in file.schema_arrow.names]
        if not {"id", "model"}.issubset(columns):
            raise ValueError("it has no columns id and model, so no exporter wrote it: move it to another folder")
        groups = range(file.num_row_groups)
        changed = sum(change(file.read_row_group(group, columns=columns))[1] for group in groups)
        if dry_run or not changed:
            return changed
        buffer = pa.BufferOutputStream()
        with ParquetWriter(buffer, file.schema_arrow, compression="zstd") as writer:
            for group in groups:
                writer.write_table(change(file.read_row_group(group))[0])
        archive.replace(name, buffer.getvalue())
        return changed


def cleaned(redacted: Mapping[str, Collection[str]], segmented: Collection[str], table: Any) -> tuple[Any, int]:
    """Return predictions without redacted inputs and segments, and how many were changed; late labels have neither.

    Parameters
    ----------
    redacted
        Names of inputs by model.
    segmented
        Models whose segments stay; see `exporter.storage.Redaction.clean_copies`.
    table
        Rows of a file, in pyarrow's form.
    """
    import pyarrow as pa

    if "inputs" not in table.schema.names:
        return table, 0
    columns: dict[str, list[str | None]] = {"inputs": [], "segment": []}
    changed = 0
    for model, text, segment in zip(*(table[name].to_pylist() for name in ("model", *columns)), strict=True):
        without = remove_inputs(text, redacted.get(model, ())) if text else text
        kept = None if model in redacted and model not in segmented else segment
        changed += without != text or kept != segment
        columns["inputs"].append(without or None)
        columns["segment"].append(kept)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table, changed


def without_predictions(forgotten: Mapping[str | None, Collection[str]], table: Any) -> tuple[Any, int]:
    """Return the rows of other predictions, and how many are of forgotten ones.

    Parameters
    ----------
    forgotten
        Identifiers by model; under None those of any model.
    table
        Rows of a file, in pyarrow's form.
    """
    import pyarrow as pa

    rows = zip(table["id"].to_pylist(), table["model"].to_pylist(), strict=True)
    kept = [not any(id_ in forgotten.get(key, ()) for key in (model, None)) for id_, model in rows]
    return table.filter(pa.array(kept, pa.bool_())), kept.count(False)
