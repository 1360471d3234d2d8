"""Users' words: taken, joined with their predictions, each prediction corrected at most once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.events import NO_VERSION, Feedback
from exporter.store.schema import COLUMNS, feedback, find_prediction, history, snapshot, spelling

MAX_WAITING = 100_000
"""Identifiers of unjoined feedback kept in memory; past it the database is asked for each group."""
_ID, _MODEL = COLUMNS.index("id"), COLUMNS.index("model")


class Word(msgspec.Struct):
    """A user's word as it was taken.

    ``repeat`` says that nothing was new in it, ``joined`` that its prediction is known.
    """

    id: int
    prediction_id: str | None
    verdict: str
    joined: bool
    repeat: bool


class Verdict(msgspec.Struct):
    """A word that now counts: for a known prediction, or for one that was never logged."""

    model: str
    version: str
    verdict: str
    correction: bool


def take(
    connection: sa.Connection, words: Sequence[Feedback], key: str | None, waiting: set[str], verdicts: list[Verdict]
) -> list[Word]:
    """Write users' words.

    Parameters
    ----------
    connection
        In a transaction.
    words
        The words, checked.
    key
        The request's idempotency key.
    waiting
        Identifiers of predictions that feedback waits for; added to.
    verdicts
        What counts once the transaction is committed; added to.
    """
    return [
        _take_one(connection, word, f"{key}/{index}" if key else None, waiting, verdicts)
        for index, word in enumerate(words)
    ]


def _take_one(
    connection: sa.Connection, word: Feedback, key: str | None, waiting: set[str], verdicts: list[Verdict]
) -> Word:
    now = time.time()
    said = {"verdict": word.verdict, "label": spelling(word.label), "user": word.user, "comment": word.comment}
    if key is not None and (known := _retried(connection, key)):
        return Word(known["id"], known["prediction_id"], known["verdict"], known["joined"], True)
    known = _known(connection, word)
    if known and all(known[k] == v for k, v in said.items()):
        return Word(known["id"], known["prediction_id"], known["verdict"], known["joined"], True)
    values: dict[str, Any] = {**said, "updated": now}
    if known:
        values |= {"status": "pending", "revision": known["revision"] + 1}
        row = {**known, **values}
    else:
        row = _first_word(connection, word, now, waiting) | values
    if row["joined"]:
        correction = bool(row["verdict"] == "corrected" and row["confident"] and not row["counted"])
        row["counted"] = values["counted"] = row["counted"] or correction
        verdicts.append(Verdict(row["model"], row["version"], row["verdict"], correction))
    if known:
        connection.execute(feedback.update().where(feedback.c.id == known["id"]).values(values))
    else:
        row["id"] = connection.execute(feedback.insert().values(row)).inserted_primary_key[0]  # type: ignore[index]
    connection.execute(history.insert().values(feedback_id=row["id"], time=now, idempotency_key=key, **said))
    return Word(row["id"], row["prediction_id"], row["verdict"], row["joined"], False)


def _retried(connection: sa.Connection, key: str) -> Mapping[str, Any] | None:
    """The feedback that a request of the same idempotency key made."""
    query = sa.select(feedback).join(history, history.c.feedback_id == feedback.c.id)
    found: Any = connection.execute(query.where(history.c.idempotency_key == key)).mappings().first()
    return found  # type: ignore[no-any-return]


def _known(connection: sa.Connection, word: Feedback) -> Mapping[str, Any] | None:
    """The feedback that there is on the same prediction; of the same model, where both name one."""
    if word.prediction_id is None:
        return None
    chosen = feedback.c.prediction_id == word.prediction_id
    if word.model is not None:
        chosen &= feedback.c.model.is_(None) | (feedback.c.model == word.model)
    found: Any = connection.execute(sa.select(feedback).where(chosen).order_by(feedback.c.id)).mappings().first()
    return found  # type: ignore[no-any-return]


def _first_word(connection: sa.Connection, word: Feedback, now: float, waiting: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prediction_id": word.prediction_id,
        "model": word.model,
        "created": now,
        "counted": False,
        "confident": False,
        "status": "pending",
        "revision": 1,
        "joined": word.prediction_id is None,
    }
    if word.prediction_id is None:
        inputs = bytes(memoryview(word.inputs)).decode("utf-8", "replace")
        spoken = {"version": word.version or NO_VERSION, "prediction": spelling(word.prediction)}
        return row | spoken | {"model": word.model, "inputs": inputs or None, "predicted": now}
    # Noted before the look-up: a prediction that is committed from now on finds it.
    waiting.add(word.prediction_id)
    if prediction := find_prediction(connection, word.prediction_id, word.model):
        waiting.discard(word.prediction_id)
        row |= snapshot(prediction)
    return row


def join(
    connection: sa.Connection, group: Sequence[Sequence[Any]], waiting: set[str], verdicts: list[Verdict]
) -> set[str]:
    """Join feedback that came before its prediction."""
    rows: dict[str, list[Sequence[Any]]] = {}
    for row in group:
        rows.setdefault(row[_ID], []).append(row)
    ids = list(rows) if len(waiting) > MAX_WAITING else [i for i in rows if i in waiting]
    joined = set()
    for start in range(0, len(ids), 500):
        chosen = feedback.c.prediction_id.in_(ids[start : start + 500]) & ~feedback.c.joined
        for known in connection.execute(sa.select(feedback).where(chosen)).mappings().all():
            of = [row for row in rows[known["prediction_id"]] if known["model"] in {None, row[_MODEL]}]
            if not of:
                continue
            joined.add(known["prediction_id"])
            values = snapshot(dict(zip(COLUMNS, of[0], strict=True)))
            said = sa.select(history.c.verdict).where(history.c.feedback_id == known["id"]).order_by(history.c.id)
            counted = False
            for verdict in connection.execute(said).scalars().all():
                correction = bool(verdict == "corrected" and values["confident"] and not counted)
                counted = counted or correction
                verdicts.append(Verdict(values["model"], values["version"], verdict, correction))
            connection.execute(feedback.update().where(feedback.c.id == known["id"]).values(**values, counted=counted))
    return joined
