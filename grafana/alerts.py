"""The table of alerts that fire or are pending, for one model or for all."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, Panel

from grafana import layout
from grafana.panels import table
from grafana.queries import MODEL_OR_NONE, alert_rows
from grafana.style import (
    CRITICAL,
    INFO,
    SECONDS,
    TEXT,
    WARNING,
    Link,
    Override,
    Query,
    for_field,
    setting,
    state_cell,
    transformation,
)

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
_VERSION = "__data.fields.Version"


def of_all() -> Panel:
    model = layout.dashboard_link("model-overview", "Overview", model="__value.raw", version=_VERSION)
    return _alerts(
        "of all models, exporters and machines",
        "or a model to open Overview",
        "",
        "no alert fires or is pending",
        [for_field("Model", _links(model), noValue=" ", unit=TEXT, minWidth=110)],
    )


def of_model() -> Panel:
    """Return the table for the selected model, which leads to the dashboards of the layers."""
    layer = "model-${__data.fields.Layer:percentencode}"
    chosen = {"model": "model", "version": _VERSION}
    of_layer = layout.dashboard_link(layer, "Details", **chosen)
    of_feature = layout.dashboard_link(layer, "Details", **chosen, feature="__value.raw")
    return _alerts(
        "of the model, its features, and exporters and machines",
        "or a feature or layer to open the dashboard of the layer",
        MODEL_OR_NONE,
        "no alert of this model fires or is pending",
        [for_field("Layer", _links(of_layer)), for_field("Of", _links(of_feature))],
    )


def _links(link: Link) -> DynamicConfigValue:
    return setting("links", [{"title": link.title, "url": link.url}])


def _alerts(of: str, details: str, selector: str, empty: str, overrides: Sequence[Override]) -> Panel:
    """Return the table; ``details`` says which of its ``overrides`` link to a dashboard."""
    runbook = {"title": "Runbook", "url": f"{layout.EXPORTER}/runbooks/Model${{__value.raw}}", "targetBlank": True}
    return table(
        "Alerts",
        f"Alerts {of}, the worst and oldest first, at most 100. Click an alert to open its runbook, {details}.",
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
            for_field("Of", noValue=" ", unit=TEXT, minWidth=110),
            # An alert without a version is one of all versions; the links have the text of the cell.
            for_field("Version", noValue="All", unit=TEXT, width=100),
            for_field("Layer", unit=TEXT, width=90),
            for_field("For", width=84, decimals=0),
            *overrides,
        ],
    )
