"""Format periods and times for people."""

from __future__ import annotations

from datetime import UTC, datetime


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
