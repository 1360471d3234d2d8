"""The home page and the runbooks."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from exporter.config import THRESHOLDS
from exporter.errors import StoreError
from exporter.monitoring.counters import DURATION_BUCKETS
from exporter.monitoring.drift_report import (
    CONFIDENCE,
    CONFIDENCE_ALERT,
    FEATURE_ALERT,
    OUTPUTS,
    PREDICTION,
    PREDICTION_ALERT,
    worst,
)
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.server.application import Exporter
from exporter.server.notifications import Alert, Inbox, annotation, is_shown
from exporter.server.pages.drift_text import number
from exporter.validation import closest

LAYERS = ("system", "data", "business", "exporter")
SEVERITIES = ("critical", "warning", "info")
MAX_SCRAPE_AGE = 120.0
"""Seconds since the last scrape after which alerts can no longer be trusted."""
CORRECTION_WINDOW = timedelta(minutes=65)
"""The period that ModelCorrectionRatioHigh evaluates before it fires: one hour, and its five minutes of pending."""
RUNBOOKS = Path(__file__).parents[1] / "runbooks"
_ADDRESSES = ("http://127.0.0.1:9877", "http://127.0.0.1:3000")
"""The addresses of the exporter and of Grafana in the text of runbooks."""


def blueprint(exporter: Exporter, inbox: Inbox) -> Blueprint:
    """Return the home page and the runbooks."""
    routes = Blueprint("pages", __name__)
    routes.add_app_template_global(annotation)
    routes.add_app_template_filter(percent)
    routes.add_app_template_filter(number)
    routes.add_app_template_filter(latency_bound)
    routes.add_app_template_global(drift_parameters)
    routes.add_app_template_global(review_parameters)

    @routes.get("/")
    def home() -> str:
        now = time.monotonic()
        exporter.pipeline.settle(0.2)
        firing = sorted(filter(is_shown, inbox.firing()), key=_severity_rank)
        return render_template(
            "home.html",
            rows=[summary(monitor, now) for monitor in exporter.pipeline.monitors],
            models=exporter.config.models,
            links=exporter.config.links,
            firing=firing,
            states={layer: _state(layer, firing) for layer in LAYERS},
            scrape_warning=scrape_warning(exporter.last_scrape, now),
            last=[alert for alert in inbox.last() if is_shown(alert)][:20],
            machine=exporter.exposition.machine(),
            outputs=OUTPUTS,
            drift_threshold=THRESHOLDS[FEATURE_ALERT].default,
            pending=_pending(exporter),
            nan=math.nan,
        )

    @routes.get("/runbooks/", strict_slashes=False)
    def runbooks() -> str:
        return render_template("runbook.html", name="Runbooks", text=_html(_contents()))

    @routes.get("/d/<uid>")
    def dashboard(uid: str) -> Response:
        query = request.query_string.decode("ascii", "replace")
        if grafana := exporter.config.links.grafana:
            return redirect(f"{grafana.rstrip('/')}/d/{quote(uid)}?{query}", 303)
        if uid != "model-data":
            return redirect(url_for("pages.home"), 303)
        chosen = {name: request.args.get(f"var-{name}", "") for name in ("model", "version", "feature")}
        return redirect(f"{url_for('drift.page')}?{urlencode({k: v for k, v in chosen.items() if v})}", 303)

    @routes.get("/runbooks/<name>")
    def runbook(name: str) -> str:
        if not re.fullmatch(r"[A-Za-z]{1,100}", name) or not (page := RUNBOOKS / f"{name}.md").is_file():
            similar = closest(name, (page.stem for page in RUNBOOKS.glob("*.md")))
            hint = f"did you mean {similar}?" if similar else "/runbooks/ lists all"
            abort(404, f"there is no runbook for an alert {name}; {hint}")
        text = page.read_text(encoding="utf-8")
        for default, address in zip(_ADDRESSES, exporter.link_addresses(), strict=True):
            text = text.replace(default, address)
        return render_template("runbook.html", name=name, text=_link_alerts(_html(text), name))

    return routes


def summary(monitor: ModelMonitor, now: float) -> dict[str, Any]:
    """Return the main figures of a model version in each layer."""
    counters = monitor.counters
    requests = sum(counters.requests.values())
    errors = sum(times for code, times in counters.requests.items() if code >= 500)
    window, drift = worst(monitor, now) or (None, None)
    return {
        "model": monitor.config.name,
        "version": monitor.version,
        "requests": requests,
        "errors": errors / requests if requests else math.nan,
        "latency": _quantile(monitor, 0.95),
        "window": window,
        "worst": drift,
        "profiled": monitor.binner is not None,
        "attempts": counters.attempts,
        "confident": counters.confident / counters.attempts if counters.attempts else math.nan,
        "corrections": counters.corrections / counters.confident if counters.confident else math.nan,
    }


def _quantile(monitor: ModelMonitor, share: float) -> float:
    """Return the upper bound in seconds of the bucket with a quantile of the latency since the start."""
    counts = monitor.durations.cumulative()
    if not counts[-1]:
        return math.nan
    bounds = [*monitor.durations.bounds, math.inf]
    return float(bounds[int(counts.searchsorted(share * counts[-1]))])


def _html(markdown: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt().render(markdown))


def _contents() -> str:
    """Return the list of all runbooks, each alert with the first sentence of its runbook, as Markdown."""
    entries = ["# Runbooks", "One for each alert: what it means and what to do."]
    for page in sorted(RUNBOOKS.glob("*.md")):
        entries += [f"## [{page.stem}](/runbooks/{page.stem})", page.read_text(encoding="utf-8").split("\n\n")[1]]
    return "\n\n".join(entries)


def _link_alerts(html: str, name: str) -> str:
    """Link the names of other alerts in a runbook to their runbooks, except in code."""
    others = "|".join(sorted({page.stem for page in RUNBOOKS.glob("*.md")} - {name}))
    parts = re.split(r"(<code.*?</code>|<[^>]*>)", html, flags=re.S)
    parts[::2] = [re.sub(rf"\b({others})\b", r'<a href="/runbooks/\1">\1</a>', part) for part in parts[::2]]
    return "".join(parts)


def scrape_warning(last_scrape: float | None, now: float) -> str | None:
    """Return why alerts cannot be trusted: Prometheus does not scrape the exporter; None while it does.

    >>> scrape_warning(None, 50), scrape_warning(0, 400), scrape_warning(300, 400)
    ('not scraped by Prometheus yet', 'no scrape for 6 minutes', None)
    """
    if last_scrape is None:
        return "not scraped by Prometheus yet"
    since = now - last_scrape
    return f"no scrape for {since // 60:.0f} minutes" if since > MAX_SCRAPE_AGE else None


def _pending(exporter: Exporter) -> dict[str, int] | None:
    """Return the pending corrections by configured model; None while the database is not available."""
    try:
        pending = exporter.store.review_state().pending
    except StoreError:
        return None
    return {name: pending[name] for name in exporter.pipeline.monitors.models if pending.get(name)}


def drift_parameters(alert: Alert) -> dict[str, str]:
    """Return the parameters of the drift page for an alert of the data layer.

    >>> drift_parameters(Alert("firing", {"alertname": "ModelConfidenceDrift", "model": "digits", "version": "3"}))
    {'model': 'digits', 'version': '3', 'feature': '(confidence)'}
    """
    output = {PREDICTION_ALERT: PREDICTION, CONFIDENCE_ALERT: CONFIDENCE}.get(alert.labels.get("alertname", ""))
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
    name, model = alert.labels.get("alertname"), alert.labels.get("model", "")
    if name == "ModelReviewBacklog":
        return {"model": model}
    if name == "ModelFeedbackUnjoined":
        return {"model": model, "joined": "false"}
    if name != "ModelCorrectionRatioHigh":
        return None
    parameters = {"model": model, "version": alert.labels.get("version", "")}
    try:
        since = datetime.fromisoformat(alert.starts_at) - CORRECTION_WINDOW
    except (ValueError, OverflowError):
        return parameters
    return parameters | {"since": since.isoformat().replace("+00:00", "Z")}


def _state(layer: str, firing: list[Alert]) -> str:
    worst = {alert.labels.get("severity") for alert in firing if alert.labels.get("layer") == layer}
    return "critical" if "critical" in worst else "warning" if "warning" in worst else "info" if worst else "ok"


def _severity_rank(alert: Alert) -> int:
    severity = alert.labels.get("severity", "")
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def percent(value: float) -> str:
    """
    >>> percent(0.01234).split("\\N{NO-BREAK SPACE}"), percent(math.nan)
    (['1.23', '%'], '–')
    """
    return "–" if math.isnan(value) else f"{100 * value:.3g}\N{NO-BREAK SPACE}%"


def latency_bound(bound: float) -> str:
    """Format a quantile of the latency by the upper bound of its bucket, in seconds.

    >>> latency_bound(0.25), latency_bound(math.inf), latency_bound(math.nan)
    ('below 0.25 s', 'over 10 s', '–')
    """
    if math.isinf(bound):
        return f"over {DURATION_BUCKETS[-1]:g} s"
    return "–" if math.isnan(bound) else f"below {bound:g} s"
