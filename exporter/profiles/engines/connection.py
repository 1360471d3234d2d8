"""Tables of databases and lakes, and files as DuckDB reads them."""

from __future__ import annotations

import contextlib
import glob
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import ibis
import numpy as np
import numpy.typing as npt

from exporter.errors import ExporterError, ProfileError, UsageError
from exporter.profiles.engines.csv_file import column_names, csv_error, with_types
from exporter.profiles.engines.expressions import Expression
from exporter.profiles.engines.find_table import find_table
from exporter.profiles.engines.json_file import check_keys
from exporter.profiles.engines.spark import connect_spark, spark_error
from exporter.profiles.readers.compression import check_gzip, without_gz
from exporter.secret_file import read_secret_file
from exporter.validation import any_of, preview, similar_file, suggestion

MEMORY = "1500MB"
"""Memory of an embedded DuckDB, unless its URL sets ``memory_limit``. What does not fit is in temporary files."""
PASSWORD = "--database-password-file"  # noqa: S105
_EXAMPLES = f"a URL such as duckdb:///training.db or postgresql://host/name; a password may be in {PASSWORD}"
_FILES = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_json", ".ndjson": "read_json"}
_UNREADABLE = "cannot be read"
_OWN = frozenset({"builtins", "exporter", "numpy"})


class EngineTable:
    """A table in an engine; a context manager, which ends the connection.

    Attributes
    ----------
    where
        Name of the table in messages.
    name
        Default name of a profile of it.
    rows
        The table as an expression.
    engine
        Name of the engine.
    """

    def __init__(self, where: str, name: str, rows: Expression, secrets: Sequence[str] = ()) -> None:
        self.where, self.name, self.rows = where, name, rows
        self._connection = ibis.get_backend(rows)
        self.engine: str = self._connection.name
        self._secrets = secrets

    def __enter__(self) -> EngineTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.disconnect()

    def columns(self, query: Expression) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a query's result, which has no nulls: numbers as arrays, else arrays of objects."""
        found = {}
        for name, values in self._read(query).items():
            kind = query[name].type()
            if kind.is_numeric() and not kind.is_decimal():
                integer = np.uint64 if kind.is_unsigned_integer() else np.int64
                found[name] = values.to_numpy().astype(integer if kind.is_integer() else np.float64)
            else:
                found[name] = np.empty(len(values), dtype=object)
                found[name][:] = values.to_pylist()
        return found

    def lists(self, query: Expression) -> dict[str, list[Any]]:
        """Return the columns of a query's result as lists, None for null."""
        return {name: values.to_pylist() for name, values in self._read(query).items()}

    def row(self, query: Expression) -> dict[str, Any]:
        """Return the only row of a query's result; its values may be None."""
        return {name: values[0] for name, values in self.lists(query).items()}

    def kept(self, query: Expression) -> Expression:
        """Return the result of a query in a temporary table, which ends with the connection.

        An engine without temporary tables computes the query again each time.
        """
        with engine_errors(self.where, self._secrets):
            try:
                return self._connection.create_table(ibis.util.gen_name("profile"), query, temp=True)
            except (NotImplementedError, ibis.common.exceptions.UnsupportedOperationError):
                return query.cache() if self.engine == "pyspark" else query

    def _read(self, query: Expression) -> dict[str, Any]:
        with engine_errors(self.where, self._secrets):
            result = query.to_pyarrow()
            return dict(zip(result.column_names, result.columns, strict=True))

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Name a column, or a feature, in the errors of the queries meanwhile, unless none is answered any more."""
        try:
            yield
        except ProfileError as error:
            unreadable = f"{self.where}: {_UNREADABLE}"
            if not str(error).startswith(unreadable) or not self._answers():
                raise
            raise ProfileError(f"{self.where}: {preview(name)} {str(error).removeprefix(f'{self.where}: ')}") from None

    def failures(self, queries: Mapping[str, Expression], error: ProfileError) -> dict[str, str]:
        """Return which queries fail, and why, after the ``error`` of a query that did the same for all columns.

        Raises
        ------
        ProfileError
            The ``error``, when no query is answered any more, or each of these.
        """
        found = {}
        for name, query in queries.items() if self._answers() else ():
            try:
                self.lists(query)
            except ProfileError as failure:
                found[name] = str(failure).removeprefix(f"{self.where}: {_UNREADABLE}: ")
        if not found:
            raise error
        return found

    def _answers(self) -> bool:
        try:
            self.lists(self.rows.select(one=ibis.literal(1)).limit(1))
        except ProfileError:
            return False
        return True

    def changed(self) -> ProfileError:
        """Return the error for a table of which two queries saw different rows."""
        return ProfileError(
            f"{self.where}: changed while it was read: profile a table that nobody writes, or a snapshot"
        )


@contextlib.contextmanager
def engine_errors(where: str, secrets: Sequence[str] = (), own: Collection[str] = _OWN) -> Iterator[None]:
    """Turn the errors of an engine and of its driver into one line, without secrets.

    Errors of the packages in ``own``, which are bugs, are left as they are.
    """
    try:
        yield
    except ExporterError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] in own and not isinstance(error, OSError):
            raise
        text = (
            csv_error(str(error))
            or spark_error(str(error))
            or " ".join(str(error).partition("\nLINE ")[0].split())[:500]
        )  # without the SQL
        for secret in secrets:
            text = text.replace(secret, "***")
        raise ProfileError(f"{where}: {_UNREADABLE}: {text or type(error).__name__}") from None


def open_table(url: str, name: str, password_file: str | None) -> EngineTable:
    """Open a table of a database.

    Parameters
    ----------
    url
        The database, as Ibis takes it.
    name
        The table; one of another schema as ``schema.table``.
    password_file
        A file with the password.

    Raises
    ------
    ProfileError
        When there is no such table, or no connection. The text has no password.
    UsageError
        When the URL is not valid, or has a password beside that of the file.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    except ValueError:
        raise UsageError(f"--database: is not {_EXAMPLES}") from None
    if parts.scheme != "duckdb" and "@" in parts.path + parts.query.partition("=")[0] + parts.fragment:
        # What is shown of the URL would hold a part of the password.
        raise UsageError(f"--database: has an @ after the host: pass a password with special characters in {PASSWORD}")
    password = unquote(parts.password or "")
    if password_file:
        if password:
            raise UsageError(f"{PASSWORD}: the URL of --database has a password already; remove it there")
        password = read_secret_file(password_file, PASSWORD)
    database = f"{parts.scheme}://{host}{parts.path}"
    secrets = [*filter(None, [password, parts.password, *dict(parse_qsl(parts.query)).values()])]
    with engine_errors(database, [url, *secrets], own=()):  # a driver may be missing, and Ibis may not know the URL
        connection = _connect(url, password)
        try:
            with engine_errors(f"{database}: {name}", [url, *secrets], own=()):
                table, rows = find_table(connection, name, database)
        except Exception:
            connection.disconnect()
            raise
        return EngineTable(f"{database}: {name}", table, rows, secrets)


