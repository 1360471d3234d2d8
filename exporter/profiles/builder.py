"""Build a profile from training data: a few passes, each a state that can be merged, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from exporter.errors import ProfileError
from exporter.features import INPUT_TYPES, LEARNERS, Learner, State, infer_type, input_type
from exporter.features.base import FEW_VALUES, ColumnSample, InputType, as_list, confidence_column, numeric_column
from exporter.features.scalars import time_seconds, unix_seconds
from exporter.profiles.bins import CategorySketch, NumericSketch, RowSample, numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.correlation import CorrelationBuilder
from exporter.profiles.profile import (
    CONFIDENCE,
    FILE,
    GROUPED,
    PREDICTION,
    SHUFFLED,
    TIME,
    UNSORTED,
    Blocks,
    Feature,
    NumericFeature,
    Profile,
    Times,
)
from exporter.profiles.quality import QualityBuilder
from exporter.profiles.sources import AnyPass, Batch, Column, Progress, Source, take
from exporter.profiles.sources.files import FileSource, delimiter_in
from exporter.stats.divergence import BinIndices, Floats, Ints
from exporter.validation import preview, suggestion

EXACT = 4_000_000
"""Distinct numbers that are held in memory, over all features; each feature holds at least 10,000."""
MEMORY = 256 * 2**20
"""Bytes of the rows that are sorted by time in memory."""


class Options(NamedTuple):
    """Options of a profile.

    Attributes
    ----------
    name
        The profile's name; that of the source when None.
    prediction_column, confidence_column
        Columns with the model's prediction for each row and its confidence. Live ones are compared with them. They are
        not features.
    confidence_percent
        Whether the confidence is in percent: 93, or a text such as ``93%``, is 0.93.
    time_column
        Column with the time at which each row arrived. Ages of timestamps are relative to it, else to the present, and
        rows are in its order, else in that of the file.
    label_column
        Column with the correct label, of rows that the model was not fitted on; needs a prediction column. It is not a
        feature.
    shuffled
        Whether the rows are in random order, which says nothing of how successive values depend on each other.
    ignore
        Columns that are not features, such as identifiers.
    types
        Types of inputs where the inferred type is wrong; a prediction is numeric or categorical.
    expected
        Types of inputs that need not be in the data, for data from production, which may hold values of other types.
    bins, categories
        Number of bins of a number, and of categories with their own bin.
    exact, memory
        See `EXACT` and `MEMORY`.
    """

    name: str | None = None
    prediction_column: str | None = None
    confidence_column: str | None = None
    confidence_percent: bool = False
    time_column: str | None = None
    label_column: str | None = None
    shuffled: bool = False
    ignore: Sequence[str] = ()
    types: Mapping[str, str] = {}
    expected: Mapping[str, str] = {}
    bins: int = 20
    categories: int = 50
    exact: int = EXACT
    memory: int = MEMORY

    def outputs(self) -> list[str]:
        """Return the columns that are no features."""
        columns = self.prediction_column, self.confidence_column, self.time_column, self.label_column
        return [*filter(None, columns)]

    def known_types(self) -> dict[str, str]:
        """Return the types of columns that are known before any data are read."""
        return {**self.types, **({self.confidence_column: "numeric"} if self.confidence_column else {})}

    def check(self, where: str, columns: Container[str]) -> None:
        """Raise ProfileError, with the name ``where`` of the data, where options and columns do not go together."""
        for name, column in ((PREDICTION, self.prediction_column), (CONFIDENCE, self.confidence_column)):
            if column and name in columns and name not in {*self.outputs(), *self.ignore}:
                detail = f"the column {preview(name)} has the name that profiles give the column {preview(column)}"
                raise ProfileError(f"{where}: {detail}; rename it, or set --ignore={preview(name)}")
        for kind in self.types.values():
            if kind not in INPUT_TYPES:
                hint = suggestion(kind, INPUT_TYPES)
                raise ProfileError(f"{where}: {preview(kind)} is not a valid input type; {hint}")


_SAMPLE = 1000
"""Number of strings of a column, and of lists of a batch, that are inspected."""


class ColumnTypeInference:
    """Collect what decides the type of a column.

    Parameters
    ----------
    numbers
        Whether the column is known to hold only numbers.
    """

    def __init__(self, numbers: bool = False) -> None:
        self._sample = ColumnSample(types={float} if numbers else set())
        self._fractions = False
        self._numbers: Floats = np.empty(0)

    def add(self, values: Column) -> None:
        """Inspect some of the values."""
        sample = self._sample
        if isinstance(values, np.ndarray) and values.ndim > 1:
            sample.types.add(list)
            sample.lengths.add(values.shape[1] if values.ndim == 2 else -1)
            return
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            sample.types.add(float)
            self._add_numbers(values.astype(np.float64))
            return
        types = set(map(type, values)) - {type(None)}
        sample.types |= types
        if types and types <= {int, float}:
            self._add_numbers(numeric_column(list(values)))
        if str in types and (left := _SAMPLE - len(sample.strings)):
            strings = (value for value in values if isinstance(value, str))
            sample.strings += [value[:1000] for value, _ in zip(strings, range(left), strict=False)]
        if list in types:
            sample.lengths |= {_flat_length(value) for value in values[:_SAMPLE] if isinstance(value, list)}

    def _add_numbers(self, numbers: Floats) -> None:
        if self._fractions or len(self._numbers) > FEW_VALUES:
            return
        finite = numbers[np.isfinite(numbers)]
        self._fractions = bool((finite != np.round(finite)).any())
        self._numbers = np.unique(np.concatenate((self._numbers, finite)))

    def merge(self, later: ColumnTypeInference) -> None:
        """Add what is known of the values that follow."""
        own, other = self._sample, later._sample
        own.types |= other.types
        own.lengths |= other.lengths
        own.strings += other.strings[: _SAMPLE - len(own.strings)]
        self._fractions = self._fractions or later._fractions
        self._numbers = np.union1d(self._numbers, later._numbers)

    def type(self) -> str:
        """Return the name of the input type that fits best."""
        return infer_type(self._sample)

    def output_type(self) -> str:
        """Return the type of a prediction: numeric, a regression, where numbers have fractions or are many."""
        regression = INPUT_TYPES[self.type()].is_number and (self._fractions or len(self._numbers) > FEW_VALUES)
        return "numeric" if regression else "categorical"


def _flat_length(value: list[Any]) -> int:
    """Return the length of a list of numbers, −1 for any other list."""
    return len(value) if value and all(type(item) in {int, float} for item in value) else -1


class FeatureColumns:
    """Convert the columns of a batch to those of features and outputs.

    Parameters
    ----------
    options
        How the rows are read.
    output_types
        Types of the prediction and of the confidence by their columns' names.

    Attributes
    ----------
    single_precision
        Numeric columns in which 32-bit numbers were seen.
    """

    def __init__(self, options: Options, output_types: Mapping[str, InputType]) -> None:
        self.options = options
        self._output_types = output_types
        self._now = time.time()
        self.single_precision: set[str] = set()

    def targets(self, batch: Batch, kinds: Mapping[str, InputType]) -> dict[str, Any]:
        """Return the values of a batch by feature, and those of the outputs."""
        found: dict[str, Any] = {}
        for name, kind in kinds.items():
            found |= zip(kind.features(name), self.features(batch, name, kind), strict=True)
        types, options = self._output_types, self.options
        outputs = {PREDICTION: options.prediction_column, CONFIDENCE: options.confidence_column}
        return found | {o: self.features(batch, n, types[n])[0] for o, n in outputs.items() if n}

    def target_rows(self, batch: Batch, kinds: Mapping[str, InputType], rows: Ints) -> dict[str, Any]:
        """Return what `targets` does, for some rows of a batch."""
        part = Batch({name: take(values, rows) for name, values in batch.columns.items()}, len(rows), batch.done)
        return self.targets(part, kinds)

    def column(self, batch: Batch, name: str | None) -> Column:
        """Return a column of a batch, None in each row where it is absent."""
        return batch.columns.get(name or "", (None,) * batch.rows)

    def confidences(self, batch: Batch) -> Floats | None:
        """Return the confidence of each row of a batch; None without such a column."""
        name = self.options.confidence_column
        return self.features(batch, name, self._output_types[name])[0] if name else None

    def times(self, batch: Batch) -> Floats:
        """Return the time of each row of a batch in Unix seconds; empty without a column of times."""
        column = self.options.time_column
        return time_seconds(self.column(batch, column)) if column else np.empty(0)

    def features(self, batch: Batch, name: str, kind: InputType) -> Sequence[Any]:
        """Return the columns of the features of an input, or the column of an output."""
        values = self.column(batch, name)
        if name == self.options.confidence_column:
            values = confidence_column(as_list(values), self.options.confidence_percent)
        if kind.is_number:
            self.note_precision(name, values)
        now: Any = self._now
        if self.options.time_column and kind.follows_time:
            times = as_list(self.column(batch, self.options.time_column))
            now = np.array([unix_seconds(value) for value in times])
        return kind.feature_values(values, now)

    def note_precision(self, name: str, values: Column) -> None:
        """Remember a column of 32-bit numbers."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize < 8:
            self.single_precision.add(name)


