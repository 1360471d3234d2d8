"""Find labels of a training file that may be wrong, by the labels of similar rows.

Example::

    model-exporter suspects training.parquet --label-column=paid --ignore=customer -o suspects.csv

See docs/dataset.md#labels-of-training-files.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.commands import tables
from exporter.commands.common import add_csv_options, aligned, column_type, count
from exporter.datasets.formats import csv_cell
from exporter.errors import BatchError
from exporter.features import INPUT_TYPES
from exporter.features.base import as_list, scalar_text
from exporter.features.similarity import InputEncoder
from exporter.stats.neighbours import MIN_NEIGHBOURS, unlike_neighbours

HEAD = ("row", "label", "likely", "compared", "with_likely", "with_label")
SHOWN = 20
"""Suspects that are printed."""
MAX_COMPARED = 30_000
"""Rows whose inputs are compared with each other."""
SAMPLE = 1000
"""Rows from which it is learned how to compare inputs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    tables.add_input_options(parser, tables.TABLES)
    add("--label-column", default="label", metavar="NAME", help="column with the label")
    add("--ignore", action="append", default=[], metavar="NAME", help="column that is not compared; repeatable")
    add("-o", "--output", metavar="FILE", help="CSV file to write all suspects to")
    add_csv_options(parser, INPUT_TYPES)


def run(options: argparse.Namespace) -> int:
    """Find the suspects of a file; return the exit status."""
    refused = tables.Refused()
    types = dict(map(column_type, options.type))
    with tables.open_input(options.file, options.format, tables.TABLES) as source:
        where = source.where
        roles = tables.Roles(label=options.label_column, ignored=tuple(options.ignore))
        table = tables.read_table(options, source, roles, refused)
        found, checked = _find(table, types)
    if not checked:
        raise BatchError(f"{where}: no label was checked; {refused.first[0] if refused.first else 'it has no rows'}")
    if options.output:
        _write(options.output, found)
    print(
        f"{where}: {count(checked, 'label')} checked, {count(len(found), 'suspect')}, {refused.count:,} rows rejected"
    )
    for line in refused.reasons():
        print(line)
    shown = [HEAD, *found[:SHOWN]] if found else []
    for line in aligned([[str(value) for value in row] for row in shown]):
        print(line)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN:,} more" + ("" if options.output else "; -o FILE writes them all"))
    return 0


def _find(table: tables.Table, types: Mapping[str, str]) -> tuple[list[Sequence[Any]], int]:
    """Find suspects among similar rows; see `exporter.stats.neighbours`."""
    numbers: list[int] = []
    texts: list[str] = []
    parts: list[Any] = []
    encoder: InputEncoder | None = None
    for batch in table:
        rows = list(_labelled(batch, table.refused))
        if not rows:
            continue
        if len(numbers) + len(rows) > MAX_COMPARED:
            most = f"{MAX_COMPARED:,} rows whose inputs are compared"
            raise BatchError(f"{table.source.where}: expected at most {most}: check a part of the file")
        inputs = [values for _, _, values in rows]
        encoder = encoder or InputEncoder(inputs[:: max(len(inputs) // SAMPLE, 1)], types)
        parts.append(encoder.encode(inputs))
        numbers += [number for number, _, _ in rows]
        texts += [text for _, text, _ in rows]
    classes = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    names = list(classes)
    labels = np.array([classes[text] for text in texts], np.intp)
    if not numbers:
        return [], 0
    found = unlike_neighbours(np.concatenate(parts), labels, len(classes))
    if not found.compared:
        raise BatchError(f"{table.source.where}: expected {4 * MIN_NEIGHBOURS} rows or more with a label and inputs")
    values = zip(*(array.tolist() for array in found[:4]), strict=True)
    return [
        (numbers[row], texts[row], names[class_], found.compared, other, own) for row, class_, other, own in values
    ], len(numbers)


def _labelled(batch: tables.Rows, refused: tables.Refused) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the number, the label and the inputs of each row with a label."""
    columns = {name: as_list(values) for name, values in batch.inputs.items()}
    for row, label in enumerate(as_list(batch.labels)):
        number, text = int(batch.numbers[row]), scalar_text(label)
        if text in {"", "nan"}:
            refused.add(number, "", "has no label")
        else:
            yield number, text, {name: values[row] for name, values in columns.items()}


def _write(output: Path, found: list[Sequence[Any]]) -> None:
    try:
        with output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *([csv_cell(value) for value in row] for row in found)])
    except OSError as error:
        raise BatchError(f"{output}: cannot be written: {error.strerror}") from None
