"""Training profiles: bins frozen on the training data, training statistics, and their file format.

A profile is a readable JSON file. Live values are counted in its bins, so a score never depends on the data that it
judges.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from exporter.config import ModelConfig
from exporter.errors import ProfileError
from exporter.features.base import InputType
from exporter.features.types import INPUT_TYPES, State, input_type
from exporter.profiles.block_record import Blocks, check_blocks
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION, Quality, check_quality
from exporter.profiles.season_record import Season, check_season
from exporter.profiles.weights_record import Weights, check_weights
from exporter.stats.chi2 import chi2_quantiles, quantile_array
from exporter.stats.divergence import Floats
from exporter.validation import explain, format_path, preview, similar_file

FORMAT = "model-exporter-profile/1"
MAX_VALUES = 10**15
"""Most training values of a feature: up to here, floating-point shares are exact enough to see one more value."""
MAX_MIB = 256
"""Largest file of a profile. With weekly seasons, 1,000 numeric features of 24 bins take 36 MiB."""
MAX_RARE = 10_000
"""Most rare categories that a profile keeps; categories beyond them count as unseen."""


class NumericFeature(msgspec.Struct, frozen=True, tag_field="type", tag="numeric"):
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
    precision: Literal["single"] | msgspec.UnsetType = msgspec.UNSET

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
_Degrees = Annotated[str, msgspec.Meta(pattern="^[1-9][0-9]{0,8}$")]  # keys of JSON objects are strings
_Quantile = Annotated[float, msgspec.Meta(gt=0)]


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


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reference distributions of a model's training data.

    Attributes
    ----------
    inputs
        Type of each input as a client sends it.
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
    noise_quantiles
        χ² quantiles of the noise floors by degrees of freedom, see `exporter.stats.chi2`.
    quality
        How good the model was on labelled rows.
    blocks
        How much blocks of consecutive rows differ from each other; profiles of before have none.
    season
        The distributions by hour; unset where none changes with the hour, and where that was not asked for.
    weights
        How much the predictions depend on each feature; unset without predictions, and in profiles of before.
    """

    name: str
    rows: int
    inputs: dict[str, str]
    features: dict[str, Feature]
    prediction: Feature | None = None
    created: datetime | None = None
    format: str = FORMAT
    hash: str = ""
    # Fields that are unset in older profiles are left out of the JSON, so that the hashes of those stay valid.
    confidence: NumericFeature | msgspec.UnsetType = msgspec.UNSET
    learned: dict[str, State] | msgspec.UnsetType = msgspec.UNSET
    correlation: Correlation | msgspec.UnsetType = msgspec.UNSET
    noise_quantiles: dict[_Degrees, _Quantile] | msgspec.UnsetType = msgspec.UNSET
    quality: Quality | msgspec.UnsetType = msgspec.UNSET
    blocks: Blocks | msgspec.UnsetType = msgspec.UNSET
    weights: Weights | msgspec.UnsetType = msgspec.UNSET
    season: Season | msgspec.UnsetType = msgspec.UNSET

    def targets(self, names: Iterable[str] | None = None) -> dict[str, Feature]:
        """Return the bins of features, all when None, and after them those of the prediction and the confidence."""
        outputs = {PREDICTION: self.prediction, CONFIDENCE: self.confidence or None}
        chosen = {name: self.features[name] for name in (self.features if names is None else names)}
        return {**chosen, **{name: feature for name, feature in outputs.items() if feature}}

    def input_types(self) -> dict[str, InputType]:
        """Return the type of each input, with the state that it learned."""
        learned = self.learned or {}
        return {name: input_type(kind, learned.get(name)) for name, kind in self.inputs.items()}

    def digest(self) -> str:
        """Return the SHA-256 of the profile's canonical JSON, which identifies the bins.

        The hash itself and the time are left out, and so are the noise quantiles, which follow from the bins.
        """
        body = msgspec.structs.replace(self, hash="", created=None, noise_quantiles=msgspec.UNSET)
        return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()

    def known_hash(self) -> str:
        """Return the hash that the file holds, or, without one, compute it."""
        return self.hash or self.digest()

    def quantiles(self) -> dict[int, float]:
        """Return all χ² quantiles that the noise floors may need; those the profile lacks are computed, with scipy.

        Older profiles have none. A table in the code would not do for them, since the number of bins has no bound.
        """
        stored = {int(degrees): quantile for degrees, quantile in (self.noise_quantiles or {}).items()}
        missing = self._noise_degrees() - stored.keys()
        return stored | chi2_quantiles(missing) if missing else stored

    def _noise_degrees(self) -> set[int]:
        """Degrees of freedom: one less than the bins with values, and the pairs of the features that vary."""
        most_bins = max((len(target.counts) for target in self.targets().values()), default=0)
        correlated = len(self.correlation.features) if self.correlation else 0
        return {*range(1, most_bins), *(size * (size - 1) // 2 for size in range(2, correlated + 1))}

    def quantile_array(self) -> Floats:
        """Return `quantiles` as an array indexed by degrees of freedom."""
        return quantile_array(self.quantiles())


def _numbered(names: list[str]) -> list[str]:
    width = max(2, len(str(len(names) - 1)))
    return [f"{index:0{width}d} {name}" for index, name in enumerate(names)]


def save(profile: Profile, path: Path) -> None:
    """Write a profile as indented JSON, with the time, its hash and its noise quantiles; the file appears at once.

    Raises
    ------
    ProfileError
        When it would be larger than those that can be read.
    """
    profile = msgspec.structs.replace(
        profile,
        created=datetime.now(UTC).replace(microsecond=0),
        hash=profile.digest(),
        noise_quantiles={str(degrees): quantile for degrees, quantile in profile.quantiles().items()},
    )
    data = msgspec.json.format(msgspec.json.encode(profile, order="deterministic"), indent=1) + b"\n"
    if len(data) > MAX_MIB * 2**20:
        raise ProfileError(f"{path}: would be larger than {MAX_MIB} MiB: profile fewer columns, bins or categories")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def load(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    ProfileError
        When the file cannot be read, is not a profile, has another format version, was changed after it was written,
        or contradicts itself.
    """
    try:
        if path.stat().st_size > MAX_MIB * 2**20:
            raise ProfileError(f"{path}: is not a profile: it is larger than {MAX_MIB} MiB")
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}{similar_file(path)}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProfileError(
            f"{path}: is not a profile: expected the JSON that 'model-exporter profile' writes"
        ) from None
    version = document.get("format") if isinstance(document, dict) else None
    if version != FORMAT:
        detail = f"its format is {preview(version)}" if version else "it has no format"
        raise ProfileError(f"{path}: is not a profile that this version reads: {detail}, expected {preview(FORMAT)}")
    try:
        profile = msgspec.convert(document, Profile)
    except msgspec.ValidationError as error:
        key_path, detail, _ = explain(error, document)
        raise ProfileError(f"{path}: {format_path(key_path)}: {detail}") from None
    if profile.hash and profile.hash != profile.digest():
        raise ProfileError(f"{path}: was changed after it was made: its hash differs; make it again, or drop the hash")
    try:
        _check(profile)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None
    return profile


def _check(profile: Profile) -> None:
    _check_features(profile)
    _check_inputs(profile)
    if profile.correlation:
        _check_correlation(profile.correlation, profile.features)
    bins = {name: len(target.counts) for name, target in profile.targets().items()}
    if profile.quality:
        check_quality(profile.quality, bins)
    if profile.season:
        check_season(profile.season, bins)
    if profile.blocks:
        check_blocks(profile.blocks, profile.targets())
    if profile.weights:
        check_weights(profile.weights, profile.features)


def _check_features(profile: Profile) -> None:
    for name, feature in profile.targets().items():
        numeric = isinstance(feature, NumericFeature)
        inner = len(feature.edges) if isinstance(feature, NumericFeature) else len(feature.categories)
        if len(feature.counts) != inner + 3 or min(feature.counts) < 0:
            expected = f"{inner + 3} counts of at least 0 for {inner} {'edges' if numeric else 'categories'}"
            raise ProfileError(f"features.{name}.counts: expected {expected}, got {len(feature.counts)}")
        if sum(feature.counts) > MAX_VALUES:
            raise ProfileError(f"features.{name}.counts: expected at most {MAX_VALUES:g} values in total")
        if isinstance(feature, NumericFeature) and not all(low < high for low, high in pairwise(feature.edges)):
            raise ProfileError(f"features.{name}.edges: expected increasing numbers")


def _check_inputs(profile: Profile) -> None:
    learned = profile.learned or {}
    for name, kind in profile.inputs.items():
        if kind not in INPUT_TYPES:
            valid = ", ".join(INPUT_TYPES)
            raise ProfileError(f"inputs.{name}: {preview(kind)} is not a valid type; valid values: {valid}")
        if not INPUT_TYPES[kind].accepts_state(learned.get(name)):
            raise ProfileError(f"learned.{name}: is not what the {kind} input {preview(name)} learns in training")
    for name, made in profile.input_types().items():
        expected = CategoricalFeature if made.categorical else NumericFeature
        for feature in made.features(name):
            if not isinstance(profile.features.get(feature), expected):
                raise ProfileError(f"features.{feature}: expected bins of the {made.type} input {preview(name)}")


def _check_correlation(correlation: Correlation, features: dict[str, Feature]) -> None:
    size = len(correlation.features)
    for name in correlation.features:
        feature = features.get(name)
        if not isinstance(feature, NumericFeature) or not feature.edges:
            raise ProfileError(f"correlation.features: {preview(name)} is not a numeric feature of the profile")
    if len(set(correlation.features)) < size or len(correlation.values) != size * (size - 1) // 2:
        expected = f"{size * (size - 1) // 2} numbers for {size} different features"
        raise ProfileError(f"correlation.values: expected {expected}, got {len(correlation.values)}")
    if size < 2 or correlation.rows < 1 or correlation.scale <= 0 or max(map(abs, correlation.values)) > 1:
        raise ProfileError("correlation: expected at least two features, rows, and numbers from -1 to 1")


def image_inputs(model: ModelConfig, profile: Profile | None) -> frozenset[str]:
    """Return the names of a model's inputs that are images, by its profile or its configuration."""
    profiled = profile.inputs if profile else {}
    configured = {name: feature.type for name, feature in model.features.items()}
    return frozenset(name for name, kind in (*profiled.items(), *configured.items()) if kind == "image")
