"""Numbers, categories, truth values and times."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import numpy as np

from exporter.features.base import CellKind, ColumnSample, InputType, as_list, numeric_column
from exporter.stats.divergence import Floats


class Numeric(InputType):
    """A number, which is its own feature."""

    type = "numeric"
    noun = "a number"
    cells = "number"
    is_number = True
    compared_as = "number"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        return sample.types <= {int, float}

    def feature_values(self, values: Sequence[Any] | Floats, now: float | Floats) -> list[Any]:
        """See `InputType.feature_values`; an array of numbers stays one."""
        return list(self.columns(values, now))

    def columns(self, values: Sequence[Any] | Floats, now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuf":
            return values.astype(np.float64)[None, :]
        return numeric_column(as_list(values))[None, :]


_INVALID = ()  # not a scalar


class Categorical(InputType):
    """A category, which is its own feature; see `exporter.features.base.category_bins`."""

    type = "categorical"
    noun = "a category"
    categorical = True
    cells: ClassVar[CellKind | None] = "text"
    compared_as = "category"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:  # noqa: ARG003
        """See `InputType.recognizes`; any column can be one of categories."""
        return True


class Boolean(Categorical):
    """``true`` or ``false``; anything else is invalid."""

    type = "boolean"
    noun = "true or false"
    cells = "truth"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        return sample.types == {bool}

    def labels(self, values: Sequence[Any] | Floats) -> Sequence[Any] | Floats:
        """See `Categorical.labels`."""
        values = as_list(values)
        if set(map(type, values)) <= {bool, type(None)}:
            return values
        return [value if value is None or isinstance(value, bool) else _INVALID for value in values]


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)
_MAX_SECONDS = 1e15
_EPOCH = datetime(1970, 1, 1)  # in UTC, as are times without an offset


def unix_seconds(value: Any) -> float:
    """Return a time in Unix seconds: NaN for None, an infinity for a value that is not a time.

    A string is read as RFC 3339. Without an offset it is in UTC; a date is its midnight.

    >>> unix_seconds("1970-01-02T00:00:01+01:00"), unix_seconds("1970-01-02"), unix_seconds("soon"), unix_seconds(1.5)
    (82801.0, 86400.0, inf, 1.5)
    """
    if value is None:
        return math.nan
    if type(value) is str and len(value) <= 40 and _RFC3339.fullmatch(value):
        try:
            time = datetime.fromisoformat(value.upper())
            return time.timestamp() if time.tzinfo else (time - _EPOCH).total_seconds()
        except (ValueError, OverflowError):  # such as 30 February
            return math.inf
    if type(value) in {int, float} and not abs(value) >= _MAX_SECONDS:
        return float(value)
    return math.inf


def time_seconds(times: Any) -> Floats:
    """Return a column of times in Unix seconds: NaN for none, an infinity for a value that is not a time."""
    if isinstance(times, np.ndarray) and times.dtype.kind in "iuf":
        return times.astype(np.float64)
    return np.array([unix_seconds(value) for value in as_list(times)], dtype=np.float64)


class Timestamp(InputType):
    """An RFC 3339 string or Unix seconds. Its features are its age at arrival and its hour of the day (UTC)."""

    type = "timestamp"
    noun = "an RFC 3339 time"
    statistics = ("age_seconds", "hour")
    cells = "moment"
    follows_time = True

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        return sample.types == {str} and bool(np.isfinite([unix_seconds(value) for value in sample.strings]).all())

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:
        """See `InputType.columns`."""
        if isinstance(values, np.ndarray):
            values = values.tolist()
        times = np.array([unix_seconds(value) for value in values], dtype=np.float64)
        invalid = np.isinf(times)
        times[invalid] = 0.0
        columns = np.stack([now - times, np.floor(times % 86400 / 3600)])
        columns[:, invalid] = np.inf
        return columns
