"""Find a table in a database, and read its columns whatever their types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ibis
from ibis.backends.sql.datatypes import PostgresType
from sqlglot.expressions import DataType

from exporter.errors import ProfileError
from exporter.profiles.engines.expressions import Expression
from exporter.validation import preview, suggestion

_TABLES = """
    SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'v', 'm', 'f', 'p') AND nspname = coalesce(%s::text, current_schema())
"""  # information_schema.tables has no materialized views
_ENUMERATIONS = """
    SELECT attname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    WHERE typtype = 'e' AND attrelid = format('%%I.%%I', coalesce(%s::text, current_schema()), %s::text)::regclass
"""
_DOMAINS = """
    WITH RECURSIVE types(name, oid, base, modifier) AS (
        SELECT lower(format_type(pg_type.oid, NULL)), pg_type.oid, typbasetype, typtypmod
            FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
            WHERE typtype = 'd'
                AND attrelid = format('%%I.%%I', coalesce(%s::text, current_schema()), %s::text)::regclass
        UNION ALL SELECT name, pg_type.oid, typbasetype, typtypmod
            FROM types JOIN pg_type ON pg_type.oid = types.base WHERE typtype = 'd'
    ) SELECT name, format_type(base, modifier) FROM types JOIN pg_type ON pg_type.oid = base WHERE typtype <> 'd'
"""
_OBJECTS = "class collation config dictionary namespace oper operator proc procedure role type"
_UNKNOWN = {
    name: ibis.expr.datatypes.Unknown(DataType(this=DataType.Type.USERDEFINED, kind=name))
    for name in ("oid", *(f"reg{name}" for name in _OBJECTS.split()))
}
"""Types of PostgreSQL on which Ibis fails, such as ``regclass``, and ``oid``, which it takes for a number."""
_KNOWN = PostgresType.unknown_type_strings


def find_table(connection: Any, name: str, database: str) -> tuple[str, Expression]:
    """Return the name of a table without that of its schema, and its rows.

    Parameters
    ----------
    connection
        A backend of Ibis.
    name
        The table; one of another schema as ``schema.table``. Both names may have dots in DuckDB and PostgreSQL.
    database
        Name of the database in messages.

    Raises
    ------
    ProfileError
        When there is no such table, or it has no columns.
    """
    tables = _tables(connection, None)
    if name in tables:
        return name, _rows(connection, name, None, database)
    detail = suggestion(name, tables)
    for place, table in _places(connection, name):
        others = _tables(connection, place)
        if table in others:
            return table, _rows(connection, table, place, database)
        if others:
            detail = suggestion(table, others)
    raise ProfileError(f"{database}: has no table {preview(name)}; {detail}")


def _places(connection: Any, name: str) -> Iterator[tuple[str | tuple[str], str]]:
    """Yield where a table may be: its schema as Ibis takes it, perhaps with a catalog, and its name there."""
    cuts = [index for index, character in enumerate(name) if character == "."]
    with_dots = connection.name in {"duckdb", "postgres"}
    for cut in reversed(cuts) if with_dots else cuts[-1:]:
        schema, table = name[:cut], name[cut + 1 :]
        if schema.count(".") < 2 and connection.name != "postgres":
            yield schema, table
        if with_dots:
            yield (schema,), table


def _tables(connection: Any, place: str | tuple[str] | None) -> list[str]:
    if connection.name != "postgres":
        return [*connection.list_tables(database=place)]
    with connection.con.cursor() as cursor:
        return [table for (table,) in cursor.execute(_TABLES, [place and place[0]]).fetchall()]


def _rows(connection: Any, table: str, place: str | tuple[str] | None, database: str) -> Expression:
    """Return the rows of a table; values of PostgreSQL's enumerations as the texts that Ibis takes them for.

    Those of a domain have the type on which it is based.
    """
    if connection.name != "postgres":
        return _table(connection, table, place, database)
    with connection.con.cursor() as cursor:
        domains = cursor.execute(_DOMAINS, [place and place[0], table]).fetchall()
        found = cursor.execute(_ENUMERATIONS, [place and place[0], table]).fetchall()
    PostgresType.unknown_type_strings = _KNOWN
    based = {name: PostgresType.from_string(base) for name, base in domains}
    PostgresType.unknown_type_strings = {**based, **_KNOWN, **_UNKNOWN}
    rows = _table(connection, table, place, database)
    return rows.mutate(**{name: rows[name].concat("") for (name,) in found if rows[name].type().is_string()})


def _table(connection: Any, table: str, place: str | tuple[str] | None, database: str) -> Expression:
    try:
        return connection.table(table, database=place)
    except ibis.common.exceptions.TableNotFound:  # it is in the list
        raise ProfileError(
            f"{database}: {table}: has no columns, or is a view of a table that no longer exists"
        ) from None
