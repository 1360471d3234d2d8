"""The error budgets on the home page: how much of each objective's budget is left, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporter.config import ModelConfig
from exporter.server.notifications import Alert
from exporter.server.pages.drift_text import percent

_ALERTS = {"errors": "ModelErrorBudgetBurn", "latency": "ModelLatencyBudgetBurn"}
_NAMES = {"errors": "error budget", "latency": "latency budget"}


def describe_budgets(
    model: ModelConfig, left: Mapping[tuple[str, str], float], alerts: Iterable[Alert]
) -> tuple[tuple[str, str], ...]:
    """Describe the budgets of the objectives that a model's configuration sets, each with the name of its alert.

    A budget whose alert fires or is pending is left out: Prometheus records budgets every few minutes, so it would not
    have the failures that the alert reports.

    Parameters
    ----------
    model
        The settings of the model.
    left
        The share that is left, by model and objective.
    alerts
        Alerts of the model.
    """
    if (objectives := model.objectives) is None:
        return ()
    reported = {alert.name for alert in alerts}
    return tuple(
        (f"{_NAMES[objective]} of 30 days ({percent(share)}): {budget(left[model.name, objective])}", alert)
        for objective, share in objectives.set_shares().items()
        if (model.name, objective) in left and (alert := _ALERTS[objective]) not in reported
    )


def budget(left: float) -> str:
    """Return the share of a budget that is left, in words.

    >>> [budget(left).replace("\\N{NO-BREAK SPACE}", " ") for left in (0.625, 0.0, -0.2, -6.2)]
    ['62.5 % left', '0 % left', 'used up 1.2 times', 'used up 7.2 times']
    """
    return f"{percent(left)} left" if left >= 0 else f"used up {1 - left:.3g} times"
