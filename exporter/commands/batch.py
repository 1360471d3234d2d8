"""Commands for the tables of batch jobs: ingest predictions, send labels."""

from __future__ import annotations

import argparse
import base64
import contextlib
import math
import os
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from exporter.client.encoding import rfc3339
from exporter.commands import tables
from exporter.commands.common import (
    DEFAULT_URL,
    Progress,
    add_config_file,
    add_csv_options,
    add_table_options,
    aligned,
    count,
)
from exporter.config import ModelConfig
from exporter.errors import BatchError, UsageError, printable
from exporter.features import INPUT_TYPES
from exporter.features.base import as_list, is_missing
from exporter.http_client import Client, RequestError
from exporter.metrics.models import Batch as Run
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_report import TargetDrift, target_drifts
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import load
from exporter.profiles.quality import LEAST_ROWS, QualityEstimator
from exporter.profiles.sources.files import delimiter_in
from exporter.server.model_files import load_valid
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate
from exporter.validation import any_of, preview, suggestion
from exporter.wire.batch import Batch, Inputs
from exporter.wire.events import Decoder, LabelledPrediction, Prediction, check_predictions

DRIFTED = 3
"""Exit status of ``--fail-on-drift``."""


def ingest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    tables.add_input_options(parser, tables.FORMATS)
    add_config_file(parser)
    add("--profile", metavar="FILE", help="profile of the model, instead of a configuration")
    add("--model", metavar="NAME", help="model of the rows; default: the only one")
    add("--version", metavar="VERSION", help="version of the model")
    add("--id-column", metavar="NAME", help="column that identifies a prediction, for feedback on it")
    add_table_options(parser, INPUT_TYPES)
    add("--push", metavar="URL", help="push the run's metrics to this Pushgateway")
    add("--job", default="model-exporter-batch", metavar="NAME", help="job label of the pushed metrics")
    add("--textfile", metavar="FILE", help="write the run's metrics to a .prom file for node_exporter")
    add("--fail-on-drift", action="store_true", help=f"exit with status {DRIFTED} if anything has drifted")
    add("--exporter", metavar="URL", help="send the rows to this exporter, which counts them")
    tables.add_sending_options(parser, "ingest")


