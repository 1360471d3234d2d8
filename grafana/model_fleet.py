"""All models, one row each, the worst first, and every alert: the home page of Grafana."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana import panels as p
from grafana.layout import EVALUATED, alert_states

_RULES = f"on (model) (model:threshold:ModelErrorRatioHigh and on () {EVALUATED})"
"""Exists for a model as long as the rules are evaluated: without them, no alert does not mean that all is well."""
MONITORED = f"(model_info and {_RULES})"
_ACTIVE = "(sum by (model) (model_version:attempts:increase1h) > 0 or model:requests:rate5m > 0)"
SERVING = f"({MONITORED} and on (model) {_ACTIVE})"
"""Models with a prediction in the last hour."""
NOT_SEEN = "(model_exporter_links_info unless on (model) model_info)"
_REMEMBERED = 'model_instance:configured:timestamp_seconds unless on (instance, job) up{job="model-exporter"} == 1'
_GONE = f"group by (model) ({_REMEMBERED}) unless on (model) model_exporter_links_info"
UNKNOWN = f"({_GONE} or group by (model) (model_info unless {_RULES}))"
"""Models whose exporter is down or gone, and those that no rule looks at."""
_OF_MODELS = 'model!=""'


def states(selector: str = "") -> str:
    """Return the states of alerts and of models as numbers of `style.STATES`."""
    return f"{alert_states(selector)} or 5 * {UNKNOWN} or 0 * {SERVING} or 0 * {MONITORED} + 1 or {NOT_SEEN}"


def _worst_alert() -> str:
    """Return the seconds since the worst alert of each model became true, with a label that names it and its feature.

    Of equal alerts, those of inputs come first, whatever follows from them, and then the one that has been true for
    longest: its seconds are added as a fraction.
    """
    since = 'time() - ALERTS_FOR_STATE{layer!="",model!=""}'
    down = '5 * ALERTS{alertname="ModelExporterDown",alertstate="firing",model!=""}'
    inputs, every = (f"({alert_states(selector)})" for selector in (f'layer="data",{_OF_MODELS}', _OF_MODELS))
    ranked = f"(0.5 + {inputs} or {every} or {down}) + ignoring (alertstate) group_left () ({since}) / 10000000000"
    worst = f"topk by (model) (1, {ranked}) % 0.5 * 10000000000"
    named = f'label_replace({worst}, "alert", "$1", "alertname", "(?:Model)?(.+)")'
    named = f'label_join({named}, "cause", ": ", "alert", "feature")'
    return f'max by (model, cause) (label_replace({named}, "cause", "$1", "cause", "(.+): "))'


def _worst_feature() -> str:
    """Return the feature of each model that is furthest above its threshold, with its score as a label."""
    worst = "topk by (model) (1, model_version_feature:kl_divergence_to_threshold:worst)"
    limit = "model_feature:threshold:ModelFeatureDrift"
    score = f"max by (model, feature) ({worst} * on (model, feature) group_left () {limit} > 0.000001)"
    text = p.as_label(score, "drift", p.HUNDREDTHS, "model, feature")
    beyond = f'label_replace({text} and on (model) {worst} > 1, "feature", "$1 !", "feature", "(.+)")'
    named = f'label_join({beyond} or on (model) {text}, "feature", " ", "drift", "feature")'
    return f"max by (model, feature) ({named})"


def _share(part: str, of: str) -> str:
    """Return the share of the last hour of all versions together: a version of few predictions should not decide."""
    part, whole = (f"sum by (model) (model_version:{name}:increase1h)" for name in (part, of))
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def _known(share: str, counter: str) -> str:
    """Return a share for models that ever had a confidence or feedback: without, it is unknown, not 0 or 1."""
    return f"({share} and on (model) sum by (model) ({counter}) > 0)"


def _quality() -> str:
    """Return the accuracy of each model, or its error with the limit, which is in the label's unit, as a label."""
    accuracy = f"min by (model) ({layout.best_known('accuracy')}) or min by (model) (model_reviewed_accuracy)"
    error = f"max by (model) ({layout.best_known('mean_absolute_error')})"
    number = (
        f"({p.as_label(accuracy, 'number', p.TENTHS_PERCENT)} or on (model) {p.as_label(error, 'number', p.DIGITS)})"
    )
    limit = p.as_label("max by (model) (model_version:threshold:ModelAccuracyLowError)", "limit", p.OF_DIGITS)
    firing = 'group by (model) (ALERTS{alertname="ModelAccuracyLow",alertstate="firing"})'
    mark = f'label_replace({firing}, "mark", " !!", "", "")'
    for name, of_some in (("limit", limit), ("mark", mark)):
        number += f" * on (model) group_left ({name}) ({of_some} or on (model) group by (model) (model_info))"
    return f'max by (model, accuracy) (label_join({number}, "accuracy", "", "number", "limit", "mark"))'


