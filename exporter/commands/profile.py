"""The command ``model-exporter profile``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from exporter import config
from exporter.commands.progress import Progress
from exporter.errors import ConfigError, ExporterError
from exporter.features.types import INPUT_TYPES
from exporter.profiles.builder import Options, build
from exporter.profiles.describe import describe_lines, notes
from exporter.profiles.profile import CategoricalFeature, Profile, load, save
from exporter.profiles.readers import CONFIDENCE, PREDICTION, TIME, FileSource, Source, StoreSource
from exporter.validation import any_of, parse_duration, suggestion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("training_file", nargs="?", type=Path, help="CSV, Parquet, NPZ or JSON lines")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the training file's name .json")
    parser.add_argument("--name", help="name of the profile; default: the training file's")
    parser.add_argument("--prediction-column", metavar="NAME", help="what the model predicts for each row")
    parser.add_argument("--confidence-column", metavar="NAME", help="the model's confidence")
    parser.add_argument("--label-column", metavar="NAME", help="no feature: the truth")
    parser.add_argument("--time-column", metavar="NAME", help="no feature: when a row arrived")
    parser.add_argument("--ignore", action="append", default=[], metavar="NAME", help="a column that is no feature")
    parser.add_argument("--type", action="append", default=[], metavar="NAME=TYPE", help=", ".join(INPUT_TYPES))
    parser.add_argument("--bins", type=_count, default=20, metavar="N", help="bins of a number (20)")
    parser.add_argument("--categories", type=_count, default=50, metavar="N", help="categories with a bin (50)")
    parser.add_argument("--describe", type=Path, metavar="PROFILE", help="only show what is in a profile")
    parser.add_argument("--from-store", action="store_true", help="profile what production sent, from the database")
    parser.add_argument("--config.file", dest="config_file", type=Path, default=Path("exporter.yml"), metavar="FILE",
                        help="whose database; default: exporter.yml")  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="whose predictions in the database")
    parser.add_argument("--version", metavar="VERSION", help="of which version; default: of any")
    parser.add_argument("--last", default="7d", metavar="DURATION", help="how much of them (7d)")


def _count(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 2 to 10000, got {text}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Make a profile, or describe one; the exit status."""
    if sum((options.training_file is not None, options.describe is not None, options.from_store)) != 1:
        raise ExporterError("profile: expected one of TRAINING_FILE, --from-store or --describe PROFILE")
    if options.describe:
        for line in describe_lines(load(options.describe)):
            print(line)
        return 0
    chosen = _chosen(options)
    source: Source
    if options.from_store:
        source, expected = _stored(options)
        chosen = chosen._replace(expected=expected)
    else:
        source = FileSource(options.training_file, chosen.given())
    with Progress(log=True) as progress:
        profile = build(source, chosen, progress)
    output = options.output or (Path(f"{source.name}.json") if options.from_store else None)
    output = output or options.training_file.with_suffix(".json")
    save(profile, output)
    _report(profile, chosen, source.remarks)
    print(f"{profile.rows} rows profiled into {output}")
    return 0


def _chosen(options: argparse.Namespace) -> Options:
    types = {}
    for text in options.type:
        name, equals, kind = text.rpartition("=")
        if not equals:
            raise ExporterError(f"--type: expected NAME=TYPE such as zip=categorical, got {text}")
        types[name] = kind
    outputs = options.prediction_column, options.confidence_column, options.time_column
    if options.from_store:
        if any(outputs):
            raise ExporterError(
                "--from-store: the database knows prediction, confidence and time; name no column of them"
            )
        outputs = PREDICTION, CONFIDENCE, TIME
    return Options(
        options.name,
        *outputs,
        ignore=[*options.ignore, *([options.label_column] if options.label_column else [])],
        types=types,
        bins=options.bins,
        categories=options.categories,
    )


def _stored(options: argparse.Namespace) -> tuple[Source, dict[str, str]]:
    """A model's predictions, and the types of its inputs that its settings and its profile so far know."""
    configured = config.load(options.config_file)
    models = {model.name: model for model in configured.models}
    name = options.model or (next(iter(models)) if len(models) == 1 else None)
    if name is None:
        raise ExporterError(f"--model: expected {any_of(models)}")
    if name not in models:
        raise ExporterError(f"--model: is not in {options.config_file}; {suggestion(name, models)}")
    try:
        seconds = parse_duration(options.last)
    except ValueError as error:
        raise ConfigError(f"--last: {error}") from None
    model = models[name]
    before = Path(model.profile) if model.profile else None
    expected = dict(load(before).inputs) if before and before.exists() else {}
    expected |= {feature: settings.type for feature, settings in model.features.items() if settings.type}
    return StoreSource(configured.store, name, options.version, time.time() - seconds), expected


def _report(profile: Profile, chosen: Options, remarks: Mapping[str, str]) -> None:
    for name, kind in profile.input_types().items():
        remark = [remarks[name]] if name in remarks else []
        for scalar in kind.features(name):
            feature = profile.features[scalar]
            size = len(feature.counts)
            what = f"{size - 3} categories" if isinstance(feature, CategoricalFeature) else f"{size} bins"
            print("; ".join((f"{scalar}: {kind.type}, {what}", *notes(feature), *remark)))
    if "timestamp" in profile.inputs.values() and not chosen.time_column:
        print("model-exporter: ages are measured from now; --time-column NAME says when rows arrived", file=sys.stderr)
