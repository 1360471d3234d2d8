"""Types of input: from values as a client sends them to columns of scalar features.

Training and serving use the same code, so what differs between them is the data.
"""

from __future__ import annotations

from exporter.config import FEATURE_TYPES
from exporter.features.base import InputType
from exporter.features.categorical import Boolean, Categorical
from exporter.features.embedding import Embedding, EmbeddingLearner, EmbeddingState
from exporter.features.image import Image
from exporter.features.numeric import Numeric
from exporter.features.text import Text, TextLearner, TextState
from exporter.features.timestamp import Timestamp

INPUT_TYPES = FEATURE_TYPES
"""Every type that an input can have."""

State = EmbeddingState | TextState
"""What some types of input learn from the training data."""
Learner = EmbeddingLearner | TextLearner
LEARNERS: dict[str, type[Learner]] = {"embedding": EmbeddingLearner, "text": TextLearner}

_STATELESS: dict[str, InputType] = {
    kind.type: kind for kind in (Boolean(), Categorical(), Image(), Numeric(), Timestamp())
}


def fits(name: str, state: State | None) -> bool:
    """Whether the state is one that the type of that name can work with; None is right for most types."""
    if isinstance(state, EmbeddingState):
        dimension = len(state.centroid)
        return name == "embedding" and dimension > 0 and all(len(row) == dimension for row in state.directions)
    return (name == "text") if isinstance(state, TextState) else name not in LEARNERS


def input_type(name: str, state: State | None = None) -> InputType:
    """The type of input of that name, with what it learned.

    Raises
    ------
    ValueError
        When there is no such type, or the state does not fit it.
    """
    if name not in INPUT_TYPES or not fits(name, state):
        raise ValueError(f"{name} is no type of input, or nothing was learned for it")
    if isinstance(state, TextState):
        return Text(state.words)
    return Embedding(state) if isinstance(state, EmbeddingState) else _STATELESS[name]


__all__ = ["INPUT_TYPES", "LEARNERS", "Categorical", "InputType", "Learner", "State", "Timestamp", "fits", "input_type"]