def ingest(options: argparse.Namespace) -> int:
    """Measure the drift of a table that a batch job scored, or send its rows to an exporter.

    Example::

        model-exporter ingest scores.parquet --profile=profiles/loans.json --prediction-column=prediction

    See docs/batch.md.
    """
    for flag in ("model", "version"):
        name = getattr(options, flag)
        if name is not None and not 0 < len(name) <= 128:
            raise UsageError(f"--{flag}: expected 1 to 128 characters, got {len(name)}")
    roles = tables.Roles(
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


def _count(options: argparse.Namespace, roles: tables.Roles) -> int:
    """Count the rows in this process."""
    start = time.monotonic()
    if options.textfile and options.textfile.suffix != ".prom":
        raise UsageError(f"--textfile: {options.textfile}: expected a name that ends in .prom, as node_exporter does")
    push = None
    if options.push:
        example = "http://127.0.0.1:9091"
        push = Client(
            options.push, "--push", example=example, user_in_url=True, ca_file=options.ca_file, timeout=TIMEOUT
        )
    monitors = _monitors(options)
    refused = tables.Refused()
    with tables.open_input(options.file, options.format) as source, Progress() as progress:
        if source.kind == "predictions":
            _refuse_column_options(options, roles)
            lines = tables.Lines(source.path, source.where, refused, max_lines=tables.BATCH)
            count_lines(lines, monitors, refused, progress)
            total, remarks, labelled = lines.rows, [], 0
        else:
            monitor, binner = choose_monitor(monitors, options.model, options.version)
            table = tables.read_table(options, source, roles, refused, binner.profile)
            labelled = count_table(table, monitor, binner.inputs, progress)
            total, remarks = table.rows, _remarks(table, binner)
    _require_good_rows(source, total, refused)
    seconds, end = time.monotonic() - start, time.time()
    counted = ((monitor, monitor.counters.attempts) for monitor in monitors)
    runs = [Run(monitor, rows, refused.count, seconds, end) for monitor, rows in counted if rows]
    _print_lines(row_lines(source.where, total, total - refused.count, refused, seconds))
    for text in remarks:
        print(f"model-exporter: {source.where}: {text}", file=sys.stderr)
    for run in runs:
        if run.monitor.binner:
            _print_lines(drift_lines(run.monitor))
        _print_lines(quality_lines(run.monitor, labelled))
    if options.textfile:
        write(options.textfile, runs)
        print(f"metrics written to {options.textfile}")
    if push:
        push_to_gateway(push, options.job, runs)
        print(f"metrics pushed to {push.url}")
    return DRIFTED if options.fail_on_drift and any(drifted(run.monitor) for run in runs) else 0


def _monitors(options: argparse.Namespace) -> MonitorRegistry:
    if options.profile and options.config_file:
        raise UsageError("ingest: expected --profile or --config.file, got both")
    if options.profile:
        return monitors_of_profile(options.profile, options.model)
    path = options.config_file or Path("exporter.yml")
    if not (options.config_file or path.exists()):
        raise BatchError("ingest: expected --profile, --config.file, or an exporter.yml in this folder")
    return monitors_of_config(path)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


def _refuse_column_options(options: argparse.Namespace, roles: tables.Roles) -> None:
    """Refuse options about columns, models and versions: the events of the wire format hold all of these."""
    if roles.named() or options.type or options.model or options.version:
        raise BatchError(
            f"{options.file}: contains predictions as for POST /v1/predictions, which name their model, version "
            "and inputs themselves: remove --model, --version, --type and the names of columns, or set --format=jsonl"
        )


def _require_good_rows(source: tables.Input, total: int, refused: tables.Refused) -> None:
    if not total:
        raise BatchError(f"{source.where}: has no rows")
    if refused.count == total:
        raise BatchError(f"{source.where}: all {total:,} rows were rejected; {refused.first[0]}")


def _remarks(table: tables.Table, binner: Binner) -> list[str]:
    """Return what the columns of the table and the profile do not have in common."""
    missing = [name for name in binner.inputs if name not in table.seen]
    unknown = [name for name in table.seen if name not in binner.known_inputs]
    remarks = [f"has no column {preview(name)}: it counts as missing" for name in missing]
    if unknown:
        remarks.append(f"the profile does not contain {', '.join(map(preview, unknown[:10]))}: not counted")
    return remarks


def _send(options: argparse.Namespace, roles: tables.Roles) -> int:
    """Send the rows to an exporter."""
    start = time.monotonic()
    _check_send_options(options, roles)
    profile = load(options.profile) if options.profile else None
    with (
        tables.sending_client(options) as client,
        tables.open_input(options.file, options.format) as source,
        Progress() as progress,
    ):
        are_events = source.kind == "predictions"
        if are_events:
            _refuse_column_options(options, roles)
        elif not options.model:
            raise UsageError("--model: is required with --exporter: name the model of these rows")
        rows_of = "" if are_events else f" model {options.model} version {options.version or 'unknown'}"
        state, path = tables.begin_sending(options, source, client.url + rows_of)
        if state.done:
            return 0
        refused, labels = tables.Refused(state.rows), tables.RowLabels(roles.label, tables.Refused(state.rows))
        rows: tables.Lines | tables.Table
        if are_events:
            limits = {"max_lines": state.batch_size, "after": state.rows, "end": state.sending}
            rows = tables.Lines(source.path, source.where, refused, **limits)
            chunks = iter(rows)
        else:
            rows = tables.read_table(options, source, roles, refused, profile)
            chunks = tables.table_chunks(rows, state, options.model, options.version, labels)
        sender = tables.Sender(client, state, path, refused, labels=labels, give_up=options.give_up)
        sender.send(chunks, lambda chunk: progress("rows", chunk.done, chunk.numbers[-1]))
        _require_good_rows(source, rows.rows, refused)
        sender.finish(rows.rows)
    _print_lines(row_lines(source.where, state.rows, state.accepted, refused, time.monotonic() - start))
    if roles.label:
        print(f"{count(state.labels, 'label')} accepted, {labels.refused.count:,} rejected")
        _print_lines(labels.refused.reasons())
    print(f"sent to {client.url}")
    return 0


def _check_send_options(options: argparse.Namespace, roles: tables.Roles) -> None:
    for flag in ("push", "textfile", "fail_on_drift", "config_file"):
        if getattr(options, flag):
            name = flag.replace("_", "-") if flag != "config_file" else "config.file"
            raise UsageError(f"--{name}: cannot be used with --exporter, which counts the rows")
    if roles.label and not roles.id:
        raise UsageError("--label-column: set --id-column, since an exporter joins labels with predictions by it")


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


def choose_monitor(monitors: MonitorRegistry, model: str | None, version: str | None) -> tuple[ModelMonitor, Binner]:
    """Return the monitor of the model of a table's rows, and its binner.

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
    return monitor, monitor.binner


def count_table(table: tables.Table, monitor: ModelMonitor, inputs: Collection[str], progress: Progress) -> int:
    """Count a table's rows and their labels; return how many predictions have a label.

    Raises
    ------
    BatchError
        When no column of it is an input of the model.
    """
    labelled = 0
    for rows in table:
        if table.seen and not table.seen.keys() & inputs:
            delimiter = delimiter_in(table.seen)
            hint = f"set --delimiter={delimiter}" if delimiter else suggestion(next(iter(table.seen)), inputs)
            raise BatchError(
                f"{table.source.where}: has no column of the model's profile, but {_first(table.seen)}; {hint}"
            )
        for start in range(0, len(rows.numbers), SLICE):
            part = slice(start, start + SLICE)
            monitor.observe(monitor.prepare(_batch(monitor.config.name, rows, part)), NOW)
            labels = _labels(rows, part, monitor)
            monitor.count_labels(labels, NOW, NOW)
            labelled += len(labels)
        progress("rows", rows.done, table.rows)
    return labelled


def _batch(model: str, rows: tables.Rows, part: slice) -> Batch:
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


def _labels(rows: tables.Rows, part: slice, monitor: ModelMonitor) -> list[LabelledPrediction]:
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


def count_lines(lines: tables.Lines, monitors: MonitorRegistry, refused: tables.Refused, progress: Progress) -> None:
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


TIMEOUT = 30.0
"""Seconds that the server may take to answer."""
GIVE_UP_SECONDS = 15.0
"""How long a server that restarts is tried again."""


def exposition(runs: Sequence[Run]) -> bytes:
    """Return the metrics of runs in the text format."""
    from exporter.metrics.exposition import render_families  # which loads the database's libraries

    lines = (line for run in runs for line in run.lines(NOW))
    return b"".join(line + b"\n" for line in render_families(lines))


def push_to_gateway(client: Client, job: str, runs: Sequence[Run]) -> None:
    """Replace the metrics of the previous run of the same job, model and version in a Pushgateway.

    Raises
    ------
    BatchError
        When the Pushgateway does not accept them.
    """
    for run in runs:
        labels = {"job": job, "model": run.monitor.config.name, "version": run.monitor.version}
        path = f"/metrics/{'/'.join(_segment(*label) for label in labels.items())}"
        request = "PUT", path, exposition([run])
        headers = {"Content-Type": "text/plain; version=0.0.4"}
        try:
            response = client.repeat(GIVE_UP_SECONDS, lambda _: None, *request, headers=headers)
        except RequestError as error:
            raise BatchError(f"--push: {client.url} did not accept the metrics: {error.reason}") from None
        if response.status >= 300:
            raise BatchError(f"--push: {client.url} did not accept the metrics: {response.error_message()}")


def _segment(name: str, value: str) -> str:
    """Return a label of the grouping key as path segments, in base64 where a path cannot hold the value."""
    if not value or "/" in value:
        return f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode() or '='}"
    return f"{name}/{urllib.parse.quote(value, safe='')}"


def write(path: Path, runs: Sequence[Run]) -> None:
    """Write the metrics to a file atomically: node_exporter may read it at any moment.

    Raises
    ------
    BatchError
        When it cannot be written.
    """
    text = exposition(runs)
    partial: str | None = None
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # node_exporter reads *.prom alone
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(partial).replace(path)
    except OSError as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                Path(partial).unlink()
        raise BatchError(f"--textfile: {path} cannot be written: {error.strerror}") from None


MAX_FEATURES = 10
"""Features in the table, the worst first."""
_STATUSES = {
    "drifted": "drifted",
    "slight": "above its noise",
    "few": "too few rows",
    "same": "",
    "empty": "no value",
}


def row_lines(where: str, total: int, accepted: int, refused: tables.Refused, seconds: float) -> Iterator[str]:
    """Return how many rows there were, and what was wrong with the first that were rejected."""
    yield f"{where}: {count(total, 'row')}, {accepted:,} accepted, {total - accepted:,} rejected, in {seconds:.1f} s"
    yield from refused.reasons()


def drift_lines(monitor: ModelMonitor) -> Iterator[str]:
    """Return a table of a run's features, the worst first."""
    reading = monitor.read(NOW)[WINDOW]
    drifts = target_drifts(monitor, reading)
    profile = monitor.binner.profile.name if monitor.binner else ""
    yield f"{monitor.config.name} version {monitor.version} against the profile {profile}, divergences in nats:"
    table = [("feature", "divergence", "noise", "threshold", "")]
    table += [
        (change.name, _score(change.score), _score(change.noise), f"{change.threshold:g}", _STATUSES[change.status])
        for change in drifts[:MAX_FEATURES]
    ]
    yield from (f"  {line}" for line in aligned(table, right=(1, 2, 3)))
    if len(drifts) > MAX_FEATURES:
        yield f"  and {count(len(drifts) - MAX_FEATURES, 'feature')} below these"
    yield from _dependence([change for change in drifts[:MAX_FEATURES] if change.is_dependent])
    score, noise = reading.multivariate.tolist()
    if score > noise:
        yield f"  the features are related differently than in training: {score:.3g}, above its noise of {noise:.3g}"


def _dependence(drifts: Sequence[TargetDrift]) -> Iterator[str]:
    """Say which noise floors are higher than those of independent values, and why."""
    if drifts:
        names = ", ".join(change.name for change in drifts)
        yield f"  in training, values are autocorrelated, which raises the noise of {names}:"
        least = min(drifts, key=lambda change: change.effective / change.observations)
        yield f"  {least.observations:,} of {least.name} have an effective sample size of {least.effective:,.0f}"


def drifted(monitor: ModelMonitor) -> list[str]:
    """Return the names of drifted targets, for which alerts such as ModelFeatureDrift would fire."""
    reading = monitor.read(NOW)[WINDOW]
    names = [change.name for change in target_drifts(monitor, reading) if change.status == "drifted"]
    return names + (["(together)"] if reading.multivariate[0] > reading.multivariate[1] else [])


def _score(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


_NAMES = {"accuracy": "accuracy", "absolute_error": "mean absolute error"}
_ABSENCES = {
    "few": f"the profile has fewer than {LEAST_ROWS} labelled rows to estimate it from",
    "empty": "no row has a valid {needed}",
    "unconfident": ("too few rows have a valid confidence: less than half the share of the profile's labelled rows"),
    "unsupported": "more than half of the rows are unlike any labelled row of the profile",
    "wide": "the rows are so few, or so unlike the profile's labelled rows, that any accuracy is possible",
}
_Line = tuple[str, str, str, str]


def quality_lines(monitor: ModelMonitor, labelled: int) -> Iterator[str]:
    """Return a table of a run's quality; nothing without labels and without an estimate.

    Parameters
    ----------
    monitor
        The run's.
    labelled
        Number of the run's predictions that have a label.
    """
    window = monitor.read_quality(NOW).get(WINDOW)
    used = int(window.labelled) if window else 0
    lines: list[_Line] = []
    if window:
        for kind, measured in (("accuracy", window.accuracy), ("absolute_error", window.absolute_error)):
            if measured:
                lines.append((f"{_NAMES[kind]}, measured", *_numbers(kind, measured), f"on {count(used, 'label')}"))
    if monitor.binner and (estimator := monitor.binner.quality):
        lines += _estimated(estimator, monitor.read(NOW)[WINDOW].counts)
        lines += _references(estimator)
    if lines:
        yield f"{monitor.config.name} version {monitor.version}, quality with intervals of 95%:"
        yield from (f"  {line}" for line in aligned(lines, right=(1,)))
    if labelled > used:
        yield f"  {count(labelled - used, 'label')} cannot be compared with the prediction"


def _estimated(estimator: QualityEstimator, counts: Floats) -> Iterator[_Line]:
    name = f"{_NAMES[estimator.kind]}, estimated"
    if estimate := estimator.estimate(counts):
        yield name, *_numbers(estimator.kind, estimate), "without labels"
    else:
        needed = "confidence" if estimator.kind == "accuracy" else "prediction"
        yield name, "–", "", _ABSENCES[estimator.absence(counts)].format(needed=needed)


def _references(estimator: QualityEstimator) -> Iterator[_Line]:
    """Yield what a measured value is compared with and, where it is of other rows, what an estimate is."""
    name, rows = f"{_NAMES[estimator.kind]} in the profile", count(estimator.rows, "labelled row")
    yield name, *_numbers(estimator.kind, IntervalEstimate(estimator.overall, math.nan, math.nan)), f"on {rows}"
    if estimator.estimated_rows < estimator.rows:
        overall = IntervalEstimate(estimator.estimated_overall, math.nan, math.nan)
        note = f"on the {estimator.estimated_rows:,} of them with a confidence, which alone are estimated"
        yield name, *_numbers(estimator.kind, overall), note


def _numbers(kind: str, estimate: IntervalEstimate) -> tuple[str, str]:
    """Return a figure and its interval, which is empty if it is not known."""
    if kind == "accuracy":
        texts = [f"{100 * number:.1f}" for number in estimate]
        return f"{texts[0]}%", "" if math.isnan(estimate.lower) else f"{texts[1]} to {texts[2]}%"
    texts = [f"{number:.4g}" for number in estimate]
    return texts[0], "" if math.isnan(estimate.lower) else f"{texts[1]} to {texts[2]}"


ROUTE = "/v1/labels"
FEW = 5
"""Labels that may all wait without a remark: perhaps their predictions have not arrived yet."""


def label_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    tables.add_input_options(parser, tables.TABLES)
    add("--exporter", default=DEFAULT_URL, metavar="URL", help="URL of the exporter")
    add("--model", metavar="NAME", help="model of the predictions, if several use the same identifiers")
    add("--id-column", default="prediction_id", metavar="NAME", help="column with the identifier of the prediction")
    add("--label-column", default="label", metavar="NAME", help="column with the true label")
    add("--time-column", metavar="NAME", help="column with the time at which the label became known; default: now")
    add_csv_options(parser, INPUT_TYPES)
    tables.add_sending_options(parser, "label")


def label(options: argparse.Namespace) -> int:
    """Send a table of true labels to an exporter, which joins them with the predictions by their identifiers.

    Example::

        model-exporter label repaid.csv --id-column=loan --label-column=repaid

    See docs/batch.md#labels.
    """
    start = time.monotonic()
    with (
        tables.sending_client(options) as client,
        tables.open_input(options.file, options.format, tables.TABLES) as source,
        Progress() as progress,
    ):
        columns = f"labels of {options.label_column} by {options.id_column}"
        of_model = f" of model {options.model}" if options.model else ""
        state, path = tables.begin_sending(options, source, f"{client.url} as {columns}{of_model}")
        if state.done:
            return 0
        refused = tables.Refused(state.rows)
        roles = tables.Roles(label=options.label_column, id=options.id_column, time=options.time_column)
        table = tables.read_table(options, source, roles, refused)
        labels = _Labels(table, refused, options.id_column, options.model)
        sender = tables.Sender(
            client, state, path, refused, labels=tables.RowLabels(None, refused), give_up=options.give_up, route=ROUTE
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
            f"  - Does {options.id_column} (--id-column) contain their identifiers? The first is {preview(first_id)}.",
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

    def chunks(self, state: tables.State) -> Iterator[tables.Chunk]:
        """Yield the labels after those that were sent before, in the same batches however the file is read."""
        lines = ((*line, rows.done) for rows in self.table for line in self._lines(rows, state.rows))
        return tables.split(lines, state.batch_size, state.sending)

    def _lines(self, rows: tables.Rows, after: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the JSON of each row with a label."""
        common = {"model": self.model} if self.model else {}
        part = slice(int(np.searchsorted(rows.numbers, after, side="right")), None)
        moments = [None] * len(rows.numbers) if rows.moments is None else rows.moments.tolist()
        columns = (rows.numbers[part].tolist(), rows.ids[part], tables.json_values(rows.labels[part]), moments[part])
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
