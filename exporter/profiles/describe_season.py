"""Describe which features change with the hour of the day or of the week."""

from __future__ import annotations

from exporter.profiles.season_record import Period, Season

_NAMED = 5


def season_line(season: Season | None, period: Period) -> str:
    """Return in a line which features and outputs change with the hour; without a season, that none does.

    >>> season_line(None, "day")
    '(season)  nothing changes with the hour of the day'
    """
    names = [*season.targets] if season else []
    shown = ["nothing"] if not names else names[:_NAMED]
    shown += [f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    *first, last = shown
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"(season)  {listed} {'change' if len(shown) > 1 else 'changes'} with the hour of the {period}"
