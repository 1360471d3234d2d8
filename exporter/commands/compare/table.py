"""A comparison as a table for people."""

from __future__ import annotations

from exporter.commands.common import aligned
from exporter.comparison.decision import Decisions
from exporter.comparison.measures import Comparison, Measure
from exporter.comparison.report import (
    WORDINGS,
    difference_text,
    interval_text,
    minutes,
    sentences,
    summary,
    title,
    titles,
)


def table(comparison: Comparison, decisions: Decisions | None = None) -> str:
    """Return the summary, both sides as a table, a sentence for each measure, and the decision if there is one."""
    sides = comparison.before, comparison.after
    rows = [("", *(title[0].lower() + title[1:] for title in titles(comparison)), "difference, 95 % interval")]
    rows.append(("requests", *(f"{side.counts.requests:,.0f}" for side in sides), ""))
    rows += [_table_row(measure) for measure in comparison.measures]
    periods = ", and ".join(dict.fromkeys(str(side.period) for side in sides))
    versions = " and ".join(dict.fromkeys(side.version for side in sides))
    head = f"{comparison.model}, version {versions}, {periods}"
    if comparison.shared_seconds is not None:
        head += f", {minutes(comparison.shared_seconds)} in which both served"
    text = [head, summary(comparison), "", *aligned(rows), "", *sentences(comparison)]
    if decisions:
        text += ["", f"Decision: {decisions.word}", *decisions.reasons()]
    return "\n".join(text)


def _table_row(measure: Measure) -> tuple[str, ...]:
    wording = WORDINGS[measure.name]
    cells = [
        f"{wording.value(estimate.value)} ({interval_text(wording, estimate.interval())})" if estimate else "unknown"
        for estimate in (measure.before, measure.after)
    ]
    change = ""
    if measure.difference:
        change = f"{difference_text(wording, measure.difference)}, {measure.verdict}"
    return (title(measure), *cells, change)
