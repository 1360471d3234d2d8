"""Training profiles: bins frozen on the training data, the training statistics, and the file of both.

A profile is a readable JSON file. It decides how live values are binned, so a score never
depends on the data that it judges.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from exporter.config import ModelConfig
from exporter.errors import ProfileError
from exporter.features import INPUT_TYPES, InputType, State, fits, input_type
from exporter.validation import explain, format_path, preview

FORMAT = "model-exporter-profile/1"
MAX_VALUES = 10**15
"""Training values of a feature: so many that one more still changes a share."""
MAX_RARE = 10_000
"""Rare categories a profile remembers; rarer ones count as unseen when they come."""


class NumericFeature(msgspec.Struct, frozen=True, tag_field="type", tag="numeric"):
    """Frozen bins of numbers.

    Attributes
    ----------
    edges
        ``E`` increasing edges of half-open bins ``[e, next)``: the first is the training minimum,
        the last just above the training maximum. A value with a bin of its own lies between an
        edge and the next float above it.
    counts
        Training values in each of ``E + 3`` bins: below, between the edges, above, missing, invalid.
    mean, stddev, min, max
        Of the finite training values; None without any. The deviation is the population's.
    precision
        ``"single"`` where training held 32-bit numbers: live ones are rounded alike before they are
        binned, since 0.1 in JSON is not the 0.1 of 32 bits.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float | None = None
    stddev: float | None = None
    min: float | None = None
    max: float | None = None
    precision: Literal["single"] | msgspec.UnsetType = msgspec.UNSET

    def labels(self) -> list[str]:
        """Names of the bins, in order, as the ``bin`` label bears them."""
        if not self.edges:
            return _numbered(["any", "missing", "invalid"])
        inner = []
        top = math.nextafter(self.edges[-1], -math.inf)
        for before, low, high in zip((-math.inf, *self.edges), self.edges, self.edges[1:], strict=False):
            if high == math.nextafter(low, math.inf):
                inner.append(f"{low:.6g}")
                continue
            after_own = low == math.nextafter(before, math.inf)  # the value before has a bin of its own
            left = f"({before:.6g}" if after_own else f"[{low:.6g}"
            inner.append(f"{left}, {top:.6g}]" if high == self.edges[-1] else f"{left}, {high:.6g})")
        return _numbered([f"below {self.edges[0]:.6g}", *inner, f"above {top:.6g}", "missing", "invalid"])


class CategoricalFeature(msgspec.Struct, frozen=True, tag_field="type", tag="categorical"):
    """Frozen bins of categories.

    Attributes
    ----------
    categories
        The ``C`` most frequent in training, most frequent first.
    counts
        Training values in each of ``C + 3`` bins: the categories, other, missing, invalid.
    rare
        Categories that training saw too, counted in ``other``.
    """

    categories: tuple[str, ...]
    counts: tuple[int, ...]
    rare: frozenset[str] = frozenset()

    def labels(self) -> list[str]:
        """Names of the bins, in order, as the ``bin`` label bears them."""
        names = [name if len(name) <= 64 else f"{name[:63]}…" for name in self.categories]
        return _numbered([*names, "other", "missing", "invalid"])


Feature = NumericFeature | CategoricalFeature


