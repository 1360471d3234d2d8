"""The review queue: which corrections a filter selects, their decisions, samples, suspects and statistics."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa
from sqlalchemy.sql.util import ClauseAdapter

from exporter.errors import StoreError
from exporter.features.base import decode_label, label_json, scalar_text
from exporter.features.json_inputs import readable, remove_inputs, unpack_json
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate, estimate_accuracy
from exporter.storage._database import (
    CORRECTIONS,
    JsonIds,
    Transactions,
    confidence_key,
    decisions,
    draws,
    feedback,
    has_inputs,
    has_reviewed_label,
    history,
    is_accepted,
    is_correction,
    is_described,
    is_released,
    is_unjoined,
    is_waiting,
    label_checks,
    labels,
    predictions,
    retrain_requests,
    statement_timeout,
    storable,
    suspects,
    update_of_row,
)
from exporter.storage._feedback import CountedFeedback, Counts, Redact, Tolerances, prediction_snapshot
from exporter.storage._labels import is_within_tolerance, label_error
from exporter.storage._predictions import InputsReader, find_aliased, find_predictions, parts, stored_days
from exporter.storage._redaction import may_hold
from exporter.storage._retention import StoreSize, prediction_range, text_bytes
from exporter.validation import Tolerance, rfc3339
from exporter.wire.events import MAX_COMPARED, VERDICTS

Redacted = Mapping[str, Collection[str]]
"""Names of inputs that are never shown, by model."""
STATUSES = ("accepted", "pending", "rejected")
"""A correction's status; accepted corrections become training data."""
SOURCES = {"user": CORRECTIONS, "sample": ("sampled",), "all": (*CORRECTIONS, "sampled")}
"""Verdicts by source: users' corrections, and predictions without feedback that were sampled for review."""
ORDERS = ("confident", "error", "newest", "suspect", "uncertain")
"""The most confident prediction, the largest error of a number, the newest one, the one whose label is most likely to
be wrong, or the least confident prediction first; in the last order, equal corrections once."""
PAGE_CHARACTERS = 16 * 2**20
"""Characters of inputs, with unpacked images, in one page: with more it ends early, to bound the memory."""
WAITING_SECONDS = 3600.0
"""How long feedback that describes its prediction waits for it, before it can be reviewed without."""
MAX_ALIKE = 1000
"""Corrections of the same confidence among which the ones equal to those on a page are counted."""
_MOST = 10_000  # corrections that are compared with others at a time

_ready_before = sa.bindparam("ready_before", callable_=lambda: time.time() - WAITING_SECONDS, type_=sa.Float)
_is_ready = is_described & (feedback.c.created < _ready_before)
# With coalesce, SQLite does not use an index of all unjoined feedback.
is_ready_correction = _is_ready & sa.func.coalesce(feedback.c.verdict, "").in_(map(sa.literal, CORRECTIONS))
"""Feedback that waited long enough for its prediction, which it describes."""
label_column = sa.func.coalesce(feedback.c.reviewed_label, feedback.c.label)
"""The effective label: the reviewer's if there is one, else the user's."""
of_suspect = (suspects.c.feedback_id == feedback.c.id) & (suspects.c.revision == feedback.c.revision) & is_accepted
"""The join of a suspect with its correction, which is accepted but may have a wrong label."""
_is_suspect = sa.exists().where(of_suspect).correlate(feedback)


class Filter(NamedTuple):
    """Selects corrections; None does not filter.

    Attributes
    ----------
    label, predicted
        The effective label, and the prediction, as stored JSON.
    source
        A key of `SOURCES`.
    joined
        True for corrections of logged predictions only; False for all feedback whose prediction has not arrived, of
        any verdict; None for what can be reviewed.
    since, until
        Unix time in seconds of the user's first feedback; ``until`` is exclusive.
    confidence_from, confidence_to
        Both are inclusive.
    error_from, error_to
        The effective label minus the prediction, where both are numbers; ``error_to`` is exclusive.
    q
        Text in the comment, the user, the prediction's identifier or the inputs; case does not matter.
    alike
        The identifier of a correction, to which others are equal: in model, prediction, confidence, label and inputs.
    suspect
        Whether it is an accepted correction whose label may be wrong.
    where
        The bins of a slice as JSON; it is `ids` that selects the corrections in it.
    ids
        Identifiers of corrections.
    redacted
        Inputs that are neither shown nor searched: they may have been stored when less was redacted.
    """

    model: str | None = None
    version: str | None = None
    status: str | None = None
    label: str | None = None
    predicted: str | None = None
    segment: str | None = None
    source: str = "user"
    joined: bool | None = None
    since: float | None = None
    until: float | None = None
    confidence_from: float | None = None
    confidence_to: float | None = None
    error_from: float | None = None
    error_to: float | None = None
    q: str | None = None
    alike: int | None = None
    suspect: bool | None = None
    where: str | None = None
    ids: tuple[int, ...] | None = None
    redacted: Redacted = MappingProxyType({})

    def of_any_label(self) -> Filter:
        """Return the filter without its conditions on prediction and label."""
        return self._replace(label=None, predicted=None, error_from=None, error_to=None)


PARAMETERS = tuple(name for name in Filter._fields if name not in {"ids", "redacted"})
"""The fields of a `Filter` that clients choose."""


class Position(NamedTuple):
    """Where a page of the queue ended: the value that it is ordered by, and the last correction."""

    key: float
    id: int


def conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """Return the filter as SQL conditions; they select corrections and samples, not other joined feedback."""
    verdicts = _verdicts_of(chosen)
    has_verdict = (
        feedback.c.verdict == verdicts[0] if len(verdicts) == 1 else feedback.c.verdict.in_(map(sa.literal, verdicts))
    )
    return [has_verdict, _is_in_state(chosen.joined), *_content_conditions(chosen)]


def _verdicts_of(chosen: Filter) -> tuple[str, ...]:
    return VERDICTS if chosen.joined is False else SOURCES[chosen.source]


def _is_in_state(joined: bool | None) -> sa.ColumnElement[bool]:
    if joined is None:  # both values by name: so the index finds a model's in each of them
        return feedback.c.joined.in_((sa.true(), sa.false())) & (feedback.c.joined | _is_ready)
    return feedback.c.joined if joined else is_unjoined


def _content_conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a filter without those on the verdict and on whether the prediction is known."""
    result: list[sa.ColumnElement[bool]] = []
    if chosen.status is None:  # all three by name: so the index finds a model's, or a day's, in each of them
        result.append(feedback.c.status.in_(map(sa.literal, STATUSES)))
    error = label_error(feedback.c.prediction, label_column)
    filters: tuple[tuple[Any, Callable[[Any, Any], Any], Any], ...] = (
        (feedback.c.model, operator.eq, chosen.model),
        (feedback.c.version, operator.eq, chosen.version),
        (feedback.c.status, operator.eq, chosen.status),
        (feedback.c.segment, operator.eq, chosen.segment),
        (label_column, _is_label, chosen.label),
        (feedback.c.prediction, _is_label, chosen.predicted),
        (feedback.c.created, operator.ge, chosen.since),
        (feedback.c.created, operator.lt, chosen.until),
        (feedback.c.confidence, operator.ge, chosen.confidence_from),
        (feedback.c.confidence, operator.le, chosen.confidence_to),
        (error, operator.ge, chosen.error_from),
        (error, operator.lt, chosen.error_to),
    )
    result += [compare(column, value) for column, compare, value in filters if value is not None]
    if chosen.alike is not None:
        result += _alike_conditions(chosen.alike)
    if chosen.ids is not None:
        result.append(feedback.c.id.bool_op("IN")(JsonIds(sa.literal(json.dumps(chosen.ids)))))
    if chosen.suspect is not None:
        result.append(_is_suspect if chosen.suspect else ~_is_suspect)
    if chosen.q is not None:
        searched = (feedback.c.comment, feedback.c.user, feedback.c.prediction_id)
        in_inputs = feedback.c.inputs.icontains(chosen.q, autoescape=True)
        for model, names in chosen.redacted.items():
            in_inputs &= feedback.c.model.is_distinct_from(model) | ~may_hold(feedback.c.inputs, names)
        result.append(sa.or_(*(column.icontains(chosen.q, autoescape=True) for column in searched), in_inputs))
    return result


def _is_label(column: sa.ColumnElement[Any], stored: str) -> sa.ColumnElement[bool]:
    """Return the condition of a label; as in profiles, a number and the string of its digits are the same."""
    return column == stored if stored.startswith('"') else column.in_((stored, label_json(stored)))


# The first ones are those of an index.
_TIED = tuple(feedback.c[name] for name in ("verdict", "joined", "status", "model"))
_EQUAL = (feedback.c.prediction, label_column, feedback.c.inputs)


def _alike_conditions(leader: int) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of corrections that are equal to another one."""
    of_leader = feedback.alias()
    same = [
        column == sa.select(ClauseAdapter(of_leader).traverse(column)).where(of_leader.c.id == leader).scalar_subquery()
        for column in (*_TIED, confidence_key, *_EQUAL)
    ]
    return [*same, feedback.c.id != leader]


