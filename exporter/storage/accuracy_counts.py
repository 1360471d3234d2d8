"""Count how many of the confident predictions from which samples were drawn are known to be right."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.storage.label_numbers import is_within_tolerance
from exporter.storage.schema import draws, feedback, has_reviewed_label
from exporter.storage.verdicts import Tolerances
from exporter.tolerance import Tolerance

LATEST = 20
"""Versions of a model that are counted: those with the latest samples."""


class StratumCounts(msgspec.Struct):
    """Counts of one model version; see `exporter.stats.accuracy.estimate_accuracy`."""

    population: int
    known: int = 0
    known_right: int = 0
    decided: int = 0
    right: int = 0


def accuracy_counts(connection: sa.Connection, tolerances: Tolerances) -> dict[tuple[str, str], StratumCounts]:
    """Return the counts by model and version, for the `LATEST` versions of a model that have a decided sample.

    A reviewer's label within the model's tolerance makes the prediction right.
    """
    result: dict[tuple[str, str], StratumCounts] = {}
    versions: Counter[str] = Counter()
    for draw in connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all():
        versions[draw.model] += 1
        if versions[draw.model] <= LATEST and (counts := _count(connection, draw, tolerances(draw.model))).decided:
            result[draw.model, draw.version] = counts
    return result


def _count(connection: sa.Connection, draw: Any, tolerance: Tolerance) -> StratumCounts:
    # Feedback may arrive just before its prediction, and a prediction may be dated back.
    is_after = (feedback.c.created >= draw.since) | (feedback.c.predicted >= draw.since)
    is_users = is_after & (feedback.c.predicted <= draw.time)
    rows = sa.func.count().label("rows")
    condition = (feedback.c.model == draw.model) & (feedback.c.version == draw.version) & feedback.c.confident
    condition &= (feedback.c.verdict == "sampled") | is_users
    query = sa.select(feedback.c.verdict, feedback.c.status, rows).where(condition)
    counts = StratumCounts(draw.confident)
    for row in connection.execute(query.group_by(feedback.c.verdict, feedback.c.status)):
        if row.verdict != "sampled":
            counts.known += row.rows
            if row.verdict == "accepted" or row.status == "rejected":  # the user accepted it, or was refused
                counts.known_right += row.rows
        elif row.status == "accepted":
            counts.decided += row.rows
            counts.right += row.rows
    # A reviewer's label reverses that: another label for a sample, the prediction itself for a correction.
    is_near = is_within_tolerance(feedback.c.prediction, feedback.c.reviewed_label, tolerance)
    is_predicted = (feedback.c.reviewed_label == feedback.c.prediction) | is_near
    query = sa.select(feedback.c.verdict, rows).where(condition, has_reviewed_label, feedback.c.status == "accepted")
    query = query.where(sa.case((feedback.c.verdict == "corrected", is_predicted), else_=~is_predicted))
    for row in connection.execute(query.group_by(feedback.c.verdict)):
        if row.verdict == "sampled":
            counts.right -= row.rows
        elif row.verdict == "corrected":
            counts.known_right += row.rows
    return counts
