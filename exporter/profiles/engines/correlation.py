"""Correlation of the features of a table, from sums that the engine computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations_with_replacement

import numpy as np

from exporter.profiles.correlation import score_map
from exporter.profiles.correlation_builder import GROUPS, CorrelationBuilder
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, finite, literal, row_hash, search
from exporter.profiles.engines.hash_sample import sample_rows
from exporter.profiles.profile import Correlation, Feature, NumericFeature

ROWS = 250_000
"""About so many rows are compared, chosen by a hash of their values."""
_SCALE = 2**12  # of a score, so that sums of products are whole numbers


def measure_correlation(
    table: EngineTable,
    columns: Mapping[str, Expression],
    features: Mapping[str, Feature],
    number: int,
    seasonal: Collection[str],
) -> Correlation | None:
    """Return the correlation of the features; None where fewer than two vary, or too few rows are complete.

    Where many rows are equal, all rows are compared, in one group. The result leaves out the ``seasonal`` features.
    """
    builder = CorrelationBuilder(features)
    if len(builder.names) < 2:
        return None
    numbers = {f"x{index}": finite(columns[name]) for index, name in enumerate(builder.names)}
    sample = table.rows.select(hash=row_hash(table.rows, table.engine), **numbers)
    sample, differ = sample_rows(table, sample, number, ROWS)
    groups = GROUPS if differ else 1
    for index in range(len(numbers)):
        sample = sample.filter(sample[f"x{index}"].notnull())
    scores = {
        f"z{index}": _score(sample[f"x{index}"], feature)
        for index, name in enumerate(builder.names)
        if isinstance(feature := features[name], NumericFeature)
    }
    scored = sample.select(group=sample.hash % groups, **scores)
    if table.engine != "pyspark":  # which would bring all rows to one executor
        # The limit is never reached. It keeps an engine from computing a score again for each product.
        scored = scored.limit(number)
    sums = {f"s{index}": scored[name].sum() for index, name in enumerate(scores)}
    pairs = enumerate(combinations_with_replacement(scores, 2))
    products = {f"p{index}": (scored[one] * scored[other]).sum() for index, (one, other) in pairs}
    result = table.columns(scored.group_by("group").aggregate(n=scored.count(), **sums, **products))
    scales = np.concatenate(([1], np.full(len(sums), _SCALE), np.full(len(products), _SCALE**2)))
    values = np.stack([result[name].astype(np.float64) for name in ("n", *sums, *products)], axis=-1)
    builder.add_sums(result["group"].astype(np.intp), values / scales)
    builder.leave_out(seasonal)
    return builder.build()


def _score(number: Expression, feature: NumericFeature) -> Expression:
    """Return the normal scores of training values as whole numbers, see `exporter.profiles.correlation.Copula`."""
    parts = zip(*(part.tolist() for part in score_map(feature)), strict=True)
    leaves = [
        (number - literal(low)) * literal(slope) + literal(base) if slope else literal(base)
        for low, base, slope in parts
    ]
    return (search(number, feature.edges, leaves) * float(_SCALE) + 0.5).floor().cast("int32")
