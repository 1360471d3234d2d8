"""Bins of the categories in a table: the most frequent ones, whatever the number of the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

import ibis

from exporter.features.extract import scalar_text
from exporter.profiles.bin_edges import categorical_feature
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, Texts, batches, count, is_missing
from exporter.profiles.profile import MAX_RARE, CategoricalFeature
from exporter.profiles.sketches import MAX_CATEGORY


def categorical_features(
    table: EngineTable, columns: Mapping[str, Expression], top: int, done: Callable[[], None]
) -> tuple[dict[str, CategoricalFeature], dict[str, Texts]]:
    """Return the bins of some columns, and the values that have the texts of their categories.

    Parameters
    ----------
    table
        The table.
    columns
        Expressions of categories by the name of the feature.
    top
        Number of categories with a bin of their own.
    done
        Called when the bins of one of them are known.
    """
    features, values = {}, {}
    for names in batches([*columns]):
        missing = {f"n{index}": count(is_missing(columns[name])) for index, name in enumerate(names)}
        row = table.row(table.rows.aggregate(rows=table.rows.count(), **missing))
        for index, name in enumerate(names):
            empty = int(row[f"n{index}"] or 0)
            with table.reading(name):
                features[name], values[name] = _feature(table, columns[name], int(row["rows"]), empty, top)
            done()
    return features, values


def _feature(
    table: EngineTable, column: Expression, rows: int, empty: int, top: int
) -> tuple[CategoricalFeature, Texts]:
    missing = is_missing(column)
    kept = ~missing & (column.length() <= MAX_CATEGORY) if column.type().is_string() else ~missing
    values = table.rows.select(value=column, kept=kept).filter(lambda t: t.kept)
    groups = values.group_by("value").aggregate(n=values.count())
    found = table.columns(groups.order_by(ibis.desc("n"), "value").limit(top + MAX_RARE))
    counts: Counter[str] = Counter()
    texts: Texts = defaultdict(list)
    for value, times in zip(found["value"].tolist(), found["n"].tolist(), strict=True):
        counts[scalar_text(value)] += times
        texts[scalar_text(value)].append(value)
    more = rows - empty - sum(counts.values())
    if more < 0:
        raise table.changed()
    feature = categorical_feature(counts, empty, 0, top, more)
    return feature, {text: texts[text] for text in feature.categories}
