"""The models on the home page: the figures that their alerts evaluate, the worst first, marked beyond thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.config import ModelConfig
from exporter.config.objectives import DURATION_BUCKETS
from exporter.monitoring.drift_report import TargetDrift, worst
from exporter.monitoring.leading_quality import kind_of, leading_quality
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.recent_counters import Recent
from exporter.server.notifications import Alert
from exporter.server.pages.budgets import describe_budgets
from exporter.server.pages.drift_text import number, percent
from exporter.server.pages.incidents import SEVERITIES, alert_severity
from exporter.server.pages.quality_text import describe_limit, summarize

UNKNOWN = "–"
"""A figure of nothing: without confidences there is no confident share, without feedback no corrected one."""
MIN_CORRECTIONS = 3
"""Corrections in an hour that ModelCorrectionRatioHigh needs, as its rule has it."""
MIN_ATTEMPTS = 20
"""Attempts in an hour that ModelConfidentRatioLow needs, as its rule has it."""
MACHINE_THRESHOLD = 0.9
"""The share above which ModelHostCpuHigh and ModelHostMemoryHigh become pending, as their rules have it."""


@dataclass(frozen=True)
class Figure:
    """A figure of a model version.

    Attributes
    ----------
    text
        The figure.
    severity
        That of the alert whose threshold it violates; empty when it does not.
    limit
        The threshold that it violates, such as ``above 1 %``.
    excess
        The figure relative to its threshold; 0 when it does not violate it.
    """

    text: str
    severity: str = ""
    limit: str = ""
    excess: float = 0.0


@dataclass(frozen=True)
class Row:
    """The figures of a model version; see `Recent`.

    Attributes
    ----------
    state
        ``critical``, ``warning`` or ``info`` when such an alert fires on it, ``pending`` when one is pending.
    window, worst
        The target that has drifted most, and the window; None before the first values and without a profile.
    quality
        How good the version is, measured or estimated, in a few words; without a text where that is not known.
    budgets
        The error budgets of the model, of all versions, with the name of their alerts; in its first row alone.
    """

    model: str
    version: str
    state: str
    requests: int
    errors: Figure
    latency: Figure
    profiled: bool
    window: str | None
    worst: TargetDrift | None
    drift: Figure
    attempts: int
    confident: Figure
    corrected: Figure
    quality: Figure
    budgets: tuple[tuple[str, str], ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures that have a threshold."""
        return self.errors, self.latency, self.drift, self.confident, self.corrected, self.quality

    @property
    def trouble(self) -> tuple[int, int, float]:
        """How much is wrong: the worst alert, the worst violated threshold, and by how much; smaller is worse."""
        states = (*SEVERITIES, "pending", "")
        marked = min((states.index(figure.severity) for figure in self.figures), default=len(states))
        return states.index(self.state), marked, -max(figure.excess for figure in self.figures)

    @property
    def troubled(self) -> bool:
        """Whether an alert fires or is pending, or a figure violates its threshold."""
        return bool(self.state) or any(figure.severity for figure in self.figures)


def model_rows(
    monitors: Iterable[ModelMonitor], alerts: Sequence[Alert], budgets: Mapping[tuple[str, str], float], now: float
) -> list[Row]:
    """Return the rows of all model versions at the monotonic time ``now`` in seconds, the worst first.

    ``budgets`` are the shares that are left of error budgets, by model and objective.
    """
    monitors = list(monitors)
    by_model: dict[str, list[Alert]] = {}
    for alert in alerts:
        by_model.setdefault(alert.labels.get("model", ""), []).append(alert)
    rows = [_row(monitor, _state(monitor, by_model), now) for monitor in monitors]
    rows.sort(key=lambda row: (row.trouble, row.model, row.version))
    models = {monitor.config.name: monitor.config for monitor in monitors}
    for index, row in enumerate(rows):
        if model := models.pop(row.model, None):
            own = describe_budgets(model, budgets, by_model.get(row.model, ()))
            rows[index] = replace(row, budgets=own)
    return rows


def _state(monitor: ModelMonitor, alerts: Mapping[str, Sequence[Alert]]) -> str:
    """Return the state of a model version: that of its worst alert."""
    own = [
        alert_severity(alert) if alert.status == "firing" else "pending"
        for alert in alerts.get(monitor.config.name, ())
        if alert.labels.get("version", monitor.version) == monitor.version
    ]
    return min(own, key=(*SEVERITIES, "pending").index, default="")


