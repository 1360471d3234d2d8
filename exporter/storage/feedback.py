"""Users' words: taken, joined with their predictions, each prediction corrected at most once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.events import NO_VERSION, Feedback
from exporter.storage.engine import is_shared
from exporter.storage.prediction_lookup import days_of, find_predictions, of_model
from exporter.storage.prediction_rows import COLUMNS, Rows
from exporter.storage.schema import feedback, history, spelling, storable
from exporter.storage.statements import Prepared, Values

MAX_WAITING = 100_000
"""Identifiers of unjoined feedback kept in memory; past it the database is asked for each group."""
FEW = 500
"""As many that wait are looked through before a group's own identifiers are asked for."""
TOGETHER = 16
"""Words that are taken together: the inputs of each one's prediction may have 16 MiB."""
Redact = Callable[[str, str | None], str | None]
"""Takes a model and the JSON of inputs; the JSON as feedback keeps it, without what must not be stored."""


class FeedbackResult(msgspec.Struct):
    """A user's word as it was taken.

    ``repeat`` says that nothing was new in it, ``joined`` that its prediction is known, ``conflict``
    that its idempotency key came before with another word: then nothing of its request was taken.
    """

    id: int
    prediction_id: str | None
    verdict: str
    joined: bool
    repeat: bool
    conflict: bool = False


class CountedFeedback(msgspec.Struct):
    """A word that now counts: for a known prediction, or for one that was never logged."""

    model: str
    version: str
    verdict: str
    correction: bool
    segment: str | None = None
    delay: float | None = None
    """Seconds from the prediction to this word, where it is the user's first on a logged prediction."""


