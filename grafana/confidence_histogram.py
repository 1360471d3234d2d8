"""The histogram of confidences, with the threshold from which a prediction is confident."""

from __future__ import annotations

from itertools import pairwise

from grafana_foundation_sdk.models.dashboard import Panel

from exporter.monitoring.counters import CONFIDENCE_BUCKETS
from grafana.bars import bar_chart
from grafana.queries import BOTH, MODEL
from grafana.style import CRITICAL, NEUTRAL, TEXT, WHOLE, Query, for_field, setting, transformation


def _in_bucket(below: float, bound: float) -> str:
    """Return the predictions of a bucket, which Prometheus counts with those of the buckets before."""

    def upto(le: float) -> str:
        return f'sum(increase(model_prediction_confidence_bucket{{{BOTH},le="{le}"}}[$__range]))'

    own = f"{upto(bound)} - {upto(below)}" if below else upto(bound)
    return f'label_replace({own}, "upto", "{bound}", "", "")'


def confidence() -> Panel:
    shares = " or ".join(_in_bucket(*bounds) for bounds in pairwise((0.0, *CONFIDENCE_BUCKETS)))
    most = f"max(increase(model_prediction_confidence_count{{{BOTH}}}[$__range]))"
    threshold = f'count_values("upto", max(model_confidence_threshold{{{MODEL}}}))'
    return bar_chart(
        "Confidence of the predictions",
        (
            "Predictions in the time range by confidence. Each bar counts those up to its value and above that of the "
            "bar before. The red bar is the confidence from which the model's predictions count as confident."
        ),
        WHOLE,
        Query(f"({shares}) and on () ({most} > 0)", "predictions", "table"),
        Query(f"{threshold} * on () group_left () (0.2 * {most} > 0)", "confident from", "table"),
        by="upto",
        empty="no confidence values",
        least=0,
        decimals=0,
        transformations=[
            transformation("merge"),
            transformation("sortBy", fields={}, sort=[{"field": "upto"}]),
            transformation(
                "organize",
                excludeByName={"Time": True},
                renameByName={"Value": "predictions", "Value #A": "predictions", "Value #B": "confident from"},
            ),
        ],
        overrides=[
            for_field("predictions", setting("color", {"mode": "fixed", "fixedColor": NEUTRAL})),
            for_field("confident from", setting("color", {"mode": "fixed", "fixedColor": CRITICAL})),
            for_field("upto", unit=TEXT, noValue=" "),
        ],
    )
