"""The exporter: its configuration, state and threads, from start to shutdown."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from exporter.config import Config
from exporter.errors import ConfigError, ModelFileError
from exporter.http_client.credentials import Credentials
from exporter.metrics import system
from exporter.metrics.exporter import ExporterMetrics, LinksCollector, ModelFilesCollector
from exporter.metrics.exposition import Exposition
from exporter.metrics.shadow import shadow_lines
from exporter.monitoring.background import BackgroundTask
from exporter.monitoring.history import DriftHistory
from exporter.monitoring.model_files import Loaded, load_folder, load_valid
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.shared_counts import SharedCounts
from exporter.monitoring.snapshots import SnapshotSaver, restore
from exporter.profiles.profile import image_inputs
from exporter.server.alerts import AlertSource
from exporter.server.archiver import Archiver
from exporter.server.client_log import ClientLog
from exporter.server.comparisons import Comparisons
from exporter.server.feedback_counter import FeedbackCounter
from exporter.server.integrations.pairing import RequestResponsePairer
from exporter.server.late_joiner import LateJoiner
from exporter.server.model_file_watch import ModelFileWatch
from exporter.server.notifications import Inbox
from exporter.server.pipeline import Pipeline
from exporter.server.replica_drift import ReplicaDrift
from exporter.server.retraining import Retrainer
from exporter.server.review_ranker import ReviewRanker
from exporter.server.scrapes import Scrapes
from exporter.server.slice_watch import SliceWatch
from exporter.server.slices import Slices
from exporter.server.stored_inputs import snapshot_inputs
from exporter.slices.drifting_hours import DriftingHours
from exporter.stats.tolerance import Tolerance
from exporter.storage import Store
from exporter.storage.engine import check_url, is_shared
from exporter.storage.label_sums import sum_labels
from exporter.storage.second_opinions import OpinionRule

if TYPE_CHECKING:
    from exporter.http_client.prometheus import Prometheus

log = logging.getLogger(__name__)

PROMETHEUS_SECONDS = 10.0
"""Time that Prometheus has for each part of a response."""
COMPARISON_SECONDS = 20.0
"""The same for a comparison, which may read a week of counters. A stop waits for it, too."""
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
    scrapes : Scrapes
        The scrapes of this exporter.
    inbox : Inbox
        The notifications of Alertmanager.
    alerts : AlertSource
        The alerts that are known.
    retrainer : Retrainer
        Asks for new versions of models.
    files : Loaded
        The configuration in use, with what is wrong with files of ``models_folder``.
    loaded : tuple of float
        Unix times of the last two times at which the configuration was read, or of the first.

    Raises
    ------
    ConfigError
        When the configuration or a profile is wrong.
    StoreError
        When the database cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reloading, self._connecting = threading.Lock(), threading.Lock()
        self._clients: dict[float, Prometheus] = {}
        self._stop_by = math.inf
        self.files = load_valid(path)
        config, monitors = self.files.config, self.files.monitors
        self.registry = CollectorRegistry(auto_describe=False)
        self.telemetry = ExporterMetrics(self.registry)
        self.clients = ClientLog(self.telemetry)
        counter = FeedbackCounter(lambda: self.pipeline.monitors, self.telemetry.rejected)
        self.store = Store(
            config.store,
            counter.count_feedback,
            self.telemetry.store_errors.inc,
            self.snapshot,
            tolerances=self.tolerance,
            on_labelled=counter.count_labels,
            on_unusable=counter.count_unusable,
            loss=counter.loss,
        )
        self.telemetry.quarantined_files.set_function(lambda: self.store.damaged)
        self.telemetry.watch_size(self.store.size)
        self.shared = SharedCounts()
        restore(self.store, monitors, time.monotonic(), time.time(), self.shared)
        self.pipeline = Pipeline(config, monitors, self.store, self.telemetry, self.shared)
        self.comparisons = Comparisons(
            lambda: self.pipeline.monitors,
            self.shared,
            lambda model, version, period: sum_labels(self.store, model, version, *period),
            lambda: self._prometheus(COMPARISON_SECONDS),
            shadow=self.pipeline.shadow,
        )
        self.slices = Slices(self.store, lambda: self.pipeline.monitors, self.pipeline.bins, config.store)
        self._slice_watch = SliceWatch(lambda: self.pipeline.monitors, self.slices.explain)
        self._replicas = ReplicaDrift(self.store, lambda: self.pipeline.monitors)
        self.trends = DriftHistory()
        self.pairs = RequestResponsePairer()
        self.registry.register(self.pairs)
        self.registry.register(LinksCollector(lambda: (self.pipeline.monitors.models, *self.link_addresses())))
        self.registry.register(ModelFilesCollector(lambda: self.files.valid))
        self._snapshots = SnapshotSaver(
            self.store, lambda: self.pipeline.monitors, self.shared, is_complete=lambda: not self.files.faults
        )
        self._snapshots.start()
        self.inbox = Inbox()
        self.scrapes = Scrapes()
        self.alerts = AlertSource(lambda: self.prometheus, self.inbox, self.scrapes, lambda: self.loaded)
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
        self.exposition = Exposition(
            self.registry,
            system.collectors(_disks(config)),
            lambda: self.pipeline.monitors,
            self.store,
            {
                "comparisons": self.comparisons.lines,
                "replicas": self._replicas.lines,
                "retraining": self.retrainer.lines,
                "slices": self._slice_watch.lines,
                "shadow": lambda: shadow_lines(self.pipeline.shadow.read(time.monotonic())),
            },
        )
        self._tasks: list[BackgroundTask] = [
            self.comparisons,
            NoiseLearner(lambda: self.pipeline.monitors),
            self.retrainer,
            ReviewRanker(self.store, lambda: self.pipeline.monitors),
            self._slice_watch,
            self._replicas,
        ]
        if config.store.archive is not None:
            self._tasks.append(LateJoiner(config.store, self.store))
            has_drift = DriftingHours(lambda: self.pipeline.monitors)
            count, store = self.telemetry.archived.inc, self.store
            archiver = Archiver(config.store, store, self.snapshot, has_drift, count, redacted=lambda: self.redacted)
            self._tasks.append(archiver)
        for task in self._tasks:
            task.start()
        self.loaded: tuple[float, ...] = ()
        self._set_loaded()
        self._report_faults()
        self._watch = ModelFileWatch(lambda: self.files, self.reload_models, self.telemetry.reload_successful)
        self._watch.start()
        self.ready = True
        self.address = "http://127.0.0.1:9877"
        self.reloaders: list[Callable[[], None]] = []

    @property
    def config(self) -> Config:
        """The current configuration."""
        return self.pipeline.config

    @property
    def redacted(self) -> dict[str, frozenset[str]]:
        """Names of inputs that must not be shown, by model."""
        return {name: model.redact for name, model in self.pipeline.monitors.models.items() if model.redact}

    def link_addresses(self) -> tuple[str, str]:
        """Return what links to the exporter and to Grafana's dashboards begin with.

        Without a Grafana, the exporter redirects links to dashboards to its own pages.
        """
        external_url = self.config.external_url or self.address
        return external_url.rstrip("/"), (self.config.links.grafana or external_url).rstrip("/")

    @property
    def prometheus(self) -> Prometheus | None:
        """The Prometheus at ``prometheus_url``; None without the key.

        Raises
        ------
        ExporterError
            When the file with certificates cannot be read.
        """
        return self._prometheus(PROMETHEUS_SECONDS)

    def _prometheus(self, timeout: float) -> Prometheus | None:
        url = self.config.prometheus_url
        if url is None:
            return None
        with self._connecting:
            client = self._clients.get(timeout)
            if client is None or client.url != url.rstrip("/"):
                from exporter.http_client.prometheus import Prometheus  # urllib3 takes time to load

                credentials = Credentials.from_environment("PROMETHEUS")
                client = self._clients[timeout] = Prometheus(url, "prometheus_url", credentials, timeout)
            return client

    def reload(self) -> None:
        """Read the configuration again; if the new one is not valid, the old one stays in use.

        Models that did not change keep their counters and windows. The store is opened only once, so that
        a change of ``store`` requires a restart. If a file of ``models_folder`` is not valid, its last valid version
        stays in use, and all others are reloaded.

        Raises
        ------
        ModelFileError
            When files of ``models_folder`` are not valid.
        ConfigError
            When the new configuration is not valid otherwise.
        """
        with self._reloading:
            try:
                files = load_valid(self._path, self.files)
                if files.config.store != self.config.store:
                    raise ConfigError(f"{self._path}: store: a change needs a restart")
                for reloader in self.reloaders:
                    reloader()
            except Exception as error:  # of any type: the metric must not keep reporting success
                self.telemetry.reload_successful.set(0)
                log.error("reload: %s", error)
                raise
            log.info("configuration reloaded from %s", self._path)
            self._use(files)
        if files.faults:
            raise ModelFileError("\n".join(files.problems))

    def reload_models(self) -> None:
        """Read the files of ``models_folder`` that have changed, and nothing else.

        Raises
        ------
        ConfigError
            When the folder cannot be read.
        """
        with self._reloading:
            self._use(load_folder(self.files))

    def _use(self, files: Loaded) -> None:
        before = self.pipeline.monitors
        files.monitors.adopt(before)
        added = files.monitors.models.keys() - before.models.keys()
        if added:  # their file may not have been valid at the start
            restore(self.store, files.monitors, time.monotonic(), time.time(), models=added)
        self.pipeline.reconfigure(files.config, files.monitors)
        self.store.forget_samples()
        self.pipeline.shadow.forget([*files.monitors.models])
        self.files = files
        removed = before.models.keys() - files.monitors.models.keys()
        for what, names in (("added", added), ("removed", removed)):
            if names:
                log.info("models %s: %s", what, ", ".join(map(repr, sorted(names))))
        if not files.faults:
            self._set_loaded()
        self._report_faults()

    def _report_faults(self) -> None:
        for problem in self.files.problems:
            self.telemetry.reload_successful.set(0)
            log.error("%s", problem)

    def _set_loaded(self) -> None:
        now = time.time()
        self.loaded = (*self.loaded[-1:], now)
        self.telemetry.reload_successful.set(1)
        self.telemetry.reload_time.set(now)

    @property
    def alive(self) -> bool:
        """Whether the threads of the queue and of the store run."""
        return self.pipeline.alive and self.store.alive

    @property
    def warnings(self) -> list[str]:
        """What an operator should look into although events are accepted and stored."""
        texts = {
            "a damaged database or write-ahead log was set aside: see runbook ModelStoreFailing": self.store.set_aside,
            "windows are not saved: another exporter has the same store.replica": self._snapshots.lease.holder,
        }
        return [text for text, applies in texts.items() if applies] + self.files.invalid

    def metrics(self, accept: str, names: Collection[str]) -> tuple[bytes, str]:
        """Return the exposition; see `Exposition.render`.

        Except under overload, it includes all events that were acknowledged before.
        """
        if not self.pipeline.is_half_full:
            self.pipeline.settle(0.5)
        self.trends.sample(self.pipeline.monitors, time.monotonic())
        return self.exposition.render(accept, names)

    def stop(self) -> None:
        """Let everything end within `STOP_SECONDS` from the first call; `close` then waits no longer than that."""
        self.ready = False
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

    def snapshot(self, name: str, inputs: str | None) -> str | None:
        """Return the inputs of a prediction as its feedback stores them: without redacted ones, and images as PNG."""
        monitors = self.pipeline.monitors
        model, binner = monitors.models.get(name), monitors.nearest_binner(name)
        if not inputs or model is None:
            return inputs
        return snapshot_inputs(inputs, model.redact, image_inputs(model, binner.profile if binner else None)) or None

    def tolerance(self, name: str) -> Tolerance:
        """Return the tolerance of a model's corrections."""
        model = self.pipeline.monitors.models.get(name)
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
