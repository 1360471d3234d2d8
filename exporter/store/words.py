"""Users' words: taken, joined with their predictions, each prediction corrected at most once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.events import NO_VERSION, Feedback
from exporter.store.engine import is_shared
from exporter.store.schema import COLUMNS, feedback, find_prediction, history, spelling, storable

MAX_WAITING = 100_000
"""Identifiers of unjoined feedback kept in memory; past it the database is asked for each group."""
FEW = 500
"""As many that wait are looked through before a group's own identifiers are asked for."""
Redact = Callable[[str, str | None], str | None]
"""Takes a model and the JSON of inputs; the JSON as feedback keeps it, without what must not be stored."""
_ID, _MODEL = COLUMNS.index("id"), COLUMNS.index("model")


class Word(msgspec.Struct):
    """A user's word as it was taken.

    ``repeat`` says that nothing was new in it, ``joined`` that its prediction is known, ``conflict``
    that its idempotency key came before with another word: then it was not taken.
    """

    id: int
    prediction_id: str | None
    verdict: str
    joined: bool
    repeat: bool
    conflict: bool = False


class Verdict(msgspec.Struct):
    """A word that now counts: for a known prediction, or for one that was never logged."""

    model: str
    version: str
    verdict: str
    correction: bool
    segment: str | None = None
    delay: float | None = None
    """Seconds from the prediction to this word, where it is the user's first on a logged prediction."""