Sketches = Mapping[str, Sequence[Any]]
"""By column, a sketch or counts of each feature; None where a feature is known. See `exporter.profiles.bins`."""
_DISTINCT = 10_000  # values of a feature that are counted at least, whatever the number of features and rows
_SAMPLED, _LEAST_SAMPLED = 16_384, 4096  # rows of the sample that says where the bins of many values may start
_SAMPLED_OF_BIN = 16


def build_file(path: Path, *, progress: Progress | None = None, **options: Any) -> Profile:
    """Build a profile of the training data in a file.

    Parameters
    ----------
    path
        CSV, Parquet, NPZ (an array for each column, images of shape ``(n, height, width[, channels])``) or JSON lines
        (an object for each row; nested arrays are images).
    progress
        Called while the file is read.
    options
        Fields of `Options`.

    Raises
    ------
    ProfileError
        When the file cannot be read, has no rows, or lacks a named column.
    """
    chosen = Options(**options)
    return build(FileSource(path, chosen.known_types()), chosen, progress)


def build(source: Source, options: Options, progress: Progress | None = None) -> Profile:
    """Build a profile of any training data; see `build_file`."""
    return _Builder(source, options, progress or (lambda *_: None)).build()


_ROW_BYTES = 40  # of the time, and of what sorting takes
_MAX_LABELS = 1000
_ROWS = 50_000