def _row(monitor: ModelMonitor, state: str, now: float) -> Row:
    model, recent = monitor.config, monitor.recent(now)
    window, drift = worst(monitor, now) or (None, None)
    return Row(
        model=model.name,
        version=monitor.version,
        state=state,
        requests=recent.requests,
        errors=_above(percent(recent.error_ratio), recent.error_ratio, model, "ModelErrorRatioHigh", "critical"),
        latency=_above(_latency(recent), recent.latency, model, "ModelLatencyHigh", "warning"),
        profiled=monitor.binner is not None,
        window=window,
        worst=drift,
        drift=_drift(drift),
        attempts=recent.attempts,
        confident=_confident(recent, model) if monitor.confidences.counts.any() else Figure(UNKNOWN),
        quality=_quality(monitor, now),
        corrected=_corrected(recent, model) if any(monitor.counters.feedback.values()) else Figure(UNKNOWN),
    )


def _above(text: str, value: float, model: ModelConfig, alert: str, severity: str) -> Figure:
    """Return a figure, marked when it is above the threshold of an alert."""
    threshold = model.threshold(alert)
    if not value > threshold:
        return Figure(text)
    limit = seconds(threshold) if alert == "ModelLatencyHigh" else percent(threshold)
    return Figure(text, severity, f"above {limit}", value / threshold if threshold else math.inf)


def machine_figures(gauges: Mapping[str, float]) -> dict[str, Figure]:
    """Return the use of the processor and of the memory, given the machine's gauges by name."""
    figures = {}
    for name, gauge in (("CPU", "cpu"), ("memory", "memory")):
        value = gauges.get(f"model_system_{gauge}_utilization_ratio", math.nan)
        marked = ("warning", f"above {percent(MACHINE_THRESHOLD)}") if value > MACHINE_THRESHOLD else ()
        figures[name] = Figure(percent(value), *marked)
    return figures


def _latency(recent: Recent) -> str:
    """Return the 95th percentile, or the bounds between which it lies where nothing more is known."""
    if recent.latency_bucket is None:
        return seconds(recent.latency)
    low, high = recent.latency_bucket
    return f"{low:g}–{seconds(high)}" if low else f"below {seconds(high)}"


def _corrected(recent: Recent, model: ModelConfig) -> Figure:
    text = percent(recent.correction_ratio)
    if recent.corrections < MIN_CORRECTIONS:
        return Figure(text)
    return _above(text, recent.correction_ratio, model, "ModelCorrectionRatioHigh", "critical")


def _confident(recent: Recent, model: ModelConfig) -> Figure:
    """Return the confident share, marked when it is below a configured threshold. Only Prometheus knows the default."""
    text, threshold = percent(recent.confident_ratio), model.alerts.get("ModelConfidentRatioLow")
    if threshold is None or recent.attempts < MIN_ATTEMPTS or not recent.confident_ratio < threshold:
        return Figure(text)
    excess = threshold / recent.confident_ratio if recent.confident_ratio else math.inf
    return Figure(text, "warning", f"below {percent(threshold)}", excess)


def _quality(monitor: ModelMonitor, now: float) -> Figure:
    """Return the leading figure of the quality, marked when its whole interval is beyond the threshold."""
    leading = leading_quality(monitor, now)
    if leading is None:
        return Figure("")
    kind = kind_of(monitor)
    limit = describe_limit(kind, leading)
    return Figure(summarize(kind, leading), "critical" if limit else "", limit, leading.excess)


def _drift(drift: TargetDrift | None) -> Figure:
    if drift is None:
        return Figure(UNKNOWN)
    if drift.status != "drifted":
        return Figure(number(drift.score))
    return Figure(number(drift.score), "warning", f"above {number(max(drift.threshold, drift.noise))}", drift.severity)


def seconds(value: float) -> str:
    """
    Format a duration in seconds.

    >>> [seconds(value).replace("\\N{NO-BREAK SPACE}", " ") for value in (0.2345, DURATION_BUCKETS[-1], math.nan)]
    ['0.234 s', 'over 10 s', '–']
    """
    if math.isnan(value):
        return "–"
    return f"{'over ' if value >= DURATION_BUCKETS[-1] else ''}{value:.3g}\N{NO-BREAK SPACE}s"
