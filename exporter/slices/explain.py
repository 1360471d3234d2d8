"""Answer which slices hold the most of the corrections, errors, estimated loss or drift of a model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import sqlalchemy as sa

from exporter.monitoring.binner import Binner
from exporter.slices.archived import ArchivedPredictions
from exporter.slices.bits import BinRows, unpack
from exporter.slices.population import read_population
from exporter.slices.query import SliceQuery
from exporter.slices.questions import Question, corrections, disagreement, drift, errors, estimated_loss
from exporter.slices.search import MIN_RATIO, Bins, Slice, search
from exporter.slices.training_shares import grown_bins
from exporter.storage.bin_codes import BlockFilter, recorded_versions
from exporter.validation import any_of, preview

ComparedWith = Literal["before", "traffic", "training"]
"""Predictions of the time before; all that are looked at; the training data."""


class ExplainedSlice(NamedTuple):
    """A slice.

    Attributes
    ----------
    bins
        Indices of targets, and of their bins.
    size
        Predictions in the slice; of drift, those since ``since``.
    marked
        Corrections, errors, loss, or predictions since ``since``, that it holds.
    share, traffic_share
        Of all of those, and of all predictions; of drift, of the predictions before, or of the training values.
    ratio
        The rate in the slice, divided by that of all predictions. With a ``traffic_share`` of 0, the one that half a
        prediction or training value would be takes its place.
    q_value
        See `exporter.slices.search.Slice`.
    """

    bins: Bins
    size: int
    marked: float
    share: float
    traffic_share: float
    ratio: float
    q_value: float


class Explanation(NamedTuple):
    """An answer.

    Attributes
    ----------
    predictions, total
        The predictions that were looked at; and the corrections, errors, loss, or later predictions among them.
    since, until
        When these predictions were received, Unix time in seconds.
    tests
        Number of bins and pairs that count as tests.
    truncated
        Whether there are older predictions since ``since`` that were not looked at.
    users
        See `Question`.
    remarks
        What a reader should know, in sentences.
    compared_with
        What the share of a slice is compared with.
    """

    query: SliceQuery
    slices: list[ExplainedSlice]
    predictions: int
    total: float
    since: float
    until: float
    tests: int
    truncated: bool
    users: tuple[int, float] | None
    remarks: tuple[str, ...]
    compared_with: ComparedWith


def explain(
    connection: sa.Connection, binner: Binner, query: SliceQuery, archived: ArchivedPredictions | None = None
) -> Explanation:
    """Search for slices.

    Parameters
    ----------
    connection
        To read with.
    binner
        Of the version's profile.
    query
        The question.
    archived
        Predictions that have left the database.

    Raises
    ------
    SlicesError
        When the profile cannot answer it.
    StoreError
        When the archive cannot be read.
    """
    now = time.time()
    since = query.since
    first = 2 * since - now if query.of == "drift" else since
    chosen = BlockFilter(query.model, binner.layout, query.version, first)
    population = read_population(connection, binner, chosen)
    if archived:
        population = archived.before(connection, population, binner, chosen)
        if query.of == "errors":
            population = archived.with_late_losses(population, chosen)
    if not population.rows and query.version is not None:
        population = population._replace(remarks=_other_versions(connection, query, first))
    elif query.version is None:
        remarks = (*population.remarks, *_left_out_versions(connection, chosen))
        population = population._replace(remarks=remarks)
    if query.of != "corrections":
        population = population.select(population.is_sampled)
    if query.of == "drift":
        question = drift(population, since)
        if population.rows and question.marked.all():
            return _compared_with_training(binner, query, question, now)
    elif query.of == "estimated_loss":
        question = estimated_loss(binner, population)
    else:
        ask = {"corrections": corrections, "disagreement": disagreement, "errors": errors}[query.of]
        question = ask(connection, population, query.model, query.version, since)
    del population
    return _searched(binner, query, question, now)


def _other_versions(connection: sa.Connection, query: SliceQuery, since: float) -> tuple[str, ...]:
    """Return a remark with the versions that have predictions, where the one that was asked for has none."""
    others = [preview(name) for name in recorded_versions(connection, query.model, since) if name != query.version]
    hint = f"; there are some of {any_of(others)}" if others else ""
    return (f"There are no predictions of version {preview(query.version)} with recorded bins of this time{hint}.",)


def _left_out_versions(connection: sa.Connection, chosen: BlockFilter) -> tuple[str, ...]:
    """Return a remark with the versions whose predictions are in the bins of other profiles."""
    versions = recorded_versions(connection, chosen.model, chosen.since, other_layout=chosen.layout)
    if not versions:
        return ()
    names = any_of(preview(name) for name in versions)
    return (f"Without predictions of version {names}, whose profile has other bins: choose a version to see them.",)


def _searched(binner: Binner, query: SliceQuery, question: Question, now: float) -> Explanation:
    codes = question.population.codes
    if query.of != "drift":  # a low confidence says that the model doubts, and not where
        codes = codes[: binner.confidence]
    marked = float(question.marked.mean()) if len(question.marked) else 0.0
    # The ratio in what was read, where the ratio in all predictions is the least one.
    least = 1 / (marked + (1 - marked) / MIN_RATIO - question.others * marked * (1 - 1 / MIN_RATIO))
    found = search(codes, question.marked, query.limit, question.dependence, least)
    rows = BinRows(codes)
    slices = [_explained(rows, question, one, query) for one in found.slices]
    remarks = question.remarks
    if question.population.share < 1:
        remarks += (f"The archive is sampled: {100 * question.population.share:g} % of the predictions are compared.",)
    if found.left_out:
        remarks += (f"Pairs of bins were not searched for {found.left_out:,} features that stand out least.",)
    slices = [one for one in slices if one.ratio >= MIN_RATIO]  # of the loss itself, not only of large losses
    return _explanation(query, question, now, slices, tests=found.tests, remarks=remarks)


def _explained(rows: BinRows, question: Question, found: Slice, query: SliceQuery) -> ExplainedSlice:
    number, total = len(question.marked), float(np.count_nonzero(question.marked))
    marked, size, all_rows = float(found.marked), found.size, float(number)
    if question.weights is not None:
        marked, total = (
            float(question.weights[unpack(rows.of(found.bins), number)].sum()),
            float(question.weights.sum()),
        )
    traffic: float = size
    if query.of == "drift":  # the traffic before is what the later one is compared with
        size, traffic, all_rows = found.marked, found.size - found.marked, number - total
    elif question.others < 1:  # each one that is not marked stands for several
        traffic = found.marked + (found.size - found.marked) / question.others
        size, all_rows = round(traffic), total + (number - total) / question.others
    share, ratio = marked / total, marked / total / (max(traffic, 0.5) / all_rows)
    return ExplainedSlice(found.bins, size, marked, share, traffic / all_rows, ratio, found.q_value)


def _compared_with_training(binner: Binner, query: SliceQuery, question: Question, now: float) -> Explanation:
    """Compare single bins with the training data, where no predictions were made in the time before."""
    population = question.population
    counts = [np.bincount(codes, minlength=size) for codes, size in zip(population.codes, binner.sizes, strict=True)]
    grown, tests = grown_bins(binner, counts, population.rows)
    slices = []
    for one in grown[: query.limit]:
        trained = one.training_share if binner.targets[one.target].counts[one.bin_index] else 0.0
        bins, ratio = ((one.target, one.bin_index),), one.share / one.training_share
        slices.append(ExplainedSlice(bins, one.size, one.size, one.share, trained, ratio, one.q_value))
    remarks = ("No predictions of the time before are recorded, so single bins are compared with the training data.",)
    explanation = _explanation(query, question, now, slices, tests=tests, remarks=remarks)
    return explanation._replace(compared_with="training")


def _explanation(
    query: SliceQuery, question: Question, now: float, slices: list[ExplainedSlice], remarks: Iterable[str], **rest: Any
) -> Explanation:
    times = question.population.times
    total = np.count_nonzero(question.marked) if question.weights is None else question.weights.sum()
    truncated = question.population.truncated
    since = float(times.min()) if truncated and len(times) else query.since
    if query.of == "drift":
        since = max(since, query.since)
    return Explanation(
        query=query,
        slices=slices,
        predictions=len(times),
        total=float(total),
        since=since,
        until=now,
        truncated=truncated,
        users=question.users,
        remarks=(*question.population.remarks, *remarks),
        compared_with="before" if query.of == "drift" else "traffic",
        **rest,
    )
