"""The exporter: make its parts, start its threads, and stop them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from exporter.config import Config
from exporter.metrics import system
from exporter.metrics.exporter import ExporterMetrics, LinksCollector, ModelFilesCollector
from exporter.metrics.exposition import Exposition
from exporter.metrics.shadow import shadow_lines
from exporter.monitoring.background import BackgroundTask
from exporter.monitoring.history import DriftHistory
from exporter.monitoring.model_files import load_valid
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shared_counts import SharedCounts
from exporter.monitoring.snapshots import SnapshotSaver, restore
from exporter.profiles.profile import image_inputs
from exporter.server.alerts import AlertSource
from exporter.server.client_log import ClientLog
from exporter.server.feedback_counter import FeedbackCounter
from exporter.server.notifications import Inbox
from exporter.server.pipeline import Pipeline
from exporter.server.prometheus_clients import ALERTS_SECONDS, COMPARISON_SECONDS, PrometheusClients
from exporter.server.reload import Reloader
from exporter.server.scrapes import Scrapes
from exporter.server.slices import Slices
from exporter.server.status import Status
from exporter.server.stored_inputs import feedback_inputs
from exporter.server.tasks.archiver import Archiver
from exporter.server.tasks.comparisons import Comparisons
from exporter.server.tasks.late_joiner import LateJoiner
from exporter.server.tasks.model_file_watch import ModelFileWatch
from exporter.server.tasks.replica_drift import ReplicaDrift
from exporter.server.tasks.retraining import Retrainer
from exporter.server.tasks.review_ranker import ReviewRanker
from exporter.server.tasks.slice_watch import SliceWatch
from exporter.slices.drifting_hours import DriftingHours
from exporter.stats.tolerance import Tolerance
from exporter.storage import Store
from exporter.storage.engine import check_url, is_shared
from exporter.storage.label_sums import sum_labels
from exporter.storage.review.second_opinions import OpinionRule
from exporter.wire.pairing import RequestResponsePairer

log = logging.getLogger(__name__)

STOP_SECONDS = 12.0
"""Time from a request to stop until the process ends, whatever hangs: Kubernetes waits for 30 s by default."""
COUNT_SECONDS = 5.0
"""How much of that the counting of queued events may take."""


class Exporter:
    """The state of the process.

    Parameters
    ----------
    path
        ``exporter.yml``.

    Attributes
    ----------
    address : str
        Where the exporter listens, as a URL; links begin with it if no ``external_url`` is configured.
    started : float
        When this object was made, Unix time in seconds.
    registry : CollectorRegistry
        The exporter's own metrics, which `telemetry` counts.
    client_log : ClientLog
        Counts and logs the events that are refused.
    store : Store
        The database.
    pipeline : Pipeline
        The queue of predictions; has the configuration and the monitors in use.
    reloader : Reloader
        Replaces the configuration and the monitors.
    shared : SharedCounts
        Counts of pairs of versions while both serve.
    comparisons : Comparisons
        Compares versions.
    slices : Slices
        Searches for slices.
    drift_history : DriftHistory
        The drift scores of the last hour.
    pairer : RequestResponsePairer
        Requests and responses of model servers that wait for each other.
    inbox : Inbox
        The notifications of Alertmanager.
    scrapes : Scrapes
        The scrapes of this exporter.
    alerts : AlertSource
        The alerts that are known.
    retrainer : Retrainer
        Asks for new versions of models.
    exposition : Exposition
        Renders ``/metrics``.
    status : Status
        What the probes say.

    Raises
    ------
    ConfigError
        When the configuration or a profile is wrong.
    StoreError
        When the database cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.started, self._stop_by = time.time(), math.inf
        self.address = "http://127.0.0.1:9877"
        files = load_valid(path)
        config, monitors = files.config, files.monitors
        self.registry = CollectorRegistry(auto_describe=False)
        self.telemetry = ExporterMetrics(self.registry)
        self.client_log = ClientLog(self.telemetry)
        self.store = self._open_store(config)
        self.shared = SharedCounts()
        restore(self.store, monitors, time.monotonic(), time.time(), self.shared)
        self.pipeline = Pipeline(config, monitors, self.store, self.telemetry, self.shared)
        self.reloader = Reloader(files, self.pipeline, self.store, self.telemetry)
        prometheus = PrometheusClients(lambda: self.config.prometheus_url)
        self.comparisons = Comparisons(
            self._monitors,
            self.shared,
            lambda model, version, period: sum_labels(self.store, model, version, *period),
            lambda: prometheus.get(COMPARISON_SECONDS),
            shadow=self.pipeline.shadow,
        )
        self.slices = Slices(self.store, self._monitors, self.pipeline.bins, config.store)
        self.drift_history = DriftHistory()
        self.pairer = RequestResponsePairer()
        self._snapshots = SnapshotSaver(
            self.store, self._monitors, self.shared, is_complete=lambda: not self.reloader.files.faults
        )
        self._snapshots.start()
        self.status = Status(self.pipeline, self.store, self._snapshots.lease, self.reloader)
        self.inbox = Inbox()
        self.scrapes = Scrapes()
        self.alerts = AlertSource(
            lambda: prometheus.get(ALERTS_SECONDS), self.inbox, self.scrapes, lambda: self.reloader.loaded
        )
        self.retrainer = Retrainer(
            lambda: self.config,
            self.store,
            self.telemetry,
            self.alerts.read,
            compare=self.comparisons.compare,
            slices=self.slices.of_corrections,
            details=self.slices.release_details,
            external_url=lambda: self.link_addresses()[0],
        )
        self._slice_watch = SliceWatch(self._monitors, self.slices.explain)
        self._replicas = ReplicaDrift(self.store, self._monitors)
        self.exposition = self._make_exposition()
        self._tasks = list(self._make_tasks())
        for task in self._tasks:
            task.start()
        self._watch = ModelFileWatch(
            lambda: self.reloader.files, self.reloader.reload_models, self.telemetry.reload_successful
        )
        self._watch.start()

    def _open_store(self, config: Config) -> Store:
        counter = FeedbackCounter(self._monitors, self.telemetry.rejected)
        store = Store(
            config.store,
            counter.count_feedback,
            self.telemetry.store_errors.inc,
            self.feedback_inputs,
            tolerances=self.tolerance,
            on_labelled=counter.count_labels,
            on_unusable=counter.count_unusable,
            loss=counter.loss,
        )
        self.telemetry.quarantined_files.set_function(store.count_set_aside)
        self.telemetry.watch_size(store.size)
        return store

    def _make_exposition(self) -> Exposition:
        self.registry.register(self.pairer)
        self.registry.register(LinksCollector(lambda: (self._monitors().models, *self.link_addresses())))
        self.registry.register(ModelFilesCollector(lambda: self.reloader.files.valid))
        return Exposition(
            self.registry,
            system.collectors(_disks(self.config)),
            self._monitors,
            self.store,
            {
                "comparisons": self.comparisons.lines,
                "replicas": self._replicas.lines,
                "retraining": self.retrainer.lines,
                "slices": self._slice_watch.lines,
                "shadow": lambda: shadow_lines(self.pipeline.shadow.read(time.monotonic())),
            },
        )

    def _make_tasks(self) -> Iterator[BackgroundTask]:
        yield self.comparisons
        yield NoiseLearner(self._monitors)
        yield self.retrainer
        yield ReviewRanker(self.store, self._monitors)
        yield self._slice_watch
        yield self._replicas
        config, store = self.config.store, self.store
        if config.archive is not None:
            yield LateJoiner(config, store)
            has_drift, count = DriftingHours(self._monitors), self.telemetry.archived.inc
            yield Archiver(config, store, self.feedback_inputs, has_drift, count, redacted=lambda: self.redacted)

    def _monitors(self) -> MonitorRegistry:
        """Return the current monitors, which a reload replaces."""
        return self.pipeline.monitors

    @property
    def config(self) -> Config:
        """The current configuration."""
        return self.pipeline.config

    @property
    def redacted(self) -> dict[str, frozenset[str]]:
        """Names of inputs that must not be shown, by model."""
        return {name: model.redact for name, model in self._monitors().models.items() if model.redact}

    def link_addresses(self) -> tuple[str, str]:
        """Return what links to the exporter and to Grafana's dashboards begin with.

        Without a Grafana, the exporter redirects links to dashboards to its own pages.
        """
        external_url = self.config.external_url or self.address
        return external_url.rstrip("/"), (self.config.links.grafana or external_url).rstrip("/")

    def metrics(self, accept: str, names: Collection[str]) -> tuple[bytes, str]:
        """Return the exposition; see `Exposition.render`.

        Except under overload, it includes all events that were acknowledged before.
        """
        if not self.pipeline.is_half_full:
            self.pipeline.settle(0.5)
        self.drift_history.sample(self._monitors(), time.monotonic())
        return self.exposition.render(accept, names)

    def stop(self) -> None:
        """Let everything end within `STOP_SECONDS` from the first call; `close` then waits no longer than that."""
        self.status.ready = False
        self._stop_by = self.store.deadline = min(self._stop_by, time.monotonic() + STOP_SECONDS)

    def close(self) -> None:
        """Count and store what is queued, within `STOP_SECONDS`, and end the threads."""
        self.stop()
        for task in (self._watch, *self._tasks):
            task.close(min(1.0, self._seconds_left()))
        self.pipeline.close(min(COUNT_SECONDS, self._seconds_left()))
        self._snapshots.close(self._seconds_left())
        if not self.store.close(self._seconds_left()):
            log.error("%d predictions were not written to the database before the exporter stopped", self.store.waiting)

    def _seconds_left(self) -> float:
        return max(self._stop_by - time.monotonic(), 0.0)

    def feedback_inputs(self, name: str, inputs: str | None) -> str | None:
        """Return the inputs of a prediction as its feedback stores them: without redacted ones, and images as PNG."""
        monitors = self._monitors()
        model, binner = monitors.models.get(name), monitors.nearest_binner(name)
        if not inputs or model is None:
            return inputs
        return feedback_inputs(inputs, model.redact, image_inputs(model, binner.profile if binner else None)) or None

    def tolerance(self, name: str) -> Tolerance:
        """Return the tolerance of a model's corrections."""
        model = self._monitors().models.get(name)
        return model.tolerance() if model else Tolerance()

    @property
    def opinion_rule(self) -> OpinionRule:
        """Which corrections get a second opinion, and when two reviewers agree."""
        return OpinionRule(self.config.review.second_opinion, self.tolerance)


def _disks(config: Config) -> list[Path]:
    database = check_url(config.store.url)
    if is_shared(database) or not (database.database or "").startswith("/"):
        return [Path("/")]
    return [Path("/"), Path(database.database or "/")]
