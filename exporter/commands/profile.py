"""The command that creates training profiles."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from exporter import config
from exporter.commands.common import Progress, add_config_file, add_table_options, column_type, whole_number
from exporter.errors import ExporterError, ProfileError, UsageError, printable
from exporter.features import INPUT_TYPES
from exporter.profiles import describe
from exporter.profiles.builder import Options, build
from exporter.profiles.describe import warnings
from exporter.profiles.profile import check_writable, load, save
from exporter.profiles.sources import Batch, Source, without_gz
from exporter.profiles.sources.files import FileSource
from exporter.validation import any_of, parse_duration, preview, suggestion

DATABASE = "MODEL_EXPORTER_DATABASE"
"""The variable with the default of ``--database``, which may hold a password."""
_SOURCES = {
    "training_file": ("TRAINING_FILE", {"delimiter", "decimal"}),
    "sql": ("--sql", {"database", "database_password_file", "spark", "sample"}),
    "from_store": ("--from-store", {"config_file", "version", "last"}),
}
"""What is profiled by the option that names it, and the options that only this has."""


def profile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    text = "CSV, Parquet, NPZ or JSON lines, also as .gz"
    add("training_file", nargs="?", type=Path, metavar="TRAINING_FILE", help=text)
    add("-o", "--output", metavar="FILE", help="profile to write; default: the training file's name with .json")
    add("--name", help="name of the profile; default: the training file's name")
    add_table_options(parser, INPUT_TYPES)
    text = "rows are in random order: do not estimate autocorrelation from them"
    add("--shuffled", action="store_true", help=text)
    add("--strict", action="store_true", help="fail without writing a profile if there is a warning")
    categories = "number of categories with a bin of their own"
    add(
        "--bins",
        type=whole_number(2, 10_000),
        default=20,
        metavar="N",
        help="number of bins of a numeric feature",
    )
    add("--categories", type=whole_number(2, 10_000), default=50, metavar="N", help=categories)
    add("--describe", type=Path, metavar="PROFILE", help="only print the content of this profile")
    add("--from-store", action="store_true", help="profile the predictions in the database instead of a file")
    add_config_file(parser, "the database")
    add("--model", metavar="NAME", help="model whose predictions are read, or the name of the profile of a file")
    add("--version", metavar="VERSION", help="version of that model; default: all")
    _add_sql_options(parser)
    add("--last", default="7d", metavar="DURATION", help="how far back predictions are read")
    parser.set_defaults(defaults=vars(parser.parse_args([])))


def _add_sql_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sql", metavar="QUERY", help="profile the rows of a query of --database instead of a file")
    text = "URL of the database of --sql, such as duckdb:///FILE, sqlite:///FILE or postgresql://HOST/NAME (${})"
    add("--database", default=os.environ.get(DATABASE), metavar="URL", help=text.format(DATABASE))
    add("--database-password-file", metavar="FILE", help="file with the password for --database")
    text = "run --sql in Spark, on this master or the one in its configuration, instead of --database"
    add("--spark", nargs="?", const="", metavar="MASTER", help=text)
    text = "random share of the rows of --sql to profile, for huge tables"
    add("--sample", type=_share, default=1.0, metavar="SHARE", help=text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.01, got {preview(text)}")
    return share


def profile(options: argparse.Namespace) -> int:
    """Create a training profile: the distributions of the training data, which drift is measured against.

    Example::

        model-exporter profile training.parquet --prediction-column=predicted --label-column=paid -o loans.json

    See docs/profiles.md.
    """
    _check_options(options)
    if options.describe:
        profile = load(options.describe)
        made = f", made {profile.created:%Y-%m-%d %H:%M} UTC" if profile.created else ""
        print(printable(f"{profile.name}: {profile.rows:,} rows{made}, hash {profile.hash[:12] or 'none'}"))
        for line in describe.profile_lines(profile):
            print(printable(line))
        return 0
    source, build_options, default = _source(options)
    output: Path = options.output or default
    check_writable(output)
    with Progress(log=True) as progress:
        profile = build(source, build_options, progress)
    for line in describe.profile_lines(profile, source.remarks):
        print(printable(line))
    sample = next(source.batches(), Batch({}, 0, 1.0)).columns
    found = [f"{describe.truncate(name, 40)}: {text}" for name, text in source.skipped.items()]
    found += warnings(profile, sample, build_options, source.cells_are_texts)
    times = [name for name, kind in profile.inputs.items() if INPUT_TYPES[kind].follows_time]
    if times and not build_options.time_column and "--time-column" not in str(found):
        text = f"the age of {printable(times[0])} is measured from now: set --time-column to the time of a row"
        print(f"model-exporter: {text}", file=sys.stderr)
    for text in found:
        print(f"model-exporter: warning: {printable(text)}", file=sys.stderr)
    if found and options.strict:
        number = "a warning" if len(found) == 1 else f"{len(found)} warnings"
        raise ProfileError(f"{source.where}: {number} with --strict: {output} was not written")
    replaced = ", which replaces the file that was there" if output.is_file() else ""
    save(profile, output)
    print(f"{profile.rows} rows profiled into {output}{replaced}")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, or would have no effect."""
    given = {name for name, value in options.defaults.items() if getattr(options, name) != value}
    chosen = given & {*_SOURCES, "describe"}
    if len(chosen) != 1:
        raise UsageError("profile: expected one of TRAINING_FILE, --sql, --from-store or --describe PROFILE")
    if "describe" in chosen and (others := sorted(given - chosen)):
        raise UsageError(f"{_flag(others[0])}: --describe only prints a profile: leave out one of them")
    for source, (name, own) in _SOURCES.items():
        if source not in chosen and (others := sorted(given & own)):
            raise UsageError(f"{_flag(others[0])}: goes only with {name}: leave it out")
    if options.label_column and not (options.prediction_column or options.from_store):
        detail = f"set --prediction-column, since the label {preview(options.label_column)} is compared with it"
        raise UsageError(f"--label-column: {detail}")
    if options.confidence_percent and not options.confidence_column:
        raise UsageError("--confidence-percent: needs --confidence-column, which names the column that is in percent")


