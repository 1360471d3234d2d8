"""Assign events to segments: the values of one categorical input, or ``other``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.config import OTHER_SEGMENT, ModelConfig
from exporter.features.base import as_list, scalar_text
from exporter.monitoring.binner import Binner
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.profiles.profile import CategoricalFeature, Profile
from exporter.stats.divergence import Floats, Ints

DEFAULT_SEGMENTS = 8
"""Number of segments where the configuration names none: the most frequent categories in training."""


class Segments:
    """The segments of a model.

    Parameters
    ----------
    source
        The categorical input whose values are the segments.
    values
        Values that have a segment of their own.

    Examples
    --------
    >>> segments = Segments("country", ["NL", "DE"])
    >>> segments.names
    ('NL', 'DE', 'other')
    >>> [segments.index_of(inputs) for inputs in ({"country": "DE"}, {"country": "XX"}, {"country": [1]}, {}, None)]
    [1, 2, 2, 2, 2]
    """

    def __init__(self, source: str, values: Sequence[str]) -> None:
        self.source = source
        self.names = (*values, OTHER_SEGMENT)
        self._indices = {name: index for index, name in enumerate(values)}
        self._other = len(values)

    @classmethod
    def from_config(cls, config: ModelConfig, profile: Profile) -> Segments | None:
        """Return the segments of a model's configuration; None without ``segment_by``."""
        if config.segment_by is None:
            return None
        feature = profile.features[config.segment_by]
        categories = feature.categories if isinstance(feature, CategoricalFeature) else ()
        frequent = [name for name in categories if 0 < len(name) <= 128 and name != OTHER_SEGMENT]
        return cls(config.segment_by, config.segments or frequent[:DEFAULT_SEGMENTS])

    def index_of(self, inputs: Mapping[str, Any] | None) -> int:
        """Return the index in `names` of an event's segment, from its decoded inputs."""
        value = inputs.get(self.source) if inputs else None
        return self._indices.get(value if isinstance(value, str) else scalar_text(value), self._other)

    def indices_of(self, values: Sequence[Any] | Floats) -> Ints:
        """Return the index of each segment in a column of the input ``source``, shape ``(n,)``.

        >>> Segments("country", ["NL"]).indices_of(["NL", None, "BE"]).tolist()
        [0, 1, 1]
        """
        texts = (value if isinstance(value, str) else scalar_text(value) for value in as_list(values))
        return np.fromiter((self._indices.get(text, self._other) for text in texts), dtype=np.intp, count=len(values))

    def index_of_name(self, name: str | None) -> int:
        """Return the index of a stored segment; one that is no longer configured is ``other``."""
        return self._indices.get(name or "", self._other)


def segment_divergences(
    binner: Binner, noise: NoiseFloors, segments: Segments, counts: Floats
) -> tuple[Floats, Floats]:
    """Return the divergence of each segment from all training data, and its noise floor.

    Parameters
    ----------
    binner
        Gives the meaning of the counts.
    noise
        The noise floors.
    segments
        The segments.
    counts
        Counts by segment and bin, shape ``(S · B,)``.

    Returns
    -------
    tuple
        Two arrays of shape ``(S, T)``, NaN where nothing was observed.
    """
    counts, reference = counts.reshape(len(segments.names), -1), binner.reference
    observations = np.add.reduceat(counts, reference.starts, axis=1)
    observed = observations > 0
    return (
        np.where(observed, reference.kl_divergence(counts), np.nan),
        np.where(observed, noise.training(observations, reference), np.nan),
    )
