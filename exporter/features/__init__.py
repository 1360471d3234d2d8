"""The input types by name, and the order in which training data are recognized as one of them.

A new type is a module with a subclass of `exporter.features.base.InputType`, and an entry here.
"""

from __future__ import annotations

from exporter.features.base import ColumnSample, InputType, Shown
from exporter.features.embedding import Embedding, EmbeddingLearner, EmbeddingState
from exporter.features.image import Image
from exporter.features.scalars import Boolean, Categorical, Numeric, Timestamp
from exporter.features.text import Text, TextLearner, TextState

_INFERENCE_ORDER: tuple[type[InputType], ...] = (Numeric, Boolean, Embedding, Image, Timestamp, Text, Categorical)
INPUT_TYPES = {kind.type: kind for kind in sorted(_INFERENCE_ORDER, key=lambda kind: kind.type)}
"""Every type that an input can have, by its name."""

State = EmbeddingState | TextState
"""State that some input types learn from the training data."""
Learner = EmbeddingLearner | TextLearner
LEARNERS: dict[str, type[Learner]] = {name: kind.learner for name, kind in INPUT_TYPES.items() if kind.learner}


def is_vector(name: str | None) -> bool:
    """Return whether a value of a type is a flat list of numbers."""
    return name in INPUT_TYPES and INPUT_TYPES[name].is_vector


def shown_as(name: str | None) -> Shown:
    """Return how values of a type are shown to people; those of no type as values."""
    return INPUT_TYPES[name].shown_as if name in INPUT_TYPES else "value"


def input_type(name: str, state: State | None = None) -> InputType:
    """Return the input type of that name, with the state that it learned.

    Raises
    ------
    ValueError
        When there is no such type, or the state does not fit it.
    """
    kind = INPUT_TYPES.get(name)
    if kind is None or not kind.accepts_state(state):
        raise ValueError(f"{name} is not a valid input type, or nothing was learned for it")
    return kind.from_state(state)


def infer_type(sample: ColumnSample) -> str:
    """Return the name of the input type that fits a column of training data best."""
    return next(kind.type for kind in _INFERENCE_ORDER if kind.recognizes(sample))
