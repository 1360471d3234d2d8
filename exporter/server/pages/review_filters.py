"""The filters of the review page, parsed from its address and written to addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from werkzeug.datastructures import MultiDict

from exporter.errors import EventError
from exporter.server.api.corrections import FoundSlice, parse_query
from exporter.server.api.parameters import parse_whole_number
from exporter.server.application import Exporter
from exporter.storage import PARAMETERS, Filter, Position
from exporter.validation import any_of, parse_duration, preview

VIEWS = ("cards", "table")
DEFAULTS = {"status": "pending", "source": "user", "order": "uncertain", "view": "cards"}
NAMES = (*PARAMETERS, "order", "view", "target", "cursor")
"""Parameters of the page, in their order in an address."""
MAX_TARGET = 10_000
"""Decisions that a reviewer may aim for in a day."""
PAGE_SIZE = 50
"""Cards on a page."""
GRAFANA = {"from": "since", "to": "until"}
"""Grafana's names of the parameters of a period."""
FIRST, LAST = -62135596800, 253402300799
"""Unix times of the first and last second that `datetime` can represent."""
ALL = ("$__all", "All")
"""Grafana's values for all versions."""


class ReviewQuery(NamedTuple):
    """The filter, order and view of the page, and the parameters of its address.

    Attributes
    ----------
    target
        How many corrections the reviewer wants to decide today; None without a target.
    args
        The parameters, without those with default values.
    slice
        The slice of the filter.
    """

    filter: Filter
    order: str
    view: str
    after: Position | None
    target: int | None
    args: dict[str, str]
    slice: FoundSlice | None = None

    def with_changes(self, **changes: str | None) -> dict[str, str]:
        """Return the parameters of the first page after some changes; None removes a parameter."""
        args = {name: value for name, value in self.args.items() if name != "cursor"}
        for name, value in changes.items():
            args.pop(name, None)
            if value is not None and value != DEFAULTS.get(name):
                args[name] = value
        return {name: args[name] for name in NAMES if name in args}


def parse_review_query(exporter: Exporter, parameters: Mapping[str, str], now: float) -> ReviewQuery:
    """Parse the parameters of the page; empty ones are ignored.

    In addition to those of ``GET /v1/corrections``: ``status=all``, ``view``, ``target``, and Grafana's periods.

    Raises
    ------
    EventError
        When a parameter is not valid.
    """
    args = {name: value.strip() for name, value in parameters.items() if value.strip()}
    for grafana, name in GRAFANA.items():
        if (time := args.pop(grafana, None)) is not None:
            args.setdefault(name, time)
    for name in GRAFANA.values():
        if name in args:
            args[name] = parse_time(name, args[name], now)
    query = DEFAULTS | args | {"limit": str(PAGE_SIZE)}
    view = query.pop("view")
    if view not in VIEWS:
        raise EventError("", f"view: expected {any_of(VIEWS)}, got {preview(view)}", "malformed")
    target = parse_whole_number("target", query.pop("target", None), MAX_TARGET)
    if query["status"] == "all":
        del query["status"]
    page = parse_query(exporter, query)
    non_default = {name: args[name] for name in NAMES if name in args and args[name] != DEFAULTS.get(name)}
    return ReviewQuery(page.filter, page.order, view, page.after, target, non_default, page.slice)


def parameters(args: MultiDict[str, str]) -> dict[str, str]:
    """Return the parameters of an address; Grafana's ``var-version`` with one version becomes ``version``.

    >>> parameters(MultiDict([("model", "digits"), ("var-version", "3")]))
    {'model': 'digits', 'version': '3'}
    >>> parameters(MultiDict([("var-version", "3"), ("var-version", "4")]))
    {}
    """
    result, versions = args.to_dict(), args.getlist("var-version")
    result.pop("var-version", None)
    if len(versions) == 1 and versions[0] not in ALL:
        result.setdefault("version", versions[0])
    return result


def parse_time(name: str, text: str, now: float) -> str:
    """Convert a time to RFC 3339, from Unix seconds or milliseconds, or a time ago (``1h``, ``now-1h``).

    >>> parse_time("since", "1795514400000", 0), parse_time("since", "1h", 1795518000)
    ('2026-11-24T10:00:00Z', '2026-11-24T10:00:00Z')

    Raises
    ------
    EventError
        When the text is none of these.
    """
    try:
        if re.fullmatch(r"(now-)?(\d+[smhdwy])+|now", text):
            age = text.removeprefix("now").removeprefix("-")
            return rfc3339(now - parse_duration(age) if age else now)
        if re.fullmatch(r"\d{1,15}", text):
            number = float(text)
            return rfc3339(number / 1000 if number >= 1e11 else number)
        time = datetime.fromisoformat(text)
        return rfc3339((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        expected = "a time such as 2026-11-24T10:00:00Z, milliseconds since 1970, or a time ago such as 1h"
        raise EventError("", f"{name}: expected {expected}, got {preview(text)}", "malformed") from None


def rfc3339(seconds: float) -> str:
    """
    >>> rfc3339(1795514400.0)
    '2026-11-24T10:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def format_time(seconds: float) -> str:
    """
    >>> format_time(1795514400.0), format_time(-1e12)  # a bar may begin before the first year, or end after the last
    ('24 Nov 10:00', '1 Jan 00:00')
    """
    return f"{datetime.fromtimestamp(min(max(seconds, FIRST), LAST), UTC):%-d %b %H:%M}"


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
        "alike": lambda: f"equal to correction {query.filter.alike}",
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
