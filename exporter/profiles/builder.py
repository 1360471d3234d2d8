"""Build a profile from training data: a few passes, each a state that can be merged, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporter.errors import ProfileError
from exporter.features import INPUT_TYPES, LEARNERS, Learner, State, input_type
from exporter.features.base import InputType, as_list
from exporter.features.scalars import unix_seconds
from exporter.profiles.bins import CategorySketch, NumericSketch, RowSample, numeric_feature
from exporter.profiles.blocks import RowOrder
from exporter.profiles.columns import ColumnTypeInference, FeatureColumns, Options
from exporter.profiles.correlation import CorrelationBuilder
from exporter.profiles.profile import Feature, NumericFeature, Profile
from exporter.profiles.row_learning import QualityBuilder
from exporter.profiles.sources.base import AnyPass, Batch, Progress, Source, take
from exporter.profiles.sources.csv_cells import delimiter_in
from exporter.profiles.sources.files import FileSource
from exporter.stats.divergence import Floats
from exporter.validation import preview, suggestion

AnySketch = NumericSketch | CategorySketch
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
    """The values of features and outputs: sketches by column, and a sample of the rows."""

    def __init__(self, values: FeatureColumns, kinds: Mapping[str, InputType], rows: int, numbers: int) -> None:
        self.values, self._kinds, options = values, kinds, values.options
        few = min(options.exact, _DISTINCT)
        share = options.exact // max(numbers, 1)
        most = max(share, few) if rows <= options.exact else few
        size = min(max(_SAMPLED, _SAMPLED_OF_BIN * options.bins), max(share, _LEAST_SAMPLED))
        self._sample = RowSample(size)
        self._samples = rows > few
        self.sketches: dict[str, list[AnySketch]] = {
            name: [CategorySketch(options.categories)]
            if kind.categorical
            else [NumericSketch(options.bins, most) for _ in kind.features(name)]
            for name, kind in kinds.items()
        }

    def add(self, batch: Batch, first: int) -> None:
        chosen = self._sample.choose(np.arange(first, first + batch.rows)) if self._samples else np.empty(0, np.intp)
        sampled: list[Any] = []
        for name, kind in self._kinds.items():
            for sketch, column in zip(self.sketches[name], self.values.features(batch, name, kind), strict=True):
                sketch.add(column)
                if len(chosen):
                    sampled.append(_array(take(column, chosen)))
        if len(chosen):
            self._sample.add(first + chosen, sampled)

    def merge(self, later: _Values) -> None:
        self.values.single_precision |= later.values.single_precision
        self._sample.merge(later._sample)
        for name, sketches in self.sketches.items():
            for sketch, other in zip(sketches, later.sketches[name], strict=True):
                sketch.merge(other)  # type: ignore[arg-type]  # both are of one type

    def finish(self) -> dict[str, InputType]:
        """End the pass; return the columns that need a second one."""
        sketches = [sketch for part in self.sketches.values() for sketch in part]
        for sketch, column in zip(sketches, self._sample.columns() or [np.empty(0)] * len(sketches), strict=True):
            sketch.finish(column)
        inexact = [name for name, part in self.sketches.items() if not all(sketch.exact for sketch in part)]
        return {name: self._kinds[name] for name in inexact}


class _Counts:
    """The counts of a second pass, for sketches that are not exact."""

    def __init__(self, values: FeatureColumns, kinds: Mapping[str, InputType], sketches: _Values) -> None:
        self._values, self._kinds = values, kinds
        self.sketches = {name: sketches.sketches[name] for name in kinds}

    def add(self, batch: Batch, first: int) -> None:  # noqa: ARG002
        for name, kind in self._kinds.items():
            for sketch, column in zip(self.sketches[name], self._values.features(batch, name, kind), strict=True):
                if not sketch.exact:
                    sketch.count(column)

    def merge(self, later: _Counts) -> None:
        for name, sketches in self.sketches.items():
            for sketch, other in zip(sketches, later.sketches[name], strict=True):
                if not sketch.exact:
                    sketch.merge_counts(other)  # type: ignore[arg-type]  # both are of one type


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
            column = values.astype(np.float64, copy=False)
            bins[name] = [numeric_feature(column, options.bins, overwrite=True)]
            self._progress("values", len(bins) / len(kinds), self._rows)
        numbers = sum(len(kind.features(name)) for name, kind in kinds.items() if not kind.categorical)
        bins |= self._sketch({name: kind for name, kind in kinds.items() if name not in bins}, numbers)
        for name in self._values.single_precision:
            if isinstance(feature := bins[name][0], NumericFeature):
                bins[name] = [msgspec.structs.replace(feature, precision="single")]
        return bins

    def _sketch(self, kinds: Mapping[str, InputType], numbers: int) -> dict[str, list[Feature]]:
        """Return the bins of inputs that are read by rows; ``numbers`` numeric features share the memory."""
        more = {*filter(None, [self._options.time_column])} if kinds else set()
        found = self._run(_Values(self._values, kinds, self._rows, numbers), "values", {*kinds} | more)
        self._values = found.values
        inexact = found.finish()
        counts = _Counts(self._values, inexact, found)
        counted = self._run(counts, "bins", {*inexact} | more if inexact else set())
        sketches = found.sketches | counted.sketches
        return {name: [sketch.feature() for sketch in part] for name, part in sketches.items()}

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
