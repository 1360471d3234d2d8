"""Training profiles: bins frozen on the training data, and training statistics.

Live values are counted in the bins of the profile, so a score never depends on the data that it judges.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np

from exporter.config import ModelConfig
from exporter.errors import ProfileError
from exporter.features import INPUT_TYPES, State, input_type, shown_as
from exporter.features.base import InputType
from exporter.stats.dependence import NoiseRatio
from exporter.stats.divergence import Floats, Reference, chi2_quantiles
from exporter.validation import explain, format_path, preview, similar_file

Order = Literal["file", "time", "shuffled", "grouped", "unsorted"]
FILE, TIME, SHUFFLED, GROUPED, UNSORTED = get_args(Order)
"""Order of the rows: that of the file; of a column of times; none, as the user says; grouped by the values of a column;
or not that of the column of times, and too many to sort."""
_LARGEST = 2**40  # rows of a block
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(ge=0)]


class BlockScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of one target's blocks; see `exporter.stats.dependence.BlockNoise`.

    Attributes
    ----------
    quantiles
        99% quantile of the scores in nats, for each block size.
    effective
        How many independent values tell as much as a block, for each block size.
    dependent
        Whether successive values depend on each other.
    dispersion
        See `exporter.stats.dependence.extrapolated`.
    """

    quantiles: tuple[_Positive, ...]
    effective: tuple[_Positive, ...]
    dependent: bool
    dispersion: Annotated[float, msgspec.Meta(ge=1)] = 1.0


class CorrelationScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of the correlation of features in blocks: the fields of `BlockScores`, with sizes of their own."""

    sizes: tuple[int, ...]
    quantiles: tuple[_Positive, ...]
    effective: tuple[_Positive, ...]
    dependent: bool


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The times of the training rows.

    Attributes
    ----------
    unreadable
        Rows without a time that can be read. They are left out of the blocks.
    earliest, latest
        The first and the last time in Unix seconds.
    """

    unreadable: _Count
    earliest: float
    latest: float


class Blocks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of blocks of consecutive training rows.

    Attributes
    ----------
    order
        `FILE`, `TIME`, `SHUFFLED`, `GROUPED` or `UNSORTED`.
    column
        The column of times, or that by which rows are grouped.
    sizes
        Block sizes, ascending; none where the rows have no order or are fewer than 200.
    targets
        The scores by feature, ``(prediction)`` and ``(confidence)``.
    correlation
        The scores of the correlation of the features; None where it is not known.
    times
        What the column of times holds; unset without one.
    calendar
        Targets of which each value is one stretch of the time, such as a month.
    """

    order: Order
    column: str | None = None
    sizes: tuple[int, ...] = ()
    targets: dict[str, BlockScores] = {}
    correlation: CorrelationScores | None = None
    times: Times | None = None
    calendar: tuple[str, ...] = ()

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the rows is that in which they arrived."""
        return self.order in {FILE, TIME}

    def dispersions(self, names: Sequence[str]) -> Floats:
        """Return the dispersion of each of ``F`` targets by their names, shape ``(F,)``; 1 where it is not known."""
        return np.array([self.targets[name].dispersion if name in self.targets else 1.0 for name in names])

    def noise_ratio(self, names: Sequence[str], reference: Reference) -> NoiseRatio:
        """Return by how much dependence raises the noise floors of some targets.

        Parameters
        ----------
        names
            Names of the ``F`` targets of the reference.
        reference
            Gives the noise floor of independent values.
        """
        chosen = [self.targets.get(name) for name in names]
        if not any(scores and scores.dependent for scores in chosen):
            return NoiseRatio.of_independent_values(len(names))
        unknown = (np.nan,) * len(self.sizes)
        quantiles = np.array([scores.quantiles if scores and scores.dependent else unknown for scores in chosen])
        return NoiseRatio.from_quantiles(np.array(self.sizes, dtype=np.float64), quantiles, reference)


def check_blocks(blocks: Blocks, targets: Mapping[str, object]) -> None:
    """Raise ProfileError where the record contradicts itself, or the ``targets`` of the profile."""
    _check_sizes("blocks", blocks.sizes)
    for name, scores in blocks.targets.items():
        if name not in targets:
            raise ProfileError(f"blocks.targets: {preview(name)} is not a feature of the profile")
        _check_scores(f"blocks.targets.{name}", scores, len(blocks.sizes))
    if blocks.correlation:
        _check_sizes("blocks.correlation", blocks.correlation.sizes)
        _check_scores("blocks.correlation", blocks.correlation, len(blocks.correlation.sizes))
    if blocks.times and blocks.times.earliest > blocks.times.latest:
        raise ProfileError("blocks.times: expected earliest of at most latest")


