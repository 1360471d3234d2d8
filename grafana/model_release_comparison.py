"""The exporter's own comparison of the last two versions, over the time in which both served."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import stat, table
from grafana.queries import MODEL
from grafana.style import (
    BARE,
    COUNT,
    CRITICAL,
    GREY,
    OK,
    SECONDS,
    TEXT,
    WHOLE,
    Query,
    for_field,
    for_query,
    setting,
    state_cell,
    transformation,
)

_OF = "before, after, measure"
_MEASURES = {
    "error_ratio": "Errors, % of requests",
    "latency_p95_seconds": "Latency p95, ms",
    "confident_ratio": "Confident, % of predictions",
    "correction_ratio": "Corrected, % of confident predictions",
    "worst_drift_nats": "Drift of the worst feature, nats",
}
"""How the table names a measure, in the unit that `_scaled` gives it."""
_VERDICTS = {"-1": ("worse", CRITICAL), "0": ("not proven", GREY), "1": ("better", OK)}


_REPLICA = "model, before, after, instance, job"
_CHOSEN = f"topk (1, sum by ({_REPLICA}) (model_comparison_observations{{{MODEL}}}))"
"""The comparison of the replica that counted most: each has its own, unless all ask the same Prometheus."""


def _compared(name: str, by: str = _OF, selector: str = "") -> str:
    """Return a metric of the comparison, by one replica."""
    return f"max by ({by}) (model_comparison_{name}{{{MODEL}{selector}}} and on ({_REPLICA}) {_CHOSEN})"


def _scaled(name: str, selector: str = "") -> str:
    """Return a metric of the comparison with shares in percent, and seconds in milliseconds."""
    parts = (("100 * ", 'measure=~".+_ratio"'), ("1000 * ", 'measure=~".+_seconds"'), ("", 'measure=~".+_nats"'))
    return " or ".join(f"{factor}{_compared(name, selector=f',{kind}{selector}')}" for factor, kind in parts)


def verdicts() -> Panel:
    """Return how many measures are worse, better and not proven."""
    verdict = _compared("verdict")
    queries = [Query(f"sum({verdict} == bool {value})", text, "instant") for value, (text, _) in _VERDICTS.items()]
    return stat(
        "Measures",
        (
            "How many measures of the new version are worse, better, or not proven to be different. If you look again "
            "and again, chance alone shows a difference in the end: choose the moment to decide beforehand."
        ),
        BARE,
        *queries,
        state=True,
        empty="no two versions served at the same time",
        overrides=[
            for_query(index, setting("mappings", _coloured_unless_zero(colour)))
            for index, (_, colour) in enumerate(_VERDICTS.values())
        ],
    )


def _coloured_unless_zero(colour: str) -> list[dict[str, object]]:
    return [
        {"type": "value", "options": {"0": {"text": "0", "color": GREY, "index": 0}}},
        {"type": "range", "options": {"from": 1, "to": 99, "result": {"color": colour, "index": 1}}},
    ]


def shared_time() -> Panel:
    """Return how long both versions served, and which versions they are."""
    by = "before, after"
    return stat(
        "Both served",
        "The time from the first to the last moment at which both versions served; only what they counted then counts.",
        SECONDS,
        Query(
            f"{_compared('end_timestamp_seconds', by)} - {_compared('start_timestamp_seconds', by)}",
            "version {{after}} against version {{before}}",
            "instant",
        ),
        stacked=True,
        empty="no two versions served at the same time",
    )


def comparison() -> Panel:
    """Return the table of the measures, with intervals and verdicts."""
    columns = {
        "Verdict": _compared("verdict"),
        "Before": _scaled("value", ',side="before"'),
        "After": _scaled("value", ',side="after"'),
        "Difference": _scaled("difference"),
        "95 % from": _scaled("difference_lower"),
        "95 % to": _scaled("difference_upper"),
        "n before": _compared("observations", selector=',side="before"'),
        "n after": _compared("observations", selector=',side="after"'),
    }
    refs = dict(zip("ABCDEFGH", columns, strict=True))
    return table(
        "Before and after",
        (
            "The measures of both versions over the time in which both served, the difference with its 95 % interval, "
            "and whether it is proven. n is the number of requests, predictions or values behind a measure."
        ),
        COUNT,
        *(Query(expr, kind="table") for expr in columns.values()),
        empty="no two versions served at the same time",
        transformations=[
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True, "before": True, "after": True},
                indexByName={"measure": 0, **{f"Value #{ref}": index for index, ref in enumerate(refs, 1)}},
                renameByName={"measure": "Measure", **{f"Value #{ref}": name for ref, name in refs.items()}},
            ),
        ],
        overrides=[
            for_field("Measure", setting("mappings", _named_measures()), unit=TEXT, width=300),
            for_field("Verdict", *state_cell(_VERDICTS), unit=BARE, noValue="–", width=110),
            *(for_field(name, unit=BARE, decimals=2, noValue="–", minWidth=85) for name in list(columns)[1:6]),
            *(for_field(name, unit=WHOLE, decimals=0, noValue="–", minWidth=85) for name in list(columns)[6:]),
        ],
    )


def _named_measures() -> list[dict[str, object]]:
    options = {name: {"text": text, "index": index} for index, (name, text) in enumerate(_MEASURES.items())}
    return [{"type": "value", "options": options}]
