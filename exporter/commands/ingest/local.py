"""Count the rows of a run in this process, in one window."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from exporter.commands.common import Progress
from exporter.commands.ingest.table import Lines, Refused, Rows, Table
from exporter.config import ModelConfig
from exporter.errors import BatchError, printable
from exporter.features.base import as_list, is_missing
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import load
from exporter.profiles.sources.csv_cells import delimiter_in
from exporter.server.model_files import load_valid
from exporter.validation import any_of, preview, suggestion
from exporter.wire.batch import Batch, Inputs
from exporter.wire.decoder import Decoder
from exporter.wire.events import LabelledPrediction, Prediction, check_predictions

WINDOW = "run"
"""The value of the ``window`` label."""
SLICE = 2000
"""Rows counted at once: their columns fit into the processor's cache."""
NOW = 0.0
"""The time of all rows of a run."""


def monitors_of_config(config: Path) -> MonitorRegistry:
    """Return monitors, for one run, of each model in a configuration, and print what is wrong with others' files.

    Raises
    ------
    ConfigError
        When it or a profile is not valid.
    """
    loaded = load_valid(config)
    for fault in loaded.faults:
        print(f"model-exporter: warning: {printable(str(fault))}", file=sys.stderr)
    monitors = loaded.monitors
    return MonitorRegistry(monitors.models, monitors.binners, monitors.version_binners, {WINDOW: 1.0})


def monitors_of_profile(path: Path, model: str | None) -> MonitorRegistry:
    """Return the monitor, for one run, of a model that has a profile and no configuration; None names it as that.

    Raises
    ------
    ProfileError
        When the profile cannot be read.
    """
    profile = load(path)
    name = model or profile.name
    return MonitorRegistry({name: ModelConfig(name)}, {name: Binner(profile)}, {}, {WINDOW: 1.0})


def choose_monitor(monitors: MonitorRegistry, model: str | None, version: str | None) -> ModelMonitor:
    """Return the monitor of the model of a table's rows.

    Raises
    ------
    BatchError
        When the model is not named or not configured, or has no profile.
    """
    models = list(monitors.models)
    name = model or (models[0] if len(models) == 1 else None)
    if not models:
        raise BatchError("no model is configured")
    if name is None:
        raise BatchError(f"--model: expected {any_of(models)}")
    if name not in models:
        raise BatchError(f"--model: no model {preview(name)} is configured; {suggestion(name, models)}")
    monitor = monitors.get(name, version, NOW)
    if monitor.binner is None:
        raise BatchError(f"--model: {preview(name)} has no profile to compare its rows with")
    return monitor


def count_table(table: Table, monitor: ModelMonitor, where: str, progress: Progress) -> int:
    """Count a table's rows and their labels; return how many predictions have a label.

    Raises
    ------
    BatchError
        When no column of it is an input of the model.
    """
    inputs = set(monitor.binner.inputs) if monitor.binner else set()
    labelled = 0
    for rows in table:
        if table.seen and not inputs & table.seen.keys():
            delimiter = delimiter_in(table.seen)
            hint = f"set --delimiter={delimiter}" if delimiter else suggestion(next(iter(table.seen)), inputs)
            raise BatchError(f"{where}: has no column of the model's profile, but {_first(table.seen)}; {hint}")
        for start in range(0, len(rows.numbers), SLICE):
            part = slice(start, start + SLICE)
            monitor.observe(monitor.prepare(_batch(monitor.config.name, rows, part)), NOW)
            labels = _labels(rows, part, monitor)
            monitor.count_labels(labels, NOW, NOW)
            labelled += len(labels)
        progress("rows", rows.done, table.rows)
    return labelled


def _batch(model: str, rows: Rows, part: slice) -> Batch:
    """Return a part of a table's rows."""
    size = len(rows.numbers[part])
    return Batch(
        model=model,
        rows=size,
        received=None if rows.moments is None else rows.moments[part],
        predictions=rows.predictions[part],
        confidences=rows.confidences[part],
        inputs=Inputs({name: values[part] for name, values in rows.inputs.items()}, size),
    )


def _labels(rows: Rows, part: slice, monitor: ModelMonitor) -> list[LabelledPrediction]:
    """Return the predictions that have a label."""
    labels, predictions = as_list(rows.labels[part]), as_list(rows.predictions[part])
    if not labels:
        return []
    confidences = rows.confidences[part].tolist() or [None] * len(labels)
    model, version = monitor.config.name, monitor.version
    return [
        LabelledPrediction(model, version, NOW, prediction, confidence, None, label, None, 0.0)
        for prediction, confidence, label in zip(predictions, confidences, labels, strict=True)
        if not (is_missing(label) or is_missing(prediction))
    ]


def _first(names: Collection[str]) -> str:
    first = [preview(name) for name in list(names)[:5]]
    return ", ".join(first) + (", …" if len(names) > len(first) else "")


def count_lines(lines: Lines, monitors: MonitorRegistry, refused: Refused, progress: Progress) -> None:
    """Count predictions in the wire format, of any models and versions."""
    decoder = Decoder(Prediction, lambda events: check_predictions(monitors.models, events))
    for chunk in lines:
        events, rejected, _ = decoder.decode(b"\n".join(chunk.lines), lines=True)
        for error in rejected:
            refused.add(chunk.numbers[error.index], error.pointer.removeprefix("/"), error.detail)
        groups: dict[tuple[str, str | None], list[Prediction]] = {}
        for event in (event for event in events if not event.shadow):
            groups.setdefault((event.model, event.version), []).append(event)
        for (model, version), group in groups.items():
            monitor = monitors.get(model, version, NOW)
            batch = monitor.prepare(Batch.of(group, time.time()))
            monitor.observe(batch, NOW)
            monitors.unknown_features[model] += batch.inputs.unknown
        progress("rows", chunk.done, chunk.numbers[-1])


def monitors_with_rows(monitors: MonitorRegistry) -> Iterator[tuple[ModelMonitor, int]]:
    """Yield the monitors that have counted rows, and how many."""
    for monitor in monitors:
        if monitor.counters.attempts:
            yield monitor, monitor.counters.attempts