def _values() -> list[str]:
    """Return the values of the models that an exporter monitors; those of the others are not of now."""
    bias = f"max by (model) ({layout.bias()} and topk by (model) (1, abs({layout.bias()})))"
    values = (
        p.marked(
            "max by (model) (model_version:request_error_ratio:rate1m)",
            "> on (model) model:threshold:ModelErrorRatioHigh",
            "errors",
            p.PERCENT,
            "!!",
        ),
        p.marked(
            "max by (model) (model_version:request_duration_seconds:p95_rate5m)",
            "> on (model) model:threshold:ModelLatencyHigh",
            "latency",
            p.MILLISECONDS,
            "!",
        ),
        _worst_feature(),
        p.marked(
            _known(_share("confident_predictions", "attempts"), "model_prediction_confidence_count"),
            "< on (model) model:threshold:ModelConfidentRatioLow"
            " and on (model) sum by (model) (model_version:attempts:increase1h) >= 20",
            "confident",
            p.TENTHS_PERCENT,
            "!",
        )
        + f" or on (model) {p.as_label(bias, 'confident', p.BIAS)}",
        p.marked(
            _known(_share("corrections", "confident_predictions"), "model_feedback_total"),
            "> on (model) model:threshold:ModelCorrectionRatioHigh"
            " and on (model) sum by (model) (model_version:corrections:increase1h) >= 3",
            "corrected",
            p.PERCENT,
            "!!",
        ),
        _quality(),
    )
    return [f"({value}) and on (model) model_info" for value in values]


def models() -> Panel:
    """The worst first, by the worst alert and its duration. Errors and p95 are those of the worst version, confident
    and corrected those of the last hour, and a regression has its bias; the feature is the one furthest above its
    threshold, with its score; the accuracy, or the mean absolute error of a regression and its limit, is measured in
    the shortest window with 20 labels, else estimated, else that of a reviewed sample. Orange and red: beyond the
    threshold. –: not known. Click a model to open Overview.
    """
    names = {
        "Value #A": "State",
        "Value": "State",  # if no other query has a result
        "model": "Model",
        "cause": "Alert",
        "Value #B": "For",
        "errors": "Errors",
        "latency": "p95",
        "feature": "Worst feature",
        "confident": "Confident",
        "corrected": "Corrected",
        "accuracy": "Quality",
    }
    link = p.linked(layout.dashboard_link("model-overview", "Overview", model="__data.fields.Model"))
    right = p.setting("custom.align", "right")
    of_values = [
        p.for_field(name, *p.marked_cell(), right, noValue="–", width=width)
        for name, width in (
            ("Errors", 78),
            ("p95", 78),
            ("Confident", 92),
            ("Corrected", 86),
            ("Quality", 110),
        )
    ]
    state = f"max by (model) ({states(_OF_MODELS)})"
    return p.table(
        "Models",
        p.SECONDS,
        *(p.Query(expr, kind="table") for expr in (state, _worst_alert(), *_values())),
        empty="no model is configured, or no exporter is scraped",
        sort=("State", "For", "+Model"),
        transformations=[
            p.transformation("filterFieldsByName", exclude={"names": ["Time"]}),
            # An outer join ignores a query without a result; "merge" would merge nothing.
            p.transformation("joinByField", byField="model", mode="outer"),
            p.transformation(
                "organize",
                excludeByName={f"Value #{ref}": True for ref in "CDEFGH"},
                indexByName={name: index for index, name in enumerate(names)},
                renameByName=names,
            ),
        ],
        overrides=[
            p.for_field("State", *p.state_column(), link, width=78),
            p.for_field("Model", link, unit=p.TEXT, minWidth=125),
            p.for_field("Alert", link, unit=p.TEXT, noValue=" ", width=152),
            p.for_field("For", noValue=" ", decimals=0, width=72),
            p.for_field("Worst feature", *p.marked_cell(), noValue="–", minWidth=125),
            *of_values,
        ],
    )


def dashboard() -> Dashboard:
    """Return the dashboard Fleet."""
    return layout.build_dashboard(
        "model-fleet",
        "Models / Fleet",
        "All models, the worst first: what is wrong, since when, and with which feature. A row opens Overview.",
        [],
        [
            *layout.side_by_side(0, 3, {3: with_alerts, 4: requests, 5: unknown}, (8, 6, 10)),
            *layout.side_by_side(3, 13, {6: models}),
            *layout.side_by_side(16, 9, {7: layout.alerts_of_all}),
        ],
    )


def with_alerts() -> Panel:
    """Models with a firing alert, and models with pending alerts only."""
    firing, pending = (
        f'group by (model) (ALERTS{{alertstate="{state}",severity!="none",layer!="",model!=""}})'
        for state in ("firing", "pending")
    )
    none = f"0 * count({MONITORED})"
    return p.stat(
        "Models with an alert",
        p.COUNT,
        p.Query(f"count({firing}) or {none}", "firing", "instant"),
        p.Query(f"count({pending} unless {firing}) or {none}", "pending only", "instant"),
        sizes=(13, 30),
    )


def requests() -> Panel:
    """Requests a second of all models together, over one minute."""
    return p.stat(
        "Requests",
        p.PER_SECOND,
        p.Query("sum(model_version:requests:rate1m)", "all models", "instant"),
        named=False,
        sizes=(13, 30),
    )


def unknown() -> Panel:
    """Exporters that Prometheus cannot scrape; models whose exporter is down or gone, for a day; models that are
    configured and never got a prediction.
    """
    configured = "0 * count(model_instance:configured:timestamp_seconds)"
    up = 'up{job="model-exporter"}'
    return p.stat(
        "Not monitored",
        p.COUNT,
        p.Query(f"count({up} == 0) or 0 * count({up})", "exporters down", "instant"),
        p.Query(f"count({UNKNOWN}) or {configured}", "models unknown", "instant"),
        p.Query(f"count(group by (model) {NOT_SEEN}) or {configured}", "models not seen", "instant"),
        sizes=(13, 30),
    )
