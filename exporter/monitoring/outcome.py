"""Compare predictions with their labels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from exporter.config import ModelConfig, Task
from exporter.features.extract import scalar_text
from exporter.profiles.profile import CategoricalFeature, Profile

MAX_ERROR = 1e15
"""A label that is further from its prediction is not usable: it would hide all other errors of the sums for ever."""
MAX_LABELS = 20
"""Classes that have a name of their own in metrics."""
OTHER = "other"
_MAX_LENGTH = 64
_SCALARS = (str, bool, int, float)
_NUMBERS = frozenset({int, float, str})  # as in columns, a text may hold a number


class Scorer:
    """Compares the predictions of a model with their labels.

    Parameters
    ----------
    task
        What the model does; None if the type of each prediction says it: a JSON number with a decimal point, such as
        3.0, is predicted by a regression, and anything else is a class.
    classes
        Classes that the model is known to predict, the most frequent first.

    Examples
    --------
    >>> Scorer("classification").loss("7", 7.0), Scorer("classification").loss(True, "false")
    (0.0, 1.0)
    >>> Scorer("regression").loss(1.5, 1), Scorer("regression").loss(1, "1.5"), Scorer("regression").loss(1.5, "one")
    (0.5, 0.5, None)
    >>> Scorer(None).loss(1.5, 1), Scorer(None).loss(1, 3)
    (0.5, 1.0)
    """

    def __init__(self, task: Task | None = None, classes: Sequence[str] = ()) -> None:
        self.task = task
        self.classes = classes

    @classmethod
    def of_model(cls, config: ModelConfig, profile: Profile | None) -> Scorer:
        """Return the scorer of a model: its task is the configured one, else that of the profile."""
        prediction = profile.prediction if profile else None
        classes = prediction.categories if isinstance(prediction, CategoricalFeature) else ()
        return cls(config.task or (task_of(profile) if profile else None), classes)

    def is_number(self, prediction: Any) -> bool:
        """Return whether a prediction is a number that may be more or less wrong, and not a class."""
        return self.task == "regression" or (self.task is None and isinstance(prediction, float))

    def loss(self, prediction: Any, label: Any) -> float | None:
        """Return how wrong a prediction is.

        Parameters
        ----------
        prediction, label
            JSON values.

        Returns
        -------
        float or None
            For a class 0 if the label is the same, else 1. They are compared by their text, as in profiles: 7, 7.0 and
            "7" are the same. For a number its distance from the label. None if the two cannot be compared.
        """
        if self.is_number(prediction):
            return _distance(prediction, label)
        if not isinstance(prediction, _SCALARS) or not isinstance(label, _SCALARS):
            return None
        if isinstance(label, float) and not math.isfinite(label):  # no JSON value, but one of a table
            return None
        return float(scalar_text(prediction) != scalar_text(label))


def _distance(prediction: Any, label: Any) -> float | None:
    if type(prediction) not in _NUMBERS or type(label) not in _NUMBERS:
        return None
    try:
        distance = abs(float(label) - float(prediction))
    except (ValueError, OverflowError):
        return None
    return distance if distance <= MAX_ERROR else None  # NaN is not


def task_of(profile: Profile) -> Task | None:
    """Return what a profile says about the model: by its labels, else by its predictions; None without any."""
    if profile.quality:
        return "classification" if profile.quality.kind == "accuracy" else "regression"
    if profile.prediction is None:
        return None
    return "classification" if isinstance(profile.prediction, CategoricalFeature) else "regression"


class LabelNames:
    """The names of classes in metrics: the first `MAX_LABELS` have their own, all further ones are ``other``.

    Parameters
    ----------
    classes
        Classes that have names before any others.

    Examples
    --------
    >>> names = LabelNames(["yes"])
    >>> [names.name(str(number)) for number in range(20)][-2:], names.name("yes"), names.name("0")
    (['18', 'other'], 'yes', '0')
    """

    def __init__(self, classes: Iterable[str] = ()) -> None:
        self._names: dict[str | bytes, str] = {}  # by the text, or by the hash of a long one
        for text in classes:
            self.name(text)

    def name(self, text: str) -> str:
        """Return the name of a class; a long text is cut."""
        is_long = len(text) > _MAX_LENGTH
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() if is_long else text
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MAX_LABELS:
                return OTHER
            name = self._names[key] = f"{text[: _MAX_LENGTH - 1]}…" if is_long else text
        return name