def _is_first(chosen: Filter) -> sa.ColumnElement[bool]:
    """Return the condition that no earlier correction that a filter selects is equal: none is to one without inputs.

    Samples are not compared: each of them counts in the accuracy.
    """
    earlier = feedback.alias()
    of_earlier = ClauseAdapter(earlier)
    same = [of_earlier.traverse(column) == column for column in (*_TIED, confidence_key, *_EQUAL)]
    selected = [of_earlier.traverse(condition) for condition in _content_conditions(chosen)]
    is_alone = ~sa.exists().where(*same, earlier.c.id < feedback.c.id, *selected).correlate(feedback)
    return (feedback.c.verdict == "sampled") | is_alone


def count_alike(connection: sa.Connection, chosen: Filter, ids: Sequence[int]) -> dict[int, int]:
    """Return how many later corrections are equal to each of some that a filter selects; see `MAX_ALIKE`."""
    tied = [*_TIED, confidence_key]
    query = sa.select(feedback.c.id, *(column.label(f"c{number}") for number, column in enumerate(tied)))
    other = feedback.alias()
    of_other = ClauseAdapter(other)
    has_later = sa.exists().where(*(of_other.traverse(one) == one for one in tied), other.c.id > feedback.c.id)
    query = query.where(feedback.c.id.in_(ids), feedback.c.verdict != "sampled", has_later.correlate(feedback))
    ties: dict[tuple[Any, ...], list[int]] = {}
    for row in connection.execute(query):
        ties.setdefault(tuple(row[1:]), []).append(row.id)
    found: dict[int, int] = {}
    for values, members in ties.items():
        is_later = [column == value for column, value in zip(tied, values, strict=True)]
        later = sa.select(feedback.c.id, *(column.label(f"c{number}") for number, column in enumerate(_EQUAL)))
        later = later.where(*is_later, feedback.c.id > min(members), *_content_conditions(chosen))
        near = later.order_by(feedback.c.id).limit(MAX_ALIKE).subquery()
        same = [near.c[f"c{number}"] == of_other.traverse(column) for number, column in enumerate(_EQUAL)]
        of_members = [other.c.id.in_(members), near.c.id > other.c.id]
        counts = sa.select(other.c.id, sa.func.count()).where(*same, *of_members).group_by(other.c.id)
        found.update((id_, count) for id_, count in connection.execute(counts))
    return found


def _read_documents(
    connection: sa.Connection, ids: Sequence[int], redacted: Redacted
) -> tuple[list[dict[str, Any]], int]:
    """Return the documents of corrections, as many as `PAGE_CHARACTERS` allows, and how many identifiers they are."""
    sizes = sa.select(feedback.c.id, sa.func.length(feedback.c.inputs)).where(feedback.c.id.in_(ids))
    size_of = {id_: length or 0 for id_, length in connection.execute(sizes)}
    ids = next(parts(((id_, size_of.get(id_, 0)) for id_ in ids), PAGE_CHARACTERS), [])
    rows = {row["id"]: row for row in connection.execute(sa.select(feedback).where(feedback.c.id.in_(ids))).mappings()}
    documents: list[dict[str, Any]] = []
    size = shown = 0
    for shown, id_ in enumerate(ids, 1):
        document = correction_document(rows[id_], redacted) if id_ in rows else None
        size += len(memoryview(document["inputs"])) if document and document["inputs"] else 0
        if documents and size > PAGE_CHARACTERS:
            return documents, shown - 1  # the page ends before this one
        documents += [document] if document else []
    return documents, shown


def _page_keys(
    connection: sa.Connection, chosen: Filter, limit: int, after: Position | None, order: str
) -> Sequence[Any]:
    """Return identifiers and keys of a page, and of one more."""
    if order != "uncertain":
        return connection.execute(_page_query(chosen, limit, after, order)).all()
    keys: list[Any] = []
    rows: Sequence[Any] = []
    while len(keys) <= limit:
        # Whether a correction is the first one is asked for few at a time: all before it are compared.
        step = min(max(limit, 2 * len(rows)), _MOST)
        rows = connection.execute(_page_query(chosen, step, after, order)).all()
        is_on_page = feedback.c.id.in_([row.id for row in rows])
        first = set(connection.execute(sa.select(feedback.c.id).where(is_on_page, _is_first(chosen))).scalars())
        keys += [row for row in rows if row.id in first]
        if len(rows) <= step:
            break
        after = Position(rows[-1].key, rows[-1].id)
    return keys[: limit + 1]


def _page_query(chosen: Filter, limit: int, after: Position | None, order: str) -> sa.Select[Any]:
    """Build the query of a page's identifiers and keys, and of one more."""
    key, is_ascending = _order_key(order), order == "uncertain"
    further: list[sa.ColumnElement[bool]] = []
    if after and is_ascending:
        further += [key >= after.key, (key > after.key) | (feedback.c.id > after.id)]
    elif after:
        further += [key <= after.key, (key < after.key) | (feedback.c.id < after.id)]

    def in_order(query: sa.Select[Any], key: sa.ColumnElement[Any], id_: sa.ColumnElement[Any]) -> sa.Select[Any]:
        columns = (key.asc(), id_.asc()) if is_ascending else (key.desc(), id_.desc())
        return query.order_by(*columns).limit(limit + 1)

    statuses = STATUSES if chosen.status is None else (chosen.status,)
    # The index is ordered within each verdict and status: one query for each, then the first of all.
    selected = sa.select(feedback.c.id, key.label("key"))
    kinds = [
        selected.where(feedback.c.verdict == verdict, _is_in_state(chosen.joined is not False))
        for verdict in _verdicts_of(chosen)
    ]
    if chosen.joined is None and chosen.source != "sample":
        kinds.append(selected.where(is_ready_correction))
    queries = [
        in_order(kind.where(*_content_conditions(chosen._replace(status=status)), *further), key, feedback.c.id)
        for kind in kinds
        for status in statuses
    ]
    if len(queries) == 1:
        return queries[0]
    union = sa.union_all(*(sa.select(query.subquery()) for query in queries)).subquery()
    return in_order(sa.select(union), union.c.key, union.c.id)


def _charted(chosen: Filter) -> sa.FromClause:
    """Build the query of what charts show: identifiers and times of a model's newest corrections, or of all models'."""
    if chosen.model is None:
        return sa.select(feedback.c.id, feedback.c.created.label("key")).where(*conditions(chosen)).subquery()
    return _page_query(chosen, CHARTED - 1, None, "newest").subquery()


