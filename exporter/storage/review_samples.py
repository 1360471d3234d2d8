"""Confident predictions that nobody spoke about, drawn at random for review."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from exporter.storage.feedback_join import Redact
from exporter.storage.schema import draws, feedback, history, predictions
from exporter.storage.store import Store

LEAST_PROBES, MOST_PROBES = 10_000, 200_000
"""Rows looked at in one draw, if there are so many: for a good estimate of how many are confident, and at the most."""
_STEP = 500


class Draw(NamedTuple):
    """What to draw from.

    ``with_inputs`` leaves out predictions without inputs: for a store that keeps those of a random share.
    """

    model: str
    version: str | None = None
    with_inputs: bool = False


class _Found(NamedTuple):
    seqs: list[int]
    confident: dict[str, int]
    since: float


def sample_for_review(store: Store, chosen: Draw, count: int, reviewer: str | None, redact: Redact) -> int:
    """Put predictions into the review queue.

    Rows are looked up at random places of the table, none twice, and those that do not belong are
    passed over: so each prediction has the same chance, wherever it stands and whatever was deleted
    around it, and a million rows need not be read. Of a model with few rows in a large table this
    may find fewer than asked for, still at random.

    Parameters
    ----------
    store
        Its writer's thread writes.
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
        found = _find(connection, chosen, count, np.random.default_rng())
    return store.execute(lambda connection, _: _keep(connection, chosen.model, found, reviewer, redact))


def _find(connection: sa.Connection, chosen: Draw, count: int, rng: np.random.Generator) -> _Found:
    first = connection.execute(sa.select(sa.func.min(predictions.c.seq))).scalar()
    last = connection.execute(sa.select(sa.func.max(predictions.c.seq))).scalar()
    if first is None or last is None:
        return _Found([], {}, 0.0)
    since = connection.execute(sa.select(predictions.c.received).where(predictions.c.seq == first)).scalar()
    size = last + 1 - first
    probes = (first + rng.choice(size, min(size, MOST_PROBES), replace=False)).tolist()
    belongs = predictions.c.confident & predictions.c.prediction.is_not(None) & (predictions.c.model == chosen.model)
    if chosen.version is not None:
        belongs &= predictions.c.version == chosen.version
    shown = predictions.c.inputs.is_not(None) if chosen.with_inputs else sa.true()
    query = sa.select(predictions.c.seq, predictions.c.id, predictions.c.version, shown.label("shown")).where(belongs)
    versions: Counter[str] = Counter()
    taken: dict[str, int] = {}
    probed = 0
    while probed < len(probes) and (probed < LEAST_PROBES or len(taken) < count):
        step = probes[probed : probed + _STEP]
        probed += len(step)
        rows = {row.seq: row for row in connection.execute(query.where(predictions.c.seq.in_(step)))}
        versions.update(row.version for row in rows.values())
        if len(taken) == count:
            continue
        known = _spoken_of(connection, chosen.model, [row.id for row in rows.values()])
        for seq in step:  # in their random order, not the table's
            row = rows.get(seq)
            if row and row.shown and row.id not in known and row.id not in taken and len(taken) < count:
                taken[row.id] = seq
    confident = {version: round(hits * size / probed) for version, hits in versions.items()}
    return _Found(list(taken.values()), confident, since or 0.0)


def _spoken_of(connection: sa.Connection, model: str, ids: Collection[str]) -> set[str]:
    """Those that feedback is about already."""
    # So said, no index of the model is taken for it, which holds all of the model's feedback.
    mine = feedback.c.prediction_id.in_(ids) & (sa.func.coalesce(feedback.c.model, model) == model)
    return set(connection.execute(sa.select(feedback.c.prediction_id).where(mine)).scalars())


def _keep(connection: sa.Connection, model: str, found: _Found, reviewer: str | None, redact: Redact) -> int:
    now, drawn = time.time(), 0
    columns = ("model", "version", "prediction", "confidence", "confident", "segment")
    for start in range(0, len(found.seqs), _STEP):
        chosen = predictions.c.seq.in_(found.seqs[start : start + _STEP])
        rows = connection.execute(sa.select(predictions).where(chosen)).mappings().all()
        known = _spoken_of(connection, model, [row["id"] for row in rows])  # a word may have come in between
        values = [
            {
                **{key: row[key] for key in columns},
                "prediction_id": row["id"],
                "inputs": redact(model, row["inputs"]),
                "predicted": row["time"],
                "joined": True,
                "verdict": "sampled",
                "label": row["prediction"],
                "created": now,
                "updated": now,
                "counted": False,
                "status": "pending",
                "revision": 1,
                "sampled": True,
            }
            for row in rows
            if row["id"] not in known
        ]
        if values:
            connection.execute(feedback.insert(), values)
        drawn += len(values)
    mine = (
        feedback.c.verdict == "sampled",
        feedback.c.joined,
        feedback.c.status == "pending",
        feedback.c.created == now,
    )
    said = ("feedback_id", "time", "verdict", "label", "user")
    drawn_now = sa.select(
        feedback.c.id, feedback.c.created, feedback.c.verdict, feedback.c.label, sa.literal(reviewer, sa.Text)
    )
    connection.execute(history.insert().from_select(said, drawn_now.where(*mine, feedback.c.model == model)))
    for version, confident in found.confident.items():
        connection.execute(draws.delete().where(draws.c.model == model, draws.c.version == version))
        connection.execute(
            draws.insert().values(model=model, version=version, time=now, since=found.since, confident=confident)
        )
    return drawn
