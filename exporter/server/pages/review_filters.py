"""What the review page is asked for: its filters, in the address and back into addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from werkzeug.datastructures import MultiDict

from exporter.errors import EventError
from exporter.server.api.correction_query import parse_query
from exporter.server.application import Exporter
from exporter.storage.corrections import Filter, Position
from exporter.validation import any_of, parse_duration, preview

VIEWS = ("cards", "table")
DEFAULTS = {"status": "pending", "source": "user", "order": "newest", "view": "cards"}
NAMES = (*Filter._fields, "order", "view", "cursor")
"""Parameters of the page, in the order in which its own addresses have them."""
PAGE = 50
"""Cards on a page."""
GRAFANA = {"from": "since", "to": "until"}
"""What Grafana calls the period."""
ALL = ("$__all", "All")
"""What Grafana calls all versions."""


class Choice(NamedTuple):
    """Which corrections, how they are shown, and the address that says so.

    Attributes
    ----------
    args
        The parameters, without those that say what holds anyway.
    """

    filter: Filter
    order: str
    view: str
    after: Position | None
    args: dict[str, str]

    def but(self, **changed: str | None) -> dict[str, str]:
        """The parameters of the first page of another choice; None takes one away."""
        args = {name: value for name, value in self.args.items() if name != "cursor"}
        for name, value in changed.items():
            args.pop(name, None)
            if value is not None and value != DEFAULTS.get(name):
                args[name] = value
        return {name: args[name] for name in NAMES if name in args}


def choice(exporter: Exporter, given: Mapping[str, str], now: float) -> Choice:
    """Read the page's parameters; empty ones count as absent.

    Beside what ``GET /v1/corrections`` takes: ``status=all``, ``view``, periods as Grafana has them.

    Raises
    ------
    EventError
        What is wrong with them.
    """
    args = {name: value.strip() for name, value in given.items() if value.strip()}
    for grafana, name in GRAFANA.items():
        if (time := args.pop(grafana, None)) is not None:
            args.setdefault(name, time)
    for name in GRAFANA.values():
        if name in args:
            args[name] = moment(name, args[name], now)
    query = DEFAULTS | args | {"limit": str(PAGE)}
    view = query.pop("view")
    if view not in VIEWS:
        raise EventError("", f"view: expected {any_of(VIEWS)}, got {preview(view)}", "malformed")
    if query["status"] == "all":
        del query["status"]
    page = parse_query(exporter, query)
    ordered = {name: args[name] for name in NAMES if name in args and args[name] != DEFAULTS.get(name)}
    return Choice(page.filter, page.order, view, page.after, ordered)


def parameters(given: MultiDict[str, str]) -> dict[str, str]:
    """Parameters of a page's address; a version that is chosen in Grafana alone, ``var-version``, is ``version``.

    >>> parameters(MultiDict([("model", "digits"), ("var-version", "3")]))
    {'model': 'digits', 'version': '3'}
    >>> parameters(MultiDict([("var-version", "3"), ("var-version", "4")]))
    {}
    """
    args, chosen = given.to_dict(), given.getlist("var-version")
    args.pop("var-version", None)
    if len(chosen) == 1 and chosen[0] not in ALL:
        args.setdefault("version", chosen[0])
    return args


def moment(name: str, text: str, now: float) -> str:
    """A time as RFC 3339: of that already, Unix seconds or milliseconds, or how long ago (``1h``, ``now-1h``).

    >>> moment("since", "1795514400000", 0), moment("since", "1h", 1795518000)
    ('2026-11-24T10:00:00Z', '2026-11-24T10:00:00Z')

    Raises
    ------
    EventError
        When it is none of these.
    """
    try:
        if re.fullmatch(r"(now-)?(\d+[smhdwy])+|now", text):
            before = text.removeprefix("now").removeprefix("-")
            return stamp(now - parse_duration(before) if before else now)
        if re.fullmatch(r"\d{1,15}", text):
            number = float(text)
            return stamp(number / 1000 if number >= 1e11 else number)
        found = datetime.fromisoformat(text)
        return stamp((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        right = "a time such as 2026-11-24T10:00:00Z, milliseconds since 1970, or how long ago such as 1h"
        raise EventError("", f"{name}: expected {right}, got {preview(text)}", "malformed") from None


def stamp(seconds: float) -> str:
    """
    >>> stamp(1795514400.0)
    '2026-11-24T10:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
