"""From outputs to a prediction and its confidence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.profile import CategoricalFeature, Profile
from exporter.validation import shown, suggestion
from exporter.wire.body import MAX_ROWS, Column

CONFIDENCES = frozenset(
    ["confidence", "output_probability", "predict_proba", "proba", "probabilities", "probability", "score", "scores"]
)
"""Outputs that are taken for the confidence, where there are others for the prediction."""
_PLACEHOLDER = re.compile(r"t:\d+")  # Seldon's name of a class without one
_SUM = 0.05  # so far may 16-bit probabilities be from 1 together


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
        detail = f"expected {len(said)} rows as {shown(main.name)} has, got {len(sure[0].values)}"
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
    raise EventError("/outputs", f"mapping.{key} is {shown(name)}; {suggestion(name, known)}", "missing_field")


def _confidence(value: Any, own: bool) -> Any:
    """The greatest of probabilities, or a number; what is no share is refused where the user named the output."""
    shares = [share for share in (value if isinstance(value, list) else [value]) if type(share) in {int, float}]
    share = max(shares, default=None)
    return share if own or share is None or 0 <= share <= 1 else None


def _answer(known: Known, value: Any, names: tuple[str, ...]) -> Answer:
    value = alone(value)
    labels = known.config.mapping.labels
    if not isinstance(value, list):
        return _scalar(value, labels)
    if not value or not set(map(type, value)) <= {int, float}:
        return Answer(None)
    target = known.profile.prediction if known.profile else None
    shares = min(value) >= 0 and max(value) <= 1
    classes = _classes(len(value), labels, names, target)
    if not (classes or isinstance(target, CategoricalFeature) or (shares and abs(sum(value) - 1) <= _SUM)):
        return Answer(None)
    best = max(range(len(value)), key=value.__getitem__)
    return Answer(classes[best] if classes else best, max(value) if shares else None)


def _classes(count: int, labels: tuple[Any, ...], names: tuple[str, ...], target: Any) -> Sequence[Any]:
    """The classes that scores are about, in their order: the configuration's, the response's own, or the profile's."""
    if labels:
        if len(labels) != count:
            detail = f"mapping.labels has {len(labels)}, the output {count} scores a row"
            raise EventError("/outputs", detail, "malformed")
        return labels
    if len(names) == count and not all(map(_PLACEHOLDER.fullmatch, names)):
        return names
    if isinstance(target, CategoricalFeature) and len(seen := {*target.categories, *target.rare}) == count:
        return sorted(seen, key=_order)
    return ()


def _order(category: str) -> tuple[float, str]:
    """As scikit-learn sorts classes: numbers by value, before texts by their characters."""
    try:
        return (number if math.isfinite(number := float(category)) else math.inf), category
    except ValueError:
        return math.inf, category


def _scalar(value: Any, labels: tuple[Any, ...]) -> Answer:
    """A value; with labels the place of one, or the probability of the second of two."""
    if isinstance(value, dict):
        return Answer(None)
    if labels and type(value) in {int, float}:
        if value == int(value) and 0 <= value < len(labels):
            return Answer(labels[int(value)])
        if len(labels) == 2 and 0 <= value <= 1:
            return Answer(labels[value >= 0.5], max(value, 1 - value))
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
