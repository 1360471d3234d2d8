"""Draw random samples of confident predictions for review, and estimate the accuracy from them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from exporter.stats.quality import IntervalEstimate, estimate_accuracy
from exporter.storage._feedback import Redact, Tolerances, prediction_snapshot
from exporter.storage._labels import is_within_tolerance
from exporter.storage._predictions import InputsReader
from exporter.storage._retention import StoreSize, prediction_range, text_bytes
from exporter.storage._schema import (
    CORRECTIONS,
    draws,
    feedback,
    has_inputs,
    has_reviewed_label,
    history,
    is_correction,
    predictions,
)
from exporter.validation import Tolerance

MIN_READ, MAX_READ = 10_000, 200_000
"""Rows that one draw reads: at least the first, for a good estimate of how many are confident; at most the second."""
LATEST = 20
"""Versions of a model that are counted: those with the latest samples."""
_STEP = 500  # rows of one query


class Draw(NamedTuple):
    """Selects the predictions to draw from.

    ``with_inputs`` leaves out predictions without inputs, for a store that keeps the inputs of a random share.
    """

    model: str
    version: str | None = None
    with_inputs: bool = False


class Sample(NamedTuple):
    """A random sample of the confident predictions of a model without feedback.

    Attributes
    ----------
    seqs
        Numbers of the drawn predictions, in random order.
    since
        Unix time in seconds at which the oldest prediction that could be drawn was received.
    confident
        The estimated number of confident predictions, by version.
    """

    model: str
    seqs: list[int]
    since: float
    confident: dict[str, int]


def draw(connection: sa.Connection, chosen: Draw, count: int, rng: np.random.Generator) -> Sample:
    """Draw a sample.

    Rows are read at random numbers of the table, none twice, and those that do not belong to the draw are skipped.
    So all predictions have the same chance, wherever they are in the table and whatever was deleted around them,
    without reading all rows. For a model with few rows in a large table this may find fewer than asked for.
    """
    numbers = prediction_range(connection)
    if not numbers:
        return Sample(chosen.model, [], 0.0, {})
    since = connection.execute(sa.select(predictions.c.received).where(predictions.c.seq == numbers.start)).scalar()
    order = (numbers.start + rng.choice(len(numbers), min(len(numbers), MAX_READ), False)).tolist()
    query = _confident(chosen)
    found: dict[str, int] = {}
    confident, read = Counter[str](), 0
    while read < len(order) and (read < MIN_READ or len(found) < count):
        step = order[read : read + _STEP]
        read += len(step)
        rows = {row.seq: row for row in connection.execute(query.where(predictions.c.seq.in_(step)))}
        confident.update(row.version for row in rows.values())
        if len(found) < count:
            known = with_feedback(connection, chosen.model, [row.id for row in rows.values()])
            for seq in step:  # in their random order, not that of the table
                if (row := rows.get(seq)) and row.drawable and row.id not in known:
                    found.setdefault(row.id, seq)
    scale = len(numbers) / read
    by_version = {version: round(number * scale) for version, number in confident.items()}
    return Sample(chosen.model, list(found.values())[:count], since or 0.0, by_version)


def with_feedback(connection: sa.Connection, model: str, ids: Collection[str]) -> set[str]:
    """Return those of the predictions that have feedback."""
    # With coalesce, the database does not use the model's index, in which all of the model's feedback is.
    condition = feedback.c.prediction_id.in_(ids) & (sa.func.coalesce(feedback.c.model, model) == model)
    return set(connection.execute(sa.select(feedback.c.prediction_id).where(condition)).scalars())


def _confident(chosen: Draw) -> sa.Select[Any]:
    """Build the query of confident predictions; ``drawable`` is set for those that may be drawn."""
    condition = predictions.c.confident & predictions.c.prediction.is_not(None) & (predictions.c.model == chosen.model)
    if chosen.version is not None:
        condition &= predictions.c.version == chosen.version
    drawable = has_inputs if chosen.with_inputs else sa.true()
    columns = (predictions.c.seq, predictions.c.id, predictions.c.version)
    return sa.select(*columns, drawable.label("drawable")).where(condition)


def store_sample(
    connection: sa.Connection, sample: Sample, reviewer: str | None, redact: Redact, size: StoreSize
) -> int:
    """Add a sample to the review queue, and to its history; return the number of predictions that were added."""
    now, drawn, reader = time.time(), Counter[str](), InputsReader(connection)
    for start in range(0, len(sample.seqs), _STEP):
        is_next = predictions.c.seq.in_(sample.seqs[start : start + _STEP])
        rows = connection.execute(sa.select(predictions).where(is_next)).mappings().all()
        # Feedback may have arrived since they were drawn.
        known = with_feedback(connection, sample.model, [row["id"] for row in rows])
        samples = [
            _sample_row({**row, "inputs": reader.text(row)}, now, redact) for row in rows if row["id"] not in known
        ]
        if samples:
            size.require(connection, text_bytes(samples))
            connection.execute(feedback.insert(), samples)
        drawn.update(row["version"] for row in samples)
    is_new_sample = sa.and_(
        feedback.c.verdict == "sampled",
        feedback.c.joined,
        feedback.c.status == "pending",
        feedback.c.created == now,
        feedback.c.model == sample.model,
    )
    columns = (feedback.c.id, feedback.c.created, feedback.c.verdict, feedback.c.label)
    entries = sa.select(*columns, sa.literal(reviewer, sa.Text)).where(is_new_sample)
    connection.execute(history.insert().from_select(("feedback_id", "time", "verdict", "label", "user"), entries))
    # A client may send any number of versions; of those that are not drawn, only earlier samples need new counts.
    before = set(connection.execute(sa.select(draws.c.version).where(draws.c.model == sample.model)).scalars())
    counted = sample.confident.keys() & (before | drawn.keys())
    connection.execute(draws.delete().where(draws.c.model == sample.model, draws.c.version.in_(counted)))
    values = {"model": sample.model, "time": now, "since": sample.since}
    if counted:
        new = [{**values, "version": version, "confident": sample.confident[version]} for version in counted]
        connection.execute(draws.insert(), new)
    return drawn.total()


def _sample_row(prediction: Mapping[Any, Any], now: float, redact: Redact) -> dict[str, Any]:
    return {
        **prediction_snapshot(prediction, redact),
        "prediction_id": prediction["id"],
        "verdict": "sampled",
        "label": prediction["prediction"],
        "created": now,
        "updated": now,
        "counted": False,
        "status": "pending",
        "revision": 1,
        "sampled": True,
    }


class AccuracyCounts(msgspec.Struct):
    """Counts of the confident predictions of a version; see `exporter.stats.quality.estimate_accuracy`.

    Attributes
    ----------
    pending
        Samples that wait for a decision.
    since, until
        Unix times of the oldest prediction that could be drawn, and of the last draw.
    """

    population: int
    since: float
    until: float
    known: int = 0
    known_right: int = 0
    decided: int = 0
    right: int = 0
    pending: int = 0

    def estimate(self) -> IntervalEstimate:
        """Return the accuracy with its interval; at least one sample is decided."""
        return estimate_accuracy(self.population, self.known, self.known_right, self.decided, self.right)


def accuracy_counts(connection: sa.Connection, tolerances: Tolerances) -> dict[tuple[str, str], AccuracyCounts]:
    """Return the counts by model and version, for the `LATEST` versions of a model that have a decided sample."""
    result: dict[tuple[str, str], AccuracyCounts] = {}
    versions = Counter[str]()
    for row in connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all():
        versions[row.model] += 1
        if versions[row.model] <= LATEST:
            counts = _count(connection, row, tolerances(row.model))
            if counts.decided:
                result[row.model, row.version] = counts
    return result


def sampling(connection: sa.Connection, model: str) -> dict[str, dict[str, int]]:
    """Return what weights a model's samples, by version, for the `LATEST` versions.

    Returns
    -------
    dict
        Of each version ``confident``, the number of confident predictions, and ``with_feedback``, on how many of them
        users gave feedback.
    """
    query = sa.select(draws).where(draws.c.model == model).order_by(draws.c.time.desc(), draws.c.version).limit(LATEST)
    rows = connection.execute(query).all()
    found = {row.version: _count(connection, row, Tolerance()) for row in rows}
    return {name: {"confident": one.population, "with_feedback": one.known} for name, one in found.items()}


def _count(connection: sa.Connection, drawn: Any, tolerance: Tolerance) -> AccuracyCounts:
    """Count the feedback and the samples of a version; a reviewer's label within the tolerance makes it right."""
    # Feedback may arrive just before its prediction, and a prediction may be dated back.
    is_after = (feedback.c.created >= drawn.since) | (feedback.c.predicted >= drawn.since)
    is_users = is_after & (feedback.c.predicted <= drawn.time)
    condition = (feedback.c.model == drawn.model) & (feedback.c.version == drawn.version) & feedback.c.confident
    condition &= (feedback.c.verdict == "sampled") | is_users
    counts = AccuracyCounts(drawn.confident, drawn.since, drawn.time)
    number = sa.func.count()
    query = sa.select(feedback.c.verdict, feedback.c.status, number).where(condition)
    for verdict, status, rows in connection.execute(query.group_by(feedback.c.verdict, feedback.c.status)):
        if verdict != "sampled":
            counts.known += rows
            if verdict == "accepted" or status == "rejected":  # the user accepted it, or was refused
                counts.known_right += rows
        elif status == "accepted":
            counts.decided += rows
            counts.right += rows
        elif status == "pending":
            counts.pending += rows
    # A reviewer's label reverses that: another label for a sample, the prediction itself for a correction.
    is_near = is_within_tolerance(feedback.c.prediction, feedback.c.reviewed_label, tolerance)
    is_predicted = (feedback.c.reviewed_label == feedback.c.prediction) | is_near
    query = sa.select(feedback.c.verdict, number).where(condition, has_reviewed_label, feedback.c.status == "accepted")
    query = query.where(sa.case((is_correction, is_predicted), else_=~is_predicted))
    for verdict, rows in connection.execute(query.group_by(feedback.c.verdict)):
        if verdict == "sampled":
            counts.right -= rows
        elif verdict in CORRECTIONS:
            counts.known_right += rows
    return counts
