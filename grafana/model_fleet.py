"""All models, one row each, the worst first, and every alert: the home page of Grafana."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import alerts, layout, model_fleet_models
from grafana.model_fleet_models import MONITORED, NOT_SEEN, UNKNOWN, states
from grafana.panels import stat
from grafana.style import BARE, COUNT, PER_SECOND, STATES, Query, value_mappings

_NOBODY = "no model is monitored"


def dashboard() -> Dashboard:
    """Return the dashboard Fleet."""
    return layout.build_dashboard(
        "model-fleet",
        "Models / Fleet",
        "All models, the worst first: what is wrong, since when, and with which feature. A row opens Overview.",
        [],
        [
            *layout.side_by_side(
                0, 3, {1: worst_state(), 2: monitored(), 3: with_alerts(), 4: requests(), 5: unknown()}, (4, 3, 5, 4, 8)
            ),
            *layout.side_by_side(3, 13, {6: model_fleet_models.models()}),
            *layout.side_by_side(16, 9, {7: alerts.of_all()}),
        ],
    )


def worst_state() -> Panel:
    return stat(
        "Worst state",
        (
            "State of the worst alert, of a model, an exporter or its machine. Unknown: an exporter is down, or "
            "Prometheus does not evaluate the rules."
        ),
        BARE,
        Query(f"max({states()})", "worst state", "instant"),
        empty=_NOBODY,
        state=True,
        named=False,
        mappings=value_mappings(STATES),
    )


def monitored() -> Panel:
    return stat(
        "Models",
        "Models that an exporter monitors at the moment.",
        COUNT,
        Query(f"count(group by (model) {MONITORED})", "monitored", "instant"),
        empty=_NOBODY,
        named=False,
    )


def with_alerts() -> Panel:
    """Return the number of models with firing alerts, and of those with pending ones alone."""
    firing, pending = (
        f'group by (model) (ALERTS{{alertstate="{state}",severity!="none",layer!="",model!=""}})'
        for state in ("firing", "pending")
    )
    none = f"0 * count({MONITORED})"
    return stat(
        "Models with an alert",
        "Models with a firing alert, and models with pending alerts only.",
        COUNT,
        Query(f"count({firing}) or {none}", "firing", "instant"),
        Query(f"count({pending} unless {firing}) or {none}", "pending only", "instant"),
        empty=_NOBODY,
    )


def requests() -> Panel:
    return stat(
        "Requests",
        "Requests a second of all models together, over one minute.",
        PER_SECOND,
        Query("sum(model_version:requests:rate1m)", "all models", "instant"),
        empty="no requests",
        named=False,
    )


def unknown() -> Panel:
    configured = "0 * count(model_instance:configured:timestamp_seconds)"
    up = 'up{job="model-exporter"}'
    return stat(
        "Not monitored",
        (
            "Exporters that Prometheus cannot scrape; models whose exporter is down or gone, for a day; models that "
            "are configured and never got a prediction."
        ),
        COUNT,
        Query(f"count({up} == 0) or 0 * count({up})", "exporters down", "instant"),
        Query(f"count({UNKNOWN}) or {configured}", "models unknown", "instant"),
        Query(f"count(group by (model) {NOT_SEEN}) or {configured}", "models not seen", "instant"),
        empty="no exporter is scraped",
    )
