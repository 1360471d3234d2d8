"""Read the prediction and its confidence from the outputs of a response."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from exporter.config import ModelConfig, Task
from exporter.errors import EventError
from exporter.validation import preview, suggestion
from exporter.wire.payload import MAX_ROWS, Column

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


def read_outputs(model: ConfiguredModel, columns: Sequence[Column]) -> list[ModelOutput]:
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


def _select(model: ConfiguredModel, columns: Sequence[Column]) -> tuple[Column | None, Column | None]:
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


def _configured(by_name: Mapping[str, Column], name: str | None, key: str) -> Column | None:
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


def as_batch(model: ConfiguredModel, column: Column) -> Column:
    """Return a column with one value per row; with ``batched: false`` in the mapping, all of it is one row.

    Raises
    ------
    EventError
        When the column has too many rows.
    """
    if not model.config.mapping.batched:
        return column._replace(values=[list(column.values)])
    if len(column.values) > MAX_ROWS:
        detail = f"expected at most {MAX_ROWS} rows, got {len(column.values)}"
        raise EventError("", detail, "too_large")
    return column
