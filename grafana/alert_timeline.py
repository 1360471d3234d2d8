"""The alerts of a layer over time, with those that are pending."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import state_timeline
from grafana.queries import alert_states, state
from grafana.style import STATES, Query

_ROWS = 15


def alerts_over_time(title: str, selector: str, of: str, monitored: str, *, empty: str) -> Panel:
    """Return a row for each alert that was active in the time range, below one for all of them.

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
        Text for no data.
    """
    states = alert_states(selector)
    names = ", ".join(f'"{label.strip()}"' for label in of.split(","))
    longest = f"topk({_ROWS}, sum by (alertname, {of}) (count_over_time(ALERTS{{{selector}}}[$__range] @ end())))"
    joined = f'label_join(({states}) and on (alertname, {of}) {longest}, "of", " ", {names})'
    named = f'label_replace({joined}, "of", "$1", "of", " *(.*?) *")'
    return state_timeline(
        title,
        (
            "Alerts over time: blue while pending or info, orange for a warning, red if critical, green if there is "
            f"none, grey if alerts are not evaluated. With more than {_ROWS}, those active for longest."
        ),
        # Shows that there is no alert; without this row, Grafana would report missing data.
        Query(state(selector, monitored), "worst"),
        Query(
            f'max by (alert, of) (label_replace({named}, "alert", "$1", "alertname", "(?:Model)?(.+)"))',
            "{{alert}} {{of}}",
        ),
        show_values=False,
        names=STATES,
        empty=empty,
    )