def _order_key(order: str) -> sa.ColumnElement[float]:
    """Return what a page is ordered by. Of errors and suspects there is no index."""
    if order == "suspect":
        share = (suspects.c.with_likely - suspects.c.with_label) * 1.0 / suspects.c.compared
        of_row = sa.select(share).where(of_suspect).correlate(feedback)
        return sa.func.coalesce(of_row.scalar_subquery(), sa.literal_column("-1.0"))
    if order == "error":
        error = label_error(feedback.c.prediction, label_column)
        return sa.func.coalesce(sa.func.abs(error), sa.literal_column("-1.0"))
    return feedback.c.created if order == "newest" else confidence_key


def shown_inputs(row: Mapping[Any, Any], redacted: Redacted) -> msgspec.Raw | None:
    """Return the stored inputs of a row without those that are not shown; None if they cannot be read."""
    inputs = readable(unpack_json(remove_inputs(row["inputs"] or "", redacted.get(row["model"], ()))))
    return msgspec.Raw(inputs.encode()) if inputs else None


_GIVEN = (
    "id", "verdict", "label", "user_label", "user", "comment", "created", "status", "reviewer", "reviewed", "revision",
)  # fmt: skip
_MEMBERS = (
    *_GIVEN, "prediction_id", "model", "version", "segment", "joined", "source", "inputs", "prediction", "confidence",
    "predicted",
)  # fmt: skip


def correction_document(row: Mapping[Any, Any], redacted: Redacted) -> dict[str, Any]:
    """Return a row of the table ``feedback`` as its JSON document; ``label`` is the effective label.

    Members that cannot be read are null, and are named in ``unreadable``, which is absent if there are none: another
    program may have written a time of the year 0, or a label that is not JSON. So the correction can still be decided.
    """
    stored = {
        "inputs": row["inputs"] or None,
        "prediction": row["prediction"],
        "predicted": row["predicted"],
        "label": row["label"] if row["reviewed_label"] is None else row["reviewed_label"],
        "user_label": None if row["verdict"] == "sampled" else row["label"],
        "created": row["created"],
        "reviewed": row["reviewed"],
    }
    read = {
        "inputs": shown_inputs(row, redacted),
        **{name: decode_label(stored[name]) for name in ("prediction", "label", "user_label")},
        **{name: rfc3339(stored[name]) for name in ("predicted", "created", "reviewed")},
    }
    unreadable = [name for name, value in stored.items() if value not in {None, "null"} and read[name] is None]
    document = {
        **row,
        **read,
        "id": str(row["id"]),
        "joined": bool(row["joined"]),
        "source": "sample" if row["verdict"] == "sampled" else "user",
    }
    return {name: document[name] for name in _MEMBERS} | ({"unreadable": unreadable} if unreadable else {})


Example = Mapping[Any, Any]
"""A row of a dataset: an accepted correction, or what `ADDED` names."""
ADDED = ("confirmed", "labelled")
"""What a dataset has on request beside accepted corrections and samples: predictions that users confirmed, and those
with ground truth. A prediction with both is labelled."""
MAX_ADDED = 20_000
"""Rows of each of `ADDED` in a dataset, at most about; of more, every second, third, … one is in."""
MIN_LABELLED = 20
"""Labelled rows from which the share of mistakes in the traffic is estimated."""
MAX_WEIGHTS = 5.0, 1000.0
"""How much a row that is no mistake weighs at most, without and with so many labelled rows. Without them, nobody knows
how many mistakes were not corrected, and mistakes must not weigh next to nothing."""
_PREFIX = "label-"  # of the identifier of a labelled prediction, which is no correction


class Selection(NamedTuple):
    """Selects accepted corrections; None does not filter.

    Attributes
    ----------
    labels
        JSON texts; the effective label is one of them.
    since, until
        Unix time in seconds of the user's feedback, or of the sample; ``until`` is exclusive.
    reviewed_until
        Unix time in seconds; corrections that were reviewed later are left out, so that all readers see the same.
    include
        Which of `ADDED` are added.
    """

    model: str
    version: str | None = None
    labels: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    reviewed_until: float | None = None
    include: Collection[str] = ()


class Mix(NamedTuple):
    """What gives the rows of a dataset the mix of the traffic: the predictions that are stored.

    The traffic has as many mistakes as there are corrections, and in the rest of it as large a share as among labelled
    rows. The rows that are mistakes share this number, and all other rows the rest of the traffic.

    Attributes
    ----------
    weight
        Of a row that is no mistake.
    mistake
        The weight of a correction, and of a labelled row of a classifier whose prediction is wrong.
    traffic
        The number of stored predictions; None without rows that stand for them.
    since
        Unix time in seconds of the oldest one.
    limited
        Whether a weight would be greater than its limit in `MAX_WEIGHTS`.
    steps
        Of each of `ADDED`, every how many rows one is in.
    classes
        Whether each labelled prediction is right or wrong; else the model predicts numbers.
    """

    weight: float = 1.0
    mistake: float = 1.0
    traffic: int | None = None
    since: float = 0.0
    limited: bool = False
    steps: Mapping[str, int] = MappingProxyType({})
    classes: bool = True


class Decision(NamedTuple):
    """A reviewer's decision.

    Attributes
    ----------
    status
        One of `STATUSES`.
    label
        The reviewer's label as stored JSON; None keeps the label. The label of a correction that becomes pending again
        is the user's.
    revision
        The revision that the reviewer saw.
    """

    status: str
    label: str | None
    revision: int
    reviewer: str | None


class Outcome(NamedTuple):
    """Whether a decision is stored, the correction as it is now, None if there is none, and what counts with it."""

    stored: bool
    correction: dict[str, Any] | None
    counts: CountedFeedback | None = None

    def lacks_label(self, decision: Decision) -> bool:
        """Return whether a decision was not stored because it would accept a correction without a label."""
        seen = self.correction or {"revision": None}
        return not self.stored and decision.status == "accepted" and seen["revision"] == decision.revision


_in_review = sa.and_(*conditions(Filter(source="all")))
_update = update_of_row(feedback, ("status", "reviewer", "reviewed", "revision")).where(
    feedback.c.revision == sa.bindparam("seen_revision"), _in_review
)
_update_labelled = _update.where(label_column.is_not(None))
_update_with_label = _update.values(reviewed_label=sa.bindparam("new_label"))


def _store_decision(connection: sa.Connection, correction_id: int, decision: Decision, now: float) -> bool:
    """Store a decision, and return whether it did.

    It does not where the correction has another revision than the reviewer saw, or would be accepted without a label.
    """
    values = {
        "row_id": correction_id,
        "seen_revision": decision.revision,
        "new_status": decision.status,
        "new_reviewer": decision.reviewer,
        "new_reviewed": now,
        "new_revision": decision.revision + 1,
    }
    if decision.label is None and decision.status != "pending":
        result = connection.execute(_update_labelled if decision.status == "accepted" else _update, values)
    else:
        result = connection.execute(_update_with_label, {**values, "new_label": decision.label})
    return bool(result.rowcount)


def _count_decision(row: dict[Any, Any], status: str) -> CountedFeedback | None:
    """Return what counts with a decision on a counted correction: that a reviewer rejects it, or no longer does."""
    before, row["status"] = row["status"], status
    if (before == "rejected") == (status == "rejected"):
        return None
    return CountedFeedback(row["model"], row["version"], row["verdict"], False, decided=status == "rejected")


MIN_READ, MAX_READ = 10_000, 200_000
"""Rows that one draw reads: at least the first, for a good estimate of how many are confident; at most the second."""
LATEST = 20
"""Versions of a model that are counted: those with the latest samples."""
_STEP = 500  # rows of one query


def _with_feedback(connection: sa.Connection, model: str, ids: Collection[str]) -> set[str]:
    """Return those of the predictions that have feedback."""
    # With coalesce, the database does not use the model's index, in which all of the model's feedback is.
    condition = feedback.c.prediction_id.in_(ids) & (sa.func.coalesce(feedback.c.model, model) == model)
    return set(connection.execute(sa.select(feedback.c.prediction_id).where(condition)).scalars())


