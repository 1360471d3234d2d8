"""Sample confident predictions without feedback for review."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa

from exporter.storage._feedback import Redact, prediction_snapshot
from exporter.storage._predictions import unpack
from exporter.storage._retention import text_bytes
from exporter.storage._schema import draws, feedback, history, predictions
from exporter.storage._store import Store
from exporter.storage.review.sample_strata import stored_strata
from exporter.storage.review.stratified_draw import STEP, Draw, Sample, draw, select_draw, with_feedback


def sample_for_review(store: Store, chosen: Draw, count: int, reviewer: str | None, redact: Redact) -> int:
    """Add a random sample of predictions to the review queue.

    Rows are read at random numbers of the table, none twice, and those that do not belong to the draw are skipped.
    So all predictions of a version's stratum have the same chance, wherever they are in the table and whatever was
    deleted around them, without reading all rows. For a model with few rows in a large table this may find fewer than
    asked for.

    The strata are ranges of confidence, and predictions without one. More is drawn where mistakes are likely, by the
    confidences and by the samples decided so far; see `exporter.stats.strata`.

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
        See `exporter.storage._feedback.FeedbackRecorder`.

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
        sample = draw(connection, chosen, count, np.random.default_rng(), store.tolerances(chosen.model))
    return store.execute(lambda connection, _: store_sample(store, connection, sample, reviewer, redact))


def store_sample(store: Store, connection: sa.Connection, sample: Sample, reviewer: str | None, redact: Redact) -> int:
    """Add the sample to the review queue, and to its history; store its strata; return the number of predictions."""
    now, count, model = time.time(), 0, sample.model
    seqs = [seq for version in sample.versions.values() for seq in version.seqs]
    for start in range(0, len(seqs), STEP):
        is_next = predictions.c.seq.in_(seqs[start : start + STEP])
        rows = connection.execute(sa.select(predictions).where(is_next)).mappings().all()
        # Feedback may have arrived since they were drawn.
        known = with_feedback(connection, model, [row["id"] for row in rows])
        samples = [
            _sample_row({**row, "inputs": unpack(connection, row)}, now, redact)
            for row in rows
            if row["id"] not in known
        ]
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
    for name, version in sample.versions.items():
        before = connection.execute(select_draw(model, name)).one_or_none()
        strata = version.strata(stored_strata(before) if before else None)
        connection.execute(draws.delete().where(draws.c.model == model, draws.c.version == name))
        values = {"model": model, "version": name, "time": now, "since": sample.since}
        encoded = msgspec.json.encode(strata).decode()
        connection.execute(draws.insert().values(**values, confident=sum(strata.confident), strata=encoded))
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
