"""The versions that the service serves side by side, and the choice among them for each request."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from exporter.client import Monitor
from exporter.commands.demo import model
from exporter.errors import StackError


class Served(NamedTuple):
    """A version that is served."""

    version: str
    classifier: model.Classifier
    monitor: Monitor


class Versions:
    """The last two versions; safe to use from many threads.

    Parameters
    ----------
    directory
        Folder with the trained versions.
    monitor
        Returns the exporter's client for a version.
    """

    def __init__(self, directory: Path, monitor: Callable[[str], Monitor]) -> None:
        self._directory = directory
        self._monitor = monitor
        self._lock = threading.Lock()
        self._served: list[Served] = []
        for version in model.versions(directory)[-2:]:
            self.deploy(version)

    @property
    def served(self) -> list[Served]:
        """The versions that are served, the newest last."""
        with self._lock:
            return list(self._served)

    def pick(self) -> Served:
        """Return the version for a request: at random, so that both can be compared."""
        return random.choice(self.served)  # noqa: S311 (not for security)

    def deploy(self, version: str) -> None:
        """Serve a version beside the newest so far; the one before that retires.

        Raises
        ------
        StackError
            When the version was not trained.
        """
        if version not in model.versions(self._directory):
            raise StackError(f"version: expected one of {', '.join(model.versions(self._directory))}")
        with self._lock:
            if any(served.version == version for served in self._served):
                return
            newest = Served(version, model.load(self._directory, version), self._monitor(version))
            retired, self._served = self._served[:-1], [*self._served[-1:], newest]
        for served in retired:
            served.monitor.close(timeout=3)

    def close(self) -> None:
        """Send the events that the clients still hold."""
        for served in self.served:
            served.monitor.close(timeout=3)
