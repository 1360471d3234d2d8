"""Expressions that mean the same in every engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import ibis

from exporter.profiles.profile import CategoricalFeature, Feature

_Item = TypeVar("_Item")
Expression = Any
"""An expression of Ibis. Its types would add nothing: the columns of a table are known only when it is opened."""
Texts = dict[str, list[Any]]
"""The values of a column by their text: a decimal and a float may have the same."""
BATCH = 50
"""Columns whose statistics are computed in one query."""


class Target(NamedTuple):
    """A feature or an output of a table: an expression, its frozen bins, and the values of each category."""

    values: Expression
    feature: Feature
    texts: Texts


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
    """Return the leaf of each number: that whose index is the number of ascending cuts that are at or below it.

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


def row_bin(target: Target) -> Expression:
    """Return the bin of each value, in the order of the counts of the target."""
    column, feature, values = target
    if isinstance(feature, CategoricalFeature):
        other = len(feature.categories)
        indexes = [(value, index) for index, text in enumerate(feature.categories) for value in values[text]]
        known = [(column == (literal(value) if isinstance(value, float) else value), index) for value, index in indexes]
        return ibis.cases((is_missing(column), other + 1), *known, else_=other)
    numbers, top = finite(column), len(feature.edges)
    inside = search(numbers, feature.edges, range(top + 1))
    return ibis.cases((is_missing(column), top + 1), (numbers.isnull(), top + 2), else_=inside)


def block_bin(target: Target) -> Expression:
    """Return the bin of each value, as `exporter.profiles.block_builder.BlockBuilder` counts them."""
    column, feature, _ = target
    found = row_bin(target)
    if isinstance(feature, CategoricalFeature) or feature.min is None or feature.max is None:
        return found
    numbers, top = finite(column), len(feature.edges)
    extremes = (numbers >= literal(feature.max), top + 4), (numbers <= literal(feature.min), top + 3)
    return ibis.cases(*extremes, else_=found)


def row_hash(table: Expression, engine: str) -> Expression:
    """Return a whole number from 0 for each row: the same for equal rows, and evenly spread over different ones."""
    names = [name for name, dtype in table.schema().items() if not dtype.is_nested()]
    if engine == "duckdb":  # of the texts of all values it would take a hundred times as long
        row = ibis.struct({name: table[name] for name in names})
        hashed = ibis.udf.scalar.builtin(_function, name="hash", signature=((row.type(),), "uint64"))
        return (hashed(row) % 2**62).cast("int64")
    text = ibis.literal("\x1f").join([table[name].cast("string").fill_null("") for name in names])
    if engine == "trino":
        steps = (
            ("to_utf8", "string", "binary"),
            ("xxhash64", "binary", "binary"),
            ("from_big_endian_64", "binary", "int64"),
        )
        for name, given, result in steps:
            text = ibis.udf.scalar.builtin(_function, name=name, signature=((given,), result))(text)
        return text.abs()
    return text.hash().abs()


def _function(value: Any) -> Any:
    """Stand for a function of an engine."""
