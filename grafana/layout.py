"""The parts of a dashboard around its panels: variables, annotations, links, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardDashboardTemplating,
    DashboardLinkType,
    GridPos,
    Panel,
    RowPanel,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana.queries import INSTANCE, MODEL, MODEL_OR_NONE
from grafana.style import CRITICAL, DATASOURCE, GREY, INFO, NEUTRAL, WARNING, Link

TAG = "model-exporter"
SINCE = "since=${__from:date:iso}"
TIME = f"{SINCE}&until=${{__to:date:iso}}"
EXPORTER = "${exporter_url:raw}"
_ALL = ".+"

VERSIONS = "${version:queryparam}"
"""The selected versions as ``var-version=3``. The exporter reads a single version and ignores several or all."""


def page_link(page: str, title: str, versions: str = "", **parameters: str) -> Link:
    """Return a link to a page of the exporter, with labels of a value or the selected variables.

    The review page also gets the time range, and the page of slices its start; the drift page always shows the current
    windows.

    Parameters
    ----------
    page
        ``drift``, ``review`` or ``slices``.
    title
        Text of the link.
    versions
        The selected versions, `VERSIONS`, or another constant part of the query.
    parameters
        Query parameters and the source of their values, such as ``version="__field.labels.version"``.
    """
    arguments = [f"{name}=${{{source}:percentencode}}" for name, source in parameters.items()]
    arguments += filter(None, [versions, {"review": TIME, "slices": SINCE}.get(page, "")])
    return Link(title, f"{EXPORTER}/{page}?{'&'.join(arguments)}", outside=True)


DRIFT = page_link("drift", "What drifted", VERSIONS, model="model")
REVIEW = page_link("review", "Review corrections", VERSIONS, model="model")


def dashboard_link(uid: str, title: str, versions: str = "", **parameters: str) -> Link:
    """Return a link from a value to another dashboard, with the labels of the value and the time range.

    ``versions`` is `VERSIONS` or empty.
    """
    arguments = [f"var-{name}=${{{source}:percentencode}}" for name, source in parameters.items()]
    return Link(title, f"/d/{uid}?{'&'.join([*arguments, *filter(None, [versions]), '${__url_time_range}'])}")


FLEET = Link("All models", "/d/model-fleet?${__url_time_range}")


def query_variable(
    name: str,
    label: str,
    query: str,
    *,
    include_all: bool = False,
    several: bool = False,
    sort: VariableSort = VariableSort.ALPHABETICAL_ASC,
) -> VariableModel:
    """Return a variable with values from Prometheus: one, or all (``include_all``), or any number (``several``).

    Grafana 13 reads the sort orders up to ``NUMERICAL_DESC``; with the others, values are in Prometheus' order.
    """
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(sort)
        .multi(several)
        .include_all(include_all or several)
    )
    if include_all or several:
        variable = variable.all_value(_ALL)
    if several:
        variable = variable.current(VariableOption(selected=True, text="All", value="$__all"))
    return variable.build()


def model_variable() -> VariableModel:
    """Return the variable for one model, because thresholds are set per model."""
    return query_variable("model", "Model", "label_values(model_info, model)")


def version_variable() -> VariableModel:
    """Return the variable for one version of the model, by default the highest; links may select all."""
    query = f"label_values(model_info{{{MODEL}}}, version)"
    return query_variable("version", "Version", query, include_all=True, sort=VariableSort.NUMERICAL_DESC)


def versions_variable() -> VariableModel:
    """Return the variable for any number of versions of the model, by default all."""
    query = f"label_values(model_info{{{MODEL}}}, version)"
    return query_variable("version", "Version", query, several=True, sort=VariableSort.NUMERICAL_DESC)


def quality_window_variable() -> VariableModel:
    """Return the variable for one of the windows for which a quality is measured or estimated."""
    known = "model_(estimated_)?(accuracy|mean_absolute_error)"
    return query_variable("window", "Window", f'label_values({{__name__=~"{known}",{MODEL}}}, window)')


def _first_of(name: str, label: str, values_of: str, ordered: str) -> VariableModel:
    """Return a variable with the values of a label in the order of an expression; the first is the default."""
    variable = query_variable(name, label, f"query_result({ordered})", sort=VariableSort.DISABLED)
    variable.regex = f'/{values_of}="(.*)"}} /'
    return variable


def worst_feature_variable(worst_first: str) -> VariableModel:
    """Return the variable for one feature, by default the first that an expression returns."""
    return _first_of("feature", "Feature", "feature", worst_first)


def compared_version(name: Literal["before", "after"], label: str) -> VariableModel:
    """Return the variable for one version to compare, by default that of the exporter's own comparison.

    Without a comparison, it is the version that was deployed first or last.
    """
    compared = f"max by ({name}) (model_comparison_shared_seconds{{{MODEL}}})"
    compared = f'group by (version) (label_replace({compared}, "version", "$1", "{name}", "(.*)"))'
    deployed = f"max by (version) (last_over_time(model_version:deployed:timestamp_seconds{{{MODEL}}}[$__range]))"
    order, first = ("sort", "0") if name == "before" else ("sort_desc", "1e12")
    return _first_of(name, label, "version", f"{order}({first} * {compared} or {deployed})")


def _datasource() -> VariableModel:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus").build()


def _exporter_url(variables: Sequence[VariableModel]) -> VariableModel:
    """Return the variable for the address that links begin with, as the exporter of the model or instance exports it,
    or any exporter.

    It is not synchronized with the dashboard's URL, which could otherwise make the links lead to any site.
    """
    names = {variable.name for variable in variables}
    chosen = MODEL if "model" in names else INSTANCE if "instance" in names else ""
    query = f"label_values(model_exporter_links_info{{{chosen}}}, external_url)"
    variable = query_variable("exporter_url", "Exporter", query)
    variable.hide, variable.skip_url_sync = VariableHide.HIDE_VARIABLE, True
    return variable


def _annotations(layer: str, only_deployments: bool) -> list[dashboard.AnnotationQuery]:
    """Return annotations of deployments, alerts and dataset releases; each expression is true for one step.

    All alerts of the same name and model are one, in the colour of their severity: the start of the first is marked.
    """

    def query(name: str, colour: str, expr: str, title: str, text: str, tags: str) -> dashboard.AnnotationQuery:
        return (
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(DATASOURCE)
            .enable(name == "Deployments" or not only_deployments)
            .icon_color(colour)
            .target(prometheus.Dataquery().expr(expr).ref_id("Anno").interval("60s").range())
            .title_format(title)
            .text_format(text)
            .tag_keys(tags)
        )

    def started(severity: str) -> str:
        firing = f'ALERTS{{alertstate="firing",layer=~"{layer}",severity="{severity}",{MODEL_OR_NONE}}}'
        alerts = f"group by (alertname, model, severity, layer) ({firing}"
        return f"{alerts}) unless {alerts} offset $__interval)"

    deployed = f"model_version:deployed:timestamp_seconds{{{MODEL}}}"
    released = f"max by (model) (model_dataset_examples_total{{{MODEL}}}"
    return [
        query(
            "Deployments",
            NEUTRAL,
            f"1000 * ({deployed} > time() - $__interval_ms / 1000)",
            "Deployment",
            "{{model}} version {{version}} was seen for the first time",
            "version",
        ).use_value_for_time(True),
        *(
            query(name, colour, started(severity), "{{alertname}}", "{{severity}}: {{model}}", "severity,layer")
            for name, colour, severity in (
                ("Critical alerts", CRITICAL, "critical"),
                ("Warnings", WARNING, "warning"),
                ("Infos", INFO, "info"),
            )
        ),
        query(
            "Dataset releases",
            GREY,
            f"{released}) > {released} offset $__interval)",
            "Dataset released",
            "{{model}}: corrections were released into a dataset",
            "model",
        ),
    ]


def side_by_side(
    y: int, height: int, panels: Mapping[int, Panel], widths: Sequence[int] = (), *, x: int = 0
) -> list[Panel]:
    """Give panels, by their identifiers, their positions on the grid of 24 columns; a row is 30 pixels and a gap of 8.

    Parameters
    ----------
    y, x
        Position of the first panel.
    widths
        One for each panel; without, all are equal and fill the grid.
    """
    for (number, panel), width in zip(panels.items(), widths or [24 // len(panels)] * len(panels), strict=True):
        panel.id_val, panel.grid_pos = number, GridPos(x=x, y=y, w=width, h=height)
        x += width
    return list(panels.values())


def row(number: int, title: str, y: int, collapsed: Sequence[Panel] = ()) -> RowPanel:
    """Return a row over the panels below it, or over ``collapsed`` panels that a click expands."""
    panel = dashboard.Row(title).id(number).collapsed(bool(collapsed)).build()
    panel.grid_pos = GridPos(x=0, y=y, w=24, h=1)
    panel.panels = list(collapsed)
    return panel


def build_dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[VariableModel],
    panels: Sequence[Panel | RowPanel],
    *,
    links: Sequence[Link] = (),
    alerts: str | None = None,
    only_deployments: bool = False,
) -> Dashboard:
    """Return a dashboard of panels with fixed positions.

    With ``only_deployments``, other annotations are off by default.

    With ``alerts``, a regular expression of layers, it marks deployments, starts of these alerts, and releases.
    """
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .annotations(list(_annotations(alerts, only_deployments)) if alerts else [])
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for link in links:
        builder = builder.link(
            dashboard.DashboardLink(link.title).icon("external link").url(link.url).target_blank(link.outside)
        )
    document = builder.build()
    document.templating = DashboardDashboardTemplating(list_val=[_datasource(), *variables, _exporter_url(variables)])
    document.panels = list(panels)
    # Without a placement, links and annotations are visible, not in a menu.
    for document_link in document.links or []:
        document_link.placement = None  # type: ignore[assignment]
    for annotation in (document.annotations and document.annotations.list_val) or []:
        annotation.placement = None  # type: ignore[assignment]
    return document
