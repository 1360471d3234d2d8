"""How good a model is by the labels in a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

import ibis
import numpy as np

from exporter.profiles.builder import Progress
from exporter.profiles.engines.columns import plain, type_error, type_family
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import (
    Expression,
    Target,
    count,
    finite,
    is_missing,
    literal,
    row_bin,
    row_hash,
)
from exporter.profiles.engines.hash_sample import sample_rows
from exporter.profiles.engines.labelled_sums import TableBins, Values
from exporter.profiles.engines.numeric_bins import numeric_features
from exporter.profiles.profile import NumericFeature
from exporter.profiles.quality_learning import LARGE, LARGEST_ERROR, learn_accuracy, learn_error, most_rows, rounded
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION, Quality

_BINS = 20
_WHOLE = 2.0**53
"""Floats below it are exact whole numbers, if they are whole."""


class _Outcomes(NamedTuple):
    """Expressions of whether a row has a prediction and a label, and of its outcome.

    That is 1 or 0, whether the prediction is right, or its absolute error; null where there is none.
    """

    known: Expression
    value: Expression


def measure_quality(
    table: EngineTable, column: str, targets: Mapping[str, Target], seconds: Expression | None, progress: Progress
) -> Quality | None:
    """Return how good the predictions of a table are; None where no row has a label that can be compared.

    Parameters
    ----------
    table
        The table.
    column
        The column of labels.
    targets
        The features and the outputs.
    seconds
        Times of the rows in Unix seconds, where they are known.
    progress
        Called after each part.

    Raises
    ------
    ProfileError
        When labels of the column's type cannot be compared with the predictions.
    """
    is_regression = isinstance(targets[PREDICTION].feature, NumericFeature)
    outcomes = (_errors if is_regression else _hits)(table, column, targets[PREDICTION].values)
    sums = {"known": count(outcomes.known), "rows": outcomes.value.count(), "right": count(outcomes.value > 0)}
    found = {name: int(value or 0) for name, value in table.row(table.rows.aggregate(**sums)).items()}
    number, names = found["rows"], [*targets]
    if not number:
        return None
    progress("labels", 0.2, number)
    bins = {f"b{index}": row_bin(target).cast("int16") for index, target in enumerate(targets.values())}
    when = ibis.null("float64") if seconds is None else finite(seconds)
    rows = table.rows.select(number=outcomes.value, when=when, hash=row_hash(table.rows, table.engine), **bins)
    rows = rows.filter(rows.number.notnull())
    sample = rows
    if number > (most := most_rows(len(targets))):
        sample, _ = sample_rows(table, rows, number, most)
    sampled = int(table.row(sample.aggregate(n=sample.count()))["n"])
    unusable = found["known"] - number
    if is_regression:
        errors = numeric_features(table, {"error": outcomes.value}, _BINS, lambda: None)["error"]
        quality = Quality("absolute_error", number, rounded(errors.mean or 0.0), unusable, sampled=sampled)
        binned, values = _in_order(table, sample, targets, errors.max or 0.0)
        return learn_error(quality, names, binned, values, _large(errors))
    quality = Quality("accuracy", number, rounded(found["right"] / number), unusable, sampled=sampled)
    if CONFIDENCE not in targets:
        return quality
    bin_name, size = f"b{names.index(CONFIDENCE)}", len(targets[CONFIDENCE].feature.counts)
    groups = rows.group_by(bin=rows[bin_name])
    counts = table.columns(groups.aggregate(n=rows.count(), right=count(rows.number > 0)))
    in_bin = np.zeros((2, size))
    in_bin[:, counts["bin"]] = counts["n"], counts["right"]
    binned, values = _in_order(table, sample.filter(sample[bin_name] < size - 2), targets, 1.0)
    return learn_accuracy(quality, names, binned, values, in_bin)


def _in_order(
    table: EngineTable, rows: Expression, targets: Mapping[str, Target], largest: float
) -> tuple[TableBins, Values]:
    """Return rows in the order of their times; those with the same time, or without one, by their hash."""
    order = [rows.when.fill_null(literal(sys.float_info.max)), rows.hash]
    kept = table.kept(rows.mutate(row=ibis.row_number().over(order_by=order)))
    found = table.row(kept.aggregate(n=kept.count(), timed=kept.when.count()))
    sizes = [len(target.feature.counts) for target in targets.values()]
    binned = TableBins(table, kept.drop("when", "hash"), sizes, int(found["n"]), int(found["timed"]))
    return binned, binned.values(largest)


def _labels(table: EngineTable, column: str, accepted: Mapping[str, str], prediction: Expression) -> Expression:
    """Return the labels; an error where they are none of the ``accepted`` kinds, which it names."""
    if type_family(table.rows[column].type()) not in accepted:
        expected = " or ".join(accepted.values())
        detail = f"and predictions have the type {prediction.type()}: expected labels that are {expected}"
        raise type_error(table, column, f"{detail}; cast them in a view")
    return plain(table.rows[column], False).values


def _errors(table: EngineTable, column: str, prediction: Expression) -> _Outcomes:
    """Return the absolute errors of a regression."""
    label = _labels(table, column, {"numeric": "numbers"}, prediction)
    # A difference of halves cannot overflow, which is an error in some engines.
    half = (finite(prediction) * 0.5 - finite(label) * 0.5).abs()
    error = ibis.ifelse(half <= literal(LARGEST_ERROR / 2), half * 2.0, ibis.null("float64"))
    return _Outcomes(~is_missing(prediction) & ~is_missing(label), error)


def _hits(table: EngineTable, column: str, prediction: Expression) -> _Outcomes:
    """Return whether the classes are those of the labels: whether their texts are the same."""
    accepted = {"numeric": "numbers", "boolean": "booleans", "string": "texts"}
    label = _labels(table, column, accepted, prediction)
    known = ~is_missing(prediction) & ~is_missing(label)
    values = prediction, label
    if type_family(prediction.type()) != type_family(label.type()):
        values = _text(prediction), _text(label)
    right = ibis.ifelse(values[0] == values[1], 1.0, 0.0)
    return _Outcomes(known, ibis.ifelse(known, right, ibis.null("float64")))


def _text(column: Expression) -> Expression:
    """Return the text of each class, see `exporter.features.extract.scalar_text`."""
    if column.type().is_boolean():
        return ibis.ifelse(column, "true", "false")
    if not column.type().is_floating():
        return column.cast("string")
    is_whole = (column.abs() < literal(_WHOLE)) & (column == column.floor())
    whole = ibis.ifelse(is_whole, column, 0.0).cast("int64").cast("string")
    return ibis.ifelse(is_whole, whole, column.cast("string"))


def _large(errors: NumericFeature) -> float:
    """Return an error that `LARGE` of the rows do not exceed: that of a bin's edge, or between two."""
    below = np.cumsum((0, *errors.counts[1:-3]))
    return float(np.interp(LARGE * below[-1], below, errors.edges))
