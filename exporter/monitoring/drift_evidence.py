"""The evidence of slow change of a model version's data, and which inputs have changed abruptly."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from exporter.monitoring.binner import Binner
from exporter.monitoring.noise_floors import LEAST_VALUES, NoiseFloors
from exporter.monitoring.windows import WindowStats
from exporter.profiles.correlation import Copula
from exporter.profiles.profile import TIME
from exporter.stats.change_evidence import HEADROOM
from exporter.stats.dependence import growth, live_dispersion
from exporter.stats.divergence import Floats
from exporter.stats.multiple_tests import adjusted_p_values

UPDATE_SECONDS = 60.0


def evidence_limit(interval: float, seconds: float = UPDATE_SECONDS) -> float:
    """Return the evidence in nats that is exceeded by chance at most once in an interval of seconds.

    >>> round(evidence_limit(365 * 86400.0), 1)
    13.2
    """
    return math.log(max(interval / seconds, 1.0))


def model_evidence(evidence: Floats) -> float:
    """Return the evidence of a model version: the logarithm of the mean of its targets' e-detectors.

    A mean of e-detectors is one, whatever the targets have to do with each other (Shin, Ramdas and Rinaldo 2024;
    Dandapanthula and Ramdas 2025): so one limit holds for all of them together. Targets without evidence count as 0,
    because the number of targets is fixed beforehand.

    Parameters
    ----------
    evidence
        Evidence of each target in nats, NaN where it is not known, shape ``(T,)``.

    Examples
    --------
    >>> round(model_evidence(np.array([17.0, 0.0, np.nan])), 1)
    15.9
    """
    known = evidence[~np.isnan(evidence)]
    return float(np.logaddexp.reduce(known)) - math.log(len(evidence)) if len(known) else math.nan


_HOUR, _DAY = 3600.0, 86400.0
_ROWS_OF_FEATURE = 20  # in a window of the correlation: then its score is about χ² distributed
_LEAST_P = 1e-5  # smaller p-values are not exact, and no single window may decide
_HOURS = 24
"""Hours with values from which the dispersion of live values is known: their daily rhythm is then part of it."""
_SIZES, _DOUBLINGS = (1, 2, 4), 5
"""Hours of the blocks by which the growth of the dispersion is measured, and for how many doublings it goes on."""
_RHYTHM = 1.75
"""Growth of the dispersion from which on it is that of a rhythm or a trend, which a day holds whole."""
_NEAR = 0.4
"""A logarithm: live values are compared with other alternatives only if the dispersion differs more than that."""
_LATEST = 4
"""Hours before the present from which it is not: a change that has just begun is no dispersion."""


class DriftEvidence:
    """Evidence that the targets no longer have their training distribution; the caller holds the monitor's lock.

    It is updated at most once a minute. A minute without values changes nothing.

    The evidence of a target, and the number of its training rows, are divided by the dispersion of training, or by that
    of live values over the hours of a day, if that is larger. A target in doubt has no evidence until live values have
    been seen for a day: unless training rows are in the order of time, or depend on each other, they say nothing of it.

    The correlation of features is the last target: ``M ← (M + minutes) / (2·√p)``, whose factor has the expectation 1,
    with the p-value of `Copula.p_value` of an hour. Where training says nothing of the dependence of rows, it is that
    of a day, with the largest dispersion of its features.

    Parameters
    ----------
    binner
        Has the training distribution.
    observed
        What was counted in each bin since the start, shape ``(B,)``. The owner adds to it in place.
    interval
        Time in which chance may exceed the limit once, in seconds.

    Attributes
    ----------
    interval
        See the parameter; it may be set to another one.
    rows
        Sums of the copula since the correlation was last compared. The owner adds to them in place.
    dispersion
        Dispersion of live values, shape ``(T,)``: 1 until it is known, or infinite where training is in doubt.
    """

    def __init__(self, binner: Binner, observed: Floats, interval: float) -> None:
        self._binner = binner
        self._used = binner.dispersion
        self._detector = binner.change_evidence(self._used)
        self.interval = interval
        self._observed = observed
        self._counted = observed.copy()  # up to the last update
        self._all = np.zeros(self._detector.size + 1 + (1 + _LATEST + _HOURS) * binner.bins)
        self._next, self._hour, self._compared = -math.inf, math.inf, math.inf
        self.dispersion = np.ones(len(binner.targets))
        self.dispersion[binner.in_doubt] = np.inf
        self.rows = np.zeros(binner.copula.width if binner.copula else 0)
        blocks = binner.profile.blocks
        scores = blocks.correlation if blocks else None
        is_dependent = scores is not None and scores.dependent
        self._inflation = float(max(np.divide(scores.sizes, scores.effective))) if scores and is_dependent else 1.0
        self._rows_in_doubt = not (is_dependent or (scores and blocks and blocks.order == TIME))

    @property
    def _state(self) -> Floats:
        return self._all[: self._detector.size]

    @property
    def _hours(self) -> Floats:
        """The counts of this hour and of those before, the latest first; rows of zeros before there are any."""
        return self._all[self._detector.size + 1 :].reshape(1 + _LATEST + _HOURS, -1)

    def advance(self, now: float) -> None:
        """Update the evidence if a minute has passed since the last time.

        To call at the monotonic time ``now`` in seconds, before what is observed then is added.
        """
        if now < self._next:
            return
        self._next = now + UPDATE_SECONDS
        counts = self._observed - self._counted
        if not counts.any():
            return
        # One target alone may have the evidence of the mean of all.
        limit = evidence_limit(self.interval) + math.log(len(self._binner.targets))
        self._detector.update(self._state, counts, limit)
        self._detector.reset(self._state, np.isinf(self.dispersion))
        self._counted[:] = self._observed
        self._hours[0] += counts
        self._hour = min(self._hour, now + _HOUR)
        if now >= self._hour:
            self._hour = now + _HOUR
            self._hours[1:] = self._hours[:-1].copy()
            self._hours[0] = 0.0
            self._disperse()
        if self._binner.copula:
            self._compare_rows(self._binner.copula, now, limit)

    def _disperse(self) -> None:
        """Compare the dispersion of live values over the hours of a day with that of training, once it is known."""
        hours = self._hours[self._hours.any(axis=1)][-_HOURS:]
        if len(hours) < _HOURS:
            return
        found = np.array(
            [
                live_dispersion(hours[:, bins], _SIZES, numeric is not None, proven=index not in self._binner.in_doubt)
                for index, (bins, numeric) in enumerate(zip(self._binner.ranges, self._binner.numeric, strict=True))
            ]
        )
        common = growth(found, _HOURS // _SIZES[-1])
        self.dispersion[:] = found[:, 0, 0] * np.where(common < _RHYTHM, common, 1.0) ** _DOUBLINGS
        used = np.maximum(self.dispersion, self._binner.dispersion)
        if (np.abs(np.log(used / self._used)) > _NEAR).any():
            self._used, self._detector = used, self._binner.change_evidence(used)

    def _compare_rows(self, copula: Copula, now: float, limit: float) -> None:
        self._compared, correlated = min(self._compared, now), [*self._binner.correlated]
        seconds, inflation = _HOUR, self._inflation
        if self._rows_in_doubt:
            seconds, inflation = _DAY, float(self.dispersion[correlated].max())
        if math.isinf(inflation):
            self.rows[:], self._compared = 0.0, now
        if now - self._compared < seconds or self.rows[0] < _ROWS_OF_FEATURE * len(correlated) * inflation:
            return
        p = copula.p_value(self.rows, inflation)
        if p >= 0:
            before = self._all[self._detector.size] + seconds / UPDATE_SECONDS
            self._all[self._detector.size] = min(before / 2 / math.sqrt(max(p, _LEAST_P)), math.exp(limit + HEADROOM))
        self._compared, self.rows[:] = now, 0.0

    def read(self, now: float) -> Floats:
        """Return the evidence of each target in nats, then that of the correlation, shape ``(T,)`` or ``(T + 1,)``.

        NaN until a minute with values has passed, and where it is in doubt.
        """
        self.advance(now)
        found, correlation = self._detector.read(self._state), self._all[self._detector.size]
        if self._binner.copula is None:
            return found
        return np.append(found, max(math.log(correlation), 0.0) if correlation else math.nan)

    def dump(self) -> tuple[Floats, Floats]:
        """Return copies of the state, and of the counts that it does not have yet."""
        return self._all.copy(), self._observed - self._counted

    def restore(self, state: Floats, counts: Floats) -> None:
        """Continue from a `dump`, before anything is observed.

        Raises
        ------
        ValueError
            When it does not fit. The evidence is then unchanged.
        """
        if state.shape != self._all.shape or counts.shape != self._counted.shape:
            raise ValueError("it has another size")
        if not (np.isfinite(state).all() and np.isfinite(counts).all() and (state >= 0).all()):
            raise ValueError("it has values that are not numbers")
        self._all, self._counted = state.copy(), self._observed - counts
        self._disperse()


LOOKS = 40
"""How many independent windows give as many false alarms as one window that slides by its length.

