"""The command ``model-exporter ingest``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from exporter import config
from exporter.client.transport import Transport
from exporter.commands.ingest import report
from exporter.commands.ingest.checkpoint import begin
from exporter.commands.ingest.input_file import FORMATS, Input, opened
from exporter.commands.ingest.json_lines import Lines
from exporter.commands.ingest.local import chosen, configured, count_lines, count_table, counted, profiled
from exporter.commands.ingest.pushgateway import Gateway, Run, write
from exporter.commands.ingest.remote import BODY, Sender, table_chunks
from exporter.commands.ingest.table import Refused, Roles, Table, cell_types, output_types
from exporter.commands.progress import Progress
from exporter.errors import BatchError
from exporter.features import INPUT_TYPES
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.readers import FileSource
from exporter.validation import preview, suggestion

TIMEOUT = 60.0
"""Seconds that one request to an exporter may take."""
DRIFTED = 3
"""Exit status of ``--fail-on-drift``."""
_CHUNK = 1000  # rows explained when they are wrong: see exporter.events.MAX_REJECTED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument(
        "file", metavar="FILE", help="CSV, Parquet, NPZ or JSON lines, also as .gz; - is standard input"
    )
    parser.add_argument("--format", choices=FORMATS, help="default: by the file's name")
    parser.add_argument("--config.file", dest="config_file", type=Path, metavar="FILE", help="default: exporter.yml")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="the model's profile, in place of a configuration")
    parser.add_argument("--model", metavar="NAME", help="whose rows these are; default: the only one")
    parser.add_argument("--version", metavar="VERSION", help="of which version of the model")
    parser.add_argument("--prediction-column", metavar="NAME", help="what the model said for each row")
    parser.add_argument("--confidence-column", metavar="NAME", help="the model's confidence, 0 to 1")
    parser.add_argument("--id-column", metavar="NAME", help="no feature: identifies a prediction, for feedback on it")
    parser.add_argument("--time-column", metavar="NAME", help="no feature: when a row arrived")
    parser.add_argument("--label-column", metavar="NAME", help="no feature: the truth")
    parser.add_argument("--ignore", action="append", default=[], metavar="NAME", help="a column that is no feature")
    parser.add_argument("--type", action="append", default=[], metavar="NAME=TYPE", help=", ".join(INPUT_TYPES))
    parser.add_argument("--push", metavar="URL", help="a Pushgateway that gets the run's metrics")
    parser.add_argument("--job", default="model-exporter-batch", metavar="NAME", help="their job label there")
    parser.add_argument("--textfile", type=Path, metavar="FILE", help="a .prom file for node_exporter")
    parser.add_argument("--fail-on-drift", action="store_true", help=f"exit with status {DRIFTED} where it drifted")
    parser.add_argument("--exporter", metavar="URL", help="an exporter that runs: it counts the rows")
    parser.add_argument("--bearer-token-file", metavar="FILE", help="for it; default: $MODEL_EXPORTER_TOKEN")
    parser.add_argument("--batch-size", type=_size, default=_CHUNK, metavar="N", help=f"rows of a request ({_CHUNK})")
    parser.add_argument("--give-up", default="5m", metavar="DURATION", help="how long it may not answer (5m)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="what was sent; default: FILE.ingest.json")


def _size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _CHUNK:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {_CHUNK}, got {text}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Count or send a file; the exit status."""
    for flag in ("model", "version"):
        name = getattr(options, flag)
        if name is not None and not 0 < len(name) <= 128:
            raise BatchError(f"--{flag}: expected 1 to 128 characters, got {len(name)}")
    roles = Roles(
        options.prediction_column,
        options.confidence_column,
        options.id_column,
        options.time_column,
        (*options.ignore, *([options.label_column] if options.label_column else [])),
    )
    types = dict(_type(text) for text in options.type)
    return _send(options, roles, types) if options.exporter else _count(options, roles, types)


