"""The part of a profile that says how much the model's answers depend on each feature."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import msgspec

from exporter.errors import ProfileError
from exporter.validation import preview

HARDLY_USED = 0.03
"""A model hardly uses a feature whose weight is at most this."""
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class FeatureWeight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the model's answers depend on a feature; see `exporter.stats.feature_weights.FeatureWeights`."""

    weight: _Share
    upper: _Share

    @property
    def is_hardly_used(self) -> bool:
        """Whether the weight is small beyond doubt."""
        return self.upper <= HARDLY_USED


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the model's answers depend on each feature.

    Attributes
    ----------
    rows
        Number of training rows from which it was learned.
    fidelity
        Share of the variance of the answers that the surrogate explains.
    features
        The weight of each feature of the profile.
    """

    rows: int
    fidelity: _Share
    features: dict[str, FeatureWeight]

    @property
    def are_bounded(self) -> bool:
        """Whether the surrogate follows the model well enough to tell what a feature cannot do."""
        return any(feature.upper < 1 for feature in self.features.values())


def check_weights(weights: Weights, features: Collection[str]) -> None:
    """Check that weights do not contradict themselves or their profile.

    Raises
    ------
    ProfileError
        When they do.
    """
    if different := weights.features.keys() ^ set(features):
        raise ProfileError(f"weights.features: expected a weight of each feature; {preview(min(different))} differs")
    for name, weight in weights.features.items():
        if weight.upper < weight.weight:
            raise ProfileError(f"weights.features.{name}.upper: expected at least the weight {weight.weight:g}")
