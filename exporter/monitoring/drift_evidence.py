"""The evidence of slow change of a model version's data, and which inputs have changed abruptly."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from exporter.monitoring.binner import Binner
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.windows import WindowStats
from exporter.profiles.profile import TIME
from exporter.stats.change_evidence import HEADROOM
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
    if not len(known):
        return math.nan
    highest = float(known.max())
    return highest + math.log(float(np.exp(known - highest).sum()) / len(evidence))


_HOUR = 3600.0
_ROWS_OF_FEATURE = 20  # in a window of the correlation: then its score is about χ² distributed
_LEAST_P = 1e-5  # smaller p-values are not exact, and no single hour may decide
_DISPERSION_OF_INFLATION = 12.0
"""For autoregressive values, (dispersion of a sum - 1) is about 12 times (inflation of a score - 1)."""
_MOST_INFLATION = 2.0  # live values do not show a larger one exactly enough
UNKNOWN_DISPERSION = 20.0
"""Assumed of values whose dependence is not known: about that of a correlation of 0.9 between successive values."""


class DriftEvidence:
    """Evidence that the targets no longer have their training distribution; the caller holds the monitor's lock.

    It is updated at most once a minute. A minute without values changes nothing.

    The evidence of a target is divided by `UNKNOWN_DISPERSION` until its dependence is known: by training rows in the
    order of time, by training rows that depend on each other, or by live values that are independent
    (`NoiseFloors.confirmed`). Where live values depend on each other, it is divided by what follows from their
    dependence; where they do so too much, nothing is counted, and there is no evidence.

    The correlation of features is the last target, once an hour: ``M ← (M + 60) / (2·√p)``, whose factor has the
    expectation 1, with the p-value of `Copula.p_value`. It is silent while the dependence of rows is not known: unless
    training rows are in the order of time, or depend on each other, live values of all its features have to be
    independent.

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
    """

    def __init__(self, binner: Binner, observed: Floats, interval: float) -> None:
        self._binner = binner
        self._detector = binner.change_evidence
        self._in_doubt = in_doubt(binner)
        self.interval = interval
        self._observed = observed
        self._counted = observed.copy()  # up to the last update
        self._state = np.zeros(self._detector.size + 1)
        self._next, self._compared = -math.inf, math.inf
        self.rows = np.zeros(binner.copula.width if binner.copula else 0)
        blocks = binner.profile.blocks
        scores = blocks.correlation if blocks else None
        self._inflation = max(np.divide(scores.sizes, scores.effective)) if scores and scores.dependent else 1.0
        self._rows_in_doubt = not scores or not (scores.dependent or blocks.order == TIME)
        self.follow(binner.profile_noise)

    def follow(self, noise: NoiseFloors) -> None:
        """Follow what is known of the dependence of the targets."""
        inflation = noise.inflation.ratio.max(axis=1, initial=1.0)
        dispersion = np.ones(len(inflation))
        dispersion[[*(self._in_doubt - noise.confirmed)]] = UNKNOWN_DISPERSION
        learned = [*noise.learned]
        followed = 1 + _DISPERSION_OF_INFLATION * (inflation[learned] - 1)
        dispersion[learned] = np.where(inflation[learned] > _MOST_INFLATION, np.inf, followed)
        self._divisor = np.repeat(dispersion, self._binner.sizes)
        self._detector.reset(self._state[:-1], np.isinf(dispersion))
        independent = self._binner.correlated <= noise.confirmed
        self._waits = bool(self._binner.correlated & noise.learned) or (self._rows_in_doubt and not independent)
        if self._waits:
            self._state[-1], self.rows[:] = 0.0, 0.0

    def advance(self, now: float) -> None:
        """Update the evidence if a minute has passed since the last time.

        To call at the monotonic time ``now`` in seconds, before what is observed then is added.
        """
        if now < self._next:
            return
        self._next = now + UPDATE_SECONDS
        counts = self._observed - self._counted
        if counts.any():
            # One target alone may have the evidence of the mean of all.
            limit = evidence_limit(self.interval) + math.log(len(self._binner.targets))
            self._detector.update(self._state[:-1], counts / self._divisor, limit)
            self._counted[:] = self._observed
            self._compare_rows(now, limit)

    def _compare_rows(self, now: float, limit: float) -> None:
        copula, self._compared = self._binner.copula, min(self._compared, now)
        least = _ROWS_OF_FEATURE * len(self._binner.correlated) * self._inflation
        if copula is None or self._waits or now - self._compared < _HOUR or self.rows[0] < least:
            return
        p = copula.p_value(self.rows, self._inflation)
        if p >= 0:
            factor = 0.5 / math.sqrt(max(p, _LEAST_P))
            self._state[-1] = min((self._state[-1] + _HOUR / UPDATE_SECONDS) * factor, math.exp(limit + HEADROOM))
        self._compared, self.rows[:] = now, 0.0

    def read(self, now: float) -> Floats:
        """Return the evidence of each target in nats, then that of the correlation, shape ``(T,)`` or ``(T + 1,)``.

        NaN until a minute with values has passed, and where live values depend on each other too much.
        """
        self.advance(now)
        found = self._detector.read(self._state[:-1])
        if self._binner.copula is None:
            return found
        return np.append(found, math.log(max(self._state[-1], 1.0)) if self._state[-1] else math.nan)

    def dump(self) -> tuple[Floats, Floats]:
        """Return copies of the state, and of the counts that it does not have yet."""
        return self._state.copy(), self._observed - self._counted

    def restore(self, state: Floats, counts: Floats) -> None:
        """Continue from a `dump`, before anything is observed.

        Raises
        ------
        ValueError
            When it does not fit. The evidence is then unchanged.
        """
        if state.shape != self._state.shape or counts.shape != self._counted.shape:
            raise ValueError("it has another size")
        if not (np.isfinite(state).all() and np.isfinite(counts).all() and (state >= 0).all()):
            raise ValueError("it has values that are not numbers")
        self._state, self._counted = state.copy(), self._observed - counts


def in_doubt(binner: Binner) -> set[int]:
    """Return the targets that training shows to be independent, or not at all, though its rows may be shuffled."""
    blocks = binner.profile.blocks
    if not blocks:
        return set(range(len(binner.targets)))
    if blocks.order == TIME:
        return set()
    return {index for index, dispersion in enumerate(blocks.dispersions(binner.target_names)) if dispersion <= 1}


UNKNOWN_RATIO = 6.0
"""How much noisier scores are assumed to be than those of independent values, while dependence is not known.

