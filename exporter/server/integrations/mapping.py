"""From tensors and columns to a model's inputs, prediction and confidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.events import Prediction, RejectedEvent
from exporter.features.image import are_numbers
from exporter.features.lenient_json import sanitize
from exporter.server.integrations.outputs import Answer, Known, alone, answers, batch
from exporter.server.integrations.payload import Body, Column
from exporter.validation import explain, json_pointer, preview, suggestion

MAX_COLUMNS = 10_000
"""Tensors or columns of a request."""
_CHANNELS = (1, 3, 4)


class PayloadPair(NamedTuple):
    """A request, its response, and what is known of both.

    Attributes
    ----------
    id
        Of the one prediction, and the beginning of each one's where there are several.
    """

    request: Body
    response: Body
    id: str | None = None
    version: str | None = None
    time: datetime | None = None
    duration_seconds: float | None = None
    code: int | None = None


def resolve(models: Mapping[str, ModelConfig], names: Iterable[str | None]) -> ModelConfig:
    """The configured model that is meant by the first of the names that is known.

    Raises
    ------
    EventError
        When none is.
    """
    called = [name for name in names if name]
    for name in called:
        if name in models:
            return models[name]
        for model in models.values():
            if name in model.mapping.names:
                return model
    if not called:
        raise EventError("/model", "is nowhere named", "missing_field")
    known = [*models, *(name for model in models.values() for name in model.mapping.names)]
    detail = (
        f"no model {preview(called[0])} is configured, nor among the names of a mapping; {suggestion(called[0], known)}"
    )
    raise EventError("/model", detail, "unknown_model")


def predictions(known: Known, exchange: PayloadPair) -> tuple[list[Prediction], list[RejectedEvent]]:
    """The predictions of an exchange, one a row; and the rows that are none.

    Raises
    ------
    EventError
        When request and response do not go together, or with the configuration.
    """
    said = answers(known, exchange.response.columns)
    given = inputs(known, exchange.request.columns)
    count = len(said) if given is None else len(given)
    if exchange.response.failed:
        count = 1 if given is None else count
        said = [Answer(None)] * count
    if len(said) != count:
        detail = f"the request has {count} rows, the response {len(said)}; mapping.batched says whether there are rows"
        raise EventError("", detail, "malformed")
    code = exchange.code if exchange.code is not None else 500 if exchange.response.failed else None
    base = exchange.id or exchange.response.id or exchange.request.id
    shared = {
        "model": known.config.name,
        "version": exchange.version or exchange.response.version or exchange.request.version or None,
        "time": exchange.time,
        "duration_seconds": exchange.duration_seconds,
        "code": code,
    }
    documents = [
        {
            **shared,
            "id": base if count == 1 or not base else f"{base}-{place}",
            "inputs": encoded(given[place]) if given and given[place] else msgspec.Raw(),
            "prediction": answer.prediction,
            "confidence": answer.confidence,
        }
        for place, answer in enumerate(said)
    ]
    return checked(documents)


def checked(documents: Sequence[dict[str, Any]]) -> tuple[list[Prediction], list[RejectedEvent]]:
    """Predictions of the fields given, as strictly as those that come by ``POST /v1/predictions``."""
    try:
        return msgspec.convert(documents, list[Prediction]), []
    except msgspec.ValidationError:
        pass
    good, rejected = [], []
    for place, document in enumerate(documents):
        try:
            good.append(msgspec.convert(document, Prediction))
        except msgspec.ValidationError as error:
            path, detail, reason = explain(error, document)
            rejected.append(RejectedEvent(place, json_pointer(path), detail, reason))
    return good, rejected


def encoded(row: Mapping[str, Any]) -> msgspec.Raw:
    """A row's inputs as JSON."""
    try:
        return msgspec.Raw(msgspec.json.encode(row))
    except (OverflowError, UnicodeEncodeError):  # a whole number of more than 64 bits
        return msgspec.Raw(msgspec.json.encode(sanitize(dict(row))))


