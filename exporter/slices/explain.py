"""Answer which slices contain the most corrections, errors, estimated loss or drift, in numbers and sentences."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.errors import SlicesError
from exporter.monitoring.binner import Binner
from exporter.profiles.profile import CONFIDENCE, PREDICTION, CategoricalFeature, NumericFeature
from exporter.slices import DEFAULT_LIMIT, Of
from exporter.slices.population import Population, read_population
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


def explain(store: Store, binner: Binner, query: SliceQuery) -> Explanation:
    """Search for slices.

    Parameters
    ----------
    store
        The predictions, corrections and labels.
    binner
        Of the version's profile.
    query
        The question.

    Raises
    ------
    SlicesError
        When the profile cannot answer it.
    StoreError
        When the database cannot be read.
    """
    now = time.time()
    since = query.since
    first = 2 * since - now if query.of == "drift" else since
    chosen = BlockFilter(query.model, binner.layout, query.version, first)
    population = read_population(store.bins, binner, chosen)
    if not population.rows and query.version is not None:
        population = population._replace(remarks=_other_versions(store, query, first))
    elif query.version is None:
        remarks = (*population.remarks, *_left_out_versions(store, chosen))
        population = population._replace(remarks=remarks)
    if query.of == "drift":
        question = drift(population, since)
        if population.rows and question.marked.all():
            return _compared_with_training(binner, query, question, now)
    elif query.of == "estimated_loss":
        question = estimated_loss(binner, population)
    else:
        ask = corrections if query.of == "corrections" else errors
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
    # Later predictions are compared with the earlier ones alone.
    least = 1 / (marked + (1 - marked) / MIN_RATIO) if query.of == "drift" else MIN_RATIO
    found = search(codes, question.marked, query.limit, question.dependence, least)
    rows = BinRows(codes)
    slices = [_explained(rows, question, one, query) for one in found.slices]
    remarks = question.remarks
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


DAY = 86400.0
"""How far the search looks back by default, in seconds."""


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
    users
        Number of users who gave the corrections, and the largest share of one of them; None for anything else.
    """

    population: Population
    marked: npt.NDArray[np.bool_]
    weights: Floats | None = None
    dependence: Dependence | None = None
    remarks: tuple[str, ...] = ()
    users: tuple[int, float] | None = None


def corrections(store: Store, population: Population, model: str, version: str | None, since: float) -> Question:
    """Ask for the slices of confident predictions that hold more than their share of the corrections."""
    population = population.select(population.confident)
    stored = store.corrections(model, version, since - LATE_SECONDS)
    position = population.find(stored.ids)
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
            f"One user gave {100 * largest:.0f}% of the corrections: slices that only this user shows are left out."
        )
    dependence = ByUser(of_marked, population.rows) if len(of_marked) else None
    return Question(population, marked, None, dependence, tuple(remarks), (len(number), largest))


def errors(store: Store, population: Population, model: str, version: str | None, since: float) -> Question:
    """Ask for the slices of predictions with a label that hold more than their share of the errors."""
    stored = store.losses(model, version, since - LATE_SECONDS)
    position = population.find(stored.ids)
    losses = np.full(population.rows, np.nan)
    losses[position >= 0] = np.array(stored.values)[position[position >= 0]]
    remarks = (f"Only the newest {MAX_MARKED:,} labels were read.",) if stored.truncated else ()
    labelled = ~np.isnan(losses)
    population, losses = population.select(labelled), losses[labelled]
    if np.isin(losses, (0.0, 1.0)).all():
        return Question(population, losses > 0, remarks=remarks)
    return Question(population, large(losses), losses, remarks=remarks)


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
    return Question(population, later, dependence=ByTime(blocks, later) if population.rows else None)


def large(losses: Floats) -> npt.NDArray[np.bool_]:
    """Return which losses are among the largest tenth.

    >>> large(np.arange(20.0)).nonzero()[0].tolist(), large(np.array([0.0, 0.0, 3.0])).tolist()
    ([18, 19], [False, False, True])
    """
    if not len(losses):
        return np.zeros(0, np.bool_)
    limit = np.quantile(losses, 1 - LARGE_SHARE)
    return np.asarray(losses >= limit if limit > losses.min() else losses > limit)


_PARTS = {
    "corrections": "of the corrections",
    "errors": "of the errors",
    "estimated_loss": "of the estimated loss",
    "drift": "of the predictions",
}
_POPULATION = {
    "corrections": "confident predictions with stored inputs",
    "errors": "predictions with a label and stored inputs",
}
_NOTHING = {
    "corrections": "No confident prediction of this time was corrected",
    "errors": "No prediction of this time with a label was wrong",
    "estimated_loss": "The profile expects no loss of the predictions of this time",
}
_COMPARED = {"before": "before", "traffic": "of the traffic", "training": "in the training data"}
_OUTPUTS = {PREDICTION: "the prediction", CONFIDENCE: "the confidence"}


