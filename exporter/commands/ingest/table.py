"""Rows of a table in columns: features, outputs of the model, and what is wrong with a row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.errors import BatchError
from exporter.features.extract import as_list, confidence_column, numeric_column, scalar_text
from exporter.features.timestamp import unix_seconds
from exporter.features.types import INPUT_TYPES
from exporter.profiles.profile import CategoricalFeature, Feature, Profile
from exporter.profiles.sources.base import Source
from exporter.stats.divergence import Floats
from exporter.validation import closest, preview
from exporter.wire.events import FIRST_YEAR, LAST_YEAR, MAX_ID, MAX_LABEL

MAX_REPORTED = 10
"""Refused rows whose reasons are kept."""
MAX_LISTED = 20
"""Columns in the message about one that is not there."""
_FIRST_SECOND, _END = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (FIRST_YEAR, LAST_YEAR + 1))


class Roles(NamedTuple):
    """Names of the columns that are not features; see the command's options."""

    prediction: str | None = None
    confidence: str | None = None
    id: str | None = None
    time: str | None = None
    label: str | None = None
    ignored: tuple[str, ...] = ()
    confidence_percent: bool = False

    def named(self) -> dict[str, str]:
        """Return the option that names each column."""
        named = {getattr(self, role): f"--{role}-column" for role in self._fields[:5]}
        named |= dict.fromkeys(self.ignored, "--ignore")
        return {name: option for name, option in named.items() if name is not None}


class Rows(NamedTuple):
    """Some valid rows.

    Attributes
    ----------
    numbers
        Number of each row in the file, the first is 1; shape ``(n,)``.
    last
        Number of the last row that was read, valid or not.
    inputs
        Columns by name.
    predictions
        None, or NaN in an array, where a row has none; empty without such a column.
    confidences
        NaN where a row has none; empty without such a column.
    ids
        Strings, None where a row has none; empty without such a column.
    moments
        When a row arrived in Unix seconds, NaN where it does not say; None without such a column.
    labels
        True labels; None, or NaN in an array, where a row has none; empty without such a column.
    done
        Share of the file that was read.
    """

    numbers: npt.NDArray[np.int64]
    last: int
    inputs: Mapping[str, Any]
    predictions: Any
    confidences: Floats
    ids: Sequence[str | None]
    moments: Floats | None
    labels: Any
    done: float


class Refused:
    """Counts refused rows, and keeps the reasons for the first of them.

    Parameters
    ----------
    after
        Number of the last row that an earlier run reported; rows up to it are not counted.
    """

    def __init__(self, after: int = 0) -> None:
        self._after = after
        self.count = 0
        self.first: list[str] = []

    def add(self, row: int, column: str, detail: str) -> None:
        """Count a row and what is wrong with one of its columns."""
        if row <= self._after:
            return
        self.count += 1
        if len(self.first) < MAX_REPORTED:
            self.first.append(f"row {row}{f', {column}' if column else ''}: {detail}")


class Table:
    """The valid rows of a source.

    Parameters
    ----------
    source
        Reader of the file.
    roles
        The columns that are not features.
    refused
        Collects invalid rows.

    Attributes
    ----------
    seen
        Columns that may be features.
    rows
        Rows read so far.
    """

    def __init__(self, source: Source, roles: Roles, refused: Refused) -> None:
        self._source = source
        self._roles = roles
        self._refused = refused
        self.seen: dict[str, None] = {}
        self.rows = 0

    def __iter__(self) -> Iterator[Rows]:
        for batch in self._source.batches():
            if not self.rows:
                self._check(batch.columns)
            numbers = np.arange(self.rows + 1, self.rows + 1 + batch.rows)
            self.rows += batch.rows
            inputs = {name: values for name, values in batch.columns.items() if name not in self._roles.named()}
            self.seen |= dict.fromkeys(inputs)
            yield self._valid(numbers, inputs, batch.columns, batch.done)

    def _check(self, columns: Collection[str]) -> None:
        for name, option in self._roles.named().items():
            if name not in columns:
                close = closest(name, columns)
                hint = f"; did you mean {preview(close)}?" if close else ";"
                listed = [preview(column) for column in itertools.islice(columns, MAX_LISTED)]
                listed += [f"{len(columns) - MAX_LISTED} more"] if len(columns) > MAX_LISTED else []
                detail = f"has no column {preview(name)}{hint} {option} may be {', '.join(listed)}"
                raise BatchError(f"{self._source.where}: {detail}")

    def _valid(
        self, numbers: npt.NDArray[np.int64], inputs: dict[str, Any], columns: Mapping[str, Any], done: float
    ) -> Rows:
        """Return the rows without those that are invalid."""
        size = len(numbers)
        bad: dict[int, tuple[str, str]] = {}  # by index: the first column that is wrong, and why
        outputs: dict[str, Any] = {}
        for role, check in _CHECKS.items():
            name = getattr(self._roles, role)
            if name is not None:
                values = columns.get(name, [None] * size)
                if role == "confidence" and self._roles.confidence_percent:
                    values = confidence_column(as_list(values), percent=True)
                outputs[role], wrong = check(values)
                for index, detail in wrong.items():
                    bad.setdefault(index, (name, detail))
        for index in sorted(bad):
            self._refused.add(int(numbers[index]), *bad[index])
        last = int(numbers[-1]) if size else self.rows
        if bad:
            good = np.ones(size, dtype=np.bool_)
            good[list(bad)] = False
            numbers = numbers[good]
            inputs = {name: _selected(values, good) for name, values in inputs.items()}
            outputs = {role: _selected(values, good) for role, values in outputs.items()}
        return Rows(
            numbers,
            last,
            inputs,
            outputs.get("prediction", ()),
            outputs.get("confidence", np.empty(0)),
            outputs.get("id", ()),
            outputs.get("time"),
            outputs.get("label", ()),
            done,
        )


