"""Map tensors and columns to the inputs, prediction and confidence of a model."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from exporter.config import ModelConfig, Task
from exporter.errors import EventError
from exporter.features import is_vector, shown_as
from exporter.features.image import number_array
from exporter.features.json_inputs import sanitize
from exporter.validation import preview, suggestion
from exporter.wire import formats
from exporter.wire.events import MAX_DECODED, MAX_ID, Prediction, RejectedEvent, check_names, check_times

CONFIDENCES = frozenset(
    ["confidence", "output_probability", "predict_proba", "proba", "probabilities", "probability", "score", "scores"]
)
"""Names of outputs that are read as the confidence, if another output has the prediction."""
_RANKED = re.compile(r"(-?\d{1,9}\.\d{1,30}):(\d{1,9})(?::(.+))?")  # Triton's classification: score, index, label
_ROUNDING = 1e-3  # how far a 16-bit probability may be outside 0 to 1
_SUM_TOLERANCE = 0.05  # how far the sum of all probabilities may be from 1


class ConfiguredModel(NamedTuple):
    """A model of the configuration, and what its profile says of it; without a profile, that is nothing.

    Attributes
    ----------
    inputs
        Type of each input.
    order
        The inputs in the order of the training file; None where it is not known.
    task
        Whether the predictions in training are classes or numbers.
    classes
        The classes in training, from `sorted_classes`.
    """

    config: ModelConfig
    inputs: Mapping[str, str] = {}
    order: Sequence[str] | None = None
    task: Task | None = None
    classes: Sequence[str] = ()


class ModelOutput(NamedTuple):
    """The output of a model for one row."""

    prediction: Any
    confidence: float | None = None


def read_outputs(model: ConfiguredModel, columns: Sequence[formats.Column]) -> list[ModelOutput]:
    """Read the prediction and the confidence of each row.

    Raises
    ------
    EventError
        When an output that the configuration names is missing.
    """
    prediction, confidence = _select(model, columns)
    if prediction is None:
        return []
    outputs = [_read_output(model, value, prediction.names) for value in prediction.values]
    if confidence is None:
        return outputs
    if len(confidence.values) != len(outputs):
        detail = f"expected {len(outputs)} rows, as many as {preview(prediction.name)}, got {len(confidence.values)}"
        raise EventError(f"/outputs/{confidence.name}", detail, "malformed")
    configured = model.config.mapping.confidence is not None
    return [
        output._replace(confidence=_confidence(value, configured))
        for output, value in zip(outputs, confidence.values, strict=True)
    ]


def _select(
    model: ConfiguredModel, columns: Sequence[formats.Column]
) -> tuple[formats.Column | None, formats.Column | None]:
    """Return the output with the prediction and the one with the confidence; None if the response has none."""
    by_name = {column.name: as_batch(model, column) for column in columns}
    mapping = model.config.mapping
    prediction = _configured(by_name, mapping.prediction, "prediction")
    confidence = _configured(by_name, mapping.confidence, "confidence")
    if prediction is None:
        if not by_name:
            return None, None
        others = [name for name in by_name if name not in CONFIDENCES and name != mapping.confidence]
        prediction = by_name[(others or list(by_name))[0]]
    if mapping.confidence is None:
        names = [name for name in by_name if name in CONFIDENCES and name != prediction.name]
        confidence = by_name[names[0]] if names else None
    return prediction, confidence


def _configured(by_name: Mapping[str, formats.Column], name: str | None, key: str) -> formats.Column | None:
    """Return the output that the mapping names under a key; None if it names none."""
    if not name:
        return None
    if name not in by_name:
        outputs = [output[:128] for output in islice(by_name, 20)]
        detail = f"mapping.{key} is {preview(name)}; {suggestion(name, outputs)}"
        raise EventError("/outputs", detail, "missing_field")
    return by_name[name]


def _confidence(value: Any, configured: bool) -> Any:
    """Return a number, or the greatest of several, as the confidence.

    Outside 0 to 1 it is ignored; in an output that the configuration names it stays, and validation refuses it.
    """
    numbers = [number for number in (value if isinstance(value, list) else [value]) if type(number) in {int, float}]
    if not numbers:
        return None
    probability = _probability(max(numbers))
    return max(numbers) if configured and probability is None else probability


def _probability(number: float) -> float | None:
    """Return a number as a probability, after rounding errors are removed; None outside 0 to 1."""
    return min(max(number, 0.0), 1.0) if -_ROUNDING <= number <= 1 + _ROUNDING else None


def _read_output(model: ConfiguredModel, value: Any, names: tuple[str, ...]) -> ModelOutput:
    value = unwrap(value)
    labels = model.config.mapping.labels
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str) and (ranked := _RANKED.fullmatch(first)):
        index = int(ranked[2])
        label = ranked[3] or (labels[index] if index < len(labels) else index)
        return ModelOutput(label, _probability(float(ranked[1])))
    if not isinstance(value, list):
        return _read_scalar(value, labels or _texts(model.classes))
    if not value or not set(map(type, value)) <= {int, float}:
        return ModelOutput(None)
    return _read_scores(model, value, names)


def _read_scores(model: ConfiguredModel, scores: list[float], names: tuple[str, ...]) -> ModelOutput:
    """Return the class with the greatest score; no prediction for numbers that are not scores of classes."""
    labels = model.config.mapping.labels
    probabilities = _probability(min(scores)) is not None and _probability(max(scores)) is not None
    classes = _classes(len(scores), labels, names, model.classes)
    has_classes = bool(labels) or model.task == "classification" or (model.task is None and bool(classes))
    if not (has_classes or (probabilities and abs(sum(scores) - 1) <= _SUM_TOLERANCE)):
        return ModelOutput(None)
    best = max(range(len(scores)), key=scores.__getitem__)
    return ModelOutput(classes[best] if classes else best, _probability(scores[best]) if probabilities else None)


def _classes(count: int, labels: Sequence[Any], names: Sequence[str], known: Sequence[str]) -> Sequence[Any]:
    """Return the classes of scores in their order: from the configuration, else the response, else the profile."""
    if labels and len(labels) != count:
        detail = f"mapping.labels names {len(labels)} classes, the output has {count} scores per row"
        raise EventError("/outputs", detail, "malformed")
    return labels or next((classes for classes in (names, known) if len(classes) == count), ())


def sorted_classes(categories: Iterable[str]) -> list[str]:
    """Sort classes as scikit-learn does: numbers by value, then texts by their characters.

    >>> sorted_classes(["yes", "10", "9", "no"])
    ['9', '10', 'no', 'yes']
    """
    return sorted(categories, key=_sort_key)


def _texts(classes: Sequence[str]) -> Sequence[str]:
    """Return the classes if all are texts, so that a number must be the index of one."""
    return classes if all(_sort_key(name)[0] == math.inf for name in classes) else ()


def _sort_key(category: str) -> tuple[float, str]:
    try:
        return (number if math.isfinite(number := float(category)) else math.inf), category
    except ValueError:
        return math.inf, category


def _read_scalar(value: Any, classes: Sequence[Any]) -> ModelOutput:
    """Read a single value; with classes it is the index of one, or the probability of the second of two."""
    if isinstance(value, dict):
        return ModelOutput(None)
    if classes and type(value) in {int, float}:
        if value == int(value) and 0 <= value < len(classes):
            return ModelOutput(classes[int(value)])
        if len(classes) == 2 and 0 <= value <= 1:
            return ModelOutput(classes[value >= 0.5], max(value, 1 - value))
    return ModelOutput(value)


def unwrap(value: Any) -> Any:
    """Return the value in a list of one."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def as_batch(model: ConfiguredModel, column: formats.Column) -> formats.Column:
    """Return a column with one value per row; with ``batched: false`` in the mapping, all of it is one row.

    Raises
    ------
    EventError
        When the column has too many rows.
    """
    if not model.config.mapping.batched:
        return column._replace(values=[list(column.values)])
    if len(column.values) > formats.MAX_ROWS:
        detail = f"expected at most {formats.MAX_ROWS} rows, got {len(column.values)}"
        raise EventError("", detail, "too_large")
    return column


