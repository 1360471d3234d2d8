"""Pages for people."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Blueprint, abort, render_template

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
from exporter.server.notifications import Alert, Inbox, is_shown, words
from exporter.server.pages.drift_text import number

LAYERS = ("system", "data", "business", "exporter")
SEVERITIES = ("critical", "warning", "info")
UNWATCHED_SECONDS = 120.0
"""So long after the last scrape nobody knows any more whether an alert should fire."""
CORRECTION_WINDOW = timedelta(minutes=65)
"""What ModelCorrectionRatioHigh looks back on once it fires: an hour, and the five minutes that it waited."""
RUNBOOKS = Path(__file__).parents[1] / "runbooks"


def blueprint(exporter: Exporter, inbox: Inbox) -> Blueprint:
    """The home page and the runbooks."""
    routes = Blueprint("pages", __name__)
    routes.add_app_template_global(words)
    routes.add_app_template_filter(percent)
    routes.add_app_template_filter(number)
    routes.add_app_template_filter(below)
    routes.add_app_template_global(changed)
    routes.add_app_template_global(mistakes)

    @routes.get("/")
    def home() -> str:
        now = time.monotonic()
        exporter.pipeline.settle(0.2)
        firing = sorted(filter(is_shown, inbox.firing()), key=_urgency)
        return render_template(
            "home.html",
            rows=[summary(monitor, now) for monitor in exporter.pipeline.monitors],
            models=exporter.config.models,
            links=exporter.config.links,
            firing=firing,
            states={layer: _state(layer, firing) for layer in LAYERS},
            unwatched=unwatched(exporter.last_scrape, now),
            last=[alert for alert in inbox.last() if is_shown(alert)][:20],
            machine=exporter.exposition.machine(),
            outputs=OUTPUTS,
            drift_threshold=THRESHOLDS[FEATURE_ALERT].default,
            pending=_pending(exporter),
            nan=math.nan,
        )

    @routes.get("/runbooks/")
    def runbooks() -> str:
        return render_template("runbook.html", name="Runbooks", text=_html(_contents()))

    @routes.get("/runbooks/<name>")
    def runbook(name: str) -> str:
        if not re.fullmatch(r"[A-Za-z]{1,100}", name) or not (page := RUNBOOKS / f"{name}.md").is_file():
            abort(404, f"there is no runbook of an alert {name}")
        return render_template("runbook.html", name=name, text=_linked(_html(page.read_text(encoding="utf-8")), name))

    return routes


def summary(monitor: ModelMonitor, now: float) -> dict[str, Any]:
    """The three layers of one model version, in the numbers that tell most."""
    counters = monitor.counters
    requests = sum(counters.requests.values())
    errors = sum(times for code, times in counters.requests.items() if code >= 500)
    window, change = worst(monitor, now) or (None, None)
    return {
        "model": monitor.config.name,
        "version": monitor.version,
        "requests": requests,
        "errors": errors / requests if requests else math.nan,
        "latency": _quantile(monitor, 0.95),
        "window": window,
        "worst": change,
        "profiled": monitor.binner is not None,
        "attempts": counters.attempts,
        "confident": counters.confident / counters.attempts if counters.attempts else math.nan,
        "corrections": counters.corrections / counters.confident if counters.confident else math.nan,
    }


def _quantile(monitor: ModelMonitor, share: float) -> float:
    """The upper bound of the bucket that holds a quantile of the latency since the start, in seconds."""
    counts = monitor.durations.cumulative()
    if not counts[-1]:
        return math.nan
    bounds = [*monitor.durations.bounds, math.inf]
    return float(bounds[int(counts.searchsorted(share * counts[-1]))])


def _html(markdown: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt().render(markdown))


def _contents() -> str:
    """The list of all runbooks: each alert with the sentence that its runbook begins with."""
    entries = ["# Runbooks", "One for each alert: what it means, and what to do."]
    for page in sorted(RUNBOOKS.glob("*.md")):
        entries += [f"## [{page.stem}](/runbooks/{page.stem})", page.read_text(encoding="utf-8").split("\n\n")[1]]
    return "\n\n".join(entries)


def _linked(text: str, own: str) -> str:
    """HTML in which the names of other alerts lead to their runbooks, except in code."""
    others = "|".join(sorted({page.stem for page in RUNBOOKS.glob("*.md")} - {own}))
    parts = re.split(r"(<code.*?</code>|<[^>]*>)", text, flags=re.S)
    parts[::2] = [re.sub(rf"\b({others})\b", r'<a href="/runbooks/\1">\1</a>', part) for part in parts[::2]]
    return "".join(parts)


def unwatched(last_scrape: float | None, now: float) -> str | None:
    """Why no alert may only mean that nobody looks; None while somebody does.

    >>> unwatched(None, 50), unwatched(0, 400), unwatched(300, 400)
    ('not watched: no scrape yet', 'no scrape for 6 minutes', None)
    """
    if last_scrape is None:
        return "not watched: no scrape yet"
    since = now - last_scrape
    return f"no scrape for {since // 60:.0f} minutes" if since > UNWATCHED_SECONDS else None


def _pending(exporter: Exporter) -> dict[str, int] | None:
    """Corrections that wait for review, by configured model; None while the database cannot say."""
    try:
        pending = exporter.store.review_state().pending
    except StoreError:
        return None
    return {name: pending[name] for name in exporter.pipeline.monitors.models if pending.get(name)}


def changed(alert: Alert) -> dict[str, str]:
    """The parameters of the drift page that show what an alert of the data is about.

    >>> changed(Alert("firing", {"alertname": "ModelConfidenceDrift", "model": "digits", "version": "3"}))
    {'model': 'digits', 'version': '3', 'feature': '(confidence)'}
    """
    output = {PREDICTION_ALERT: PREDICTION, CONFIDENCE_ALERT: CONFIDENCE}.get(alert.labels.get("alertname", ""))
    labels = alert.labels | ({"feature": output} if output else {})
    return {name: labels[name] for name in ("model", "version", "feature") if labels.get(name)}


def mistakes(alert: Alert) -> dict[str, str] | None:
    """The parameters of the review page that show the mistakes behind an alert; None where there are none.

    >>> labels = {"alertname": "ModelCorrectionRatioHigh", "model": "digits", "version": "3"}
    >>> mistakes(Alert("firing", labels, starts_at="2026-11-24T10:05:00Z"))
    {'model': 'digits', 'version': '3', 'since': '2026-11-24T09:00:00Z'}
    """
    name, model = alert.labels.get("alertname"), alert.labels.get("model", "")
    if name == "ModelReviewBacklog":
        return {"model": model}
    if name != "ModelCorrectionRatioHigh":
        return None
    found = {"model": model, "version": alert.labels.get("version", "")}
    try:
        began = datetime.fromisoformat(alert.starts_at)
    except ValueError:
        return found
    return found | {"since": (began - CORRECTION_WINDOW).isoformat().replace("+00:00", "Z")}


def _state(layer: str, firing: list[Alert]) -> str:
    worst = {alert.labels.get("severity") for alert in firing if alert.labels.get("layer") == layer}
    return "critical" if "critical" in worst else "warning" if "warning" in worst else "info" if worst else "ok"


def _urgency(alert: Alert) -> int:
    severity = alert.labels.get("severity", "")
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def percent(value: float) -> str:
    """
    >>> percent(0.01234).split("\\N{NO-BREAK SPACE}"), percent(math.nan)
    (['1.23', '%'], '–')
    """
    return "–" if math.isnan(value) else f"{100 * value:.3g}\N{NO-BREAK SPACE}%"


def below(bound: float) -> str:
    """A quantile of the latency by the upper bound of its bucket, in seconds.

    >>> below(0.25), below(math.inf), below(math.nan)
    ('below 0.25 s', 'over 10 s', '–')
    """
    if math.isinf(bound):
        return f"over {DURATION_BUCKETS[-1]:g} s"
    return "–" if math.isnan(bound) else f"below {bound:g} s"
