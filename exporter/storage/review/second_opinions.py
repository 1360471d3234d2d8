"""Second opinions: two reviewers decide a share of the corrections, the second without seeing the first decision.

The first decision stands until the second one differs. Then the correction is disputed: it is pending again, and the
next decision settles it. A reviewer who is asked for a second opinion gets the correction as it was before the first
decision, with the revision of then. So a decision on that revision is one that was made without seeing the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.features.extract import scalar_text
from exporter.stats.tolerance import Tolerance
from exporter.storage._feedback import Tolerances, is_within
from exporter.storage._schema import decisions, decode_label, feedback, label_spellings, rfc3339, second_opinions
from exporter.storage.review.decision import Decision

STATES = ("agreed", "awaited", "disputed", "settled")
"""The first decision waits for a second one, equals it, differs from it, or differs and was settled."""
MAX_CATEGORY = 64
"""Characters of a label that is stored as a category as it is; of a longer one the hash is."""


class OpinionRule(NamedTuple):
    """Which corrections get a second opinion, by their share, and which numbers count as the same label."""

    share: float = 0.0
    tolerances: Tolerances = lambda _: Tolerance()


NO_SECOND_OPINIONS = OpinionRule()


def is_chosen(correction_id: int, share: float) -> bool:
    """Return whether a correction gets a second opinion: always the same ones, and more of them with a greater share.

    >>> [number for number in range(30) if is_chosen(number, 0.1)], is_chosen(7, 0), is_chosen(7, 1)
    ([9], False, True)
    """
    digest = hashlib.sha256(str(correction_id).encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


class SecondOpinions:
    """The second opinions on the corrections that one transaction decides.

    Parameters
    ----------
    connection
        In a transaction, the only one that writes.
    ids
        The corrections.
    rule
        Which of them get a second opinion.

    Attributes
    ----------
    withdrawn : set of int
        Corrections whose second opinion was withdrawn.
    """

    def __init__(self, connection: sa.Connection, ids: Collection[int], rule: OpinionRule) -> None:
        self._connection = connection
        self._rule = rule
        query = sa.select(second_opinions).where(second_opinions.c.feedback_id.in_(ids))
        self._rows = {row["feedback_id"]: dict(row) for row in connection.execute(query).mappings()}
        self.withdrawn: set[int] = set()

    def decide(self, correction_id: int, decision: Decision, now: float) -> int | None:
        """Store a decision that is a second opinion, or that withdraws one.

        Returns
        -------
        int or None
            The new revision of the correction; None if the decision is neither.
        """
        row = self._rows.get(correction_id)
        if row is None or decision.reviewer is None:
            return None
        if decision.status == "pending":
            is_own = row["second_reviewer"] == decision.reviewer and row["revision"] == decision.revision
            return self._withdraw(row, now) if is_own and row["state"] in {"agreed", "disputed"} else None
        is_blind = row["state"] == "awaited" and row["revision"] == decision.revision + 1
        return self._give(row, decision, now) if is_blind and row["first_reviewer"] != decision.reviewer else None

    def follow(self, correction_id: int, decision: Decision, now: float) -> None:
        """Follow a decision that is stored and is no second opinion."""
        row = self._rows.get(correction_id)
        is_current = row is not None and row["revision"] == decision.revision
        if row and row["second_status"]:  # a correction gets one second opinion
            if is_current and row["state"] in {"disputed", "settled"}:
                state = "disputed" if decision.status == "pending" else "settled"
                self._save(row | {"state": state, "revision": decision.revision + 1})
        elif row and is_current:  # the first decision is undone, or changed after others may have seen it
            self._delete(correction_id)
        elif decision.status != "pending" and decision.reviewer and is_chosen(correction_id, self._rule.share):
            subject = self._read(correction_id)
            first = {"reviewer": decision.reviewer, "status": decision.status, "label": subject.reviewed_label}
            self._save(
                {
                    "feedback_id": correction_id,
                    "model": subject.model,
                    "state": "awaited",
                    "revision": decision.revision + 1,
                    **{f"first_{name}": value for name, value in first.items()},
                    "first_time": now,
                    "first_revision": decision.revision + 1,
                    **_NO_SECOND,
                }
            )

    def _give(self, row: dict[str, Any], decision: Decision, now: float) -> int | None:
        subject = self._read(row["feedback_id"])
        if subject.revision != row["revision"]:  # the user changed the feedback
            return None
        labels = [label or subject.label for label in (row["first_label"], decision.label)]
        first = category(row["first_status"], labels[0], subject.label)
        second = category(decision.status, labels[1], subject.label)
        is_accepted = row["first_status"] == decision.status == "accepted"
        if is_accepted and is_within(labels[1], labels[0], self._rule.tolerances(subject.model or "")):
            second = first
        pending = {"status": "pending", "reviewed_label": None, "reviewer": None, "reviewed": now}
        changes = {} if first == second else pending
        return self._change(
            row,
            changes,
            state="agreed" if first == second else "disputed",
            second_reviewer=decision.reviewer,
            second_status=decision.status,
            second_label=decision.label,
            second_time=now,
            first_category=first,
            second_category=second,
        )

    def _withdraw(self, row: dict[str, Any], now: float) -> int | None:
        if self._read(row["feedback_id"]).revision != row["revision"]:
            return None
        self.withdrawn.add(row["feedback_id"])
        first = {name: row[f"first_{name}"] for name in ("status", "reviewer")}
        restored = {**first, "reviewed_label": row["first_label"], "reviewed": now}
        return self._change(row, restored if row["state"] == "disputed" else {}, state="awaited", **_NO_SECOND)

    def _change(self, row: dict[str, Any], changes: Mapping[str, Any], **opinion: Any) -> int:
        """Change a correction and its second opinion together; return the new revision."""
        revision: int = row["revision"] + 1
        update = feedback.update().where(feedback.c.id == row["feedback_id"])
        self._connection.execute(update.values(revision=revision, **changes))
        self._save(row | opinion | {"revision": revision})
        return revision

    def _read(self, correction_id: int) -> Any:
        columns = (feedback.c.model, feedback.c.label, feedback.c.reviewed_label, feedback.c.revision)
        return self._connection.execute(sa.select(*columns).where(feedback.c.id == correction_id)).one()

    def _save(self, row: dict[str, Any]) -> None:
        self._delete(row["feedback_id"])
        self._connection.execute(second_opinions.insert(), row)
        self._rows[row["feedback_id"]] = row

    def _delete(self, correction_id: int) -> None:
        self._connection.execute(second_opinions.delete().where(second_opinions.c.feedback_id == correction_id))
        self._rows.pop(correction_id, None)


_NO_SECOND = dict.fromkeys((f"second_{name}" for name in ("reviewer", "status", "label", "time", "category")), None) | {
    "first_category": None
}


def category(status: str, label: str | None, user_label: str | None) -> str:
    """Return what a reviewer decided, as the category in which opinions are compared; labels are stored JSON.

    >>> category("accepted", "7", '"7"'), category("rejected", "7", "7"), category("accepted", '"yes"', '"no"')
    ('accepted', 'rejected', 'label yes')
    """
    if status == "rejected":
        return "rejected"
    if label is None or (user_label is not None and label in label_spellings(user_label)):
        return "accepted"
    try:
        text = scalar_text(msgspec.json.decode(label))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        text = label
    return f"label {text if len(text) <= MAX_CATEGORY else hashlib.sha256(text.encode()).hexdigest()}"


def awaited_from(reviewer: str) -> sa.Select[tuple[int]]:
    """Return the query of the corrections that await a second opinion and that a reviewer has not decided."""
    knows = sa.exists().where(
        decisions.c.feedback_id == second_opinions.c.feedback_id,
        decisions.c.reviewer == reviewer,
        decisions.c.revision <= second_opinions.c.first_revision,
    )
    return in_state("awaited").where(~knows).order_by(second_opinions.c.first_time)


def disputed_by(reviewer: str) -> sa.Select[tuple[int]]:
    """Return the query of the disputed corrections on which a reviewer gave one of the opinions."""
    is_one = (second_opinions.c.first_reviewer == reviewer) | (second_opinions.c.second_reviewer == reviewer)
    return in_state("disputed").where(is_one)


def in_state(state: str) -> sa.Select[tuple[int]]:
    """Return the query of the corrections whose second opinion is in one of `STATES`."""
    subject = feedback.alias()
    is_current = (subject.c.id == second_opinions.c.feedback_id) & (subject.c.revision == second_opinions.c.revision)
    return sa.select(second_opinions.c.feedback_id).join(subject, is_current).where(second_opinions.c.state == state)


def as_before(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a correction as it was before the first decision."""
    label = document["prediction"] if document["source"] == "sample" else document["user_label"]
    hidden = {"status": "pending", "label": label, "reviewer": None, "reviewed": None}
    return document | hidden | {"revision": document["revision"] - 1}


def with_second_opinions(connection: sa.Connection, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add ``second_opinion``, its state and the decisions, to the documents of corrections that have or await one."""
    ids = [int(document["id"]) for document in documents]
    query = sa.select(second_opinions).where(second_opinions.c.feedback_id.in_(ids))
    rows = {str(row["feedback_id"]): row for row in connection.execute(query).mappings()}
    return [
        document | {"second_opinion": _opinions(row, document)}
        if (row := rows.get(document["id"])) and row["revision"] == document["revision"]
        else document
        for document in documents
    ]


def _opinions(row: Mapping[Any, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    shown = document["prediction"] if document["source"] == "sample" else document["user_label"]
    return {
        "state": row["state"],
        "decisions": [
            {
                "reviewer": row[f"{order}_reviewer"],
                "status": row[f"{order}_status"],
                "label": shown if row[f"{order}_label"] is None else decode_label(row[f"{order}_label"]),
                "time": rfc3339(row[f"{order}_time"]),
            }
            for order in ("first", "second")
            if row[f"{order}_status"]
        ],
    }