class Correlation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How numeric features went together in training; see `exporter.profiles.correlation`.

    Attributes
    ----------
    features
        Names of the ``d`` features that were compared.
    rows
        Training rows that have all of them.
    scale
        How much further samples of the training data stray than those of a normal copula.
    values
        Correlations of the normal scores, the lower triangle row by row.
    """

    features: tuple[str, ...]
    rows: int
    scale: float
    values: tuple[float, ...]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the training data looked like.

    Attributes
    ----------
    inputs
        Type of each input as a client sends it.
    features
        Frozen bins of each scalar feature; an image has several, named ``<input>.<statistic>``.
    prediction
        Frozen bins of the model's predictions on its training data.
    hash
        SHA-256 of all the rest but the time.
    confidence
        Frozen bins of the model's confidence in these predictions.
    learned
        What the types of some inputs learned from the training data, by input.
    correlation
        How numeric features went together, where at least two of them vary.
    """

    name: str
    rows: int
    inputs: dict[str, str]
    features: dict[str, Feature]
    prediction: Feature | None = None
    created: datetime | None = None
    format: str = FORMAT
    hash: str = ""
    confidence: NumericFeature | msgspec.UnsetType = msgspec.UNSET  # unset ones leave older profiles' hashes alone
    learned: dict[str, State] | msgspec.UnsetType = msgspec.UNSET
    correlation: Correlation | msgspec.UnsetType = msgspec.UNSET

    def input_types(self) -> dict[str, InputType]:
        """The type of each input, with what it learned."""
        learned = self.learned or {}
        return {name: input_type(kind, learned.get(name)) for name, kind in self.inputs.items()}

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of everything but the hash and the time: what decides the bins."""
        body = msgspec.structs.replace(self, hash="", created=None)
        return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()


def _numbered(names: list[str]) -> list[str]:
    width = max(2, len(str(len(names) - 1)))
    return [f"{place:0{width}d} {name}" for place, name in enumerate(names)]


def save(profile: Profile, path: Path) -> None:
    """Write a profile as indented JSON, stamped with the time and its hash, in one step."""
    profile = msgspec.structs.replace(profile, created=datetime.now(UTC).replace(microsecond=0))
    profile = msgspec.structs.replace(profile, hash=profile.digest())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(profile, order="deterministic"), indent=1) + b"\n")
    partial.replace(path)


def load(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    ProfileError
        When the file cannot be read, is something else, is of another format version, was
        changed after it was made, or does not agree with itself.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProfileError(
            f"{path}: is not a profile: expected the JSON that 'model-exporter profile' writes"
        ) from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        what = f"its format is {preview(found)}" if found else "it has no format"
        raise ProfileError(f"{path}: is not a profile that can be read here: {what}, expected {preview(FORMAT)}")
    try:
        profile = msgspec.convert(document, Profile)
    except msgspec.ValidationError as error:
        place, detail, _ = explain(error, document)
        raise ProfileError(f"{path}: {format_path(place)}: {detail}") from None
    if profile.hash and profile.hash != profile.digest():
        raise ProfileError(f"{path}: was changed after it was made: its hash differs; make it again, or drop the hash")
    _agree(profile, path)
    _go_together(profile, path)
    return profile


def _agree(profile: Profile, path: Path) -> None:
    outputs = {"(prediction)": profile.prediction, "(confidence)": profile.confidence}
    features: dict[str, Feature] = {**profile.features, **{name: f for name, f in outputs.items() if f}}
    for name, feature in features.items():
        numeric = isinstance(feature, NumericFeature)
        inner = len(feature.edges) if isinstance(feature, NumericFeature) else len(feature.categories)
        if len(feature.counts) != inner + 3 or min(feature.counts) < 0:
            expected = f"{inner + 3} counts of at least 0 for {inner} {'edges' if numeric else 'categories'}"
            raise ProfileError(f"{path}: features.{name}.counts: expected {expected}, got {len(feature.counts)}")
        if sum(feature.counts) > MAX_VALUES:
            raise ProfileError(f"{path}: features.{name}.counts: expected at most {MAX_VALUES:g} values together")
        if isinstance(feature, NumericFeature) and not all(a < b for a, b in zip(feature.edges, feature.edges[1:])):  # noqa: B905
            raise ProfileError(f"{path}: features.{name}.edges: expected increasing numbers")
    learned = profile.learned or {}
    for name, kind in profile.inputs.items():
        if kind not in INPUT_TYPES:
            raise ProfileError(
                f"{path}: inputs.{name}: {preview(kind)} is no type; known are: {', '.join(INPUT_TYPES)}"
            )
        if not fits(kind, learned.get(name)):
            raise ProfileError(
                f"{path}: learned.{name}: is not what the {kind} input {preview(name)} learns in training"
            )
    for name, made in profile.input_types().items():
        for scalar in made.features(name):
            wanted = CategoricalFeature if made.categorical else NumericFeature
            if not isinstance(profile.features.get(scalar), wanted):
                raise ProfileError(f"{path}: features.{scalar}: expected bins of the {made.type} input {preview(name)}")


def _go_together(profile: Profile, path: Path) -> None:
    together = profile.correlation
    if not isinstance(together, Correlation):
        return
    size = len(together.features)
    for name in together.features:
        bins = profile.features.get(name)
        if not isinstance(bins, NumericFeature) or not bins.edges:
            raise ProfileError(f"{path}: correlation.features: {preview(name)} is no number that the profile has")
    if len(set(together.features)) < size or len(together.values) != size * (size - 1) // 2:
        expected = f"{size * (size - 1) // 2} numbers for {size} different features"
        raise ProfileError(f"{path}: correlation.values: expected {expected}, got {len(together.values)}")
    if size < 2 or together.rows < 1 or together.scale <= 0 or max(map(abs, together.values), default=0) > 1:
        raise ProfileError(f"{path}: correlation: expected two features or more, rows, and numbers from -1 to 1")


def image_inputs(model: ModelConfig, profile: Profile | None) -> frozenset[str]:
    """The inputs of a model that are images: its profile or its configuration says so."""
    known = profile.inputs if profile else {}
    said = {name: feature.type for name, feature in model.features.items()}
    return frozenset(name for name, kind in (*known.items(), *said.items()) if kind == "image")
