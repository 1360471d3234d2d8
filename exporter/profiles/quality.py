"""Estimate a model's accuracy or mean absolute error from bin counts of a window, without labels.

The profile knows how good the model was on labelled rows, see `exporter.profiles.profile`. The estimate assumes
that this still holds within each bin. It follows inputs and confidences that move (covariate shift), and cannot see
that the labels of the same inputs have changed (concept change).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from exporter.features.base import is_missing, numeric_column, scalar_text
from exporter.profiles.bins import ExactMoments, RowSample, feature_bins
from exporter.profiles.profile import (
    CONFIDENCE,
    MAX_COMPONENTS,
    MAX_RESIDUALS,
    PREDICTION,
    BinEffects,
    Feature,
    NumericFeature,
    Quality,
)
from exporter.stats.divergence import Floats, Ints
from exporter.stats.quality import (
    Effects,
    IntervalEstimate,
    LabelledBins,
    Z,
    bin_resolution,
    calibrated,
    nearest_known,
    wilson,
)
from exporter.validation import preview

LEAST_ROWS = 20
"""With fewer labelled rows nothing is estimated."""
_MOST_UNSUPPORTED = 0.5
_LEAST_VARIANCE = 0.05  # of the reference's


class _Part(NamedTuple):
    """A target on which the estimate depends: its bins, and what each adds to the estimate.

    ``rows`` are the labelled rows in each bin, ``variances`` what a bin adds to the variance of a loss, and
    ``resolution`` how far the effect of a bin may be off, see `exporter.stats.quality.bin_resolution`.
    """

    bins: range
    rows: Floats
    effects: Floats
    variances: Floats
    resolution: Floats


class QualityEstimator:
    """Estimate the quality of a window from its bin counts.

    Parameters
    ----------
    quality
        How good the model was on labelled rows.
    targets
        Frozen bins of the targets that are counted, in the order of their counts.

    Attributes
    ----------
    kind
        Whether accuracies or absolute errors are estimated.
    overall, rows
        Accuracy or mean absolute error on the labelled rows, and their number: what measured values are compared with.
    estimated_overall, estimated_rows
        The same of the rows that an estimate is about, those with a valid confidence where accuracies are estimated:
        what estimates are compared with.
    known
        Whether there are enough labelled rows for an estimate, at least `LEAST_ROWS`.
    table
        Accuracy that goes with each bin of the confidence, shape ``(K,)``; NaN for missing and invalid, and where
        nothing is known. Empty for a regression and without a confidence.
    """

    def __init__(self, quality: Quality, targets: Mapping[str, Feature]) -> None:
        self.kind: Literal["accuracy", "absolute_error"] = quality.kind
        self.overall, self.rows = self.estimated_overall, self.estimated_rows = quality.overall, quality.rows
        self._quality = quality
        self._base, self._base_variance = (0.0, 0.0) if self.kind == "accuracy" else (quality.overall, quality.variance)
        layout, start = {}, 0
        for name, target in targets.items():
            layout[name] = range(start, start + len(target.counts))
            start += len(target.counts)
        confidence = targets.get(CONFIDENCE)
        self._edges = np.array(confidence.edges if isinstance(confidence, NumericFeature) else ())
        rows = np.array(quality.calibration_rows, dtype=np.float64)
        right = np.array(quality.calibration_right, dtype=np.float64)
        self.table: Floats = np.full(len(rows), np.nan)
        self.table[:-2] = calibrated(rows[:-2], right[:-2])
        parts = self._calibration(layout, rows, right) if self.kind == "accuracy" else self._components(targets, layout)
        labelled = quality.calibrated_rows if self.kind == "accuracy" else quality.sampled
        self.known = labelled >= LEAST_ROWS
        if self.kind == "accuracy" and self.known and labelled < self.rows:
            self.estimated_overall, self.estimated_rows = quality.calibrated_right / labelled, labelled
        self._predictions = layout.get(PREDICTION, range(0))
        self._count = parts[0].bins if self.kind == "accuracy" and parts else self._predictions
        self._prepare(parts, float(max(labelled, 1)))
        self._watch(targets, layout, parts)

    def _calibration(self, layout: Mapping[str, range], rows: Floats, right: Floats) -> list[_Part]:
        if not len(rows):
            return []
        bins, accuracy = layout[CONFIDENCE][:-2], self.table[:-2]
        smoothed = (right[:-2] + 0.5) / (rows[:-2] + 1)  # Jeffreys' prior: no bin is certain
        smoothed = np.where(rows[:-2] > 0, smoothed, accuracy)
        return [_Part(bins, rows[:-2], accuracy, smoothed * (1 - smoothed), bin_resolution(accuracy, rows[:-2]))]

    def _components(self, targets: Mapping[str, Feature], layout: Mapping[str, range]) -> list[_Part]:
        parts = []
        self._names = [name for name in self._quality.components if name in layout]
        for name in self._names:
            component = self._quality.components[name]
            rows, effects = np.array(component.rows, dtype=np.float64), np.array(component.values)
            resolution = np.zeros(len(rows))
            if isinstance(targets[name], NumericFeature):
                effects[:-2] = nearest_known(effects[:-2], rows[:-2])
                resolution[:-2] = bin_resolution(effects[:-2], rows[:-2])
            parts.append(_Part(layout[name], rows, effects, np.array(component.variances), resolution))
        return parts

    def _prepare(self, parts: Sequence[_Part], rows: float) -> None:
        """Lay out what the parts add to the estimate, and to its variance."""
        self._parts = BinShares([part.bins for part in parts])
        none = [np.empty(0)]
        self._effects = np.concatenate([part.effects for part in parts] or none)
        self._variances = np.concatenate([part.variances for part in parts] or none)
        self._resolution = np.concatenate([part.resolution for part in parts] or none)
        self._trained = np.concatenate([part.rows / max(part.rows.sum(), 1.0) for part in parts] or none)
        in_bin = np.maximum(np.concatenate([part.rows for part in parts] or none), 1.0)
        if self.kind == "accuracy":
            self._own, self._own_constant = self._variances / in_bin, 0.0
        else:  # the leverage of the window's shares: one row of a regression design for each bin
            variance = self._quality.variance
            self._own, self._own_constant = variance / in_bin, variance * (1 - len(parts)) / rows

    def _watch(self, targets: Mapping[str, Feature], layout: Mapping[str, range], parts: Sequence[_Part]) -> None:
        """Lay out the residuals, and which bins have no labelled rows."""
        residuals = {name: part for name, part in self._quality.residuals.items() if name in layout}
        self._residuals = BinShares([layout[name] for name in residuals])
        rows = [np.array(part.rows, dtype=np.float64) for part in residuals.values()]
        none = [np.empty(0)]
        self._residual = np.concatenate([np.array(part.values) for part in residuals.values()] or none)
        shares = np.concatenate([part / max(part.sum(), 1.0) for part in rows] or none)
        self._expected_residual = self._residuals.sums(shares * self._residual)
        watched = [(part.bins, part.rows == 0) for part in parts]
        watched += [(layout[name], part == 0) for name, part in zip(residuals, rows, strict=True)]
        if PREDICTION in targets:
            watched.append((layout[PREDICTION], np.array(targets[PREDICTION].counts) == 0))
        names = {bins.start: name for name, bins in layout.items()}
        self._watched = BinShares([bins for bins, _ in watched])
        self._unsupported = np.concatenate([empty for _, empty in watched] or none).astype(np.float64)
        others = {name: target for name, target in targets.items() if layout[name] not in {bins for bins, _ in watched}}
        self._others = BinShares([layout[name] for name in others])
        self._compared = [*(names[bins.start] for bins, _ in watched), *others]
        empty = [np.array(target.counts) == 0 for target in others.values()]
        self._unknown = np.concatenate(empty or none).astype(np.float64)

    def value(self, counts: Floats) -> float:
        """Return the estimate alone; see `estimate`. NaN where nothing was observed, or with too few labelled rows."""
        chosen = counts[self._count.start : self._count.stop]
        observed = chosen.sum()
        if not self.known or not observed:
            return np.nan
        if self.kind == "accuracy":
            return float(chosen @ self._effects / observed)
        shares, _ = self._parts.read(counts)
        return max(float(self._base + shares @ self._effects), 0.0)

    def absence(self, counts: Floats) -> Literal["few", "empty", "unconfident", "unsupported", "wide"]:
        """Return why there is no estimate.

        There are too few labelled rows, no observations, too few predictions with a confidence, observations unlike
        the labelled rows, or an interval that excludes nothing. The counts are those for which `estimate` returns None.
        """
        if not self.known:
            return "few"
        if np.isnan(self.value(counts)):
            return "empty"
        if self._lacking_share(counts) > _MOST_UNSUPPORTED:
            return "unconfident"
        return "unsupported" if self.unlike(counts) else "wide"

    def estimate(self, counts: Floats, past: float = 0.0) -> IntervalEstimate | None:
        """Return the accuracy or mean absolute error that the labels of a window will probably show.

        The interval is one of 95% for what will be measured in this window. Its variance has four parts: the chance
        that decides the losses of this window's predictions; the error of what was learned from a limited number of
        labelled rows, in bins of limited width; what shifted features do that were found to matter beyond the
        confidence or the components; and the difference between periods. It is widened by what predictions could do
        that are in bins without labelled rows, or that have no confidence although such labelled rows had one.

        Parameters
        ----------
        counts
            Number of observations in each bin of all targets, shape ``(B,)``.
        past
            Variance of past estimates about what was measured, beyond chance; it is added to that of this one.

        Returns
        -------
        IntervalEstimate
            None without observations, with fewer than `LEAST_ROWS` labelled rows, where more than half of the
            observations of a target that matters are in bins without labelled rows, or lack a confidence, and where
            the interval of an accuracy is that from 0 to 1.
        """
        observed = self.observed(counts) if self.known else 0.0
        if not observed:
            return None
        if self.unlike(counts):
            return None
        shares, _ = self._parts.read(counts)
        value = self.value(counts)
        least = _LEAST_VARIANCE * self._base_variance
        variance = max(float(self._base_variance + shares @ self._variances), least) / observed
        variance += self._learned_variance(shares)
        variance += self._shift_variance(counts) + self._quality.between_periods + past
        half = Z * float(np.sqrt(variance))
        found = self._widened(value, half, float(self._unsupported_shares(counts).max(initial=0.0)))
        return None if self.kind == "accuracy" and found.lower <= 0 and found.upper >= 1 else found

    def learned_variance(self, counts: Floats) -> float:
        """Return the variance of an estimate by the error of what was learned from the labelled rows.

        Without observations, it is that of an estimate for the labelled rows.
        """
        return self._learned_variance(self._parts.read(counts)[0] if self.observed(counts) else self._trained)

    def _learned_variance(self, shares: Floats) -> float:
        variance = max(float(shares**2 @ self._own) + self._own_constant, 0.0)
        return variance + float(abs(shares - self._trained) @ self._resolution) ** 2

    @property
    def reference(self) -> IntervalEstimate:
        """`overall` with the 95% interval that its limited number of rows leaves."""
        if self.kind == "accuracy":
            return wilson(self.overall * self.rows, self.rows)
        variance = self._base_variance + float(self._trained @ (self._variances + self._effects**2))
        half = Z * float(np.sqrt(max(variance, 0.0) / max(self.rows, 1)))
        return IntervalEstimate(self.overall, max(self.overall - half, 0.0), self.overall + half)

    def observed(self, counts: Floats) -> float:
        """Return how many predictions an estimate is of."""
        return float(counts[self._count.start : self._count.stop].sum())

    def _widened(self, value: float, half: float, unsupported: float) -> IntervalEstimate:
        """Return the estimate with the interval that unsupported predictions widen, within what is possible."""
        lower, upper = (1 - unsupported) * (value - half), (1 - unsupported) * (value + half)
        if self.kind == "accuracy":
            return IntervalEstimate(value, min(max(lower, 0.0), value), max(min(upper + unsupported, 1.0), value))
        upper = max(upper + unsupported * self._quality.large, value + half)
        return IntervalEstimate(value, min(max(lower, 0.0), value), upper)

    def unlike(self, counts: Floats) -> list[str]:
        """Return the targets of which more than half of the observations are in bins that no labelled row is in."""
        shares, _ = self._others.read(counts)  # of features that did not matter: bins that training left empty
        found = [*self._unsupported_shares(counts), *self._others.sums(shares * self._unknown)]
        return [name for name, share in zip(self._compared, found, strict=True) if share > _MOST_UNSUPPORTED]

    def _unsupported_shares(self, counts: Floats) -> Floats:
        """Return the share of each watched target's observations in bins without labelled rows, or that are lacking."""
        shares, _ = self._watched.read(counts)
        unsupported = self._watched.sums(shares * self._unsupported)
        if self.kind == "accuracy":  # the first target is the confidence
            unsupported[0] = 1 - (1 - unsupported[0]) * (1 - self._lacking_share(counts))
        return unsupported

    def _lacking_share(self, counts: Floats) -> float:
        """Return the share of predictions without a valid confidence, of those expected to have one.

        As many are expected as among the labelled rows. Live predictions without a confidence are in no bin of it, so
        their number is that of the predictions less that of the confidences.
        """
        predictions = float(counts[self._predictions.start : self._predictions.stop].sum())
        expected = (1 - self._quality.without_confidence) * predictions
        if self.kind != "accuracy" or not expected:
            return 0.0
        return max(1 - float(counts[self._count.start : self._count.stop].sum()) / expected, 0.0)

    def _shift_variance(self, counts: Floats) -> float:
        """Return the squares of what shifts of the residuals' features add to the loss, summed."""
        shares, totals = self._residuals.read(counts)
        shift = self._residuals.sums(shares * self._residual) - self._expected_residual
        return float(shift**2 @ (totals > 0))

    def losses(self) -> tuple[float, dict[str, Floats]]:
        """Return what the bins of a single prediction add to its expected loss.

        Returns
        -------
        tuple
            The loss without them; and by target what each of its bins adds, NaN where that is not known. The loss is
            the probability of a wrong class, or the absolute error.
        """
        if self.kind == "accuracy":
            return 0.0, {CONFIDENCE: 1 - self.table} if self.known and len(self.table) else {}
        effects = np.split(self._effects, self._parts.starts[1:]) if len(self._parts.starts) else []
        return self._base, dict(zip(self._names, effects, strict=True)) if self.known else {}

    def expected(self, confidences: Floats) -> Floats:
        """Return the probability that predictions are right, by their confidences.

        Parameters
        ----------
        confidences
            Shape ``(n,)``.

        Returns
        -------
        ndarray
            Shape ``(n,)``; NaN for a confidence that is not finite, and where there is no calibration.
        """
        if not self.known or not len(self.table):
            return np.full(len(confidences), np.nan)
        accuracy = self.table[self._edges.searchsorted(confidences, side="right")]
        return np.where(np.isfinite(confidences), accuracy, np.nan)


