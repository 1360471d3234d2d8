"""The values of a table by hour of the day or of the week, counted by its engine."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ibis
import numpy as np

from exporter.profiles.builder import Progress
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, Target, finite, literal, row_bin
from exporter.profiles.engines.order import Arrival, cycle_hour
from exporter.profiles.engines.sums import exact_sums
from exporter.profiles.profile import NumericFeature
from exporter.profiles.season_builder import MAX_DEVIATION, SeasonBuilder
from exporter.profiles.season_record import HOURS, Period, Season
from exporter.stats.season import GROUPS


def hourly_season(
    table: EngineTable, arrival: Arrival, period: Period, targets: Mapping[str, Target], progress: Progress
) -> Season | None:
    """Return the values by hour of the targets that change with it; None where none does.

    Parameters
    ----------
    table
        The table.
    arrival
        Times of the rows.
    period
        ``day`` or ``week``.
    targets
        The features and the outputs.
    progress
        Called after each target.

    Raises
    ------
    ProfileError
        When the times do not cover enough days or weeks.
    """
    builder = SeasonBuilder({name: target.feature for name, target in targets.items()}, period)
    when, hours = finite(arrival.seconds), HOURS[period]
    known = table.row(table.rows.aggregate(rows=when.count(), first=when.min(), last=when.max()))
    if known["rows"]:
        builder.add_range(known["first"], known["last"])
    builder.check(table.where, arrival.column)
    for index, (name, target) in enumerate(targets.items()):
        hour = cycle_hour(when, GROUPS * hours)  # cycles are dealt to groups in turn
        number, largest = _deviation(target, *builder.scales.get(name, (0.0, 0.0)))
        rows = table.rows.select(hour=hour, bin=row_bin(target).cast("int16"), number=number)
        found = exact_sums(table, rows.filter(rows.hour.notnull()), ["hour", "bin"], largest)
        counts = np.zeros((GROUPS * hours, len(target.feature.counts)), dtype=np.intp)
        counts[found["hour"], found["bin"]] = found["n"]
        sums = np.bincount(found["hour"] % hours, found["sum"], hours).astype(np.float64)
        builder.add_counts(name, counts.reshape(GROUPS, hours, -1), sums)
        progress("season", (index + 1) / len(targets), int(known["rows"]))
    return builder.build(table.where, arrival.column)


def _deviation(target: Target, mean: float, stddev: float) -> tuple[Expression, float]:
    """Return how far values are from the mean in standard deviations, null where they are not valid, and the most."""
    feature = target.feature
    if not isinstance(feature, NumericFeature) or feature.min is None or feature.max is None or not stddev:
        return ibis.null("float64"), 0.0
    most = max(mean - feature.min, feature.max - mean)
    if not math.isfinite(most / stddev):  # neither would a sum be
        return ibis.null("float64"), 0.0
    limit = literal(MAX_DEVIATION)
    scaled = (finite(target.values) - literal(mean)) / literal(stddev)
    inside = ibis.cases((scaled > limit, limit), (scaled < -limit, -limit), else_=scaled)
    return inside, min(most / stddev, MAX_DEVIATION)
