"""Which segment an event belongs to: a category of one input, or ``other``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.config import OTHER_SEGMENT, ModelConfig
from exporter.features.extract import as_list, scalar_text
from exporter.profiles.profile import CategoricalFeature, Profile
from exporter.stats.divergence import Floats, Ints

DEFAULT_SEGMENTS = 8
"""Segments watched where the configuration names none: the most frequent categories in training."""


class Segments:
    """The segments of a model.

    Parameters
    ----------
    source
        The categorical input that decides.
    watched
        Its values with a segment of their own.

    Examples
    --------
    >>> segments = Segments("country", ["NL", "DE"])
    >>> segments.names
    ('NL', 'DE', 'other')
    >>> [segments.index_of(inputs) for inputs in ({"country": "DE"}, {"country": "XX"}, {"country": [1]}, {}, None)]
    [1, 2, 2, 2, 2]
    """

    def __init__(self, source: str, watched: Sequence[str]) -> None:
        self.source = source
        self.names = (*watched, OTHER_SEGMENT)
        self._places = {name: place for place, name in enumerate(watched)}
        self._other = len(watched)

    @classmethod
    def from_config(cls, config: ModelConfig, profile: Profile) -> Segments | None:
        """Those that a model's configuration asks for; None when it does not."""
        if config.segment_by is None:
            return None
        feature = profile.features[config.segment_by]
        known = feature.categories if isinstance(feature, CategoricalFeature) else ()
        frequent = [name for name in known if 0 < len(name) <= 128 and name != OTHER_SEGMENT]
        return cls(config.segment_by, config.segments or frequent[:DEFAULT_SEGMENTS])

    def index_of(self, inputs: Mapping[str, Any] | None) -> int:
        """The place of an event's segment in `names`, from its decoded inputs."""
        value = inputs.get(self.source) if inputs else None
        return self._places.get(value if isinstance(value, str) else scalar_text(value), self._other)

    def indices_of(self, values: Sequence[Any] | Floats) -> Ints:
        """The place of each value's segment, from a column of the input that decides; shape ``(n,)``.

        >>> Segments("country", ["NL"]).indices_of(["NL", None, "BE"]).tolist()
        [0, 1, 1]
        """
        texts = (value if isinstance(value, str) else scalar_text(value) for value in as_list(values))
        return np.fromiter((self._places.get(text, self._other) for text in texts), dtype=np.intp, count=len(values))

    def index_of_name(self, name: str | None) -> int:
        """The place of a segment's name, as it was stored; what is no longer watched is ``other``."""
        return self._places.get(name or "", self._other)
