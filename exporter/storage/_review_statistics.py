"""Statistics of the review queue: which labels are confused, how often, by whom, and what waits."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from exporter.features.base import decode_label
from exporter.stats.divergence import Floats
from exporter.storage._feedback import Tolerances
from exporter.storage._labels import label_error
from exporter.storage._review_queue import (
    STATUSES,
    Filter,
    conditions,
    is_ready_correction,
    label_column,
)
from exporter.storage._review_samples import AccuracyCounts, accuracy_counts
from exporter.storage._schema import (
    feedback,
    is_correction,
    is_released,
    is_unjoined,
    is_waiting,
    labels,
    retrain_requests,
)
from exporter.wire.events import VERDICTS

MAX_CELLS = 1000
"""Pairs of prediction and label that are returned, the most frequent ones."""
MAX_LABEL = 200
"""Characters of a label in a pair; longer ones are free texts that occur once."""
STEPS = (60, 300, 3600, 86400)
"""Lengths in seconds of the steps in which corrections are counted."""
BARS = 47
"""The least number of steps of a period, unless it has fewer minutes."""
MAX_USERS = 1000
"""Users that are returned, the most active."""
SUSPICIOUS_RATIO = 10.0
"""A user with more than this times the median user's corrections is suspicious."""
MIN_SUSPICIOUS = 20
"""A user with fewer corrections is never suspicious."""

_ROWS = 10_000


class Overview(NamedTuple):
    """Statistics of the corrections that a filter selects.

    Attributes
    ----------
    counts
        Corrections by status, regardless of the filter's status.
    pairs
        Prediction, label and number of corrections, the most frequent first; at most `MAX_CELLS`, and without labels
        of more than `MAX_LABEL` characters; regardless of the filter's prediction, label and error.
    step
        The longest of `STEPS` of which the period has more than `BARS`, else the shortest.
    rates
        Start of each step with corrections, in Unix seconds (a multiple of the step), and their number, by the time
        of the user's first feedback.
    """

    counts: dict[str, int]
    pairs: list[tuple[Any, Any, int]]
    step: int
    rates: list[tuple[int, int]]


def overview(connection: sa.Connection, chosen: Filter) -> Overview:
    """Compute the statistics of what a filter selects."""
    number, of_any_status = sa.func.count(), chosen._replace(status=None)
    query = sa.select(feedback.c.status, number).where(*conditions(of_any_status)).group_by(feedback.c.status)
    counts = dict.fromkeys(STATUSES, 0)
    counts.update((status, total) for status, total in connection.execute(query))
    pair = (feedback.c.prediction, label_column)
    are_short = [sa.func.length(text) <= MAX_LABEL for text in pair]
    query = sa.select(*pair, number).where(*conditions(chosen.of_any_label()), *are_short).group_by(*pair)
    rows = connection.execute(query.order_by(number.desc(), *pair).limit(MAX_CELLS))
    pairs = [(decode_label(predicted), decode_label(label), total) for predicted, label, total in rows]
    created = feedback.c.created
    query = sa.select(sa.func.min(created), sa.func.max(created)).where(*conditions(chosen))
    first, last = connection.execute(query).one()
    step = next((step for step in reversed(STEPS) if last and last - first > BARS * step), STEPS[0])
    exact = created / step
    rounded = sa.cast(exact, sa.BigInteger)  # databases round a float differently
    index = sa.case((rounded > exact, rounded - 1), else_=rounded).label("step_index")
    query = sa.select(index, number).where(*conditions(chosen)).group_by(index).order_by(index)
    rates = [(start * step, total) for start, total in connection.execute(query)]
    return Overview(counts, pairs, step, rates)


def read_errors(connection: sa.Connection, chosen: Filter) -> Floats:
    """Return label minus prediction of what a filter selects, regardless of its prediction, label and error.

    Returns
    -------
    ndarray
        Shape ``(n,)``, in no particular order: of the corrections whose prediction and label are finite numbers.
    """
    error = label_error(feedback.c.prediction, label_column).label("error")
    query = sa.select(error).where(*conditions(chosen.of_any_label())).execution_options(yield_per=_ROWS)
    with connection.execute(query) as result:
        errors = np.fromiter((np.nan if value is None else value for value in result.scalars()), np.float64)
    return errors[np.isfinite(errors)]


