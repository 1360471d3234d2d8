"""The part of a profile that has the distribution of values by hour of the day or of the week."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.errors import ProfileError
from exporter.stats.divergence import Floats, Ints

Period = Literal["day", "week"]
HOURS: dict[Period, int] = {"day": 24, "week": 168}
"""Hours of each period."""
_MONDAY = 72  # Unix time begins on a Thursday; hours of the week are counted from Monday
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]


class HourlyValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The training values of a feature, or of another target, by hour.

    Attributes
    ----------
    counts
        Number of values in each of the ``K`` bins in each of ``H`` hours, shape ``(H, K)``.
    shifts
        Mean of each hour less the mean of all hours, in training standard deviations; empty for categories.
    """

    counts: tuple[tuple[_Count, ...], ...]
    shifts: tuple[float, ...] = ()


class Season(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The distributions that change with the hour.

    Attributes
    ----------
    period
        ``day``: 24 hours from midnight UTC; or ``week``: 168 hours from Monday, midnight UTC.
    targets
        The values by hour of those features that change, and of ``(prediction)`` and ``(confidence)``.
    """

    period: Period
    targets: dict[str, HourlyValues]

    @property
    def hours(self) -> int:
        """Number of hours of the period."""
        return HOURS[self.period]


def cycle_hours(seconds: Floats, hours: int) -> tuple[npt.NDArray[np.int64], Ints]:
    """Return the number of the cycle, and the hour in it, of finite times in Unix seconds.

    >>> [int(values[0]) for values in cycle_hours(np.array([4 * 86400.0 + 7200]), 168)]
    [1, 2]
    """
    cycle, hour = np.divmod(np.floor_divide(seconds, 3600).astype(np.int64) + _MONDAY, hours)
    return cycle, hour.astype(np.intp)


def last_hour(unix_time: float, hours: int) -> Floats:
    """Return how much of the 60 minutes before a time lies in each hour of a cycle, shape ``(hours,)``.

    >>> last_hour(7200.0 + 900.0, 24)[:4].tolist()
    [0.0, 0.75, 0.25, 0.0]
    """
    _, indices = cycle_hours(np.array([unix_time - 3600, unix_time]), hours)
    share = unix_time % 3600 / 3600
    weights = np.zeros(hours)
    weights[indices] = 1 - share, share
    return weights


def check_season(season: Season, bins: Mapping[str, int]) -> None:
    """Raise ProfileError where the record contradicts itself, or the profile's number of bins of each target."""
    for name, values in season.targets.items():
        path = f"season.targets.{name}"
        if name not in bins:
            raise ProfileError(f"{path}: is not a feature of the profile")
        if len(values.counts) != season.hours or any(len(row) != bins[name] for row in values.counts):
            raise ProfileError(f"{path}.counts: expected {season.hours} hours of {bins[name]} counts")
        if not sum(map(sum, values.counts)):
            raise ProfileError(f"{path}.counts: expected at least one value")
        if len(values.shifts) not in {0, season.hours} or not all(map(math.isfinite, values.shifts)):
            raise ProfileError(f"{path}.shifts: expected {season.hours} numbers, or none")