class RowOrder:
    """Follow the order of the rows through one pass, and count blocks of them.

    Parameters
    ----------
    targets
        Frozen bins of features, of the prediction and of the confidence.
    rows
        Number of rows.
    options
        Name the column of times and that of labels, or say that the rows are shuffled.
    arriving
        Targets that grow with time in any traffic, such as the age of a time. Rows sorted by them are in order.
    """

    def __init__(self, targets: Mapping[str, Feature], rows: int, options: Options, arriving: Iterable[str]) -> None:
        self._targets, self._rows, self._options = targets, rows, options
        self._arriving = set(arriving)
        self._blocks = BlockBuilder(targets, rows)
        self._labels = _Labels()
        self._directions = {1, -1}
        self._ends: list[float] = []  # the first time and the last one
        self._times: Times | None = None
        self.follows = bool(self._blocks.sizes) and not options.shuffled
        """Whether blocks are counted: not for few rows, for shuffled ones, and once a time is before the one before."""
        self.needs_sorting = False

    def add(self, columns: Mapping[str, Any], times: Floats, labels: Column, first: int = 0) -> dict[str, BinIndices]:
        """Add a batch: values by target, times in Unix seconds where rows have a time, labels, and its first row.

        Returns the bins of the values, where they were needed.
        """
        if not self.follows:
            return {}
        if self._options.time_column:
            self._follow(times)
        elif self._options.label_column:
            self._labels.add(as_list(labels))
        return self._blocks.add(columns, first) if self.follows else {}

    def _follow(self, times: Floats) -> None:
        steps = np.diff(times, prepend=self._ends[1:] or times[:1]) if np.isfinite(times).all() else np.array([-1.0, 1])
        self._directions = {direction for direction in self._directions if not (direction * steps < 0).any()}
        self.follows = bool(self._directions)
        self.needs_sorting = not self.follows
        if self.follows and len(times):
            self._ends = [self._ends[0] if self._ends else float(times[0]), float(times[-1])]
            self._times = _measure(times, self._times)

    def merge(self, later: RowOrder) -> None:
        """Add the rows that follow."""
        if self.follows and later.follows:
            if later._ends:
                self._directions &= later._directions
                self._follow(np.array(later._ends))
            self._labels.merge(later._labels)
            self._blocks.merge(later._blocks)
            if self._times and later._times:
                self._times = _measure(np.array([later._times.earliest, later._times.latest]), self._times)
        else:
            self.needs_sorting = self.needs_sorting or later.needs_sorting
            self.follows = False

    def indices(self, columns: Mapping[str, Any]) -> BinIndices:
        """See `BlockBuilder.indices`."""
        return self._blocks.indices(columns)

    def sort(self, parts: list[tuple[Floats, BinIndices]]) -> None:
        """Count blocks in the order of time, where the rows are not sorted; rows without a time are left out.

        Parameters
        ----------
        parts
            Times in Unix seconds, and `indices`, of successive rows; emptied, since they take much memory.
        """
        seconds = np.concatenate([part[0] for part in parts])
        indices, start = np.empty((len(self._targets), len(seconds)), dtype=np.int16), len(seconds)
        while parts:
            _, part = parts.pop()
            start -= part.shape[1]
            indices[:, start : start + part.shape[1]] = part
        order = np.argsort(seconds, kind="stable")
        order = order[np.isfinite(seconds[order])]
        self._times = _measure(seconds[order], None, len(seconds) - len(order)) if len(order) else None
        self._blocks, self.follows = BlockBuilder(self._targets, len(order)), True
        for start in range(0, len(order), _ROWS):
            self._blocks.add_indices(indices[:, order[start : start + _ROWS]], start)

    @property
    def can_sort(self) -> bool:
        """Whether all rows fit into the memory in which they are sorted."""
        return self._rows * (_ROW_BYTES + 2 * len(self._targets)) <= self._options.memory

    def build(self) -> Blocks:
        """Return the scores of the blocks."""
        options = self._options
        if options.shuffled:
            return Blocks(SHUFFLED)
        if self.needs_sorting and not self.follows:
            return Blocks(UNSORTED, options.time_column)
        grouped = [name for name in self._blocks.grouped() if not self._arrives(name)]
        if options.time_column:
            sizes, scores = tuple(self._blocks.sizes), self._blocks.build()
            return Blocks(TIME, options.time_column, sizes, scores, None, self._times, tuple(grouped))
        if self._labels.are_grouped():
            grouped.insert(0, options.label_column or "")
        if grouped:
            return Blocks(GROUPED, grouped[0])
        return Blocks(FILE, None, tuple(self._blocks.sizes), self._blocks.build())

    def _arrives(self, name: str) -> bool:
        """Return whether rows sorted by a target are in the order of arrival: by a time, or by an identifier."""
        target = self._targets[name]
        if name in self._arriving or not isinstance(target, NumericFeature) or target.min is None or target.max is None:
            return name in self._arriving
        whole = target.min.is_integer() and target.max.is_integer()
        return whole and target.max - target.min + 1 >= self._rows