class Words:
    """Takes words, and joins them with their predictions; used by the writer's thread alone.

    Parameters
    ----------
    connection
        To read what waits with.
    redact
        Applied to a prediction's inputs before feedback keeps them: they may have been stored when
        less was redacted.
    """

    def __init__(self, connection: sa.Connection, redact: Redact) -> None:
        self._redact = redact
        self._shared = is_shared(connection)
        query = sa.select(feedback.c.prediction_id).where(~feedback.c.joined).limit(MAX_WAITING + 1)
        # In a shared database others' feedback waits too: it is asked for each group.
        self._waiting = set() if self._shared else set(connection.execute(query).scalars())
        self._all_known = not self._shared and len(self._waiting) <= MAX_WAITING

    def take(
        self, connection: sa.Connection, words: Sequence[Feedback], key: str | None, verdicts: list[Verdict]
    ) -> list[Word]:
        """Write users' words.

        Parameters
        ----------
        connection
            In a transaction, the only one that writes.
        words
            The words, checked.
        key
            The request's idempotency key.
        verdicts
            What counts once the transaction is committed; added to.
        """
        taken: list[Word] = []
        for index, word in enumerate(words):
            taken.append(self._take_one(connection, word, f"{key}/{index}" if key else None, verdicts))
            if taken[-1].conflict:  # the request is refused: nothing behind it must count
                break
        return taken

    def _take_one(self, connection: sa.Connection, word: Feedback, key: str | None, verdicts: list[Verdict]) -> Word:
        now = time.time()
        word.prediction_id, word.version, user, comment = map(
            _storable, (word.prediction_id, word.version, word.user, word.comment)
        )
        said = {"verdict": word.verdict, "label": spelling(word.label), "user": user, "comment": comment}
        if key is not None and (before := _retried(connection, key)):
            same = before["prediction_id"] == word.prediction_id and all(before[k] == v for k, v in said.items())
            return Word(before["feedback_id"], word.prediction_id, before["verdict"], before["joined"], True, not same)
        known = _known(connection, word)
        if known and all(known[k] == v for k, v in said.items()):
            return Word(known["id"], known["prediction_id"], known["verdict"], known["joined"], True)
        values: dict[str, Any] = {**said, "updated": now}
        if known:
            values |= {"status": "pending", "revision": known["revision"] + 1, "reviewed_label": None}
            row = {**known, **values}
        else:
            row = self._first_word(connection, word, now) | values
        if row["joined"]:
            correction = bool(row["verdict"] == "corrected" and row["confident"] and not row["counted"])
            row["counted"] = values["counted"] = row["counted"] or correction
            first = word.prediction_id is not None and (known is None or known["verdict"] == "sampled")
            delay = max(now - row["predicted"], 0.0) if first else None
            segment = row.get("segment")
            verdicts.append(Verdict(row["model"], row["version"], row["verdict"], correction, segment, delay))
        if known:
            connection.execute(feedback.update().where(feedback.c.id == known["id"]).values(values))
        else:
            inserted = connection.execute(feedback.insert().values(row)).inserted_primary_key
            row["id"] = inserted[0]  # type: ignore[index]
        connection.execute(history.insert().values(feedback_id=row["id"], time=now, idempotency_key=key, **said))
        return Word(row["id"], row["prediction_id"], row["verdict"], row["joined"], False)

    def _first_word(self, connection: sa.Connection, word: Feedback, now: float) -> dict[str, Any]:
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
            return row | spoken | {"inputs": inputs or None, "predicted": now}
        if prediction := find_prediction(connection, word.prediction_id, word.model):
            return row | self._snapshot(prediction)
        if self._shared:
            return row
        if len(self._waiting) < MAX_WAITING:
            self._waiting.add(word.prediction_id)
        else:
            self._all_known = False
        return row

    def _snapshot(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """What feedback keeps of its prediction, so that it outlives the prediction's retention."""
        keys = ("model", "version", "prediction", "confidence", "confident", "segment")
        kept = {key: prediction[key] for key in keys}
        inputs = self._redact(prediction["model"], prediction["inputs"])
        return {**kept, "inputs": inputs, "predicted": prediction["time"], "joined": True}

    def join(self, connection: sa.Connection, group: Sequence[Sequence[Any]], verdicts: list[Verdict]) -> set[str]:
        """Join feedback that came before its prediction; the identifiers that nothing waits for any more."""
        rows: dict[str, list[Sequence[Any]]] = {}
        for row in group:
            rows.setdefault(row[_ID], []).append(row)
        ids = [name for name in rows if name in self._waiting] if self._all_known else _waiting(connection, rows)
        left: set[str] = set()
        for start in range(0, len(ids), 500):
            chosen = feedback.c.prediction_id.in_(ids[start : start + 500]) & ~feedback.c.joined
            # Another exporter may have got the same prediction: what it joins in this moment is its own.
            waiting = sa.select(feedback).where(chosen).order_by(feedback.c.id).with_for_update()
            for known in connection.execute(waiting).mappings().all():
                of = [row for row in rows[known["prediction_id"]] if known["model"] in {None, row[_MODEL]}]
                if not of:
                    left.add(known["prediction_id"])
                    continue
                values = self._snapshot(dict(zip(COLUMNS, of[0], strict=True)))
                said = sa.select(history.c.verdict).where(history.c.feedback_id == known["id"]).order_by(history.c.id)
                delay: float | None = max(known["created"] - values["predicted"], 0.0)
                counted = False
                for verdict in connection.execute(said).scalars().all():
                    correction = bool(verdict == "corrected" and values["confident"] and not counted)
                    counted = counted or correction
                    key = (values["model"], values["version"])
                    verdicts.append(Verdict(*key, verdict, correction, values["segment"], delay))
                    delay = None
                mine = feedback.c.id == known["id"]
                connection.execute(feedback.update().where(mine).values(**values, counted=counted))
        return set(ids) - left

    def settled(self, ids: set[str]) -> None:
        """Forget identifiers once their join is committed."""
        self._waiting -= ids


def _waiting(connection: sa.Connection, ids: Collection[str]) -> list[str]:
    """Of the identifiers those that feedback may wait for."""
    # Usually little waits, and one look tells what; else the group's identifiers are looked up one by one.
    few = sa.select(feedback.c.prediction_id).where(~feedback.c.joined).limit(FEW + 1)
    found = connection.execute(few).scalars().all()
    return list(ids) if len(found) > FEW else [name for name in found if name in ids]


def _storable(text: str | None) -> str | None:
    return text and storable(text)


def _retried(connection: sa.Connection, key: str) -> Mapping[str, Any] | None:
    """The word that a request of the same idempotency key said."""
    columns = (history, feedback.c.prediction_id, feedback.c.joined)
    query = sa.select(*columns).join(feedback, history.c.feedback_id == feedback.c.id)
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