A correlation of 0.9 between successive values makes them 3 to 4 times as noisy.
"""
LOOKS = 10
"""How many independent windows give as many false alarms as one window that slides by its length.

Simulated, see the documentation's section "Many features".
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
    {'5m': '5.8e-06', '1h': '6.9e-05'}
    """
    lengths = dict(windows)
    return {window: min(seconds / (LOOKS * interval * len(lengths)), 1.0) for window, seconds in lengths.items()}


class InputChanges:
    """Finds the inputs whose latest values differ from those just before, and from training.

    An input has changed when the p-value of its divergence from the longest window before, adjusted for the number of
    inputs, is at most the level of the window, and its divergence from training is above the noise floor: values that
    return to what they were in training are no change. The noise of inputs whose dependence is not known yet is assumed
    to be `UNKNOWN_RATIO` times as large.

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
        self._in_doubt = in_doubt(binner)
        self._targets = len(binner.targets)
        self.levels = false_alarm_levels(windows, interval)
        self._level_of_run = min(86400 / interval, 1.0)

    def p_values(self, noise: NoiseFloors, window: str, stats: WindowStats) -> Floats:
        """Return the p-value of each target's divergence; see `NoiseFloors.p_values`."""
        ratio = np.ones(self._targets)
        ratio[[*(self._in_doubt - noise.confirmed - noise.learned)]] = UNKNOWN_RATIO
        observed = np.nan_to_num(stats.observations)
        if window in self.levels:
            return noise.p_values(stats.recent_kl, observed, stats.recent, ratio)
        return noise.p_values(stats.kl, observed, doubt=ratio)  # a run of ``ingest``, which is compared with training

    def score(self, noise: NoiseFloors, window: str, stats: WindowStats) -> Floats:
        """Return the divergence from training of each input that has changed, in nats; NaN for the others."""
        p = self.p_values(noise, window, stats)[: self._count]
        changed = adjusted_p_values(p) <= self.levels.get(window, self._level_of_run)
        score = stats.kl[: self._count]
        return np.where(changed & (score > stats.noise[: self._count]), score, np.nan)
