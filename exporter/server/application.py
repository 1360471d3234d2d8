"""The exporter: make its parts, start its threads, and stop them."""

from __future__ import annotations

import functools
import gzip
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge

from exporter.client.encoding import rfc3339
from exporter.config import Config
from exporter.errors import ConfigError, ModelFileError
from exporter.metrics import system
from exporter.metrics.comparisons import shadow_lines
from exporter.metrics.exposition import FILES, LINKS, PAIRING, ExporterMetrics, Exposition
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.registry import MonitorRegistry
from exporter.scheduler import Scheduler, Task
from exporter.server.alerts import AlertSource, Inbox
from exporter.server.ingest import ClientLog, IdempotencyCache, Ingest
from exporter.server.model_files import Loaded, Stamp, load_folder, load_valid
from exporter.server.pipeline import Pipeline, feedback_inputs
from exporter.server.problem import Reply
from exporter.server.tasks.comparisons import Comparisons
from exporter.server.tasks.label_checks import LabelChecker
from exporter.server.tasks.retraining import Retrainer
from exporter.server.tasks.slices import Slices, SliceWatch
from exporter.server.tasks.snapshots import ReplicaDrift, SnapshotSaver, restore
from exporter.storage import CountedFeedback, Store, database_path
from exporter.validation import Tolerance, preview
from exporter.wire.cloudevents import RequestResponsePairer
from exporter.wire.events import LabelledPrediction

if TYPE_CHECKING:
    from exporter.prometheus import Prometheus


ALERTS_SECONDS = 10.0
"""Time that Prometheus has for each part of a response."""
COMPARISON_SECONDS = 20.0
"""The same for a comparison, which may read a week of counters. A stop waits for it, too."""


@functools.lru_cache(maxsize=2)
def _prometheus(url: str, timeout: float) -> Prometheus:
    """Return a client of Prometheus, which may take so many seconds to respond.

    Raises
    ------
    ExporterError
        When the file with certificates cannot be read.
    """
    from exporter.http_client import Credentials  # urllib3 takes time to load
    from exporter.prometheus import Prometheus

    return Prometheus(url, "prometheus_url", Credentials.from_environment("PROMETHEUS"), timeout)


log = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Time between two lines about labels that do not count."""


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
    scraped : float or None
        The monotonic time at which all metrics were read last.
    registry : CollectorRegistry
        The exporter's own metrics, which `telemetry` counts.
    client_log : ClientLog
        Counts and logs the events that are refused.
    idempotency : IdempotencyCache
        The responses to requests with an ``Idempotency-Key``.
    store : Store
        The database.
    pipeline : Pipeline
        The queue of predictions; has the configuration and the monitors in use.
    ingest : Ingest
        Records what clients send.
    reloader : Reloader
        Replaces the configuration and the monitors.
    comparisons : Comparisons
        Compares versions.
    slices : Slices
        Searches for slices.
    pairer : RequestResponsePairer
        Requests and responses of model servers that wait for each other.
    inbox : Inbox
        The notifications of Alertmanager.
    alerts : AlertSource
        The alerts that are known.
    retrainer : Retrainer
        Asks for new versions of models.
    exposition : Exposition
        Renders ``/metrics``.
    ready : bool
        Whether events are accepted: from the start until a stop is asked for.

    Raises
    ------
    ConfigError
        When the configuration or a profile is wrong.
    StoreError
        When the database cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.started, self._stop_by = time.time(), math.inf
        self.scraped: float | None = None
        self._log_at = -math.inf
        self.address = "http://127.0.0.1:9877"
        files = load_valid(path)
        config, monitors = files.config, files.monitors
        self.registry = CollectorRegistry(auto_describe=False)
        self.telemetry = ExporterMetrics(self.registry)
        self.client_log = ClientLog(self.telemetry)
        self.idempotency = IdempotencyCache(self.client_log)
        self.store = self._open_store(config)
        restore(self.store, monitors, time.monotonic(), time.time())
        self.pipeline = Pipeline(config, monitors, self.store, self.telemetry)
        self.ingest = Ingest(self.pipeline, self.store, self.telemetry, self.client_log, self.idempotency)
        self.reloader = Reloader(files, self.pipeline, self.store, self.telemetry)
        self.comparisons = Comparisons(
            self._monitors,
            lambda: self._prometheus(COMPARISON_SECONDS),
            shadow=self.pipeline.shadow,
        )
        self.slices = Slices(self.store, self._monitors, self.pipeline.bins, config.store)
        self.pairer = RequestResponsePairer()
        self.snapshots = SnapshotSaver(self.store, self._monitors, is_complete=lambda: not self.reloader.files.faults)
        self.ready = True
        self.inbox = Inbox()
        self.alerts = AlertSource(lambda: self._prometheus(ALERTS_SECONDS), self.inbox, lambda: self.scraped)
        self.retrainer = Retrainer(
            lambda: self.config,
            self.store,
            self.telemetry,
            self.alerts.read,
            compare=self.comparisons.compare,
            slices=self.slices.of_corrections,
            profile=self.slices.profile_hash,
            external_url=lambda: self.link_addresses()[0],
        )
        self.slice_watch = SliceWatch(self._monitors, self.slices.explain)
        self.replicas = ReplicaDrift(self.store, self._monitors)
        self.exposition = self._make_exposition()
        self.file_watch = ModelFileWatch(self.reloader, self.telemetry.reload_successful)
        self.scheduler = Scheduler(self._make_tasks())
        self.alerts.ask_soon = lambda: self.scheduler.run_soon(self.alerts)
        self.scheduler.start()

    def _open_store(self, config: Config) -> Store:
        store = Store(
            config.store,
            self._count_feedback,
            self.telemetry.store_errors.inc,
            lambda model, inputs: feedback_inputs(self._monitors(), model, inputs),
            tolerances=self._tolerance,
            on_labelled=self._count_labels,
            on_unusable=self._count_unusable,
            loss=lambda model, version, *pair: self._monitors().scorer(model, version).loss(*pair),
        )
        self.telemetry.quarantined_files.set_function(store.count_set_aside)
        self.telemetry.watch_store(store)
        return store

    def _count_feedback(self, feedback: CountedFeedback) -> None:
        """Count a user's feedback on a prediction, if its model is configured."""
        monitors, now = self._monitors(), time.monotonic()
        if feedback.model in monitors.models:
            monitor = monitors.get(feedback.model, feedback.version, now)
            if feedback.decided is not None:
                monitor.count_decision(feedback.decided, now)
                return
            monitor.count_feedback(feedback.verdict, feedback.correction, now, feedback.segment, feedback.delay)

    def _count_labels(self, labels: Sequence[LabelledPrediction]) -> None:
        """Count predictions whose labels have become known."""
        monitors, now, unix_now = self._monitors(), time.monotonic(), time.time()
        versions: dict[tuple[str, str], list[LabelledPrediction]] = {}
        for label in labels:
            if label.model in monitors.models:
                versions.setdefault((label.model, label.version), []).append(label)
        for (model, version), group in versions.items():
            monitors.get(model, version, now).count_labels(group, now, unix_now)

    def _count_unusable(self, ids: Sequence[str]) -> None:
        """Count labels that waited for their predictions and cannot be compared with them; log that once a minute."""
        self.telemetry.rejected.labels("wrong_type").inc(len(ids))
        if (now := time.monotonic()) >= self._log_at:
            self._log_at = now + LOG_SECONDS
            text = "%d labels cannot be compared with their predictions, such as the label of %s: they do not count"
            log.warning(text, len(ids), preview(ids[0], 130))

    def _make_exposition(self) -> Exposition:
        database = database_path(self.config.store)
        return Exposition(
            self.registry,
            self._monitors,
            self.store,
            {
                "requests": self.telemetry.requests.lines,
                "comparisons": self.comparisons.lines,
                "replicas": self.replicas.lines,
                "retraining": self.retrainer.lines,
                "slices": self.slice_watch.lines,
                "links": lambda: LINKS.lines((self._monitors().models, *self.link_addresses())),
                "files": lambda: FILES.lines(self.reloader.files.valid),
                "pairing": lambda: PAIRING.lines(self.pairer.counts()),
                "shadow": lambda: shadow_lines(self.pipeline.shadow.read(time.monotonic())),
                **system.collectors([Path("/"), *([database] if database else [])]),
            },
        )

    def _make_tasks(self) -> Iterator[Task]:
        """Yield all repeated work."""
        yield self.file_watch
        yield self.reloader
        yield self.snapshots
        yield self.alerts
        yield self.comparisons
        yield NoiseLearner(self._monitors)
        yield self.retrainer
        yield LabelChecker(self.store, self._monitors)
        yield self.slice_watch
        yield self.replicas

    def _monitors(self) -> MonitorRegistry:
        """Return the current monitors, which a reload replaces."""
        return self.pipeline.monitors

    def _prometheus(self, seconds: float) -> Prometheus | None:
        """Return the Prometheus at ``prometheus_url``, which may take so many seconds to respond."""
        url = self.config.prometheus_url
        return None if url is None else _prometheus(url, seconds)

    @property
    def warnings(self) -> list[str]:
        """Problems that an operator should look into although events are accepted and stored."""
        texts = {
            "a damaged database or write-ahead log was set aside: see runbook ModelStoreFailing": self.store.set_aside,
            "windows are not saved: another exporter has the same store.replica": self.snapshots.lease.holder,
        }
        if refusal := self.store.writer.transactions.refusal:
            texts[f"the database refuses writes since {rfc3339(refusal.since)}: {refusal.why}"] = True
        return [text for text, applies in texts.items() if applies] + self.reloader.files.invalid

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
        if not names:
            self.scraped = time.monotonic()
        return self.exposition.render(accept, names)

    def reload_soon(self) -> None:
        """Reload the configuration in the background; calls during a reload, however many, cause one more."""
        self.scheduler.run_soon(self.reloader)

    def stop(self) -> None:
        """Let everything end within `STOP_SECONDS` from the first call; `close` then waits no longer than that."""
        self.ready = False
        self._stop_by = self.store.deadline = min(self._stop_by, time.monotonic() + STOP_SECONDS)

    def close(self) -> None:
        """Count and store what is queued, within `STOP_SECONDS`, and end the threads."""
        self.stop()
        self.scheduler.close(min(1.0, self._seconds_left()))
        self.pipeline.close(min(COUNT_SECONDS, self._seconds_left()))
        self.snapshots.close()
        if lost := self.store.close(self._seconds_left()):
            log.error("%d predictions were not written to the database before the exporter stopped", lost)

    def _seconds_left(self) -> float:
        return max(self._stop_by - time.monotonic(), 0.0)

    def _tolerance(self, name: str) -> Tolerance:
        """Return the tolerance of a model's corrections."""
        model = self._monitors().models.get(name)
        return model.tolerance() if model else Tolerance()