class AccuracyCounts(msgspec.Struct):
    """Counts of the confident predictions of a version; see `exporter.stats.quality.estimate_accuracy`.

    Attributes
    ----------
    pending
        Samples that wait for a decision.
    since, until
        Unix times of the oldest prediction that could be drawn, and of the last draw.
    """

    version: str
    population: int
    since: float
    until: float
    known: int = 0
    known_right: int = 0
    decided: int = 0
    right: int = 0
    pending: int = 0

    def estimate(self) -> IntervalEstimate:
        """Return the accuracy with its interval; at least one sample is decided."""
        return estimate_accuracy(self.population, self.known, self.known_right, self.decided, self.right)


def accuracy_counts(connection: sa.Connection, tolerances: Tolerances) -> dict[tuple[str, str], AccuracyCounts]:
    """Return the counts by model and version, for the `LATEST` versions of a model that have a decided sample."""
    result: dict[tuple[str, str], AccuracyCounts] = {}
    versions = Counter[str]()
    for row in connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all():
        versions[row.model] += 1
        if versions[row.model] <= LATEST:
            counts = _count(connection, row, tolerances(row.model))
            if counts.decided:
                result[row.model, row.version] = counts
    return result


def _count(connection: sa.Connection, drawn: Any, tolerance: Tolerance) -> AccuracyCounts:
    """Count the feedback and the samples of a version; a reviewer's label within the tolerance makes it right."""
    # Feedback may arrive just before its prediction, and a prediction may be dated back.
    is_after = (feedback.c.created >= drawn.since) | (feedback.c.predicted >= drawn.since)
    is_users = is_after & (feedback.c.predicted <= drawn.time)
    condition = (feedback.c.model == drawn.model) & (feedback.c.version == drawn.version) & feedback.c.confident
    condition &= (feedback.c.verdict == "sampled") | is_users
    counts = AccuracyCounts(drawn.version, drawn.confident, drawn.since, drawn.time)
    number = sa.func.count()
    query = sa.select(feedback.c.verdict, feedback.c.status, number).where(condition)
    for verdict, status, rows in connection.execute(query.group_by(feedback.c.verdict, feedback.c.status)):
        if verdict != "sampled":
            counts.known += rows
            if verdict == "accepted" or status == "rejected":  # the user accepted it, or was refused
                counts.known_right += rows
        elif status == "accepted":
            counts.decided += rows
            counts.right += rows
        elif status == "pending":
            counts.pending += rows
    # A reviewer's label reverses that: another label for a sample, the prediction itself for a correction.
    is_near = is_within_tolerance(feedback.c.prediction, feedback.c.reviewed_label, tolerance)
    is_predicted = (feedback.c.reviewed_label == feedback.c.prediction) | is_near
    query = sa.select(feedback.c.verdict, number).where(condition, has_reviewed_label, feedback.c.status == "accepted")
    query = query.where(sa.case((is_correction, is_predicted), else_=~is_predicted))
    for verdict, rows in connection.execute(query.group_by(feedback.c.verdict)):
        if verdict == "sampled":
            counts.right -= rows
        elif verdict in CORRECTIONS:
            counts.known_right += rows
    return counts


MAX_ACCEPTED = 20_000
"""Accepted corrections of a model that are checked, the newest ones."""
MAX_CONFIRMED = 10_000
"""Predictions of a model that users confirmed, the newest ones: accepted corrections are compared with them, too."""
CONFIRMED_SECONDS = 3600.0
"""After so long, new feedback is a reason to check labels again although nothing was decided."""
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


class Suspect(NamedTuple):
    """A suspect label of an accepted correction; see the table ``suspects``."""

    feedback_id: int
    label: str
    revision: int | None
    likely: str
    compared: int
    with_likely: int
    with_label: int


class CheckState(NamedTuple):
    """The last decision and the last feedback of any model; 0 for none."""

    decision: int
    newest: int


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


CHARTED = 50_000
"""Corrections of a model that charts and pairs are counted from, the newest ones."""
MAX_CELLS = 1000
"""Pairs of prediction and label that are returned, the most frequent ones."""
MAX_LABEL = 200
"""Characters of a label in a pair; longer ones are free texts that occur once."""
STEPS = (60, 300, 3600, 86400)
"""Lengths in seconds of the steps in which corrections are counted."""
BARS = 47
"""The least number of steps of a period, unless it has fewer minutes."""


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


SCRAPE_TIMEOUT_SECONDS = 2.0
"""How long a scrape waits for the database, and any reader while the database is unavailable."""
REVIEW_SECONDS, SHARED_REVIEW_SECONDS = 60.0, 5.0
"""How old the cached state may be: feedback becomes ready for review, and others write into a shared database."""
REVIEW_RETRY_SECONDS = 10.0
"""How long scrapes fail at once after the database did not answer one."""


HISTORY, HISTORY_CHARACTERS = 100, 4 * 2**20
"""Events of a correction that are returned, and characters of their labels and comments, at most."""
INPUT_ROWS = 1000
"""Corrections whose inputs are read at a time, at most."""


class QueuePage(NamedTuple):
    """Corrections as JSON documents, and where the page ended; None if it was the last.

    A document has ``suspect`` where its label may be wrong, and in the order ``uncertain`` ``alike``: how many
    corrections it stands for.
    """

    corrections: list[dict[str, Any]]
    end: Position | None


class PageStatistics(NamedTuple):
    """What the first page of the queue shows beside the corrections.

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
    decided
        How many corrections of the model a reviewer decided, those that are pending again not counted.
    suspects
        How many corrections of the model are suspects.
    accuracy
        By model and version.
    charted
        How many corrections pairs and rates are of, at most, where they are of one model: the newest.
    """

    counts: dict[str, int]
    pairs: list[tuple[Any, Any, int]]
    step: int
    rates: list[tuple[int, int]]
    decided: int
    suspects: int
    accuracy: dict[tuple[str, str], AccuracyCounts]
    charted: int = CHARTED


class TrainingSet(NamedTuple):
    """The accepted corrections of a model, and what was known of them at that moment.

    Attributes
    ----------
    examples
        Ordered by identifier, the corrections first, and what is added.
    suspects
        Identifiers of corrections whose label may be wrong.
    checked
        When labels were checked last, Unix time in seconds; None if never.
    sampling
        What weights the samples, for the `LATEST` versions: by version ``confident``, the number of confident
        predictions, and ``with_feedback``, on how many of them users gave feedback.
    mix
        What the rows stand for.
    """

    examples: Iterator[Example]
    suspects: set[int]
    checked: float | None
    sampling: dict[str, dict[str, int]]
    mix: Mix


