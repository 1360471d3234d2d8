"""The review queue at a glance: what is taken for what, how often, and how much waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from exporter.store.review import STATUSES, Filter, conditions, decoded, label_column
from exporter.store.schema import feedback

MAX_CELLS = 1000
"""Pairs of prediction and label in one answer, the most frequent ones."""
MAX_LABEL = 200
"""Characters of a label that can be a cell's; longer ones are texts of their own, each a single time."""


def confusion(connection: sa.Connection, chosen: Filter) -> list[tuple[Any, Any, int]]:
    """How often a prediction was corrected to a label.

    Returns
    -------
    list
        Prediction, label and number of corrections, the most frequent first, `MAX_CELLS` at most.
        Free texts (above `MAX_LABEL` characters) are left out.
    """
    total = sa.func.count()
    short = (sa.func.length(label_column) <= MAX_LABEL) & (sa.func.length(feedback.c.prediction) <= MAX_LABEL)
    query = (
        sa.select(feedback.c.prediction, label_column, total)
        .where(*conditions(chosen), short)
        .group_by(feedback.c.prediction, label_column)
        .order_by(total.desc(), feedback.c.prediction, label_column)
        .limit(MAX_CELLS)
    )
    return [(decoded(predicted), decoded(label), count) for predicted, label, count in connection.execute(query)]


def rate_over_time(connection: sa.Connection, chosen: Filter, step_seconds: float) -> list[tuple[float, int]]:
    """Corrections by the time of the user's first word.

    Returns
    -------
    list
        Start of each step that has any, in Unix seconds (a multiple of the step), and their number.
    """
    # Steps are made here: databases disagree about how a float is rounded.
    times = connection.execute(sa.select(feedback.c.created).where(*conditions(chosen))).scalars()
    steps = Counter(int(created // step_seconds) for created in times)
    return [(step * step_seconds, steps[step]) for step in sorted(steps)]


def counts_by_status(connection: sa.Connection, chosen: Filter) -> dict[str, int]:
    """Number of corrections of each of `STATUSES`."""
    query = (
        sa.select(feedback.c.status, sa.func.count().label("number"))
        .where(*conditions(chosen))
        .group_by(feedback.c.status)
    )
    return dict.fromkeys(STATUSES, 0) | {row.status: row.number for row in connection.execute(query)}