def inputs(known: Known, columns: Sequence[Column]) -> list[dict[str, Any]] | None:
    """The rows of a request by the names of the model's inputs; None without any column.

    Raises
    ------
    EventError
        When columns have different numbers of rows, or another width than their names.
    """
    wanted = known.config.mapping.inputs
    types = known.profile.inputs if known.profile else {}
    columns = [batch(known, column) for column in columns if wanted.get(column.name, "") is not None]
    if not columns:
        return None
    if len(columns) > MAX_COLUMNS:
        raise EventError("/inputs", f"expected at most {MAX_COLUMNS} columns, got {len(columns)}", "too_large")
    if len({len(column.values) for column in columns}) > 1:
        sizes = {column.name: len(column.values) for column in columns}
        raise EventError("/inputs", f"expected as many rows of each, got {preview(sizes)}", "malformed")
    found: dict[str, Sequence[Any]] = {}
    left = []
    for column in columns:
        target = wanted.get(column.name)
        if isinstance(target, tuple):
            found |= _spread(column, target)
        elif target is not None:
            found[target] = _single(column.values, types.get(target))
        elif column.names:
            places = _spread(column, column.names)
            named = {name: wanted.get(name, name) for name in places}
            found |= {goal: places[name] for name, goal in named.items() if isinstance(goal, str)}
        elif column.name in types:
            found[column.name] = _single(column.values, types[column.name])
        else:
            left.append(column)
    for column in left:
        guessed = _guess(column, types, found) if len(left) == 1 else None
        found |= guessed or {column.name: _unknown(known, column.values)}
    if not found:
        return [{} for _ in columns[0].values]
    names = tuple(found)
    return [dict(zip(names, values, strict=True)) for values in zip(*found.values(), strict=True)]


def _guess(column: Column, types: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Sequence[Any]] | None:
    """The one column that nothing is said about, by what the profile expects; None where it fits nothing."""
    free = {name: kind for name, kind in types.items() if name not in found}
    images = [name for name, kind in free.items() if kind == "image"]
    first = column.values[0] if column.values else None
    if len(images) == 1 and isinstance(first, list) and first and isinstance(first[0], list):
        return {images[0]: _single(column.values, "image")}
    if len(free) == 1:
        name, kind = next(iter(free.items()))
        return {name: _single(column.values, kind)}
    if free and isinstance(first, list) and len(first) == len(free):
        return _spread(column, tuple(free))
    return None


def _unknown(known: Known, values: Sequence[Any]) -> Sequence[Any]:
    """Values of what is no input by name: missing ones where a redacted input may be among them."""
    return [None] * len(values) if known.config.redact else _single(values, None)


def _spread(column: Column, names: tuple[str, ...]) -> dict[str, Sequence[Any]]:
    """A column whose values have a place for each name."""
    values = [value if isinstance(value, list) else [value] for value in column.values]
    for value in values:
        if len(value) != len(names):
            detail = f"expected {len(names)} values a row, for {preview(names)}, got {len(value)}"
            raise EventError(f"/{column.name}", detail, "malformed")
    return {name: [value[place] for value in values] for place, name in enumerate(names)}


def _single(values: Sequence[Any], kind: str | None) -> Sequence[Any]:
    if kind == "image":
        return [_image(value) for value in values]
    return values if kind == "embedding" else [alone(value) for value in values]


def _image(value: Any) -> Any:
    """An image with its channels last; pixels in a row are a square one."""
    if not isinstance(value, list) or not are_numbers(value):
        return alone(value)
    try:
        pixels = np.array(value)
    except ValueError:  # ragged: no image, and counted as such
        return value
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1 and side * side == pixels.size:
        return pixels.reshape(side, side).tolist()
    if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS and pixels.shape[2] not in _CHANNELS:
        return np.moveaxis(pixels, 0, -1).tolist()
    return value
