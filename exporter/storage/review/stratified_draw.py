"""Read confident predictions at random, and choose from them a sample that is stratified by confidence."""

from __future__ import annotations

import bisect
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from exporter.stats.divergence import Floats
from exporter.stats.strata import Integers, add_edges, allocate, shares, stratum_of
from exporter.stats.tolerance import Tolerance
from exporter.storage._retention import prediction_range
from exporter.storage._schema import draws, feedback, has_inputs, predictions
from exporter.storage.review.accuracy_counts import Drawn, count_strata
from exporter.storage.review.sample_strata import Strata, stored_strata

MIN_READ, MAX_READ = 10_000, 200_000
"""Rows that one draw reads: at least the first, for a good estimate of how many are confident; at most the second."""
MORE = 4
"""At first, candidates are looked for until there are so many times those to draw; where a stratum needs more, so many
times as many rows are read at most."""
STEP = 500
"""Rows of one query."""


class Draw(NamedTuple):
    """Selects the predictions to draw from.

    ``with_inputs`` leaves out predictions without inputs, for a store that keeps the inputs of a random share.
    """

    model: str
    version: str | None = None
    with_inputs: bool = False


class VersionSample(NamedTuple):
    """The sample of a version.

    Attributes
    ----------
    seqs
        Numbers of the drawn predictions.
    edges
        Edges of the strata; see `Strata`.
    confidences
        Those of all confident predictions that were read, of shape (n,), NaN for none.
    scale
        Confident predictions in the store for each that was read.
    """

    seqs: list[int]
    edges: list[float]
    confidences: Floats
    scale: float

    def strata(self, stored: Strata | None) -> Strata:
        """Return the strata to store, divided at the edges of another draw that was stored since, too."""
        edges = sorted({*self.edges, *((stored and stored.edges) or ())})
        sizes = np.bincount(stratum_of(self.confidences, edges), minlength=len(edges) + 2) * self.scale
        return Strata(tuple(edges), tuple(np.rint(sizes).astype(int).tolist()), len(self.confidences))


class Sample(NamedTuple):
    """The samples of a model by version, and when the oldest prediction that could be drawn was received."""

    model: str
    since: float
    versions: dict[str, VersionSample]


class _Candidate(NamedTuple):
    seq: int
    confidence: float


class _RandomRows:
    """Reads rows at random numbers of the table, none twice.

    Attributes
    ----------
    numbers_read, searched : int
        How many numbers were read, and among how many of them candidates were looked for.
    confidences : dict
        By version, those of all confident predictions that were read, NaN for none.
    candidates : dict
        By version, predictions that may be drawn, in random order.
    versions : list
        The version of each candidate, in the same order.
    """

    def __init__(self, connection: sa.Connection, chosen: Draw, numbers: range, rng: np.random.Generator) -> None:
        self._connection = connection
        self._model = chosen.model
        self._query = _confident(chosen)
        self._numbers = (numbers.start + rng.choice(len(numbers), min(len(numbers), MAX_READ), False)).tolist()
        self._ids: set[str] = set()
        self.numbers_read = self.searched = 0
        self.confidences: defaultdict[str, list[float]] = defaultdict(list)
        self.candidates: defaultdict[str, list[_Candidate]] = defaultdict(list)
        self.versions: list[str] = []

    def read(self, enough: Callable[[], bool], is_wanted: Callable[[str, float], bool], most: float = math.inf) -> None:
        """Read until there are enough candidates, or no further numbers.

        Parameters
        ----------
        enough
            Asked before each query.
        is_wanted
            Whether a candidate with this version and confidence is kept.
        most
            Once there are so many candidates, no more are looked for.
        """
        while self.numbers_read < len(self._numbers) and not enough():
            step = self._numbers[self.numbers_read : self.numbers_read + STEP]
            self.numbers_read += len(step)
            rows = {row.seq: row for row in self._connection.execute(self._query.where(predictions.c.seq.in_(step)))}
            ordered = [rows[seq] for seq in step if seq in rows]  # in their random order, not that of the table
            for row in ordered:
                self.confidences[row.version].append(math.nan if row.confidence is None else row.confidence)
            if len(self.versions) < most:
                self.searched += len(step)
                self._add_candidates(ordered, is_wanted)

    def _add_candidates(self, rows: Sequence[Any], is_wanted: Callable[[str, float], bool]) -> None:
        known = with_feedback(self._connection, self._model, [row.id for row in rows])
        for row in rows:
            confidence = math.nan if row.confidence is None else row.confidence
            is_new = row.drawable and row.id not in known and row.id not in self._ids
            if is_new and is_wanted(row.version, confidence):
                self._ids.add(row.id)
                self.candidates[row.version].append(_Candidate(row.seq, confidence))
                self.versions.append(row.version)