class Review:
    """The review queue of a store. Each verb that reads sees one state of the database, and raises StoreError.

    Parameters
    ----------
    store, size
        The store, and the room that it has.
    tolerances, redact
        See `exporter.storage._feedback.FeedbackRecorder`.
    with_inputs
        Whether a sample leaves out predictions without inputs: the store keeps the inputs of a random share.
    """

    def __init__(
        self, store: Transactions, size: StoreSize, tolerances: Tolerances, redact: Redact, *, with_inputs: bool
    ) -> None:
        self._store, self._size, self._tolerances = store, size, tolerances
        self._redact, self._with_inputs = redact, with_inputs
        self._cached: ReviewState | None = None
        self._read_at = self._retry_at = 0.0
        self._generation = 0

    def page(self, chosen: Filter, limit: int, after: Position | None = None, order: str = "newest") -> QueuePage:
        """Return a page of the queue.

        Parameters
        ----------
        chosen
            Which corrections.
        limit
            How many at most; fewer if their inputs are large, see `PAGE_CHARACTERS`.
        after
            Where the previous page ended, in the same order.
        order
            One of `ORDERS`; corrections without an error come last. Without a confidence, a prediction is the least
            confident.
        """
        with self._store.reading() as connection:
            # Identifiers first: inputs may be large, and only those of a page are read.
            keys = _page_keys(connection, chosen, limit, after, order)
            documents, shown = _read_documents(connection, [row.id for row in keys[:limit]], chosen.redacted)
            ids = [int(document["id"]) for document in documents]
            alike = count_alike(connection, chosen, ids) if order == "uncertain" else None
            found = suspect_documents(connection, ids)
        for id_, document in zip(ids, documents, strict=True):
            if alike is not None:
                document["alike"] = alike.get(id_, 0)
            if id_ in found:
                document["suspect"] = found[id_]
        return QueuePage(documents, Position(keys[shown - 1].key, keys[shown - 1].id) if len(keys) > shown else None)

    def find(self, correction_id: int, redacted: Redacted) -> dict[str, Any] | None:
        """Return a correction, a sample, or unjoined feedback as its JSON document; None for any other identifier."""
        is_shown = sa.or_(sa.and_(*conditions(Filter(source="all"))), is_unjoined)
        query = sa.select(feedback).where(feedback.c.id == correction_id, is_shown)
        with self._store.reading() as connection:
            row = connection.execute(query).mappings().first()
            document = None if row is None else correction_document(row, redacted)
            if document and (found := suspect_documents(connection, [correction_id])):
                document["suspect"] = found[correction_id]
            return document

    def prediction(self, prediction_id: str, model: str | None, redacted: Redacted) -> dict[str, Any] | None:
        """Return a prediction with its label and its feedback as its document; None if it is not stored.

        Without a model, it is the first one with this identifier.
        """
        with self._store.reading() as connection:
            name = storable(prediction_id), model
            found = find_aliased(connection, [name]).get(name, name)
            (row,) = find_predictions(connection, [found], stored_days(connection))
            if row is None:
                return None
            is_labelled = (labels.c.prediction_id == row["id"]) & (labels.c.model == row["model"])
            query = sa.select(labels.c.label, labels.c.time).where(labels.c.day == row["day"], is_labelled)
            label = connection.execute(query).first()
            is_on_it = (feedback.c.prediction_id == row["id"]) & (feedback.c.model == row["model"])
            query = sa.select(feedback).where(is_on_it, feedback.c.joined)
            given = connection.execute(query).mappings().first()
        correction = correction_document(given, redacted) if given else None
        copied = ("id", "alias", "model", "version", "segment", "confidence", "code", "duration_seconds")
        return {
            **{name: row[name] for name in copied},
            "time": rfc3339(row["time"]),
            "inputs": shown_inputs(row, redacted),
            "prediction": decode_label(row["prediction"]),
            "label": decode_label(label.label) if label else None,
            "labelled": rfc3339(label.time) if label else None,
            "feedback": correction and {name: correction[name] for name in _GIVEN},
        }

    def history(self, correction_id: int) -> list[dict[str, Any]]:
        """Return the newest events of a correction, the earliest first: at most `HISTORY`, or `HISTORY_CHARACTERS`.

        Users' feedback has ``verdict``, ``label``, ``user`` and ``comment``; a sample for review has the verdict
        ``sampled``, and its user is the reviewer who drew it. Decisions have ``status``, ``label``, ``reviewer`` and
        ``revision``. All have ``time``.
        """
        given = ("verdict", "label", "user", "comment")
        latest = sa.select(feedback.c.updated.label("time"), *(feedback.c[name] for name in given))
        latest = latest.where(feedback.c.id == correction_id, feedback.c.verdict != "sampled")
        earlier = sa.select(history.c.time, *(history.c[name] for name in given)).order_by(history.c.id.desc())
        earlier = earlier.where(history.c.feedback_id == correction_id)
        decided = sa.select(*(decisions.c[name] for name in ("time", "status", "label", "reviewer", "revision")))
        decided = decided.where(decisions.c.feedback_id == correction_id).order_by(decisions.c.id.desc())
        events: list[dict[str, Any]] = []
        characters = 0
        with self._store.reading() as connection:
            streams = [_newest(connection, decided), _newest(connection, latest, earlier)]
            for row in heapq.merge(*streams, key=operator.itemgetter("time"), reverse=True):
                characters += sum(len(value) for value in row.values() if isinstance(value, str))
                if len(events) == HISTORY or (events and characters > HISTORY_CHARACTERS):
                    break
                events.append({**row, "time": rfc3339(row["time"]), "label": decode_label(row["label"])})
        return events[::-1]

    def predictions(self, chosen: Filter, most: int) -> Generator[tuple[Sequence[Any], bool]]:
        """Yield the predictions of the newest corrections with stored inputs that a filter selects, in parts.

        Parameters
        ----------
        chosen
            Which corrections.
        most
            How many at most.

        Yields
        ------
        tuple
            Rows with the columns ``id``, ``prediction``, ``confidence``, ``inputs`` and ``time``, that of the
            prediction, with `PAGE_CHARACTERS` of inputs at most; and whether there are older ones.
        """
        query = sa.select(feedback.c.id).where(*conditions(chosen), feedback.c.inputs.is_not(None))
        query = query.order_by(feedback.c.id.desc()).limit(most + 1)
        time_column = sa.func.coalesce(feedback.c.predicted, feedback.c.created).label("time")
        columns = (feedback.c.id, feedback.c.prediction, feedback.c.confidence, feedback.c.inputs, time_column)
        with self._store.reading() as connection:
            ids = list(connection.execute(query).scalars())
            for start in range(0, min(len(ids), most), INPUT_ROWS):
                is_in_step = feedback.c.id.in_(ids[start : min(start + INPUT_ROWS, most)])
                sizes = sa.select(feedback.c.id, sa.func.length(feedback.c.inputs)).where(is_in_step)
                found = connection.execute(sizes.order_by(feedback.c.id.desc()))
                for part in parts([(row[0], row[1]) for row in found if row[1]], PAGE_CHARACTERS):
                    rows = connection.execute(sa.select(*columns).where(feedback.c.id.in_(part))).all()
                    yield rows, part[-1] > ids[-1]

    def decide(self, batch: Sequence[tuple[int, Decision]], redacted: Redacted, adds: int) -> list[Outcome]:
        """Decide corrections in order, unless another reviewer was first.

        A reviewer who repeats the latest decision, because the response to it was lost, learns that it is stored.

        Parameters
        ----------
        batch, redacted
            The decisions by the identifier of the correction, and inputs that are not shown.
        adds
            About how many bytes the decisions add to what is kept.

        Returns
        -------
        list of Outcome
            Of each decision; corrections are as they are after the last one.
        """

        def write(connection: sa.Connection) -> list[Outcome]:
            now = time.time()
            ids = {id_ for id_, _ in batch}
            columns = [feedback.c[name] for name in ("id", "status", "model", "version", "verdict")]
            query = sa.select(*columns).where(feedback.c.id.in_(ids), feedback.c.counted)
            rows = {row["id"]: dict(row) for row in connection.execute(query).mappings()}
            stored = [_store_decision(connection, id_, decision, now) for id_, decision in batch]
            counted = [
                _count_decision(rows[id_], decision.status) if is_stored and id_ in rows else None
                for (id_, decision), is_stored in zip(batch, stored, strict=True)
            ]
            entries = [
                {"feedback_id": id_, "time": now, **decision._asdict(), "revision": decision.revision + 1}
                for (id_, decision), is_stored in zip(batch, stored, strict=True)
                if is_stored
            ]
            if entries:
                connection.execute(decisions.insert(), entries)
            query = sa.select(feedback).where(feedback.c.id.in_(ids), _in_review)
            documents = {row["id"]: correction_document(row, redacted) for row in connection.execute(query).mappings()}
            latest: dict[int, Decision] = {}
            if not all(stored):
                query = sa.select(decisions).join(feedback, decisions.c.feedback_id == feedback.c.id)
                is_latest = decisions.c.revision == feedback.c.revision
                for row in connection.execute(query.where(feedback.c.id.in_(ids), is_latest)):
                    latest[row.feedback_id] = Decision(row.status, row.label, row.revision - 1, row.reviewer)
            return [
                Outcome(
                    is_stored or (decision.reviewer is not None and latest.get(id_) == decision),
                    documents.get(id_),
                    counts,
                )
                for (id_, decision), is_stored, counts in zip(batch, stored, counted, strict=True)
            ]

        return self._store.write(
            write, adds, lambda outcomes: Counts([outcome.counts for outcome in outcomes if outcome.counts])
        )

    def draw(self, model: str, version: str | None, count: int, reviewer: str | None, seed: int | None = None) -> int:
        """Add a random sample of confident predictions without feedback to the queue; return how many were drawn.

        Rows are read at random numbers of the table, none twice, and those that do not belong to the draw are skipped.
        So all predictions have the same chance, wherever they are in the table and whatever was deleted around them,
        without reading all rows. For a model with few rows in a large table this may find fewer than asked for.

        Parameters
        ----------
        model, version
            What to draw from; any version if None.
        count
            How many at most.
        reviewer
            Who draws.
        seed
            Of the random numbers.
        """
        is_chosen = predictions.c.confident & predictions.c.prediction.is_not(None) & (predictions.c.model == model)
        if version is not None:
            is_chosen &= predictions.c.version == version
        drawable = (has_inputs if self._with_inputs else sa.true()).label("drawable")
        query = sa.select(predictions.c.seq, predictions.c.id, predictions.c.version, drawable).where(is_chosen)
        found: dict[str, int] = {}
        confident, read = Counter[str](), 0
        with self._store.reading() as connection:
            numbers = prediction_range(connection)
            if not numbers:
                return 0
            oldest = sa.select(predictions.c.received).where(predictions.c.seq == numbers.start)
            values = {"model": model, "since": connection.execute(oldest).scalar() or 0.0}
            choice = np.random.default_rng(seed).choice(len(numbers), min(len(numbers), MAX_READ), False)
            order = (numbers.start + choice).tolist()
            while read < len(order) and (read < MIN_READ or len(found) < count):
                step = order[read : read + _STEP]
                read += len(step)
                rows = {row.seq: row for row in connection.execute(query.where(predictions.c.seq.in_(step)))}
                confident.update(row.version for row in rows.values())
                if len(found) < count:
                    known = _with_feedback(connection, model, [row.id for row in rows.values()])
                    for seq in step:  # in their random order, not that of the table
                        if (row := rows.get(seq)) and row.drawable and row.id not in known:
                            found.setdefault(row.id, seq)
        new = [
            {**values, "version": name, "confident": round(number * len(numbers) / read)}
            for name, number in confident.items()
        ]
        seqs = list(found.values())[:count]
        return self._store.write(lambda connection: self._add(connection, model, seqs, reviewer, new))

    def _add(
        self, connection: sa.Connection, model: str, seqs: Sequence[int], reviewer: str | None, new: Sequence[Any]
    ) -> int:
        """Add drawn predictions to the queue and to its history, and new rows of the draws; return their number."""
        now, drawn, reader = time.time(), Counter[str](), InputsReader(connection)
        constant = {"verdict": "sampled", "created": now, "updated": now, "counted": False, "status": "pending"}
        for start in range(0, len(seqs), _STEP):
            is_next = predictions.c.seq.in_(seqs[start : start + _STEP])
            rows = connection.execute(sa.select(predictions).where(is_next)).mappings().all()
            # Feedback may have arrived since they were drawn.
            known = _with_feedback(connection, model, [row["id"] for row in rows])
            samples = [
                prediction_snapshot({**row, "inputs": reader.text(row)}, self._redact)
                | {"label": row["prediction"], "revision": 1, "sampled": True, **constant}
                for row in rows
                if row["id"] not in known
            ]
            if samples:
                self._size.require(connection, text_bytes(samples))
                connection.execute(feedback.insert(), samples)
            drawn.update(row["version"] for row in samples)
        is_new = (feedback.c.verdict == "sampled") & feedback.c.joined & (feedback.c.status == "pending")
        is_new &= (feedback.c.created == now) & (feedback.c.model == model)
        columns = (feedback.c.id, feedback.c.created, feedback.c.verdict, feedback.c.label)
        entries = sa.select(*columns, sa.literal(reviewer, sa.Text)).where(is_new)
        connection.execute(history.insert().from_select(("feedback_id", "time", "verdict", "label", "user"), entries))
        # A client may send any number of versions; of those that are not drawn, only earlier samples need new counts.
        before = set(connection.execute(sa.select(draws.c.version).where(draws.c.model == model)).scalars())
        counted = [{**row, "time": now} for row in new if row["version"] in before | drawn.keys()]
        is_counted = draws.c.version.in_([row["version"] for row in counted])
        connection.execute(draws.delete().where(draws.c.model == model, is_counted))
        if counted:
            connection.execute(draws.insert(), counted)
        return drawn.total()

    def statistics(self, chosen: Filter, since: float, reviewer: str | None) -> PageStatistics:
        """Return what the first page of a filter shows beside the corrections.

        Parameters
        ----------
        chosen
            The filter.
        since, reviewer
            Whose decisions are counted, from which Unix time in seconds on; None for all reviewers.
        """
        number, pair = sa.func.count(), (feedback.c.prediction, label_column)
        are_short = (sa.func.length(text) <= MAX_LABEL for text in pair)
        labelled, created = feedback.c.id.in_(sa.select(_charted(chosen.of_any_label()).c.id)), _charted(chosen).c.key
        with self._store.reading() as connection:
            query = sa.select(feedback.c.status, number).where(*conditions(chosen._replace(status=None)))
            counts = dict.fromkeys(STATUSES, 0) | dict(connection.execute(query.group_by(feedback.c.status)).all())
            query = sa.select(*pair, number).where(labelled, *are_short).group_by(*pair)
            query = query.order_by(number.desc(), *pair).limit(MAX_CELLS)
            pairs = [(decode_label(was), decode_label(label), n) for was, label, n in connection.execute(query)]
            first, last = connection.execute(sa.select(sa.func.min(created), sa.func.max(created))).one()
            step = next((step for step in reversed(STEPS) if last and last - first > BARS * step), STEPS[0])
            exact = created / step
            rounded = sa.cast(exact, sa.BigInteger)  # databases round a float differently
            index = sa.case((rounded > exact, rounded - 1), else_=rounded).label("step_index")
            query = sa.select(index, number).group_by(index).order_by(index)
            rates = [(start * step, total) for start, total in connection.execute(query)]
            by_whom = sa.true() if reviewer is None else decisions.c.reviewer == reviewer
            decided = sa.select(decisions.c.feedback_id).where(decisions.c.time >= since, by_whom)
            count_decided = sa.select(number).where(feedback.c.id.in_(decided), feedback.c.status != "pending")
            count_suspects = sa.select(number).select_from(suspects).join(feedback, of_suspect)
            if chosen.model is not None:
                count_decided = count_decided.where(feedback.c.model == chosen.model)
                count_suspects = count_suspects.where(suspects.c.model == chosen.model)
            decided_now, suspected = (connection.execute(one).scalar_one() for one in (count_decided, count_suspects))
            accuracy = accuracy_counts(connection, self._tolerances)
            return PageStatistics(counts, pairs, step, rates, decided_now, suspected, accuracy)

    def errors(self, chosen: Filter) -> Floats:
        """Return label minus prediction of what a filter selects, regardless of its prediction, label and error.

        Returns
        -------
        ndarray
            Shape ``(n,)``, in no particular order: of the corrections whose prediction and label are finite numbers.
        """
        error = label_error(feedback.c.prediction, label_column).label("error")
        query = sa.select(error).where(*conditions(chosen.of_any_label())).execution_options(yield_per=10_000)
        with self._store.reading() as connection, connection.execute(query) as result:
            errors = np.fromiter((np.nan if value is None else value for value in result.scalars()), np.float64)
        return errors[np.isfinite(errors)]

    def mix(self, selection: Selection) -> Mix:
        """Return what the rows of a dataset stand for."""
        with self._store.reading() as connection:
            return _mix(connection, selection)

    def examples(self, selection: Selection, mix: Mix, source: str = "", after: int = 0) -> Generator[Example]:
        """Yield accepted corrections, or one of `ADDED`, with a greater identifier, from one query."""
        with self._store.reading() as connection:
            yield from _examples(connection, selection, mix, source, after)

    @contextmanager
    def training_set(self, model: str, include: Collection[str] = ()) -> Iterator[TrainingSet]:
        """Read the rows of a model for a release, all from one state of the database."""
        selection = Selection(model, include=include)
        is_suspect = sa.select(feedback.c.id).where(of_suspect, suspects.c.model == model)
        drawn = sa.select(draws).where(draws.c.model == model).order_by(draws.c.time.desc(), draws.c.version)
        with self._store.reading() as connection:
            check = _last_check(connection, model)
            counts = [_count(connection, row, Tolerance()) for row in connection.execute(drawn.limit(LATEST)).all()]
            mix = _mix(connection, selection)
            examples = (_examples(connection, selection, mix, source, 0) for source in ("", *include))
            yield TrainingSet(
                itertools.chain.from_iterable(examples),
                set(connection.execute(is_suspect).scalars()),
                check.time if check else None,
                {one.version: {"confident": one.population, "with_feedback": one.known} for one in counts},
                mix,
            )

    def labels_to_check(self, model: str, seen: int) -> tuple[CheckState, list[LabelledRow] | None]:
        """Return the state of a check that begins now, and the labels to check; None if the last check still fits.

        It fits until labels of the model are decided, or feedback comes and the check is old. The labels are those of
        accepted corrections and of confirmed predictions, see `MAX_ACCEPTED`, up to `MAX_COMPARED` characters: all are
        in memory at once.

        Parameters
        ----------
        model
            The model.
        seen
            The last decision that is known not to be of this model, or to be before its check.
        """
        decision, newest = (sa.select(sa.func.max(table.c.id)).scalar_subquery() for table in (decisions, feedback))
        accepted = (
            sa.select(feedback.c.id, label_column.label("label"), feedback.c.revision)
            .where(feedback.c.model == model, is_accepted, sa.func.length(label_column) <= MAX_COMPARED)
            .order_by(feedback.c.id.desc())
            .limit(MAX_ACCEPTED)
        )
        # Its label is the prediction, to which the label that the user sent is equal, or close.
        confirmed = (
            sa.select(feedback.c.id, feedback.c.prediction.label("label"), sa.null().label("revision"))
            .where(
                feedback.c.verdict == "accepted", feedback.c.joined, feedback.c.status.in_(map(sa.literal, STATUSES))
            )
            .where(feedback.c.model == model, sa.func.length(feedback.c.prediction) <= MAX_COMPARED, ~is_accepted)
            .order_by(feedback.c.created.desc())
            .limit(MAX_CONFIRMED)
        )
        with self._store.reading() as connection:
            state = CheckState(*(number or 0 for number in connection.execute(sa.select(decision, newest)).one()))
            last = _last_check(connection, model)
            if not (last and state.newest > last.newest and time.time() > last.time + CONFIRMED_SECONDS):
                is_new = decisions.c.id > max(seen, last.decision if last else 0)
                of_model = sa.select(decisions.c.id).join(feedback, decisions.c.feedback_id == feedback.c.id)
                of_model = of_model.where(is_new, feedback.c.model == model).limit(1)
                if connection.execute(of_model).first() is None:
                    return state, None
            queries = (query.execution_options(yield_per=1000) for query in (accepted, confirmed))
            return state, [LabelledRow(*row) for query in queries for row in connection.execute(query)]

    def inputs(self, ids: Sequence[int], characters: int) -> dict[int, str]:
        """Read stored inputs by their correction, as many as so many characters allow; too long ones are empty."""
        lengths = sa.select(feedback.c.id, sa.func.coalesce(sa.func.length(feedback.c.inputs), 0))
        with self._store.reading() as connection:
            rows = connection.execute(lengths.where(feedback.c.id.in_(ids)))
            size: dict[int, int] = {row[0]: row[1] for row in rows}
            result = {id_: "" for id_ in ids if not 0 < size.get(id_, 0) <= characters}
            wanted = next(parts(((id_, size[id_]) for id_ in ids if id_ not in result), characters), [])
            query = sa.select(feedback.c.id, feedback.c.inputs).where(feedback.c.id.in_(wanted))
            return result | {row.id: row.inputs or "" for row in connection.execute(query)}

    def store_check(self, model: str, state: CheckState, rows: Sequence[LabelledRow], found: Iterable[Suspect]) -> None:
        """Store the suspects of a check.

        Parameters
        ----------
        model
            The model.
        state
            When the rows were read.
        rows
            All rows that were compared.
        found
            The suspects among them.
        """
        checked = [row for row in rows if row.revision is not None]

        def write(connection: sa.Connection) -> None:
            of_model = connection.execute(sa.select(suspects).where(suspects.c.model == model))
            stored = {row.feedback_id: row for row in of_model}
            obsolete = [row.id for row in checked if row.id in stored and not _is_settled(stored[row.id], row)]
            for ids in parts([(id_, 1) for id_ in obsolete], _STEP):
                connection.execute(suspects.delete().where(suspects.c.feedback_id.in_(ids)))
            new = [one for one in found if one.feedback_id not in stored or one.feedback_id in obsolete]
            if new:
                connection.execute(suspects.insert(), [{"model": model, **one._asdict()} for one in new])
            connection.execute(label_checks.delete().where(label_checks.c.model == model))
            check = {"checked": len(checked), "confirmed": len(rows) - len(checked), **state._asdict()}
            connection.execute(label_checks.insert().values(model=model, time=time.time(), **check))

        self._store.write(write)

    def state(self) -> ReviewState:
        """Return the state of the queue for a scrape, cached until a commit changes it; see `REVIEW_SECONDS`."""
        cached, now = self._cached, time.monotonic()
        max_age = SHARED_REVIEW_SECONDS if self._store.is_shared else REVIEW_SECONDS
        if cached is not None and now <= self._read_at + max_age:
            return cached
        if now < self._retry_at:
            raise StoreError("the database did not answer a moment ago")
        try:
            with statement_timeout(SCRAPE_TIMEOUT_SECONDS), self._store.reading() as connection:
                generation = self._generation
                state = _read_state(connection, self._tolerances)
        except StoreError:
            self._retry_at = time.monotonic() + REVIEW_RETRY_SECONDS
            raise
        if generation == self._generation:  # else a commit came in between: the next call reads again
            self._cached, self._read_at = state, now
        return state

    def invalidate(self) -> None:
        """Read the state anew next time: a commit may have changed it."""
        self._generation += 1
        self._cached = None


