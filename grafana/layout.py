"""The parts of a dashboard around its panels: variables, annotations, links, time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import dashboard as models

from grafana import panels as p

MODEL = "model=~`${model:regex}`"
VERSION = "version=~`${version:regex}`"
BOTH = f"{MODEL},{VERSION}"
BEFORE, AFTER = (f"{MODEL},version=~`${{{side}:regex}}`" for side in ("before", "after"))
"""The two versions to compare."""
FEATURE = "feature=~`${feature:regex}`"
WINDOW = "window=~`${window:regex}`"
INSTANCE = "instance=~`${instance:regex}`"
MODEL_OR_NONE = "model=~`${model:regex}|`"
"""Selector for the model, or for no model: alerts of exporters and machines concern every model."""

DAY_AGO = " offset 1d"

EVALUATED = 'ALERTS{alertname="Watchdog",layer!=""}'
"""Always exists while alerts are evaluated: without it, no alert does not mean that all is well."""


def alert_states(selector: str) -> str:
    """Return each alert with the number of its state: see `style.STATES`."""
    alerts = f'ALERTS{{alertstate="%s",severity=~"%s",layer!="",{selector}}}'
    states = (
        (6, "firing", "critical"),
        (4, "firing", "warning"),
        (3, "pending", "critical|warning"),
        (2, "firing", "info"),
    )
    return " or ".join(f"{number} * {alerts % (state, severity)}" for number, state, severity in states)


def state(selector: str, monitored: str) -> str:
    """Return the state as a number, 0 (OK) to 6 (critical): that of the worst alert, or unknown.

    Parameters
    ----------
    selector
        Selector of the alerts.
    monitored
        An expression that exists while the state is monitored.
    """
    known = f"group({monitored})"
    return f"max({alert_states(selector)}) or 0 * {known} and on () {EVALUATED} or 5 * {known}"


def alert_rows(selector: str, by: str) -> str:
    """Return the seconds since each alert became true, with labels for a table.

    These are ``rank``, the number of the state, ``alertname``, and ``of``: the feature, or what else the alert names.

    Parameters
    ----------
    selector
        Selector of the alerts.
    by
        Other labels to keep.
    """
    seconds = f'time() - ALERTS_FOR_STATE{{layer!="",severity!="none",{selector}}} and ignoring (alertstate) ALERTS'
    rows = f'label_join({seconds}{{alertstate="firing"}}, "kind", " ", "severity", "layer", "model")'
    # Inputs come before what follows from them, and exporters and hosts, which concern every model, last.
    for name, severity in (("2", "info"), ("4", "warning"), ("6", "critical")):
        for kind, part in ((".* .+", 5), ("data .+", 7), (".* ", 3)):
            rows = f'label_replace({rows}, "rank", "{name}.{part}", "kind", "{severity} {kind}")'
    pending = f'{seconds}{{alertstate="pending",severity!="info"}}'
    rows = f'{rows} or label_replace({pending}, "rank", "3", "", "")'
    rows = f'label_join({rows}, "of", " ", "feature", "instance", "path", "reason")'
    return f'max by (rank, alertname, of, {by}) (label_replace({rows}, "of", "$1", "of", " *(.*?) *"))'


def by_version(expr: str, legend: str) -> tuple[p.Query, p.Query]:
    """Return series of versions in use: the one that was deployed last and, thinner and darker, the others.

    Of several that were deployed at the same time, each is the last.
    """
    used = (
        f"(last_over_time(model_version:deployed:timestamp_seconds{{{MODEL}}}[1h] @ end())"
        f" and on (model, version) model_version:attempts:increase1h{{{MODEL}}} @ end() > 0)"
    )
    last = f"on (model, version) ({used} == on (model) group_left () max by (model) ({used}))"
    return p.Query(f"{expr} and {last}", legend), p.Query(f"{expr} unless {last}", legend, role="older")


def quality(name: Literal["accuracy", "mean_absolute_error"], selector: str = "") -> tuple[str, str]:
    """Return the accuracy or error of versions, as measured in the shortest window with 20 labels and as estimated."""
    by = "by (model, version)"
    measured = f"max {by} (model_version_window:{name}:measured{{{selector}}} and {_shortest(selector)})"
    estimated = f"max {by} (last_over_time(model_estimated_{name}{{{selector}}}[2m]))"
    if name == "accuracy":  # of all replicas together
        together = f"model_version:estimated_accuracy:increase1h{{{selector}}}"
        estimated = f"max {by} ({together} and on (model, version) {estimated})"
    return measured, estimated


def _shortest(selector: str) -> str:
    """Return the shortest window of each version with 20 labels: of nested windows, it has the fewest labels."""
    labels = f"sum by (model, version, window) (last_over_time(model_window_labelled_predictions{{{selector}}}[2m]))"
    return f"bottomk by (model, version) (1, {labels} >= 20)"


def mean_over_labels(value: str, selector: str, by: str = "model, version, window") -> str:
    """Return the mean of a measure of windows over the labels of all replicas."""
    labels = f"model_window_labelled_predictions{{{selector}}}"
    return f"(sum by ({by}) ({value} * {labels}) / sum by ({by}) ({labels} and {value}))"


def bias(selector: str = "") -> str:
    """Return the bias of versions, in the shortest window with 20 labels."""
    windows = mean_over_labels(f"model_mean_error{{{selector}}}", selector)
    return f"max by (model, version) ({windows} and {_shortest(selector)})"


def best_known(name: Literal["accuracy", "mean_absolute_error"], selector: str = "") -> str:
    """Return an accuracy or error of each version: measured if there are enough labels, else estimated."""
    return " or ".join(quality(name, selector))


def worst_drift(selector: str, model: str = MODEL, offset: str = "") -> tuple[str, str]:
    """Return the score of the worst feature of each version, and its threshold."""
    worst = f"model_version_feature:kl_divergence_to_threshold:worst{{{selector}}}{offset}"
    limit = f"on (model, feature) group_left () model_feature:threshold:ModelFeatureDrift{{{model}}}{offset}"
    return f"clamp_min({worst} * {limit} - 0.000000001, 0)", f"(0 * {worst} + {limit})"


def by_rank(expr: str, size: str, label: str, count: int = 6, legend: str | None = None) -> list[p.Query]:
    """Return the series of an expression that are the largest, a query for each, so that each has its colour.

    Parameters
    ----------
    expr
        Series with the label.
    size
        By what they are ranked, one number for each value of the label over the whole time range.
    label
        The label that tells them apart, or several.
    legend
        The name of each series; by default its label.
    """
    ranks = [f"topk({rank}, {size})" for rank in range(1, count + 1)]
    only = [ranks[0], *(f"({rank} unless {before})" for before, rank in pairwise(ranks))]
    legend = legend or f"{{{{{label}}}}}"
    return [p.Query(f"{expr} and on ({label}) {one}", legend, role="ranked") for one in only]


def by_instance(expr: str, legend: str = "{{instance}}") -> list[p.Query]:
    """Return the series of the six exporters with the highest values in the time range, each in its colour."""
    label = "path, instance" if "path" in legend else "instance"
    return by_rank(expr, f"max by ({label}) (max_over_time({expr}[$__range] @ end()))", label, legend=legend)


def increase(metric: str, selector: str, by: str = "", over: str = "$__range") -> str:
    """Return the increase of a counter over all replicas, from 0 where its series began in the period.

    The function of this name begins at the first sample, so it loses the first batch of a new version or class.
    ``prometheus/rules/data.yml`` explains what is added. A period may be longer than what Prometheus keeps: then a
    series only counts as new if its process began in the period, or was scraped before.
    """
    series, began, cpu = f"{metric}{{{selector}}}", "process_start_time_seconds", f"process_cpu_seconds_total[{over}]"
    grown, earlier = f"increase({series}[{over}])", f"[{over}] offset {over}"
    seconds = f"increase({cpu}) / rate({cpu})"  # of the period, whatever the counter
    first = (
        f"(min_over_time({series}[{over}]) unless present_over_time({series}{earlier}) and on (job, instance) "
        f"({began} > time() - {seconds} or present_over_time({began}{earlier})))"
    )
    return f"sum by ({by}) ({grown} + {first} or {grown})"


TAG = "model-exporter"
SINCE = "since=${__from:date:iso}"
TIME = f"{SINCE}&until=${{__to:date:iso}}"
EXPORTER = "${exporter_url:raw}"
_ALL = ".+"

VERSIONS = "${version:queryparam}"
"""The selected versions as ``var-version=3``. The exporter reads a single version and ignores several or all."""


def page_link(page: str, title: str, versions: str = "", **parameters: str) -> p.Link:
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
    return p.Link(title, f"{EXPORTER}/{page}?{'&'.join(arguments)}", outside=True)


DRIFT = page_link("drift", "What drifted", VERSIONS, model="model")
REVIEW = page_link("review", "Review corrections", VERSIONS, model="model")


_SOURCE = "var-datasource=${datasource}"


def dashboard_link(uid: str, title: str, versions: str = "", **parameters: str) -> p.Link:
    """Return a link from a value to another dashboard, with data source, labels of the value and the time range.

    ``versions`` is `VERSIONS` or empty.
    """
    arguments = [f"var-{name}=${{{source}:percentencode}}" for name, source in parameters.items()]
    parts = [_SOURCE, *arguments, *filter(None, [versions]), "${__url_time_range}"]
    return p.Link(title, f"/d/{uid}?{'&'.join(parts)}")


def details(uid: str, title: str = "Details") -> p.Link:
    """Return a link from a panel to another dashboard, with all that is selected."""
    return p.Link(title, f"/d/{uid}?${{__all_variables}}&${{__url_time_range}}")


def query_variable(
    name: str,
    label: str,
    query: str,
    *,
    include_all: bool = False,
    several: bool = False,
    sort: models.VariableSort = models.VariableSort.ALPHABETICAL_ASC,
) -> models.VariableModel:
    """Return a variable with values from Prometheus: one, or all (``include_all``), or any number (``several``).

    Grafana 13 reads the sort orders up to ``NUMERICAL_DESC``; with the others, values are in Prometheus' order.
    """
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(p.DATASOURCE)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .definition(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(sort)
        .multi(several)
        .include_all(include_all or several)
    )
    if include_all or several:
        variable = variable.all_value(_ALL)
    if several:
        variable = variable.current(models.VariableOption(selected=True, text="All", value="$__all"))
    return variable.build()


def model_variable() -> models.VariableModel:
    """Return the variable for one model, because thresholds are set per model; also for one that was never called."""
    return query_variable("model", "Model", 'label_values({__name__=~"model_info|model_exporter_links_info"}, model)')


def version_variable() -> models.VariableModel:
    """Return the variable for one version of the model, by default the highest; links may select all."""
    query = f"label_values(model_info{{{MODEL}}}, version)"
    return query_variable("version", "Version", query, include_all=True, sort=models.VariableSort.NUMERICAL_DESC)


def versions_variable() -> models.VariableModel:
    """Return the variable for any number of versions of the model, by default all."""
    query = f"label_values(model_info{{{MODEL}}}, version)"
    return query_variable("version", "Version", query, several=True, sort=models.VariableSort.NUMERICAL_DESC)


def _first_of(name: str, label: str, values_of: str, ordered: str) -> models.VariableModel:
    """Return a variable with the values of a label in the order of an expression; the first is the default."""
    variable = query_variable(name, label, f"query_result({ordered})", sort=models.VariableSort.DISABLED)
    variable.regex = f'/{values_of}="(.*)"}} /'
    return variable


def window_variable(metrics: str) -> models.VariableModel:
    """Return the variable for one of the windows of metrics, an hour first, then by their length.

    PromQL reads no durations, so they are ordered by unit and number of digits.
    """
    lengths = ("1h", "[0-9]+s", "[0-9]m", "[0-9]{2,}m", "[0-9]h", "[0-9]{2,}h", "[0-9]d", "[0-9]{2,}d", "[0-9]+w")
    each = f'group by (window) ({{__name__=~"{metrics}",{MODEL},window=~"%s"}})'
    ordered = " or ".join(f"{place} * {each % length}" for place, length in enumerate(lengths))
    return _first_of("window", "Window", "window", f"sort({ordered})")


def quality_window_variable() -> models.VariableModel:
    """Return the variable for one of the windows for which a quality is measured or estimated."""
    return window_variable("model_(estimated_)?(accuracy|mean_absolute_error)")


def worst_feature_variable(worst_first: str) -> models.VariableModel:
    """Return the variable for one feature, by default the first that an expression returns."""
    return _first_of("feature", "Feature", "feature", worst_first)


TITLES = {
    "quality": ("Accuracy", "Error"),
    "confidence": ("Confident share", "Bias"),
    "calibration": ("Calibration error", "Bias"),
    "outcomes": ("Outcomes by class", "Errors by window"),
}
"""What classifications and regressions have in the same place, as ``$quality`` in a title."""


def _title_variable(name: str) -> models.VariableModel:
    """Return a hidden variable for the title that fits the model's task."""
    metrics = f'{{__name__=~"model_(estimated_|reference_)?mean_absolute_error(_overall)?",{MODEL}}}'
    numbers = f"group(last_over_time({metrics}[$__range]))"
    titles = zip(("vector(0)", numbers), TITLES[name], strict=True)
    of_classes, of_numbers = (f'label_replace({expr}, "title", "{title}", "", "")' for expr, title in titles)
    variable = _first_of(name, name, "title", f"{of_numbers} or on () {of_classes}")
    variable.hide, variable.skip_url_sync = models.VariableHide.HIDE_VARIABLE, True
    return variable


