"""The file of a training profile, readable JSON: write, read and check it."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec

from exporter.errors import ProfileError
from exporter.features.types import INPUT_TYPES
from exporter.profiles.block_record import check_blocks
from exporter.profiles.profile import FORMAT, CategoricalFeature, Correlation, Feature, NumericFeature, Profile
from exporter.profiles.quality_record import check_quality
from exporter.profiles.weights_record import check_weights
from exporter.validation import explain, format_path, preview, similar_file

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
        key_path, detail, _ = explain(error, document)
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
    if len(set(correlation.features)) < size or len(correlation.values) != size * (size - 1) // 2:
        expected = f"{size * (size - 1) // 2} numbers for {size} different features"
        raise ProfileError(f"correlation.values: expected {expected}, got {len(correlation.values)}")
    if size < 2 or correlation.rows < 1 or correlation.scale <= 0 or max(map(abs, correlation.values)) > 1:
        raise ProfileError("correlation: expected at least two features, rows, and numbers from -1 to 1")