def _flag(name: str) -> str:
    """Return how an option is written whose value has this name."""
    return f"--{name.replace('_', '-')}".replace("config-file", "config.file")


def _source(options: argparse.Namespace) -> tuple[Source, Options, Path]:
    """Return the rows of a file, a query or the stored predictions, how to profile them, and the file by default."""
    build_options = _build_options(options)
    if options.from_store:
        source, expected, label = _stored_predictions(options)
        return source, build_options._replace(expected=expected, label_column=label), Path(f"{source.name}.json")
    types = build_options.known_types()
    if options.sql is not None:
        return _query(options, types, build_options.time_column), build_options, Path("query.json")
    file = options.training_file
    source = FileSource(file, types, delimiter=options.delimiter, decimal=options.decimal)
    return source, build_options, without_gz(file).with_suffix(".json")


def _build_options(options: argparse.Namespace) -> Options:
    outputs = options.prediction_column, options.confidence_column, options.time_column
    if options.from_store:
        if any((*outputs, options.label_column)):
            raise UsageError("--from-store: the database has its own columns of prediction, confidence, time and label")
        from exporter.profiles.sources import CONFIDENCE, PREDICTION, TIME  # loads SQLAlchemy

        outputs = PREDICTION, CONFIDENCE, TIME
    return Options(
        options.name or (None if options.from_store else options.model),
        *outputs[:2],
        confidence_percent=options.confidence_percent,
        time_column=outputs[2],
        label_column=options.label_column,
        # Rows of Spark have no order of their own.
        shuffled=options.shuffled or options.sample < 1 or (options.spark is not None and not options.time_column),
        ignore=options.ignore,
        types=dict(map(column_type, options.type)),
        bins=options.bins,
        categories=options.categories,
    )


def _query(options: argparse.Namespace, types: Mapping[str, str], time_column: str | None) -> Source:
    """Return the rows of a query."""
    if options.spark is not None:
        from exporter.profiles.sources.queries import SparkSource

        return SparkSource(options.spark, options.sql, types, time_column, options.sample)
    if not options.database:
        raise UsageError(f"--sql: set --database, or {DATABASE}, to the URL of its database")
    from exporter.profiles.sources.queries import QuerySource

    file = options.database_password_file
    return QuerySource(options.database, options.sql, types, password_file=file, sample=options.sample)


def _stored_predictions(options: argparse.Namespace) -> tuple[Source, dict[str, str], str | None]:
    """Return a model's predictions in the database, the expected types of its inputs, and the column of labels."""
    from exporter.profiles.sources import LABEL, StoreSource
    from exporter.storage import StoredPredictions

    configuration = config.load(options.config_file)
    models = {model.name: model for model in configuration.models}
    name = options.model or (next(iter(models)) if len(models) == 1 else None)
    if not models:
        raise ExporterError(f"{options.config_file}: no model is configured")
    if name is None:
        raise ExporterError(f"--model: expected {any_of(models)}")
    if name not in models:
        raise ExporterError(f"--model: is not in {options.config_file}; {suggestion(name, models)}")
    try:
        seconds = parse_duration(options.last)
    except ValueError as error:
        raise UsageError(f"--last: {error}") from None
    model = models[name]
    path = Path(model.profile) if model.profile else None
    expected = dict(load(path).inputs) if path and path.exists() else {}
    expected |= {feature: settings.type for feature, settings in model.features.items() if settings.type}
    expected = {feature: kind for feature, kind in expected.items() if feature not in model.redact}
    stored = StoredPredictions(configuration.store, name, options.version, time.time() - seconds)
    return StoreSource(stored, name, model.redact), expected, LABEL if stored.has_labels else None
