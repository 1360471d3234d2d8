"""The review queue: which corrections a filter selects, their pages in each order, their decisions and history."""

from __future__ import annotations

import heapq
import json
import operator
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.sql.util import ClauseAdapter

from exporter.features.base import decode_label, label_json
from exporter.features.json_inputs import readable, remove_inputs, unpack_json
from exporter.storage._engine import update_of_row
from exporter.storage._labels import label_error
from exporter.storage._predictions import find_predictions, parts, stored_days
from exporter.storage._redaction import may_hold
from exporter.storage._schema import (
    CORRECTIONS,
    JsonIds,
    confidence_key,
    decisions,
    feedback,
    history,
    is_accepted,
    is_described,
    is_unjoined,
    labels,
    storable,
    suspects,
)
from exporter.validation import rfc3339
from exporter.wire.events import VERDICTS

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
_STEP = 1000  # corrections whose inputs are read at a time
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


def list_corrections(
    connection: sa.Connection, chosen: Filter, limit: int, after: Position | None, order: str = "newest"
) -> tuple[list[dict[str, Any]], Position | None]:
    """Return a page of corrections.

    Parameters
    ----------
    connection
        To read with.
    chosen
        Which corrections.
    limit
        How many at most; fewer if their inputs are large, see `PAGE_CHARACTERS`.
    after
        Where the previous page ended, in the same order.
    order
        One of `ORDERS`; corrections without an error come last. Without a confidence, a prediction is the least
        confident.

    Returns
    -------
    tuple
        The corrections as JSON documents, and where this page ended; None if it was the last.
    """
    # Identifiers first: inputs may be large, and only those of a page are read.
    keys = _page_keys(connection, chosen, limit, after, order)
    documents, shown = _read_documents(connection, [row.id for row in keys[:limit]], chosen.redacted)
    return documents, Position(keys[shown - 1].key, keys[shown - 1].id) if len(keys) > shown else None


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


def find_correction(connection: sa.Connection, correction_id: int, redacted: Redacted) -> dict[str, Any] | None:
    """Return a correction, a prediction sampled for review, or unjoined feedback as its document; None for others."""
    is_shown = sa.or_(sa.and_(*conditions(Filter(source="all"))), is_unjoined)
    query = sa.select(feedback).where(feedback.c.id == correction_id, is_shown)
    row = connection.execute(query).mappings().first()
    return None if row is None else correction_document(row, redacted)


def find_prediction(
    connection: sa.Connection, prediction_id: str, model: str | None, redacted: Redacted
) -> dict[str, Any] | None:
    """Return a prediction with its label and its feedback as its document; None if it is not stored."""
    (row,) = find_predictions(connection, [(storable(prediction_id), model)], stored_days(connection))
    if row is None:
        return None
    is_labelled = (labels.c.prediction_id == prediction_id) & (labels.c.model == row["model"])
    query = sa.select(labels.c.label, labels.c.time).where(labels.c.day == row["day"], is_labelled)
    label = connection.execute(query).first()
    is_on_it = (feedback.c.prediction_id == prediction_id) & (feedback.c.model == row["model"]) & feedback.c.joined
    given = connection.execute(sa.select(feedback).where(is_on_it)).mappings().first()
    correction = correction_document(given, redacted) if given else None
    copied = ("model", "version", "segment", "confidence", "code", "duration_seconds")
    return {
        "id": prediction_id,
        **{name: row[name] for name in copied},
        "time": rfc3339(row["time"]),
        "inputs": shown_inputs(row, redacted),
        "prediction": decode_label(row["prediction"]),
        "label": decode_label(label.label) if label else None,
        "labelled": rfc3339(label.time) if label else None,
        "feedback": correction and {name: correction[name] for name in _GIVEN},
    }


def shown_inputs(row: Mapping[Any, Any], redacted: Redacted) -> msgspec.Raw | None:
    """Return the stored inputs of a row without those that are not shown; None if they cannot be read."""
    inputs = readable(unpack_json(remove_inputs(row["inputs"] or "", redacted.get(row["model"], ()))))
    return msgspec.Raw(inputs.encode()) if inputs else None