def document(explanation: Explanation, binner: Binner, watched: str | None = None) -> dict[str, Any]:
    """Return an explanation as JSON; ``watched`` is the model's ``segment_by``, which needs no hint."""
    query = explanation.query
    return {
        "model": query.model,
        "version": query.version,
        "of": query.of,
        "since": _time(explanation.since),
        "until": _time(explanation.until),
        "predictions": explanation.predictions,
        "total": explanation.total,
        "tests": explanation.tests,
        "truncated": explanation.truncated,
        "users": explanation.users[0] if explanation.users else None,
        "largest_user_share": explanation.users[1] if explanation.users else None,
        "remarks": list(explanation.remarks),
        "compared_with": explanation.compared_with,
        "slices": [
            {
                "where": where(one.bins, binner),
                "size": one.size,
                "share": one.share,
                "ratio": one.ratio,
                "q_value": one.q_value,
                "held": one.marked,
                "traffic_share": one.traffic_share,
                "segment_by": by if (by := segment_by(one, binner)) != watched else None,
                "sentence": sentence(explanation, one, binner),
            }
            for one in explanation.slices
        ],
    }


def where(bins: Bins, binner: Binner) -> dict[str, str]:
    """Return the names of a slice's bins, as in the ``bin`` label, by feature."""
    return {binner.target_names[index]: binner.targets[index].labels()[bin_index] for index, bin_index in bins}


def segment_by(one: ExplainedSlice, binner: Binner) -> str | None:
    """Return the categorical input of a slice by which ``segment_by`` can watch it; None if it has none."""
    for index, bin_index in one.bins:
        name, target = binner.target_names[index], binner.targets[index]
        if isinstance(target, CategoricalFeature) and bin_index < len(target.categories) and name in binner.inputs:
            return name
    return None


def sentence(explanation: Explanation, one: ExplainedSlice, binner: Binner) -> str:
    """Return what a slice holds, for people."""
    verb = "is" if explanation.query.of == "estimated_loss" else "are"
    part = f"{_share(one.share)} {_PARTS[explanation.query.of]}"
    rest = f"{_share(one.traffic_share)} {_COMPARED[explanation.compared_with]}"
    return f"{part} {verb} where {describe(one.bins, binner)}, {rest}."


def describe(bins: Bins, binner: Binner) -> str:
    """Return what a slice's predictions have in common, for people."""
    return " and ".join(_named(binner, *pair) for pair in bins)


def _named(binner: Binner, index: int, bin_index: int) -> str:
    """Return a feature with the name of its bin, without the number that sorts bins."""
    target, name = binner.targets[index], binner.target_names[index]
    text = target.labels()[bin_index].partition(" ")[2]
    if isinstance(target, NumericFeature):
        text = _number_bin(text)
    return f"{_OUTPUTS.get(name, name)} is {text}"


def _number_bin(text: str) -> str:
    """
    Return the name of a bin of numbers in words, with three digits, or with more where its ends would look the same.

    >>> _number_bin("[0.488738, 0.63931)"), _number_bin("(12345.6, 23456]"), _number_bin("below 3.53125")
    ('between 0.489 and 0.639', 'between 12,346 and 23,456', 'below 3.53')
    >>> _number_bin("[5.123, 5.1234)"), _number_bin("7"), _number_bin("missing"), _number_bin("above 1e+06")
    ('between 5.123 and 5.1234', '7', 'missing', 'above 1,000,000')
    """
    if text[0] in "[(":
        ends = [float(end) for end in text[1:-1].split(", ")]
        shown = next((pair for digits in (3, 4, 5) if len({*(pair := _rounded(ends, digits))}) == 2), _rounded(ends, 6))
        return f"between {shown[0]} and {shown[1]}"
    side, _, edge = text.partition(" ")
    return f"{side} {_rounded([float(edge)], 3)[0]}" if edge else text


def _rounded(numbers: list[float], digits: int) -> list[str]:
    return [f"{x:,.0f}" if 10**digits <= abs(x) < 1e9 else f"{x:.{digits}g}" for x in numbers]


def _share(value: float) -> str:
    """
    >>> _share(0.7234), _share(0.0432), _share(0.04), _share(0.00043)
    ('72%', '4.3%', '4%', '0.043%')
    """
    return f"{100 * value:.0f}%" if value >= 0.0995 else f"{100 * value:.2g}%"


def summary(explanation: Explanation, binner: Binner) -> str:
    """Return the first slice's sentence, or why there is none."""
    of = explanation.query.of
    if explanation.slices:
        return sentence(explanation, explanation.slices[0], binner)
    if not explanation.predictions:
        return f"There are no {_POPULATION.get(of, 'predictions with stored inputs')} of this time."
    if not explanation.total:
        return f"{_NOTHING.get(of, 'No predictions of this time were received')}."
    return "No combination of at most two bins contains significantly more than its share."


def _time(seconds: float) -> str:
    # A time of the year 1 with a zone may be before that year in UTC.
    return datetime.fromtimestamp(max(seconds, -62135596800), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
