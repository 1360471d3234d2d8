"""The histogram of confidences, in two colours: those that are confident, and the others."""

from __future__ import annotations

from itertools import pairwise

from grafana_foundation_sdk.models.dashboard import Panel

from exporter.monitoring.counters import CONFIDENCE_BUCKETS
from grafana.bars import bar_chart
from grafana.queries import BOTH, MODEL, increase
from grafana.style import GREY, NEUTRAL, TEXT, WHOLE, Query, for_field, setting, transformation


def _in_bucket(below: float, bound: float) -> str:
    """Return the predictions of a bucket, which Prometheus counts with those of the buckets before."""

    def upto(le: float) -> str:
        return increase("model_prediction_confidence_bucket", f'{BOTH},le="{le}"')

    own = f"{upto(bound)} - {upto(below)}" if below else upto(bound)
    return f'label_replace({own}, "upto", "{bound}", "", "")'


_THRESHOLD = f"max(last_over_time(model_confidence_threshold{{{MODEL}}}[$__range]))"
_BUCKETS = tuple(pairwise((0.0, *CONFIDENCE_BUCKETS)))


def confidence() -> Panel:
    any_value = f"{increase('model_prediction_confidence_count', BOTH)} > 0"
    # A confidence of 1 may be the threshold, and then counts as confident.
    is_confident = {bound: f"{_THRESHOLD} < {bound}" if bound < 1 else _THRESHOLD for _, bound in _BUCKETS}
    confident = " or ".join(f"{_in_bucket(*bucket)} and on () {is_confident[bucket[1]]}" for bucket in _BUCKETS)
    others = " or ".join(f"{_in_bucket(*bucket)} unless on () {is_confident[bucket[1]]}" for bucket in _BUCKETS)
    names = {"Value #A": "confident", "Value #B": "not confident", "Value": "confident"}
    return bar_chart(
        "Confidence of the predictions",
        (
            "Predictions in the time range by confidence: blue from the model's confidence threshold on, grey below. "
            "Each bar counts those up to its value and above that of the bar before; one that contains the threshold "
            "is blue."
        ),
        WHOLE,
        Query(f"({confident}) and on () {any_value}", "confident", "table"),
        Query(f"({others}) and on () {any_value}", "not confident", "table"),
        by="upto",
        stacked=True,
        empty="no confidence values",
        least=0,
        decimals=0,
        transformations=[
            # An outer join ignores a query without a result; "merge" would merge nothing.
            transformation("filterFieldsByName", exclude={"names": ["Time"]}),
            transformation("joinByField", byField="upto", mode="outer"),
            transformation("sortBy", fields={}, sort=[{"field": "upto"}]),
            transformation("organize", renameByName=names),
        ],
        overrides=[
            for_field("confident", setting("color", {"mode": "fixed", "fixedColor": NEUTRAL})),
            for_field("not confident", setting("color", {"mode": "fixed", "fixedColor": GREY})),
            for_field("upto", unit=TEXT, noValue=" "),
        ],
    )
