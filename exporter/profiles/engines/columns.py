"""Which columns of a table are inputs, and the expressions of their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ibis

from exporter.errors import ProfileError
from exporter.features.base import FEW_VALUES, InputType
from exporter.features.types import input_type
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, batches
from exporter.profiles.options import Options
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION
from exporter.profiles.type_inference import ColumnTypeInference
from exporter.validation import preview, suggestion

_CAST = "cast it in a view of the table"
_ACCEPTED = {
    "numeric": {"numeric"},
    "boolean": {"boolean"},
    "categorical": {"numeric", "boolean", "string"},
    "timestamp": {"timestamp"},
}


class Inputs(NamedTuple):
    """The inputs of a table.

    Attributes
    ----------
    kinds
        Type of each input by column.
    skipped
        Why a column is left out, by column.
    """

    kinds: dict[str, InputType]
    skipped: dict[str, str]


class Column(NamedTuple):
    """The values of a feature or of an output.

    Attributes
    ----------
    values
        An expression.
    categorical
        Whether they are categories.
    single
        Whether they are numbers of 32 bits.
    """

    values: Expression
    categorical: bool
    single: bool = False


def check_columns(table: EngineTable, options: Options) -> None:
    """Raise ProfileError where the options name a column that the table does not have, or need single rows."""
    names = table.rows.columns
    for column in [*options.outputs(), *options.ignore, *options.types]:
        if column not in names:
            raise ProfileError(f"{table.where}: has no column {preview(column)}; {suggestion(column, names)}")
    options.check(table.where, names)


def infer_inputs(
    table: EngineTable, options: Options, sample: Mapping[str, Sequence[Any]], unreadable: Mapping[str, str]
) -> Inputs:
    """Return the inputs by the types of the columns; texts are inspected in a sample.

    Parameters
    ----------
    table
        The table.
    options
        What is chosen.
    sample, unreadable
        See `exporter.profiles.engines.first_rows.FirstRows`.

    Raises
    ------
    ProfileError
        When a column that the options name cannot be read, or cannot have the type that they give it.
    """
    kinds: dict[str, InputType] = {}
    skipped: dict[str, str] = {}
    others = {*options.outputs(), *options.ignore}
    for name in {*unreadable}.intersection((*options.outputs(), *options.types)):
        raise type_error(table, name, f"and cannot be read: {unreadable[name]}: {_CAST}")
    chosen = others | {*options.types}
    empty = _without_values(table, [n for n, values in sample.items() if n not in chosen and not _any(values)])
    for name, dtype in table.rows.schema().items():
        if name in others:
            continue
        family = type_family(dtype)
        kind = options.types.get(name) or _inferred(family, sample.get(name, ()))
        if name in unreadable:
            skipped[name] = (
                f"cannot be read, and is left out: {unreadable[name]}: cast it in a view, or set --ignore={name}"
            )
        elif name in empty:
            kinds[name] = input_type("numeric")  # as in a file, which may have no types
        elif family in _ACCEPTED.get(kind, ()):
            kinds[name] = input_type(kind)
        elif name in options.types:
            raise type_error(table, name, f"which cannot be {kind}: {_CAST}")
        elif family == "string":
            advice = f"set --type={name}=categorical" if kind == "text" else "cast it to a timestamp in a view"
            skipped[name] = (
                f"holds {kind} values of the type {dtype}, and is left out: {advice}, or set --ignore={name}"
            )
        else:
            skipped[name] = (
                f"has the type {type_name(table, name)}, which no input has, and is left out: set --ignore={name}"
            )
    return Inputs(kinds, skipped)


def has_values(dtype: Any) -> bool:
    """Return whether there is an input type for values of a type of Ibis."""
    return type_family(dtype) != "other"


def is_time(dtype: Any) -> bool:
    """Return whether values of a type of Ibis are times."""
    return type_family(dtype) == "timestamp"


def type_name(table: EngineTable, name: str) -> str:
    """Return the type of a column as a user knows it: that of the engine where Ibis has none of its own."""
    dtype = table.rows[name].type()
    return dtype.raw_type.sql().strip('"')[:60] if dtype.is_unknown() else str(dtype)


def type_error(table: EngineTable, name: str, detail: str) -> ProfileError:
    """Return the error for a column of a type that its use does not allow."""
    return ProfileError(f"{table.where}: {preview(name)} has the type {type_name(table, name)}, {detail}")


def _any(values: Sequence[Any]) -> bool:
    return any(value is not None for value in values)


def _without_values(table: EngineTable, names: Sequence[str]) -> set[str]:
    """Return which columns are null in all rows."""
    found: dict[str, int] = {}
    for part in batches(names):
        row = table.row(table.rows.aggregate(**{f"n{index}": table.rows[n].count() for index, n in enumerate(part)}))
        found |= zip(part, row.values(), strict=True)
    return {name for name, values in found.items() if not values}


def type_family(dtype: Any) -> str:
    if dtype.is_boolean():
        return "boolean"
    if dtype.is_numeric():
        return "numeric"
    if dtype.is_timestamp() or dtype.is_date():
        return "timestamp"
    return "string" if dtype.is_string() or dtype.is_uuid() else "other"


def _inferred(family: str, values: Sequence[Any]) -> str:
    texts = [str(value) for value in values if value is not None]
    if family != "string" or not texts:
        return "categorical" if family == "string" else family
    inference = ColumnTypeInference()
    inference.add(texts)
    return inference.type()


def feature_columns(
    table: EngineTable, kinds: Mapping[str, InputType], options: Options, now: float
) -> dict[str, Column]:
    """Return the values of each feature by its name; ages are measured from the column of times, else from ``now``."""
    columns = {}
    arrival = seconds(table, options.time_column) if options.time_column else ibis.literal(now)
    for name, kind in kinds.items():
        if kind.type == "timestamp":
            age, hour = kind.features(name)
            columns[age] = Column(arrival - seconds(table, name), False)
            columns[hour] = Column(table.rows[name].cast("timestamp").hour(), False)
        else:
            column = table.rows[name]
            if not (kind.categorical or column.type().is_numeric()):  # null in all rows
                column = ibis.ifelse(column.isnull(), ibis.null("float64"), 0.0)
            columns[name] = plain(column, kind.categorical)
    return columns


def seconds(table: EngineTable, name: str) -> Expression:
    """Return the times in a column in Unix seconds."""
    column = table.rows[name]
    if column.type().is_numeric():
        return column
    if not is_time(column.type()):
        raise type_error(table, name, f"which is not one of times: {_CAST}")
    return column.cast("timestamp").epoch_seconds().cast("float64")  # Ibis takes them for 32-bit integers


def plain(column: Expression, categorical: bool) -> Column:
    """Return a column with values that every engine compares alike: decimals as floats, and UUIDs as texts."""
    dtype = column.type()
    if dtype.is_decimal():
        return Column(column.cast("float64"), categorical)
    if dtype.is_uuid():
        return Column(column.cast("string"), categorical)
    return Column(column, categorical, not categorical and dtype.is_float32())


def output_columns(table: EngineTable, options: Options) -> dict[str, Column]:
    """Return the values of the prediction and of the confidence."""
    columns = {}
    if name := options.prediction_column:
        column = table.rows[name]
        family = type_family(column.type())
        if family not in _ACCEPTED["categorical"]:
            raise type_error(table, name, "expected a prediction that is a number or a text")
        kind = options.types.get(name)
        regression = kind == "numeric" or (kind is None and family == "numeric" and _is_regression(table, column))
        columns[PREDICTION] = plain(column, not regression)
    if name := options.confidence_column:
        column = table.rows[name]
        if not column.type().is_numeric():
            raise type_error(table, name, "expected a confidence from 0 to 1")
        values = plain(column, False)
        columns[CONFIDENCE] = Column(values.values / 100.0, False) if options.confidence_percent else values
    return columns


def _is_regression(table: EngineTable, column: Expression) -> bool:
    """Return whether predictions are numbers with fractions, or many."""
    values = table.rows.select(value=column.cast("float64"))
    found = table.columns(values.filter(values.value.notnull()).distinct().limit(FEW_VALUES + 1))["value"].tolist()
    return len(found) > FEW_VALUES or not all(value.is_integer() for value in found)
