"""Reload the configuration: all of it when asked to, or the files of ``models_folder`` that have changed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import Gauge

from exporter.errors import ConfigError, ModelFileError
from exporter.metrics.exporter import ExporterMetrics
from exporter.scheduler import Task
from exporter.server.model_files import Loaded, Stamp, load_folder, load_valid
from exporter.server.pipeline import Pipeline
from exporter.server.tasks.snapshots import restore
from exporter.storage import Store

log = logging.getLogger(__name__)


class Reloader:
    """Knows the configuration in use, and replaces it.

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
    failure : str or None
        Why the last reload failed.
    loaded : tuple of float
        Unix times of the last two times at which the configuration was read, or of the first.
    others : list of callable
        Called by `reload`, to read again what else there is, such as users and tokens.
    """

    def __init__(self, files: Loaded, pipeline: Pipeline, store: Store, telemetry: ExporterMetrics) -> None:
        self.files = files
        self.failure: str | None = None
        self.loaded: tuple[float, ...] = ()
        self.others: list[Callable[[], None]] = []
        self._pipeline, self._store, self._telemetry = pipeline, store, telemetry
        self._lock = threading.Lock()
        self._set_loaded()
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
                self.failure = str(error) if isinstance(error, ConfigError) else "see the log"
                log.error("reload: %s", error)
                raise
            log.info("configuration reloaded from %s", path)
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
        self.files, self.failure = files, None
        removed = before.models.keys() - files.monitors.models.keys()
        for what, names in (("added", added), ("removed", removed)):
            if names:
                log.info("models %s: %s", what, ", ".join(map(repr, sorted(names))))
        if not files.faults:
            self._set_loaded()
        self._report_faults()

    def _report_faults(self) -> None:
        for problem in self.files.problems:
            self._telemetry.reload_successful.set(0)
            log.error("%s", problem)

    def _set_loaded(self) -> None:
        now = time.time()
        self.loaded = (*self.loaded[-1:], now)
        self._telemetry.reload_successful.set(1)
        self._telemetry.reload_time.set(now)


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
    files
        Returns the configuration in use.
    reload
        Reads the files that have changed.
    successful
        The metric of the last reload.
    """

    def __init__(self, files: Callable[[], Loaded], reload: Callable[[], None], successful: Gauge) -> None:
        super().__init__("model files", "models_folder is not reloaded", LOOK_SECONDS, lane="files")
        self._files = files
        self._reload = reload
        self._successful = successful
        self._seen: Mapping[Path, Stamp] | None = None
        self._changed_looks = 0
        self._failure = ""

    def refresh(self) -> None:
        """Look once."""
        stamps = self._files().changed()
        self._changed_looks = self._changed_looks + 1 if stamps is not None else 0
        if self._failure or (stamps is not None and (stamps == self._seen or self._changed_looks > MAX_LOOKS)):
            self._reload()
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


class SignalledReload(Task):
    """Reloads the configuration when SIGHUP asks for it.

    Parameters
    ----------
    reloader
        Reloads it.
    """

    def __init__(self, reloader: Reloader) -> None:
        super().__init__("reload", "the previous configuration stays in use", math.inf, lane="files")
        self._reloader = reloader

    def refresh(self) -> None:
        """Reload."""
        self._reloader.reload()

    def on_error(self, error: Exception) -> None:
        """Say what is in use; the reload has logged what is wrong with a file."""
        if isinstance(error, ModelFileError):
            log.warning("all other files of models_folder are in use")
        elif isinstance(error, ConfigError):
            log.warning("the previous configuration stays in use")
        else:
            super().on_error(error)
