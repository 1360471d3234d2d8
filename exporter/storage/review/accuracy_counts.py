"""Count how many of the confident predictions from which samples were drawn are known to be right, by stratum."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.stats.accuracy import IntervalEstimate, estimate_accuracy
from exporter.stats.tolerance import Tolerance
from exporter.storage._feedback import Tolerances
from exporter.storage._labels import is_within_tolerance
from exporter.storage._schema import draws, feedback, has_reviewed_label
from exporter.storage.review.sample_strata import Strata, count_columns, counts_by_stratum, stored_strata

LATEST = 20
"""Versions of a model that are counted: those with the latest samples."""


class Drawn(NamedTuple):
    """The predictions from which samples were drawn: those of a version between two times.

    A reviewer's label within the tolerance makes a prediction right.
    """

    model: str
    version: str
    since: float
    time: float
    tolerance: Tolerance


class AccuracyCounts(msgspec.Struct):
    """Counts of one model version by stratum; see `exporter.stats.accuracy.estimate_accuracy`.

    Attributes
    ----------
    pending
        Samples that wait for a decision.
    since, until
        Unix times of the oldest prediction that could be drawn, and of the last draw.
    """

    population: list[int]
    known: list[int]
    known_right: list[int]
    decided: list[int]
    right: list[int]
    pending: list[int]
    seen: int
    since: float
    until: float

    @property
    def reviewed(self) -> int:
        """How many samples are decided."""
        return sum(self.decided)

    def estimate(self) -> IntervalEstimate:
        """Return the accuracy with its interval; at least one sample is decided."""
        counts = (self.population, self.known, self.known_right, self.decided, self.right)
        return estimate_accuracy(*counts, seen=self.seen)


def accuracy_counts(connection: sa.Connection, tolerances: Tolerances) -> dict[tuple[str, str], AccuracyCounts]:
    """Return the counts by model and version, for the `LATEST` versions of a model that have a decided sample."""
    result: dict[tuple[str, str], AccuracyCounts] = {}
    versions: Counter[str] = Counter()
    for row in connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all():
        versions[row.model] += 1
        if versions[row.model] <= LATEST:
            drawn = Drawn(row.model, row.version, row.since, row.time, tolerances(row.model))
            counts = count_strata(connection, drawn, stored_strata(row))
            if counts.reviewed:
                result[row.model, row.version] = counts
    return result


def sampled_strata(connection: sa.Connection, model: str) -> dict[str, dict[str, Any]]:
    """Return what weights a model's samples, by version, for the `LATEST` versions.

    Returns
    -------
    dict
        Of each version ``edges``, ``confident`` and ``seen`` as in `Strata`, and ``with_feedback``: how many of the
        confident predictions users gave feedback on, by stratum.
    """
    query = sa.select(draws).where(draws.c.model == model).order_by(draws.c.time.desc(), draws.c.version).limit(LATEST)
    result = {}
    for row in connection.execute(query).all():
        strata = stored_strata(row)
        counts = count_strata(connection, Drawn(model, row.version, row.since, row.time, Tolerance()), strata)
        result[row.version] = {
            "edges": strata.edges,
            "confident": counts.population,
            "with_feedback": counts.known,
            "seen": strata.seen,
        }
    return result


def count_strata(connection: sa.Connection, drawn: Drawn, strata: Strata) -> AccuracyCounts:
    """Count a version's feedback and samples in strata."""
    # Feedback may arrive just before its prediction, and a prediction may be dated back.
    is_after = (feedback.c.created >= drawn.since) | (feedback.c.predicted >= drawn.since)
    is_users = is_after & (feedback.c.predicted <= drawn.time)
    condition = (feedback.c.model == drawn.model) & (feedback.c.version == drawn.version) & feedback.c.confident
    condition &= (feedback.c.verdict == "sampled") | is_users
    known, known_right, decided, right, pending = ([0] * len(strata.confident) for _ in range(5))
    query = sa.select(feedback.c.verdict, feedback.c.status, *count_columns(strata.edges)).where(condition)
    for verdict, status, *cumulated in connection.execute(query.group_by(feedback.c.verdict, feedback.c.status)):
        rows = counts_by_stratum(cumulated)
        if verdict != "sampled":
            _add(known, rows)
            if verdict == "accepted" or status == "rejected":  # the user accepted it, or was refused
                _add(known_right, rows)
        elif status == "accepted":
            _add(decided, rows)
            _add(right, rows)
        elif status == "pending":
            _add(pending, rows)
    # A reviewer's label reverses that: another label for a sample, the prediction itself for a correction.
    is_near = is_within_tolerance(feedback.c.prediction, feedback.c.reviewed_label, drawn.tolerance)
    is_predicted = (feedback.c.reviewed_label == feedback.c.prediction) | is_near
    query = sa.select(feedback.c.verdict, *count_columns(strata.edges))
    query = query.where(condition, has_reviewed_label, feedback.c.status == "accepted")
    query = query.where(sa.case((feedback.c.verdict == "corrected", is_predicted), else_=~is_predicted))
    for verdict, *cumulated in connection.execute(query.group_by(feedback.c.verdict)):
        rows = counts_by_stratum(cumulated)
        if verdict == "sampled":
            _add(right, [-number for number in rows])
        elif verdict == "corrected":
            _add(known_right, rows)
    by_stratum = (known, known_right, decided, right, pending)
    return AccuracyCounts(list(strata.confident), *by_stratum, strata.seen, drawn.since, drawn.time)


def _add(total: list[int], rows: list[int]) -> None:
    total[:] = map(operator.add, total, rows)
