"""Expressions that several panels share, and how variables go into them.

A variable stands as ``${model:regex}`` between backticks: Grafana escapes what a regular expression would
read, and PromQL reads nothing else between backticks, so a name may hold quotes, backslashes, spaces and any
script. An "All" of many values is ``.+``.
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
"""Of the model, or of no model: the exporter's and the machine's alerts concern each."""

DAY_AGO = " offset 1d"


def severity(by: str, selector: str, known: str) -> str:
    """The state as a number, 0 ok to 3 critical: the worst severity of the alerts that fire.

    Parameters
    ----------
    by
        Labels that are kept, or nothing.
    selector
        Of the alerts.
    known
        An expression that exists where there is something to say; without it nobody knows the state.
    """
    firing = f'ALERTS{{alertstate="firing",alertname!="Watchdog",{selector}'
    worst = f'3 * {firing},severity="critical"}} or 2 * {firing},severity="warning"}} or {firing},severity="info"}}'
    over = f" by ({by})" if by else ""
    return f"max{over} ({worst}) or 0 * group{over} ({known})"


def firing_seconds() -> str:
    """For how long what each alert that fires tells has been true, in seconds, by the alert's labels."""
    return 'time() - ALERTS_FOR_STATE{alertname!="Watchdog"} and ignoring (alertstate) ALERTS{alertstate="firing"}'


def ranked(expr: str) -> str:
    """The same with a label ``rank``, by which a table sorts: 3 where the severity is critical, 1 where it is info."""
    for rank, name in enumerate(("info", "warning", "critical"), 1):
        expr = f'label_replace({expr}, "rank", "{rank}", "severity", "{name}")'
    return expr


def by_version(expr: str, legend: str) -> tuple[Query, Query]:
    """Series of versions: of those in use the one that was deployed last, and, thinner and darker, the others."""
    last = f"on (model, version) model_version:deployed_last:timestamp_seconds{{{MODEL}}} @ end()"
    return Query(f"{expr} and {last}", legend), Query(f"{expr} unless {last}", legend, role="older")


def increase(metric: str, selector: str, by: str, over: str = "$__range") -> str:
    """How much a counter grew, over all replicas."""
    return f"sum by ({by}) (increase({metric}{{{selector}}}[{over}]))"
