"""The active filters of the review page, in words."""

from __future__ import annotations

from collections.abc import Callable

from exporter.server.pages.review_charts import format_time
from exporter.server.pages.review_filters import ReviewQuery
from exporter.storage.review.corrections import PARAMETERS


def active_filters(query: ReviewQuery) -> list[tuple[str, dict[str, str]]]:
    """Return the active filters: a description, and the parameters without the filter."""
    descriptions: dict[str, Callable[[], str]] = {
        "since": lambda: f"since {format_time(query.filter.since or 0)} UTC",
        "until": lambda: f"until {format_time(query.filter.until or 0)} UTC",
        "confidence_from": lambda: f"confidence from {query.args['confidence_from']}",
        "confidence_to": lambda: f"confidence up to {query.args['confidence_to']}",
        "error_from": lambda: f"error from {query.args['error_from']}",
        "error_to": lambda: f"error below {query.args['error_to']}",
        "q": lambda: f"with “{query.args['q'][:40]}”",
        "source": lambda: {"sample": "samples", "all": "corrections and samples"}[query.filter.source],
        "suspect": lambda: "with a suspect label" if query.filter.suspect else "without a suspect label",
        "alike": lambda: f"like correction {query.filter.alike}",
        "where": lambda: query.slice.description if query.slice else "",
        "joined": lambda: "with a logged prediction" if query.filter.joined else "without a logged prediction",
    }
    return [
        (
            descriptions[name]() if name in descriptions else f"{name} {query.args[name][:40]}",
            query.with_changes(**{name: None}),
        )
        for name in PARAMETERS
        if name in query.args and name != "status"
    ]
