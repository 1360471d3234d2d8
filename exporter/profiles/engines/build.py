"""Build a profile of a table where it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from exporter.errors import ProfileError
from exporter.features.base import InputType
from exporter.profiles.block_record import SHUFFLED, Blocks
from exporter.profiles.builder import Progress
from exporter.profiles.engines.category_bins import categorical_features
from exporter.profiles.engines.columns import (
    check_columns,
    feature_columns,
    infer_inputs,
    output_columns,
    seconds,
)
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.correlation import measure_correlation
from exporter.profiles.engines.expressions import Target
from exporter.profiles.engines.first_rows import read_first_rows
from exporter.profiles.engines.numeric_bins import numeric_features
from exporter.profiles.engines.order import Arrival, time_blocks
from exporter.profiles.engines.quality import measure_quality
from exporter.profiles.engines.season import hourly_season
from exporter.profiles.engines.weights import learn_weights
from exporter.profiles.options import Options
from exporter.profiles.profile import Feature, NumericFeature, Profile
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION
from exporter.profiles.season_record import HOURS
from exporter.validation import preview


class Profiled(NamedTuple):
    """A profile of a table.

    Attributes
    ----------
    profile
        The profile.
    skipped
        Why a column is left out, by column.
    sample
        The first rows, by column.
    """

    profile: Profile
    skipped: Mapping[str, str]
    sample: Mapping[str, Any]


def build_table(table: EngineTable, options: Options, progress: Progress) -> Profiled:
    """Build a profile of a table.

    Raises
    ------
    ProfileError
        When it cannot be read, has no rows or no input, or lacks a named column.
    """
    check_columns(table, options)
    rows = int(table.row(table.rows.aggregate(n=table.rows.count()))["n"])
    if not rows:
        raise ProfileError(f"{table.where}: has no rows to profile")
    sample, unreadable = read_first_rows(table, options)
    input_types, skipped = infer_inputs(table, options, sample, unreadable)
    if not input_types:
        detail = "; ".join(f"{preview(name)} {text}" for name, text in [*skipped.items()][:3])
        expected = detail or "expected a column of numbers, texts, booleans or times"
        raise ProfileError(f"{table.where}: has no input: {expected}")
    _check_names(table, input_types)
    columns = feature_columns(table, input_types, options, time.time()) | output_columns(table, options)
    finished = 0

    def done() -> None:
        nonlocal finished
        finished += 1
        progress("values", finished / len(columns), rows)

    numbers = {name: column.values for name, column in columns.items() if not column.categorical}
    categories = {name: column.values for name, column in columns.items() if column.categorical}
    bins: dict[str, Feature] = {**numeric_features(table, numbers, options.bins, done)}
    categorical, texts = categorical_features(table, categories, options.categories, done)
    bins |= categorical
    for name, column in columns.items():
        if column.single and isinstance(feature := bins[name], NumericFeature):
            bins[name] = msgspec.structs.replace(feature, precision="single")
    confidence = bins.get(CONFIDENCE)
    names = (feature for name, input_type in input_types.items() for feature in input_type.features(name))
    features = {name: bins[name] for name in names}
    profile = Profile(
        name=options.name or table.name,
        rows=rows,
        inputs={name: input_type.type for name, input_type in input_types.items()},
        input_names=tuple(input_types),
        features=features,
        prediction=bins.get(PREDICTION),
        confidence=confidence if isinstance(confidence, NumericFeature) else None,
        blocks=Blocks(SHUFFLED),
    )
    targets = {
        name: Target(columns[name].values, feature, texts.get(name, {})) for name, feature in profile.targets().items()
    }
    profile, arrival = _follow_times(table, options, profile, targets, progress)
    seasonal = profile.season.targets if profile.season else ()
    correlation = measure_correlation(table, numbers, features, rows, seasonal)
    profile = msgspec.structs.replace(profile, correlation=correlation)
    if PREDICTION in targets:
        inputs = {name: targets[name] for name in features}
        weights = learn_weights(table, inputs, targets[PREDICTION], rows, progress)
        profile = msgspec.structs.replace(profile, weights=weights)
    if options.label_column:
        quality = measure_quality(table, options.label_column, targets, arrival and arrival.seconds, progress)
        profile = msgspec.structs.replace(profile, quality=quality)
    return Profiled(profile, skipped, sample)


def _follow_times(
    table: EngineTable, options: Options, profile: Profile, targets: Mapping[str, Target], progress: Progress
) -> tuple[Profile, Arrival | None]:
    """Return the profile with what the times of the rows tell, and these times."""
    if not options.time_column:
        return profile, None
    arrival = Arrival(options.time_column, seconds(table, options.time_column))
    if options.season:
        season = hourly_season(table, arrival, options.season, targets, progress)
        arrival = arrival._replace(hours=HOURS[options.season], season=season)
        profile = msgspec.structs.replace(profile, season=season)
    if not options.shuffled:
        profile = msgspec.structs.replace(profile, blocks=time_blocks(table, arrival, targets, progress))
    return profile, arrival


def _check_names(table: EngineTable, input_types: Mapping[str, InputType]) -> None:
    names: set[str] = set()
    for name, input_type in input_types.items():
        if duplicates := names.intersection(input_type.features(name)):
            detail = f"two features are called {preview(min(duplicates))}; rename or ignore a column"
            raise ProfileError(f"{table.where}: {detail}")
        names.update(input_type.features(name))
