"""The home page: the alerts by model, the models, and the last notifications."""

from __future__ import annotations

import functools
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from flask import redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response

from exporter.config import DURATION_BUCKETS, THRESHOLDS, LinksConfig
from exporter.errors import StoreError
from exporter.monitoring import drift_report
from exporter.monitoring.counters import Recent
from exporter.monitoring.leading_quality import ENOUGH, Leading, kind_of, leading_quality
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import PREDICTION
from exporter.server.alerts import LAYERS, Alert, Alerts
from exporter.server.application import Exporter
from exporter.server.tasks.retraining import request_document
from exporter.server.text import ago, figure, number, parse_time, percent, slices_parameters
from exporter.slices import Of

SEVERITIES = ("critical", "warning", "info")
MAX_PHRASES = 2
"""Summaries of alerts in a headline; the others are counted."""
FIGURES = {
    "ModelErrorRatioHigh": "errors",
    "ModelErrorBudgetBurn": "errors",
    "ModelLatencyHigh": "latency",
    "ModelLatencyBudgetBurn": "latency",
    "ModelConfidentRatioLow": "confident",
    "ModelCorrectionRatioHigh": "corrected",
    "ModelAccuracyLow": "quality",
}
"""The figure of a model that an alert is about; all alerts of the data layer are about drift."""


@dataclass(frozen=True)
class Incident:
    """The alerts of one model, or of a layer without one.

    Attributes
    ----------
    name
        The model, or the layer.
    model
        The model; None without one.
    versions
        The versions that are affected.
    phrases
        The summaries of its alerts, the most severe first.
    pending
        What else its pending alerts say, where others fire.
    severity
        The highest severity of its firing alerts, or ``pending``.
    since
        When the first of its alerts began.
    alerts
        Its alerts, the most severe first; pending ones are last.
    """

    name: str
    model: str | None
    versions: list[str]
    phrases: list[str]
    pending: list[str]
    severity: str
    since: datetime | None
    alerts: list[Alert]

    @property
    def firing(self) -> int:
        """The number of alerts that fire."""
        return sum(alert.status == "firing" for alert in self.alerts)

    @property
    def named(self) -> list[Alert]:
        """The first alert of each name, of those that fire; of all if none does."""
        firing = [alert for alert in self.alerts if alert.status == "firing"] or self.alerts
        return [next(one for one in firing if one.name == name) for name in dict.fromkeys(one.name for one in firing)]


def group_alerts(alerts: Iterable[Alert]) -> list[Incident]:
    """Return the incidents, the most severe first; those of which no alert fires are last."""
    groups: dict[tuple[str, str], list[Alert]] = {}
    for alert in sorted(alerts, key=_rank):
        model = alert.labels.get("model", "")
        groups.setdefault((model, "" if model else alert.labels.get("layer", "")), []).append(alert)
    incidents = [_incident(model, layer, group) for (model, layer), group in groups.items()]
    return sorted(incidents, key=_trouble)


def _trouble(incident: Incident) -> tuple[int, bool, int, str]:
    is_of_system = incident.alerts[0].labels.get("layer") == "system"  # errors explain corrections
    return _index(SEVERITIES, incident.severity), not is_of_system, -incident.firing, incident.name


def _incident(model: str, layer: str, alerts: list[Alert]) -> Incident:
    firing = [alert for alert in alerts if alert.status == "firing"]
    phrases = _phrases(firing or alerts)
    pending = _phrases([alert for alert in alerts if alert.status != "firing"]) if firing else []
    times = [time for alert in firing or alerts if (time := parse_time(alert.starts_at))]
    return Incident(
        name=model or {"system": "System", "exporter": "Exporter"}.get(layer, layer or "Other alerts"),
        model=model or None,
        versions=sorted({alert.labels["version"] for alert in alerts if alert.labels.get("version")}),
        phrases=phrases,
        pending=[phrase for phrase in pending if phrase not in phrases],
        severity=alert_severity(firing[0]) if firing else "pending",
        since=min(times, default=None),
        alerts=alerts,
    )


def alert_severity(alert: Alert) -> str:
    """Return an alert's severity, ``info`` for one that the page does not know."""
    severity = alert.labels.get("severity", "")
    return severity if severity in SEVERITIES else "info"


def _index(names: Sequence[str], name: str | None) -> int:
    """Return the index of a name; one after the last if it is none of them."""
    return names.index(name) if name in names else len(names)


def _rank(alert: Alert) -> tuple[bool, int, int, str, str]:
    """Return the order of an alert: of those with the same severity, what may be the cause of others comes first."""
    severity, layer = _index(SEVERITIES, alert_severity(alert)), _index(LAYERS, alert.labels.get("layer"))
    return alert.status != "firing", severity, layer, alert.name, alert.labels.get("feature", "")


