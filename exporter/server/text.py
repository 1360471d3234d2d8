"""Format numbers, shares, periods and times for people, and read and write the addresses of pages."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from exporter.errors import EventError
from exporter.monitoring.leading_quality import Kind
from exporter.slices import Of
from exporter.validation import parse_duration, preview

if TYPE_CHECKING:
    from werkzeug.datastructures import MultiDict


def duration(seconds: float) -> str:
    """
    >>> duration(1), duration(20), duration(90), duration(7200), duration(200000), duration(-5)
    ('1 second', '20 seconds', '1 minute', '2 hours', '2 days', '0 seconds')
    """
    units = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    size, name = next((unit for unit in units if seconds >= unit[0]), units[-1])
    count = max(int(seconds // size), 0)
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def ago(seconds: float) -> str:
    """
    >>> ago(20), ago(90), ago(7200), ago(-5)
    ('just now', '1 minute ago', '2 hours ago', 'just now')
    """
    return f"{duration(seconds)} ago" if seconds >= 60 else "just now"


def parse_time(text: str) -> datetime | None:
    """Return a time of RFC 3339 in UTC; None when it is not one, or the time that stands for none.

    >>> parse_time("2026-11-24T10:00:00.123456789Z")
    datetime.datetime(2026, 11, 24, 10, 0, 0, 123456, tzinfo=datetime.timezone.utc)
    >>> parse_time(""), parse_time("soon"), parse_time("0001-01-01T00:00:00Z")
    (None, None, None)
    """
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if time.year > 1 else None


def number(value: float) -> str:
    """
    >>> number(0.31415), number(math.nan), number(12345.0), number(1.5e12)
    ('0.314', '–', '12,345', '1.5e+12')
    """
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def percent(part: float) -> str:
    """
    Format a share with three digits, or more where it would look like all.

    >>> [percent(part) for part in (0.13894, 0.01, 1, math.nan)]
    ['13.9%', '1%', '100%', '–']
    >>> [percent(part) for part in (0.9994, 0.9996, 0.99999, 0.9999999)]
    ['99.9%', '99.96%', '99.999%', 'over 99.999%']
    """
    if math.isnan(part):
        return "–"
    texts = (f"{100 * part:.{digits}g}" for digits in (3, 4, 5))
    text = next((text for text in texts if part >= 1 or float(text) < 100), "over 99.999")
    return f"{text}%"


def figure(kind: Kind, value: float) -> str:
    """Return an accuracy or an error as text.

    >>> figure("accuracy", 0.912), figure("absolute_error", 4.2061)
    ('91.2%', '4.21')
    """
    return percent(value) if kind == "accuracy" else number(value)


def share(part: float) -> str:
    """
    Format a share as a percentage, with a no-break space before the sign.

    >>> [share(part).replace("\\N{NO-BREAK SPACE}", " ") for part in (0.3391, 0.0021, 0.9996, 0.00001, 1.0, 0.0)]
    ['34%', '0.21%', 'over 99%', 'under 0.1%', '100%', '0%']
    """
    if 0 < part < 0.001:
        text = "under 0.1"
    elif 0.995 <= part < 1:
        text = "over 99"
    else:
        text = f"{100 * part:.0f}" if part >= 0.0995 else f"{100 * part:.2g}"
    return f"{text}%"


def quoted(name: str) -> str:
    """
    >>> quoted("NL"), quoted("a b"), quoted("x" * 50)[-4:]
    ('NL', '“a b”', 'xx…”')
    """
    short = name if len(name) <= 40 else f"{name[:39]}…"
    return short if short.isalnum() else f"“{short}”"


MAX_VALUE = 200
"""Characters of a value in a row, of a label and of a comment in the table."""


def abbreviate(value: Any, limit: int = MAX_VALUE) -> str:
    """Format a value for display, cut to ``limit`` characters: a text unchanged, any other value as JSON.

    >>> abbreviate("7"), abbreviate(7), abbreviate(True), abbreviate(None), abbreviate("x" * 300, 4)
    ('7', '7', 'true', 'none', 'xxxx… (300 characters)')
    """
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


FIRST, LAST = -62135596800, 253402300799
"""Unix times of the first and last second that `datetime` can represent."""


ALL = ("$__all", "All")
"""Grafana's values for all versions."""


def parameters(args: MultiDict[str, str]) -> dict[str, str]:
    """Return the parameters of an address; Grafana's ``var-version`` with one version becomes ``version``.

    >>> from werkzeug.datastructures import MultiDict
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


def parse_moment(name: str, text: str, now: float) -> str:
    """Convert a time to RFC 3339, from Unix seconds or milliseconds, or a time ago (``1h``, ``now-1h``).

    >>> parse_moment("since", "1795514400000", 0), parse_moment("since", "1h", 1795518000)
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


SLICES_DEFAULTS = {"of": "corrections", "since": "1d"}


def slices_parameters(model: str, version: str | None, of: Of, since: str | None = None) -> dict[str, str]:
    """Return the parameters of the page for a question.

    >>> slices_parameters("digits", None, "drift")
    {'model': 'digits', 'of': 'drift'}
    """
    chosen = {"model": model, "version": version, "of": of, "since": since}
    return {name: value for name, value in chosen.items() if value and value != SLICES_DEFAULTS.get(name)}
