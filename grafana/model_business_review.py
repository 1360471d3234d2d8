"""Requests for retraining, in the dashboard Business and flywheel."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import time_series
from grafana.queries import MODEL
from grafana.style import SECONDS, Query


def _of_model(metric: str) -> str:
    """Return a gauge that is from the database, and so the same on all replicas."""
    return f"max by (model) ({metric}{{{MODEL}}})"


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