def compared_version(name: Literal["before", "after"], label: str) -> models.VariableModel:
    """Return the variable for one version to compare, by default that of the exporter's own comparison.

    Without a comparison, it is the version that was deployed first or last.
    """
    compared = f"max by ({name}) (model_comparison_shared_seconds{{{MODEL}}})"
    compared = f'group by (version) (label_replace({compared}, "version", "$1", "{name}", "(.*)"))'
    deployed = f"max by (version) (last_over_time(model_version:deployed:timestamp_seconds{{{MODEL}}}[$__range]))"
    order, first = ("sort", "0") if name == "before" else ("sort_desc", "1e12")
    return _first_of(name, label, "version", f"{order}({first} * {compared} or {deployed})")


def _datasource() -> models.VariableModel:
    variable = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus").build()
    variable.hide = models.VariableHide.IN_CONTROLS_MENU
    return variable


def _exporter_url(variables: Sequence[models.VariableModel]) -> models.VariableModel:
    """Return the variable for the address that links begin with, as the exporter of the model or instance exports it,
    or any exporter.

    It is not synchronized with the dashboard's URL, which could otherwise make the links lead to any site.
    """
    names = {variable.name for variable in variables}
    chosen = MODEL if "model" in names else INSTANCE if "instance" in names else ""
    query = f"label_values(model_exporter_links_info{{{chosen}}}, external_url)"
    variable = query_variable("exporter_url", "Exporter", query)
    variable.hide, variable.skip_url_sync = models.VariableHide.HIDE_VARIABLE, True
    return variable