log = logging.getLogger(__name__)

MAX_COLUMNS = 10_000
"""Tensors or columns of a request."""
MAX_ALIAS = 120
"""Characters of an alias: rows add their number."""
_CHANNELS = (1, 3, 4)


Validated = tuple[list[Prediction], list[RejectedEvent]]
"""Predictions, and the rows that are rejected."""


class Exchange(NamedTuple):
    """A request with its response, and what is known of both.

    Attributes
    ----------
    names
        Names of the model, the most specific first.
    id, alias
        The identifier of the prediction, and what else it is called; of several, the prefix of each one's.
    """

    names: Sequence[str | None]
    request: formats.Payload
    response: formats.Payload
    id: str | None = None
    version: str | None = None
    time: datetime | None = None
    duration_seconds: float | None = None
    code: int | None = None
    alias: str | None = None

    @property
    def model_version(self) -> str | None:
        """The version of the model, if request or response name it."""
        return self.version or self.response.version or self.request.version or None

    def predictions(self, model: ConfiguredModel) -> Validated:
        """Return the predictions, one per row, and the rows that are rejected.

        Raises
        ------
        EventError
            When the exchange does not fit itself, or the configuration.
        """
        base_id = self.id or self.response.id or self.request.id
        for name, text in (("id", base_id), ("version", self.model_version)):
            if text and len(text) > MAX_ID:  # each row would have a copy
                raise EventError(f"/{name}", f"expected at most {MAX_ID} characters, got {len(text)}", "too_long")
        outputs = read_outputs(model, self.response.columns)
        rows = map_inputs(model, self.request.columns)
        if failed := self.response.failed:
            outputs = [ModelOutput(None)] * (1 if rows is None else len(rows))
        count = len(outputs)
        if rows is not None and len(rows) != count:
            sides = f"the request has {len(rows)} rows, the response {count}"
            raise EventError("", f"{sides}; without rows, set mapping.batched to false", "malformed")
        alias = other_name((self.alias, self.response.id, self.request.id), base_id)
        common = {
            "model": model.config.name,
            "version": self.model_version,
            "time": self.time,
            "duration_seconds": self.duration_seconds,
            "code": self.code if self.code is not None else 500 if failed else None,
        }
        documents = [
            {
                **common,
                "id": base_id if count == 1 or not base_id else f"{base_id}-{index}",
                "alias": alias if count == 1 or not alias else f"{alias}-{index}",
                "inputs": encode_inputs(rows[index]) if rows and rows[index] else msgspec.Raw(),
                "prediction": output.prediction,
                "confidence": output.confidence,
            }
            for index, output in enumerate(outputs)
        ]
        accepted, rejected = validate(documents)
        return accepted, [msgspec.structs.replace(row, detail=f"row {row.index}: {row.detail}") for row in rejected]