def _newest(connection: sa.Connection, *queries: sa.Select[Any]) -> Iterator[Mapping[Any, Any]]:
    for query in queries:
        with connection.execute(query.limit(HISTORY).execution_options(yield_per=16)) as result:
            yield from result.mappings()


def _selected(selection: Selection, table: sa.Table, received: Any, label: Any) -> list[sa.ColumnElement[bool]]:
    filters: tuple[tuple[Any, Callable[[Any, Any], Any], Any], ...] = (
        (table.c.version, operator.eq, selection.version),
        (label, sa.ColumnElement.in_, selection.labels),
        (received, operator.ge, selection.since),
        (received, operator.lt, selection.until),
        (received, operator.le, selection.reviewed_until),
    )
    return [compare(column, value) for column, compare, value in filters if value is not None]


def _reviewed(selection: Selection, model: sa.ColumnElement[Any] = feedback.c.model) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of accepted corrections and samples."""
    found = _selected(selection, feedback, feedback.c.created, label_column)
    if selection.reviewed_until is not None:
        found.append(feedback.c.reviewed <= selection.reviewed_until)
    return [model == selection.model, is_accepted, label_column.is_not(None), *found]


def _candidates(selection: Selection, mix: Mix, source: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of labels, or of confirmations, of predictions that are stored; their inputs may not be."""
    if source == "labelled":
        table, found = labels, _selected(selection, labels, labels.c.received, labels.c.label)
    else:
        table, found = feedback, _selected(selection, feedback, feedback.c.created, feedback.c.prediction)
        found += [sa.func.coalesce(feedback.c.verdict, "") == "accepted", feedback.c.joined == sa.true()]
    # With coalesce, the rows are read in the order of their keys, and not sorted again for each page.
    of_model = sa.func.coalesce(table.c.model, "") == selection.model
    return [*found, of_model, table.c.predicted >= mix.since, table.c.id % mix.steps.get(source, 1) == 0]


