"""Segments and business events, in the dashboard Business and flywheel."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import time_series
from grafana.queries import BOTH, by_rank, increase
from grafana.style import COUNT, SHARE

_NO_SEGMENTS = "no segment_by in the model's configuration, or no data"
_SEGMENT_SIZE = f"sum by (segment) (increase(model_segment_attempts_total{{{BOTH}}}[$__range] @ end()))"


def _of_segment(metric: str) -> str:
    return increase(metric, BOTH, "segment", "1h")


def corrections() -> Panel:
    corrected = _of_segment("model_segment_corrections_total")
    sure = _of_segment("model_segment_confident_predictions_total")
    return time_series(
        "Correction share by segment",
        (
            "Share of confident predictions that users corrected, over one hour, for each of the six largest segments. "
            "An average over all segments can hide a problem of one."
        ),
        SHARE,
        *by_rank(f"({corrected} / ({sure} > 0))", _SEGMENT_SIZE, "segment"),
        empty=_NO_SEGMENTS,
        top=0.01,
    )


def attempts() -> Panel:
    return time_series(
        "Predictions an hour by segment",
        "Predictions per hour of the six largest segments, the largest first.",
        COUNT,
        *by_rank(_of_segment("model_segment_attempts_total"), _SEGMENT_SIZE, "segment"),
        empty=_NO_SEGMENTS,
    )


def events() -> Panel:
    size = f"sum by (event) (increase(model_business_events_total{{{BOTH}}}[$__range] @ end()))"
    return time_series(
        "Business events an hour",
        "The business events that the model's configuration declares, over one hour, the most frequent first.",
        COUNT,
        *by_rank(increase("model_business_events_total", BOTH, "event", "1h"), size, "event"),
        empty="no events in the model's configuration, or no data",
    )
