"""Blocks of the rows of a table in the order of their times, counted by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import ibis
import numpy as np
import numpy.typing as npt

from exporter.profiles.block_builder import BlockBuilder
from exporter.profiles.block_record import TIME, Blocks, Times
from exporter.profiles.builder import Progress
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, Target, block_bin, finite, row_hash, search
from exporter.profiles.engines.numeric_bins import numeric_features
from exporter.profiles.season_record import Season
from exporter.stats.divergence import Ints

PART = 1_000_000
"""About so many rows are sorted as one. An engine sorts several such parts of a table at the same time."""
_MOST_PARTS = 500
_LATEST = 1e15  # seconds; hours of later times are no whole numbers of 64 bits
_MONDAY = 72.0  # see `exporter.profiles.season_record.cycle_hours`


class Arrival(NamedTuple):
    """When the rows of a table arrived.

    Attributes
    ----------
    column
        The column of times.
    seconds
        Its times in Unix seconds.
    hours
        Number of hours of a season that was asked for.
    season
        The season that was found.
    """

    column: str
    seconds: Expression
    hours: int = 0
    season: Season | None = None


def cycle_hour(seconds: Expression, hours: int) -> Expression:
    """Return the hour in a cycle, see `exporter.profiles.season_record.cycle_hours`; null where there is no time."""
    hour = (seconds / 3600.0).floor() + _MONDAY
    within = hour - (hour / float(hours)).floor() * float(hours)
    return ibis.ifelse(seconds.abs() <= _LATEST, within, ibis.null("float64")).cast("int16")


def time_blocks(table: EngineTable, arrival: Arrival, targets: Mapping[str, Target], progress: Progress) -> Blocks:
    """Return the scores of blocks of successive rows. Rows with the same time are in random order.

    Parameters
    ----------
    table
        The table.
    arrival
        Times of the rows.
    targets
        The features and the outputs.
    progress
        Called after each target.
    """
    bins = {f"b{index}": block_bin(target).cast("int16") for index, target in enumerate(targets.values())}
    if season := arrival.season:
        bins["hour"] = cycle_hour(finite(arrival.seconds), arrival.hours).fill_null(0)
    rows = table.rows.select(seconds=finite(arrival.seconds), hash=row_hash(table.rows, table.engine), **bins)
    timed = table.row(
        rows.aggregate(rows=rows.count(), n=rows.seconds.count(), first=rows.seconds.min(), last=rows.seconds.max())
    )
    known = int(timed["n"])
    times = Times(int(timed["rows"]) - known, timed["first"], timed["last"]) if known else None
    builder = BlockBuilder({name: target.feature for name, target in targets.items()}, known, arrival.hours)
    if not builder.sizes:
        return Blocks(TIME, arrival.column, times=times)
    cuts = builder.cuts
    groups = known // cuts[-1]
    edges, before = _parts(table, arrival, known)
    rows = rows.filter(rows.seconds.notnull())
    rows = rows.mutate(start=search(rows.seconds, edges, before))
    within = ibis.row_number().over(group_by=rows.start if edges else None, order_by=[rows.seconds, rows.hash])
    rows = rows.mutate(row=rows.start + within)
    segment = search(rows.row % cuts[-1], [float(cut) for cut in cuts[:-1]], range(len(cuts)))
    rows = rows.select(
        block=((rows.row / cuts[-1]).floor() * len(cuts) + segment).cast("int32"), **{n: rows[n] for n in bins}
    )
    kept = table.kept(rows)

    def count(bin_name: str, width: int) -> tuple[npt.NDArray[np.uint32], Ints]:
        """Return the counts by bin of the complete groups, and of the rows after them."""
        found = table.columns(kept.group_by(["block", bin_name]).aggregate(n=kept.count()))
        counts = np.zeros(((groups + 1) * len(cuts), width), dtype=np.uint32)
        counts[found["block"], found[bin_name]] = found["n"]
        complete = counts[: groups * len(cuts)].reshape(groups, len(cuts), -1)
        return complete, counts[groups * len(cuts) :].sum(axis=0, dtype=np.intp)

    for index, (name, target) in enumerate(targets.items()):
        builder.add_counts(name, *count(f"b{index}", len(target.feature.counts) + 2))
        progress("order", (index + 1) / len(targets), known)
    if season:
        builder.add_hour_counts(*count("hour", arrival.hours + 2))
    return Blocks(TIME, arrival.column, tuple(builder.sizes), builder.build(season), times=times)


def _parts(table: EngineTable, arrival: Arrival, known: int) -> tuple[tuple[float, ...], list[int]]:
    """Return times that divide the rows into parts of about equal size, and the number of rows before each part."""
    if known < 2 * PART:
        return (), [0]
    parts = min(known // PART, _MOST_PARTS)
    feature = numeric_features(table, {arrival.column: arrival.seconds}, parts, lambda: None)[arrival.column]
    return feature.edges, np.cumsum([0, *feature.counts[:-3]]).tolist()
