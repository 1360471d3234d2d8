"""Expressions that mean the same in every engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ibis

_Item = TypeVar("_Item")
Expression = Any
"""An expression of Ibis. Its types would add nothing: the columns of a table are known only when it is opened."""
BATCH = 50
"""Columns whose statistics are computed in one query."""


def batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Yield the items in lists of at most `BATCH`."""
    rest = iter(items)
    while part := list(islice(rest, BATCH)):
        yield part


def literal(number: float) -> Expression:
    """Return exactly this number. Without the cast some engines read its digits as a decimal, and round it twice."""
    return ibis.literal(repr(number)).cast("float64")


def finite(column: Expression) -> Expression:
    """Return a column of numbers, null where a value is NaN or an infinity.

    A comparison is used since not every engine has a function for infinities; NaN is larger than any number, or equal
    to none.
    """
    numbers = column.cast("float64")
    if column.type().is_integer():
        return numbers
    return ibis.ifelse(numbers.abs() <= literal(sys.float_info.max), numbers, ibis.null("float64"))


def is_missing(column: Expression) -> Expression:
    """Return whether a value is null or NaN."""
    if not column.type().is_floating():
        return column.isnull()
    return column.isnull() | column.isnan()


def search(number: Expression, cuts: Sequence[float], leaves: Sequence[Any]) -> Expression:
    """Return the leaf of each number: that whose place is how many of the ascending cuts are at or below the number.

    It is a tree of comparisons, which an engine evaluates as fast as a function of its own. A null has the last leaf.
    """
    if not cuts:
        return leaves[0]
    middle = len(cuts) // 2
    below = search(number, cuts[:middle], leaves[: middle + 1])
    return ibis.ifelse(number < literal(cuts[middle]), below, search(number, cuts[middle + 1 :], leaves[middle + 1 :]))


def count(condition: Expression) -> Expression:
    """Return the number of rows for which a condition is true."""
    return ibis.ifelse(condition, 1, 0).sum()


def row_hash(table: Expression, engine: str) -> Expression:
    """Return a whole number from 0 for each row: the same for equal rows, and evenly spread over different ones."""
    names = [name for name, dtype in table.schema().items() if not dtype.is_nested()]
    if engine == "duckdb":  # of the texts of all values it would take a hundred times as long
        row = ibis.struct({name: table[name] for name in names})
        hashed = ibis.udf.scalar.builtin(_duckdb_hash, name="hash", signature=((row.type(),), "uint64"))
        return (hashed(row) % 2**62).cast("int64")
    texts = [table[name].cast("string").fill_null("") for name in names]
    return ibis.literal("\x1f").join(texts).hash().abs()


def _duckdb_hash(row: Any) -> Any:
    """Stand for DuckDB's function."""
