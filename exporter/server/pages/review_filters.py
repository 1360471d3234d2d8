"""The filters of the review page, parsed from its address and written to addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from werkzeug.datastructures import MultiDict

from exporter.errors import EventError
from exporter.server.api.correction_query import FoundSlice, parse_query
from exporter.server.api.parameters import parse_whole_number
from exporter.server.application import Exporter
from exporter.storage.review.correction_pages import Position
from exporter.storage.review.corrections import PARAMETERS, Filter
from exporter.validation import any_of, parse_duration, preview

VIEWS = ("cards", "table")
DEFAULTS = {"status": "pending", "source": "user", "order": "newest", "view": "cards"}
NAMES = (*PARAMETERS, "order", "view", "target", "cursor")
"""Parameters of the page, in their order in an address."""
MAX_TARGET = 10_000
"""Decisions that a reviewer may aim for in a day."""
PAGE_SIZE = 50
"""Cards on a page."""
GRAFANA = {"from": "since", "to": "until"}
"""Grafana's names of the parameters of a period."""
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