class _Plan:
    """The number of predictions of a version that are drawn from each stratum.

    Parameters
    ----------
    connection
        To read with.
    drawn
        The version.
    rows
        The rows that were read first.
    count
        How many predictions are drawn.
    scale
        Rows in the table for each that was read.
    """

    def __init__(self, connection: sa.Connection, drawn: Drawn, rows: _RandomRows, count: int, scale: float) -> None:
        confidences = np.array(rows.confidences[drawn.version])
        row = connection.execute(select_draw(drawn.model, drawn.version)).one_or_none()
        before = (stored_strata(row).edges if row else None) or ()
        earlier = count_strata(connection, drawn, Strata(None, (0,), 0))
        self.edges = add_edges(before, confidences, earlier.reviewed + sum(earlier.pending) + count)
        self._count, self._width = count, len(self.edges) + 2
        self._candidates = rows.candidates[drawn.version]
        strata = stratum_of(confidences, self.edges)
        seen = np.bincount(strata, minlength=self._width)
        counts = count_strata(connection, drawn, Strata(tuple(self.edges), (0,) * self._width, 0))
        found = np.bincount(self._strata(), minlength=self._width)
        sizes = np.maximum(seen * scale - counts.known, found)
        claimed = np.bincount(strata, weights=1 - confidences, minlength=self._width) / np.maximum(seen, 1)
        claimed[seen == 0] = math.nan
        decided = np.array(counts.decided, float)
        self._goal = shares(sizes, claimed, decided, decided - counts.right) if found.any() else sizes
        self._labels = [done + waiting for done, waiting in zip(counts.decided, counts.pending, strict=True)]
        self._missing = self._allocate(np.ceil(found * scale * rows.numbers_read / rows.searched)) - found

    @property
    def is_complete(self) -> bool:
        """Whether every stratum has enough candidates."""
        return bool((self._missing <= 0).all())

    def take(self, confidence: float) -> bool:
        """Return whether a further candidate with this confidence is needed; count it."""
        stratum = self._width - 1 if math.isnan(confidence) else bisect.bisect_right(self.edges, confidence)
        self._missing[stratum] -= 1
        return bool(self._missing[stratum] >= 0)

    def choose(self) -> list[int]:
        """Return the numbers of the predictions to draw."""
        strata = self._strata()
        left = self._allocate(np.bincount(strata, minlength=self._width))
        chosen: list[int] = []
        for candidate, stratum in zip(self._candidates, strata.tolist(), strict=True):
            if left[stratum]:
                left[stratum] -= 1
                chosen.append(candidate.seq)
        return chosen

    def _strata(self) -> Integers:
        return stratum_of(np.array([candidate.confidence for candidate in self._candidates], float), self.edges)

    def _allocate(self, available: Floats | Integers) -> Integers:
        return np.array(allocate(self._count, self._goal, self._labels, available.astype(int).tolist()))


def draw(connection: sa.Connection, chosen: Draw, count: int, rng: np.random.Generator, tolerance: Tolerance) -> Sample:
    """Draw a sample; see `exporter.storage.review.review_samples.sample_for_review`."""
    numbers = prediction_range(connection)
    if not numbers:
        return Sample(chosen.model, 0.0, {})
    since = connection.execute(sa.select(predictions.c.received).where(predictions.c.seq == numbers.start)).scalar()
    rows = _RandomRows(connection, chosen, numbers, rng)
    rows.read(lambda: rows.numbers_read >= MIN_READ and len(rows.versions) >= count, lambda *_: True, most=MORE * count)
    counts, scale = Counter(rows.versions[:count]), len(numbers) / rows.numbers_read
    # A client may send any number of versions; of those that are not drawn, only earlier samples need new counts.
    before = connection.execute(sa.select(draws.c.version).where(draws.c.model == chosen.model)).scalars()
    versions = dict.fromkeys((*counts, *filter(rows.confidences.__contains__, before)))
    now = time.time()
    plans = {}
    for version in versions:
        drawn = Drawn(chosen.model, version, since or 0.0, now, tolerance)
        plans[version] = _Plan(connection, drawn, rows, counts[version], scale)
    limit = MORE * rows.numbers_read
    rows.read(
        lambda: rows.numbers_read >= limit or all(plan.is_complete for plan in plans.values()),
        lambda version, confidence: version in plans and plans[version].take(confidence),
    )
    scale = len(numbers) / rows.numbers_read
    return Sample(
        chosen.model,
        since or 0.0,
        {
            version: VersionSample(plan.choose(), plan.edges, np.array(rows.confidences[version]), scale)
            for version, plan in plans.items()
        },
    )


def select_draw(model: str, version: str) -> sa.Select[Any]:
    """Build the query of the last draw of a version."""
    return sa.select(draws).where(draws.c.model == model, draws.c.version == version)


def with_feedback(connection: sa.Connection, model: str, ids: Collection[str]) -> set[str]:
    """Return those of the predictions that have feedback."""
    # With coalesce, the database does not use the model's index, in which all of the model's feedback is.
    condition = feedback.c.prediction_id.in_(ids) & (sa.func.coalesce(feedback.c.model, model) == model)
    return set(connection.execute(sa.select(feedback.c.prediction_id).where(condition)).scalars())


def _confident(chosen: Draw) -> sa.Select[Any]:
    """Build the query of confident predictions; ``drawable`` is set for those that may be drawn."""
    condition = predictions.c.confident & predictions.c.prediction.is_not(None) & (predictions.c.model == chosen.model)
    if chosen.version is not None:
        condition &= predictions.c.version == chosen.version
    drawable = has_inputs if chosen.with_inputs else sa.true()
    columns = (predictions.c.seq, predictions.c.id, predictions.c.version, predictions.c.confidence)
    return sa.select(*columns, drawable.label("drawable")).where(condition)