def other_name(names: Iterable[str | None], identifier: str | None) -> str | None:
    """Return the first of the names of a prediction that is not its identifier, and that can be an alias."""
    others = (name for name in names if name and name != identifier)
    return next((name for name in others if len(name) <= MAX_ALIAS and name.isprintable()), None)


class ModelNames:
    """The configured models by the names that requests give them.

    Parameters
    ----------
    models
        The configured models by name.
    """

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        others = {name: model for model in reversed([*models.values()]) for name in model.mapping.names}
        self._models: dict[str, ModelConfig] = {**others, **models}

    def resolve(self, names: Iterable[str | None]) -> ModelConfig:
        """Return the model of the first name that is known.

        Raises
        ------
        EventError
            When none of the names is known.
        """
        given = [name for name in names if name]
        for name in given:
            if name in self._models:
                return self._models[name]
        if not given:
            raise EventError("/model", "is required: the request does not name a model", "missing_field")
        name = given[0]
        detail = f"no model {preview(name)} is configured, and no mapping.names has it"
        raise EventError("/model", f"{detail}; {suggestion(name, self._models)}", "unknown_model")


def validate(documents: Sequence[dict[str, Any]]) -> Validated:
    """Validate predictions as strictly as those sent to ``POST /v1/predictions``."""
    with contextlib.suppress(msgspec.ValidationError, EventError):
        return _checked(msgspec.convert(documents, list[Prediction])), []
    accepted, rejected = [], []
    for index, document in enumerate(documents):
        try:
            accepted += _checked([formats.convert(document, Prediction)])
        except EventError as error:
            rejected.append(RejectedEvent.of(error, index))
    return accepted, rejected


