"""The review queue: filter and show corrections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from exporter.storage._labels import label_error
from exporter.storage._predictions import parts
from exporter.storage._redaction import may_hold
from exporter.storage._schema import feedback, is_accepted, is_described, is_unjoined, label_json, ranked, suspects
from exporter.storage.review.correction_document import Redacted, correction_document

STATUSES = ("accepted", "pending", "rejected")
"""A correction's status; accepted corrections become training data."""
VERDICTS = {"user": ("corrected",), "sample": ("sampled",), "all": ("corrected", "sampled")}
"""Verdicts by source: users' corrections, and predictions without feedback that were sampled for review."""

STEP, CHARACTERS = 1000, 16 * 2**20
"""Corrections whose inputs are read at a time, and characters of these inputs, unless a single one has more."""
WAITING_SECONDS = 3600.0
"""How long feedback that describes its prediction waits for it, before it can be reviewed without."""

_ready_before = sa.bindparam("ready_before", callable_=lambda: time.time() - WAITING_SECONDS, type_=sa.Float)
is_ready = is_described & (feedback.c.created < _ready_before)
"""Feedback that waited long enough for its prediction, which it describes."""
# With coalesce, SQLite does not use an index of all unjoined feedback.
is_ready_correction = is_ready & (sa.func.coalesce(feedback.c.verdict, "") == "corrected")
label_column = sa.func.coalesce(feedback.c.reviewed_label, feedback.c.label)
"""The effective label: the reviewer's if there is one, else the user's."""

of_suspect = (suspects.c.feedback_id == feedback.c.id) & (suspects.c.revision == feedback.c.revision) & is_accepted
"""The join of a suspect with its correction, which is accepted but may have a wrong label; see `suspects`."""
_is_suspect = sa.exists().where(of_suspect).correlate(feedback)


class Filter(NamedTuple):
    """Selects corrections; None does not filter.

    Attributes
    ----------
    label, predicted
        The effective label, and the prediction, as stored JSON.
    source
        A key of `VERDICTS`.
    joined
        True for corrections of logged predictions only; False for all feedback whose prediction has not arrived, of
        either verdict; None for what can be reviewed.
    since, until
        Unix time in seconds of the user's first feedback; ``until`` is exclusive.
    confidence_from, confidence_to
        Both are inclusive.
    error_from, error_to
        The effective label minus the prediction, where both are numbers; ``error_to`` is exclusive.
    q
        Text in the comment, the user, the prediction's identifier or the inputs; case does not matter.
    alike
        The identifier of the correction that stands for them; see `exporter.storage.review.rankings`.
    suspect
        Whether it is an accepted correction whose label may be wrong; see `of_suspect`.
    where
        The bins of a slice as JSON; it is `ids` that selects the corrections in it.
    ids
        Identifiers of corrections; see `exporter.slices.population`.
    redacted
        Inputs that are neither shown nor searched; see `exporter.storage.review.correction_document`.
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


PARAMETERS = tuple(name for name in Filter._fields if name not in {"ids", "redacted"})
"""The fields of a `Filter` that clients choose."""


class JsonIds(FunctionElement[int]):
    """The whole numbers in a JSON array: one parameter, however many they are."""

    inherit_cache = True


@compiles(JsonIds)
def _compile(element: JsonIds, compiler: Any, **options: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"  # noqa: S608 (a parameter)


@compiles(JsonIds, "postgresql")
def _compile_for_postgresql(element: JsonIds, compiler: Any, **options: Any) -> str:
    array = compiler.process(element.clauses, **options)
    return f"(SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST({array} AS JSON)))"  # noqa: S608


def conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """Return the filter as SQL conditions; they select corrections and samples, not other joined feedback."""
    verdicts = verdicts_of(chosen)
    has_verdict = (
        feedback.c.verdict == verdicts[0] if len(verdicts) == 1 else feedback.c.verdict.in_(map(sa.literal, verdicts))
    )
    return [has_verdict, is_in_state(chosen.joined), *content_conditions(chosen)]


def verdicts_of(chosen: Filter) -> tuple[str, ...]:
    """Return the verdicts that a filter selects."""
    return ("accepted", "corrected") if chosen.joined is False else VERDICTS[chosen.source]


def is_in_state(joined: bool | None) -> sa.ColumnElement[bool]:
    """Return the condition for `Filter.joined`."""
    if joined is None:  # both values by name: so the index finds a model's in each of them
        return feedback.c.joined.in_((sa.true(), sa.false())) & (feedback.c.joined | is_ready)
    return feedback.c.joined if joined else is_unjoined


def content_conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a filter without those on the verdict and on whether the prediction is known."""
    result: list[sa.ColumnElement[bool]] = []
    if chosen.status is None:  # all three by name: so the index finds a model's, or a day's, in each of them
        result.append(feedback.c.status.in_(map(sa.literal, STATUSES)))
    for column, value in (
        (feedback.c.model, chosen.model),
        (feedback.c.version, chosen.version),
        (feedback.c.status, chosen.status),
        (feedback.c.segment, chosen.segment),
    ):
        if value is not None:
            result.append(column == value)
    result += label_conditions(feedback.c.prediction, label_column, chosen)
    result += _range_conditions(chosen)
    if chosen.alike is not None:
        is_like = ranked.c.leader == chosen.alike
        last = sa.select(sa.func.max(ranked.c.ranking)).where(is_like).scalar_subquery()
        result.append(feedback.c.id.in_(sa.select(ranked.c.feedback_id).where(is_like, ranked.c.ranking == last)))
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


