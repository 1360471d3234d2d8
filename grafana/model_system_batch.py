"""The last run of ``model-exporter ingest``, in the dashboard System."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import time_series
from grafana.queries import BOTH
from grafana.style import COUNT, HOURS, SECONDS, SHARE, Query, for_query, palette

_NO_BATCHES = "no batch was counted"


def _of_batch(metric: str, legend: str) -> Query:
    """Return a gauge of the last run, by version; where the same one is scraped and recorded, it is the same."""
    return Query(f"max by (model, version) (model_batch_{metric}{{{BOTH}}})", legend)


def rows() -> Panel:
    return time_series(
        "Rows of the last batch",
        "Rows that the last run counted, and rows of its file that it refused.",
        COUNT,
        _of_batch("rows", "counted {{version}}"),
        _of_batch("rejected_rows", "refused {{version}}"),
        empty=_NO_BATCHES,
        overrides=[for_query(i, *palette(i)) for i in range(2)],
        stepped=True,
    )


def age() -> Panel:
    last = _of_batch("last_success_timestamp_seconds", "version {{version}}")
    return time_series(
        "Time since the last batch",
        "Time since the end of the last run that succeeded. It keeps rising if the job no longer runs.",
        HOURS,
        Query(f"(time() - {last.expr}) / 3600", last.legend),
        empty=_NO_BATCHES,
    )


def duration() -> Panel:
    return time_series(
        "Duration of the last batch",
        "Time that the last run took to count all rows.",
        SECONDS,
        _of_batch("duration_seconds", "version {{version}}"),
        empty=_NO_BATCHES,
        stepped=True,
    )


def confident_ratio() -> Panel:
    return time_series(
        "Confident share of the last batch",
        "Share of the rows of the last run at or above the model's confidence threshold.",
        SHARE,
        _of_batch("confident_ratio", "version {{version}}"),
        empty=f"{_NO_BATCHES}, or no confidences",
        stepped=True,
        most=1,
    )