Simulated, see the documentation's section "Many features": 10 of independent values. Of values that depend on each
other, such small p-values come up to four times as often as they say.
"""


def false_alarm_levels(windows: Iterable[tuple[str, float]], interval: float) -> dict[str, float]:
    """Return for each window the probability of a false alarm at one look that gives one in the interval.

    Parameters
    ----------
    windows
        Name and length in seconds of each window; they have equal parts in the false alarms.
    interval
        Time with one false alarm, in seconds.

    Examples
    --------
    >>> levels = false_alarm_levels([("5m", 300.0), ("1h", 3600.0)], 30 * 86400.0)
    >>> {window: f"{level:.2g}" for window, level in levels.items()}
    {'5m': '1.4e-06', '1h': '1.7e-05'}
    """
    lengths = dict(windows)
    return {window: min(seconds / (LOOKS * interval * len(lengths)), 1.0) for window, seconds in lengths.items()}


class InputChanges:
    """Finds the inputs whose latest values differ from those just before, and from training.

    An input has changed when the p-value of its divergence from the longest window before, adjusted for the number of
    inputs, is at most the level of the window, and its divergence from training is above the noise floor: values that
    return to what they were in training are no change. So has one whose dependence is not known yet, see `NoiseFloors`,
    if more than half of its values are obviously wrong.

    A run of ``ingest`` has no time before it. It is compared with training, once a day.

    Parameters
    ----------
    binner
        Has the training distribution.
    windows
        Lengths of the windows in seconds by their names.
    interval
        Time with one false alarm of all inputs together, in seconds.
    """

    def __init__(self, binner: Binner, windows: Iterable[tuple[str, float]], interval: float) -> None:
        self._count = len(binner.names)
        ranges = [(n.edges[0], n.edges[-1]) if n and n.edges else (np.nan, np.nan) for n in binner.numeric]
        self._ranges = np.array(ranges).reshape(-1, 2).T
        self.levels = false_alarm_levels(windows, interval)
        self._level_of_run = min(86400 / interval, 1.0)

    def p_values(self, noise: NoiseFloors, window: str, stats: WindowStats) -> Floats:
        """Return the p-value of each target's divergence; see `NoiseFloors.p_values`."""
        score, earlier = (stats.recent_kl, stats.recent) if window in self.levels else (stats.kl, None)
        return noise.p_values(score, np.nan_to_num(stats.observations), earlier)

    def obvious(self, noise: NoiseFloors, stats: WindowStats) -> npt.NDArray[np.bool_]:
        """Return which targets of unknown dependence have mostly values that are invalid, or far out of their range.

        Numbers are if their mean is further away than the range is wide: a session may repeat one that is rare.
        """
        lowest, highest = self._ranges
        with np.errstate(over="ignore"):
            near = abs(stats.mean - (lowest / 2 + highest / 2)) <= 1.5 * (highest - lowest)
        enough = np.isinf(noise.doubt) & (stats.observations >= LEAST_VALUES)
        return np.asarray(enough & ((stats.invalid > 0.5) | (stats.unseen > 0.5) & ~near))

    def score(self, noise: NoiseFloors, window: str, stats: WindowStats) -> Floats:
        """Return the divergence from training of each input that has changed, in nats; NaN for the others."""
        adjusted = adjusted_p_values(self.p_values(noise, window, stats)[: self._count])
        changed = adjusted <= self.levels.get(window, self._level_of_run)
        changed |= self.obvious(noise, stats)[: self._count]
        return np.where(changed & (stats.kl > stats.noise)[: self._count], stats.kl[: self._count], np.nan)