def _type(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name:
        raise BatchError(f"--type: expected NAME=TYPE such as zip=categorical, got {text}")
    if kind not in INPUT_TYPES:
        raise BatchError(f"--type: {preview(kind)} is no type of an input; {suggestion(kind, INPUT_TYPES)}")
    return name, kind


@contextlib.contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar where somebody looks; a log is told at the end."""
    progress = Progress(sys.stderr) if sys.stderr.isatty() else None
    try:
        yield progress
    finally:
        if progress:
            progress.clear()


def _count(options: argparse.Namespace, roles: Roles, types: dict[str, str]) -> int:
    """Count the rows here."""
    start = time.monotonic()
    if options.profile and options.config_file:
        raise BatchError("ingest: expected --profile or --config.file, got both")
    if options.textfile and options.textfile.suffix != ".prom":
        raise BatchError(
            f"--textfile: {options.textfile}: expected a name that ends in .prom: node_exporter reads no other"
        )
    gateway = Gateway(options.push, options.job) if options.push else None
    if options.profile:
        monitors = profiled(options.profile, options.model)
    else:
        config = options.config_file or Path("exporter.yml")
        if not (options.config_file or config.exists()):
            raise BatchError("ingest: expected --profile, --config.file, or an exporter.yml in this folder")
        monitors = configured(config)
    refused = Refused()
    with opened(options.file, options.format) as given, _progress() as progress:
        if given.kind == "predictions":
            _no_columns(options, roles)
            lines = Lines(given.path, given.where, refused, most=_CHUNK, size=BODY)
            count_lines(lines, monitors, refused, progress)
            total, remarks = lines.rows, []
        else:
            monitor = chosen(monitors, options.model, options.version)
            table = _table(given, roles, types, refused, monitor)
            count_table(table, monitor, given.where, progress)
            total, remarks = table.rows, _remarks(table, monitor)
    _some_good(given, total, refused)
    seconds, end = time.monotonic() - start, time.time()
    runs = [Run(monitor, rows, refused.count, seconds, end) for monitor, rows in counted(monitors)]
    for text in report.rows(given.where, total, total - refused.count, refused, seconds):
        print(text)
    for text in remarks:
        print(f"model-exporter: {given.where}: {text}", file=sys.stderr)
    for one in runs:
        if one.monitor.binner:
            print("\n".join(report.drift(one.monitor)))
    if options.textfile:
        write(options.textfile, runs)
        print(f"metrics written to {options.textfile}")
    if gateway:
        for one in runs:
            gateway.push(one)
        print(f"metrics pushed to {gateway.shown}")
    return DRIFTED if options.fail_on_drift and any(report.drifted(one.monitor) for one in runs) else 0


def _table(given: Input, roles: Roles, types: dict[str, str], refused: Refused, monitor: ModelMonitor | None) -> Table:
    binner = monitor.binner if monitor else None
    known = cell_types(binner.profile, roles) if binner else output_types(roles)
    others = "text" if binner else None
    source = FileSource(given.path, known | types, kind=given.kind, where=given.where, others=others)
    return Table(source, roles, refused)


def _no_columns(options: argparse.Namespace, roles: Roles) -> None:
    """Refuse what says something of columns."""
    if roles.named() or options.type or options.model or options.version:
        raise BatchError(
            f"{options.file}: holds predictions as POST /v1/predictions takes them, which say for themselves what the "
            "model, its version and the columns are: take --model, --version, --type and the names of columns away, "
            "or say --format=jsonl"
        )


def _some_good(given: Input, total: int, refused: Refused) -> None:
    if not total:
        raise BatchError(f"{given.where}: has no rows")
    if refused.count == total:
        raise BatchError(f"{given.where}: none of its {total:,} rows was good; {refused.first[0]}")


def _remarks(table: Table, monitor: ModelMonitor) -> list[str]:
    """What of the profile is not in a table, and what of the table is not in the profile."""
    binner = monitor.binner
    if binner is None:
        return []
    missing = [name for name in binner.inputs if name not in table.seen]
    unknown = [name for name in table.seen if name not in binner.known_inputs]
    remarks = [f"has no column {preview(name)}: it counts as missing" for name in missing]
    if unknown:
        remarks.append(f"the profile does not know {', '.join(map(preview, unknown[:10]))}: not counted")
    return remarks


def _send(options: argparse.Namespace, roles: Roles, types: dict[str, str]) -> int:
    """Send the rows to an exporter."""
    start = time.monotonic()
    for flag in ("push", "textfile", "fail_on_drift", "config_file"):
        if getattr(options, flag):
            raise BatchError(f"--{flag.replace('_', '-')}: has no meaning beside --exporter, which counts the rows")
    try:
        give_up = config.parse_duration(options.give_up)
    except ValueError as error:
        raise BatchError(f"--give-up: {error}") from None
    target = Transport(options.exporter, TIMEOUT, options.bearer_token_file)
    monitors = profiled(options.profile, options.model) if options.profile else None
    with opened(options.file, options.format) as given, _progress() as progress:
        lines = given.kind == "predictions"
        if lines:
            _no_columns(options, roles)
        elif not options.model:
            raise BatchError("--model: is required beside --exporter: whose rows are these?")
        path = options.state or (given.file and given.file.with_name(f"{given.file.name}.ingest.json"))
        whose = "" if lines else f" model {options.model} version {options.version or 'unknown'}"
        state, remark = begin(
            path,
            given.file or given.path,
            target.shown + whose,
            options.batch_size,
            given.kind in {"csv", "jsonl", "predictions"},
        )
        if state.done:
            print(f"{given.where}: nothing to send: {remark}")
            return 0
        if remark:
            print(f"model-exporter: {remark}", file=sys.stderr)
        refused = Refused(state.rows)
        sender = Sender(target, state, path, refused, give_up)
        rows: Lines | Table
        if lines:
            rows = Lines(
                given.path, given.where, refused, most=state.batch_size, size=BODY, after=state.rows, cut=state.sending
            )
            chunks = iter(rows)
        else:
            rows = _table(given, roles, types, refused, _only(monitors))
            chunks = table_chunks(rows, state, options.model, options.version)
        with contextlib.closing(sender):
            sender.send(chunks, lambda chunk: progress("rows", chunk.done, chunk.numbers[-1]) if progress else None)
        _some_good(given, rows.rows, refused)
        sender.finish(rows.rows)
    for text in report.rows(given.where, state.rows, state.accepted, refused, time.monotonic() - start):
        print(text)
    print(f"sent to {target.shown}")
    return 0


def _only(monitors: MonitorRegistry | None) -> ModelMonitor | None:
    return None if monitors is None else chosen(monitors, None, None)
