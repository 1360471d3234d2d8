"""The command ``model-exporter suspects``: find labels of a training file that may be wrong."""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.commands.common import add_csv_options, aligned, column_type
from exporter.commands.ingest.report import count, reasons
from exporter.commands.ingest.table import TABLES, Input, Refused, Roles, Rows, Table, add_input_options, open_input
from exporter.datasets.formats import csv_cell
from exporter.errors import BatchError
from exporter.features.extract import as_list, numeric_columns, scalar_text
from exporter.features.similarity import InputEncoder
from exporter.features.types import INPUT_TYPES
from exporter.profiles.sources.files import FileSource
from exporter.stats.confident_learning import find_suspects
from exporter.stats.divergence import Floats
from exporter.stats.neighbours import MIN_NEIGHBOURS, unlike_neighbours
from exporter.validation import preview

SHOWN = 20
"""Suspects that are printed."""
MAX_PROBABILITIES = 20_000_000
"""Rows times classes: each takes 8 bytes, three times."""
MAX_COMPARED = 30_000
"""Rows whose inputs are compared with each other."""
SAMPLE = 1000
"""Rows from which it is learned how to compare inputs."""
TOLERANCE = 0.01
"""How far the sum of a row's probabilities may be from 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add_input_options(parser, TABLES)
    add("--label-column", default="label", metavar="NAME", help="column with the label (%(default)s)")
    text = "prefix of the columns with the probabilities of the classes; default: compare inputs"
    add("--probability-prefix", metavar="PREFIX", help=text)
    add("--ignore", action="append", default=[], metavar="NAME", help="column that is not compared; repeatable")
    add("-o", "--output", type=Path, metavar="FILE", help="CSV file to write all suspects to")
    add_csv_options(parser, INPUT_TYPES)


def run(options: argparse.Namespace) -> int:
    """Find the suspects of a file; return the exit status."""
    refused = Refused()
    types = dict(map(column_type, options.type))
    with open_input(options.file, options.format, TABLES) as source:
        where = source.where
        table = _table(options, types, source, refused)
        if options.probability_prefix is not None:
            head, found, checked = _by_probabilities(table, options.probability_prefix, where, refused)
        else:
            head, found, checked = _by_inputs(table, types, where, refused)
    if not checked:
        raise BatchError(f"{where}: no label was checked; {refused.first[0] if refused.first else 'it has no rows'}")
    if options.output:
        _write(options.output, head, found)
    print(
        f"{where}: {count(checked, 'label')} checked, {count(len(found), 'suspect')}, {refused.count:,} rows rejected"
    )
    for line in reasons(refused):
        print(line)
    shown = [head, *found[:SHOWN]] if found else []
    for line in aligned([[str(value) for value in row] for row in shown]):
        print(line)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN:,} more" + ("" if options.output else "; -o FILE writes them all"))
    return 0


def _table(options: argparse.Namespace, types: Mapping[str, str], source: Input, refused: Refused) -> Table:
    open_file = functools.partial(
        FileSource,
        source.path,
        kind=source.kind,
        where=source.where,
        delimiter=options.delimiter,
        decimal=options.decimal,
    )
    reader = open_file(types)
    if options.probability_prefix:  # a single text would make the whole column of CSV texts
        names = (name for name in reader.columns() if name.startswith(options.probability_prefix))
        reader = open_file({**dict.fromkeys(names, "numeric"), **types})
    return Table(reader, Roles(label=options.label_column, ignored=tuple(options.ignore)), refused)


def _by_probabilities(table: Table, prefix: str, where: str, refused: Refused) -> tuple[Sequence[str], Any, int]:
    """Find suspects with confident learning; see `exporter.stats.confident_learning`."""
    numbers, labels, parts, rows = [], [], [], 0
    classes: dict[str, int] = {}
    for batch in table:
        if not classes:
            names = [name for name in table.seen if name.startswith(prefix) and name != prefix]
            classes = {name.removeprefix(prefix): number for number, name in enumerate(names)}
            if len(classes) < 2:
                listed = ", ".join(map(preview, itertools.islice(table.seen, SHOWN)))
                raise BatchError(
                    f"{where}: expected two or more columns that begin with {preview(prefix)}, one for each class; "
                    f"got the columns {listed}"
                )
        missing = [None] * len(batch.numbers)
        matrix = numeric_columns([batch.inputs.get(f"{prefix}{name}", missing) for name in classes]).T
        good = _valid(batch, matrix, classes, refused)
        rows += len(good)
        if rows * len(classes) > MAX_PROBABILITIES:
            most = f"{MAX_PROBABILITIES // len(classes):,} rows of {len(classes)} classes"
            raise BatchError(f"{where}: expected at most {most}: check a part of the file")
        texts = [scalar_text(label) for label in as_list(batch.labels)]
        labels += [classes[texts[row]] for row in good]
        numbers += batch.numbers[good].tolist()
        parts.append(matrix[good] / matrix[good].sum(axis=1, keepdims=True))
    if not numbers:
        return (), [], 0
    found = find_suspects(np.array(labels, np.intp), np.concatenate(parts))
    names = list(classes)
    values = zip(*(array.tolist() for array in found), strict=True)
    body = [
        (numbers[row], names[labels[row]], names[class_], round(own, 6), round(margin, 6))
        for row, class_, own, margin in values
    ]
    return ("row", "label", "likely", "self_confidence", "margin"), body, len(numbers)


def _valid(batch: Rows, matrix: Floats, classes: Mapping[str, int], refused: Refused) -> list[int]:
    """Return the rows of a batch that have a label that is a class, and probabilities."""
    total = matrix.sum(axis=1).tolist()
    inside: list[bool] = np.logical_and(matrix >= 0, matrix <= 1).min(axis=1).tolist()  # NaN is not
    good = []
    for row, label in enumerate(as_list(batch.labels)):
        number = int(batch.numbers[row])
        if scalar_text(label) not in classes:
            expected = ", ".join(itertools.islice(classes, SHOWN))
            refused.add(number, "", f"expected a label of {expected}, got {preview(label)}")
        elif not inside[row]:
            refused.add(number, "", "expected the probability of each class as a number from 0 to 1")
        elif abs(total[row] - 1) > TOLERANCE:
            refused.add(number, "", f"expected probabilities that sum to 1, got {total[row]:.6g}")
        else:
            good.append(row)
    return good


def _by_inputs(table: Table, types: Mapping[str, str], where: str, refused: Refused) -> tuple[Sequence[str], Any, int]:
    """Find suspects among similar rows; see `exporter.stats.neighbours`."""
    numbers: list[int] = []
    texts: list[str] = []
    parts: list[Any] = []
    encoder: InputEncoder | None = None
    for batch in table:
        rows = list(_labelled(batch, refused))
        if not rows:
            continue
        if len(numbers) + len(rows) > MAX_COMPARED:
            hint = "set --probability-prefix, or check a part of the file"
            raise BatchError(f"{where}: expected at most {MAX_COMPARED:,} rows whose inputs are compared: {hint}")
        inputs = [values for _, _, values in rows]
        encoder = encoder or InputEncoder(inputs[:: max(len(inputs) // SAMPLE, 1)], types)
        parts.append(encoder.encode(inputs))
        numbers += [number for number, _, _ in rows]
        texts += [text for _, text, _ in rows]
    classes = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    names = list(classes)
    labels = np.array([classes[text] for text in texts], np.intp)
    if not numbers:
        return (), [], 0
    found = unlike_neighbours(np.concatenate(parts), labels, len(classes))
    if not found.compared:
        raise BatchError(f"{where}: expected {4 * MIN_NEIGHBOURS} rows or more with a label and inputs")
    values = zip(*(array.tolist() for array in found[:4]), strict=True)
    body = [(numbers[row], texts[row], names[class_], found.compared, other, own) for row, class_, other, own in values]
    return ("row", "label", "likely", "compared", "with_likely", "with_label"), body, len(numbers)


def _labelled(batch: Rows, refused: Refused) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the number, the label and the inputs of each row with a label."""
    columns = {name: as_list(values) for name, values in batch.inputs.items()}
    for row, label in enumerate(as_list(batch.labels)):
        number, text = int(batch.numbers[row]), scalar_text(label)
        if text in {"", "nan"}:
            refused.add(number, "", "has no label")
        else:
            yield number, text, {name: values[row] for name, values in columns.items()}


def _write(output: Path, head: Sequence[str], found: list[Sequence[Any]]) -> None:
    try:
        with output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *([csv_cell(value) for value in row] for row in found)])
    except OSError as error:
        raise BatchError(f"{output}: cannot be written: {error.strerror}") from None
