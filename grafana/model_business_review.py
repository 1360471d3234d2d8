"""Second opinions of reviewers, and requests for retraining, in the dashboard Business and flywheel."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana import layout
from grafana.panels import stat, time_series
from grafana.queries import MODEL
from grafana.style import BARE, SECONDS, SHARE, WHOLE, Query, for_query, setting

_NO_OPINIONS = "no second opinion yet"


def _of_model(metric: str) -> str:
    """Return a gauge that is from the database, and so the same on all replicas."""
    return f"max by (model) ({metric}{{{MODEL}}})"


def agreement() -> Panel:
    return time_series(
        "Agreement of reviewers: kappa",
        (
            "How far two reviewers of the same correction agree, beyond chance: 1 is always, 0 no more often than by "
            "chance. Grey: the 95 % confidence interval. Empty while all decisions are the same."
        ),
        BARE,
        Query(_of_model("model_review_agreement_kappa"), "kappa"),
        Query(_of_model("model_review_agreement_kappa_lower"), "at least", role="reference"),
        Query(_of_model("model_review_agreement_kappa_upper"), "at most", role="reference"),
        empty=_NO_OPINIONS,
        least=None,
        most=1,
        decimals=2,
    )


def second_opinions() -> Panel:
    return stat(
        "Second opinions",
        (
            "Corrections that wait for a second opinion; those that have one, the latest 10,000; the share of them in "
            "which both reviewers agree; and those that are disputed and wait for a third decision. Click a number to "
            "see the disputed ones."
        ),
        WHOLE,
        Query(_of_model("model_corrections_awaiting_second_opinion"), "waiting", "instant"),
        Query(_of_model("model_review_agreement_corrections"), "given", "instant"),
        Query(_of_model("model_review_agreement_ratio"), "agree", "instant"),
        Query(_of_model("model_corrections_disputed"), "disputed", "instant"),
        empty=_NO_OPINIONS,
        decimals=0,
        stacked=True,
        overrides=[for_query(2, setting("unit", SHARE))],
        value_links=[
            layout.page_link("review", "Settle them", "second_opinion=disputed", model="__field.labels.model")
        ],
    )


def retraining() -> Panel:
    return time_series(
        "Retraining request not delivered",
        (
            "Time since the oldest request for a new version that the trainer has not taken. "
            "ModelRetrainRequestsFailing fires when it is above ten minutes for five minutes."
        ),
        SECONDS,
        Query(_of_model("model_exporter_retrain_request_undelivered_seconds"), "{{model}}"),
        empty="all delivered, or none made",
    )
