"""The command ``model-exporter ingest``: measure the drift of a scored table, or send its rows to an exporter."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from exporter.commands.common import Progress, add_config_file, add_table_options, column_type
from exporter.commands.ingest.local import (
    choose_monitor,
    count_lines,
    count_table,
    monitors_of_config,
    monitors_of_profile,
    monitors_with_rows,
)
from exporter.commands.ingest.push import Gateway, RemoteWrite, write
from exporter.commands.ingest.report import drift_lines, drifted, label_lines, quality_lines, row_lines
from exporter.commands.ingest.sending import (
    BATCH,
    RowLabels,
    Sender,
    add_sending_options,
    begin_sending,
    sending_client,
    table_chunks,
)
from exporter.commands.ingest.table import (
    FORMATS,
    Input,
    Lines,
    Refused,
    Roles,
    Table,
    add_input_options,
    cell_types,
    open_input,
    output_types,
)
from exporter.errors import BatchError, UsageError, printable
from exporter.features import INPUT_TYPES
from exporter.metrics.models import Batch as Run
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.sources.files import FileSource
from exporter.validation import preview

DRIFTED = 3
"""Exit status of ``--fail-on-drift``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add_input_options(parser, FORMATS)
    add_config_file(parser)
    add("--profile", type=Path, metavar="FILE", help="profile of the model, instead of a configuration")
    add("--model", metavar="NAME", help="model of the rows; default: the only one")
    add("--version", metavar="VERSION", help="version of the model")
    add("--id-column", metavar="NAME", help="column that identifies a prediction, for feedback on it")
    add_table_options(parser, INPUT_TYPES)
    add("--push", metavar="URL", help="push the run's metrics to this server")
    text = "how to push: to a Pushgateway, or by Prometheus' remote write (pushgateway)"
    add("--push-protocol", choices=("pushgateway", "remote-write"), help=text)
    text = "file with headers for remote write: one NAME: VALUE per line"
    add("--push-headers-file", type=Path, metavar="FILE", help=text)
    add("--job", default="model-exporter-batch", metavar="NAME", help="job label of the pushed metrics (%(default)s)")
    add("--textfile", type=Path, metavar="FILE", help="write the run's metrics to a .prom file for node_exporter")
    add("--fail-on-drift", action="store_true", help=f"exit with status {DRIFTED} if anything has drifted")
    add("--exporter", metavar="URL", help="send the rows to this exporter, which counts them")
    add_sending_options(parser, "ingest")


def run(options: argparse.Namespace) -> int:
    """Count or send a file; return the exit status."""
    for flag in ("model", "version"):
        name = getattr(options, flag)
        if name is not None and not 0 < len(name) <= 128:
            raise UsageError(f"--{flag}: expected 1 to 128 characters, got {len(name)}")
    roles = Roles(
        options.prediction_column,
        options.confidence_column,
        options.id_column,
        options.time_column,
        options.label_column,
        tuple(options.ignore),
        options.confidence_percent,
    )
    if roles.label and not roles.prediction:
        detail = f"set --prediction-column, since the label {preview(roles.label)} is compared with it"
        raise UsageError(f"--label-column: {detail}")
    return _send(options, roles) if options.exporter else _count(options, roles)


def _count(options: argparse.Namespace, roles: Roles) -> int:
    """Count the rows in this process."""
    start = time.monotonic()
    if options.textfile and options.textfile.suffix != ".prom":
        raise UsageError(f"--textfile: {options.textfile}: expected a name that ends in .prom, as node_exporter does")
    receiver = _receiver(options)
    monitors = _monitors(options)
    refused = Refused()
    with open_input(options.file, options.format) as source, Progress() as progress:
        if source.kind == "predictions":
            _refuse_column_options(options, roles)
            lines = Lines(source.path, source.where, refused, max_lines=BATCH)
            count_lines(lines, monitors, refused, progress)
            total, remarks, labelled = lines.rows, [], 0
        else:
            monitor = choose_monitor(monitors, options.model, options.version)
            table = _table(options, source, roles, refused, monitor)
            labelled = count_table(table, monitor, source.where, progress)
            total, remarks = table.rows, _remarks(table, monitor)
    _require_good_rows(source, total, refused)
    seconds, end = time.monotonic() - start, time.time()
    runs = [Run(monitor, rows, refused.count, seconds, end) for monitor, rows in monitors_with_rows(monitors)]
    _print_lines(row_lines(source.where, total, total - refused.count, refused, seconds))
    for text in remarks:
        print(f"model-exporter: {source.where}: {text}", file=sys.stderr)
    _publish(runs, labelled, options.textfile, receiver)
    return DRIFTED if options.fail_on_drift and any(drifted(run.monitor) for run in runs) else 0


def _receiver(options: argparse.Namespace) -> Gateway | RemoteWrite | None:
    """Return the server that the run's metrics are pushed to, if any."""
    if options.push_protocol and not options.push:
        raise UsageError("--push: is required with --push-protocol")
    if options.push_protocol == "remote-write":
        return RemoteWrite(options.push, options.job, options.push_headers_file, options.ca_file)
    if options.push_headers_file:
        raise UsageError("--push-headers-file: needs --push-protocol=remote-write")
    return Gateway(options.push, options.job, options.ca_file) if options.push else None


