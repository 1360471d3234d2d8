"""What users' words and reviewers' decisions say of the confident predictions that samples were drawn from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.storage.schema import draws, feedback, relabelled

LATEST = 20
"""Versions of a model that are estimated: those that were drawn from last."""


class StratumCounts(msgspec.Struct):
    """Of one model version, see `exporter.stats.accuracy.estimate_accuracy`."""

    population: int
    known: int = 0
    known_right: int = 0
    decided: int = 0
    right: int = 0


def accuracy_counts(connection: sa.Connection) -> dict[tuple[str, str], StratumCounts]:
    """By model and version (the `LATEST` of a model), of those with a decided sample."""
    found: dict[tuple[str, str], StratumCounts] = {}
    seen: Counter[str] = Counter()
    for drawn in connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all():
        seen[drawn.model] += 1
        if seen[drawn.model] <= LATEST and (one := _reviewed(connection, drawn)).decided:
            found[drawn.model, drawn.version] = one
    return found


def _reviewed(connection: sa.Connection, drawn: Any) -> StratumCounts:
    # A word may come just before its prediction, and a prediction may be dated back.
    after = (feedback.c.created >= drawn.since) | (feedback.c.predicted >= drawn.since)
    words = after & (feedback.c.predicted <= drawn.time)
    number = sa.func.count().label("number")
    mine = (feedback.c.model == drawn.model) & (feedback.c.version == drawn.version) & feedback.c.confident
    mine &= (feedback.c.verdict == "sampled") | words
    counts = sa.select(feedback.c.verdict, feedback.c.status, number).where(mine)
    one = StratumCounts(drawn.confident)
    for row in connection.execute(counts.group_by(feedback.c.verdict, feedback.c.status)):
        if row.verdict != "sampled":
            one.known += row.number
            if row.verdict == "accepted" or row.status == "rejected":  # by the user, or the user was refused
                one.known_right += row.number
        elif row.status == "accepted":
            one.decided += row.number
            one.right += row.number
    # A reviewer's own label turns that round: another one in a sample, the prediction itself in a correction.
    same = feedback.c.reviewed_label == feedback.c.prediction
    turned = sa.select(feedback.c.verdict, number).where(mine, relabelled, feedback.c.status == "accepted")
    turned = turned.where(sa.case((feedback.c.verdict == "corrected", same), else_=~same))
    for row in connection.execute(turned.group_by(feedback.c.verdict)):
        if row.verdict == "sampled":
            one.right -= row.number
        elif row.verdict == "corrected":
            one.known_right += row.number
    return one
