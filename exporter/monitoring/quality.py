"""The measured quality of a model version: its predictions compared with their labels.

Counters start with the process. Windows are by the time of the prediction, whose label may come days later.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.config import ModelConfig, Task
from exporter.features.base import scalar_text
from exporter.monitoring.counters import DELAY_BUCKETS, Histogram, Segments
from exporter.monitoring.windows import SLOTS, Ring, Ticks
from exporter.profiles.profile import CategoricalFeature, Profile
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate, Z, calibration_error_by_chance, wilson
from exporter.wire.events import LabelledPrediction

MAX_ERROR = 1e15
"""A label that is further from its prediction is not usable: it would hide all other errors of the sums for ever."""
MAX_LABELS = 20
"""Classes that have a name of their own in metrics."""
OTHER = "other"
_MAX_LENGTH = 64
_SCALARS = (str, bool, int, float)
_NUMERIC = frozenset({int, float, str})  # as in columns, a text may hold a number


class Scorer:
    """Compares the predictions of a model with their labels.

    Parameters
    ----------
    task
        What the model does; None if the type of each prediction says it: a JSON number with a decimal point, such as
        3.0, is predicted by a regression, and anything else is a class.
    classes
        Classes that the model is known to predict, the most frequent first.

    Examples
    --------
    >>> Scorer("classification").loss("7", 7.0), Scorer("classification").loss(True, "false")
    (0.0, 1.0)
    >>> Scorer("regression").loss(1.5, 1), Scorer("regression").loss(1, "1.5"), Scorer("regression").loss(1.5, "one")
    (0.5, 0.5, None)
    >>> Scorer(None).loss(1.5, 1), Scorer(None).loss(1, 3)
    (0.5, 1.0)
    """

    def __init__(self, task: Task | None = None, classes: Sequence[str] = ()) -> None:
        self.task = task
        self.classes = classes

    @classmethod
    def of_model(cls, config: ModelConfig, profile: Profile | None) -> Scorer:
        """Return the scorer of a model: its task is the configured one, else that of the profile."""
        prediction = profile.prediction if profile else None
        classes = prediction.categories if isinstance(prediction, CategoricalFeature) else ()
        return cls(config.task or (task_of(profile) if profile else None), classes)

    def is_number(self, prediction: Any) -> bool:
        """Return whether a prediction is a number that may be more or less wrong, and not a class."""
        return self.task == "regression" or (self.task is None and isinstance(prediction, float))

    def loss(self, prediction: Any, label: Any) -> float | None:
        """Return how wrong a prediction is.

        Parameters
        ----------
        prediction, label
            JSON values.

        Returns
        -------
        float or None
            For a class 0 if the label is the same, else 1. They are compared by their text, as in profiles: 7, 7.0 and
            "7" are the same. For a number its distance from the label. None if the two cannot be compared.
        """
        error = self.error(prediction, label)
        return error if error is None else abs(error)

    def error(self, prediction: Any, label: Any) -> float | None:
        """Return the loss, or for a number the prediction less its label, which is above 0 where it is too high."""
        if self.is_number(prediction):
            return _difference(prediction, label)
        if not isinstance(prediction, _SCALARS) or not isinstance(label, _SCALARS):
            return None
        if isinstance(label, float) and not math.isfinite(label):  # no JSON value, but one of a table
            return None
        return float(scalar_text(prediction) != scalar_text(label))


def _difference(prediction: Any, label: Any) -> float | None:
    if type(prediction) not in _NUMERIC or type(label) not in _NUMERIC:
        return None
    try:
        difference = float(prediction) - float(label)
    except (ValueError, OverflowError):
        return None
    return difference if abs(difference) <= MAX_ERROR else None  # NaN is not


def task_of(profile: Profile) -> Task | None:
    """Return what a profile says about the model: by its labels, else by its predictions; None without any."""
    if profile.quality:
        return "classification" if profile.quality.kind == "accuracy" else "regression"
    if profile.prediction is None:
        return None
    return "classification" if isinstance(profile.prediction, CategoricalFeature) else "regression"


class LabelNames:
    """The names of classes in metrics: the first `MAX_LABELS` have their own, all further ones are ``other``.

    Parameters
    ----------
    classes
        Classes that have names before any others.

    Examples
    --------
    >>> names = LabelNames(["yes"])
    >>> [names.name(str(number)) for number in range(20)][-2:], names.name("yes"), names.name("0")
    (['18', 'other'], 'yes', '0')
    """

    def __init__(self, classes: Iterable[str] = ()) -> None:
        self._names: dict[str | bytes, str] = {}  # by the text, or by the hash of a long one
        for text in classes:
            self.name(text)

    def name(self, text: str) -> str:
        """Return the name of a class; a long text is cut."""
        is_long = len(text) > _MAX_LENGTH
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() if is_long else text
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MAX_LABELS:
                return OTHER
            name = self._names[key] = f"{text[: _MAX_LENGTH - 1]}…" if is_long else text
        return name


CONFIDENCE_BINS = 10
"""Bins of equal width for the calibration error."""
PERIODS = 10
"""A window is divided into so many parts, whose mean errors show how much alike successive errors are; in those of the
longest one, the calibration is compared with labels."""
MIN_ERRORS = 20
"""With fewer errors their mean has no interval: it would be too narrow. A period with fewer labels is left out."""
_LEAST_PARTS = 5
_ROUNDING = 1e-9
_PREDICTIONS, _CLASSES, _RIGHT, _NUMBERS, _ABSOLUTE, _SQUARED, _SIZES, _SIGNED = range(8)
EXPECTED = slice(8, 12)  # predictions with an expected accuracy, those that are right, its sum, and its variance
_BINS = 12  # then, by bin of the confidence: predictions, the sum of their confidences, and those that are right
WIDTH = _BINS + 3 * CONFIDENCE_BINS
"""Number of sums of a window."""


def sums_of_labels(
    errors: Floats, sizes: Floats, numbers: npt.NDArray[np.bool_], confidences: Floats, expected: Floats
) -> Floats:
    """Return what each label adds to the sums of a window, shape ``(n, WIDTH)``, by its `Scorer.error` and its size."""
    rows = np.zeros((len(errors), WIDTH))
    usable = ~np.isnan(errors)
    classes = usable & ~numbers
    right = classes & (errors == 0)
    signed = np.where(usable & numbers, errors, 0.0)
    rows[:, _CLASSES], rows[:, _RIGHT] = classes, right
    rows[:, _NUMBERS], rows[:, _ABSOLUTE], rows[:, _SQUARED] = usable & numbers, abs(signed), signed**2
    rows[:, _SIZES], rows[:, _SIGNED] = sizes, signed
    known = classes & ~np.isnan(expected) & ~np.isnan(confidences)
    chances = np.where(known, expected, 0.0)
    rows[:, EXPECTED] = np.stack((known, known & right, chances, chances * (1 - chances)), axis=1)
    rated = np.flatnonzero(classes & ~np.isnan(confidences))
    bins = _BINS + np.minimum((confidences[rated] * CONFIDENCE_BINS).astype(np.intp), CONFIDENCE_BINS - 1)
    rows[rated, bins] = 1.0
    rows[rated, bins + CONFIDENCE_BINS] = confidences[rated]
    rows[rated, bins + 2 * CONFIDENCE_BINS] = right[rated]
    return rows


class WindowQuality(NamedTuple):
    """The measured quality in a window. A figure of nothing is NaN, or None if it has an interval.

    Attributes
    ----------
    predictions, labelled
        Predictions that arrived in the window, and those made in the window whose label is known.
    accuracy
        Share of the labelled classes that are right, with its 95% interval.
    calibration_error
        Expected calibration error of the confidences (M. P. Naeini, G. Cooper and M. Hauskrecht, *Obtaining well
        calibrated probabilities using Bayesian binning*, AAAI 2015), 0 to 1.
    rated
        Labelled predictions by bin of their confidence, and the sums of these confidences.
    absolute_error
        Mean absolute error of the labelled numbers, with its 95% interval; the ends are NaN with fewer than
        `MIN_ERRORS`, and if rounding has made the sum of squares impossible.
    squared_error
        Root of the mean squared error; NaN in the second case.
    bias, relative_error
        Mean of the predictions less their labels; and the mean absolute error, divided by the labels' mean size.
    expected, expected_variance
        Accuracy that the profile's calibration had expected of the labelled predictions, and the variance by chance of
        what would be measured if the calibration were exact.
    compared
        Accuracy of exactly these predictions.
    """

    predictions: float
    labelled: float
    accuracy: IntervalEstimate | None
    calibration_error: float
    rated: tuple[list[float], list[float]]
    absolute_error: IntervalEstimate | None
    squared_error: float
    bias: float
    relative_error: float
    expected: float
    expected_variance: float
    compared: float

    @property
    def unlabelled(self) -> float:
        """Number of predictions whose label is not known yet."""
        return max(self.predictions - self.labelled, 0.0)

    @property
    def calibration_error_by_chance(self) -> float:
        """The calibration error to expect of as many labels if the confidences are exact; NaN without confidences."""
        return calibration_error_by_chance(*self.rated) if sum(self.rated[0]) > 0 else math.nan


def window_quality(ring: Ring, now: float) -> WindowQuality:
    """Return the quality in a window, given the ring of its sums."""
    row = ring.total(now)
    # A change of the clock may take away what another sub-window counted: then a sum is below 0.
    predictions, classes, right, numbers, absolute, squared, sizes = np.maximum(row[:_SIGNED], 0.0).tolist()
    known, known_right, expected, variance = np.maximum(row[EXPECTED], 0.0).tolist()
    rated, confidences, rated_right = row[_BINS:].reshape(3, CONFIDENCE_BINS)
    return WindowQuality(
        predictions=predictions,
        labelled=classes + numbers,
        accuracy=wilson(round(min(right, classes)), round(classes)) if classes else None,
        calibration_error=_share(float(np.abs(rated_right - confidences).sum()), float(rated.sum())),
        rated=(rated.tolist(), confidences.tolist()),
        absolute_error=_mean_error(numbers, absolute, squared, ring.parts(now, PERIODS)) if numbers else None,
        squared_error=math.sqrt(squared / numbers) if numbers and _are_exact(numbers, absolute, squared) else math.nan,
        bias=float(row[_SIGNED]) / numbers if numbers else math.nan,
        relative_error=absolute / sizes if sizes else math.nan,
        expected=_share(expected, known),
        expected_variance=variance / known**2 if known else math.nan,
        compared=_share(known_right, known),
    )


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else math.nan


def _mean_error(numbers: float, absolute: float, squared: float, parts: Floats) -> IntervalEstimate:
    """Return the mean error, whose variance is that of independent errors or that of the parts' means, if larger."""
    mean = absolute / numbers
    if numbers < MIN_ERRORS or not _are_exact(numbers, absolute, squared):
        return IntervalEstimate(mean, math.nan, math.nan)
    variance = max(squared / numbers - mean**2, 0.0) / (numbers - 1)
    count, total = parts[parts[:, _NUMBERS] > 0][:, [_NUMBERS, _ABSOLUTE]].T
    if len(count) >= _LEAST_PARTS:  # successive errors may be alike: method of batch means
        beyond = total - mean * count
        variance = max(variance, float(beyond @ beyond) / numbers**2 * len(count) / (len(count) - 1))
    half = Z * math.sqrt(variance)
    return IntervalEstimate(mean, max(mean - half, 0.0), mean + half)