def _added(connection: sa.Connection, selection: Selection, mix: Mix, source: str) -> sa.Select[Any]:
    """Return the query of confirmed, or of labelled, predictions with inputs that are in no other part of a dataset."""
    found = _candidates(selection, mix, source)
    if source == "confirmed":
        if "labelled" in selection.include:
            of_model = sa.func.coalesce(labels.c.model, "")  # else SQLite reads all labels of the model
            is_on_it = (labels.c.prediction_id == feedback.c.prediction_id) & (of_model == selection.model)
            found.append(~sa.exists().where(labels.c.day.in_(stored_days(connection)), is_on_it))
        columns = [column for column in feedback.c if column.name not in {"label", "reviewed_label"}]
        confirmed = sa.select(*columns, feedback.c.prediction.label("label"), sa.null().label("reviewed_label"))
        has_both = feedback.c.inputs.is_not(None) & feedback.c.prediction.is_not(None)
        return confirmed.where(*found, ~is_accepted, has_both)
    first = predictions.alias().c
    is_on_it = (first.day == labels.c.day) & (first.id == labels.c.prediction_id) & (first.model == labels.c.model)
    first_seq = sa.select(sa.func.min(first.seq)).where(is_on_it).correlate(labels).scalar_subquery()
    any_label = Selection(selection.model, reviewed_until=selection.reviewed_until)
    of_any = _reviewed(any_label, sa.func.coalesce(feedback.c.model, ""))  # looked up by the prediction
    reviewed = sa.select(sa.func.count()).where(feedback.c.prediction_id == labels.c.prediction_id, *of_any)
    query = sa.select(
        (_PREFIX + sa.cast(labels.c.id, sa.Text)).label("id"),
        *(labels.c[name] for name in ("prediction_id", "label", "predicted", "loss")),
        *(predictions.c[name] for name in ("model", "version", "block", "position", "prediction", "confidence")),
        *(sa.null().label(name) for name in ("reviewed_label", "user", "reviewer", "reviewed")),
        sa.literal("labelled").label("verdict"),
        sa.literal(0).label("revision"),
    )
    query = query.select_from(labels.join(predictions, predictions.c.seq == first_seq))
    return query.where(*found, has_inputs, reviewed.correlate(labels).scalar_subquery() == 0)