class _Labels:
    """Whether rows are grouped by a column that is not among the targets."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._ends: tuple[str, str] | None = None
        self._changes = self._rows = 0

    def add(self, values: Sequence[Any]) -> None:
        texts = [str(value) for value in values]
        if texts and len(self._seen) <= _MAX_LABELS:
            changes = sum(one != other for one, other in pairwise(texts))
            self._join((texts[0], texts[-1]), changes, len(texts), {*texts})

    def merge(self, later: _Labels) -> None:
        if later._ends:
            self._join(later._ends, later._changes, later._rows, later._seen)

    def _join(self, ends: tuple[str, str], changes: int, rows: int, seen: set[str]) -> None:
        self._changes += changes + (self._ends is None or self._ends[1] != ends[0])
        self._ends = (self._ends or ends)[0], ends[1]
        self._rows += rows
        self._seen |= seen

    def are_grouped(self) -> bool:
        distinct = len(self._seen)
        return 1 < distinct <= _MAX_LABELS and self._changes <= 2 * distinct and self._rows > 20 * distinct


def _measure(seconds: Floats, before: Times | None, unreadable: int = 0) -> Times:
    """Return the range of some times, at least one, together with that of those before."""
    both = [before.earliest, before.latest] if before else []
    return Times(unreadable, min([float(seconds.min()), *both]), max([float(seconds.max()), *both]))


class _Types:
    """What decides the types of the columns, and the number of rows."""

    def __init__(self, columns: Mapping[str, bool]) -> None:
        self.columns = {name: ColumnTypeInference(numbers) for name, numbers in columns.items()}
        self.rows = 0

    def add(self, batch: Batch, first: int) -> None:  # noqa: ARG002
        self.rows += batch.rows
        for name, values in batch.columns.items():
            self.columns.setdefault(name, ColumnTypeInference()).add(values)

    def merge(self, later: _Types) -> None:
        self.rows += later.rows
        for name, column in later.columns.items():
            self.columns.setdefault(name, ColumnTypeInference()).merge(column)


class _Learners:
    """What input types learn from the training data."""

    def __init__(self, inputs: Mapping[str, str]) -> None:
        self.of_input: dict[str, Learner] = {n: LEARNERS[kind]() for n, kind in inputs.items() if kind in LEARNERS}

    def add(self, batch: Batch, first: int) -> None:  # noqa: ARG002
        for name, learner in self.of_input.items():
            learner.learn(batch.columns.get(name, ()))

    def merge(self, later: _Learners) -> None:
        for name, learner in self.of_input.items():
            learner.merge(later.of_input[name])  # type: ignore[arg-type]  # both are of one type


class _Values:
    """The values of features and outputs, and a sample of the rows."""

    def __init__(
        self,
        values: FeatureColumns,
        kinds: Mapping[str, InputType],
        sketches: Sketches,
        sample: RowSample | None = None,
    ) -> None:
        self.values, self.sketches, self.sample = values, sketches, sample
        self._kinds = {name: kinds[name] for name in sketches}

    def add(self, batch: Batch, first: int) -> None:
        numbers = np.arange(first, first + batch.rows)
        chosen = self.sample.choose(numbers) if self.sample else numbers[:0]
        sampled: list[Any] = []
        for name, kind in self._kinds.items():
            for sketch, column in zip(self.sketches[name], self.values.features(batch, name, kind), strict=True):
                if sketch:
                    sketch.add(column)
                if len(chosen):
                    sampled.append(_array(take(column, chosen)))
        if self.sample and len(chosen):
            self.sample.add(numbers[chosen], sampled)

    def merge(self, later: _Values) -> None:
        self.values.single_precision |= later.values.single_precision
        if self.sample and later.sample:
            self.sample.merge(later.sample)
        for name, sketches in self.sketches.items():
            for sketch, other in zip(sketches, later.sketches[name], strict=True):
                if sketch:
                    sketch.merge(other)


class _Rows:
    """What rows show by the frozen bins: order and dependence, correlations, the quality."""

    def __init__(self, values: FeatureColumns, kinds: Mapping[str, InputType], profile: Profile) -> None:
        self._values, self._options, self._kinds = values, values.options, kinds
        arriving = [name for source, kind in kinds.items() if kind.follows_time for name in kind.features(source)]
        self.order = RowOrder(profile.targets(), profile.rows, self._options, arriving)
        self.correlation = CorrelationBuilder(profile.features, profile.rows if self.order.follows else 0)
        self.quality = QualityBuilder(profile.targets()) if self._options.label_column else None
        self._needed = kinds
        if not self.order.follows:
            names = {*self.correlation.names}
            self._needed = {name: kind for name, kind in kinds.items() if names.intersection(kind.features(name))}

    def columns(self) -> set[str]:
        """Return the columns that are needed; none where there is nothing to see."""
        options = self._options
        if self.quality or self.order.follows:
            return {*self._kinds, *options.outputs()}
        return {*self._needed, *filter(None, [options.time_column])} if len(self.correlation.names) > 1 else set()

    def add(self, batch: Batch, first: int) -> None:
        values, options = self._values, self._options
        labels = values.column(batch, options.label_column)
        if self.quality:
            self.quality.add(
                as_list(values.column(batch, options.prediction_column)),
                as_list(labels),
                values.confidences(batch),
                [unix_seconds(when) for when in as_list(values.column(batch, options.time_column))],
                partial(values.target_rows, batch, self._kinds),
                first=first,
            )
        targets = values.targets(batch, self._needed)
        times = values.times(batch) if self.order.follows else np.empty(0)
        self.correlation.add(targets, self.order.add(targets, times, labels, first), first)

    def merge(self, later: _Rows) -> None:
        self.order.merge(later.order)
        self.correlation.merge(later.correlation)
        if self.quality and later.quality:
            self.quality.merge(later.quality)


class _Arrivals:
    """The times and bins of all rows, to sort them."""

    def __init__(self, values: FeatureColumns, kinds: Mapping[str, InputType], order: RowOrder) -> None:
        self._values, self._kinds, self._order = values, kinds, order
        self.parts: list[tuple[Floats, Any]] = []

    def add(self, batch: Batch, first: int) -> None:  # noqa: ARG002
        indices = self._order.indices(self._values.targets(batch, self._kinds))
        self.parts.append((self._values.times(batch), indices))

    def merge(self, later: _Arrivals) -> None:
        self.parts += later.parts


class _Builder:
    def __init__(self, source: Source, options: Options, progress: Progress) -> None:
        self._source = source
        self._options = options
        self._progress = progress
        self._columns: dict[str, ColumnTypeInference] = {}
        self._rows = 0

    def build(self) -> Profile:
        options = self._options
        source_columns = dict(self._source.columns())
        self._inspect_columns(source_columns)
        self._check_options()
        inputs = self._infer_inputs()
        self._values = FeatureColumns(options, self._output_types())
        learning = _Learners(inputs)
        learners = self._run(learning, "words and vectors", {*learning.of_input}).of_input
        learned: dict[str, State] = {name: learner.state() for name, learner in learners.items()}
        kinds = {
            name: learners[name].input_type() if name in learners else input_type(kind, None)
            for name, kind in inputs.items()
        }
        bins = self._build_bins(kinds, {name for name, numbers in source_columns.items() if numbers})
        confidence = bins[options.confidence_column][0] if options.confidence_column else None
        profile = Profile(
            name=options.name or self._source.name,
            rows=self._rows,
            inputs=inputs,
            input_names=tuple(inputs) if self._source.keeps_order else (),
            features=self._name_features(kinds, bins),
            prediction=bins[options.prediction_column][0] if options.prediction_column else None,
            confidence=confidence if isinstance(confidence, NumericFeature) else None,
            learned=learned or None,
        )
        return self._measure_together(kinds, profile)

    def _run(self, state: AnyPass, title: str, names: Collection[str] | None) -> AnyPass:
        """Return the state with all rows; without rows where no column is needed."""
        if names is not None and not names:
            return state
        return self._source.run(state, title, names, self._progress)

    def _inspect_columns(self, source_columns: Mapping[str, bool]) -> None:
        """Collect what decides the types of the columns, and count the rows; in a pass, if the source cannot tell."""
        unknown = {n for n, numbers in source_columns.items() if not numbers or n == self._options.prediction_column}
        types = _Types(source_columns)
        if not source_columns or unknown or self._source.rows is None:
            types = self._source.run(types, "types", unknown if source_columns else None, self._progress)
        self._columns = types.columns
        self._rows = types.rows or self._source.rows or 0

    def _check_options(self) -> None:
        where, options = self._source.where, self._options
        for column in [*options.outputs(), *options.ignore, *options.types]:
            if column not in self._columns and (self._rows or self._columns):
                delimiter = delimiter_in(self._columns) if self._source.cells_are_texts else None
                hint = f"set --delimiter={delimiter}" if delimiter else suggestion(column, self._columns)
                raise ProfileError(f"{where}: has no column {preview(column)}; {hint}")
        if not self._rows:
            raise ProfileError(f"{where}: has no rows to profile")
        options.check(where, self._columns)

    def _infer_inputs(self) -> dict[str, str]:
        options = self._options
        others = {*options.outputs(), *options.ignore}
        given = {**options.expected, **options.types}
        return {name: given.get(name) or column.type() for name, column in self._columns.items() if name not in others}

    def _name_features(
        self, kinds: Mapping[str, InputType], bins: Mapping[str, Sequence[Feature]]
    ) -> dict[str, Feature]:
        """Return the bins of each input's features by the features' names."""
        features: dict[str, Feature] = {}
        for name, kind in kinds.items():
            if duplicates := features.keys() & kind.features(name):
                detail = f"two features are called {preview(min(duplicates))}; rename or ignore a column"
                raise ProfileError(f"{self._source.where}: {detail}")
            features |= zip(kind.features(name), bins[name], strict=True)
            if kind.statistics and not any(isinstance(f, NumericFeature) and f.edges for f in bins[name]):
                raise ProfileError(f"{self._source.where}: no value of the column {preview(name)} is {kind.noun}")
        return features

    def _output_types(self) -> dict[str, InputType]:
        """Return the types of the prediction and of the confidence by their columns' names."""
        options, kinds = self._options, {}
        if options.confidence_column:
            kinds[options.confidence_column] = input_type("numeric")
        if name := options.prediction_column:
            kind = options.types.get(name) or self._columns[name].output_type()
            kinds[name] = input_type(kind if INPUT_TYPES[kind].is_number else "categorical")
        return kinds

    def _build_bins(self, inputs: Mapping[str, InputType], numeric: Collection[str]) -> dict[str, list[Feature]]:
        """Return the bins of the features of each input, and of the outputs by their columns' names.

        Numeric columns are read one at a time, where the source can do that and a whole column fits into memory.
        """
        options = self._options
        kinds = {**inputs, **self._output_types()}
        whole = [n for n, kind in kinds.items() if n in numeric and kind.is_number]
        if options.confidence_percent:
            whole = [name for name in whole if name != options.confidence_column]
        if not self._source.reads_columns or self._rows > options.exact:
            whole = []
        bins: dict[str, list[Feature]] = {}
        for name, values in self._source.read_columns(whole) if whole else ():
            self._values.note_precision(name, values)
            bins[name] = [numeric_feature(values.astype(np.float64, copy=False), options.bins)]
            self._progress("values", len(bins) / len(kinds), self._rows)
        numbers = sum(len(kind.features(name)) for name, kind in kinds.items() if not kind.categorical)
        bins |= self._sketch({name: kind for name, kind in kinds.items() if name not in bins}, numbers)
        for name in self._values.single_precision:
            if isinstance(feature := bins[name][0], NumericFeature):
                bins[name] = [msgspec.structs.replace(feature, precision="single")]
        return bins

    def _sketch(self, kinds: Mapping[str, InputType], numbers: int) -> dict[str, list[Feature]]:
        """Return the bins of inputs that are read by rows; ``numbers`` numeric features share the memory."""
        options = self._options
        few, share = min(options.exact, _DISTINCT), options.exact // max(numbers, 1)
        most = max(share, few) if self._rows <= options.exact else few
        size = min(max(_SAMPLED, _SAMPLED_OF_BIN * options.bins), max(share, _LEAST_SAMPLED))
        sketches: Sketches = {
            name: [CategorySketch(options.categories)]
            if kind.categorical
            else [NumericSketch(options.bins, most) for _ in kind.features(name)]
            for name, kind in kinds.items()
        }
        more = {*filter(None, [options.time_column])} if kinds else set()
        first = _Values(self._values, kinds, sketches, RowSample(size) if self._rows > few else None)
        first = self._run(first, "values", {*kinds} | more)
        self._values, columns = first.values, iter(first.sample.columns() if first.sample else ())
        bins: dict[str, list[Any]] = {
            name: [sketch.finish(next(columns, np.empty(0))) for sketch in part]
            for name, part in first.sketches.items()
        }
        counts = {
            name: [None if isinstance(found, Feature) else found for found in part]
            for name, part in bins.items()
            if not all(isinstance(found, Feature) for found in part)
        }
        second = self._run(_Values(self._values, kinds, counts), "bins", {*counts} | more if counts else set())
        for name, part in second.sketches.items():
            bins[name] = [one.feature() if one else done for one, done in zip(part, bins[name], strict=True)]
        return bins

    def _measure_together(self, kinds: Mapping[str, InputType], profile: Profile) -> Profile:
        """Return the profile with what rows show."""
        rows = _Rows(self._values, kinds, profile)
        columns = rows.columns()
        rows = self._run(rows, "together", columns)
        order = rows.order
        if order.needs_sorting and order.can_sort:
            order.sort(self._run(_Arrivals(self._values, kinds, order), "order", columns).parts)
        together, blocks = rows.correlation.build(), order.build()
        if together and blocks.is_ordered and not order.needs_sorting:
            blocks = msgspec.structs.replace(blocks, correlation=rows.correlation.build_blocks(together))
        return msgspec.structs.replace(
            profile,
            correlation=together,
            blocks=blocks,
            quality=rows.quality.build() if rows.quality else None,
        )


def _array(values: Any) -> Any:
    """Return values as an array, of objects where they are no numbers."""
    if isinstance(values, np.ndarray):
        return values
    objects = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        objects[index] = value
    return objects
