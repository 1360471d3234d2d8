"""Expressions that several panels share, and variables in them.

A variable is written as ``${model:regex}`` between backticks. Grafana escapes the characters of regular expressions,
and PromQL processes no escapes between backticks, so a name may contain quotes, backslashes, spaces and any
script. "All" values are ``.+``.
"""

from __future__ import annotations

from itertools import pairwise

from grafana.style import Query

MODEL = "model=~`${model:regex}`"
VERSION = "version=~`${version:regex}`"
BOTH = f"{MODEL},{VERSION}"
BEFORE, AFTER = (f"{MODEL},version=~`${{{side}:regex}}`" for side in ("before", "after"))
EARLIER = " offset ${earlier:raw}"
"""The two versions to compare, and by how much the period of the first is earlier."""
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

    These are ``rank``, the number of the state, ``alert``, the name without "Model", and ``of``: the feature, or what
    else the alert names.

    Parameters
    ----------
    selector
        Selector of the alerts.
    by
        Other labels to keep.
    """
    seconds = (
        f'time() - ALERTS_FOR_STATE{{layer!="",alertname!="Watchdog",{selector}}} and ignoring (alertstate) ALERTS'
    )
    rows = f'{seconds}{{alertstate="firing"}}'
    for rank, name in (("2", "info"), ("4", "warning"), ("6", "critical")):
        rows = f'label_replace({rows}, "rank", "{rank}", "severity", "{name}")'
    pending = f'{seconds}{{alertstate="pending",severity!="info"}}'
    rows = f'{rows} or label_replace({pending}, "rank", "3", "", "")'
    rows = f'label_replace({rows}, "alert", "$1", "alertname", "(?:Model)?(.+)")'
    rows = f'label_join({rows}, "of", " ", "feature", "instance", "path", "reason")'
    return f'max by (rank, alert, of, {by}) (label_replace({rows}, "of", "$1", "of", " *(.*?) *"))'


def by_version(expr: str, legend: str) -> tuple[Query, Query]:
    """Return series of versions in use: the one that was deployed last and, thinner and darker, the others."""
    last = f"on (model, version) model_version:deployed_last:timestamp_seconds{{{MODEL}}} @ end()"
    return Query(f"{expr} and {last}", legend), Query(f"{expr} unless {last}", legend, role="older")


def by_rank(expr: str, size: str, label: str, count: int = 6, legend: str | None = None) -> list[Query]:
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
    return [Query(f"{expr} and on ({label}) {one}", legend, role="ranked") for one in only]


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
