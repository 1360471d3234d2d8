"""The table of alerts that fire or are pending, for one model or for all."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana import layout
from grafana.panels import table
from grafana.queries import MODEL_OR_NONE, alert_rows
from grafana.style import CRITICAL, INFO, SECONDS, TEXT, WARNING, Query, for_field, setting, state_cell, transformation

_STATES = {"6": ("critical", CRITICAL), "4": ("warning", WARNING), "3": ("pending", INFO), "2": ("info", INFO)}
_COLUMNS = {
    "rank": "State",
    "alert": "Alert",
    "of": "Of",
    "model": "Model",
    "version": "Version",
    "layer": "Layer",
    "Value": "For",
}


def of_all() -> Panel:
    return _alerts("of all models, exporters and machines", "", "no alert fires or is pending", "__data.fields.Model")


def of_model() -> Panel:
    return _alerts(
        "of the model, its features, and exporters and machines",
        MODEL_OR_NONE,
        "no alert of this model fires or is pending",
        "model",
    )


def _alerts(of: str, selector: str, empty: str, model: str) -> Panel:
    """Return the table; ``model`` is where links take the model from: its column or the variable."""
    version = "__data.fields.Version"
    runbook = {"title": "Runbook", "url": f"{layout.EXPORTER}/runbooks/Model${{__value.raw}}", "targetBlank": True}
    overview = layout.dashboard_link("model-overview", "Overview", model=model, version=version)
    details = layout.dashboard_link(
        "model-${__data.fields.Layer:percentencode}",
        "Details",
        model=model,
        version=version,
        feature="__data.fields.Of",
    )
    to_details = setting("links", [{"title": details.title, "url": details.url}])
    return table(
        "Alerts",
        (
            f"Alerts {of}, the worst and oldest first, at most 100. Click an alert to open its runbook, or its layer "
            "to open its dashboard."
        ),
        SECONDS,
        Query(f"topk(100, {alert_rows(selector, 'model, version, layer')})", kind="table"),
        empty=f"{empty}, as far as Prometheus knows",
        sort=("State", "For"),
        transformations=[
            transformation(
                "organize",
                indexByName={name: index for index, name in enumerate(_COLUMNS)},
                renameByName=_COLUMNS,
                excludeByName={"Time": True} | ({} if selector == "" else {"model": True}),
            )
        ],
        overrides=[
            for_field("State", *state_cell(_STATES), width=84),
            for_field("Alert", setting("links", [runbook]), unit=TEXT, width=170),
            for_field("Of", to_details, noValue=" ", unit=TEXT, minWidth=110),
            for_field(
                "Model",
                setting("links", [{"title": overview.title, "url": overview.url}]),
                noValue=" ",
                unit=TEXT,
                minWidth=110,
            ),
            for_field("Version", noValue=" ", unit=TEXT, width=100),
            for_field("Layer", to_details, unit=TEXT, width=90),
            for_field("For", width=84, decimals=0),
        ],
    )
