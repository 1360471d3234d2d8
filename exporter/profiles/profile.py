"""Training profiles: bins frozen on the training data, and training statistics.

Live values are counted in the bins of the profile, so a score never depends on the data that it judges.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from exporter.config import ModelConfig
from exporter.features.base import InputType
from exporter.features.types import State, input_type
from exporter.profiles.block_record import Blocks
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION, Quality
from exporter.profiles.weights_record import Weights
from exporter.stats.divergence import Floats, chi2_quantiles

FORMAT = "model-exporter-profile/1"
MAX_RARE = 10_000
"""Most rare categories that a profile keeps; categories beyond them count as unseen."""


class NumericFeature(msgspec.Struct, frozen=True, tag_field="type", tag="numeric", omit_defaults=True):
    """Frozen bins of a numeric feature.

    Attributes
    ----------
    edges
        ``E`` increasing edges of half-open bins ``[edge, next edge)``. The first is the training minimum, the last is
        just above the training maximum. The bin of a single value reaches from an edge to the next float above it.
    counts
        Number of training values in each of ``E + 3`` bins: below, between the edges, above, missing, invalid.
    mean, stddev, min, max
        Statistics of the finite training values; None without any. ``stddev`` is that of the population.
    precision
        ``"single"`` where the training data are 32-bit numbers. Live values are then rounded to 32 bits before they
        are binned, since 0.1 in JSON is not the 0.1 of 32 bits.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float | None = None
    stddev: float | None = None
    min: float | None = None
    max: float | None = None
    precision: Literal["single"] | None = None

    def labels(self) -> list[str]:
        """Return the values of the ``bin`` label, in the order of the bins."""
        if not self.edges:
            return _numbered(["any", "missing", "invalid"])
        inner = []
        top = math.nextafter(self.edges[-1], -math.inf)
        for before, low, high in zip((-math.inf, *self.edges), self.edges, self.edges[1:], strict=False):
            if high == math.nextafter(low, math.inf):
                inner.append(f"{low:.6g}")
                continue
            follows_single = low == math.nextafter(before, math.inf)  # the bin before holds a single value
            left = f"({before:.6g}" if follows_single else f"[{low:.6g}"
            inner.append(f"{left}, {top:.6g}]" if high == self.edges[-1] else f"{left}, {high:.6g})")
        return _numbered([f"below {self.edges[0]:.6g}", *inner, f"above {top:.6g}", "missing", "invalid"])


class CategoricalFeature(msgspec.Struct, frozen=True, tag_field="type", tag="categorical"):
    """Frozen bins of a categorical feature.

    Attributes
    ----------
    categories
        The ``C`` most frequent categories of the training data, most frequent first.
    counts
        Number of training values in each of ``C + 3`` bins: the categories, other, missing, invalid.
    rare
        Further categories of the training data, counted in ``other``.
    """

    categories: tuple[str, ...]
    counts: tuple[int, ...]
    rare: frozenset[str] = frozenset()

    def labels(self) -> list[str]:
        """Return the values of the ``bin`` label, in the order of the bins."""
        names = [name if len(name) <= 64 else f"{name[:63]}…" for name in self.categories]
        return _numbered([*names, "other", "missing", "invalid"])


Feature = NumericFeature | CategoricalFeature


class Correlation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Correlation of numeric features in training; see `exporter.profiles.correlation`.

    Attributes
    ----------
    features
        Names of the ``d`` features.
    rows
        Number of training rows that have all of them.
    scale
        How much more samples of the training data vary than samples of a normal copula.
    values
        Correlations of the normal scores: the lower triangle, row by row.
    """

    features: tuple[str, ...]
    rows: int
    scale: float
    values: tuple[float, ...]


class Profile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="format", tag=FORMAT
):
    """Reference distributions of a model's training data.

    Attributes
    ----------
    inputs
        Type of each input as a client sends it.
    input_names
        The inputs in the order of the training data's columns; empty where that is not known.
    features
        Frozen bins of each scalar feature. An image has several features, named ``<input>.<statistic>``.
    prediction
        Frozen bins of the model's predictions on its training data.
    hash
        See `digest`.
    confidence
        Frozen bins of the model's confidence in these predictions.
    learned
        State that some input types learned from the training data, by input.
    correlation
        Correlation of the numeric features, where at least two of them vary.
    quality
        How good the model was on labelled rows.
    blocks
        How much blocks of consecutive rows differ from each other.
    weights
        How much the predictions depend on each feature; None without predictions.
    """

    name: str
    rows: int
    inputs: dict[str, str]
    features: dict[str, Feature]
    prediction: Feature | None = None
    created: datetime | None = None
    hash: str = ""
    input_names: tuple[str, ...] = ()
    confidence: NumericFeature | None = None
    learned: dict[str, State] | None = None
    correlation: Correlation | None = None
    quality: Quality | None = None
    blocks: Blocks | None = None
    weights: Weights | None = None

    def targets(self, names: Iterable[str] | None = None) -> dict[str, Feature]:
        """Return the bins of features, all when None, and after them those of the prediction and the confidence."""
        outputs = {PREDICTION: self.prediction, CONFIDENCE: self.confidence}
        chosen = {name: self.features[name] for name in (self.features if names is None else names)}
        return {**chosen, **{name: feature for name, feature in outputs.items() if feature}}

    def input_types(self) -> dict[str, InputType]:
        """Return the type of each input, with the state that it learned."""
        learned = self.learned or {}
        return {name: input_type(kind, learned.get(name)) for name, kind in self.inputs.items()}

    def digest(self) -> str:
        """Return the SHA-256 of the profile's canonical JSON, which identifies the bins.

        The hash itself and the time are left out.
        """
        body = msgspec.structs.replace(self, hash="", created=None)
        return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()

    def known_hash(self) -> str:
        """Return the hash that the file holds, or, without one, compute it."""
        return self.hash or self.digest()

    def quantile_array(self) -> Floats:
        """Return the χ² quantiles of all noise floors, indexed by degrees of freedom.

        They are one less than the bins with values, and the pairs of the features that vary.
        """
        most_bins = max((len(target.counts) for target in self.targets().values()), default=1)
        correlated = len(self.correlation.features) if self.correlation else 0
        return chi2_quantiles(max(most_bins - 1, correlated * (correlated - 1) // 2))


def _numbered(names: list[str]) -> list[str]:
    width = max(2, len(str(len(names) - 1)))
    return [f"{index:0{width}d} {name}" for index, name in enumerate(names)]


def image_inputs(model: ModelConfig, profile: Profile | None) -> frozenset[str]:
    """Return the names of a model's inputs that are images, by its profile or its configuration."""
    profiled = profile.inputs if profile else {}
    configured = {name: feature.type for name, feature in model.features.items()}
    return frozenset(name for name, kind in (*profiled.items(), *configured.items()) if kind == "image")