def user_stats(connection: sa.Connection, model: str) -> dict[str, Any]:
    """Count a model's corrections by user, the most active first.

    Returns
    -------
    dict
        ``users`` (each with ``user``, None for feedback without one, ``corrections``, their ``share``, the number
        of each status, and ``suspicious``: far more than the median user), ``total`` and ``median``.
    """
    of_model = conditions(Filter(model=model))
    number = sa.func.count().label("number")
    named = sa.select(number).where(*of_model, feedback.c.user.is_not(None)).group_by(feedback.c.user).subquery()
    user_count = connection.execute(sa.select(sa.func.count()).select_from(named)).scalar_one()
    middle = sa.select(named.c.number).order_by(named.c.number).offset(max(user_count - 1, 0) // 2).limit(1)
    median = connection.execute(middle).scalar() or 0
    total = connection.execute(sa.select(sa.func.count()).select_from(feedback).where(*of_model)).scalar_one()
    by_status = [sa.func.sum(sa.case((feedback.c.status == status, 1), else_=0)).label(status) for status in STATUSES]
    query = (
        sa.select(feedback.c.user, number, *by_status)
        .where(*of_model)
        .group_by(feedback.c.user)
        .order_by(number.desc(), feedback.c.user.is_(None), feedback.c.user)
        .limit(MAX_USERS)
    )
    entries = [
        {
            "user": row.user,
            "corrections": row.number,
            "share": row.number / total,
            **{status: int(getattr(row, status)) for status in STATUSES},
            "suspicious": row.user is not None
            and row.number >= MIN_SUSPICIOUS
            and row.number > SUSPICIOUS_RATIO * median,
        }
        for row in connection.execute(query)
    ]
    return {"users": entries, "total": total, "median": median}


def suspicious_users(connection: sa.Connection, model: str) -> set[str]:
    """Return the users who corrected far more than others."""
    return {entry["user"] for entry in user_stats(connection, model)["users"] if entry["suspicious"]}


class ReviewState(msgspec.Struct, frozen=True):
    """The review queue's state.

    Attributes
    ----------
    pending, oldest, examples
        By model: corrections that wait for review, the Unix time of the oldest, and released examples.
    accuracy_counts
        By model and version.
    unjoined, oldest_unjoined
        By model, empty for feedback that names none: feedback whose prediction has not arrived, and the Unix time of
        the oldest.
    undelivered
        By model: the Unix time of the first request for retraining after the last delivered one. A model whose newest
        request was delivered is left out.
    unjoined_labels, oldest_unjoined_label
        Labels whose prediction has not arrived, and the Unix time at which the first of them did; None without any.
    """

    pending: dict[str, int]
    oldest: dict[str, float]
    examples: dict[str, int]
    accuracy_counts: dict[tuple[str, str], AccuracyCounts]
    unjoined: dict[str, int]
    oldest_unjoined: dict[str, float]
    undelivered: dict[str, float]
    unjoined_labels: int
    oldest_unjoined_label: float | None


def read_state(connection: sa.Connection, tolerances: Tolerances) -> ReviewState:
    """Read the state from the database, with queries that indexes answer."""
    number, oldest = sa.func.count().label("number"), sa.func.min(feedback.c.created).label("oldest")
    by_model = sa.select(feedback.c.model, number, oldest).group_by(feedback.c.model)
    is_pending = feedback.c.status == "pending"
    in_queue = feedback.c.verdict.in_(map(sa.literal, VERDICTS)) & feedback.c.status.in_(STATUSES)
    examples = sa.select(feedback.c.model, sa.func.count()).where(is_released).group_by(feedback.c.model)
    rows = [
        *connection.execute(by_model.where(is_correction, is_pending, feedback.c.joined)),
        *connection.execute(by_model.where(is_ready_correction, is_pending)),
    ]
    unjoined = connection.execute(by_model.where(in_queue, is_unjoined)).all()
    # Labels are numbered as they arrive: the index has the number, but not the time.
    waiting, first = connection.execute(sa.select(sa.func.count(), sa.func.min(labels.c.id)).where(is_waiting)).one()
    received = sa.select(labels.c.received).where(labels.c.id == first)
    return ReviewState(
        pending={row.model: sum(other.number for other in rows if other.model == row.model) for row in rows},
        oldest={row.model: min(other.oldest for other in rows if other.model == row.model) for row in rows},
        examples={model: int(total) for model, total in connection.execute(examples)},
        accuracy_counts=accuracy_counts(connection, tolerances),
        unjoined={row.model or "": row.number for row in unjoined},
        oldest_unjoined={row.model or "": row.oldest for row in unjoined},
        undelivered=_undelivered(connection),
        unjoined_labels=waiting,
        oldest_unjoined_label=connection.execute(received).scalar() if waiting else None,
    )


def _undelivered(connection: sa.Connection) -> dict[str, float]:
    asked, later = retrain_requests.c, retrain_requests.alias().c
    is_passed = sa.exists().where(later.model == asked.model, later.seq > asked.seq, later.delivered.is_not(None))
    query = sa.select(asked.model, sa.func.min(asked.created)).where(asked.delivered.is_(None), ~is_passed)
    return {model: float(created) for model, created in connection.execute(query.group_by(asked.model))}
