"""From outputs to a prediction and its confidence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.profiles.profile import CategoricalFeature, Feature, Profile
from exporter.server.integrations.payload import MAX_ROWS, Column
from exporter.validation import preview, suggestion

CONFIDENCES = frozenset(
    ["confidence", "output_probability", "predict_proba", "proba", "probabilities", "probability", "score", "scores"]
)
"""Outputs that are taken for the confidence, where there are others for the prediction."""
_PLACEHOLDER = re.compile(r"t:\d+")  # Seldon's name of a class without one
_RANKED = re.compile(r"(-?\d{1,9}\.\d{1,30}):(\d{1,9})(?::(.+))?")  # Triton's classification: score, place, label
_ROUNDING = 1e-3  # so far may a 16-bit probability be beyond 0 or 1
_SUM = 0.05  # and all of them from 1 together


class Known(NamedTuple):
    """A configured model and its profile, if it has one."""

    config: ModelConfig
    profile: Profile | None = None


class Answer(NamedTuple):
    """What a model said of one row."""

    prediction: Any
    confidence: float | None = None


def answers(known: Known, columns: Sequence[Column]) -> list[Answer]:
    """What the model said of each row.

    Raises
    ------
    EventError
        When an output that the configuration names is not there.
    """
    chosen = _chosen(known, columns)
    if not chosen:
        return []
    main, *sure = chosen
    said = [_answer(known, value, main.names) for value in main.values]
    if not sure:
        return said
    if len(sure[0].values) != len(said):
        detail = f"expected {len(said)} rows as {preview(main.name)} has, got {len(sure[0].values)}"
        raise EventError(f"/outputs/{sure[0].name}", detail, "malformed")
    own = known.config.mapping.confidence is not None
    return [
        answer._replace(confidence=_confidence(value, own)) for answer, value in zip(said, sure[0].values, strict=True)
    ]


def classes_of(known: Known, columns: Sequence[Column]) -> Sequence[Any]:
    """The classes that a response's scores are about, in their order; none where it has no scores."""
    chosen = _chosen(known, columns)
    first = alone(chosen[0].values[0]) if chosen and chosen[0].values else None
    if not isinstance(first, list):
        return ()
    target = known.profile.prediction if known.profile else None
    return _classes(len(first), known.config.mapping.labels, chosen[0].names, target)


def _chosen(known: Known, columns: Sequence[Column]) -> list[Column]:
    """The output with the prediction, and that with the confidence, if there is one."""
    by_name = {column.name: batch(known, column) for column in columns}
    mapping = known.config.mapping
    chosen = [_named(by_name, name, key) for key, name in _outputs(mapping.prediction, mapping.confidence) if name]
    if mapping.prediction is None:
        others = [name for name in by_name if name not in CONFIDENCES and name != mapping.confidence]
        if not by_name:
            return []
        chosen.insert(0, by_name[(others or list(by_name))[0]])
    if mapping.confidence is None:
        chosen += [by_name[name] for name in by_name if name in CONFIDENCES and name != chosen[0].name][:1]
    return chosen


def _outputs(prediction: str | None, confidence: str | None) -> tuple[tuple[str, str | None], ...]:
    return ("prediction", prediction), ("confidence", confidence)


def _named(by_name: Mapping[str, Column], name: str, key: str) -> Column:
    if name in by_name:
        return by_name[name]
    known = [other[:128] for other in islice(by_name, 20)]
    raise EventError("/outputs", f"mapping.{key} is {preview(name)}; {suggestion(name, known)}", "missing_field")


def _confidence(value: Any, own: bool) -> Any:
    """The greatest of probabilities, or a number; what is no share is refused where the user named the output."""
    numbers = [number for number in (value if isinstance(value, list) else [value]) if type(number) in {int, float}]
    if not numbers:
        return None
    share = _share(max(numbers))
    return max(numbers) if own and share is None else share


def _share(number: float) -> float | None:
    """A number as a share, rounding forgiven; None where it is none."""
    return min(max(number, 0.0), 1.0) if -_ROUNDING <= number <= 1 + _ROUNDING else None


def _answer(known: Known, value: Any, names: tuple[str, ...]) -> Answer:
    value = alone(value)
    labels = known.config.mapping.labels
    target = known.profile.prediction if known.profile else None
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str) and (ranked := _RANKED.fullmatch(first)):
        place = int(ranked[2])
        return Answer(ranked[3] or (labels[place] if place < len(labels) else place), _share(float(ranked[1])))
    if not isinstance(value, list):
        return _scalar(value, labels or _worded(target))
    if not value or not set(map(type, value)) <= {int, float}:
        return Answer(None)
    shares = _share(min(value)) is not None and _share(max(value)) is not None
    classes = _classes(len(value), labels, names, target)
    scores = bool(labels) or isinstance(target, CategoricalFeature) or (target is None and bool(classes))
    if not (scores or (shares and abs(sum(value) - 1) <= _SUM)):
        return Answer(None)
    best = max(range(len(value)), key=value.__getitem__)
    return Answer(classes[best] if classes else best, _share(value[best]) if shares else None)


def _classes(count: int, labels: tuple[Any, ...], names: tuple[str, ...], target: Feature | None) -> Sequence[Any]:
    """The classes that scores are about, in their order: the configuration's, the response's own, or the profile's."""
    if labels:
        if len(labels) != count:
            detail = f"mapping.labels has {len(labels)}, the output {count} scores a row"
            raise EventError("/outputs", detail, "malformed")
        return labels
    if len(names) == count and not all(map(_PLACEHOLDER.fullmatch, names)):
        return names
    seen = _seen(target)
    return seen if len(seen) == count else ()


def _seen(target: Feature | None) -> list[str]:
    """The categories of the training predictions, in order."""
    return sorted({*target.categories, *target.rare}, key=_order) if isinstance(target, CategoricalFeature) else []


def _worded(target: Feature | None) -> Sequence[str]:
    """The same, where a number cannot be one of them and must be the place of one."""
    seen = _seen(target)
    return seen if all(_order(category)[0] == math.inf for category in seen) else ()


def _order(category: str) -> tuple[float, str]:
    """As scikit-learn sorts classes: numbers by value, before texts by their characters."""
    try:
        return (number if math.isfinite(number := float(category)) else math.inf), category
    except ValueError:
        return math.inf, category


def _scalar(value: Any, classes: Sequence[Any]) -> Answer:
    """A value; where there are classes the place of one, or the probability of the second of two."""
    if isinstance(value, dict):
        return Answer(None)
    if classes and type(value) in {int, float}:
        if value == int(value) and 0 <= value < len(classes):
            return Answer(classes[int(value)])
        if len(classes) == 2 and 0 <= value <= 1:
            return Answer(classes[value >= 0.5], max(value, 1 - value))
    return Answer(value)


def alone(value: Any) -> Any:
    """The value in a list of one."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def batch(known: Known, column: Column) -> Column:
    """A column with a value for each row; all of it is one row where the configuration says so.

    Raises
    ------
    EventError
        When it has too many rows.
    """
    if not known.config.mapping.batched:
        return column._replace(values=[list(column.values)])
    if len(column.values) > MAX_ROWS:
        detail = f"expected at most {MAX_ROWS} rows, got {len(column.values)}"
        raise EventError("", detail, "too_large")
    return column
