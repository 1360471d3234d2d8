"""The rows of a query of any database, as Arrow batches.

They are read once, into a temporary Parquet file: all passes then see the same rows in the same order, and the database
is asked only once. Memory does not grow with the rows.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import numpy as np

from exporter.errors import ExporterError, ProfileError, UsageError
from exporter.profiles.bins import in_sample
from exporter.profiles.sources import ROWS, AnyPass, Batch, Column, Progress, Source, path_of
from exporter.profiles.sources.files import FileSource, arrow_columns, as_arrays, check_unique_names, is_number
from exporter.secret_file import read_secret_file
from exporter.validation import preview, similar_file

PASSWORD = "--database-password-file"  # noqa: S105
_EXAMPLES = f"a URL such as duckdb:///training.db or postgresql://host/name; a password may be in {PASSWORD}"
_OWN = frozenset({"builtins", "exporter", "numpy"})


class QuerySource(FileSource):
    """The rows of a query.

    Parameters
    ----------
    url
        The database: ``duckdb:///FILE``, ``sqlite:///FILE``, ``postgresql://…``, or that of another ADBC driver.
    query
        The query.
    types
        Input types that were chosen, by column.
    password_file
        A file with the password.
    sample
        Share of the rows that is kept, at random.

    Attributes
    ----------
    skipped
        Why a column is left out, by column.

    Raises
    ------
    ProfileError
        When the query cannot be read. The text has no password.
    UsageError
        When the URL is not valid, or has a password beside that of the file.
    """

    def __init__(
        self,
        url: str,
        query: str,
        types: Mapping[str, str],
        *,
        password_file: str | None = None,
        sample: float = 1.0,
    ) -> None:
        address, where, secrets = _address(url, password_file)
        copy = tempfile.TemporaryFile(suffix=".parquet")  # noqa: SIM115 (it lasts as long as this source)
        weakref.finalize(self, copy.close)
        with database_errors(where, secrets), _reading(address, query) as reader:
            self.skipped = _write(reader, copy, sample)
        super().__init__(path_of(copy), types, kind="parquet", where=where)
        self.name = "query"


def _address(url: str, password_file: str | None) -> tuple[str, str, list[str]]:
    """Return the URL with the password, its name in messages, and what no message may show."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    except ValueError:
        raise UsageError(f"--database: is not {_EXAMPLES}") from None
    if not parts.scheme:
        raise UsageError(f"--database: expected {_EXAMPLES}")
    if parts.scheme not in {"duckdb", "sqlite"} and "@" in parts.path + parts.query.partition("=")[0] + parts.fragment:
        # What is shown of the URL would hold a part of the password.
        raise UsageError(f"--database: has an @ after the host: pass a password with special characters in {PASSWORD}")
    password = unquote(parts.password or "")
    if password_file:
        if password:
            raise UsageError(f"{PASSWORD}: the URL of --database has a password already; remove it there")
        password = read_secret_file(password_file, PASSWORD)
        user = f"{parts.username or ''}:{quote(password, safe='')}@"
        url = urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2]))
    secrets = [url, *filter(None, [password, parts.password, *dict(parse_qsl(parts.query)).values()])]
    return url, f"{parts.scheme}://{host}{parts.path}", secrets


