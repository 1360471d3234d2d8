"""Five numbers about a model that a stakeholder reads without knowing its metrics."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import stat
from grafana.queries import BOTH, MODEL
from grafana.style import CRITICAL, SHARE, WARNING, Query, for_query, setting

_CONFIDENT = f"sum(model_version:confident_predictions:increase1h{{{BOTH}}})"

_TOGETHER = "Of the selected versions together."


def _number(title: str, description: str, value: str, beyond: str, colour: str, empty: str) -> Panel:
    """Return a share as a large number, in a colour while ``beyond`` leaves a result of ``value``."""
    text = setting("color", {"mode": "fixed", "fixedColor": "text"})
    bad = f"(({value}) {beyond})"
    return stat(
        title,
        description,
        SHARE,
        Query(f"({value}) unless {bad}", "share", "instant"),
        Query(bad, "share, too low or too high", "instant"),
        empty=empty,
        named=False,
        coloured=True,
        decimals=1,
        overrides=[for_query(0, text), for_query(1, setting("color", {"mode": "fixed", "fixedColor": colour}))],
    )


def answered() -> Panel:
    every = f"sum(increase(model_requests_total{{{BOTH}}}[1h]))"
    failed = f'sum(increase(model_requests_total{{{BOTH},code=~"5.."}}[1h]))'
    return _number(
        "Successful requests, last hour",
        f"Share of requests without a 5xx code. Red: more errors than the threshold allows. {_TOGETHER}",
        f"1 - ({failed} or 0 * {every}) / ({every} > 0)",
        f"< 1 - max(model:threshold:ModelErrorRatioHigh{{{MODEL}}})",
        CRITICAL,
        "no requests",
    )


def budget_left() -> Panel:
    return _number(
        "Error budget left",
        "Share that is left of the errors, or of the slow requests, that the model's objectives allow in 30 days: the "
        "lower one, for all versions. Red: an objective is missed.",
        f"min(model:error_budget_remaining:ratio30d{{{MODEL}}})",
        "< 0",
        CRITICAL,
        "no requests",
    )


def confident() -> Panel:
    attempts = f"sum(model_version:attempts:increase1h{{{BOTH}}})"
    return _number(
        "Confident predictions, last hour",
        "Share of predictions at or above the model's confidence threshold. Orange: below the alert's threshold, with "
        "20 predictions or more. " + _TOGETHER,
        f"{_CONFIDENT} / ({attempts} > 0) and sum(model_prediction_confidence_count{{{BOTH}}}) > 0",
        f"< max(model:threshold:ModelConfidentRatioLow{{{MODEL}}}) and {attempts} >= 20",
        WARNING,
        "not recorded",
    )


def accuracy() -> Panel:
    known = f"min(model_version:accuracy:best_known{{{BOTH}}})"
    return _number(
        "Right predictions",
        "Share of predictions that are right, of the worst version: measured with labels, or estimated. Red: an alert "
        "fires.",
        known,
        f'and on () ALERTS{{alertname="ModelAccuracyLow",alertstate="firing",{BOTH}}}',
        CRITICAL,
        "not known",
    )


def corrected() -> Panel:
    corrections = f"sum(model_version:corrections:increase1h{{{BOTH}}})"
    return _number(
        "Corrected predictions, last hour",
        "Share of the confident predictions that users corrected. Red: above the alert's threshold, with three "
        f"corrections or more. {_TOGETHER}",
        f"({corrections} or 0 * {_CONFIDENT}) / ({_CONFIDENT} > 0) and sum(model_feedback_total{{{BOTH}}}) > 0",
        f"> max(model:threshold:ModelCorrectionRatioHigh{{{MODEL}}}) and {corrections} >= 3",
        CRITICAL,
        "no feedback",
    )