TEXT = "text/plain; charset=utf-8"


def metrics(exporter: Exporter, accept: str, encodings: str, names: Collection[str]) -> Reply:
    """``GET /metrics``: return the metrics.

    Parameters
    ----------
    exporter
        The exporter's state.
    accept, encodings
        The request's ``Accept`` and ``Accept-Encoding``.
    names
        The families or samples to return; all of them without any.
    """
    body, content_type = exporter.metrics(accept, names)
    headers: tuple[tuple[str, str], ...] = (("Vary", "Accept, Accept-Encoding"),)
    if len(body) > 1000 and takes_gzip(encodings):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers += (("Content-Encoding", "gzip"),)
    return Reply(200, body, headers, content_type)


def healthy(exporter: Exporter) -> Reply:
    """``GET /-/healthy``: return whether the process runs; in the words of Prometheus."""
    if exporter.pipeline.alive and exporter.store.writer.alive:
        return _text("model-exporter is healthy.\n")
    return _text("a thread of model-exporter has stopped: see its log, and restart it.\n", 503)


def ready(exporter: Exporter) -> Reply:
    """``GET /-/ready``: return whether events are accepted; a ready exporter may have warnings."""
    if not exporter.ready:
        return _text("model-exporter is stopping.\n", 503)
    if exporter.store.fault:  # the log has it; a probe may be open to everyone
        return _text("model-exporter cannot store anything: its log says what is wrong with the database.\n", 503)
    return _text("".join(["model-exporter is ready.\n", *(f"warning: {w}\n" for w in exporter.warnings)]))


def takes_gzip(encodings: str) -> bool:
    """Return whether an ``Accept-Encoding`` header allows gzip.

    >>> takes_gzip("deflate, gzip;q=0.5"), takes_gzip("*"), takes_gzip("gzip; q=0, *"), takes_gzip("")
    (True, True, False, False)
    """
    weights = {}
    for part in encodings.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";q=")
        weights[coding] = weight.strip("0.") != "" if weight else True
    return weights.get("gzip", weights.get("*", False))


def _text(text: str, status: int = 200) -> Reply:
    return Reply(status, text.encode(), content_type=TEXT)


