"""Watch the files of ``models_folder``, so that models are added, changed and removed without a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import Gauge

from exporter.errors import ConfigError
from exporter.monitoring.background import BackgroundTask
from exporter.monitoring.model_files import Loaded, Stamp

log = logging.getLogger(__name__)

SECONDS = 5.0
"""Time between two looks at the folder."""
MAX_LOOKS = 12
"""Looks in a row that may find different changes."""


class ModelFileWatch(BackgroundTask):
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
        super().__init__("model files", "models_folder is not reloaded", SECONDS)
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
