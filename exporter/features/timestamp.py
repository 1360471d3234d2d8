"""Moments in time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from exporter.features.base import InputType
from exporter.stats.divergence import Floats

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)
_FAR = 1e15
_EPOCH = datetime(1970, 1, 1)  # in UTC, as are moments that do not say


def unix_seconds(value: Any) -> float:
    """A moment in Unix seconds: NaN for none, an infinity for what is no moment.

    A string is RFC 3339; without an offset it is UTC, a date alone is its midnight.

    >>> unix_seconds("1970-01-02T00:00:01+01:00"), unix_seconds("1970-01-02"), unix_seconds("soon"), unix_seconds(1.5)
    (82801.0, 86400.0, inf, 1.5)
    """
    if value is None:
        return math.nan
    if type(value) is str and len(value) <= 40 and _RFC3339.fullmatch(value):
        try:
            moment = datetime.fromisoformat(value.upper())
            return moment.timestamp() if moment.tzinfo else (moment - _EPOCH).total_seconds()
        except (ValueError, OverflowError):  # such as 30 February
            return math.inf
    if type(value) in {int, float} and not abs(value) >= _FAR:
        return float(value)
    return math.inf


class Timestamp(InputType):
    """An RFC 3339 string or Unix seconds: its age at arrival and its hour of the day (UTC)."""

    type = "timestamp"
    noun = "an RFC 3339 time"
    statistics = ("age_seconds", "hour")

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:
        """See `InputType.columns`."""
        if isinstance(values, np.ndarray):
            values = values.tolist()
        moments = np.array([unix_seconds(value) for value in values], dtype=np.float64)
        bad = np.isinf(moments)
        moments[bad] = 0.0
        columns = np.stack([now - moments, np.floor(moments % 86400 / 3600)])
        columns[:, bad] = np.inf
        return columns