def _annotations(layer: str) -> list[Any]:
    """Return annotations of deployments, always drawn, and of alerts that started to fire, behind one switch.

    Each expression is true for one step. All alerts of the same name and model are one: the start of the first is
    marked.
    """
    firing = f'ALERTS{{alertstate="firing",layer=~"{layer}",severity!="none",{MODEL_OR_NONE}}}'
    alerts = f"group by (alertname, model, severity, layer) ({firing}"
    deployed = f"model_version:deployed:timestamp_seconds{{{MODEL}}}"
    deployments = (
        dashboard.AnnotationQuery()
        .name("Deployments")
        .icon_color(p.NEUTRAL)
        .hide(True)
        .target(_marks(f"1000 * ({deployed} > time() - $__interval_ms / 1000)"))
        .title_format("Deployment")
        .text_format("{{model}} version {{version}} was seen for the first time")
        .tag_keys("version")
        .use_value_for_time(True)
    )
    started = (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .icon_color(p.CRITICAL)
        .target(_marks(f"{alerts}) unless {alerts} offset $__interval)"))
        .title_format("{{alertname}}")
        .text_format("{{severity}}: {{model}}")
        .tag_keys("severity,layer")
    )
    return [query.datasource(p.DATASOURCE).enable(True) for query in (deployments, started)]


