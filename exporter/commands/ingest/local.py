"""Rows counted in this process: the run is the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporter.commands.ingest.json_lines import Lines
from exporter.commands.ingest.table import Refused, Rows, Table
from exporter.commands.progress import Progress
from exporter.config import ModelConfig
from exporter.errors import BatchError
from exporter.events import Decoder, Prediction, check_models
from exporter.features.lenient_json import decode_inputs
from exporter.monitoring.binner import Binner
from exporter.monitoring.loading import load_monitors
from exporter.monitoring.model_monitor import ModelMonitor, PredictionColumns
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import load
from exporter.validation import any_of, preview, suggestion

WINDOW = "run"
"""The value of the ``window`` label."""
SLICE = 2000
"""Rows counted at once: their columns fit into the processor's cache."""
NOW = 0.0
"""All of a run is one moment of its window."""


def configured(config: Path) -> MonitorRegistry:
    """Monitors of one run of each model in a configuration.

    Raises
    ------
    ConfigError
        When it or a profile is wrong.
    """
    _, monitors = load_monitors(config)
    return MonitorRegistry(monitors.models, monitors.binners, monitors.version_binners, {WINDOW: 1.0})


def profiled(profile: Path, model: str | None) -> MonitorRegistry:
    """Monitors of one run of a model that nothing but a profile is known of; its name is the profile's when None.

    Raises
    ------
    ProfileError
        When the profile cannot be read.
    """
    found = load(profile)
    name = model or found.name
    return MonitorRegistry({name: ModelConfig(name)}, {name: Binner(found)}, {}, {WINDOW: 1.0})


def chosen(monitors: MonitorRegistry, model: str | None, version: str | None) -> ModelMonitor:
    """The monitor of the model that a table's rows are of.

    Raises
    ------
    BatchError
        When it is not known which, or it has no profile.
    """
    known = list(monitors.models)
    name = model or (known[0] if len(known) == 1 else None)
    if name is None:
        raise BatchError(f"--model: expected {any_of(known)}")
    if name not in known:
        raise BatchError(f"--model: no model {preview(name)} is configured; {suggestion(name, known)}")
    monitor = monitors.get(name, version, NOW)
    if monitor.binner is None:
        raise BatchError(f"--model: {preview(name)} has no profile: there is nothing to compare its rows with")
    return monitor


def count_table(table: Table, monitor: ModelMonitor, where: str, progress: Progress | None) -> None:
    """Count a table's rows.

    Raises
    ------
    BatchError
        When no column of it is an input of the model.
    """
    inputs = set(monitor.binner.inputs) if monitor.binner else set()
    for rows in table:
        if table.seen and not inputs & table.seen.keys():
            known = suggestion(next(iter(table.seen)), inputs)
            raise BatchError(f"{where}: has no column of the model's profile, but {_some(table.seen)}; {known}")
        for start in range(0, len(rows.numbers), SLICE):
            monitor.observe_columns(_columns(rows, slice(start, start + SLICE)), NOW)
        if progress:
            progress("rows", rows.done, table.rows)


def _columns(rows: Rows, part: slice) -> PredictionColumns:
    predictions: Any = rows.predictions[part]
    if isinstance(predictions, np.ndarray):
        predictions = predictions[~np.isnan(predictions)]
    elif None in predictions:
        predictions = [value for value in predictions if value is not None]
    return PredictionColumns(
        len(rows.numbers[part]),
        {name: values[part] for name, values in rows.inputs.items()},
        predictions,
        rows.confidences[part],
        None if rows.moments is None else rows.moments[part],
    )


def _some(names: Any) -> str:
    first = [preview(name) for name in list(names)[:5]]
    return ", ".join(first) + (", …" if len(names) > len(first) else "")


def count_lines(lines: Lines, monitors: MonitorRegistry, refused: Refused, progress: Progress | None) -> None:
    """Count predictions as ``POST /v1/predictions`` takes them, of any models and versions."""
    decoder = Decoder(Prediction, lambda events: check_models(monitors.models, events))
    for chunk in lines:
        events, rejected = decoder.decode(b"\n".join(chunk.lines), lines=True)
        for one in rejected:
            refused.add(chunk.numbers[one.index], one.pointer.removeprefix("/"), one.detail)
        groups: dict[tuple[str, str | None], list[Prediction]] = {}
        for event in events:
            groups.setdefault((event.model, event.version), []).append(event)
        for (model, version), group in groups.items():
            monitor = monitors.get(model, version, NOW)
            inputs = decode_inputs([bytes(memoryview(event.inputs)) for event in group])
            segments = monitor.segments
            places = [segments.index_of(inputs.get(place)) for place in range(len(group))] if segments else []
            monitors.unknown_features[model] += monitor.observe(group, list(inputs.values()), NOW, places)
        if progress:
            progress("rows", chunk.done, chunk.numbers[-1])


def counted(monitors: MonitorRegistry) -> Iterator[tuple[ModelMonitor, int]]:
    """The monitors that have counted rows, and how many."""
    for monitor in monitors:
        if monitor.counters.attempts:
            yield monitor, monitor.counters.attempts
