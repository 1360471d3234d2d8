"""Expressions that several panels share, and variables in them.

A variable is written as ``${model:regex}`` between backticks. Grafana escapes the characters of regular expressions,
and PromQL processes no escapes between backticks, so a name may contain quotes, backslashes, spaces and any
script. "All" values are ``.+``.
"""

from __future__ import annotations

from grafana.style import Query

MODEL = "model=~`${model:regex}`"
VERSION = "version=~`${version:regex}`"
BOTH = f"{MODEL},{VERSION}"
FEATURE = "feature=~`${feature:regex}`"
WINDOW = "window=~`${window:regex}`"
INSTANCE = "instance=~`${instance:regex}`"
MODEL_OR_NONE = "model=~`${model:regex}|`"
"""Selector for the model, or for no model: alerts of the exporter and the machine concern every model."""

DAY_AGO = " offset 1d"


def severity(by: str, selector: str, monitored: str) -> str:
    """Return the state as a number, 0 (ok) to 3 (critical): the highest severity of the firing alerts.

    Parameters
    ----------
    by
        Labels to keep, or nothing.
    selector
        Selector of the alerts.
    monitored
        An expression that exists while the state is monitored.
    """
    firing = f'ALERTS{{alertstate="firing",alertname!="Watchdog",{selector}'
    worst = f'3 * {firing},severity="critical"}} or 2 * {firing},severity="warning"}} or {firing},severity="info"}}'
    over = f" by ({by})" if by else ""
    return f"max{over} ({worst}) or 0 * group{over} ({monitored})"


def firing_seconds() -> str:
    """Return the duration of each firing alert in seconds, by the labels of the alert."""
    return 'time() - ALERTS_FOR_STATE{alertname!="Watchdog"} and ignoring (alertstate) ALERTS{alertstate="firing"}'


def ranked(expr: str) -> str:
    """Return the expression with a label ``rank`` for sorting: 3 for critical, 1 for info."""
    for rank, name in enumerate(("info", "warning", "critical"), 1):
        expr = f'label_replace({expr}, "rank", "{rank}", "severity", "{name}")'
    return expr


def by_version(expr: str, legend: str) -> tuple[Query, Query]:
    """Return series of versions in use: the one that was deployed last and, thinner and darker, the others."""
    last = f"on (model, version) model_version:deployed_last:timestamp_seconds{{{MODEL}}} @ end()"
    return Query(f"{expr} and {last}", legend), Query(f"{expr} unless {last}", legend, role="older")


def increase(metric: str, selector: str, by: str, over: str = "$__range") -> str:
    """Return the increase of a counter over all replicas."""
    return f"sum by ({by}) (increase({metric}{{{selector}}}[{over}]))"
