"""What the review page is asked for: its filters, in the address and back into addresses."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from exporter.config import duration
from exporter.store.review import ORDERS, STATUSES, VERDICTS, Filter, Place
from exporter.store.schema import spelling
from exporter.validation import listed, shown, suggestion

VIEWS = ("cards", "table")
NAMES = (
    *("model", "version", "status", "label", "predicted", "segment", "source", "since", "until"),
    *("confidence_from", "confidence_to", "q", "order", "view", "cursor", "from", "to"),
)
"""Parameters of the page; ``from`` and ``to`` are what Grafana calls since and until."""
DEFAULTS = {"status": "pending", "source": "user", "order": "newest", "view": "cards"}


class Choice(NamedTuple):
    """Which corrections, how they are shown, and the address that says so.

    Attributes
    ----------
    args
        The parameters in their usual order, without those that say what holds anyway.
    """

    filter: Filter
    order: str
    view: str
    after: Place | None
    args: dict[str, str]

    def but(self, **changed: str | float | None) -> dict[str, str]:
        """The parameters of the first page of another choice; None takes one away."""
        args = {name: value for name, value in self.args.items() if name != "cursor"}
        for name, value in changed.items():
            args.pop(name, None)
            if value is not None and value != DEFAULTS.get(name):
                args[name] = str(value)
        return args


class WrongChoiceError(Exception):
    """Parameters that cannot be read; ``details`` says what is wrong with each."""

    def __init__(self, details: list[str]) -> None:
        super().__init__("; ".join(details))
        self.details = details


def choice(given: Mapping[str, str], models: Collection[str], now: float) -> Choice:
    """Read the page's parameters; empty ones count as absent.

    Raises
    ------
    WrongChoiceError
        Says of each parameter that is wrong what would be right.
    """
    wrong: list[str] = []
    args = {name: value.strip() for name, value in given.items() if value.strip()}
    for grafana, name in (("from", "since"), ("to", "until")):
        if (time := args.pop(grafana, None)) is not None:
            args.setdefault(name, time)
    wrong += [f"the parameter {shown(name)} is not known; {suggestion(name, NAMES)}" for name in args if name not in NAMES]

    def one_of(name: str, known: Collection[str]) -> str:
        value = args.get(name, DEFAULTS[name])
        if value not in known:
            wrong.append(f"{name}: expected {listed(known)}, got {shown(value)}")
        return value

    def read(name: str, parse: Any) -> Any:
        try:
            return parse(args[name]) if name in args else None
        except ValueError as error:
            wrong.append(f"{name}: {error}, got {shown(args[name])}")
            return None

    if (model := args.get("model")) is not None and model not in models:
        wrong.append(f"model: no model {shown(model)} is configured; {suggestion(model, models)}")
    status = one_of("status", ("all", *STATUSES))
    found = Filter(
        model=model,
        version=args.get("version"),
        status=None if status == "all" else status,
        label=read("label", label),
        predicted=read("predicted", label),
        segment=args.get("segment"),
        source=one_of("source", tuple(VERDICTS)),
        since=read("since", lambda text: moment(text, now)),
        until=read("until", lambda text: moment(text, now)),
        confidence_from=read("confidence_from", part),
        confidence_to=read("confidence_to", part),
        q=args.get("q"),
    )
    order, view = one_of("order", ORDERS), one_of("view", VIEWS)
    after = read("cursor", place)
    if wrong:
        raise WrongChoiceError(wrong)
    ordered = {name: args[name] for name in NAMES if name in args and args[name] != DEFAULTS.get(name)}
    return Choice(found, order, view, after, ordered)


def label(text: str) -> str:
    """A label of the address as the store spells it: JSON, or a plain text.

    >>> label('"7"'), label("7"), label("true"), label("cat"), label("[1]")
    ('"7"', '7', 'true', '"cat"', '"[1]"')
    """
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = text
    return spelling(value if isinstance(value, str | int | float | bool) else text) or ""


def moment(text: str, now: float) -> float:
    """Unix seconds of a time: RFC 3339, seconds or milliseconds since 1970, or how long ago (``1h``).

    >>> moment("2026-11-24T10:00:00Z", 0), moment("1795514400000", 0), moment("1h", 7200)
    (1795514400.0, 1795514400.0, 3600.0)

    Raises
    ------
    ValueError
        Says what would be right.
    """
    try:
        if text == "now":
            return now
        if re.fullmatch(r"(now-)?(\d+[smhdwy])+", text):  # as Grafana, too, says it
            return now - duration(text.removeprefix("now-"))
        if re.fullmatch(r"\d{1,15}", text):
            number = float(text)
            return number / 1000 if number >= 1e11 else number
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        detail = "expected a time such as 2026-11-24T10:00:00Z, milliseconds since 1970, or how long ago such as 1h"
        raise ValueError(detail) from None


def part(text: str) -> float:
    """A number from 0 to 1.

    Raises
    ------
    ValueError
        Says what would be right.
    """
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ValueError("expected a number from 0 to 1")
    return found


def cursor(end: Place) -> str:
    """Where a page ended, for an address."""
    return base64.urlsafe_b64encode(f"{end[0]!r},{end[1]}".encode()).decode()


def place(text: str) -> Place:
    """The reverse of `cursor`.

    Raises
    ------
    ValueError
        When it is none.
    """
    try:
        key, _, number = base64.urlsafe_b64decode(text).decode().partition(",")
        return float(key), int(number)
    except (binascii.Error, ValueError):
        raise ValueError("expected what the page before links to") from None
