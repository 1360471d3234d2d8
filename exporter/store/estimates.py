"""What users' words and reviewers' decisions say of the confident predictions that samples were drawn from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.store.schema import draws, feedback, predicted_again

LATEST = 20
"""Versions of a model that are estimated: those that were drawn from last."""


class Reviewed(msgspec.Struct):
    """Of one model version, see `exporter.accuracy.reviewed_accuracy`."""

    population: int
    known: int = 0
    known_right: int = 0
    decided: int = 0
    right: int = 0


def reviewed(connection: sa.Connection) -> dict[tuple[str, str], Reviewed]:
    """By model and version (the `LATEST` of a model), of those with a decided sample."""
    found: dict[tuple[str, str], Reviewed] = {}
    seen: Counter[str] = Counter()
    for drawn in connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all():
        seen[drawn.model] += 1
        if seen[drawn.model] <= LATEST and (one := _reviewed(connection, drawn)).decided:
            found[drawn.model, drawn.version] = one
    return found


def _reviewed(connection: sa.Connection, drawn: Any) -> Reviewed:
    # A word may come just before its prediction, and a prediction may be dated back.
    after = (feedback.c.created >= drawn.since) | (feedback.c.predicted >= drawn.since)
    words = after & (feedback.c.predicted <= drawn.time)
    keys = (feedback.c.verdict, feedback.c.status, predicted_again.label("again"))
    query = (
        sa.select(*keys, sa.func.count().label("number"))
        .where(feedback.c.model == drawn.model, feedback.c.version == drawn.version, feedback.c.confident)
        .where((feedback.c.verdict == "sampled") | words)
        .group_by(*keys)
    )
    one = Reviewed(drawn.confident)
    for row in connection.execute(query):
        accepted = row.status == "accepted"
        if row.verdict == "sampled":
            one.decided += row.number * accepted
            one.right += row.number * (accepted and row.again is not False)
        else:
            # The user was content; or the reviewer refused the correction, or found the prediction right.
            right = row.verdict == "accepted" or row.status == "rejected" or (accepted and row.again is True)
            one.known += row.number
            one.known_right += row.number * right
    return one