class FeedbackRecorder:
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
        self, connection: sa.Connection, words: Sequence[Feedback], key: str | None, verdicts: list[CountedFeedback]
    ) -> list[FeedbackResult]:
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
        for word in words:
            word.prediction_id, word.version, word.user, word.comment = map(
                _storable, (word.prediction_id, word.version, word.user, word.comment)
            )
        keys = [f"{key}/{place}" if key else None for place in range(len(words))]
        retried = _retried(connection, keys)
        for word, before in zip(words, retried, strict=True):
            if before is not None and not _is_same(before, word):  # the request is refused: nothing in it must count
                return [
                    FeedbackResult(
                        before["feedback_id"], word.prediction_id, before["verdict"], False, True, conflict=True
                    )
                ]
        days = days_of(connection)
        taken: list[FeedbackResult] = []
        asked = list(zip(words, keys, retried, strict=True))
        for start in range(0, len(asked), TOGETHER):
            taken += self._take(connection, asked[start : start + TOGETHER], verdicts, days)
        return taken

    def _take(
        self,
        connection: sa.Connection,
        asked: Sequence[tuple[Feedback, str | None, Values | None]],
        verdicts: list[CountedFeedback],
        days: Sequence[int],
    ) -> list[FeedbackResult]:
        """Take a few words, each with its key and what came with that before.

        All that is known of them is asked first, and all that is new is written at last.
        """
        now = time.time()
        words = [word for word, _, _ in asked]
        rows = _known(connection, words)
        unknown = [
            (word.prediction_id, word.model)
            for word in words
            if word.prediction_id is not None and _of(rows, word) is None
        ]
        found: dict[Any, Values | None] = dict(zip(unknown, find_predictions(connection, unknown, days), strict=True))
        taken: list[tuple[FeedbackResult, dict[str, Any]]] = []
        notes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        fresh: list[dict[str, Any]] = []
        changed: dict[int, dict[str, Any]] = {}
        for word, key, before in asked:
            if before is not None:
                again = FeedbackResult(0, word.prediction_id, before["verdict"], bool(before["joined"]), True)
                taken.append((again, {"id": before["feedback_id"]}))
                continue
            said = _said(word)
            row = _of(rows, word)
            if row is not None and all(row[k] == v for k, v in said.items()):
                taken.append((FeedbackResult(0, row["prediction_id"], row["verdict"], bool(row["joined"]), True), row))
                continue
            first = word.prediction_id is not None and (row is None or row["verdict"] == "sampled")
            if row is None:
                row = self._first_word(word, now, found.get((word.prediction_id, word.model)))
                fresh.append(row)
                rows.setdefault(word.prediction_id, []).append(row)
            else:
                if row["verdict"] != "sampled":  # that was noted when it was drawn
                    notes.append((row, {"time": row["updated"], **{name: row[name] for name in _WORD}}))
                row |= {"status": "pending", "revision": row["revision"] + 1, "reviewed_label": None}
                if "id" in row:
                    changed[row["id"]] = row
            row |= {**said, "idempotency_key": key, "updated": now}
            if row["joined"]:
                correction = bool(row["verdict"] == "corrected" and row["confident"] and not row["counted"])
                row["counted"] = bool(row["counted"] or correction)
                delay = max(now - row["predicted"], 0.0) if first else None
                key_of = (row["model"], row["version"])
                verdicts.append(CountedFeedback(*key_of, row["verdict"], correction, row["segment"], delay))
            taken.append((FeedbackResult(0, row["prediction_id"], row["verdict"], bool(row["joined"]), False), row))
        if self._shared:
            for row, made in zip(fresh, _insert_returning.first(connection, fresh), strict=True):
                row["id"] = made and made["id"]
        else:
            for row in fresh:
                row["id"] = _insert(connection, row).lastrowid
        _update.many(connection, [{f"new_{name}": row[name] for name in ("id", *_SAID)} for row in changed.values()])
        _note.many(connection, [{"feedback_id": row["id"], **note} for row, note in notes])
        for known, row in taken:
            known.id = row["id"]
        return [known for known, _ in taken]

    def _first_word(self, word: Feedback, now: float, prediction: Values | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            **_NOTHING,
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
        if prediction is not None:
            return row | self._snapshot(prediction)
        if self._shared:
            return row
        if len(self._waiting) < MAX_WAITING:
            self._waiting.add(word.prediction_id)
        else:
            self._all_known = False
        return row

    def _snapshot(self, prediction: Values) -> dict[str, Any]:
        """What feedback keeps of its prediction, so that it outlives the prediction's retention."""
        kept = {key: prediction[key] for key in ("model", "version", "prediction", "confidence", "segment")}
        kept["confident"] = bool(prediction["confident"])
        inputs = self._redact(prediction["model"], prediction["inputs"])
        return {**kept, "inputs": inputs, "predicted": prediction["time"], "joined": True}

    def join(self, connection: sa.Connection, group: Sequence[Rows], verdicts: list[CountedFeedback]) -> set[str]:
        """Join feedback that came before its prediction; the identifiers that nothing waits for any more."""
        came = {name for rows in group for name in rows.ids} if self._waiting or not self._all_known else set()
        found = came & self._waiting if self._all_known else _waiting(connection, came)
        if not found:
            return set()
        rows: dict[str, list[Values]] = {}
        for some in group:
            for place, name in enumerate(some.ids):
                if name in found:
                    rows.setdefault(name, []).append(dict(zip(COLUMNS, some.row(place), strict=True)))
        ids = list(rows)
        left: set[str] = set()
        for start in range(0, len(ids), 500):
            chosen = feedback.c.prediction_id.in_(ids[start : start + 500]) & ~feedback.c.joined
            # Another exporter may have got the same prediction: what it joins in this moment is its own.
            waiting = sa.select(feedback).where(chosen).order_by(feedback.c.id).with_for_update()
            for known in connection.execute(waiting).mappings().all():
                of = [row for row in rows[known["prediction_id"]] if known["model"] in {None, row["model"]}]
                if not of:
                    left.add(known["prediction_id"])
                    continue
                values = self._snapshot(of[0])
                before = sa.select(history.c.verdict).where(history.c.feedback_id == known["id"]).order_by(history.c.id)
                said = [*connection.execute(before).scalars(), known["verdict"]]
                delay: float | None = max(known["created"] - values["predicted"], 0.0)
                counted = False
                for verdict in said:
                    correction = bool(verdict == "corrected" and values["confident"] and not counted)
                    counted = counted or correction
                    key = (values["model"], values["version"])
                    verdicts.append(CountedFeedback(*key, verdict, correction, values["segment"], delay))
                    delay = None
                mine = feedback.c.id == known["id"]
                connection.execute(feedback.update().where(mine).values(**values, counted=counted))
        return set(ids) - left

    def settled(self, ids: set[str]) -> None:
        """Forget identifiers once their join is committed."""
        self._waiting -= ids


def _waiting(connection: sa.Connection, ids: set[str]) -> set[str]:
    """Of the identifiers those that feedback may wait for."""
    # Usually little waits, and one look tells what; else the group's identifiers are looked up one by one.
    few = sa.select(feedback.c.prediction_id).where(~feedback.c.joined).limit(FEW + 1)
    found = connection.execute(few).scalars().all()
    return ids if len(found) > FEW else ids.intersection(found)


def _storable(text: str | None) -> str | None:
    return text and storable(text)


_NOTHING = {column.name: None for column in feedback.c if column.name != "id"} | {"released": False, "sampled": False}
_WORD = ("verdict", "label", "user", "comment", "idempotency_key")
_SAID = (*_WORD, "updated", "status", "revision", "reviewed_label", "counted")
_insert = Prepared(feedback.insert(), _NOTHING)
_insert_returning = Prepared(feedback.insert().returning(feedback.c.id), _NOTHING)
_update = Prepared(
    feedback.update()
    .where(feedback.c.id == sa.bindparam("new_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in _SAID})
)
_note = Prepared(history.insert(), [column.name for column in history.c if column.name != "id"])
_about = (feedback.c.id.label("feedback_id"), feedback.c.prediction_id, feedback.c.joined)
_retry = Prepared(
    sa.union_all(
        sa.select(*_about, *(feedback.c[name] for name in _WORD)).where(
            feedback.c.idempotency_key == sa.bindparam("key")
        ),
        sa.select(*_about, *(history.c[name] for name in _WORD))
        .join_from(history, feedback, history.c.feedback_id == feedback.c.id)
        .where(history.c.idempotency_key == sa.bindparam("key")),
    )
)
_on = Prepared(
    sa.select(feedback.c.id)
    .where(feedback.c.prediction_id == sa.bindparam("name"), feedback.c.model.is_(None) | of_model(feedback.c.model))
    .order_by(feedback.c.id)
)
_whole = Prepared(sa.select(feedback).where(feedback.c.id == sa.bindparam("place")))


def _said(word: Feedback) -> dict[str, Any]:
    return {"verdict": word.verdict, "label": spelling(word.label), "user": word.user, "comment": word.comment}


def _is_same(before: Values, word: Feedback) -> bool:
    """Whether a word says what the one of the same idempotency key said."""
    said = {"prediction_id": word.prediction_id, **_said(word)}
    return all(before[name] == value for name, value in said.items())


def _retried(connection: sa.Connection, keys: Sequence[str | None]) -> Sequence[Values | None]:
    """The words that requests of the same idempotency keys said."""
    if None in keys:
        return [None] * len(keys)
    return _retry.first(connection, [{"key": key} for key in keys])


def _known(connection: sa.Connection, words: Sequence[Feedback]) -> dict[str | None, list[dict[str, Any]]]:
    """The feedback that there is on the same predictions, by their identifiers."""
    on = [{"name": word.prediction_id, "of": word.model} for word in words if word.prediction_id is not None]
    places = sorted({found["id"] for found in _on.first(connection, on) if found})
    rows: dict[str | None, list[dict[str, Any]]] = {}
    for row in _whole.first(connection, [{"place": place} for place in places]):
        if row is not None:
            rows.setdefault(row["prediction_id"], []).append(dict(row))
    return rows


def _of(rows: Mapping[str | None, list[dict[str, Any]]], word: Feedback) -> dict[str, Any] | None:
    """The feedback on a word's prediction; of the same model, where both name one."""
    if word.prediction_id is None:
        return None
    mine = (
        row for row in rows.get(word.prediction_id, ()) if word.model in {None, row["model"]} or row["model"] is None
    )
    return next(mine, None)
