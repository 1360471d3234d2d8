"""Send a table of true labels to an exporter, which joins them with the predictions by their identifiers.

Example::

    model-exporter label repaid.csv --id-column=loan --label-column=repaid

See docs/batch.md#labels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from exporter.client.encoding import rfc3339
from exporter.commands import sending, tables
from exporter.commands.common import DEFAULT_URL, Progress, add_csv_options, count
from exporter.errors import BatchError
from exporter.features import INPUT_TYPES
from exporter.validation import preview

ROUTE = "/v1/labels"
FEW = 5
"""Labels that may all wait without a remark: perhaps their predictions have not arrived yet."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    tables.add_input_options(parser, tables.TABLES)
    add("--exporter", default=DEFAULT_URL, metavar="URL", help="URL of the exporter")
    add("--model", metavar="NAME", help="model of the predictions, if several use the same identifiers")
    add("--id-column", default="prediction_id", metavar="NAME", help="column with the identifier of the prediction")
    add("--label-column", default="label", metavar="NAME", help="column with the true label")
    add("--time-column", metavar="NAME", help="column with the time at which the label became known; default: now")
    add_csv_options(parser, INPUT_TYPES)
    sending.add_sending_options(parser, "label")


def run(options: argparse.Namespace) -> int:
    """Send the labels of a file; return the exit status."""
    start = time.monotonic()
    with (
        sending.sending_client(options) as client,
        tables.open_input(options.file, options.format, tables.TABLES) as source,
        Progress() as progress,
    ):
        columns = f"labels of {options.label_column} by {options.id_column}"
        of_model = f" of model {options.model}" if options.model else ""
        state, path = sending.begin_sending(options, source, f"{client.url} as {columns}{of_model}")
        if state.done:
            return 0
        refused = tables.Refused(state.rows)
        roles = tables.Roles(label=options.label_column, id=options.id_column, time=options.time_column)
        table = tables.read_table(options, source, roles, refused)
        labels = _Labels(table, refused, options.id_column, options.model)
        sender = sending.Sender(
            client, state, path, refused, labels=sending.RowLabels(None, refused), give_up=options.give_up, route=ROUTE
        )
        sender.send(labels.chunks(state), lambda chunk: progress("labels", chunk.done, chunk.numbers[-1]))
        if not table.rows:
            raise BatchError(f"{source.where}: has no rows")
        if not state.accepted:
            reason = refused.first[0] if refused.first else f"no row has a value in {options.label_column}"
            raise BatchError(f"{source.where}: no label was accepted; {reason}")
        sender.finish(table.rows)
    print(
        f"{source.where}: {count(table.rows, 'row')}, {count(state.accepted, 'label')} accepted, "
        f"{refused.count:,} rejected, {count(labels.missing, 'row')} without a label, "
        f"in {time.monotonic() - start:.1f} s"
    )
    for line in refused.reasons():
        print(line)
    print(f"sent to {client.url}: {_joined(sender.totals)}")
    if sender.totals["waiting"] > FEW and not sender.totals["joined"]:
        print(_why_none_joined(options, client.url, labels.first_id), file=sys.stderr)
    return 0


def _joined(totals: Counter[str]) -> str:
    """Say what became of the labels that were sent now.

    >>> _joined(Counter(joined=480, waiting=20, repeated=200))
    '480 joined their prediction, 20 wait for theirs; of these 500, 200 as before'
    """
    text = f"{totals['joined']:,} joined their prediction, {totals['waiting']:,} wait for theirs"
    before = [f"{totals['repeated']:,} as before"] if totals["repeated"] else []
    before += [f"{totals['changed']:,} in place of another label"] if totals["changed"] else []
    return f"{text}; of these {totals['joined'] + totals['waiting']:,}, {' and '.join(before)}" if before else text


def _why_none_joined(options: argparse.Namespace, url: str, first_id: str) -> str:
    return "\n".join(
        (
            "model-exporter: no label has joined a prediction: all wait until theirs arrives. If the predictions were "
            "sent already, check:",
            f"  - Is {url} (--exporter) the exporter that got the predictions?",
            f"  - Does {options.id_column} (--id-column) hold their identifiers? The first is {preview(first_id)}.",
            "  - Did they have an identifier (id) when they were sent? Otherwise the exporter gave them one; "
            "POST /v1/predictions?ids=1 returns it.",
            *([f"  - Are they of the model {options.model} (--model)?"] if options.model else []),
            "  - Are they so old that the exporter has deleted them (store.retention)?",
        )
    )


@dataclass
class _Labels:
    """The labels of a table as lines of JSON.

    Attributes
    ----------
    missing
        Rows without a label so far: it is not known yet.
    first_id
        The identifier of the first label that was sent.
    """

    table: tables.Table
    refused: tables.Refused
    id_column: str
    model: str | None
    missing: int = 0
    first_id: str = ""

    def chunks(self, state: sending.State) -> Iterator[tables.Chunk]:
        """Yield the labels after those that were sent before, in the same batches however the file is read."""
        lines = ((*line, rows.done) for rows in self.table for line in self._lines(rows, state.rows))
        return tables.split(lines, state.batch_size, state.sending)

    def _lines(self, rows: tables.Rows, after: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the JSON of each row with a label."""
        common = {"model": self.model} if self.model else {}
        part = slice(int(np.searchsorted(rows.numbers, after, side="right")), None)
        moments = [None] * len(rows.numbers) if rows.moments is None else rows.moments.tolist()
        columns = (rows.numbers[part].tolist(), rows.ids[part], sending.json_values(rows.labels[part]), moments[part])
        for number, prediction_id, label, moment in zip(*columns, strict=True):
            if label is None:
                self.missing += 1
            elif prediction_id is None:
                self.refused.add(number, self.id_column, "has no identifier")
            else:
                time = {} if moment is None or np.isnan(moment) else {"time": rfc3339(moment)}
                self.first_id = self.first_id or prediction_id
                event = {"prediction_id": prediction_id, "label": label, **common, **time}
                yield number, msgspec.json.encode(event)
