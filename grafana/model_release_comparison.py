"""The exporter's own comparison of the last two versions, over the time in which both served."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel, ValueMap, ValueMappingResult

from exporter.comparison.measures import GOOD
from exporter.comparison.report import WORDINGS
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
    setting,
    state_cell,
    transformation,
)

_OF = "before, after, measure"
_MEASURES = {
    "error_ratio": "Errors, % of requests",
    "latency_p95_seconds": "Latency p95, ms",
    "confident_ratio": "Confident, % of predictions",
    "correction_ratio": "Corrected, % of confident",
    "accuracy": "Right, % of predictions",
    "mean_absolute_error": "Mean absolute error",
    "worst_drift_nats": "Drift of the worst feature, nats",
}
"""How the table names a measure, in the unit that `_scaled` gives it."""
_DECISIONS = {"-1": ("rollback", CRITICAL), "0": ("wait", GREY), "1": ("promote", OK)}
_VERDICTS = {"-1": ("worse", CRITICAL), "0": ("not proven", GREY), "1": ("better", OK)}

_SENTENCES = {"-2": CRITICAL, "-1": GREY, "0": GREY, "2": OK}
"""Twice the verdict; -1 is that of a text for no data."""

_REPLICA = "model, before, after, instance, job"
_CHOSEN = f"topk (1, sum by ({_REPLICA}) (model_comparison_observations{{{MODEL}}}))"
"""The comparison of the replica that counted most: each has its own, unless all ask the same Prometheus."""


def _compared(name: str, by: str = _OF, selector: str = "") -> str:
    """Return a metric of the comparison, by one replica."""
    return f"max by ({by}) (model_comparison_{name}{{{MODEL}{selector}}} and on ({_REPLICA}) {_CHOSEN})"


def _scaled(name: str, selector: str = "") -> str:
    """Return a metric of the comparison with shares in percent, and seconds in milliseconds."""
    parts = (
        ("100 * ", 'measure=~".+_ratio|accuracy"'),
        ("1000 * ", 'measure=~".+_seconds"'),
        ("", 'measure!~".+_(ratio|seconds)|accuracy"'),
    )
    return " or ".join(f"{factor}{_compared(name, selector=f',{kind}{selector}')}" for factor, kind in parts)


def verdict() -> Panel:
    """Return a sentence for each difference that is proven, or one that says that none is."""
    every = _compared("verdict")
    nothing = f"vector(-1) unless on () {every}"
    return stat(
        "Verdict",
        (
            "How the new version differs from the one before, as far as it is proven. You may look at any time: if the "
            "versions are equal, a difference is ever shown in at most 5 % of comparisons."
        ),
        BARE,
        *(
            Query(
                f"2 * ({_named(f'{every} == {value}', value)})",
                "Version {{after}} {{says}} than version {{before}}",
                "instant",
            )
            for value in (-1, 1)
        ),
        Query(
            f"0 * group by (before, after) ({every}) unless on (before, after) {every} != 0",
            "Version {{after}} is not proven to be better or worse than version {{before}}",
            "instant",
        ),
        Query(
            f'label_replace({nothing}, "says", "No two versions served at the same time", "", "")',
            "{{says}}",
            "instant",
        ),
        state=True,
        sentences=True,
        mappings=[ValueMap(options={v: ValueMappingResult(color=colour) for v, colour in _SENTENCES.items()})],
        empty="no two versions served at the same time",
    )


def _named(expr: str, verdict: int) -> str:
    """Return verdicts of one kind with what they say of the new version as a label."""
    for name, wording in WORDINGS.items():
        says = wording.more if verdict == GOOD[name] else wording.less
        expr = f'label_replace({expr}, "says", "{says}", "measure", "{name}")'
    return expr


def decision() -> Panel:
    """Return what the comparison says to do with the new version."""
    return stat(
        "Decision",
        (
            "Promote: each measure that is needed is proven not to be worse by more than its margin. Rollback: one is "
            "proven to be worse by more. Wait: neither is proven yet. The margins are release_margins of exporter.yml."
        ),
        BARE,
        Query(_compared("decision", "before, after"), "decision", "instant"),
        state=True,
        named=False,
        mappings=[
            ValueMap(
                options={v: ValueMappingResult(text=text, color=colour) for v, (text, colour) in _DECISIONS.items()}
            )
        ],
        empty="nothing to compare",
    )


def shared_time() -> Panel:
    """Return how long both versions served, and which versions they are."""
    return stat(
        "Both served",
        "The time in which both versions served, without gaps; only what they counted then counts.",
        SECONDS,
        Query(_compared("shared_seconds", "before, after"), "version {{after}} against version {{before}}", "instant"),
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
            for_field("Measure", setting("mappings", _named_measures()), unit=TEXT, width=262),
            for_field("Verdict", *state_cell(_VERDICTS), unit=BARE, noValue="–", width=110),
            *(for_field(name, unit=BARE, decimals=2, noValue="–", minWidth=85) for name in list(columns)[1:6]),
            *(for_field(name, unit=WHOLE, decimals=0, noValue="–", minWidth=85) for name in list(columns)[6:]),
        ],
    )


def _named_measures() -> list[dict[str, object]]:
    options = {name: {"text": _MEASURES[name], "index": index} for index, name in enumerate(WORDINGS)}
    return [{"type": "value", "options": options}]