def _mix(connection: sa.Connection, selection: Selection) -> Mix:
    if not selection.include:
        return Mix()
    selection, number = selection._replace(labels=None), sa.func.count()

    def count(*condition: sa.ColumnElement[bool]) -> int:
        return connection.execute(sa.select(number).where(*condition)).scalar_one()

    stored = sa.select(number, sa.func.min(predictions.c.time)).where(predictions.c.model == selection.model)
    in_period = _selected(selection, predictions, predictions.c.received, None)
    traffic, since = connection.execute(stored.where(*in_period)).one()
    if not traffic:
        return Mix(since=math.inf)
    mix, is_sample = Mix(since=since), feedback.c.verdict == "sampled"
    steps = {source: count(*_candidates(selection, mix, source)) // MAX_ADDED + 1 for source in selection.include}
    mix, reviewed = mix._replace(steps=steps), _reviewed(selection)

    def added(source: str, *columns: sa.ColumnElement[Any]) -> Sequence[int]:
        query = _added(connection, selection, mix, source).with_only_columns(*columns, maintain_column_froms=True)
        return connection.execute(query).one() if source in selection.include else [0] * len(columns)

    with_loss = [sa.func.count(sa.case((labels.c.loss == loss, 1))) for loss in (0.0, 1.0)]
    labelled, right, wrong = added("labelled", number, *with_loss)
    mix = mix._replace(classes=right + wrong == labelled)
    wrong *= mix.classes
    others = count(*reviewed, is_sample) + added("confirmed", number)[0] + labelled - wrong
    if not others + wrong:
        return mix
    corrected, recent = count(*reviewed, ~is_sample), count(*reviewed, ~is_sample, feedback.c.predicted >= since)
    mistakes: float = corrected + wrong
    if labelled >= MIN_LABELLED and mix.classes:
        mistakes = recent + (traffic - recent) * (wrong + 0.5) / (labelled + 1)
    limit = MAX_WEIGHTS[labelled >= MIN_LABELLED]
    each = max(traffic - mistakes, others) / max(others, 1), mistakes / max(corrected + wrong, 1)
    weight, mistake = (round(min(one, limit), 6) for one in each)
    return Mix(weight, mistake, traffic, since, max(each) > limit, steps, mix.classes)


def _examples(connection: sa.Connection, selection: Selection, mix: Mix, source: str, after: int) -> Iterator[Example]:
    """Yield accepted corrections, or one of `ADDED`, with a greater identifier, from one state of the database."""
    query = _added(connection, selection, mix, source) if source else sa.select(feedback).where(*_reviewed(selection))
    key, reader = (labels if source == "labelled" else feedback).c.id, InputsReader(connection)
    query = query.where(key > after).order_by(key).execution_options(yield_per=16)
    with connection.execute(query) as result:  # few rows at a time: the inputs of one may have 16 MiB
        for row in result.mappings():
            kind = source or ("sampled" if row["verdict"] == "sampled" else "correction")
            text = reader.text(row) if source == "labelled" else row["inputs"] and unpack_json(row["inputs"])
            is_mistake = kind == "correction" or (kind == "labelled" and mix.classes and row["loss"] == 1.0)
            yield {
                **row,
                "inputs": text,
                "source": kind,
                "weight": mix.mistake if is_mistake else mix.weight,
                "key": int(str(row["id"]).removeprefix(_PREFIX)),
            }


def _last_check(connection: sa.Connection, model: str) -> Any:
    return connection.execute(sa.select(label_checks).where(label_checks.c.model == model)).one_or_none()


def _read_state(connection: sa.Connection, tolerances: Tolerances) -> ReviewState:
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
    asked, later = retrain_requests.c, retrain_requests.alias().c
    is_passed = sa.exists().where(later.model == asked.model, later.seq > asked.seq, later.delivered.is_not(None))
    undelivered = sa.select(asked.model, sa.func.min(asked.created)).where(asked.delivered.is_(None), ~is_passed)
    return ReviewState(
        pending={row.model: sum(other.number for other in rows if other.model == row.model) for row in rows},
        oldest={row.model: min(other.oldest for other in rows if other.model == row.model) for row in rows},
        examples={model: int(total) for model, total in connection.execute(examples)},
        accuracy_counts=accuracy_counts(connection, tolerances),
        unjoined={row.model or "": row.number for row in unjoined},
        oldest_unjoined={row.model or "": row.oldest for row in unjoined},
        undelivered={model: float(at) for model, at in connection.execute(undelivered.group_by(asked.model))},
        unjoined_labels=waiting,
        oldest_unjoined_label=connection.execute(received).scalar() if waiting else None,
    )