def _are_exact(numbers: float, absolute: float, squared: float) -> bool:
    """Return whether a sum of squares is possible. A huge error that was added and taken away leaves its rounding."""
    return squared / numbers >= (1 - _ROUNDING) * (absolute / numbers) ** 2


def past_variance(rows: Floats) -> float:
    """Return how far the calibration was off in past periods: a variance to add to that of an estimated accuracy.

    Each period's accuracy is compared with what the calibration had expected of the same predictions.

    Parameters
    ----------
    rows
        Sums of ``k`` periods, shape ``(k, WIDTH)``.
    """
    known, right, expected, variance = rows[rows[:, EXPECTED.start] >= MIN_ERRORS, EXPECTED].T
    return miss_variance((right - expected) / known, np.maximum(variance, 0.0) / known**2)


def miss_variance(misses: Floats, chance: Floats) -> float:
    """Return the mean of the squared misses of estimates, beyond what chance explains.

    From the mean of the squares their mean by chance is subtracted, and one standard deviation of it by chance, so
    that the result is mostly 0 where estimates are right. Misses in one direction count in full: no mean is subtracted.

    Parameters
    ----------
    misses
        Measured less estimated quality in each of ``k`` periods.
    chance
        Variance of each by chance.

    Examples
    --------
    >>> round(miss_variance(np.array([0.1, -0.1]), np.array([0.001, 0.001])), 6)
    0.008
    >>> miss_variance(np.array([0.03, -0.03]), np.array([0.001, 0.001]))
    0.0
    """
    if not len(misses):
        return 0.0
    by_chance = float(chance.mean()) * (1 + math.sqrt(2 / len(misses)))
    return max(float((misses**2).mean()) - by_chance, 0.0)