@contextlib.contextmanager
def database_errors(where: str, secrets: list[str]) -> Iterator[None]:
    """Turn the errors of a database and of its driver into one line, without secrets; bugs are left as they are."""
    try:
        yield
    except (ExporterError, MemoryError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _OWN and not isinstance(error, OSError):
            raise
        text = " ".join(str(error).partition("\nLINE ")[0].split())[:500]  # without the SQL
        for secret in secrets:
            text = text.replace(secret, "***")
        raise ProfileError(f"{where}: cannot be read: {text or type(error).__name__}") from None


@contextlib.contextmanager
def _reading(url: str, query: str) -> Iterator[Any]:
    """Run a query, and yield a reader of Arrow batches."""
    parts = urlsplit(url)
    if parts.scheme == "duckdb":
        duckdb = _module("duckdb", "duckdb")
        with duckdb.connect(str(_file(parts.netloc + parts.path)), read_only=True) as connection:
            yield connection.execute(query).to_arrow_reader(ROWS)
        return
    driver = _module(f"adbc_driver_{parts.scheme.partition('+')[0]}.dbapi", f"adbc-driver-{parts.scheme}")
    if parts.scheme == "sqlite":
        url = f"file:{quote(str(_file(parts.netloc + parts.path)))}?mode=ro"
    with driver.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        yield cursor.fetch_record_batch()


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        detail = f"needs {package}: pip install 'prometheus-model-exporter[sql]', or {package}"
        raise ExporterError(f"profile: --database {detail}") from None


def _file(text: str) -> Path:
    """Return the file of a URL with three slashes, relative, or with four, absolute; both are tried."""
    first = Path(unquote(text).removeprefix("/")).absolute()
    path = next((path for path in (first, Path(unquote(text))) if path.is_file()), None)
    if path is None:
        raise ProfileError(f"--database: {first}: there is no such file{similar_file(first)}")
    return path


def _write(reader: Any, copy: Any, sample: float) -> dict[str, str]:
    """Write batches as Parquet; return why columns are left out."""
    import pyarrow as pa
    from pyarrow import parquet

    fields, skipped = [], {}
    with contextlib.suppress(AttributeError):
        check_unique_names(reader.schema.names)
    for field in reader.schema:
        kind = plain_type(field)
        if kind is None:
            skipped[field.name] = skipped_type(field)
        else:
            fields.append(pa.field(field.name, kind))
    schema, first = pa.schema(fields), 0
    with parquet.ParquetWriter(copy, schema, compression="zstd", compression_level=1) as writer:
        for batch in reader:
            columns = [_plain(batch.column(field.name)).cast(field.type) for field in schema]
            table = pa.table(columns, schema=schema)
            if sample < 1:
                table = table.take(pa.array(np.flatnonzero(in_sample(first, batch.num_rows, sample)).tolist()))
            first += batch.num_rows
            writer.write_table(table)
    copy.flush()
    return skipped


def _plain(column: Any) -> Any:
    """Return the storage of an extension, and the digits of decimals, whose floats are then the nearest."""
    import pyarrow as pa

    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    return column.cast(pa.string()) if pa.types.is_decimal(column.type) else column


def plain_type(field: Any) -> Any:
    """Return the type of a column that every reader understands; None where there is none."""
    import pyarrow as pa
    from pyarrow import types

    kind, numeric = field.type, b"numeric" in (field.metadata or {}).get(b"ADBC:postgresql:typname", b"")
    if isinstance(kind, pa.BaseExtensionType):
        numeric = numeric or getattr(kind, "type_name", "") == "numeric"
        kind = kind.storage_type
        if types.is_binary(kind):
            return None
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_decimal(kind) or numeric:
        return pa.float64()
    if types.is_null(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    unknown = types.is_struct(kind) or types.is_map(kind) or types.is_union(kind)
    return None if unknown or types.is_duration(kind) or types.is_interval(kind) else kind


def skipped_type(field: Any) -> str:
    """Return why a column is left out."""
    name = preview(getattr(field.type, "type_name", None) or str(field.type)[:60])
    return f"has the type {name}, which no input has, and is left out: cast it"


_PARTITIONS = 64  # at most, so that their states fit into the memory of the driver
_PARTITIONS_OF_CORE = 4
_RECORDS = "spark.sql.execution.arrow.maxRecordsPerBatch"
_AT_ONCE = 4_000_000  # numbers that the driver reads at once
_STOPPED = re.compile("SparkContext was shut down|stopped SparkContext")


class SparkSource(Source):
    """The rows of a query of Spark SQL, such as ``SELECT * FROM parquet.`/data/loans```.

    They are kept on the disks of the executors while they are profiled, so that all passes see the same rows in the
    same order. With a column of times, partitions are ranges of time, and sorted; otherwise they have no order.

    Parameters
    ----------
    master
        Where Spark runs, such as ``local[*]`` or ``spark://host:7077``; that of Spark's configuration when empty.
    query
        The query.
    types
        Input types that were chosen, by column.
    time_column
        The column of times.
    sample
        Share of the rows that is kept, at random.

    Raises
    ------
    ProfileError
        When PySpark or Java is missing, or the query cannot be read.
    """

    reads_columns = True

    def __init__(
        self, master: str, query: str, types: Mapping[str, str], time_column: str | None = None, sample: float = 1.0
    ) -> None:
        self.where, self.name = master or "Spark", "query"
        session = _session(master)
        with _errors(self.where):
            frame = session.sql(query)
            schema = frame.limit(0).toArrow().schema
            self.skipped = {field.name: skipped_type(field) for field in schema if plain_type(field) is None}
            frame = frame.drop(*self.skipped)
            if sample < 1:
                frame = frame.sample(sample, seed=0)
            partitions = min(_PARTITIONS, _PARTITIONS_OF_CORE * session.sparkContext.defaultParallelism)
            if time_column and time_column in frame.columns:
                frame = _in_order(frame, time_column, partitions)
            elif frame.rdd.getNumPartitions() > partitions:
                frame = frame.coalesce(partitions)
            from pyspark import StorageLevel

            places = ", ".join(f"_{index} binary" for index, _ in enumerate(frame.columns))
            self._packed = frame.mapInArrow(_pack, f"part int, number int, {places}").persist(StorageLevel.DISK_ONLY)
            counts = self._packed.select("part", "number").toArrow()
            session.conf.set(_RECORDS, 1)  # from now on, a record is a batch
        kept = [field for field in schema if field.name not in self.skipped]
        self._numbers = {field.name: is_number(field.type) for field in kept}
        self._codes = {name for name, kind in types.items() if kind == "categorical" and self._numbers.get(name)}
        self._starts: dict[int, int] = {}
        self.rows = 0
        for part, number in zip(*(column.to_pylist() for column in counts.columns), strict=True):
            self._starts.setdefault(part, self.rows)
            self.rows += number

    def columns(self) -> dict[str, bool]:
        """See `Source.columns`."""
        return {name: numbers and name not in self._codes for name, numbers in self._numbers.items()}

    def run(self, state: AnyPass, title: str, names: Collection[str] | None, progress: Progress) -> AnyPass:
        """See `Source.run`."""
        chosen, frame = self._chosen(names)
        work = partial(_work, pickle.dumps(state), self._starts, chosen, self._codes)
        with _errors(self.where):
            found = frame.mapInArrow(work, "part int, state binary").collect()
        merged: AnyPass | None = None
        for _, packed in sorted((part, bytes(packed)) for part, packed in found):
            one: AnyPass = pickle.loads(packed)  # noqa: S301 (made by our own code on the executors)
            if merged is None:
                merged = one
            else:
                merged.merge(one)
        progress(title, 1.0, self.rows or 0)
        return state if merged is None else merged

    def _chosen(self, names: Collection[str] | None) -> tuple[list[str], Any]:
        """Return the columns that are needed, and their batches."""
        columns = {name: f"_{index}" for index, name in enumerate(self._numbers) if names is None or name in names}
        return [*columns], self._packed.select("part", "number", *columns.values())

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`; as many columns at once as are small enough together."""
        number = max(_AT_ONCE // max(self.rows or 0, 1), 1)
        for start in range(0, len(names), number):
            chosen, frame = self._chosen([*names][start : start + number])
            with _errors(self.where):
                table = frame.toArrow()
            for index, name in enumerate(chosen, 2):
                parts = [as_arrays(_unpacked(cell)) for cell in table.column(index)]
                yield name, np.concatenate(parts or [np.empty(0)])

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:
        """Yield the first rows: those that `run` reads are on the executors."""
        chosen, frame = self._chosen(names)
        with _errors(self.where):
            table = frame.limit(1).toArrow()
        for batch in table.to_batches():
            yield _batch(batch, chosen, self._codes)


def _pack(batches: Iterator[Any]) -> Iterator[Any]:
    """Return for each batch its partition, its number of rows, and each of its columns as a stream of Arrow."""
    import pyarrow as pa
    from pyspark import TaskContext

    options = pa.ipc.IpcWriteOptions(compression="lz4")
    for batch in batches:
        cells = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            one, sink = pa.RecordBatch.from_arrays([column], [name]), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, one.schema, options=options) as stream:
                stream.write_batch(one)
            cells.append(sink.getvalue().to_pybytes())
        values = [TaskContext.get().partitionId(), batch.num_rows, *cells]
        types = [pa.int32(), pa.int32(), *[pa.binary()] * len(cells)]
        columns = [pa.array([value], kind) for value, kind in zip(values, types, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, ["part", "number", *(f"_{index}" for index in range(len(cells)))])


def _unpacked(cell: Any) -> Any:
    """Return the column in a cell of `_pack`."""
    import pyarrow as pa

    return pa.ipc.open_stream(cell.as_buffer()).read_next_batch().column(0)


def _batch(packed: Any, names: Sequence[str], codes: Collection[str]) -> Batch:
    """Return the rows of the only record of a batch of `_pack`."""
    columns = {name: _unpacked(cells[0]) for name, cells in zip(names, packed.columns[2:], strict=True)}
    return Batch(arrow_columns(columns.items(), codes), packed.column(1)[0].as_py(), 0.0)


def _work(
    packed: bytes, starts: Mapping[int, int], names: Sequence[str], codes: Collection[str], batches: Iterator[Any]
) -> Iterator[Any]:
    """Read the rows of a partition with a state, and return it."""
    import pyarrow as pa

    state, part, first = pickle.loads(packed), -1, 0  # noqa: S301 (made by the driver)
    for batch in batches:
        if part < 0:
            part = batch.column(0)[0].as_py()
            first = starts[part]
        rows = _batch(batch, names, codes)
        state.add(rows, first)
        first += rows.rows
    if part >= 0:
        columns = [pa.array([part], pa.int32()), pa.array([pickle.dumps(state)], pa.binary())]
        yield pa.RecordBatch.from_arrays(columns, ["part", "state"])


def _in_order(frame: Any, time_column: str, partitions: int) -> Any:
    """Return rows in ranges of time, sorted within; those of one time in the order in which they were read."""
    from pyspark.sql import functions

    row = "(row)"
    numbered = frame.withColumn(row, functions.monotonically_increasing_id())
    column = numbered[f"`{time_column.replace('`', '``')}`"].asc_nulls_last()
    ranges = numbered.repartitionByRange(partitions, column)
    return ranges.sortWithinPartitions(column, numbered[f"`{row}`"]).drop(row)


def _session(master: str) -> Any:
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        detail = "Spark needs PySpark of the version of the cluster: pip install pyspark"
        raise ProfileError(f"--spark: {detail}") from None
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("model-exporter profile")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    builder = builder.config(_RECORDS, str(ROWS))
    with database_errors(master or "Spark", []):
        try:
            session = (builder.master(master) if master else builder).getOrCreate()
            threading.Thread(target=_watch, args=(session.sparkContext,), daemon=True).start()
            return session
        except Exception as error:
            if "JAVA_GATEWAY_EXITED" in str(error):
                raise ProfileError("--spark: Spark could not start Java: it needs Java 17 or 21") from None
            if _STOPPED.search(str(error)):  # as Spark stops it where no master answers
                detail = f"the master {master or 'of the configuration'} did not accept the application"
                raise ProfileError(f"--spark: {detail}: see the messages of Spark") from None
            raise


def _watch(context: Any) -> None:
    """Stop an application that has lost all its executors, whose jobs would otherwise wait for others for ever.

    It waits for others for ``spark.network.timeout``, 120 seconds by default.
    """
    spark = context._jsc.sc()
    if spark.isLocal():
        return
    patience = spark.conf().getTimeAsSeconds("spark.network.timeout", "120s")
    known, seen = False, time.monotonic()
    while not spark.isStopped():
        executors = spark.getExecutorMemoryStatus().size() - 1  # without the driver
        known = known or executors > 0
        if executors or not known or not context.statusTracker().getActiveJobsIds():
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            spark.stop()  # not the session of Python, which another thread is using
            return
        time.sleep(1)


@contextlib.contextmanager
def _errors(where: str) -> Iterator[None]:
    """See `database_errors`; say what an error means that follows from `_watch`."""
    with database_errors(where, []):
        try:
            yield
        except Exception as error:
            if _STOPPED.search(str(error)):
                raise ProfileError(f"{where}: cannot be read: Spark has lost all executors") from None
            raise
