"""Batches of inputs to counts in a profile's frozen bins.

All scalar features of a model, its prediction and its confidence are *targets*: they lie behind one another in
flat arrays, so that a window is one row of sums and a score one vector operation.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from exporter.features import Categorical
from exporter.features.extract import as_list, category_counts, numeric_columns
from exporter.features.json_columns import JsonColumnReader
from exporter.features.numeric import Numeric
from exporter.profiles.correlation import Copula, restrict_correlation
from exporter.profiles.profile import CategoricalFeature, Correlation, Feature, NumericFeature, Profile
from exporter.stats.digitize import BinIndices, bin_indices, pad_edges
from exporter.stats.distances import Distances
from exporter.stats.divergence import Floats, Ints, Reference

_NUMERIC = Numeric()
_FAR = 1e145  # sums of its square stay finite


class Sums(NamedTuple):
    """Views into one row of sums: what a window, or a batch, adds up to.

    ``counts`` has shape ``(B,)``, the others ``(T,)``. ``first`` and ``second`` are the sums of
    ``(x − centre)/scale`` and of its square over the ``valid`` values: so that the variance of
    values far from zero keeps its digits, and no scale is too small or too large.
    """

    counts: Floats
    valid: Floats
    first: Floats
    second: Floats
    unseen: Floats


class Binner:
    """Where each target's bins and sums lie.

    Parameters
    ----------
    profile
        The training profile.
    redacted
        Inputs that must leave no trace: they have no target.

    Attributes
    ----------
    names
        Names of the ``F`` features; the prediction and the confidence, if profiled, are targets after the last.
    prediction, confidence
        Their places among the targets; None where the profile has none.
    targets
        The frozen bins of each of the ``T`` targets.
    sizes
        Bins of each target.
    reference
        The training side of the targets.
    mean, stddev
        Of the training values, shape ``(T,)``; NaN for categories.
    centre, scale
        Training mean and standard deviation where there are any, of numbers; shape ``(T,)``.
    copula
        How numeric features go together; None where the profile does not say.
    known
        Inputs that the profile knows, or that are redacted.
    missing, invalid
        Index of these bins, shape ``(T,)``.
    read : callable
        Reads inputs straight from JSON; see `exporter.features.json_columns.JsonColumnReader.read`.
    """

    def __init__(self, profile: Profile, redacted: Collection[str] = ()) -> None:
        self.profile = profile
        self.inputs = {name: kind for name, kind in profile.input_types().items() if name not in redacted}
        self.read = JsonColumnReader(self.inputs).read
        self.known = {*profile.inputs, *redacted}
        self.names = [name for source, kind in self.inputs.items() for name in kind.features(source)]
        self.targets: list[Feature] = [profile.features[name] for name in self.names]
        self.prediction = self._output(profile.prediction)
        self.confidence = self._output(profile.confidence or None)
        self.sizes = sizes = [len(target.counts) for target in self.targets]
        self._training = np.array([count for target in self.targets for count in target.counts], dtype=np.float64)
        self.bins = len(self._training)
        self._tail = self.bins + 4 * len(self.targets)
        self.reference = Reference.of(self._training, sizes)
        self.starts: Ints = self.reference.starts
        stops = self.starts + np.array(sizes, dtype=np.intp)
        self.missing, self.invalid = stops - 2, stops - 1
        numbers = [target if isinstance(target, NumericFeature) else None for target in self.targets]
        self.mean = np.array([n.mean if n and n.mean is not None else np.nan for n in numbers])
        self.stddev = np.array([n.stddev if n and n.stddev is not None else np.nan for n in numbers])
        self.centre = np.nan_to_num(self.mean)
        self.scale = np.where(self.stddev > 0, self.stddev, np.maximum(abs(self.centre), 1.0))
        self._single = {place for place, n in enumerate(numbers) if n and n.precision == "single"}
        self._edges = pad_edges([n.edges if n else () for n in numbers])
        self._above = self.starts + np.array([len(n.edges) if n else 0 for n in numbers], dtype=np.intp)
        self._known_categories = [
            {} if isinstance(t, NumericFeature) else {c: i for i, c in enumerate(t.categories)} for t in self.targets
        ]
        place = {name: place for place, name in enumerate(self.names)}
        self._places = {source: [place[name] for name in kind.features(source)] for source, kind in self.inputs.items()}
        # The rows of a batch's matrix: inputs that are numbers, then what is measured of the others.
        self._others = {source: kind for source, kind in self.inputs.items() if kind.type != "numeric"}
        plain = [place for source in self.inputs if source not in self._others for place in self._places[source]]
        measured = [p for source, kind in self._others.items() if not kind.categorical for p in self._places[source]]
        self._numbers: Ints = np.array([*plain, *measured], dtype=np.intp)
        whole = profile.correlation
        together = restrict_correlation(whole, place) if isinstance(whole, Correlation) else None
        self.copula = (
            Copula([f for n in together.features if isinstance(f := profile.features[n], NumericFeature)], together)
            if together
            else None
        )
        rows = {self.names[place]: row for row, place in enumerate(self._numbers)}
        self._together = [rows[name] for name in together.features] if together else []
        self.width = self._tail + (self.copula.width if self.copula else 0)

    def _output(self, target: Feature | None) -> int | None:
        """The place of what the model gave, as a further target."""
        if target is None:
            return None
        self.targets.append(target)
        return len(self.targets) - 1

    @cached_property
    def distances(self) -> Distances:
        """The training side of the distances that a configuration may ask for."""
        edges = [np.array(t.edges) if isinstance(t, NumericFeature) else np.empty(0) for t in self.targets]
        return Distances(self.reference, self._training, edges, self.centre, self.scale)

    def split(self, row: Floats) -> Sums:
        """The parts of a row of sums, as views."""
        return Sums(row[: self.bins], *row[self.bins : self._tail].reshape(4, len(self.targets)))

    def multivariate_drift(self, row: Floats) -> tuple[float, float]:
        """How differently features go together in a row of sums, and its noise floor; see `Copula.drift`."""
        return self.copula.drift(row[self._tail :]) if self.copula else (np.nan, np.nan)

    def count(
        self,
        inputs: Sequence[Mapping[str, Any]],
        predictions: Sequence[Any],
        now: float | None = None,
        confidences: Sequence[float] = (),
    ) -> tuple[Floats, Floats, int]:
        """Count a batch.

        Parameters
        ----------
        inputs
            Decoded inputs of ``n`` events; a feature that is absent is missing.
        predictions
            Predictions of those events that have one.
        now
            Unix time in seconds at which they arrived; the present when None.
        confidences
            Confidences of those events that have one.

        Returns
        -------
        tuple
            The row of sums; the row of minima, shape ``(2·T,)``: of each target and of its
            negative; and the number of features that came and that the profile does not know.
        """
        columns: dict[str, Sequence[Any]] = {}
        absent = 0
        for name in self.inputs if inputs else ():
            try:
                columns[name] = values = list(map(itemgetter(name), inputs))
            except KeyError:
                columns[name] = values = [event.get(name) for event in inputs]
            absent += values.count(None)
        row, lows = self.count_columns(columns, len(inputs), predictions, now, confidences)
        unknown = 0
        if sum(map(len, inputs)) + absent > len(inputs) * len(self.inputs):
            unknown = sum(len(event.keys() - self.known) for event in inputs)
        return row, lows, unknown

    def count_columns(
        self,
        inputs: Mapping[str, Any],
        rows: int,
        predictions: Sequence[Any] | Floats,
        now: float | Floats | None = None,
        confidences: Sequence[float] | Floats = (),
    ) -> tuple[Floats, Floats]:
        """Count a batch that comes in columns: lists, or arrays of numbers.

        Parameters
        ----------
        inputs
            Columns of ``rows`` values by the input's name; one that is absent is missing.
        predictions, confidences
            See `count`.
        now
            As in `count`; or for each row when it arrived.

        Returns
        -------
        tuple
            The row of sums and the row of minima.
        """
        now = time.time() if now is None else now
        row = np.zeros(self.width)
        lows = np.full(2 * len(self.targets), np.inf)
        sums = self.split(row)
        if rows:
            came = {name: inputs[name] if name in inputs else [None] * rows for name in self.inputs}
            columns = [numeric_columns([values for name, values in came.items() if name not in self._others])]
            for name, kind in self._others.items():
                if isinstance(kind, Categorical):
                    self._count_categories(sums, self._places[name][0], kind.labels(came[name]))
                else:
                    columns.append(kind.columns(as_list(came[name]), now))
            matrix = np.concatenate([part for part in columns if len(part)] or [np.empty((0, rows))])
            bins = self._count_numbers(sums, lows, self._numbers, matrix)
            if self.copula:
                row[self._tail :] = self.copula.sums(matrix[self._together], bins[self._together])
        for last, given in ((self.prediction, predictions), (self.confidence, confidences)):
            if last is None or not len(given):
                continue
            if isinstance(self.targets[last], CategoricalFeature):
                self._count_categories(sums, last, given)
            else:
                self._count_numbers(sums, lows, np.array([last]), _NUMERIC.columns(given, 0.0))
        return row, lows

    def _count_categories(self, sums: Sums, place: int, values: Sequence[Any] | Floats) -> None:
        target = self.targets[place]
        rare = target.rare if isinstance(target, CategoricalFeature) else frozenset()
        counts, unseen = category_counts(values, self._known_categories[place], rare)
        start = self.starts[place]
        sums.counts[start : start + len(counts)] += counts
        sums.unseen[place] += unseen

    def _count_numbers(self, sums: Sums, lows: Floats, places: Ints, matrix: Floats) -> BinIndices:
        """Count rows of numbers; the bin of each among its target's, which says nothing where it is not finite."""
        if single := [row for row, place in enumerate(places.tolist()) if place in self._single]:
            with np.errstate(over="ignore"):
                rounded = matrix[single].astype(np.float32).astype(np.float64)
            matrix[single] = np.where(np.isinf(rounded), matrix[single], rounded)
        valid = np.isfinite(matrix)
        whole = bool(valid.all())
        bins = bin_indices(self._edges[:, places], matrix)
        starts = self.starts[places]
        every: Ints = bins + starts[:, None]
        if not whole:
            bad = np.where(np.isnan(matrix), self.missing[places, None], self.invalid[places, None])
            every = np.where(valid, every, bad)
        counts = np.bincount(every.ravel(), minlength=self.bins)
        sums.counts[:] += counts
        sums.valid[places] += valid.sum(axis=1)
        sums.unseen[places] += np.where(self._above[places] > starts, counts[starts] + counts[self._above[places]], 0)
        lows[places] = (matrix if whole else np.where(valid, matrix, np.inf)).min(axis=1)
        lows[places + len(self.targets)] = -(matrix if whole else np.where(valid, matrix, -np.inf)).max(axis=1)
        with np.errstate(over="ignore"):
            shifted = (matrix - self.centre[places, None]) / self.scale[places, None]
        if not whole:
            shifted[~valid] = 0.0
        np.clip(shifted, -_FAR, _FAR, out=shifted)
        sums.first[places] += shifted.sum(axis=1)
        sums.second[places] += np.einsum("ij,ij->i", shifted, shifted)
        return bins