def _phrases(alerts: Sequence[Alert]) -> list[str]:
    """Return the summaries of alerts, in their order and without repetition; those beyond `MAX_PHRASES` are counted."""
    phrases = list(dict.fromkeys(alert.annotation("summary") for alert in alerts))
    more = len(phrases) - MAX_PHRASES
    return [*phrases[:MAX_PHRASES], f"{more} more"] if more > 0 else phrases


UNKNOWN = "–"
"""A figure of nothing: without confidences there is no confident share, without feedback no corrected one."""


def ranked(exporter: Exporter) -> dict[str, str]:
    """Return the state of each configured model, those with the most severe alerts first; empty without an alert."""
    models = exporter.pipeline.monitors.models
    severities = {one.model or "": one.severity for one in group_alerts(exporter.alerts.read().alerts)}
    return {name: severities.get(name, "") for name in dict.fromkeys([*severities, *models]) if name in models}


def model_rows(
    monitors: MonitorRegistry, alerts: Alerts, now: float, wanted: str, everything: bool
) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of model versions, those with an alert first, and how many there are beside them.

    Parameters
    ----------
    monitors, alerts
        The model versions and what is known of them.
    now
        Monotonic time in seconds.
    wanted
        A part of the model and version, whatever the case.
    everything
        Whether to return more than `MAX_OPEN_ROWS` without an alert.
    """
    incidents = {incident.model: incident.alerts for incident in group_alerts(alerts.alerts)}
    order = {model: index for index, model in enumerate(incidents)}
    own = {
        one: [a for a in incidents.get(one.config.name, ()) if a.labels.get("version") in {None, one.version}]
        for one in monitors
        if wanted.lower() in f"{one.config.name} {one.version}".lower()
    }

    worst = functools.cache(lambda monitor: drift_report.worst(monitor, now) or (None, None))

    def rank(monitor: ModelMonitor) -> tuple[bool, int, bool, str, str]:
        drift = None if own[monitor] or len(own) > MAX_COMPARED else worst(monitor)[1]
        name, has_drifted = monitor.config.name, drift is not None and drift.status == "drifted"
        return not own[monitor], order.get(name, len(order)), not has_drifted, name, monitor.version

    found = sorted(own, key=rank)
    shown = found if everything else found[: max(MAX_OPEN_ROWS, sum(map(bool, own.values())))]
    leading = {name: leading_quality(monitors.of_model(name).values(), now) for name in {m.config.name for m in shown}}
    rows = [_row(one, own[one], leading[one.config.name][one.version], worst(one), now) for one in shown]
    return rows, len(found) - len(shown)


def _row(monitor: ModelMonitor, own: list[Alert], leading: Leading | None, worst: Any, now: float) -> dict[str, Any]:
    recent, (window, drift) = monitor.recent(now), worst
    measured = monitor.read_quality(now).get(leading.window) if leading and leading.basis == "measured" else None
    firing = sorted((alert for alert in own if alert.status == "firing"), key=_rank, reverse=True)
    return {
        "model": monitor.config.name,
        "version": monitor.version,
        "state": alert_severity(firing[-1]) if firing else "pending" if own else "",
        "marks": {figure: alert_severity(alert) for alert in firing if (figure := _figure(alert))},
        "requests": recent.requests,
        "history": polyline(recent.history),
        "errors": percent(recent.error_ratio),
        "latency": _latency(recent),
        "profiled": monitor.binner is not None,
        "window": window,
        "worst": drift,
        "drift": number(drift.score) if drift else UNKNOWN,
        "confident": percent(recent.confident_ratio) if monitor.confidences.counts.any() else UNKNOWN,
        "corrected": percent(recent.correction_ratio) if any(monitor.counters.feedback.values()) else UNKNOWN,
        "kind": kind_of(monitor),
        "quality": leading,
        "bias": measured.bias if measured else math.nan,
    }


def polyline(values: Sequence[float]) -> str:
    """Return the points of a line over values, 16 units high.

    >>> polyline([0.0, 2.0, 4.0])
    '0,16 1,8 2,0'
    """
    top = max(values, default=0.0) or 1.0
    return " ".join(f"{x},{16 - 16 * value / top:.0f}" for x, value in enumerate(values))


def _figure(alert: Alert) -> str:
    """Return the name of the figure that an alert is about; empty for none."""
    return FIGURES.get(alert.name, "drift" if alert.labels.get("layer") == "data" else "")


def _latency(recent: Recent) -> str:
    """Return the 95th percentile, or the bounds between which it lies where nothing more is known."""
    if recent.latency_bucket is None:
        return seconds(recent.latency)
    low, high = recent.latency_bucket
    return f"{low:g}–{seconds(high)}" if low else f"below {seconds(high)}"


def seconds(value: float) -> str:
    """
    Format a duration in seconds.

    >>> [seconds(value).replace("\\N{NO-BREAK SPACE}", " ") for value in (0.2345, DURATION_BUCKETS[-1], math.nan)]
    ['0.234 s', 'over 80 s', '–']
    """
    if math.isnan(value):
        return "–"
    return f"{'over ' if value >= DURATION_BUCKETS[-1] else ''}{value:.3g}\N{NO-BREAK SPACE}s"


CORRECTION_WINDOW = timedelta(minutes=65)
"""The period that ModelCorrectionRatioHigh evaluates before it fires: one hour, and its five minutes of pending."""
MAX_OPEN_ROWS = 40
"""Rows that are shown without ``all`` in the address, unless more models are in trouble."""
MAX_COMPARED = 100
"""Up to so many model versions, those that have drifted come first of those without an alert."""
MAX_NOTIFICATIONS = 20
START_SECONDS = 3600.0
"""How long after the start the page says that counts begin with it."""
MAX_REQUESTS = 50
"""Newest requests for retraining among which the page looks for the last one of each model."""


def page(exporter: Exporter) -> str:
    """``GET /``: the home page."""
    exporter.pipeline.settle(0.2)
    alerts = exporter.alerts.read()
    wanted, monitors = request.args.get("q", "").strip(), exporter.pipeline.monitors
    rows, more = model_rows(monitors, alerts, time.monotonic(), wanted, "all" in request.args)
    return render_template(
        "home.html",
        alerts=alerts,
        incidents=group_alerts(alerts.alerts),
        states={layer: _state(layer, alerts.firing) for layer in LAYERS},
        pending_by_layer=Counter(alert.labels.get("layer") for alert in alerts.pending),
        rows=rows,
        wanted=wanted,
        started=datetime.fromtimestamp(exporter.started, UTC),
        is_recent=time.time() - exporter.started < START_SECONDS,
        more_rows=more,
        models=exporter.config.models,
        problems=exporter.reloader.files.problems,
        reload_failure=exporter.reloader.problem,
        names={model.name for model in exporter.config.models},
        silent=[name for name in monitors.models if not monitors.of_model(name)],
        webhook=f"{exporter.link_addresses()[0]}/v1/notifications",
        links=exporter.config.links,
        last=exporter.inbox.last()[:MAX_NOTIFICATIONS],
        outputs=drift_report.OUTPUTS,
        drift_threshold=THRESHOLDS[drift_report.FEATURE_ALERT].default,
        pending_corrections=_pending(exporter),
        retrain_requests=_retrain_requests(exporter),
        enough_labels=ENOUGH,
        dashboard=uid if re.fullmatch(r"[\w-]{1,40}", uid := request.args.get("dashboard", "")) else None,
    )


def dashboard(exporter: Exporter, uid: str) -> Response:
    """``GET /d/<uid>``: redirect a link to a dashboard to Grafana, or to the page that replaces it."""
    query = request.query_string.decode("ascii", "replace")
    if grafana := exporter.config.links.grafana:
        return redirect(f"{grafana.rstrip('/')}/d/{quote(uid)}?{query}", 303)
    chosen = {name: value for name in ("model", "version", "feature") if (value := request.args.get(f"var-{name}"))}
    if page := {"model-data": "drift.page", "model-quality": "quality.page"}.get(uid):
        return redirect(f"{url_for(page)}?{urlencode(chosen)}", 303)
    return redirect(url_for("home.page", dashboard=uid, q=chosen.get("model")), 303)


def time_tag(text: str | datetime | None) -> Markup:
    """Return a time as HTML: how long ago, with the time itself in ``datetime`` and at the pointer.

    >>> time_tag("nonsense"), time_tag("2026-01-01T00:00:00Z")[:63]
    (Markup(''), Markup('<time datetime="2026-01-01T00:00:00Z" title="2026-01-01 00:00:0'))
    """
    when = parse_time(text) if isinstance(text, str) else text
    if when is None:
        return Markup()
    age = ago((datetime.now(UTC) - when).total_seconds())
    exact = f"{when:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}Z" title="{} UTC">{}</time>').format(exact.replace(" ", "T"), exact, age)


def _pending(exporter: Exporter) -> dict[str, int] | None:
    """Return the pending corrections by configured model; None while the database is not available."""
    try:
        pending = exporter.store.review.state().pending
    except StoreError:
        return None
    return {name: pending[name] for name in exporter.pipeline.monitors.models if pending.get(name)}


def _retrain_requests(exporter: Exporter) -> list[dict[str, Any]]:
    """Return the last request for retraining of each model that has one; none while the database is not available."""
    if exporter.config.retrain is None:
        return []
    try:
        newest = exporter.store.retrain_requests.list(None, MAX_REQUESTS)
    except StoreError:
        return []
    by_model = {row["model"]: request_document(row) for row in reversed(newest)}
    return [by_model[name] for name in exporter.pipeline.monitors.models if name in by_model]


def drift_parameters(alert: Alert) -> dict[str, str]:
    """Return the parameters of the drift page for an alert of the data layer.

    >>> drift_parameters(Alert("firing", {"alertname": "ModelPredictionDrift", "model": "digits", "version": "3"}))
    {'model': 'digits', 'version': '3', 'feature': '(prediction)'}
    """
    output = {drift_report.PREDICTION_ALERT: PREDICTION}.get(alert.name)
    labels = alert.labels | ({"feature": output} if output else {})
    return {name: labels[name] for name in ("model", "version", "feature") if labels.get(name)}


def review_parameters(alert: Alert) -> dict[str, str] | None:
    """Return the parameters of the review page with the corrections behind an alert; None for other alerts.

    >>> labels = {"alertname": "ModelCorrectionRatioHigh", "model": "digits", "version": "3"}
    >>> review_parameters(Alert("firing", labels, starts_at="2026-11-24T10:05:00Z"))
    {'model': 'digits', 'version': '3', 'since': '2026-11-24T09:00:00Z'}
    >>> review_parameters(Alert("firing", {"alertname": "ModelFeedbackUnjoined", "model": "digits"}))
    {'model': 'digits', 'joined': 'false'}
    """
    model = alert.labels.get("model", "")
    if alert.name == "ModelReviewBacklog":
        return {"model": model}
    if alert.name == "ModelFeedbackUnjoined":
        return {"model": model, "joined": "false"}
    if alert.name != "ModelCorrectionRatioHigh":
        return None
    parameters = {"model": model, "version": alert.labels.get("version", "")}
    return parameters | ({"since": since} if (since := _before(alert)) else {})


def slices_of_alert(alert: Alert) -> dict[str, str] | None:
    """Return the parameters of the page of slices that explains an alert; None for other alerts.

    >>> labels = {"alertname": "ModelCorrectionRatioHigh", "model": "digits", "version": "3"}
    >>> slices_of_alert(Alert("firing", labels, starts_at="2026-11-24T10:05:00Z"))
    {'model': 'digits', 'version': '3', 'since': '2026-11-24T09:00:00Z'}
    >>> slices_of_alert(Alert("firing", labels | {"alertname": "ModelFeatureDrift", "layer": "data"}))
    {'model': 'digits', 'version': '3', 'of': 'drift'}
    """
    labels = alert.labels
    of: Of
    if alert.name == "ModelCorrectionRatioHigh":
        of = "corrections"
    elif alert.name == "ModelAccuracyLow":
        of = "estimated_loss" if labels.get("basis") == "estimated" else "errors"
    elif labels.get("layer") == "data":
        of = "drift"
    else:
        return None
    since = None if of in {"errors", "estimated_loss"} else _before(alert)
    return slices_parameters(labels.get("model", ""), labels.get("version"), of, since)


def _before(alert: Alert) -> str | None:
    """Return the beginning of the period that an alert evaluated before it fired, as RFC 3339."""
    began = parse_time(alert.starts_at)
    return None if began is None else (began - CORRECTION_WINDOW).isoformat().replace("+00:00", "Z")


def dashboard_url(alert: Alert, links: LinksConfig) -> str | None:
    """Return the address of an alert's dashboard in the Grafana of this installation; None without either.

    >>> alert = Alert("firing", {}, {"dashboard_url": "http://elsewhere:3000/d/model-data?var-model=digits"})
    >>> dashboard_url(alert, LinksConfig(grafana="https://grafana.example/")), dashboard_url(alert, LinksConfig())
    ('https://grafana.example/d/model-data?var-model=digits', None)
    """
    path = re.search(r"/d/[^/?#\s]+(\?\S*)?$", alert.annotations.get("dashboard_url", ""))
    return f"{links.grafana.rstrip('/')}{path[0]}" if links.grafana and path else None


def _state(layer: str, firing: list[Alert]) -> str:
    """Return the worst severity of a layer's firing alerts, ``ok`` without any."""
    own: list[Any] = [alert_severity(alert) for alert in firing if alert.labels.get("layer") == layer]
    return min(own, key=SEVERITIES.index, default="ok")


FILTERS = {
    "figure": figure,
    "percent": percent,
    "number": number,
    "time_tag": time_tag,
    "alert_severity": alert_severity,
}
GLOBALS = {f.__name__: f for f in (drift_parameters, review_parameters, slices_of_alert, dashboard_url)}
"""Functions of the templates of all pages."""
