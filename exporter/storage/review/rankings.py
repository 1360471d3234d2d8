"""Store rankings of pending corrections: the most informative first, with groups of similar ones.

A ranking is written once and never changed, so that pages of it fit together. Corrections that are decided meanwhile
keep their position in it, and later ones have none. There is one for users' corrections and one for samples of each
model.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage._schema import feedback, ranked, rankings
from exporter.storage.review.corrections import Filter, conditions, label_column

SOURCES = ("user", "sample")
KEPT = 10
"""Rankings of a model and source that are kept: a page may continue in one of them."""
MAX_ROWS = 10_000
"""Corrections in a ranking; all others come after it."""
MAX_PENDING = 100_000
"""Pending corrections from which a ranking is made, the newest ones."""
MAX_DECIDED = 1000
"""Corrections that were decided last, which pending ones are compared with."""


class Pending(NamedTuple):
    """Pending corrections of a model and source.

    Attributes
    ----------
    ids, confidences
        Identifiers, the newest first, and confidences of the predictions, None for none.
    kinds
        A number for each pair of prediction and label.
    decided
        Identifiers of those that were decided last.
    """

    ids: list[int]
    confidences: list[float | None]
    kinds: list[int]
    decided: list[int]


def is_outdated(connection: sa.Connection, model: str, source: str, state: tuple[int, int]) -> bool:
    """Return whether the last ranking lacks corrections, or half of those that it puts first are decided."""
    pending, newest = state
    query = sa.select(rankings).where(rankings.c.model == model, rankings.c.source == source)
    last = connection.execute(query.order_by(rankings.c.id.desc()).limit(1)).one_or_none()
    if last is None or pending == 0:
        return pending > 0
    if newest > last.newest or pending > last.pending:
        return True
    is_pending = sa.func.count().filter(feedback.c.status == "pending")
    query = sa.select(sa.func.count(), is_pending).join_from(ranked, feedback, ranked.c.feedback_id == feedback.c.id)
    total, left = connection.execute(query.where(ranked.c.ranking == last.id, ranked.c.leader.is_(None))).one()
    return bool(2 * left < total)


def pending_state(connection: sa.Connection, model: str, source: str) -> tuple[int, int]:
    """Return how many corrections are pending, and the greatest identifier among them; 0 for none."""
    query = sa.select(sa.func.count(), sa.func.max(feedback.c.id)).where(*_are_pending(model, source))
    count, newest = connection.execute(query).one()
    return count, newest or 0


def latest_rankings(connection: sa.Connection, model: str | None, snapshot: int = 0) -> tuple[list[int], int]:
    """Return the last ranking of each model and source, and the greatest number among them.

    With a snapshot, they are those that were the last ones when that was the greatest number; if one of them was
    deleted since, those of now.
    """
    query = sa.select(sa.func.max(rankings.c.id)).group_by(rankings.c.model, rankings.c.source)
    if model is not None:
        query = query.where(rankings.c.model == model)
    if snapshot:
        numbers = list(connection.execute(query.where(rankings.c.id <= snapshot)).scalars())
        if snapshot in numbers:
            return numbers, snapshot
    numbers = list(connection.execute(query).scalars())
    return numbers, max(numbers, default=0)


def read_pending(connection: sa.Connection, model: str, source: str) -> Pending:
    """Read the pending corrections, without their inputs; see `MAX_PENDING` and `MAX_DECIDED`."""
    columns = (feedback.c.id, feedback.c.confidence, feedback.c.prediction, label_column.label("label"))
    query = sa.select(*columns).where(*_are_pending(model, source)).order_by(feedback.c.id.desc()).limit(MAX_PENDING)
    result = Pending([], [], [], [])
    kinds: dict[tuple[str | None, str | None], int] = {}
    for row in connection.execute(query.execution_options(yield_per=1000)):
        result.ids.append(row.id)
        result.confidences.append(row.confidence)
        result.kinds.append(kinds.setdefault((row.prediction, row.label), len(kinds)))
    is_decided = conditions(Filter(model=model, source=source))
    last = sa.select(feedback.c.id).where(*is_decided, feedback.c.status.in_(("accepted", "rejected")))
    result.decided.extend(connection.execute(last.order_by(feedback.c.reviewed.desc()).limit(MAX_DECIDED)).scalars())
    return result


def read_inputs(connection: sa.Connection, ids: Sequence[int], characters: int) -> dict[int, str]:
    """Read stored inputs by their correction, as many as so many characters allow; too long ones are empty."""
    lengths = sa.select(feedback.c.id, sa.func.coalesce(sa.func.length(feedback.c.inputs), 0))
    size: dict[int, int] = {row[0]: row[1] for row in connection.execute(lengths.where(feedback.c.id.in_(ids)))}
    result = {id_: "" for id_ in ids if not 0 < size.get(id_, 0) <= characters}
    wanted = [id_ for id_ in ids if id_ not in result]
    total = itertools.accumulate(size[id_] for id_ in wanted)
    wanted = [id_ for id_, end in zip(wanted, total, strict=True) if end <= characters]
    query = sa.select(feedback.c.id, feedback.c.inputs).where(feedback.c.id.in_(wanted))
    return result | {row.id: row.inputs or "" for row in connection.execute(query)}


def store_ranking(
    connection: sa.Connection,
    model: str,
    source: str,
    state: tuple[int, int],
    order: Sequence[tuple[int, Sequence[int]]],
) -> None:
    """Store a ranking, and delete the oldest ones; in a transaction.

    Parameters
    ----------
    connection
        In a transaction.
    model, source
        What is ranked.
    state
        See `pending_state`.
    order
        Identifiers in order, each with those that are like it. The latter come after all others.
    """
    values = {"model": model, "source": source, "created": time.time(), "pending": state[0], "newest": state[1]}
    number: int = connection.execute(rankings.insert().values(**values).returning(rankings.c.id)).scalar_one()
    members = ((id_, leader) for leader, alike in order for id_ in alike)
    positions = enumerate(itertools.chain(((id_, None) for id_, _ in order), members), 1)
    rows = [
        {"ranking": number, "position": position, "feedback_id": id_, "leader": leader}
        for position, (id_, leader) in itertools.islice(positions, MAX_ROWS)
    ]
    if rows:
        connection.execute(ranked.insert(), rows)
    of_queue = sa.select(rankings.c.id).where(rankings.c.model == model, rankings.c.source == source)
    old = list(connection.execute(of_queue.order_by(rankings.c.id.desc()).offset(KEPT)).scalars())
    if old:
        connection.execute(ranked.delete().where(ranked.c.ranking.in_(old)))
        connection.execute(rankings.delete().where(rankings.c.id.in_(old)))


def count_alike(connection: sa.Connection, documents: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many pending corrections others stand for, by the identifier of those that stand for any."""
    numbers, _ = latest_rankings(connection, None)
    query = sa.select(ranked.c.leader, sa.func.count()).join(feedback, ranked.c.feedback_id == feedback.c.id)
    ids = [int(document["id"]) for document in documents]
    query = query.where(ranked.c.leader.in_(ids), ranked.c.ranking.in_(numbers), feedback.c.status == "pending")
    return {str(leader): count for leader, count in connection.execute(query.group_by(ranked.c.leader))}


def _are_pending(model: str, source: str) -> list[sa.ColumnElement[bool]]:
    return conditions(Filter(model=model, status="pending", source=source))
