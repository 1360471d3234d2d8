"""How much the predictions in a table depend on each feature."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ibis
import numpy as np

from exporter.profiles.builder import Progress
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Target, row_bin, row_hash
from exporter.profiles.engines.hash_sample import sample_rows
from exporter.profiles.weights_builder import WeightsBuilder
from exporter.profiles.weights_record import Weights


def learn_weights(
    table: EngineTable, features: Mapping[str, Target], prediction: Target, number: int, progress: Progress
) -> Weights | None:
    """Return how much the predictions depend on each feature; see `WeightsBuilder.build`.

    Which features act together shows only in single rows. So the bins of some rows are read, but none of their values.
    They are chosen by a hash of the row; where many rows are equal, every so many rows are taken in the hash's order.

    Parameters
    ----------
    table
        The table.
    features
        Its features by name.
    prediction
        Its prediction.
    number
        Number of its rows.
    progress
        Called at the end.
    """
    builder = WeightsBuilder({name: target.feature for name, target in features.items()}, prediction.feature, number)
    bins = {f"b{index}": row_bin(target).cast("int16") for index, target in enumerate((*features.values(), prediction))}
    rows = table.rows.select(hash=row_hash(table.rows, table.engine), **bins)
    if number > builder.most:
        rows, differ = sample_rows(table, rows, number, builder.most)
        if not differ:
            rows = rows.mutate(row=ibis.row_number().over(order_by=rows.hash))
            rows = rows.filter(rows.row % math.ceil(number / builder.most) == 0)
    found = table.columns(rows.select("hash", *bins))
    order = np.lexsort([*found.values()][::-1])
    builder.add_bins(np.array([found[name][order] for name in bins], dtype=np.int16))
    progress("weights", 1.0, number)
    return builder.build()
