"""The home page: the alerts by model, the models, and the last notifications."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response

from exporter.config import THRESHOLDS, LinksConfig
from exporter.errors import StoreError
from exporter.monitoring.drift_report import CONFIDENCE_ALERT, FEATURE_ALERT, OUTPUTS, PREDICTION_ALERT
from exporter.monitoring.leading_quality import ENOUGH
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION
from exporter.server.alerts import LAYERS
from exporter.server.application import Exporter
from exporter.server.elapsed import ago, parse_time
from exporter.server.notifications import Alert
from exporter.server.pages.drift_text import number, percent
from exporter.server.pages.incidents import DRIFT_ALERTS, SEVERITIES, alert_severity, group_alerts
from exporter.server.pages.model_rows import MIN_ATTEMPTS, MIN_CORRECTIONS, machine_figures, model_rows
from exporter.server.pages.slices import slices_parameters
from exporter.server.tasks.retraining import request_document
from exporter.slices.query import Of
from exporter.storage.retrain_requests import list_requests

CORRECTION_WINDOW = timedelta(minutes=65)
"""The period that ModelCorrectionRatioHigh evaluates before it fires: one hour, and its five minutes of pending."""
MAX_OPEN_ROWS = 40
"""Models without trouble that are visible; the others are behind a click."""
MAX_OPEN_INCIDENTS = 20
MAX_LISTED_ALERTS = 50
"""Alerts of an incident that are listed."""
MAX_NAMES = 6
"""Names of alerts in the head of an incident; the others are counted."""
MAX_NOTIFICATIONS = 20
START_SECONDS = 3600.0
"""How long after the start the page says that counts begin with it."""
MAX_REQUESTS = 50
"""Newest requests for retraining among which the page looks for the last one of each model."""


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the home page."""
    routes = Blueprint("pages", __name__)
    routes.add_app_template_filter(percent)
    routes.add_app_template_filter(number)
    routes.add_app_template_filter(time_tag)
    routes.add_app_template_filter(alert_severity)
    routes.add_app_template_global(drift_parameters)
    routes.add_app_template_global(review_parameters)
    routes.add_app_template_global(slices_of_alert)
    routes.add_app_template_global(dashboard_url)

    @routes.get("/")
    def home() -> str:
        exporter.pipeline.settle(0.2)
        alerts = exporter.alerts.read()
        rows = model_rows(exporter.pipeline.monitors, alerts.alerts, alerts.budgets, time.monotonic())
        open_rows = max(MAX_OPEN_ROWS, sum(row.troubled for row in rows))
        seen = {row.model for row in rows}
        return render_template(
            "home.html",
            alerts=alerts,
            incidents=group_alerts(alerts.alerts),
            max_open_incidents=MAX_OPEN_INCIDENTS,
            max_listed=MAX_LISTED_ALERTS,
            max_names=MAX_NAMES,
            states={layer: _state(layer, alerts.firing) for layer in LAYERS},
            pending_by_layer=Counter(alert.labels.get("layer") for alert in alerts.pending),
            rows=rows[:open_rows],
            started=_recent_start(exporter.started),
            more_rows=rows[open_rows:],
            models=exporter.config.models,
            problems=exporter.reloader.files.problems,
            reload_failure=exporter.reloader.failure,
            names={model.name for model in exporter.config.models},
            silent=[model.name for model in exporter.config.models if model.name not in seen],
            webhook=f"{exporter.link_addresses()[0]}/v1/notifications",
            links=exporter.config.links,
            last=exporter.inbox.last()[:MAX_NOTIFICATIONS],
            machine=machine_figures(exporter.exposition.machine()),
            outputs=OUTPUTS,
            drift_threshold=THRESHOLDS[FEATURE_ALERT].default,
            pending_corrections=_pending(exporter),
            retrain_requests=_retrain_requests(exporter),
            min_attempts=MIN_ATTEMPTS,
            min_corrections=MIN_CORRECTIONS,
            enough_labels=ENOUGH,
            dashboard=uid if re.fullmatch(r"[\w-]{1,40}", uid := request.args.get("dashboard", "")) else None,
        )

    @routes.get("/d/<uid>")
    def dashboard(uid: str) -> Response:
        query = request.query_string.decode("ascii", "replace")
        if grafana := exporter.config.links.grafana:
            return redirect(f"{grafana.rstrip('/')}/d/{quote(uid)}?{query}", 303)
        if uid != "model-data":
            return redirect(url_for("pages.home", dashboard=uid), 303)
        chosen = {name: request.args.get(f"var-{name}", "") for name in ("model", "version", "feature")}
        return redirect(f"{url_for('drift.page')}?{urlencode({k: v for k, v in chosen.items() if v})}", 303)

    return routes


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
        pending = exporter.store.review_state().pending
    except StoreError:
        return None
    return {name: pending[name] for name in exporter.pipeline.monitors.models if pending.get(name)}


def _retrain_requests(exporter: Exporter) -> list[dict[str, Any]]:
    """Return the last request for retraining of each model that has one; none while the database is not available."""
    if exporter.config.retrain is None:
        return []
    try:
        with exporter.store.reading() as connection:
            newest = list_requests(connection, None, MAX_REQUESTS)
    except StoreError:
        return []
    by_model = {row["model"]: request_document(row) for row in reversed(newest)}
    return [by_model[name] for name in exporter.pipeline.monitors.models if name in by_model]


def drift_parameters(alert: Alert) -> dict[str, str]:
    """Return the parameters of the drift page for an alert of the data layer.

    >>> drift_parameters(Alert("firing", {"alertname": "ModelConfidenceDrift", "model": "digits", "version": "3"}))
    {'model': 'digits', 'version': '3', 'feature': '(confidence)'}
    """
    output = {PREDICTION_ALERT: PREDICTION, CONFIDENCE_ALERT: CONFIDENCE}.get(alert.name)
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
    >>> slices_of_alert(Alert("firing", labels | {"alertname": "ModelFeatureDrift"}))
    {'model': 'digits', 'version': '3', 'of': 'drift'}
    """
    labels = alert.labels
    of: Of
    if alert.name == "ModelCorrectionRatioHigh":
        of = "corrections"
    elif alert.name == "ModelAccuracyLow":
        of = "estimated_loss" if labels.get("basis") == "estimated" else "errors"
    elif alert.name in DRIFT_ALERTS:
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


def _recent_start(started: float) -> datetime | None:
    """Return when the exporter started, if that is less than `START_SECONDS` ago."""
    return datetime.fromtimestamp(started, UTC) if time.time() - started < START_SECONDS else None


def _state(layer: str, firing: list[Alert]) -> str:
    """Return the worst severity of a layer's firing alerts, ``ok`` without any."""
    own: list[Any] = [alert_severity(alert) for alert in firing if alert.labels.get("layer") == layer]
    return min(own, key=SEVERITIES.index, default="ok")