def _marks(expr: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).ref_id("Anno").interval("60s").range()


def side_by_side(
    y: int, height: int, panels: Mapping[int, Callable[[], models.Panel]], widths: Sequence[int] = (), *, x: int = 0
) -> list[models.Panel]:
    """Make panels, by their identifiers, and place them on the grid of 24 columns.

    A row is 30 pixels and a gap of 8. The docstring of a panel's function is its description.

    Parameters
    ----------
    y, x
        Position of the first panel.
    widths
        One for each panel; without, all are equal and fill the grid.
    """
    made = []
    for (number, make), width in zip(panels.items(), widths or [24 // len(panels)] * len(panels), strict=True):
        panel = make()
        panel.description = " ".join(f"{make.__doc__ or ''} {panel.description}".split())
        panel.id_val, panel.grid_pos = number, models.GridPos(x=x, y=y, w=width, h=height)
        made.append(panel)
        x += width
    return made


def row(number: int, title: str, y: int, collapsed: Sequence[models.Panel] = ()) -> models.RowPanel:
    """Return a row over the panels below it, or over ``collapsed`` panels that a click expands."""
    panel = dashboard.Row(title).id(number).collapsed(bool(collapsed)).build()
    panel.grid_pos = models.GridPos(x=0, y=y, w=24, h=1)
    panel.panels = list(collapsed)
    return panel


def build_dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[models.VariableModel],
    panels: Sequence[models.Panel | models.RowPanel],
    *,
    links: Sequence[p.Link] = (),
    alerts: str | None = None,
) -> models.Dashboard:
    """Return a dashboard of panels with fixed positions.

    With ``alerts``, a regular expression of layers, it marks deployments and starts of these alerts.
    """
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .annotations(_annotations(alerts) if alerts else [])
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
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
    used = [name for name in TITLES if any(f"${name}" in (panel.title or "") for panel in panels)]
    document.templating = models.DashboardDashboardTemplating(
        list_val=[_datasource(), *variables, *map(_title_variable, used), _exporter_url(variables)]
    )
    document.panels = list(panels)
    # What is seldom used is in a menu, so that variables and time need one line.
    for document_link in document.links or []:
        in_menu = document_link.type_val is models.DashboardLinkType.LINK
        document_link.placement = "inControlsMenu" if in_menu else None  # type: ignore[assignment]
    return document


_STATES = {
    **dict.fromkeys(("6.7", "6.5", "6.3"), ("critical", p.CRITICAL)),
    **dict.fromkeys(("4.7", "4.5", "4.3"), ("warning", p.WARNING)),
    **dict.fromkeys(("2.7", "2.5", "2.3"), ("info", p.INFO)),
    "3": ("pending", p.INFO),
    "0": ("OK", p.OK),
}
_COLUMNS = {
    "rank": "State",
    "alertname": "Alert",
    "of": "Of",
    "model": "Model",
    "version": "Version",
    "layer": "Layer",
    "Value": "For",
}
_SHORT = p.setting("mappings", [{"type": "regex", "options": {"pattern": "/^Model(.+)$/", "result": {"text": "$1"}}}])
"""Of names of alerts, whose links have all of the name."""
_NO_NUMBER = {"type": "special", "options": {"match": "nan", "result": {"text": " "}}}
_VERSION = "__data.fields.Version"


def alerts_of_all() -> models.Panel:
    """Alerts of all models, exporters and hosts, the worst and oldest first, at most 100. Click an alert to open its
    runbook, or a model to open Overview.
    """
    model = dashboard_link("model-overview", "Overview", model="__value.raw", version=_VERSION)
    return _alerts("", [p.for_field("Model", p.linked(model), noValue=" ", unit=p.TEXT, minWidth=110)])


def alerts_of_model() -> models.Panel:
    """Alerts of the model, its features, and exporters and hosts, the worst and oldest first, at most 100. Click an
    alert to open its runbook, or a feature or layer to open the dashboard of the layer.
    """
    layer = "model-${__data.fields.Layer:percentencode}"
    chosen = {"model": "model", "version": _VERSION}
    of_layer = dashboard_link(layer, "Details", **chosen)
    of_feature = dashboard_link(layer, "Details", **chosen, feature="__value.raw")
    return _alerts(
        MODEL_OR_NONE,
        [p.for_field("Layer", p.linked(of_layer)), p.for_field("Of", p.linked(of_feature))],
    )


def _alerts(selector: str, overrides: Sequence[p.Override]) -> models.Panel:
    rows = alert_rows(selector, "model, version, layer")
    none = f'label_replace(NaN * group({EVALUATED}), "rank", "0", "", "") unless on () ({alert_states(selector)})'
    runbook = p.linked(p.Link("Runbook", f"{EXPORTER}/runbooks/${{__value.raw}}", outside=True))
    return p.table(
        "Alerts",
        p.SECONDS,
        p.Query(f"topk(100, {rows}) or {none}", kind="table"),
        sort=("State", "For"),
        transformations=[
            p.transformation(
                "organize",
                indexByName={name: index for index, name in enumerate(_COLUMNS)},
                renameByName=_COLUMNS,
                excludeByName={"Time": True} | ({} if selector == "" else {"model": True}),
            )
        ],
        overrides=[
            p.for_field("State", *p.state_cell(_STATES), width=76),
            p.for_field("Alert", runbook, _SHORT, noValue=" ", unit=p.TEXT, width=158),
            p.for_field("Of", noValue=" ", unit=p.TEXT, minWidth=110),
            # An alert without a version is one of all versions; the links have the text of the cell.
            p.for_field("Version", noValue="All", unit=p.TEXT, width=72),
            p.for_field("Layer", noValue=" ", unit=p.TEXT, width=74),
            p.for_field("For", p.setting("mappings", [_NO_NUMBER]), width=76, decimals=0),
            *overrides,
        ],
    )


def alerts_over_time(
    title: str, selector: str, of: str, monitored: str, *, empty: str = ""
) -> Callable[[], models.Panel]:
    """Return what makes a panel with a row for each alert that was active in the time range, below one for all of them.

    Parameters
    ----------
    title
        Title of the panel.
    selector
        Selector of the alerts.
    of
        Labels that tell alerts of the same name apart.
    monitored
        An expression that exists while the alerts are evaluated: without an alert, the first row is green.
    empty
        Which models have no data.
    """
    states = alert_states(selector)
    names = ", ".join(f'"{label.strip()}"' for label in of.split(","))
    longest = f"topk(10, sum by (alertname, {of}) (count_over_time(ALERTS{{{selector}}}[$__range] @ end())))"
    joined = f'label_join(({states}) and on (alertname, {of}) {longest}, "of", " ", {names})'
    named = f'label_replace({joined}, "of", "$1", "of", " *(.*?) *")'
    named = f'label_replace({named}, "alert", "$1", "alertname", "(?:Model)?(?:Feature)?(.+)")'

    def alerts() -> models.Panel:
        """Blue while pending or info, orange for a warning, red if critical, green if there is none, grey if alerts are
        not evaluated. With more than 10, those active for longest.
        """
        return p.state_timeline(
            title,
            # Shows that there is no alert; without this row, Grafana would report missing data.
            p.Query(state(selector, monitored), "worst"),
            p.Query(
                f"max by (alertname, alert, of) ({named})",
                "{{alert}} {{of}}",
            ),
            names=p.STATES,
            empty=empty,
            value_links=[p.Link("Runbook", f"{EXPORTER}/runbooks/${{__field.labels.alertname}}", outside=True)],
        )

    return alerts
