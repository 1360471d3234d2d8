"""Blocks of the rows of a table in the order of their times, counted by the engine."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import msgspec
import numpy as np

from exporter.profiles.block_builder import BlockBuilder
from exporter.profiles.block_record import TIME, Blocks, Times
from exporter.profiles.builder import Progress
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, Target, block_bin, finite, row_hash, search


def time_blocks(
    table: EngineTable,
    column: str,
    seconds: Expression,
    targets: Mapping[str, Target],
    progress: Progress,
) -> Blocks:
    """Return the scores of blocks of successive rows. Rows with the same time are in random order.

    Parameters
    ----------
    table
        The table.
    column
        The column of times.
    seconds
        Its times in Unix seconds.
    targets
        The features and the outputs.
    progress
        Called after each target.
    """
    bins = {f"b{index}": block_bin(target).cast("int16") for index, target in enumerate(targets.values())}
    rows = table.rows.select(seconds=finite(seconds), hash=row_hash(table.rows, table.engine), **bins)
    timed = table.row(
        rows.aggregate(rows=rows.count(), n=rows.seconds.count(), first=rows.seconds.min(), last=rows.seconds.max())
    )
    known = int(timed["n"])
    times = Times(int(timed["rows"]) - known, timed["first"], timed["last"]) if known else msgspec.UNSET
    builder = BlockBuilder({name: target.feature for name, target in targets.items()}, known)
    if not builder.sizes:
        return Blocks(TIME, column, times=times)
    cuts = builder.cuts
    groups = known // cuts[-1]
    rows = rows.filter(rows.seconds.notnull())
    rows = rows.mutate(row=ibis.row_number().over(order_by=[rows.seconds, rows.hash]))
    segment = search(rows.row % cuts[-1], [float(cut) for cut in cuts[:-1]], range(len(cuts)))
    rows = rows.select(
        block=((rows.row / cuts[-1]).floor() * len(cuts) + segment).cast("int32"), **{n: rows[n] for n in bins}
    )
    kept = table.kept(rows)
    for (name, target), bin_name in zip(targets.items(), bins, strict=True):
        found = table.columns(kept.group_by(["block", bin_name]).aggregate(n=kept.count()))
        counts = np.zeros(((groups + 1) * len(cuts), len(target.feature.counts) + 2), dtype=np.uint32)
        counts[found["block"], found[bin_name]] = found["n"]
        complete = counts[: groups * len(cuts)].reshape(groups, len(cuts), -1)
        builder.add_counts(name, complete, counts[groups * len(cuts) :].sum(axis=0, dtype=np.int64))
        progress("order", (int(bin_name[1:]) + 1) / len(bins), known)
    return Blocks(TIME, column, tuple(builder.sizes), builder.build(), times=times)