def _connect(url: str, password: str) -> Any:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    match parts.scheme:
        case "duckdb":
            text = unquote(parts.netloc + parts.path)
            first = Path(text.removeprefix("/")).absolute()
            path = next((p for p in (first, Path(text)) if p.is_file()), None)
            if path is None:
                raise ProfileError(f"--database: {first}: there is no such file{similar_file(first)}")
            return _duckdb(path, read_only=True, **options)
        case "spark":
            return connect_spark(parts.netloc, options)
        case "":
            raise UsageError(f"--database: expected {_EXAMPLES}")
        case scheme:
            engines = [*(entry.name for entry in ibis.util.backend_entry_points()), "postgresql", "spark"]
            if scheme not in engines:
                raise UsageError(f"--database: Ibis has no engine {preview(scheme)}; {suggestion(scheme, engines)}")
            return ibis.connect(url, **({"password": password} if password else {}))


def _duckdb(path: Path | None = None, **options: Any) -> Any:
    """Connect to DuckDB with bounded memory, and with temporary files where the system has them."""
    defaults = {"memory_limit": MEMORY, "temp_directory": tempfile.gettempdir()}
    return ibis.duckdb.connect(*filter(None, [path]), **{**defaults, **options})


def open_file(
    path: Path, delimiter: str = ",", decimal: str = ".", types: Mapping[str, str] | None = None
) -> EngineTable:
    """Open a Parquet, CSV or JSON lines file with DuckDB.

    Parameters
    ----------
    path
        The file.
    delimiter, decimal
        What separates the cells of a CSV file, and the decimal point of its numbers.
    types
        Input types that were chosen, by column; for a CSV file.

    Raises
    ------
    ProfileError
        When it cannot be read, or has another format.
    """
    plain = without_gz(path)
    reader = _FILES.get(plain.suffix.lower())
    if reader is None:
        raise ProfileError(f"{path}: expected a file that ends in {any_of(_FILES)} with --engine=duckdb")
    if not path.is_file():
        raise ProfileError(f"{path}: cannot be read: there is no such file{similar_file(path)}")
    try:
        check_gzip(path)
    except ValueError as error:
        raise ProfileError(f"{path}: {error}") from None
    with engine_errors(str(path)):
        names = column_names(path, delimiter)
        connection, options = _duckdb(), {}
        if reader == "read_csv":
            if not names:
                raise ProfileError(f"{path}: has no rows to profile")
            options = {"columns": dict.fromkeys(names, "string"), "delim": delimiter, "quote": '"', "escape": '"'}
        # DuckDB would read all files that a name with brackets or asterisks matches.
        pattern = glob.escape(str(path))
        rows = getattr(connection, reader)(pattern, **options)
        if reader == "read_json":
            check_keys(connection, path, pattern, rows.columns)
        return EngineTable(str(path), plain.stem, with_types(rows, decimal, types or {}) if options else rows)
