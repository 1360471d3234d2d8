"""Versions in shadow mode, which answer requests without a user seeing it, in the dashboard Release comparison."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import table, time_series
from grafana.queries import MODEL, by_rank, increase
from grafana.style import COUNT, EVENTS_PER_SECOND, SHARE, TEXT, WHOLE, Query, for_field, transformation

_NONE = "no version in shadow mode"
_PAIR = "before, after"
_REPLICA = f"{_PAIR}, instance, job"
_CHOSEN = f"topk by ({_PAIR}) (1, sum by ({_REPLICA}) (model_shadow_pairs_total{{{MODEL}}}))"
"""Of each pair of versions, the exporter that compared most: intervals of several cannot be added up."""


def _of_pair(metric: str) -> str:
    """Return a metric of the pairs, from the exporter that compared most."""
    return f"max by ({_PAIR}) ({metric}{{{MODEL}}} and on ({_REPLICA}) {_CHOSEN})"


def _share_of_answers(metric: str) -> str:
    """Return the share of a version's answers that a counter counts, for each pair that the version is in."""
    answers = f"sum by (version) (model_shadow_predictions_total{{{MODEL}}})"
    share = f"sum by (version) ({metric}{{{MODEL}}}) / ({answers} > 0)"
    of_after = f'label_replace({share}, "after", "$1", "version", "(.+)")'
    pairs = f"0 * sum by ({_PAIR}) (model_shadow_pairs_total{{{MODEL}}})"
    return f"{pairs} + on (after) group_left () sum by (after) ({of_after})"


def pairs() -> Panel:
    """Return the table of the pairs of versions: the one that users see, and the one in shadow mode."""
    ratio, difference = "model_shadow_disagreement_ratio", "model_shadow_mean_absolute_difference"
    columns = {
        "Compared": _of_pair("model_shadow_pairs_total"),
        "Different": _of_pair(ratio),
        "95 % from": _of_pair(f"{ratio}_lower"),
        "95 % to": _of_pair(f"{ratio}_upper"),
        "Mean difference": _of_pair(difference),
        "from": _of_pair(f"{difference}_lower"),
        "to": _of_pair(f"{difference}_upper"),
        "Not compared": _share_of_answers("model_shadow_unpaired_total"),
        "Failed": _share_of_answers("model_shadow_errors_total"),
    }
    refs = dict(zip("ABCDEFGHI", columns, strict=True))
    return table(
        "Versions in shadow mode",
        (
            "How often the answer of a version in shadow mode differs from the one that users saw, since the exporter "
            "started, with its 95 % interval, which holds whenever you look; for numbers also the mean absolute "
            "difference. Not compared and Failed are shares of the answers in shadow mode."
        ),
        SHARE,
        *(Query(expr, kind="table") for expr in columns.values()),
        empty=_NONE,
        sort=("Compared",),
        transformations=[
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True},
                indexByName={
                    "after": 0,
                    "before": 1,
                    **{f"Value #{ref}": index for index, ref in enumerate(refs, 2)},
                },
                renameByName={
                    "after": "In shadow mode",
                    "before": "Users saw",
                    **{f"Value #{ref}": name for ref, name in refs.items()},
                },
            ),
        ],
        overrides=[
            *(for_field(name, unit=TEXT, width=135) for name in ("In shadow mode", "Users saw")),
            for_field("Compared", unit=WHOLE, decimals=0, minWidth=95),
            *(for_field(name, decimals=2, noValue="–", minWidth=95) for name in list(columns)[1:4] + list(columns)[7:]),
            for_field("Mean difference", unit=COUNT, noValue="–", width=135),
            *(for_field(name, unit=COUNT, noValue="–", minWidth=70) for name in ("from", "to")),
        ],
    )


def different() -> Panel:
    """Return the share of different answers over time, of the six pairs of versions that were compared most."""
    size = f"sum by ({_PAIR}) (increase(model_shadow_pairs_total{{{MODEL}}}[$__range] @ end()))"
    different = increase("model_shadow_disagreements_total", MODEL, _PAIR, "15m")
    compared = increase("model_shadow_pairs_total", MODEL, _PAIR, "15m")
    return time_series(
        "Different answers",
        (
            "Share of the requests of 15 minutes to which the version in shadow mode gave another answer than users "
            "saw: another class, or a number that differs by more than the tolerance. At most six pairs of versions."
        ),
        SHARE,
        *by_rank(
            f"({different} / ({compared} > 0))",
            size,
            _PAIR,
            legend="{{after}} instead of {{before}}",
        ),
        empty=_NONE,
        top=0.01,
    )


def answers() -> Panel:
    """Return how many answers in shadow mode are compared, and how many not."""

    def rate(name: str) -> str:
        return f"sum(rate(model_shadow_{name}_total{{{MODEL}}}[$__rate_interval]))"

    return time_series(
        "Answers in shadow mode",
        (
            "Answers a second of versions in shadow mode: compared with what users saw, not compared because the other "
            "answer did not come within five minutes or is of another kind, and failed with a 5xx code."
        ),
        EVENTS_PER_SECOND,
        Query(rate("pairs"), "compared"),
        Query(rate("unpaired"), "not compared"),
        Query(rate("errors"), "failed"),
        empty=_NONE,
    )