ZERO_CLASSES = 10
"""Classes whose outcomes exist from the start, at 0: Prometheus sees no increase in a series that begins above 0."""
Expect = Callable[[Floats], Floats]
"""Takes confidences, shape ``(n,)``; returns how often such predictions are right, NaN where that is not known."""


class Quality:
    """Counters and windows of the predictions whose label is known.

    The caller holds the monitor's lock. Times are those of the monitor's windows, in seconds.

    Parameters
    ----------
    scorer
        Compares predictions with labels.
    windows
        Window lengths in seconds by their spelling.
    segments
        The model's segments, if it has any.
    expect
        Expected accuracy of confidences, where the profile has a calibration.

    Attributes
    ----------
    labelled, correct, older
        Labelled predictions, those of them that are right, and those that were made before the longest window.
    absolute_error, positive_error, squared_error
        Sums of the errors of numbers, of those of predictions above their label, and of all squares.
    outcomes
        Labelled predictions by the predicted and the actual class.
    delays
        Seconds from the prediction to its label.
    by_segment
        Labelled predictions, right ones and the sum of absolute errors by segment, shape ``(3, S)``.
    changes
        Number of batches that were counted: a snapshot is due when it has changed.
    since, until
        Unix times: the windows hold the labels that arrived since the first, and up to the second, that of the snapshot
        with which they began.
    is_labelled
        Whether labels were counted, in this process or the one before: versions without labels need no snapshot.
    """

    def __init__(
        self,
        scorer: Scorer,
        windows: Mapping[str, float],
        segments: Segments | None = None,
        expect: Expect | None = None,
    ) -> None:
        self.scorer = scorer
        self.labelled = self.correct = self.older = 0
        self.absolute_error = self.positive_error = self.squared_error = 0.0
        self._predicted, self._actual = LabelNames(scorer.classes), LabelNames(scorer.classes)
        first = [self._predicted.name(text) for text in scorer.classes[:ZERO_CLASSES]]
        self.outcomes = Counter({(predicted, actual): 0 for predicted in first for actual in first})
        self.delays = Histogram(DELAY_BUCKETS)
        self.by_segment = np.zeros((3, len(segments.names) if segments else 0))
        self.changes = 0
        self.since, self.until = time.time(), -math.inf
        self.is_labelled = False
        self.rings = {name: Ring(seconds, WIDTH) for name, seconds in windows.items()}
        self._segments = segments
        self._expect = expect
        self._step = min(ring.step for ring in self.rings.values())
        self._arrived, self._arrival = 0, -math.inf

    def count_predictions(self, now: float, predictions: int, ages: Sequence[float]) -> None:
        """Count predictions that arrive, and others that were made so many seconds ago: their labels may follow."""
        if now - self._arrival >= self._step:  # the rings are changed once in a sub-window, not for each batch
            self._flush()
            self._arrival = now
        self._arrived += predictions
        if len(ages):
            rows = np.zeros((len(ages), WIDTH))
            rows[:, _PREDICTIONS] = 1.0
            for ring in self.rings.values():
                ring.add_past(now, now - np.array(ages), rows)

    def _flush(self) -> None:
        if self._arrived:
            row = np.zeros(WIDTH)
            row[_PREDICTIONS] = self._arrived
            for ring in self.rings.values():
                ring.add(self._arrival, row)
            self._arrived = 0

    def add(self, labels: Sequence[LabelledPrediction], now: float, unix_now: float) -> None:
        """Count labels.

        Parameters
        ----------
        labels
            Labels of predictions of this version.
        now, unix_now
            The present, by the windows' time and as Unix time in seconds.
        """
        self._flush()
        self.changes += 1
        self.is_labelled = True
        numbers = np.array([self.scorer.is_number(label.prediction) for label in labels], dtype=np.bool_)
        confidences = _column(label.confidence for label in labels)
        expected = self._expect(confidences) if self._expect else np.full(len(labels), np.nan)
        errors, rows = self._rows(labels, [label.label for label in labels], numbers, confidences, expected)
        new = ~np.isnan(errors)  # the first usable label of its prediction
        changed = [index for index, label in enumerate(labels) if label.replaced is not None]
        if changed:
            of_changed = [labels[index] for index in changed]
            replaced = [label.replaced for label in of_changed]
            known = confidences[changed], expected[changed]
            earlier, before = self._rows(of_changed, replaced, numbers[changed], *known)
            # Do the windows hold the label that is replaced? If not, they keep what they have.
            received = np.array([label.first_received for label in of_changed])
            is_held = (received >= self.since) | ((-math.inf < received) & (received <= self.until))
            is_held |= np.isnan(earlier)  # such a label counted nowhere
            rows[changed] = np.where(is_held[:, None], rows[changed] - before, 0.0)
            new[changed] &= np.isnan(earlier)
        times = now - unix_now + np.array([label.predicted for label in labels])
        for ring in self.rings.values():
            ring.add_past(now, times, rows)
        longest = list(self.rings.values())[-1]
        self.older += int((new & (times < now - longest.step * SLOTS)).sum())
        absolute = np.where(new & numbers, abs(errors), 0.0)
        right = new & ~numbers & (errors == 0)
        self.labelled += int(new.sum())
        self.correct += int(right.sum())
        self.absolute_error += float(absolute.sum())
        self.positive_error += float(absolute[errors > 0].sum())
        self.squared_error += float(absolute @ absolute)
        self.delays.observe([label.delay for label, is_new in zip(labels, new, strict=True) if is_new])
        for index in np.flatnonzero(new & ~numbers).tolist():
            label = labels[index]
            pair = self._predicted.name(scalar_text(label.prediction)), self._actual.name(scalar_text(label.label))
            self.outcomes[pair] += 1
        if self._segments:
            segments = [self._segments.index_of_name(label.segment) for label in labels]
            for row, weights in enumerate((new, right, absolute)):
                self.by_segment[row] += np.bincount(segments, weights=weights, minlength=self.by_segment.shape[1])

    def _rows(
        self,
        labels: Sequence[LabelledPrediction],
        actual: Sequence[Any],
        numbers: npt.NDArray[np.bool_],
        *known: Floats,
    ) -> tuple[Floats, Floats]:
        """Return the errors of predictions by some labels, and what these add to the sums of a window."""
        errors = _column(self.scorer.error(label.prediction, one) for label, one in zip(labels, actual, strict=True))
        pairs = zip(actual, numbers & ~np.isnan(errors), strict=True)
        sizes = _column(abs(float(one)) if is_used else 0.0 for one, is_used in pairs)
        return errors, sums_of_labels(errors, sizes, numbers, *known)

    def read(self, now: float) -> dict[str, WindowQuality]:
        """Return the quality in each window that holds anything; nothing if no window holds a label."""
        self._flush()
        windows = {name: window_quality(ring, now) for name, ring in self.rings.items()}
        if not any(window.labelled for window in windows.values()):
            return {}
        return {name: window for name, window in windows.items() if window.labelled or window.predictions}

    def past_variance(self, now: float) -> float:
        """Return how far the calibration was off within the longest window, see the function `past_variance`."""
        longest = list(self.rings.values())[-1]
        return past_variance(longest.parts(now, PERIODS)) if self.is_labelled and self._expect else 0.0

    def restore(self, now: float, rings: Sequence[tuple[Ticks, Floats, Floats]]) -> None:
        """Continue with rows from `dump`, if there are any.

        Raises
        ------
        ValueError
            When they are not rows of such rings.
        """
        if rings:
            for ring, rows in zip(self.rings.values(), rings, strict=True):
                ring.restore(now, *rows)
            self.is_labelled = bool(self.read(now))

    def dump(self, now: float) -> list[tuple[Ticks, Floats, Floats]]:
        """Return copies of the rows of the windows."""
        self._flush()
        return [ring.dump(now) for ring in self.rings.values()]


def _column(values: Iterable[float | None]) -> Floats:
    return np.array(list(values), dtype=np.float64)  # None becomes NaN