def read_predictions(connection: sa.Connection, chosen: Filter, most: int) -> Iterator[tuple[Sequence[Any], bool]]:
    """Yield the predictions of the newest corrections with stored inputs that a filter selects, in parts.

    Parameters
    ----------
    connection
        To read with.
    chosen
        Which corrections.
    most
        How many at most.

    Yields
    ------
    tuple
        Rows with the columns ``id``, ``prediction``, ``confidence``, ``inputs`` and ``time``, that of the prediction,
        with `PAGE_CHARACTERS` of inputs at most; and whether there are older ones.
    """
    query = sa.select(feedback.c.id).where(*conditions(chosen), feedback.c.inputs.is_not(None))
    ids = list(connection.execute(query.order_by(feedback.c.id.desc()).limit(most + 1)).scalars())
    time_column = sa.func.coalesce(feedback.c.predicted, feedback.c.created).label("time")
    columns = (feedback.c.id, feedback.c.prediction, feedback.c.confidence, feedback.c.inputs, time_column)
    for start in range(0, min(len(ids), most), _STEP):
        is_in_step = feedback.c.id.in_(ids[start : min(start + _STEP, most)])
        sizes = sa.select(feedback.c.id, sa.func.length(feedback.c.inputs)).where(is_in_step)
        ordered = sizes.order_by(feedback.c.id.desc())
        for part in parts([(row[0], row[1]) for row in connection.execute(ordered) if row[1]], PAGE_CHARACTERS):
            rows = connection.execute(sa.select(*columns).where(feedback.c.id.in_(part))).all()
            yield rows, part[-1] > ids[-1]


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
"""The `COLUMNS` of an accepted correction."""
ROWS = 16
"""Rows that the driver fetches at a time: the inputs of a row may have 16 MiB."""
COLUMNS = tuple(
    feedback.c[name]
    for name in (
        "id", "revision", "prediction_id", "model", "version", "inputs", "label", "reviewed_label", "prediction",
        "confidence", "verdict", "user", "reviewer", "reviewed", "predicted",
    )
)  # fmt: skip


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
    """

    model: str
    version: str | None = None
    labels: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    reviewed_until: float | None = None


def accepted_examples(connection: sa.Connection, selection: Selection, after: int = 0) -> Iterator[Example]:
    """Yield rows of `COLUMNS`, from one query and so from one state of the database.

    Parameters
    ----------
    connection
        To read with.
    selection
        Which corrections.
    after
        The identifier after which to start.
    """
    table = feedback.c
    effective_label = sa.func.coalesce(table.reviewed_label, table.label)
    # Earlier versions took corrections without a label.
    has_label = effective_label.is_not(None)
    conditions = [table.model == selection.model, is_accepted, table.id > after, has_label]
    filters: tuple[tuple[Any, Callable[[Any, Any], Any], Any], ...] = (
        (table.version, operator.eq, selection.version),
        (effective_label, sa.ColumnElement.in_, selection.labels),
        (table.created, operator.ge, selection.since),
        (table.created, operator.lt, selection.until),
        (table.reviewed, operator.le, selection.reviewed_until),
    )
    conditions += [compare(column, value) for column, compare, value in filters if value is not None]
    query = sa.select(*COLUMNS).where(*conditions).order_by(table.id).execution_options(yield_per=ROWS)
    with connection.execute(query) as result:
        for row in result.mappings():
            yield {**row, "inputs": row["inputs"] and unpack_json(row["inputs"])}


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
    """Whether a decision is stored, and the correction as it is now; None if there is none."""

    stored: bool
    correction: dict[str, Any] | None

    def lacks_label(self, decision: Decision) -> bool:
        """Return whether a decision was not stored because it would accept a correction without a label."""
        seen = self.correction or {"revision": None}
        return not self.stored and decision.status == "accepted" and seen["revision"] == decision.revision


def decide(connection: sa.Connection, batch: Sequence[tuple[int, Decision]], redacted: Redacted) -> list[Outcome]:
    """Decide corrections in order, unless another reviewer was first.

    A reviewer who repeats the latest decision, because the response to it was lost, learns that it is stored.

    Parameters
    ----------
    connection
        In a transaction.
    batch
        Identifiers of corrections, each with the decision.
    redacted
        Inputs that are not shown.

    Returns
    -------
    list of Outcome
        Of each decision; corrections are as they are after the last one.
    """
    now = time.time()
    stored = [_store(connection, id_, decision, now) for id_, decision in batch]
    entries = [
        {"feedback_id": id_, "time": now, **decision._asdict(), "revision": decision.revision + 1}
        for (id_, decision), is_stored in zip(batch, stored, strict=True)
        if is_stored
    ]
    if entries:
        connection.execute(decisions.insert(), entries)
    query = sa.select(feedback).where(feedback.c.id.in_({id_ for id_, _ in batch}), _in_review)
    documents = {row["id"]: correction_document(row, redacted) for row in connection.execute(query).mappings()}
    late = {id_ for (id_, _), is_stored in zip(batch, stored, strict=True) if not is_stored}
    latest = _latest_decisions(connection, late)
    return [
        Outcome(
            is_stored or (decision.reviewer is not None and latest.get(id_) == decision),
            documents.get(id_),
        )
        for (id_, decision), is_stored in zip(batch, stored, strict=True)
    ]


def _latest_decisions(connection: sa.Connection, ids: Collection[int]) -> dict[int, Decision]:
    """Return the decision that made the current revision of each correction, where one did."""
    if not ids:
        return {}
    query = sa.select(decisions).join(feedback, decisions.c.feedback_id == feedback.c.id)
    query = query.where(feedback.c.id.in_(ids), decisions.c.revision == feedback.c.revision)
    return {
        row.feedback_id: Decision(row.status, row.label, row.revision - 1, row.reviewer)
        for row in connection.execute(query)
    }


def count_decided(connection: sa.Connection, since: float, reviewer: str | None, model: str | None) -> int:
    """Return how many corrections were decided, those that are pending again not counted.

    Parameters
    ----------
    connection
        To read with.
    since
        Unix time in seconds of the first decision that counts.
    reviewer, model
        Whose decisions on what; None for those of all.
    """
    decided = sa.select(decisions.c.feedback_id).where(decisions.c.time >= since)
    if reviewer is not None:
        decided = decided.where(decisions.c.reviewer == reviewer)
    query = sa.select(sa.func.count()).where(feedback.c.id.in_(decided), feedback.c.status != "pending")
    if model is not None:
        query = query.where(feedback.c.model == model)
    return connection.execute(query).scalar() or 0


_in_review = sa.and_(*conditions(Filter(source="all")))
_update = update_of_row(feedback, ("status", "reviewer", "reviewed", "revision")).where(
    feedback.c.revision == sa.bindparam("seen_revision"), _in_review
)
_update_labelled = _update.where(label_column.is_not(None))
_update_with_label = _update.values(reviewed_label=sa.bindparam("new_label"))


def _store(connection: sa.Connection, correction_id: int, decision: Decision, now: float) -> bool:
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


HISTORY_CHARACTERS = 4 * 2**20
"""Characters of labels and comments after which a page ends."""
_ROWS = 16  # that the driver fetches at a time
_LATEST = 2**31 - 1  # the position after the current feedback, which has no number in the history


class HistoryPosition(NamedTuple):
    """Where a page ended: the numbers of the last earlier feedback and of the last decision."""

    feedback: int = 0
    decision: int = 0


START = HistoryPosition()


def correction_history(
    connection: sa.Connection, correction_id: int, limit: int = 100, after: HistoryPosition = START
) -> tuple[list[dict[str, Any]], HistoryPosition | None]:
    """Return a page of the events of a correction, the earliest first.

    Users' feedback has ``verdict``, ``label``, ``user`` and ``comment``; a sample for review has the verdict
    ``sampled``, and its user is the reviewer who drew it. Decisions have ``status``, ``label``, ``reviewer`` and
    ``revision``. All have ``time``.

    Parameters
    ----------
    connection
        To read with.
    correction_id
        The correction.
    limit
        How many events at most; fewer if their texts are long, see `HISTORY_CHARACTERS`.
    after
        Where the previous page ended.

    Returns
    -------
    tuple
        The events, and where this page ended; None if it was the last.
    """
    streams = (
        _read(connection, query.limit(limit + 1), name) for name, query in _queries(correction_id, after).items()
    )
    events: list[dict[str, Any]] = []
    characters, position = 0, after
    for name, row in heapq.merge(*streams, key=lambda item: item[1]["time"]):
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(events) == limit or (events and characters > HISTORY_CHARACTERS):
            return events, position
        position = position._replace(**{name: row.pop("number")})
        events.append({**row, "time": rfc3339(row["time"]), "label": decode_label(row["label"])})
    return events, None


def _queries(correction_id: int, after: HistoryPosition) -> dict[str, sa.Select[Any]]:
    """Build the queries of users' feedback and of decisions, each in its order."""
    given = ("verdict", "label", "user", "comment")
    earlier = sa.select(history.c.id.label("number"), history.c.time, *(history.c[name] for name in given)).where(
        history.c.feedback_id == correction_id, history.c.id > after.feedback
    )
    latest = sa.select(
        sa.literal(_LATEST).label("number"), feedback.c.updated.label("time"), *(feedback.c[name] for name in given)
    ).where(feedback.c.id == correction_id, feedback.c.verdict != "sampled", sa.literal(after.feedback) < _LATEST)
    columns = ("time", "status", "label", "reviewer", "revision")
    decided = sa.select(decisions.c.id.label("number"), *(decisions.c[name] for name in columns)).where(
        decisions.c.feedback_id == correction_id, decisions.c.id > after.decision
    )
    all_feedback = sa.union_all(earlier, latest).subquery()
    return {
        "feedback": sa.select(all_feedback).order_by(all_feedback.c.number),
        "decision": decided.order_by(decisions.c.id),
    }


def _read(connection: sa.Connection, query: sa.Select[Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with connection.execute(query.execution_options(yield_per=_ROWS)) as result:
        for row in result.mappings():
            yield name, dict(row)
