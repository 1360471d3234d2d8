"""Statistics of the review queue: which labels are confused, how often, and how many corrections wait."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from exporter.stats.divergence import Floats
from exporter.storage._labels import label_error
from exporter.storage._schema import decode_label, feedback
from exporter.storage.review.corrections import (
    STATUSES,
    Filter,
    conditions,
    label_column,
    label_conditions,
    of_any_label,
)

MAX_CELLS = 1000
"""Pairs of prediction and label that are returned, the most frequent ones."""
MAX_LABEL = 200
"""Characters of a label in a pair; longer ones are free texts that occur once."""
STEPS = (60, 300, 3600, 86400)
"""Lengths in seconds of the steps in which corrections are counted."""
BARS = 47
"""The least number of steps of a period, unless it has fewer minutes."""

_ROWS = 10_000
_MATERIALIZED = ("MATERIALIZED",) if sqlite3.sqlite_version_info >= (3, 35) else ()


class Overview(NamedTuple):
    """Statistics of the corrections that a filter selects.

    Attributes
    ----------
    counts
        Corrections by status, regardless of the filter's status.
    pairs
        Prediction, label and number of corrections, the most frequent first; at most `MAX_CELLS`, and without labels
        of more than `MAX_LABEL` characters; regardless of the filter's prediction, label and error.
    step
        The longest of `STEPS` of which the period has more than `BARS`, else the shortest.
    rates
        Start of each step with corrections, in Unix seconds (a multiple of the step), and their number, by the time
        of the user's first feedback.
    """

    counts: dict[str, int]
    pairs: list[tuple[Any, Any, int]]
    step: int
    rates: list[tuple[int, int]]


def overview(connection: sa.Connection, chosen: Filter) -> Overview:
    """Compute the statistics of what a filter selects; the rows are read once for all of it."""
    result = Overview(dict.fromkeys(STATUSES, 0), [], STEPS[0], [])
    for part, first, second, start, total in connection.execute(_overview_query(chosen)).all():
        if part == _COUNTS:
            result.counts[first] = total
        elif part == _PAIRS:
            result.pairs.append((decode_label(first), decode_label(second), total))  # of what is unreadable: None
        elif part == _RATES:
            result.rates.append((start, total))
        else:
            result = result._replace(step=start)
    result.pairs.sort(key=lambda pair: -pair[2])
    result.rates.sort()
    return result


def read_errors(connection: sa.Connection, chosen: Filter) -> Floats:
    """Return label minus prediction of what a filter selects, regardless of its prediction, label and error.

    Returns
    -------
    ndarray
        Shape ``(n,)``, in no particular order: of the corrections whose prediction and label are finite numbers.
    """
    error = label_error(feedback.c.prediction, label_column).label("error")
    query = sa.select(error).where(*conditions(of_any_label(chosen))).execution_options(yield_per=_ROWS)
    with connection.execute(query) as result:
        errors = np.fromiter((np.nan if value is None else value for value in result.scalars()), np.float64)
    return errors[np.isfinite(errors)]


_COUNTS, _PAIRS, _RATES, _STEP = range(4)
_NO_TEXT, _NO_NUMBER = sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.BigInteger)


def _overview_query(chosen: Filter) -> sa.CompoundSelect[*tuple[Any, ...]]:
    """Build one query for all parts of the statistics; its first column names the part."""
    selected = (
        sa.select(feedback.c.status, feedback.c.created, feedback.c.prediction, label_column.label("label"))
        .where(*conditions(of_any_label(chosen)._replace(status=None)))
        .cte("selected")
        .prefix_with(*_MATERIALIZED)
    )
    has_status = [selected.c.status == chosen.status] if chosen.status is not None else []
    has_pair = label_conditions(selected.c.prediction, selected.c.label, chosen)
    number = sa.func.count().label("number")

    counts = (
        sa.select(sa.literal(_COUNTS), selected.c.status, _NO_TEXT, _NO_NUMBER, number)
        .where(*has_pair)
        .group_by(selected.c.status)
    )
    is_short = (sa.func.length(selected.c.label) <= MAX_LABEL) & (sa.func.length(selected.c.prediction) <= MAX_LABEL)
    pairs = (
        sa.select(sa.literal(_PAIRS), selected.c.prediction, selected.c.label, _NO_NUMBER, number)
        .where(*has_status, is_short)
        .group_by(selected.c.prediction, selected.c.label)
        .order_by(number.desc(), selected.c.prediction, selected.c.label)
        .limit(MAX_CELLS)
        .subquery()
    )
    times = sa.select(selected.c.created).where(*has_status, *has_pair).cte("times").prefix_with(*_MATERIALIZED)
    return sa.union_all(counts, sa.select(pairs), *_rate_queries(times))


def _rate_queries(times: sa.CTE) -> tuple[sa.Select[*tuple[Any, ...]], ...]:
    """Build the queries of the number of corrections in each step, and of the step's length."""
    number = sa.func.count().label("number")
    period = sa.func.max(times.c.created) - sa.func.min(times.c.created)
    longest = sa.case(*((period > BARS * step, step) for step in reversed(STEPS[1:])), else_=STEPS[0])
    size = sa.select(longest.label("seconds")).select_from(times).cte("size").prefix_with(*_MATERIALIZED)
    exact = times.c.created / size.c.seconds
    rounded = sa.cast(exact, sa.BigInteger)  # databases round a float differently
    index = sa.case((rounded > exact, rounded - 1), else_=rounded).label("step_index")
    steps = sa.select(index, number).select_from(times.join(size, sa.true())).group_by(index).subquery()
    start = steps.c.step_index * size.c.seconds
    rates = sa.select(sa.literal(_RATES), _NO_TEXT, _NO_TEXT, start, steps.c.number)
    seconds = sa.cast(size.c.seconds, sa.BigInteger)
    return (
        rates.select_from(steps.join(size, sa.true())),
        sa.select(sa.literal(_STEP), _NO_TEXT, _NO_TEXT, seconds, _NO_NUMBER),
    )
