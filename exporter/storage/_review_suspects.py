"""Suspects: accepted corrections whose label may be wrong, as `exporter.stats.neighbours` finds them.

A suspect is looked at once. A reviewer who decides it again settles it: its revision is a later one then, and its row
stays to tell so, unless it got another label.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.features.base import decode_label, scalar_text
from exporter.storage._predictions import parts
from exporter.storage._review_queue import STATUSES, label_column, of_suspect
from exporter.storage._schema import decisions, feedback, is_accepted, label_checks, suspects
from exporter.wire.events import MAX_COMPARED

MAX_ACCEPTED = 20_000
"""Accepted corrections of a model that are checked, the newest ones."""
MAX_CONFIRMED = 10_000
"""Predictions of a model that users confirmed, the newest ones: accepted corrections are compared with them, too."""
CONFIRMED_SECONDS = 3600.0
"""After so long, new feedback is a reason to check labels again although nothing was decided."""
_STEP = 500
_LABEL = 60  # characters of a label in a reason


class LabelledRow(NamedTuple):
    """A prediction whose label a person gave.

    Attributes
    ----------
    id
        The identifier of its feedback.
    label
        The effective label as stored JSON.
    revision
        The revision of an accepted correction; None for a prediction that its user confirmed.
    """

    id: int
    label: str
    revision: int | None


class CheckState(NamedTuple):
    """The last decision and the last feedback of any model; 0 for none."""

    decision: int
    newest: int


class Suspect(NamedTuple):
    """A suspect label of an accepted correction; see the table ``suspects``."""

    row: LabelledRow
    likely: str
    compared: int
    with_likely: int
    with_label: int


def current_state(connection: sa.Connection) -> CheckState:
    """Return what the state of a check that begins now is."""
    decision, newest = (
        sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0)).scalar_subquery() for table in (decisions, feedback)
    )
    return CheckState(*connection.execute(sa.select(decision, newest)).one())


def is_outdated(connection: sa.Connection, model: str, state: CheckState, seen: int) -> bool:
    """Return whether labels of a model were decided since its last check, or feedback came and the check is old.

    Parameters
    ----------
    connection
        To read with.
    model
        The model.
    state
        Of now.
    seen
        The last decision that is known not to be of this model, or to be before its check.
    """
    last = last_check(connection, model)
    if last and state.newest > last.newest and time.time() > last.time + CONFIRMED_SECONDS:
        return True
    is_new = decisions.c.id > max(seen, last.decision if last else 0)
    of_model = sa.select(decisions.c.id).join(feedback, decisions.c.feedback_id == feedback.c.id)
    return connection.execute(of_model.where(is_new, feedback.c.model == model).limit(1)).first() is not None


def read_labelled(connection: sa.Connection, model: str) -> list[LabelledRow]:
    """Read accepted corrections and confirmed predictions, without their inputs; see `MAX_ACCEPTED`.

    Labels above `MAX_COMPARED` characters are left out: all are in memory at once.
    """
    accepted = (
        sa.select(feedback.c.id, label_column.label("label"), feedback.c.revision)
        .where(feedback.c.model == model, is_accepted, sa.func.length(label_column) <= MAX_COMPARED)
        .order_by(feedback.c.id.desc())
        .limit(MAX_ACCEPTED)
    )
    # Its label is the prediction, to which the label that the user sent is equal, or close.
    confirmed = (
        sa.select(feedback.c.id, feedback.c.prediction.label("label"), sa.null().label("revision"))
        .where(feedback.c.verdict == "accepted", feedback.c.joined, feedback.c.status.in_(map(sa.literal, STATUSES)))
        .where(feedback.c.model == model, sa.func.length(feedback.c.prediction) <= MAX_COMPARED, ~is_accepted)
        .order_by(feedback.c.created.desc())
        .limit(MAX_CONFIRMED)
    )
    rows = (connection.execute(query.execution_options(yield_per=1000)) for query in (accepted, confirmed))
    return [LabelledRow(*row) for part in rows for row in part]


def read_inputs(connection: sa.Connection, ids: Sequence[int], characters: int) -> dict[int, str]:
    """Read stored inputs by their correction, as many as so many characters allow; too long ones are empty."""
    lengths = sa.select(feedback.c.id, sa.func.coalesce(sa.func.length(feedback.c.inputs), 0))
    size: dict[int, int] = {row[0]: row[1] for row in connection.execute(lengths.where(feedback.c.id.in_(ids)))}
    result = {id_: "" for id_ in ids if not 0 < size.get(id_, 0) <= characters}
    wanted = next(parts(((id_, size[id_]) for id_ in ids if id_ not in result), characters), [])
    query = sa.select(feedback.c.id, feedback.c.inputs).where(feedback.c.id.in_(wanted))
    return result | {row.id: row.inputs or "" for row in connection.execute(query)}


def store_check(
    connection: sa.Connection, model: str, state: CheckState, rows: Sequence[LabelledRow], found: Iterable[Suspect]
) -> None:
    """Store the suspects of a check; in a transaction.

    Parameters
    ----------
    connection
        In a transaction.
    model
        The model.
    state
        When the rows were read.
    rows
        All rows that were compared.
    found
        The suspects among them.
    """
    stored = {row.feedback_id: row for row in connection.execute(sa.select(suspects).where(suspects.c.model == model))}
    checked = {row.id: row for row in rows if row.revision is not None}
    obsolete = [id_ for id_, row in checked.items() if id_ in stored and not _is_settled(stored[id_], row)]
    for start in range(0, len(obsolete), _STEP):
        connection.execute(suspects.delete().where(suspects.c.feedback_id.in_(obsolete[start : start + _STEP])))
    new = [
        {
            "feedback_id": row.id,
            "model": model,
            "revision": row.revision,
            "label": row.label,
            "likely": likely,
            "compared": compared,
            "with_likely": with_likely,
            "with_label": with_label,
        }
        for row, likely, compared, with_likely, with_label in found
        if row.id not in stored or not _is_settled(stored[row.id], row)
    ]
    if new:
        connection.execute(suspects.insert(), new)
    connection.execute(label_checks.delete().where(label_checks.c.model == model))
    check = {"model": model, "time": time.time(), "checked": len(checked), "confirmed": len(rows) - len(checked)}
    connection.execute(label_checks.insert().values(**check, **state._asdict()))


def _is_settled(stored: Any, row: LabelledRow) -> bool:
    """Return whether a reviewer saw that a correction was a suspect, and kept its label."""
    return bool(row.revision != stored.revision and row.label == stored.label)


def suspect_documents(connection: sa.Connection, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return why corrections are suspects, by the identifier of those that are, as JSON documents."""
    rows = connection.execute(sa.select(suspects).where(of_suspect, feedback.c.id.in_(ids)))
    return {row.feedback_id: _document(row) for row in rows}