def _range_conditions(chosen: Filter) -> Iterator[sa.ColumnElement[bool]]:
    if chosen.since is not None:
        yield feedback.c.created >= chosen.since
    if chosen.until is not None:
        yield feedback.c.created < chosen.until
    if chosen.confidence_from is not None:
        yield feedback.c.confidence >= chosen.confidence_from
    if chosen.confidence_to is not None:
        yield feedback.c.confidence <= chosen.confidence_to


def label_conditions(
    prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any], chosen: Filter
) -> list[sa.ColumnElement[bool]]:
    """Return the filter's conditions on prediction and label."""
    result = [
        # As in profiles, a number and the string of its digits are the same category.
        column == value if value.startswith('"') else column.in_((value, label_json(value)))
        for column, value in ((label, chosen.label), (prediction, chosen.predicted))
        if value is not None
    ]
    error = label_error(prediction, label)
    result += [error >= chosen.error_from] if chosen.error_from is not None else []
    return result + ([error < chosen.error_to] if chosen.error_to is not None else [])


def of_any_label(chosen: Filter) -> Filter:
    """Return a filter without its conditions on prediction and label."""
    return chosen._replace(label=None, predicted=None, error_from=None, error_to=None)


def list_ids(connection: sa.Connection, chosen: Filter, most: int) -> list[int]:
    """Return the identifiers of the corrections that a filter selects, the newest first, at most so many."""
    query = sa.select(feedback.c.id).where(*conditions(chosen)).order_by(feedback.c.id.desc()).limit(most)
    return list(connection.execute(query).scalars())


def read_predictions(connection: sa.Connection, ids: Sequence[int]) -> Iterator[Sequence[Any]]:
    """Yield the predictions of corrections with stored inputs in parts, each with `CHARACTERS` of inputs at most.

    Each has the columns ``id``, ``prediction``, ``confidence``, ``inputs``, and ``time``, that of the prediction.
    """
    time = sa.func.coalesce(feedback.c.predicted, feedback.c.created).label("time")
    columns = (feedback.c.id, feedback.c.prediction, feedback.c.confidence, feedback.c.inputs, time)
    for start in range(0, len(ids), STEP):
        is_in_step = feedback.c.id.in_(ids[start : start + STEP])
        query = sa.select(feedback.c.id, sa.func.length(feedback.c.inputs)).where(is_in_step)
        sizes = connection.execute(query.order_by(feedback.c.id.desc())).all()
        for part in parts((row for row in sizes if row[1]), CHARACTERS):
            yield connection.execute(sa.select(*columns).where(feedback.c.id.in_(part))).all()


def find_correction(connection: sa.Connection, correction_id: int, redacted: Redacted) -> dict[str, Any] | None:
    """Return a correction, a prediction sampled for review, or unjoined feedback as its document; None for others."""
    is_shown = sa.or_(sa.and_(*conditions(Filter(source="all"))), is_unjoined)
    query = sa.select(feedback).where(feedback.c.id == correction_id, is_shown)
    row = connection.execute(query).mappings().first()
    return None if row is None else correction_document(row, redacted)