class BinShares:
    """Read the shares of the bins of some targets from the counts of all targets.

    Parameters
    ----------
    bins
        Indices of each target's bins among all bins.
    """

    def __init__(self, bins: Sequence[range]) -> None:
        sizes = [len(part) for part in bins]
        self.starts: Ints = np.cumsum([0, *sizes[:-1]], dtype=np.intp)[: len(bins)]
        self._owner = np.repeat(np.arange(len(bins)), sizes)
        self._indices: Ints = np.array([index for part in bins for index in part], dtype=np.intp)

    def read(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the share of each bin within its target, and the number of values of each target."""
        chosen = counts[self._indices]
        totals = self.sums(chosen)
        return chosen / np.maximum(totals, 1e-300)[self._owner], totals

    def sums(self, values: Floats) -> Floats:
        """Return the sum over the bins of each target."""
        return np.add.reduceat(values, self.starts) if len(self.starts) else np.empty(0)


LARGE = 0.95
"""Share of the rows that do not exceed `Quality.large`."""
LARGEST_ERROR = 1e75
"""A larger error is not used, so that sums of its fourth power stay finite."""
_CELLS = 20_000_000
_ROWS = 200_000


def most_rows(targets: int) -> int:
    """Return from how many rows at most is learned what goes with the quality, by the number of targets."""
    return max(min(_ROWS, _CELLS // max(targets, 1)), 1)


def _bin_effects(effect: Effects, of_square: Effects | None = None) -> BinEffects:
    variances = of_square.values.tolist() if of_square else []
    return BinEffects(
        tuple(map(int, effect.rows)), tuple(map(rounded, effect.values.tolist())), tuple(map(rounded, variances))
    )


def rounded(number: float) -> float:
    """Return a number with six digits: enough for an estimate, and short in the file."""
    return float(f"{number:.6g}")


_LEAST_OF_THREE = 1 / 3  # the confidence of three classes or more may be below 0.5, too


def confidence_of_class(answers: Sequence[tuple[str, float]]) -> str:
    """Say so if the confidence is the probability of one of two classes, whichever is predicted; else nothing.

    >>> confidence_of_class([("no", 0.1), ("yes", 0.9)] * 10)
    'is at most 0.5 wherever the prediction is "no", as if it were always the probability of "yes"'
    >>> confidence_of_class([("no", 0.6), ("yes", 0.9)] * 10)
    ''
    """
    by_class: dict[str, list[float]] = {}
    for name, confidence in answers:
        by_class.setdefault(name, []).append(confidence)
    if len(by_class) != 2 or min(map(len, by_class.values())) < LEAST_ROWS // 4 or len(answers) < LEAST_ROWS:
        return ""
    (low, below), (high, above) = sorted(by_class.items(), key=lambda item: max(item[1]))
    if max(below) > min(0.5, *above) or min(below) > _LEAST_OF_THREE:
        return ""
    detail = f"as if it were always the probability of {preview(high)}"
    return f"is at most 0.5 wherever the prediction is {preview(low)}, {detail}"


class QualityBuilder:
    """Learn how good a model is from labelled rows, over any number of batches.

    The overall quality and the calibration are those of all rows. The rest is learned from a random sample of at most
    200,000 rows, fewer with many features; the same data give the same sample.

    Parameters
    ----------
    targets
        Frozen bins of the features and outputs, see `exporter.profiles.profile.Profile.targets`.
    """

    def __init__(self, targets: Mapping[str, Feature]) -> None:
        self._targets = targets
        self._sizes = [len(target.counts) for target in targets.values()]
        self._names = list(targets)
        self.is_regression = isinstance(targets[PREDICTION], NumericFeature)
        confidence = targets.get(CONFIDENCE)
        self._confidence = confidence if isinstance(confidence, NumericFeature) else None
        size = len(confidence.counts) if confidence else 0
        self._in_bin = np.zeros((2, size))  # labelled rows in each bin of the confidence, and those that are right
        self._rows = self._unusable = 0
        target = targets[PREDICTION]
        self._losses_sum = ExactMoments(0.0, (isinstance(target, NumericFeature) and target.stddev) or 1.0)
        self._sample = RowSample(most_rows(len(targets)))

    def add(
        self,
        predictions: Sequence[Any],
        labels: Sequence[Any],
        confidences: Floats | None,
        times: Sequence[float],
        columns: Callable[[Ints], Mapping[str, Sequence[Any] | Floats]],
        *,
        first: int = 0,
    ) -> None:
        """Add a batch of ``n`` rows.

        Parameters
        ----------
        predictions, labels
            Predictions and labels; None or NaN where there is none.
        confidences
            Confidence of each row, shape ``(n,)``; None where there is no such column.
        times
            When each row arrived, in Unix seconds; NaN where it is not known.
        columns
            Returns the columns of all targets for the rows with the given indices, see `feature_bins`.
        first
            Number of the first row.
        """
        losses, labelled = self._losses(predictions, labels)
        usable = np.flatnonzero(np.isfinite(losses))
        self._unusable += labelled - len(usable)
        self._rows += len(usable)
        losses = losses[usable]
        self._losses_sum.add(losses)
        if self._confidence and confidences is not None and not self.is_regression:
            bins = feature_bins(self._confidence, confidences[usable])
            size = self._in_bin.shape[1]
            self._in_bin += np.bincount(bins, minlength=size), np.bincount(bins, 1 - losses, size)
        chosen = self._sample.choose(first + usable)
        rows = usable[chosen]
        if len(rows):
            values = columns(rows)
            found = [feature_bins(target, values[name]) for name, target in self._targets.items()]
            self._sample.add(first + rows, [losses[chosen], np.array(times)[rows], np.array(found, dtype=np.int16)])

    def merge(self, later: QualityBuilder) -> None:
        """Add the rows of another builder."""
        self._in_bin += later._in_bin
        self._rows += later._rows
        self._unusable += later._unusable
        self._losses_sum.merge(later._losses_sum)
        self._sample.merge(later._sample)

    def _losses(self, predictions: Sequence[Any], labels: Sequence[Any]) -> tuple[Floats, int]:
        """Return the loss of each row, NaN where it has none, and how many rows have a prediction and a label."""
        if self.is_regression:
            predicted, actual = numeric_column(predictions), numeric_column(labels)
            with np.errstate(over="ignore", invalid="ignore"):
                losses = abs(predicted - actual)
            losses[~(losses <= LARGEST_ERROR)] = np.nan
            return losses, int((~np.isnan(predicted) & ~np.isnan(actual)).sum())
        present = [not (is_missing(a) or is_missing(b)) for a, b in zip(predictions, labels, strict=True)]
        pairs = zip(map(_text, predictions), map(_text, labels), present, strict=True)
        return (
            np.array([np.nan if not known or None in (a, b) else float(a != b) for a, b, known in pairs], dtype=float),
            sum(present),
        )

    def build(self) -> Quality | None:
        """Return the quality; None without labelled rows."""
        if not self._rows:
            return None
        columns = self._sample.columns()
        order = np.argsort(columns[1], kind="stable")
        losses, times, bins = (column[..., order] for column in columns)
        mean, size = self._losses_sum.read()[0], len(losses)
        if self.is_regression:
            quality = Quality("absolute_error", self._rows, rounded(mean), self._unusable, sampled=size)
            labelled = LabelledBins(bins, self._sizes, int(np.isfinite(times).sum()))
            return self._with_residuals(labelled, *self._with_components(quality, labelled, losses))
        quality = Quality("accuracy", self._rows, rounded(1 - mean), self._unusable, sampled=size)
        if not self._confidence:
            return quality
        of_confidence = bins[self._names.index(CONFIDENCE)]
        known = of_confidence < self._in_bin.shape[1] - 2
        labelled = LabelledBins(bins[:, known], self._sizes, int(np.isfinite(times[known]).sum()))
        residuals = 1 - losses[known] - calibrated(*self._in_bin[:, :-2])[of_confidence[known]]
        rows, right = (tuple(map(int, part)) for part in self._in_bin)
        quality = msgspec.structs.replace(quality, calibration_rows=rows, calibration_right=right)
        return self._with_residuals(labelled, quality, residuals)

    def _with_components(self, quality: Quality, labelled: LabelledBins, losses: Floats) -> tuple[Quality, Floats]:
        """Return the quality with the components of the error, and what these leave of each row's error."""
        chosen = labelled.explaining(losses, MAX_COMPONENTS)
        effects = labelled.fit(losses, chosen)
        residuals = labelled.remaining(losses, chosen, effects)
        squares = np.square(residuals)
        parts = zip(chosen, effects, labelled.fit(squares, chosen), strict=True)
        components = {self._names[target]: _bin_effects(effect, of_square) for target, effect, of_square in parts}
        variance, large = rounded(labelled.moments(squares)[0]), rounded(float(np.quantile(losses, LARGE)))
        return msgspec.structs.replace(quality, components=components, variance=variance, large=large), residuals

    def _with_residuals(self, labelled: LabelledBins, quality: Quality, residuals: Floats) -> Quality:
        """Return the quality with the features that go with what it leaves unexplained."""
        associated = labelled.associated(residuals, MAX_RESIDUALS)
        return msgspec.structs.replace(
            quality,
            residuals={self._names[target]: _bin_effects(effect) for target, effect in associated.items()},
            between_periods=rounded(labelled.variance_between(residuals)),
        )


def _text(value: Any) -> str | None:
    """Return the text by which labels are compared; None for a value that is no label."""
    return scalar_text(value) if isinstance(value, str | bool | int | float) else None