class Reloader(Task):
    """Knows the configuration in use, and replaces it when it is called or, as a task, when SIGHUP asks for it.

    Parameters
    ----------
    files
        The configuration at the start.
    pipeline
        Uses the configuration.
    store
        Has the windows of models that are added.
    telemetry
        Has the metrics of reloads.

    Attributes
    ----------
    files : Loaded
        The configuration in use, with what is wrong with files of ``models_folder``.
    problem : str or None
        Why the last reload failed.
    others : list of callable
        Called by `reload`, to read again what else there is, such as users and tokens.
    """

    def __init__(self, files: Loaded, pipeline: Pipeline, store: Store, telemetry: ExporterMetrics) -> None:
        super().__init__("reload", "the previous configuration stays in use", math.inf, lane="files")
        self.files = files
        self.problem: str | None = None
        self.others: list[Callable[[], None]] = []
        self._pipeline, self._store, self._telemetry = pipeline, store, telemetry
        self._lock = threading.Lock()
        self._report_success()
        self._report_faults()

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
        with self._lock:
            path = self.files.path
            try:
                files = load_valid(path, self.files)
                if files.config.store != self.files.config.store:
                    raise ConfigError(f"{path}: store: a change needs a restart")
                for reload in self.others:
                    reload()
            except Exception as error:  # of any type: the metric must not keep reporting success
                self._telemetry.reload_successful.set(0)
                self.problem = str(error) if isinstance(error, ConfigError) else "see the log"
                log.error("reload: %s", error)
                raise
            log.info("configuration reloaded from %s", path)
            self._use(files)
        if files.faults:
            raise ModelFileError("\n".join(files.problems))

    def refresh(self) -> None:
        """Reload."""
        self.reload()

    def on_error(self, error: Exception) -> None:
        """Say what is in use; the reload has logged what is wrong with a file."""
        if isinstance(error, ModelFileError):
            log.warning("all other files of models_folder are in use")
        elif isinstance(error, ConfigError):
            log.warning("the previous configuration stays in use")
        else:
            super().on_error(error)

    def reload_models(self) -> None:
        """Read the files of ``models_folder`` that have changed, and nothing else.

        Raises
        ------
        ConfigError
            When the folder cannot be read.
        """
        with self._lock:
            self._use(load_folder(self.files))

    def _use(self, files: Loaded) -> None:
        before = self._pipeline.monitors
        files.monitors.adopt(before)
        added = files.monitors.models.keys() - before.models.keys()
        if added:  # their file may not have been valid at the start
            restore(self._store, files.monitors, time.monotonic(), time.time(), models=added)
        self._pipeline.reconfigure(files.config, files.monitors)
        self._pipeline.shadow.forget([*files.monitors.models])
        self.files, self.problem = files, None
        removed = before.models.keys() - files.monitors.models.keys()
        for what, names in (("added", added), ("removed", removed)):
            if names:
                log.info("models %s: %s", what, ", ".join(map(repr, sorted(names))))
        if not files.faults:
            self._report_success()
        self._report_faults()

    def _report_faults(self) -> None:
        for problem in self.files.problems:
            self._telemetry.reload_successful.set(0)
            log.error("%s", problem)

    def _report_success(self) -> None:
        self._telemetry.reload_successful.set(1)
        self._telemetry.reload_time.set_to_current_time()


LOOK_SECONDS = 5.0
"""Time between two looks at the folder."""
MAX_LOOKS = 12
"""Looks in a row that may find different changes."""


class ModelFileWatch(Task):
    """Looks at the files' sizes and times; reloads once two looks in a row find the same change.

    A file that is being written when the first look finds it is not read before it is complete. If some file changes at
    every look, all are read after `MAX_LOOKS`: it may not keep the changes of others from being used.

    Parameters
    ----------
    reloader
        Knows the configuration in use, and reads the files that have changed.
    successful
        The metric of the last reload.
    """

    def __init__(self, reloader: Reloader, successful: Gauge) -> None:
        super().__init__("model files", "models_folder is not reloaded", LOOK_SECONDS, lane="files")
        self._reloader = reloader
        self._successful = successful
        self._seen: Mapping[Path, Stamp] | None = None
        self._changed_looks = 0
        self._failure = ""

    def refresh(self) -> None:
        """Look once."""
        stamps = self._reloader.files.changed()
        self._changed_looks = self._changed_looks + 1 if stamps is not None else 0
        if self._failure or (stamps is not None and (stamps == self._seen or self._changed_looks > MAX_LOOKS)):
            self._reloader.reload_models()
            self._failure = ""
            self._changed_looks = 0
        self._seen = stamps

    def on_error(self, error: Exception) -> None:
        """Report an error once, such as a folder that cannot be read; the current models stay in use."""
        failure = f"{type(error).__name__}: {error}"
        if failure == self._failure:
            return
        self._failure = failure
        self._successful.set(0)
        if isinstance(error, ConfigError):
            log.error("%s; the current models stay in use", error)
        else:
            super().on_error(error)
