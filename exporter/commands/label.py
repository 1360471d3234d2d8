"""The command ``model-exporter label``: send a table of true labels to an exporter."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from exporter.client.encoding import rfc3339
from exporter.commands.common import add_credentials, add_csv_options, authorization, whole_number
from exporter.commands.ingest.checkpoint import State, begin
from exporter.commands.ingest.input_file import Input, open_input
from exporter.commands.ingest.json_lines import Chunk, split
from exporter.commands.ingest.remote import Labels, Sender, json_values
from exporter.commands.ingest.table import Refused, Roles, Rows, Table, column_type, output_types
from exporter.commands.progress import Progress
from exporter.errors import BatchError
from exporter.events import MAX_REJECTED
from exporter.features.types import INPUT_TYPES
from exporter.http_client.client import Client
from exporter.profiles.readers.files import FileSource
from exporter.validation import parse_duration

ROUTE = "/v1/labels"
DEFAULT_URL = "http://127.0.0.1:9877"
FORMATS = ("csv", "parquet", "npz", "jsonl")
TIMEOUT = 60.0
"""Seconds that one request to an exporter may take."""
BATCH = MAX_REJECTED
"""Rows of a request, at most and by default: an exporter does not look at the rest after as many wrong ones."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("file", metavar="FILE", help="CSV, Parquet, NPZ or JSON lines, also as .gz; - is standard input")
    add("--format", choices=FORMATS, help="format of the file; default: by its name")
    add("--exporter", default=DEFAULT_URL, metavar="URL", help="URL of the exporter (%(default)s)")
    add("--model", metavar="NAME", help="model of the predictions, if several use the same identifiers")
    text = "column with the identifier of the prediction (%(default)s)"
    add("--id-column", default="prediction_id", metavar="NAME", help=text)
    add("--label-column", default="label", metavar="NAME", help="column with the true label (%(default)s)")
    add("--time-column", metavar="NAME", help="column with the time at which the label became known; default: now")
    add_csv_options(parser, INPUT_TYPES)
    add_credentials(parser, "MODEL_EXPORTER")
    size = whole_number(1, MAX_REJECTED)
    add("--batch-size", type=size, default=BATCH, metavar="N", help="rows of a request (%(default)s)")
    text = "how long to retry when the exporter does not respond or is full (%(default)s)"
    add("--give-up", default="5m", metavar="DURATION", help=text)
    add("--state", type=Path, metavar="FILE", help="file that records what was sent; default: FILE.label.json")


def run(options: argparse.Namespace) -> int:
    """Send the labels of a file; return the exit status."""
    start = time.monotonic()
    try:
        give_up = parse_duration(options.give_up)
    except ValueError as error:
        raise BatchError(f"--give-up: {error}") from None
    client = Client(
        options.exporter,
        "--exporter",
        user_in_url=True,
        authorization=lambda: authorization(options),
        ca_file=options.ca_file,
        timeout=TIMEOUT,
    )
    with client, open_input(options.file, options.format) as source, Progress() as progress:
        path = options.state or (source.file and source.file.with_name(f"{source.file.name}.label.json"))
        state, remark = _begin(options, source, path, client.url)
        if state.done:
            print(f"{source.where}: nothing to send: {remark}")
            return 0
        if remark:
            print(f"model-exporter: {remark}", file=sys.stderr)
        refused = Refused(state.rows)
        table = _table(options, source, refused)
        labels = _Labels(table, refused, options.id_column, options.model)
        sender = Sender(client, state, path, refused, labels=Labels(None, refused), give_up=give_up, route=ROUTE)
        sender.send(labels.chunks(state), lambda chunk: progress("labels", chunk.done, chunk.numbers[-1]))
        if not table.rows:
            raise BatchError(f"{source.where}: has no rows")
        if not state.accepted:
            reason = refused.first[0] if refused.first else f"no row has a value in {options.label_column}"
            raise BatchError(f"{source.where}: no label was accepted; {reason}")
        sender.finish(table.rows)
    print(
        f"{source.where}: {table.rows:,} rows, {state.accepted:,} labels accepted, {refused.count:,} rejected, "
        f"{labels.missing:,} rows without a label, in {time.monotonic() - start:.1f} s"
    )
    for reason in refused.first:
        print(f"  {reason}")
    if refused.count > len(refused.first):
        print(f"  and {refused.count - len(refused.first):,} more")
    totals = [f"{sender.totals[name]:,} {name}" for name in ("joined", "waiting", "repeated", "changed")]
    print(f"sent to {client.url}: {', '.join(totals)}")
    return 0


def _begin(options: argparse.Namespace, source: Input, path: Path | None, url: str) -> tuple[State, str]:
    """Return the state of sending a file, and what to tell the user about it."""
    columns = f"labels of {options.label_column} by {options.id_column}"
    target = f"{url} {columns}{f' of model {options.model}' if options.model else ''}"
    appendable = source.kind in {"csv", "jsonl", "predictions"}
    return begin(path, source.file or source.path, target, options.batch_size, appendable)


def _table(options: argparse.Namespace, source: Input, refused: Refused) -> Table:
    roles = Roles(label=options.label_column, id=options.id_column, time=options.time_column)
    reader = FileSource(
        source.path,
        output_types(roles) | dict(map(column_type, options.type)),
        kind="jsonl" if source.kind == "predictions" else source.kind,
        where=source.where,
        delimiter=options.delimiter,
        decimal=options.decimal,
    )
    return Table(reader, roles, refused)


class _Labels:
    """The labels of a table as lines of JSON.

    Attributes
    ----------
    missing
        Rows without a label so far: it is not known yet.
    """

    def __init__(self, table: Table, refused: Refused, id_column: str, model: str | None) -> None:
        self._table = table
        self._refused = refused
        self._id_column = id_column
        self._common = {"model": model} if model else {}
        self.missing = 0

    def chunks(self, state: State) -> Iterator[Chunk]:
        """Yield the labels after those that were sent before, in the same batches however the file is read."""
        lines = ((*line, rows.done) for rows in self._table for line in self._lines(rows, state.rows))
        return split(lines, state.batch_size, state.sending)

    def _lines(self, rows: Rows, after: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the JSON of each row with a label."""
        part = slice(int(np.searchsorted(rows.numbers, after, side="right")), None)
        moments = [None] * len(rows.numbers) if rows.moments is None else rows.moments.tolist()
        columns = (rows.numbers[part].tolist(), rows.ids[part], json_values(rows.labels[part]), moments[part])
        for number, prediction_id, label, moment in zip(*columns, strict=True):
            if label is None:
                self.missing += 1
            elif prediction_id is None:
                self._refused.add(number, self._id_column, "has no identifier")
            else:
                time = {} if moment is None or np.isnan(moment) else {"time": rfc3339(moment)}
                event = {"prediction_id": prediction_id, "label": label, **self._common, **time}
                yield number, msgspec.json.encode(event)