def _checked(predictions: list[Prediction]) -> list[Prediction]:
    check_names(predictions)
    check_times(predictions)
    return predictions


def encode_inputs(row: Mapping[str, Any]) -> msgspec.Raw:
    """Encode the inputs of a row as JSON."""
    try:
        return msgspec.Raw(msgspec.json.encode(row))
    except (OverflowError, UnicodeEncodeError):  # a whole number of more than 64 bits
        return msgspec.Raw(msgspec.json.encode(sanitize(dict(row))))


def map_inputs(model: ConfiguredModel, columns: Sequence[formats.Column]) -> list[dict[str, Any]] | None:
    """Return the rows of a request by the names of the model's inputs; None without columns.

    Raises
    ------
    EventError
        When columns have different numbers of rows, or values of another length than their names, or all names in all
        rows together are too long.
    """
    mapping = model.config.mapping.inputs
    columns = [as_batch(model, column) for column in columns if mapping.get(column.name, "") is not None]
    if not columns:
        return None
    _check_columns(columns)
    mapped = [(column, _map_column(column, mapping, model.inputs)) for column in columns]
    unmapped = [column for column, found in mapped if found is None]
    inputs = {name: values for _, found in mapped if found for name, values in found.items()}
    for column in unmapped:
        guess = _guess_input(model, column, inputs, len(columns) == 1) if len(unmapped) == 1 else None
        # A redacted input may be among the values of one that is not known.
        unknown = [None] * len(column.values) if model.config.redact else _convert_values(column.values, None)
        inputs |= guess or {column.name: unknown}
    rows, names = len(columns[0].values), memoryview(encode_inputs(dict.fromkeys(inputs)))
    if (size := rows * len(names)) > MAX_DECODED:
        detail = f"the names of {len(inputs):,} inputs take {size >> 20} MiB in {rows:,} rows"
        raise EventError("/inputs", f"{detail}, {MAX_DECODED >> 20} MiB are the most: send fewer rows", "too_large")
    if not inputs:
        return [{} for _ in range(rows)]
    return [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]


