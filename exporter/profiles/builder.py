"""Build a profile from training data, in a few passes and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporter.errors import ProfileError
from exporter.features.base import InputType
from exporter.features.extract import as_list
from exporter.features.timestamp import unix_seconds
from exporter.features.types import LEARNERS, Learner, State, input_type
from exporter.profiles.bins import CategorySketch, NumericSketch, numeric_feature
from exporter.profiles.blocks import RowOrder
from exporter.profiles.columns import ColumnTypeInference, FeatureColumns, Options
from exporter.profiles.correlation import CorrelationBuilder
from exporter.profiles.profile import Feature, NumericFeature, Profile, Quality
from exporter.profiles.row_learning import QualityBuilder, WeightsBuilder
from exporter.profiles.sources.base import Batch, Source
from exporter.profiles.sources.csv_cells import delimiter_in
from exporter.profiles.sources.files import FileSource
from exporter.validation import preview, suggestion

AnySketch = NumericSketch | CategorySketch
Progress = Callable[[str, float, int], None]
"""Called with the name of the pass, the share of it that is done, and its number of rows so far."""


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
        learners = self._learn(inputs)
        learned: dict[str, State] = {name: learner.state() for name, learner in learners.items()}
        kinds = {
            name: learners[name].input_type() if name in learners else input_type(kind, None)
            for name, kind in inputs.items()
        }
        bins = self._build_bins(kinds, {name for name, numbers in source_columns.items() if numbers})
        features = self._name_features(kinds, bins)
        prediction, confidence = options.prediction_column, options.confidence_column
        confidence_bins = bins[confidence][0] if confidence else None
        profile = Profile(
            name=options.name or self._source.name,
            rows=self._rows,
            inputs=inputs,
            input_names=tuple(inputs) if self._source.keeps_order else (),
            features=features,
            prediction=bins[prediction][0] if prediction else None,
            confidence=confidence_bins if isinstance(confidence_bins, NumericFeature) else None,
            learned=learned,
        )
        profile = self._measure_together(kinds, profile)
        return msgspec.structs.replace(profile, quality=self._measure_quality(kinds, profile))

    def _inspect_columns(self, source_columns: Mapping[str, bool]) -> None:
        """Collect what decides the types of the columns, and count the rows; in a pass, if the source cannot tell."""
        self._columns |= {name: ColumnTypeInference(numbers) for name, numbers in source_columns.items()}
        unknown = {n for n, numbers in source_columns.items() if not numbers or n == self._options.prediction_column}
        rows = self._source.rows if source_columns and not unknown else None
        self._rows = rows or 0
        for batch in self._read_pass("types", unknown if source_columns else None) if rows is None else ():
            self._rows += batch.rows
            for name, values in batch.columns.items():
                self._columns.setdefault(name, ColumnTypeInference()).add(values)

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

    def _learn(self, inputs: Mapping[str, str]) -> dict[str, Learner]:
        learners = {name: LEARNERS[kind]() for name, kind in inputs.items() if kind in LEARNERS}
        for batch in self._read_pass("words and vectors", learners) if learners else ():
            for name, learner in learners.items():
                learner.learn(batch.columns.get(name, ()))
        return learners

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

    def _read_pass(self, title: str, names: Collection[str] | None = None) -> Iterator[Batch]:
        rows = 0
        for batch in self._source.batches(names):
            rows += batch.rows
            yield batch
            self._progress(title, batch.done, rows)

    def _build_bins(self, inputs: Mapping[str, InputType], numeric: Collection[str]) -> dict[str, list[Feature]]:
        """Return the bins of the features of each input, and of the outputs by their columns' names.

        Numeric columns are read one at a time, where the source can do that and a whole column fits into memory.
        """
        options = self._options
        kinds = {**inputs, **self._output_types()}
        whole = [n for n, kind in kinds.items() if n in numeric and kind.type == "numeric"]
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
        rest = {name: kind for name, kind in kinds.items() if name not in bins}
        bins |= {name: [sketch.feature() for sketch in part] for name, part in self._sketch(rest, numbers).items()}
        for name in self._values.single_precision:
            if isinstance(feature := bins[name][0], NumericFeature):
                bins[name] = [msgspec.structs.replace(feature, precision="single")]
        return bins

    def _output_types(self) -> dict[str, InputType]:
        """Return the types of the prediction and of the confidence by their columns' names."""
        options, kinds = self._options, {}
        if options.confidence_column:
            kinds[options.confidence_column] = input_type("numeric")
        if name := options.prediction_column:
            kind = options.types.get(name) or self._columns[name].output_type()
            kinds[name] = input_type(kind if kind == "numeric" else "categorical")
        return kinds

    def _sketch(self, kinds: Mapping[str, InputType], numbers: int) -> dict[str, list[AnySketch]]:
        """Return the sketches of inputs that are read by rows; ``numbers`` numeric features share the memory."""
        options = self._options
        most = max(options.exact // max(numbers, 1), min(options.exact, 10_000))
        sketches: dict[str, list[AnySketch]] = {
            name: [CategorySketch(options.categories)]
            if kind.categorical
            else [NumericSketch(options.bins, most) for _ in kind.features(name)]
            for name, kind in kinds.items()
        }
        needed = {*kinds, *filter(None, [options.time_column])}
        for batch in self._read_pass("values", needed) if kinds else ():
            for name, kind in kinds.items():
                for sketch, column in zip(sketches[name], self._values.features(batch, name, kind), strict=True):
                    sketch.add(column)
        inexact = [name for name, part in sketches.items() if not all(sketch.exact for sketch in part)]
        for sketch in [sketch for name in inexact for sketch in sketches[name] if not sketch.exact]:
            sketch.start_second_pass()
        for batch in self._read_pass("bins", needed) if inexact else ():
            for name in inexact:
                for sketch, column in zip(sketches[name], self._values.features(batch, name, kinds[name]), strict=True):
                    if not sketch.exact:
                        sketch.count(column)
        return sketches

    def _measure_together(self, kinds: Mapping[str, InputType], profile: Profile) -> Profile:
        """Return the profile with what rows show: correlations, the noise of successive rows, and features' weights."""
        options = self._options
        arriving = [
            name for source, kind in kinds.items() if kind.type == "timestamp" for name in kind.features(source)
        ]
        order = RowOrder(profile.targets(), self._rows, options, arriving)
        correlation = CorrelationBuilder(profile.features, self._rows if order.follows else 0)
        weights = WeightsBuilder(profile.features, profile.prediction, self._rows) if profile.prediction else None
        needed = dict(kinds)
        if not order.follows:
            needed = {name: kind for name, kind in kinds.items() if set(kind.features(name)) & set(correlation.names)}
        columns = {*needed, *(options.outputs() if order.follows else filter(None, [options.time_column]))}
        if weights:
            columns |= {*kinds, *options.outputs()}
        passes = order.follows or weights or len(correlation.names) > 1
        for batch in self._read_pass("together", columns) if passes else ():
            if weights:
                weights.add(batch.rows, partial(self._values.target_rows, batch, kinds))
            values = self._values.targets(batch, needed)
            times = self._values.times(batch) if order.follows else np.empty(0)
            bins = order.add(values, times, self._values.column(batch, options.label_column))
            correlation.add(values, bins)
        if order.needs_sorting:
            order.sort(
                (self._values.targets(batch, kinds), self._values.times(batch))
                for batch in self._read_pass("order", columns)
            )
        together, blocks = correlation.build(), order.build()
        if together and blocks.is_ordered and not order.needs_sorting:
            blocks = msgspec.structs.replace(blocks, correlation=correlation.build_blocks(together))
        return msgspec.structs.replace(
            profile,
            correlation=together,
            blocks=blocks,
            weights=(weights and weights.build()) or None,
        )

    def _measure_quality(self, kinds: Mapping[str, InputType], profile: Profile) -> Quality | None:
        """Compare the predictions with the labels, where there are labels."""
        options, types = self._options, self._output_types()
        if not options.label_column:
            return None
        builder = QualityBuilder(profile.targets())
        confidence = options.confidence_column
        for batch in self._read_pass("labels", {*kinds, *options.outputs()}):
            builder.add(
                as_list(self._values.column(batch, options.prediction_column)),
                as_list(self._values.column(batch, options.label_column)),
                self._values.features(batch, confidence, types[confidence])[0] if confidence else None,
                [unix_seconds(when) for when in as_list(self._values.column(batch, options.time_column))],
                partial(self._values.target_rows, batch, kinds),
            )
        return builder.build()
