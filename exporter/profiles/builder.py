"""Training data to a profile, in bounded memory and a few passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from exporter.errors import ProfileError
from exporter.features.base import InputType
from exporter.features.categorical import Categorical
from exporter.features.extract import as_list
from exporter.features.timestamp import unix_seconds
from exporter.features.types import INPUT_TYPES, LEARNERS, Learner, State, input_type
from exporter.profiles.bin_edges import numeric_feature
from exporter.profiles.correlation_builder import CorrelationBuilder
from exporter.profiles.profile import Correlation, Feature, NumericFeature, Profile
from exporter.profiles.readers import Batch, FileSource, Source
from exporter.profiles.sketches import CategorySketch, NumericSketch
from exporter.profiles.type_inference import Column, ColumnTypeInference
from exporter.validation import preview, suggestion

Progress = Callable[[str, float, int], None]
"""Called with the pass, the share of it that is done, and its rows so far."""
EXACT = 4_000_000
"""Distinct numbers that are held at once, over all features; each feature holds 10,000 at least."""


class Options(NamedTuple):
    """How to profile.

    Attributes
    ----------
    name
        The profile's name; the source's when None.
    prediction_column, confidence_column
        What the model predicted for each row, and its confidence: the training side of the
        prediction's and the confidence's drift, and no features.
    time_column
        When each row arrived; the age of a moment is measured from there, else from the present.
    ignore
        Columns that are no features: labels, identifiers.
    types
        Type of an input where the inferred one is wrong; a prediction is numeric or categorical.
    expected
        Type of an input, if it is there: what production sends may hold values of any other.
    bins, categories
        Bins of a number, categories of their own of a categorical input.
    exact
        See `EXACT`.
    """

    name: str | None = None
    prediction_column: str | None = None
    confidence_column: str | None = None
    time_column: str | None = None
    ignore: Sequence[str] = ()
    types: Mapping[str, str] = {}
    expected: Mapping[str, str] = {}
    bins: int = 20
    categories: int = 50
    exact: int = EXACT

    def given(self) -> dict[str, str]:
        """The types of columns that are known before anything was read."""
        return {**self.types, **({self.confidence_column: "numeric"} if self.confidence_column else {})}


def build_file(path: Path, *, progress: Progress | None = None, **options: Any) -> Profile:
    """Profile the training data in a file.

    Parameters
    ----------
    path
        CSV, Parquet, NPZ (one array a column, images of shape ``(n, height, width[, channels])``)
        or JSON lines (one object a row; nested arrays are images).
    progress
        Told how far it is.
    options
        Fields of `Options`.

    Raises
    ------
    ProfileError
        When the file cannot be read, or has no rows, or lacks a column that was named.
    """
    chosen = Options(**options)
    return build(FileSource(path, chosen.given()), chosen, progress)


def build(source: Source, options: Options, progress: Progress | None = None) -> Profile:
    """Profile any training data; see `build_file`."""
    return _Builder(source, options, progress or (lambda *_: None)).profile()


class _Builder:
    def __init__(self, source: Source, options: Options, progress: Progress) -> None:
        self._source = source
        self._options = options
        self._progress = progress
        self._now = time.time()
        self._seen: dict[str, ColumnTypeInference] = {}
        self._rows = 0
        self._single: set[str] = set()  # numeric columns of 32-bit numbers

    def profile(self) -> Profile:
        options = self._options
        known = self._source.columns()
        self._seen |= {name: ColumnTypeInference(numbers) for name, numbers in known.items()}
        unknown = {name for name, numbers in known.items() if not numbers or name == options.prediction_column}
        rows = self._source.rows if known and not unknown else None
        self._rows = rows or 0
        for batch in self._pass("types", unknown if known else None) if rows is None else ():
            self._rows += batch.rows
            for name, values in batch.columns.items():
                self._seen.setdefault(name, ColumnTypeInference()).add(values)
        self._check()
        outputs = {options.prediction_column, options.confidence_column, options.time_column, *options.ignore}
        given = {**options.expected, **options.types}
        inputs = {n: given.get(n) or seen.type() for n, seen in self._seen.items() if n not in outputs}
        learners = self._learn(inputs)
        learned: dict[str, State] = {name: learner.state() for name, learner in learners.items()}
        kinds = {
            name: learners[name].input_type() if name in learners else input_type(kind, None)
            for name, kind in inputs.items()
        }
        alone = {name for name, numbers in known.items() if numbers and self._source.alone}
        frozen = self._freeze(kinds, alone)
        features: dict[str, Feature] = {}
        for name, kind in kinds.items():
            if twice := features.keys() & kind.features(name):
                wanted = "rename or ignore a column"
                raise ProfileError(f"{self._source.where}: two features are called {preview(min(twice))}; {wanted}")
            found = frozen[name]
            features |= zip(kind.features(name), found, strict=True)
            if kind.statistics and not any(isinstance(f, NumericFeature) and f.edges for f in found):
                raise ProfileError(f"{self._source.where}: no value of the column {preview(name)} is {kind.noun}")
        prediction, confidence = options.prediction_column, options.confidence_column
        sure = frozen[confidence][0] if confidence else None
        return Profile(
            name=options.name or self._source.name,
            rows=self._rows,
            inputs=inputs,
            features=features,
            prediction=frozen[prediction][0] if prediction else None,
            confidence=sure if isinstance(sure, NumericFeature) else msgspec.UNSET,
            learned=learned or msgspec.UNSET,
            correlation=self._correlation(kinds, features) or msgspec.UNSET,
        )

    def _pass(self, what: str, names: Collection[str] | None = None) -> Iterator[Batch]:
        rows = 0
        for batch in self._source.batches(names):
            rows += batch.rows
            yield batch
            self._progress(what, batch.done, rows)

    def _check(self) -> None:
        where, options = self._source.where, self._options
        outputs = (options.prediction_column, options.confidence_column, options.time_column)
        for column in [*filter(None, outputs), *options.ignore, *options.types]:
            if column not in self._seen and (self._rows or self._seen):
                raise ProfileError(f"{where}: has no column {preview(column)}; {suggestion(column, self._seen)}")
        if not self._rows:
            raise ProfileError(f"{where}: has no rows to profile")
        for kind in options.types.values():
            if kind not in INPUT_TYPES:
                raise ProfileError(f"{where}: {preview(kind)} is no type of an input; {suggestion(kind, INPUT_TYPES)}")

    def _learn(self, inputs: Mapping[str, str]) -> dict[str, Learner]:
        learners = {name: LEARNERS[kind]() for name, kind in inputs.items() if kind in LEARNERS}
        for batch in self._pass("words and vectors", learners) if learners else ():
            for name, learner in learners.items():
                learner.learn(batch.columns.get(name, ()))
        return learners

    def _freeze(self, kinds: Mapping[str, InputType], alone: Collection[str]) -> dict[str, list[Feature]]:
        """The bins of the features of each input, and of the outputs by their columns' names.

        Columns that can be read alone are, one at a time, where all of one may be held at once.
        """
        options = self._options
        watched = dict(kinds)
        if options.confidence_column:
            watched[options.confidence_column] = input_type("numeric")
        if name := options.prediction_column:
            wanted = options.types.get(name) or self._seen[name].output_type()
            watched[name] = input_type(wanted if wanted == "numeric" else "categorical")
        whole = [n for n, kind in watched.items() if n in alone and kind.type == "numeric"]
        whole = whole if self._rows <= options.exact else []
        frozen: dict[str, list[Feature]] = {}
        for name, values in self._source.whole(whole) if whole else ():
            self._note(name, values)
            frozen[name] = [numeric_feature(values.astype(np.float64, copy=False), options.bins, own=True)]
            self._progress("values", len(frozen) / len(watched), self._rows)
        tallied = self._tally({name: kind for name, kind in watched.items() if name not in frozen}, watched)
        frozen |= {name: [tally.feature() for tally in tallies] for name, tallies in tallied.items()}
        for name in self._single:
            if isinstance(feature := frozen[name][0], NumericFeature):
                frozen[name] = [msgspec.structs.replace(feature, precision="single")]
        return frozen

    def _tally(
        self, kinds: Mapping[str, InputType], watched: Mapping[str, InputType]
    ) -> dict[str, list[NumericSketch | CategorySketch]]:
        """Tallies of what must be read by rows, out of all that is watched."""
        options = self._options
        numbers = sum(len(kind.features(name)) for name, kind in watched.items() if not kind.categorical)
        most = max(options.exact // max(numbers, 1), min(options.exact, 10_000))
        tallies: dict[str, list[NumericSketch | CategorySketch]] = {
            name: [CategorySketch(options.categories)]
            if kind.categorical
            else [NumericSketch(options.bins, most) for _ in kind.features(name)]
            for name, kind in kinds.items()
        }
        needed = {*kinds, *filter(None, [options.time_column])}
        for batch in self._pass("values", needed) if kinds else ():
            for name, kind in kinds.items():
                for tally, column in zip(tallies[name], self._columns(batch, name, kind), strict=True):
                    tally.add(column)
        inexact = {name: [t for t in found if not t.exact] for name, found in tallies.items()}
        for tally in [tally for found in inexact.values() for tally in found]:
            tally.again()
        for batch in self._pass("bins", needed) if any(inexact.values()) else ():
            for name in filter(inexact.get, kinds):
                for tally, column in zip(tallies[name], self._columns(batch, name, kinds[name]), strict=True):
                    if not tally.exact:
                        tally.count(column)
        return tallies

    def _correlation(self, kinds: Mapping[str, InputType], features: Mapping[str, Feature]) -> Correlation | None:
        builder = CorrelationBuilder(features)
        compared = {n: own for n, kind in kinds.items() if set(own := kind.features(n)) & set(builder.names)}
        needed = {*compared, *filter(None, [self._options.time_column])}
        for batch in self._pass("together", needed) if len(builder.names) > 1 else ():
            columns: dict[str, Any] = {}
            for name, own in compared.items():
                columns |= zip(own, self._columns(batch, name, kinds[name]), strict=True)
            builder.add(columns)
        return builder.build()

    def _columns(self, batch: Batch, name: str, kind: InputType) -> Sequence[Any]:
        values: Column = batch.columns.get(name, (None,) * batch.rows)
        if kind.type != "numeric":
            values = as_list(values)
        else:
            self._note(name, values)
        if isinstance(kind, Categorical):
            return [kind.labels(values)]
        now: Any = self._now
        if self._options.time_column and kind.type == "timestamp":
            arrived = batch.columns.get(self._options.time_column, (None,) * batch.rows)
            now = np.array([unix_seconds(moment) for moment in as_list(arrived)])
        return list(kind.columns(values, now))

    def _note(self, name: str, values: Column) -> None:
        """Remember a column of 32-bit numbers."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize < 8:
            self._single.add(name)
