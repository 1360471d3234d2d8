"""The rows of a query of any database, as Arrow batches.

They are read once, into a temporary Parquet file: all passes then see the same rows in the same order, and the database
is asked only once. Memory does not grow with the rows.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import numpy as np

from exporter.errors import ExporterError, ProfileError, UsageError
from exporter.profiles.bins import in_sample
from exporter.profiles.sources.base import ROWS, path_of
from exporter.profiles.sources.files import FileSource
from exporter.profiles.sources.parquet import check_unique_names
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
        detail = f"needs {package}: pip install 'model-exporter[sql]', or {package}"
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
