"""Count batches of inputs in the frozen bins of a profile.

The sums of all targets are stored one after another: a window is one row of sums.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.features.base import as_list, category_bins, numeric_columns, scalar_text
from exporter.features.json_inputs import JsonColumnReader, decode_inputs
from exporter.features.scalars import Numeric
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.profiles.correlation import Copula, restrict_correlation
from exporter.profiles.profile import CONFIDENCE, PREDICTION, TIME, CategoricalFeature, Feature, NumericFeature, Profile
from exporter.profiles.quality import QualityEstimator
from exporter.stats.change_evidence import ChangeEvidence
from exporter.stats.divergence import BinIndices, Floats, Ints, Reference, bin_indices, pad_edges
from exporter.wire.batch import Inputs

Codes = npt.NDArray[np.unsignedinteger]

_NUMERIC = Numeric()
_MAX_DEVIATION = 1e145  # in training standard deviations; sums of its square stay finite


class Counted(NamedTuple):
    """What `Binner.count_columns` returns.

    Attributes
    ----------
    row
        The row of sums.
    minima
        Of each target and of its negative, shape ``(2·T,)``.
    bins
        Index of each feature's bin in each event, shape ``(T, n)``; ``(T, 0)`` unless they were asked for.
    """

    row: Floats
    minima: Floats
    bins: Codes


class Sums(NamedTuple):
    """Views into one row of sums, of a batch or of a window.

    ``counts`` has shape ``(B,)``, the others ``(T,)``. ``first`` and ``second`` are the sums of ``(x − centre)/scale``
    and of its square over the ``valid`` values. Centred and scaled, the variance of values far from zero keeps its
    digits, and no value is too small or too large.
    """

    counts: Floats
    valid: Floats
    first: Floats
    second: Floats
    unseen: Floats


class Binner:
    """Count batches of inputs and predictions in the bins of a profile.

    The scalar features of a model, its prediction and its confidence are its *targets*.

    Parameters
    ----------
    profile
        The training profile.
    redacted
        Inputs that are not recorded anywhere; they have no target.

    Attributes
    ----------
    inputs
        Type of each input that is counted.
    names
        Names of the features. The prediction and the confidence, where profiled, are further targets after them.
    prediction, confidence
        Their indices among the targets; None where the profile has none.
    targets, target_names
        Frozen bins and name of each of the ``T`` targets; the outputs' names are `PREDICTION` and `CONFIDENCE`.
    numeric
        The targets that are numbers, and None for categories.
    sizes
        Number of bins of each target.
    bins
        Number ``B`` of all bins.
    quantiles
        χ² quantiles of the noise floors, see `exporter.profiles.profile.Profile.quantile_array`.
    reference
        Training distribution of the targets.
    training
        Number of training values in each bin, shape ``(B,)``.
    starts, missing, invalid
        Index of the first bin, the bin of missing values and the bin of invalid ones, shape ``(T,)``.
    ranges
        The bins of each target among all bins.
    mean, stddev
        Statistics of the training values, shape ``(T,)``; NaN for categories.
    centre, scale
        The mean and standard deviation that values are centred and scaled by, shape ``(T,)``; always finite.
    profile_noise
        Noise floors of the targets, as far as the profile knows; see `exporter.monitoring.noise_learner`.
    copula, correlated
        Correlation of the numeric features, and their indices; None where the profile has none.
    known_inputs
        Inputs of the profile, and redacted ones.
    quality
        Estimates the quality of the predictions from counts; None where the profile was made without labels.
    width
        Length of a row of sums.
    layout
        Identifies the targets and their bins: only codes of the same layout compare.
    read : callable
        Reads inputs straight from JSON; see `exporter.features.json_inputs.JsonColumnReader.read`.
    """

    def __init__(self, profile: Profile, redacted: Collection[str] = ()) -> None:
        self.inputs = {name: kind for name, kind in profile.input_types().items() if name not in redacted}
        self.profile = profile
        self.names = [name for source, kind in self.inputs.items() for name in kind.features(source)]
        self.targets: list[Feature] = [profile.features[name] for name in self.names]
        self.target_names = list(self.names)
        self.prediction = self._add_target(PREDICTION, profile.prediction)
        self.confidence = self._add_target(CONFIDENCE, profile.confidence)
        self.numeric = [target if isinstance(target, NumericFeature) else None for target in self.targets]
        self.quantiles = profile.quantile_array()
        self._index_bins()
        self.mean = np.array([np.nan if n is None or n.mean is None else n.mean for n in self.numeric])
        self.stddev = np.array([np.nan if n is None or n.stddev is None else n.stddev for n in self.numeric])
        self.centre = np.nan_to_num(self.mean)
        self.scale = np.where(self.stddev > 0, self.stddev, np.maximum(abs(self.centre), 1.0))
        self.read = JsonColumnReader(self.inputs).read
        self.known_inputs = {*profile.inputs, *redacted}
        self.quality = QualityEstimator(profile.quality, profile.targets(self.names)) if profile.quality else None
        self._index_values()
        self._index_rows()
        self.copula = self._build_copula()
        self.profile_noise = NoiseFloors.from_profile(profile, self.target_names, self.reference, self.copula)
        self.profile_noise.doubt[self.in_doubt] = np.inf
        self._copula_start = self.bins + 4 * len(self.targets)
        self.width = self._copula_start + (self.copula.width if self.copula else 0)
        names = msgspec.json.encode([profile.known_hash(), self.target_names])
        self.layout = hashlib.sha256(names).hexdigest()[:32]
        self.code_type = np.min_scalar_type(max(self.sizes, default=0))

    def _add_target(self, name: str, target: Feature | None) -> int | None:
        """Add an output of the model to the targets, and return its index; None where no training row has it."""
        if target is None or target.counts[-2] == sum(target.counts):
            return None
        self.target_names.append(name)
        self.targets.append(target)
        return len(self.targets) - 1

    def _index_bins(self) -> None:
        """Lay out the bins of all targets, and their training values; of outputs, those of rows that have one."""
        self.sizes = [len(target.counts) for target in self.targets]
        training = np.array([count for target in self.targets for count in target.counts], dtype=np.float64)
        self.bins = len(training)
        stops = np.cumsum(self.sizes, dtype=np.intp)
        self.missing, self.invalid = stops - 2, stops - 1
        training[self.missing[len(self.names) :]] = 0  # live events without an output are not counted, either
        self.reference = Reference.from_counts(training, self.sizes, self.quantiles)
        self.training: Floats = training
        self.starts: Ints = self.reference.starts
        self.ranges = [slice(start, stop) for start, stop in zip(self.starts.tolist(), stops.tolist(), strict=True)]

    @cached_property
    def in_doubt(self) -> list[int]:
        """Targets that training shows to be independent, or not at all, though its rows may be shuffled."""
        if self.profile.blocks and self.profile.blocks.order == TIME:
            return []
        return np.flatnonzero(self.dispersion <= 1).tolist()

    @cached_property
    def dispersion(self) -> Floats:
        """The dispersion of training values, shape ``(T,)``."""
        blocks = self.profile.blocks
        return blocks.dispersions(self.target_names) if blocks else np.ones(len(self.targets))

    def change_evidence(self, dispersion: Floats) -> ChangeEvidence:
        """Return the training side of the evidence of slow change."""
        return ChangeEvidence(self.reference, np.array([n is not None for n in self.numeric]), dispersion)

    def _index_values(self) -> None:
        """Prepare finding the bins of numbers and of categories."""
        edges = [n.edges if n else () for n in self.numeric]
        self._edges = pad_edges(edges)
        self._above = self.starts + np.array([len(feature_edges) for feature_edges in edges], dtype=np.intp)
        self._single_precision = {index for index, n in enumerate(self.numeric) if n and n.precision == "single"}
        self._categories = [
            {name: index for index, name in enumerate(target.categories)}
            if isinstance(target, CategoricalFeature)
            else {}
            for target in self.targets
        ]

    def _index_rows(self) -> None:
        """Order the rows of a batch's matrix: numeric inputs first, then what is measured of other inputs."""
        indices = {name: index for index, name in enumerate(self.names)}
        self._targets_of = {
            source: [indices[name] for name in kind.features(source)] for source, kind in self.inputs.items()
        }
        self._measured = {source: kind for source, kind in self.inputs.items() if not kind.is_number}
        numeric = [
            index for source in self.inputs if source not in self._measured for index in self._targets_of[source]
        ]
        measured = [
            index
            for source, kind in self._measured.items()
            if not kind.categorical
            for index in self._targets_of[source]
        ]
        self._row_targets: Ints = np.array([*numeric, *measured], dtype=np.intp)

    def _build_copula(self) -> Copula | None:
        correlation = restrict_correlation(self.profile.correlation, self.names) if self.profile.correlation else None
        self._copula_rows: list[int] = []
        self.correlated: set[int] = set()
        if correlation is None:
            return None
        rows = {self.names[target]: row for row, target in enumerate(self._row_targets)}
        self._copula_rows = [rows[name] for name in correlation.features]
        self.correlated = {self.names.index(name) for name in correlation.features}
        bins = [self.profile.features[name] for name in correlation.features]
        return Copula([f for f in bins if isinstance(f, NumericFeature)], correlation, self.quantiles)

    def split(self, row: Floats) -> Sums:
        """Return the parts of a row of sums, as views."""
        rest = row[self.bins : self._copula_start]
        return Sums(row[: self.bins], *rest.reshape(4, len(self.targets)))

    def multivariate_drift(self, row: Floats) -> tuple[float, float]:
        """Return the drift of the correlation in a row of sums, and its noise floor; see `Copula.drift`."""
        if self.copula is None:
            return np.nan, np.nan
        sums = row[self._copula_start :]
        score, floor = self.copula.drift(sums)
        return score, floor * float(self.profile_noise.rows.at(sums[:1])[0])

    def read_inputs(self, raw: Sequence[bytes], decoded: bool = False) -> Inputs:
        """Return the inputs of a batch in columns.

        Parameters
        ----------
        raw
            The JSON of each event's inputs; empty or ``null`` for none.
        decoded
            Whether to return the inputs of each event, too. Without, JSON is read straight into columns where it is as
            the profile expects, which is faster.
        """
        if not decoded and (table := self.read(raw)) is not None:
            indices = [index for index, text in enumerate(raw) if text and text != b"null"]
            return Inputs(*table, indices if len(indices) < len(raw) else None)
        events = decode_inputs(raw)
        columns, unknown = self.columns_of(list(events.values()))
        return Inputs(columns, len(events), list(events) if len(events) < len(raw) else None, unknown, events)

    def columns_of(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Sequence[Any]], int]:
        """Return decoded inputs as columns, and the number of features that the profile does not know.

        A feature that is absent is missing.
        """
        columns: dict[str, Sequence[Any]] = {}
        absent = 0
        for name in self.inputs if inputs else ():
            try:
                columns[name] = values = list(map(itemgetter(name), inputs))
            except KeyError:
                columns[name] = values = [event.get(name) for event in inputs]
            absent += values.count(None)
        unknown = 0
        if sum(map(len, inputs)) + absent > len(inputs) * len(self.inputs):
            unknown = sum(len(event.keys() - self.known_inputs) for event in inputs)
        return columns, unknown

    def count_columns(
        self,
        inputs: Mapping[str, Any],
        rows: int,
        predictions: Sequence[Any] | Floats,
        now: float | Floats | None = None,
        confidences: Sequence[float] | Floats = (),
        *,
        with_bins: bool = False,
    ) -> Counted:
        """Count a batch in columns: lists, or arrays of numbers.

        Parameters
        ----------
        inputs
            Columns of ``rows`` values by the input's name; one that is absent is missing.
        rows
            Number of events that have inputs.
        predictions
            Predictions of those events that have one.
        now
            Unix time in seconds at which they arrived, or each of them did; the present when None.
        confidences
            Confidences of those events that have one.
        with_bins
            Whether to return the bins of the inputs.
        """
        row = np.zeros(self.width)
        minima = np.full(2 * len(self.targets), np.inf)
        codes = np.zeros((len(self.targets), rows if with_bins else 0), dtype=self.code_type)
        sums = self.split(row)
        if rows:
            columns = {name: inputs[name] if name in inputs else [None] * rows for name in self.inputs}
            matrix = self._matrix(sums, columns, rows, time.time() if now is None else now, codes)
            bins = self._count_numbers(sums, minima, self._row_targets, matrix, codes)
            if self.copula:
                row[self._copula_start :] = self.copula.sums(matrix[self._copula_rows], bins[self._copula_rows])
        for target, values in ((self.prediction, predictions), (self.confidence, confidences)):
            if target is None or not len(values):
                continue
            if isinstance(self.targets[target], CategoricalFeature):
                self._count_categories(sums, target, values)
            else:
                self._count_numbers(sums, minima, np.array([target]), _NUMERIC.columns(values, 0.0))
        return Counted(row, minima, codes)

    def counts_of_parts(self, bins: Codes, parts: Ints, size: int) -> Floats:
        """Return the observations in each bin of the inputs by part of a batch, shape ``(size, B)``.

        Parameters
        ----------
        bins
            From `count_columns`, shape ``(T, n)``.
        parts
            Index of each event's part, shape ``(n,)``.
        size
            Number of parts.
        """
        features = len(self.names)
        flat = bins[:features] + self.starts[:features, None] + parts * self.bins
        counts = np.bincount(flat.ravel(), minlength=size * self.bins)
        return counts.reshape(size, self.bins).astype(np.float64)

    def _matrix(self, sums: Sums, columns: Mapping[str, Any], rows: int, now: float | Floats, codes: Codes) -> Floats:
        """Return the numbers of a batch, a row for each numeric feature; count its categories on the way."""
        parts = [numeric_columns([values for name, values in columns.items() if name not in self._measured])]
        for name, kind in self._measured.items():
            if kind.categorical:
                self._count_categories(sums, self._targets_of[name][0], kind.labels(columns[name]), codes)
            else:
                parts.append(kind.columns(as_list(columns[name]), now))
        return np.concatenate([part for part in parts if len(part)] or [np.empty((0, rows))])

    def _count_categories(
        self, sums: Sums, target: int, values: Sequence[Any] | Floats, codes: Codes | None = None
    ) -> None:
        feature = self.targets[target]
        rare = feature.rare if isinstance(feature, CategoricalFeature) else frozenset()
        bins, other = category_bins(values, self._categories[target], rare), len(self._categories[target])
        if codes is not None and codes.size:
            codes[target] = bins
        sums.counts[self.ranges[target]] += np.bincount(bins, minlength=other + 3)
        sums.unseen[target] += sum(
            scalar_text(values[row]) not in rare for row in np.flatnonzero(bins == other).tolist()
        )

    def _count_numbers(
        self, sums: Sums, minima: Floats, targets: Ints, matrix: Floats, codes: Codes | None = None
    ) -> BinIndices:
        """Count rows of numbers, and return the index of each number's bin within its target.

        The index of a number that is not finite has no meaning.
        """
        self._round_to_single_precision(targets, matrix)
        valid = np.isfinite(matrix)
        all_valid = bool(valid.all())
        bins = bin_indices(self._edges[:, targets], matrix)
        starts = self.starts[targets]
        flat_bins: Ints = bins + starts[:, None]
        if not all_valid:
            bad = np.where(np.isnan(matrix), self.missing[targets, None], self.invalid[targets, None])
            flat_bins = np.where(valid, flat_bins, bad)
        if codes is not None and codes.size:
            codes[targets] = flat_bins - starts[:, None]
        counts = np.bincount(flat_bins.ravel(), minlength=self.bins)
        sums.counts[:] += counts
        sums.valid[targets] += valid.sum(axis=1)
        above = self._above[targets]
        sums.unseen[targets] += np.where(above > starts, counts[starts] + counts[above], 0)
        minima[targets] = (matrix if all_valid else np.where(valid, matrix, np.inf)).min(axis=1)
        minima[targets + len(self.targets)] = -(matrix if all_valid else np.where(valid, matrix, -np.inf)).max(axis=1)
        with np.errstate(over="ignore"):
            scaled = (matrix - self.centre[targets, None]) / self.scale[targets, None]
        if not all_valid:
            scaled[~valid] = 0.0
        np.clip(scaled, -_MAX_DEVIATION, _MAX_DEVIATION, out=scaled)
        sums.first[targets] += scaled.sum(axis=1)
        sums.second[targets] += np.einsum("ij,ij->i", scaled, scaled)
        return bins

    def _round_to_single_precision(self, targets: Ints, matrix: Floats) -> None:
        """Round the numbers of targets that were profiled in 32 bits, in place."""
        rows = [row for row, target in enumerate(targets.tolist()) if target in self._single_precision]
        if rows:
            with np.errstate(over="ignore"):
                rounded = matrix[rows].astype(np.float32).astype(np.float64)
            matrix[rows] = np.where(np.isinf(rounded), matrix[rows], rounded)
