"""Slices, segments and business events, in the dashboard Business and flywheel."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana import layout
from grafana.panels import table, time_series
from grafana.queries import BOTH, by_rank, increase
from grafana.style import COUNT, SHARE, TEXT, Query, for_field, setting, transformation

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


def slices() -> Panel:
    """Return the table of the slices that the exporter found in the time range, at most ten."""
    of, found = f'{{{BOTH},of="corrections"}}', "max by (model, version, slice) (last_over_time({}{}[$__range]))"
    share, traffic = (found.format(name, of) for name in ("model_slice_share", "model_slice_traffic_share"))
    worst = f"topk(10, {share})"
    link = layout.page_link("slices", "Explain", model="model", version="__data.fields.Version")
    return table(
        "Slices with many corrections",
        (
            "What the corrected predictions have in common: the share of the corrections that are in the slice, and of "
            "the confident predictions. The exporter searches while users correct more than ModelCorrectionRatioHigh "
            "allows, and at least 5 predictions an hour; the last values of the time range. Click one for all slices."
        ),
        SHARE,
        Query(worst, kind="table"),
        Query(f"{traffic} and on (model, version, slice) {worst}", kind="table"),
        empty="few corrections, or no slice has more than its share",
        sort=("Corrections",),
        transformations=[
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True, "model": True},
                indexByName={"slice": 0, "Value #A": 1, "Value #B": 2, "version": 3},
                renameByName={
                    "slice": "Slice",
                    "Value #A": "Corrections",
                    "Value #B": "Predictions",
                    "version": "Version",
                },
            ),
        ],
        overrides=[
            for_field(
                "Slice",
                setting("links", [{"title": link.title, "url": link.url, "targetBlank": True}]),
                setting("custom.cellOptions", {"type": "auto", "wrapText": True}),
                unit=TEXT,
            ),
            *(for_field(name, decimals=0, width=95) for name in ("Corrections", "Predictions")),
            for_field("Version", unit=TEXT, width=70),
        ],
    )