def _document(row: Any) -> dict[str, Any]:
    label, likely = decode_label(row.label), decode_label(row.likely)
    most = f"{row.with_likely} of the {row.compared} most similar are labelled {_short(likely)}"
    rest = f"{row.with_label or 'none'} {_short(label)}"
    return {
        "likely": likely,
        "compared": row.compared,
        "with_likely": row.with_likely,
        "with_label": row.with_label,
        "reason": f"labelled {_short(label)}; {most}, {rest}",
    }


def _short(label: Any) -> str:
    text = scalar_text(label)
    return text if len(text) <= _LABEL else f"{text[:_LABEL]}…"


def suspect_ids(connection: sa.Connection, model: str) -> set[int]:
    """Return the corrections of a model that are suspects."""
    return set(connection.execute(sa.select(feedback.c.id).where(of_suspect, suspects.c.model == model)).scalars())


def count_suspects(connection: sa.Connection, model: str | None) -> int:
    """Return how many corrections of a model, or of all, are suspects."""
    query = sa.select(sa.func.count()).select_from(suspects).join(feedback, of_suspect)
    if model is not None:
        query = query.where(suspects.c.model == model)
    return connection.execute(query).scalar_one()


def last_check(connection: sa.Connection, model: str) -> Any:
    """Return the row of a model's last check; None if its labels were never checked."""
    return connection.execute(sa.select(label_checks).where(label_checks.c.model == model)).one_or_none()
