"""Sample confident predictions without feedback for review."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from exporter.storage.feedback_join import Redact, prediction_snapshot
from exporter.storage.schema import draws, feedback, history, predictions
from exporter.storage.size import prediction_range, text_bytes
from exporter.storage.store import Store

MIN_PROBES, MAX_PROBES = 10_000, 200_000
"""Rows that one draw reads: at least the first, for a good estimate of how many are confident; at most the second."""
_STEP = 500


class Draw(NamedTuple):
    """Selects the predictions to draw from.

    ``with_inputs`` leaves out predictions without inputs, for a store that keeps the inputs of a random share.
    """

    model: str
    version: str | None = None
    with_inputs: bool = False


class _Drawn(NamedTuple):
    """A model, its drawn predictions, estimates of confident ones by version, and when the oldest was received."""

    model: str
    seqs: list[int]
    confident: dict[str, int]
    since: float


def sample_for_review(store: Store, chosen: Draw, count: int, reviewer: str | None, redact: Redact) -> int:
    """Add a random sample of predictions to the review queue.

    Rows are read at random numbers of the table, none twice, and those that do not belong to the draw are skipped.
    So each prediction has the same chance, wherever it is in the table and whatever was deleted around it, without
    reading all rows. For a model with few rows in a large table this may find fewer than asked for.

    Parameters
    ----------
    store
        The store with the predictions.
    chosen
        What to draw from.
    count
        How many at most.
    reviewer
        Who draws.
    redact
        See `exporter.storage.feedback.FeedbackRecorder`.

    Returns
    -------
    int
        How many were drawn.

    Raises
    ------
    StoreError
        See `Store.execute`.
    """
    with store.reading() as connection:
        drawn = _draw(connection, chosen, count, np.random.default_rng())
    return store.execute(lambda connection, _: _store(store, connection, drawn, reviewer, redact))


def _draw(connection: sa.Connection, chosen: Draw, count: int, rng: np.random.Generator) -> _Drawn:
    numbers = prediction_range(connection)
    if not numbers:
        return _Drawn(chosen.model, [], {}, 0.0)
    since = connection.execute(sa.select(predictions.c.received).where(predictions.c.seq == numbers.start)).scalar()
    size = len(numbers)
    probes = (numbers.start + rng.choice(size, min(size, MAX_PROBES), replace=False)).tolist()
    query = _candidates(chosen)
    versions: Counter[str] = Counter()
    seqs: dict[str, int] = {}
    probed = 0
    while probed < len(probes) and (probed < MIN_PROBES or len(seqs) < count):
        step = probes[probed : probed + _STEP]
        probed += len(step)
        rows = {row.seq: row for row in connection.execute(query.where(predictions.c.seq.in_(step)))}
        versions.update(row.version for row in rows.values())
        if len(seqs) == count:
            continue
        with_feedback = _with_feedback(connection, chosen.model, [row.id for row in rows.values()])
        for seq in step:  # in their random order, not that of the table
            row = rows.get(seq)
            is_new = row and row.drawable and row.id not in with_feedback and row.id not in seqs
            if row and is_new and len(seqs) < count:
                seqs[row.id] = seq
    confident = {version: round(hits * size / probed) for version, hits in versions.items()}
    return _Drawn(chosen.model, list(seqs.values()), confident, since or 0.0)


def _candidates(chosen: Draw) -> sa.Select[int, str, str, bool]:
    """Build the query of confident predictions; ``drawable`` is set for those that may be drawn."""
    condition = predictions.c.confident & predictions.c.prediction.is_not(None) & (predictions.c.model == chosen.model)
    if chosen.version is not None:
        condition &= predictions.c.version == chosen.version
    drawable = predictions.c.inputs.is_not(None) if chosen.with_inputs else sa.true()
    columns = (predictions.c.seq, predictions.c.id, predictions.c.version, drawable.label("drawable"))
    return sa.select(*columns).where(condition)


def _with_feedback(connection: sa.Connection, model: str, ids: Collection[str]) -> set[str]:
    """Return those of the predictions that have feedback."""
    # With coalesce, the database does not use the model's index, in which all of the model's feedback is.
    condition = feedback.c.prediction_id.in_(ids) & (sa.func.coalesce(feedback.c.model, model) == model)
    return set(connection.execute(sa.select(feedback.c.prediction_id).where(condition)).scalars())


def _store(store: Store, connection: sa.Connection, drawn: _Drawn, reviewer: str | None, redact: Redact) -> int:
    """Add the drawn predictions to the review queue, and their draw to its history; return their number."""
    now, count, model = time.time(), 0, drawn.model
    for start in range(0, len(drawn.seqs), _STEP):
        is_next = predictions.c.seq.in_(drawn.seqs[start : start + _STEP])
        rows = connection.execute(sa.select(predictions).where(is_next)).mappings().all()
        # Feedback may have arrived since they were drawn.
        with_feedback = _with_feedback(connection, model, [row["id"] for row in rows])
        samples = [_sample_row(row, now, redact) for row in rows if row["id"] not in with_feedback]
        if samples:
            store.size.require(connection, text_bytes(samples))
            connection.execute(feedback.insert(), samples)
        count += len(samples)
    is_new_sample = sa.and_(
        feedback.c.verdict == "sampled",
        feedback.c.joined,
        feedback.c.status == "pending",
        feedback.c.created == now,
        feedback.c.model == model,
    )
    columns = (feedback.c.id, feedback.c.created, feedback.c.verdict, feedback.c.label)
    entries = sa.select(*columns, sa.literal(reviewer, sa.Text)).where(is_new_sample)
    connection.execute(history.insert().from_select(("feedback_id", "time", "verdict", "label", "user"), entries))
    for version, confident in drawn.confident.items():
        connection.execute(draws.delete().where(draws.c.model == model, draws.c.version == version))
        connection.execute(
            draws.insert().values(model=model, version=version, time=now, since=drawn.since, confident=confident)
        )
    return count


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
