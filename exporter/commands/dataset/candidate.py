"""Match a candidate model's predictions with the examples of a release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.commands.dataset.release_file import ReleaseFile
from exporter.commands.ingest.remote import json_values
from exporter.commands.ingest.table import Refused, Roles, Table
from exporter.datasets.examples import Example
from exporter.errors import BatchError, ExporterError
from exporter.monitoring.binner import Binner
from exporter.profiles.readers.base import Source
from exporter.stats.divergence import Floats
from exporter.validation import preview

MAX_IDS = 10
"""Identifiers that are named, at most."""


class Labelled(NamedTuple):
    """The examples of a release in columns.

    Attributes
    ----------
    indices
        Index of each example by its identifier.
    labels, predictions
        JSON values: the label, and what the current model predicted.
    confidences
        Of the current model, NaN where it gave none, shape ``(n,)``.
    versions, sources
        See `exporter.datasets.examples.Example`.
    codes
        Index of each feature's bin in each example, shape ``(F, n)``; None without a profile.
    has_inputs
        Whether the inputs of an example are known, shape ``(n,)``.
    """

    indices: Mapping[str, int]
    labels: list[Any]
    predictions: list[Any]
    confidences: Floats
    versions: list[str]
    sources: list[str]
    codes: npt.NDArray[np.unsignedinteger] | None
    has_inputs: npt.NDArray[np.bool_]


def read_examples(release: ReleaseFile, binner: Binner | None) -> Labelled:
    """Read the examples of a release; their inputs are only kept as bins.

    Raises
    ------
    ExporterError
        When it has no examples, or two of the same identifier.
    """
    index: dict[str, int] = {}
    rows: list[tuple[Any, Any, float, str, str, bool]] = []
    parts = []
    for page in release.pages():
        for example in page:
            if example.id in index:
                raise ExporterError(f"{release.where}: has two examples with the id {preview(example.id)}")
            index[example.id] = len(index)
            rows.append(_row(example))
        if binner:
            codes = binner.empty_codes(len(page))
            binner.count([example.inputs or {} for example in page], [], codes=codes)
            parts.append(codes[: len(binner.names)])
    if not rows:
        raise ExporterError(f"{release.where}: has no examples")
    labels, predictions, confidences, versions, sources, has_inputs = (
        list(column) for column in zip(*rows, strict=True)
    )
    return Labelled(
        index,
        labels,
        predictions,
        np.array(confidences),
        versions,
        sources,
        np.concatenate(parts, axis=1) if parts else None,
        np.array(has_inputs),
    )


def _row(example: Example) -> tuple[Any, Any, float, str, str, bool]:
    confidence = np.nan if example.confidence is None else example.confidence
    return example.label, example.prediction, confidence, example.version, example.source, example.inputs is not None


class Candidate(NamedTuple):
    """The predictions of a candidate model.

    Attributes
    ----------
    predictions
        JSON values, None where there is none; one for each example.
    rows
        Rows of the table.
    missing
        Identifiers of the first examples without a prediction.
    missing_count, unknown_count, repeated_count
        Examples without a prediction; rows whose identifier is not in the release; and rows that repeat the prediction
        of an earlier one.
    unknown
        The first identifiers that are not in the release.
    refused
        Rows that are not valid, or contradict an earlier one.
    """

    predictions: list[Any]
    rows: int
    missing: list[str]
    missing_count: int
    unknown: list[str]
    unknown_count: int
    repeated_count: int
    refused: Refused

    @property
    def is_complete(self) -> bool:
        """Whether each example has one prediction, and no row was refused."""
        return not self.missing_count and not self.refused.count


def match(source: Source, roles: Roles, examples: Labelled) -> Candidate:
    """Read a table of predictions.

    Parameters
    ----------
    source
        Of the table.
    roles
        Names of the columns ``id`` and ``prediction``.
    examples
        The examples, which are found by their identifiers.

    Raises
    ------
    BatchError
        When it lacks a column, has no rows, or none of an example.
    """
    refused = Refused()
    table = Table(source, roles, refused)
    predictions: list[Any] = [None] * len(examples.indices)
    rows: dict[int, int] = {}
    unknown: dict[str, None] = {}
    unknown_count = repeated_count = 0
    for number, identifier, prediction in _entries(table):
        if identifier is None:
            refused.add(number, roles.id or "", "has no identifier")
        elif (index := examples.indices.get(identifier)) is None:
            unknown_count += 1
            if len(unknown) < MAX_IDS:
                unknown[identifier] = None
        elif prediction is None:
            refused.add(number, roles.prediction or "", "has no prediction")
        elif index not in rows:
            rows[index], predictions[index] = number, prediction
        elif predictions[index] == prediction:
            repeated_count += 1
        else:
            detail = f"{preview(identifier)} has another prediction in row {rows[index]}"
            refused.add(number, roles.id or "", detail)
    if not table.rows:
        raise BatchError(f"{source.where}: has no rows")
    if not rows:
        first = f"{preview(next(iter(unknown)))} is the first of the table, " if unknown else ""
        reason = refused.first[0] if refused.first else "no identifier is that of an example"
        known = preview(next(iter(examples.indices)))
        raise BatchError(f"{source.where}: has no prediction of an example: {reason}; {first}{known} of the release")
    missing = [identifier for identifier, index in examples.indices.items() if index not in rows]
    return Candidate(
        predictions, table.rows, missing[:MAX_IDS], len(missing), list(unknown), unknown_count, repeated_count, refused
    )


def _entries(table: Table) -> Iterator[tuple[int, str | None, Any]]:
    for rows in table:
        columns: Sequence[Any] = (rows.numbers.tolist(), rows.ids, json_values(rows.predictions))
        yield from zip(*columns, strict=True)