def _check_columns(columns: Sequence[formats.Column]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise EventError("/inputs", f"expected at most {MAX_COLUMNS} columns, got {len(columns)}", "too_large")
    if len({len(column.values) for column in columns}) > 1:
        sizes = {column.name: len(column.values) for column in columns}
        detail = f"expected the same number of rows in each column, got {preview(sizes)}"
        raise EventError("/inputs", detail, "malformed")


def _map_column(
    column: formats.Column, mapping: Mapping[str, str | tuple[str, ...] | None], types: Mapping[str, str]
) -> dict[str, Sequence[Any]] | None:
    """Return the inputs in a column, by the mapping, the names of its elements, or its own name; None without any."""
    target = mapping.get(column.name)
    if isinstance(target, tuple):
        return _split_column(column, target)
    if target is not None:
        return {target: _convert_values(column.values, types.get(target))}
    if column.names:
        targets = {name: mapping.get(name, name) for name in column.names}
        elements = _split_column(column, column.names)
        return {goal: elements[name] for name, goal in targets.items() if isinstance(goal, str)}
    if column.name in types:
        return {column.name: _convert_values(column.values, types[column.name])}
    return None


def _guess_input(
    model: ConfiguredModel, column: formats.Column, inputs: Mapping[str, Any], is_only: bool
) -> dict[str, Sequence[Any]] | None:
    """Return the inputs in the only column that is not mapped, by what the profile expects; None if nothing fits."""
    free = {name: input_type for name, input_type in model.inputs.items() if name not in inputs}
    images = [name for name, input_type in free.items() if shown_as(input_type) == "picture"]
    first = column.values[0] if column.values else None
    if len(images) == 1 and isinstance(first, list) and first and isinstance(first[0], list):
        return {images[0]: [_image(value) for value in column.values]}
    if len(free) == 1:
        name, input_type = next(iter(free.items()))
        return {name: _convert_values(column.values, input_type)}
    if not free or not isinstance(first, list) or not (is_only or len(first) == len(free)):
        return None
    names = tuple(name for name in model.order or free if name in free)
    split = _split_column(column, names)
    if model.order is None:
        detail = f"has no names for its {len(names)} columns, and the profile has no order of {preview(sorted(names))}"
        raise EventError(f"/{column.name}", f"{detail}: name them in mapping.inputs, or profile again", "malformed")
    _log_order(model.config.name, column.name, names)
    return split


@functools.lru_cache(1000)
def _log_order(model: str, tensor: str, names: tuple[str, ...]) -> None:
    """Log, when it is first done, which inputs the columns of a tensor without names are."""
    log.info("columns of %s of model %r are, in the order of the training file: %s", tensor, model, preview(names, 400))


def _split_column(column: formats.Column, names: tuple[str, ...]) -> dict[str, Sequence[Any]]:
    """Split a column whose values have one element per name."""
    values = [value if isinstance(value, list) else [value] for value in column.values]
    for value in values:
        if len(value) != len(names):
            detail = f"expected {len(names)} values per row, for {preview(names)}, got {len(value)}: see mapping.inputs"
            raise EventError(f"/{column.name}", detail, "malformed")
    return {name: [value[index] for value in values] for index, name in enumerate(names)}


def _convert_values(values: Sequence[Any], input_type: str | None) -> Sequence[Any]:
    if shown_as(input_type) == "picture":
        return [_image(value) for value in values]
    return values if is_vector(input_type) else [unwrap(value) for value in values]


def _image(value: Any) -> Any:
    """Return an image with its channels last; a flat row of pixels is reshaped to a square."""
    pixels = number_array(value, None) if isinstance(value, list) else None
    if pixels is None:
        return unwrap(value)
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1 and side * side == pixels.size:
        return pixels.reshape(side, side).tolist()
    if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS and pixels.shape[2] not in _CHANNELS:
        return np.moveaxis(pixels, 0, -1).tolist()
    return value


_Body = bytes | dict[str, Any] | list[Any] | None
"""The body of a request or response: base64 of any content, compressed by gzip or not; or a document in JSON."""


class ProxyRecord(msgspec.Struct):
    """One request with its response."""

    model: str
    code: Annotated[int, msgspec.Meta(ge=100, le=599)]
    id: str | None = None
    alias: str | None = None
    model_version: str | None = msgspec.field(default=None, name="version")
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    duration_seconds: float | None = None
    request: _Body = None
    response: _Body = None

    @property
    def names(self) -> tuple[str]:
        """The name of the model."""
        return (self.model,)

    def predictions(self, model: ConfiguredModel) -> Validated:
        """Return the predictions, and those rejected; the request counts even if its bodies cannot be read."""
        try:
            accepted, rejected = self._decode().predictions(model)
        except EventError as error:
            accepted, rejected = [], [RejectedEvent.of(error)]
        if not accepted:
            accepted, more = self._exchange(formats.Payload([]), formats.Payload([], failed=True)).predictions(model)
            rejected += more
        return accepted, rejected

    def _decode(self) -> Exchange:
        """Decode the bodies; the body of an error response is ignored."""
        request, response = formats.Payload([]), formats.Payload([], failed=True)
        failed = not 200 <= self.code < 300
        if self.request is not None:
            try:
                request = formats.decode_request(self.request)
            except EventError:
                if not failed:  # the server may have refused the request because it is not valid
                    raise
        if self.response is not None and not failed:
            response = formats.decode_response(self.response)
        return self._exchange(request, response)

    def _exchange(self, request: formats.Payload, response: formats.Payload) -> Exchange:
        known = self.id, self.model_version, self.time, self.duration_seconds, self.code, self.alias
        return Exchange(self.names, request, response, *known)


def read_records(body: bytes, ndjson: bool) -> Iterator[ProxyRecord | EventError]:
    """Yield the records in a body, see `split_documents`; one that is wrong becomes an error in its place."""
    for document in formats.split_documents(body, ndjson):
        yield document if isinstance(document, EventError) else formats.attempt(formats.convert, document, ProxyRecord)