def _monitors(options: argparse.Namespace) -> MonitorRegistry:
    if options.profile and options.config_file:
        raise UsageError("ingest: expected --profile or --config.file, got both")
    if options.profile:
        return monitors_of_profile(options.profile, options.model)
    path = options.config_file or Path("exporter.yml")
    if not (options.config_file or path.exists()):
        raise BatchError("ingest: expected --profile, --config.file, or an exporter.yml in this folder")
    return monitors_of_config(path)


def _publish(runs: list[Run], labelled: int, textfile: Path | None, receiver: Gateway | RemoteWrite | None) -> None:
    """Print the drift and the quality of runs, and hand their metrics to Prometheus."""
    for run in runs:
        if run.monitor.binner:
            _print_lines(drift_lines(run.monitor))
        _print_lines(quality_lines(run.monitor, labelled))
    if textfile:
        write(textfile, runs)
        print(f"metrics written to {textfile}")
    if receiver:
        receiver.push(runs)
        print(f"metrics pushed to {receiver.url}")


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


def _table(
    options: argparse.Namespace, source: Input, roles: Roles, refused: Refused, monitor: ModelMonitor | None
) -> Table:
    binner = monitor.binner if monitor else None
    expected = cell_types(binner.profile, roles) if binner else output_types(roles)
    others = "text" if binner else None
    reader = FileSource(
        source.path,
        expected | dict(map(column_type, options.type)),
        kind=source.kind,
        where=source.where,
        others=others,
        delimiter=options.delimiter,
        decimal=options.decimal,
    )
    return Table(reader, roles, refused)


def _refuse_column_options(options: argparse.Namespace, roles: Roles) -> None:
    """Refuse options about columns, models and versions: the events of the wire format hold all of these."""
    if roles.named() or options.type or options.model or options.version:
        raise BatchError(
            f"{options.file}: holds predictions as POST /v1/predictions accepts them, which name their model, version "
            "and inputs themselves: remove --model, --version, --type and the names of columns, or set --format=jsonl"
        )


def _require_good_rows(source: Input, total: int, refused: Refused) -> None:
    if not total:
        raise BatchError(f"{source.where}: has no rows")
    if refused.count == total:
        raise BatchError(f"{source.where}: all {total:,} rows were rejected; {refused.first[0]}")


def _remarks(table: Table, monitor: ModelMonitor) -> list[str]:
    """Return what the columns of the table and the profile do not have in common."""
    binner = monitor.binner
    if binner is None:
        return []
    missing = [name for name in binner.inputs if name not in table.seen]
    unknown = [name for name in table.seen if name not in binner.known_inputs]
    remarks = [f"has no column {preview(name)}: it counts as missing" for name in missing]
    if unknown:
        remarks.append(f"the profile does not contain {', '.join(map(preview, unknown[:10]))}: not counted")
    return remarks


def _send(options: argparse.Namespace, roles: Roles) -> int:
    """Send the rows to an exporter."""
    start = time.monotonic()
    _check_send_options(options, roles)
    monitors = monitors_of_profile(options.profile, options.model) if options.profile else None
    monitor = choose_monitor(monitors, None, None) if monitors else None
    with sending_client(options) as client, open_input(options.file, options.format) as source, Progress() as progress:
        are_events = source.kind == "predictions"
        if are_events:
            _refuse_column_options(options, roles)
        elif not options.model:
            raise UsageError("--model: is required with --exporter: name the model of these rows")
        rows_of = "" if are_events else f" model {options.model} version {options.version or 'unknown'}"
        state, path = begin_sending(options, source, client.url + rows_of)
        if state.done:
            return 0
        refused, labels = Refused(state.rows), RowLabels(roles.label, Refused(state.rows))
        rows: Lines | Table
        if are_events:
            limits = {"max_lines": state.batch_size, "after": state.rows, "end": state.sending}
            rows = Lines(source.path, source.where, refused, **limits)
            chunks = iter(rows)
        else:
            rows = _table(options, source, roles, refused, monitor)
            chunks = table_chunks(rows, state, options.model, options.version, labels)
        sender = Sender(client, state, path, refused, labels=labels, give_up=options.give_up)
        sender.send(chunks, lambda chunk: progress("rows", chunk.done, chunk.numbers[-1]))
        _require_good_rows(source, rows.rows, refused)
        sender.finish(rows.rows)
    _print_lines(row_lines(source.where, state.rows, state.accepted, refused, time.monotonic() - start))
    if roles.label:
        _print_lines(label_lines(state.labels, labels.refused))
    print(f"sent to {client.url}")
    return 0


def _check_send_options(options: argparse.Namespace, roles: Roles) -> None:
    for flag in ("push", "push_protocol", "push_headers_file", "textfile", "fail_on_drift", "config_file"):
        if getattr(options, flag):
            name = flag.replace("_", "-") if flag != "config_file" else "config.file"
            raise UsageError(f"--{name}: cannot be used with --exporter, which counts the rows")
    if roles.label and not roles.id:
        raise UsageError("--label-column: set --id-column, since an exporter joins labels with predictions by it")