def _check_sizes(path: str, sizes: Sequence[int]) -> None:
    # The recording rules interpolate between sizes whose logarithms to the base 2 are 1 apart.
    if not all(1 <= size <= _LARGEST for size in sizes) or not all(high == 2 * low for low, high in pairwise(sizes)):
        detail = f"expected whole numbers from 1 to {_LARGEST:,}, each twice the one before, such as 20, 40, 80"
        raise ProfileError(f"{path}.sizes: {detail}; got {preview(list(sizes))}")


def _check_scores(path: str, scores: BlockScores | CorrelationScores, sizes: int) -> None:
    if scores.dependent and not sizes:
        raise ProfileError(f"{path}.dependent: expected false, since there are no sizes")
    for field, values in (("quantiles", scores.quantiles), ("effective", scores.effective)):
        if len(values) != sizes:
            raise ProfileError(f"{path}.{field}: expected {sizes} numbers, got {preview(list(values))}")


PREDICTION, CONFIDENCE = "(prediction)", "(confidence)"
"""Names of the outputs among the features."""
MAX_COMPONENTS, MAX_RESIDUALS = 4, 20


class BinEffects(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The effect of each bin of a feature on an expected value.

    Attributes
    ----------
    rows
        Number of labelled rows in each of the feature's ``K`` bins.
    values
        What each bin adds.
    variances
        What each bin adds to the variance of the loss; empty where it is not used.
    """

    rows: tuple[_Count, ...]
    values: tuple[float, ...]
    variances: tuple[float, ...] = ()


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How good the model was on labelled rows. The loss of a row is 1 or 0, wrong or right, or the absolute error.

    Attributes
    ----------
    kind
        ``"accuracy"`` of a classifier, or the mean ``"absolute_error"`` of a regression.
    rows
        Number of rows with a prediction and a label that can be compared.
    overall
        Accuracy or mean absolute error over all of them.
    unusable
        Number of rows whose label cannot be compared with a prediction.
    calibration_rows, calibration_right
        Number of labelled rows in each bin of the confidence, and of those that are right; empty for a regression and
        without a confidence.
    sampled
        Number of rows from which everything below was learned.
    components
        For a regression, what the bins of a few features add to the expected error.
    residuals
        Features whose bins go with what the calibration or the components leave unexplained: the mean residual of
        each bin. Where such features shift, the estimate is less certain.
    variance
        For a regression, the variance of the error that the components leave.
    large
        For a regression, an error that 95% of the rows do not exceed.
    between_periods
        Variance of the mean residual from one period to another; 0 where the times of the rows are not known.
    """

    kind: Literal["accuracy", "absolute_error"]
    rows: _Count
    overall: _Positive
    unusable: _Count = 0
    calibration_rows: tuple[_Count, ...] = ()
    calibration_right: tuple[_Count, ...] = ()
    sampled: _Count = 0
    components: dict[str, BinEffects] = {}
    residuals: dict[str, BinEffects] = {}
    variance: _Positive = 0.0
    large: _Positive = 0.0
    between_periods: _Positive = 0.0

    @property
    def calibrated_rows(self) -> int:
        """Number of labelled rows with a valid confidence, those that the calibration has."""
        return sum(self.calibration_rows[:-2])

    @property
    def calibrated_right(self) -> int:
        """Number of these rows that are right."""
        return sum(self.calibration_right[:-2])

    @property
    def without_confidence(self) -> float:
        """Share of the labelled rows without a valid confidence; 0 without a calibration."""
        rows = sum(self.calibration_rows)
        return 1 - self.calibrated_rows / rows if rows else 0.0


def check_quality(quality: Quality, bins: Mapping[str, int]) -> None:
    """Check that a quality does not contradict itself or its profile.

    Parameters
    ----------
    quality
        The quality.
    bins
        Number of bins of each feature and output of the profile.

    Raises
    ------
    ProfileError
        When it does.
    """
    if quality.kind == "accuracy" and quality.overall > 1:
        raise ProfileError("quality.overall: expected an accuracy from 0 to 1")
    rows, right = quality.calibration_rows, quality.calibration_right
    expected = bins.get(CONFIDENCE, 0)
    if rows and (len(rows) != expected or len(right) != expected or any(map(int.__gt__, right, rows))):
        detail = f"expected {expected} counts, one for each bin of the confidence, and no more right ones than rows"
        raise ProfileError(f"quality.calibration_rows: {detail}")
    for field, effects in (("components", quality.components), ("residuals", quality.residuals)):
        for name, effect in effects.items():
            if name not in bins:
                raise ProfileError(f"quality.{field}: {preview(name)} is not a feature of the profile")
            if {len(effect.rows), len(effect.values), len(effect.variances) or bins[name]} != {bins[name]}:
                raise ProfileError(f"quality.{field}.{name}: expected {bins[name]} numbers, one for each bin")


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
    counts: tuple[_Count, ...]
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
    counts: tuple[_Count, ...]
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
    rows: Annotated[int, msgspec.Meta(ge=1)]
    scale: Annotated[float, msgspec.Meta(gt=0)]
    values: tuple[Annotated[float, msgspec.Meta(ge=-1, le=1)], ...]


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
    return frozenset(name for name, kind in (*profiled.items(), *configured.items()) if shown_as(kind) == "picture")


MAX_VALUES = 10**15
"""Most training values of a feature: up to here, floating-point shares are exact enough to see one more value."""
MAX_MIB = 256
"""Largest file of a profile."""


def save(profile: Profile, path: Path) -> None:
    """Write a profile as indented JSON, with the time and its hash; the file appears at once.

    Raises
    ------
    ProfileError
        When it would be larger than those that can be read, or cannot be written.
    """
    profile = msgspec.structs.replace(
        profile,
        created=datetime.now(UTC).replace(microsecond=0),
        hash=profile.digest(),
    )
    data = msgspec.json.format(msgspec.json.encode(profile, order="deterministic"), indent=1) + b"\n"
    if len(data) > MAX_MIB * 2**20:
        raise ProfileError(f"{path}: would be larger than {MAX_MIB} MiB: profile fewer columns, bins or categories")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ProfileError(f"{path}: cannot be written: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Raise ProfileError when no profile can be written there: before the work rather than after it."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            raise ProfileError(f"{path}: cannot be written: it is a folder")
    except OSError as error:  # such as a name that is too long, or a folder that may not be entered
        raise ProfileError(f"{path}: cannot be written: {error.strerror}") from None
    if not folder.is_dir():
        raise ProfileError(f"{path}: cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise ProfileError(f"{path}: cannot be written: {folder} is read-only")


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
        raise ProfileError(
            f"{path}: is not a profile that this version reads: {detail}, expected {preview(FORMAT)}: make it again"
        )
    try:
        profile = msgspec.convert(document, Profile)
    except msgspec.ValidationError as error:
        key_path, detail, _ = explain(error, document, choices={"order": get_args(Order)})
        raise ProfileError(f"{path}: {format_path(key_path)}: {detail}") from None
    if profile.hash and profile.hash != profile.digest():
        raise ProfileError(
            f"{path}: was changed after it was written: its hash does not match; create it again, or remove the hash"
        )
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
    if profile.blocks:
        check_blocks(profile.blocks, profile.targets())


def _check_features(profile: Profile) -> None:
    for name, feature in profile.targets().items():
        numeric = isinstance(feature, NumericFeature)
        inner = len(feature.edges) if isinstance(feature, NumericFeature) else len(feature.categories)
        if len(feature.counts) != inner + 3:
            expected = f"{inner + 3} counts for {inner} {'edges' if numeric else 'categories'}"
            raise ProfileError(f"features.{name}.counts: expected {expected}, got {len(feature.counts)}")
        if sum(feature.counts) > MAX_VALUES:
            raise ProfileError(f"features.{name}.counts: expected at most {MAX_VALUES:g} values in total")
        if isinstance(feature, NumericFeature) and not all(low < high for low, high in pairwise(feature.edges)):
            raise ProfileError(f"features.{name}.edges: expected increasing numbers")


def _check_inputs(profile: Profile) -> None:
    learned = profile.learned or {}
    if profile.input_names and sorted(profile.input_names) != sorted(profile.inputs):
        raise ProfileError("input_names: expected each of the inputs once, in the order of the training data")
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
    if size < 2:
        raise ProfileError("correlation: expected at least two features")
    if len({*correlation.features}) < size or len(correlation.values) != size * (size - 1) // 2:
        expected = f"{size * (size - 1) // 2} numbers for {size} different features"
        raise ProfileError(f"correlation.values: expected {expected}, got {len(correlation.values)}")
