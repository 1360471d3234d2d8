"""Answer which slices hold the most of the corrections, errors, estimated loss or drift of a model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from exporter.errors import SlicesError
from exporter.monitoring.binner import Binner
from exporter.slices.population import ArchivedPredictions, Population, read_population
from exporter.slices.search import (
    MIN_RATIO,
    BinRows,
    Bins,
    ByTime,
    ByUser,
    Dependence,
    Slice,
    grown_bins,
    search,
    unpack,
)
from exporter.stats.divergence import Floats, Ints
from exporter.storage import MAX_MARKED, BlockFilter, Store
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
    store: Store, binner: Binner, query: SliceQuery, archived: ArchivedPredictions | None = None
) -> Explanation:
    """Search for slices.

    Parameters
    ----------
    store
        The predictions, corrections and labels.
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
        When the database or the archive cannot be read.
    """
    now = time.time()
    since = query.since
    first = 2 * since - now if query.of == "drift" else since
    chosen = BlockFilter(query.model, binner.layout, query.version, first)
    population = read_population(store.bins, binner, chosen)
    if archived:
        population = archived.before(population, binner, chosen)
        if query.of == "errors":
            population = archived.with_late_losses(population, chosen)
    if not population.rows and query.version is not None:
        population = population._replace(remarks=_other_versions(store, query, first))
    elif query.version is None:
        remarks = (*population.remarks, *_left_out_versions(store, chosen))
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
        question = ask(store, population, query.model, query.version, since)
    del population
    return _searched(binner, query, question, now)


def _other_versions(store: Store, query: SliceQuery, since: float) -> tuple[str, ...]:
    """Return a remark with the versions that have predictions, where the one that was asked for has none."""
    others = [preview(name) for name in store.bins.versions(query.model, since) if name != query.version]
    hint = f"; there are some of {any_of(others)}" if others else ""
    return (f"There are no predictions of version {preview(query.version)} with recorded bins of this time{hint}.",)


def _left_out_versions(store: Store, chosen: BlockFilter) -> tuple[str, ...]:
    """Return a remark with the versions whose predictions are in the bins of other profiles."""
    versions = store.bins.versions(chosen.model, chosen.since, other_layout=chosen.layout)
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


Of = Literal["corrections", "disagreement", "drift", "errors", "estimated_loss"]
QUESTIONS: tuple[Of, ...] = get_args(Of)
"""What the slices may be searched for."""
DAY = 86400.0
"""How far the search looks back by default, in seconds."""
DEFAULT_LIMIT, MAX_LIMIT = 10, 50
"""Slices of an answer: unless the client asks for another number, and at most."""


class SliceQuery(NamedTuple):
    """What a client asks.

    Attributes
    ----------
    model, version
        The model, and its version; all versions in the same bins when None.
    of
        What the slices should hold more than their share of.
    since
        Predictions since this Unix time in seconds; of drift, those of the equal time before as well.
    limit
        Slices at most.
    """

    model: str
    version: str | None
    of: Of
    since: float
    limit: int = DEFAULT_LIMIT


LATE_SECONDS = 86400.0
"""How much earlier than its prediction feedback may arrive, and a prediction may have been made."""
LARGE_SHARE = 0.1
"""Share of the predictions with the largest losses, which are marked where losses are numbers."""
BLOCKS = 20
"""Blocks of time in each of the two periods of drift."""
DOMINANT = 0.5
"""Share of the corrections from which on the answer says that one user gave them."""


class Question(NamedTuple):
    """A question: what slices to search for.

    Attributes
    ----------
    population
        The predictions that are looked at.
    marked
        Which of them are corrected, wrong, or new, shape ``(n,)``.
    weights
        Of what the share is, where that is no number of predictions: the losses, shape ``(n,)``.
    dependence
        Which of them depend on each other; None if none do.
    remarks
        What a reader should know, in sentences.
    others
        Share of the predictions that are not marked which were read; 0 where they are of another time, and the marked
        ones are compared with them alone.
    users
        Number of users who gave the corrections, and the largest share of one of them; None for anything else.
    """

    population: Population
    marked: npt.NDArray[np.bool_]
    weights: Floats | None = None
    dependence: Dependence | None = None
    remarks: tuple[str, ...] = ()
    users: tuple[int, float] | None = None
    others: float = 1.0


def corrections(store: Store, population: Population, model: str, version: str | None, since: float) -> Question:
    """Ask for the slices of confident predictions that hold more than their share of the corrections."""
    population = population.select(population.confident)
    stored = store.corrections(model, version, since - LATE_SECONDS)
    position = population.find(stored.ids)
    chosen = (position >= 0) | population.is_sampled  # corrected predictions are archived whole
    population, position = population.select(chosen), position[chosen]
    marked = position >= 0
    named: dict[str, int] = {}
    # Where nobody was named, each correction counts as one of a user of its own.
    users = [named.setdefault(u, len(named)) if u is not None else -1 - i for i, u in enumerate(stored.values)]
    of_marked: Ints = np.unique(np.array(users, dtype=np.intp)[position[marked]], return_inverse=True)[1]
    remarks = [f"Only the newest {MAX_MARKED:,} corrections were read."] if stored.truncated else []
    number = np.bincount(of_marked)
    largest = float(number.max(initial=0) / max(len(of_marked), 1))
    if largest > DOMINANT and len(of_marked) > 1:
        remarks.append(
            f"One user gave {100 * largest:.0f} % of the corrections: slices that only this user shows are left out."
        )
    dependence = ByUser(of_marked, population.rows) if len(of_marked) else None
    return Question(
        population, marked, None, dependence, tuple(remarks), (len(number), largest), others=population.share
    )


def errors(store: Store, population: Population, model: str, version: str | None, since: float) -> Question:
    """Ask for the slices of predictions with a label that hold more than their share of the errors."""
    stored = store.losses(model, version, since - LATE_SECONDS)
    position = population.find(stored.ids)
    losses = np.full(population.rows, np.nan) if population.losses is None else population.losses.copy()
    losses[position >= 0] = np.array(stored.values)[position[position >= 0]]
    remarks = (f"Only the newest {MAX_MARKED:,} labels were read.",) if stored.truncated else ()
    labelled = ~np.isnan(losses)
    population, losses = population.select(labelled), losses[labelled]
    if np.isin(losses, (0.0, 1.0)).all():
        return Question(population, losses > 0, remarks=remarks)
    return Question(population, large(losses), losses, remarks=remarks)


def disagreement(store: Store, population: Population, model: str, version: str | None, since: float) -> Question:
    """Ask for the slices of predictions to which a version without users gave more than its share of other answers."""
    paired = store.bins.paired(model, version, since - LATE_SECONDS, MAX_MARKED)
    if paired is None:
        nothing = np.zeros(population.rows, np.bool_)
        return Question(population.select(nothing), nothing[:0])
    position = population.find_hashes(paired.ids)
    answered = position >= 0
    remark = f"The answers of version {paired.after}, which no user saw, are compared with those of {paired.before}."
    return Question(population.select(answered), paired.differs[position[answered]], remarks=(remark,))


def estimated_loss(binner: Binner, population: Population) -> Question:
    """Ask for the slices that hold more than their share of the loss that the profile expects.

    Raises
    ------
    SlicesError
        When the profile does not know the quality of the predictions.
    """
    quality = binner.quality
    constant, effects = quality.losses() if quality else (0.0, {})
    if not effects:
        if quality and quality.known and quality.kind == "absolute_error":
            raise SlicesError(
                "of=estimated_loss finds nothing: on the labelled rows of the profile, no feature went together with "
                "larger errors"
            )
        raise SlicesError(
            "of=estimated_loss needs a profile made with --label-column, and for a classifier --confidence-column, "
            "on at least 20 labelled rows"
        )
    losses = np.full(population.rows, constant)
    for name, of_bin in effects.items():
        losses += of_bin[population.codes[binner.target_names.index(name)]]
    known = np.isfinite(losses)
    losses = np.maximum(losses[known], 0.0)
    return Question(population.select(known), large(losses), losses)


def drift(population: Population, since: float) -> Question:
    """Ask for the slices that hold a larger share of the predictions since a time than of those before it."""
    later = population.times >= since
    blocks = np.zeros(population.rows, dtype=np.intp)
    for number, period in enumerate((~later, later)):
        if period.any():
            times = population.times[period]
            step = max(float(np.ptp(times)), 1e-9) / BLOCKS
            blocks[period] = number * BLOCKS + np.minimum((times - times.min()) / step, BLOCKS - 1).astype(np.intp)
    return Question(population, later, dependence=ByTime(blocks, later) if population.rows else None, others=0.0)


def large(losses: Floats) -> npt.NDArray[np.bool_]:
    """Return which losses are among the largest tenth.

    >>> large(np.arange(20.0)).nonzero()[0].tolist(), large(np.array([0.0, 0.0, 3.0])).tolist()
    ([18, 19], [False, False, True])
    """
    if not len(losses):
        return np.zeros(0, np.bool_)
    limit = np.quantile(losses, 1 - LARGE_SHARE)
    return np.asarray(losses >= limit if limit > losses.min() else losses > limit)
