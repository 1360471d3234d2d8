"""The review queue at a glance: what is taken for what, how often, and how much waits."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.corrections import STATUSES, Filter, conditions, decoded, label_column, labelled
from exporter.storage.schema import feedback

MAX_CELLS = 1000
"""Pairs of prediction and label in one answer, the most frequent ones."""
MAX_LABEL = 200
"""Characters of a label that can be a cell's; longer ones are texts of their own, each a single time."""
STEPS = (60, 300, 3600, 86400)
"""Seconds that corrections are counted by."""
BARS = 47
"""Steps of a period at the least, if it has so many minutes."""

_ONCE = ("MATERIALIZED",) if sqlite3.sqlite_version_info >= (3, 35) else ()


class Overview(NamedTuple):
    """What a filter chooses, at a glance.

    Attributes
    ----------
    counts
        Corrections of each of `STATUSES`, whatever the filter's status.
    pairs
        Prediction, label and number of corrections, the most frequent first, `MAX_CELLS` at most and without free
        texts (above `MAX_LABEL` characters); whatever the filter's prediction and label.
    step
        The greatest of `STEPS` of which the period has more than `BARS`, else the least.
    rates
        Start of each step with any correction, in Unix seconds (a multiple of the step), and their number, by the time
        of the user's first word.
    """

    counts: dict[str, int]
    pairs: list[tuple[Any, Any, int]]
    step: int
    rates: list[tuple[int, int]]


def overview(connection: sa.Connection, chosen: Filter) -> Overview:
    """Count what a filter chooses; the rows are read once for all of it."""
    found = (
        sa.select(feedback.c.status, feedback.c.created, feedback.c.prediction, label_column.label("label"))
        .where(*conditions(chosen._replace(status=None, label=None, predicted=None)))
        .cte("found")
        .prefix_with(*_ONCE)
    )
    of_status = [found.c.status == chosen.status] if chosen.status is not None else []
    of_pair = labelled(found.c.prediction, found.c.label, chosen)
    number = sa.func.count().label("number")
    none, nowhere = sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.BigInteger)

    counts = sa.select(sa.literal(1), found.c.status, none, nowhere, number).where(*of_pair).group_by(found.c.status)
    short = (sa.func.length(found.c.label) <= MAX_LABEL) & (sa.func.length(found.c.prediction) <= MAX_LABEL)
    pairs = (
        sa.select(sa.literal(2), found.c.prediction, found.c.label, nowhere, number)
        .where(*of_status, short)
        .group_by(found.c.prediction, found.c.label)
        .order_by(number.desc(), found.c.prediction, found.c.label)
        .limit(MAX_CELLS)
        .subquery()
    )
    shown = sa.select(found.c.created).where(*of_status, *of_pair).cte("shown").prefix_with(*_ONCE)
    period = sa.func.max(shown.c.created) - sa.func.min(shown.c.created)
    greatest = sa.case(*((period > BARS * step, step) for step in reversed(STEPS[1:])), else_=STEPS[0])
    size = sa.select(greatest.label("seconds")).select_from(shown).cte("size").prefix_with(*_ONCE)
    exact = shown.c.created / size.c.seconds
    near = sa.cast(exact, sa.BigInteger)  # databases disagree about how a float is rounded
    place = sa.case((near > exact, near - 1), else_=near).label("place")
    steps = sa.select(place, number).select_from(shown.join(size, sa.true())).group_by(place).subquery()
    rates = sa.select(sa.literal(3), none, none, steps.c.place * size.c.seconds, steps.c.number).select_from(
        steps.join(size, sa.true())
    )
    steps_of = sa.select(sa.literal(4), none, none, sa.cast(size.c.seconds, sa.BigInteger), nowhere)

    query = sa.union_all(counts, sa.select(pairs), rates, steps_of)
    made = Overview(dict.fromkeys(STATUSES, 0), [], STEPS[0], [])
    for kind, one, other, start, total in connection.execute(query).all():
        if kind == 1:
            made.counts[one] = total
        elif kind == 2:
            made.pairs.append((decoded(one), decoded(other), total))
        elif kind == 3:
            made.rates.append((start, total))
        else:
            made = made._replace(step=start)
    made.pairs.sort(key=lambda pair: -pair[2])
    made.rates.sort()
    return made