def _predictions(values: Any) -> tuple[Any, dict[int, str]]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        wrong = np.flatnonzero(np.isinf(values)) if values.dtype.kind == "f" else ()
        return values, {int(index): "expected a finite number" for index in wrong}
    items = as_list(values)
    types = set(map(type, items)) - {type(None)}
    if types <= {bool, int} or (types == {str} and max(map(len, filter(None, items)), default=0) <= MAX_LABEL):
        return items, {}
    items = [None if isinstance(value, float) and math.isnan(value) else value for value in items]
    bad = {}
    for index, value in enumerate(items):
        if isinstance(value, float) and math.isinf(value):
            bad[index] = "expected a finite number"
        elif isinstance(value, str) and len(value) > MAX_LABEL:
            bad[index] = f"expected at most {MAX_LABEL} characters, got {len(value)}"
        elif not isinstance(value, str | int | float | None):
            bad[index] = f"expected a string, a number or a boolean, got {preview(value)}"
    return items, bad


def _confidences(values: Any) -> tuple[Floats, dict[int, str]]:
    numbers = np.asarray(values, np.float64) if isinstance(values, np.ndarray) else numeric_column(values)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero((numbers < 0) | (numbers > 1))
    detail = "expected a number from 0 to 1, got "
    return numbers, {int(index): detail + preview(as_list(values[index : index + 1])[0]) for index in wrong}


def _ids(values: Any) -> tuple[Sequence[str | None], dict[int, str]]:
    items = as_list(values)
    types = set(map(type, items))
    if types == {str} and min(map(len, items)) > 0 and max(map(len, items)) <= MAX_ID:
        return items, {}
    if types == {int}:
        return list(map(str, items)), {}
    texts: list[str | None] = []
    bad = {}
    for index, value in enumerate(items):
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        texts.append(None if empty else scalar_text(value))
        if not empty and not 0 < len(scalar_text(value)) <= MAX_ID:
            bad[index] = f"expected a string of at most {MAX_ID} characters, got {preview(value)}"
    return texts, bad


def _times(values: Any) -> tuple[Floats, dict[int, str]]:
    items = as_list(values)
    moments = np.array([unix_seconds(value) for value in items], dtype=np.float64)
    bad = dict.fromkeys(np.flatnonzero(np.isinf(moments)).tolist(), 'an RFC 3339 time such as "2026-11-24T10:00:00Z"')
    for index in np.flatnonzero(np.isfinite(moments) & ((moments < _FIRST_SECOND) | (moments >= _END))).tolist():
        bad[index] = f"a year from {FIRST_YEAR} to {LAST_YEAR}"
    return moments, {index: f"expected {expected}, got {preview(items[index])}" for index, expected in bad.items()}


_CHECKS: dict[str, Callable[[Any], tuple[Any, dict[int, str]]]] = {
    "prediction": _predictions,
    "confidence": _confidences,
    "id": _ids,
    "time": _times,
    "label": _predictions,
}
"""For each role: returns a column's values, and what is wrong with some of them, by their index."""


def cell_types(profile: Profile, roles: Roles) -> dict[str, str]:
    """Return the types by which cells of CSV are read so that they compare with the training values."""
    types = {name: _cell_type(kind, profile.features.get(name)) for name, kind in profile.inputs.items()}
    if roles.prediction:
        numeric = profile.prediction is not None and not isinstance(profile.prediction, CategoricalFeature)
        kind = _cell_type("numeric" if numeric else "categorical", profile.prediction)
        types |= dict.fromkeys(filter(None, (roles.prediction, roles.label)), kind)
    return types | output_types(roles)


def output_types(roles: Roles) -> dict[str, str]:
    """Return the types of the columns that are not features."""
    outputs = {roles.confidence: "numeric", roles.id: "categorical", roles.time: "timestamp"}
    types = {name: kind for name, kind in outputs.items() if name is not None}
    return types | {name: "text" for name in roles.ignored if name not in types}


def _cell_type(kind: str, feature: Feature | None) -> str:
    """Return the type of an input's cells; numbers and booleans stay what they are as categories: 1.0 is 1."""
    categories = feature.categories if isinstance(feature, CategoricalFeature) else ()
    if kind == "categorical" and categories:
        if all(_is_number(name) for name in categories):
            return "numeric"
        if set(categories) <= {"true", "false"}:
            return "boolean"
    return kind if INPUT_TYPES[kind].cells in {"number", "truth", "moment"} else "text"


def _is_number(name: str) -> bool:
    try:
        return scalar_text(float(name)) == name
    except (ValueError, OverflowError):
        return False


def _selected(column: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    """Return the chosen values of a column; ``chosen`` has shape ``(n,)``."""
    if isinstance(column, np.ndarray):
        return column[chosen]
    return list(itertools.compress(column, chosen.tolist()))
