"""The versions that the service runs side by side, and which of them answers a request."""

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
    """A version that answers."""

    version: str
    classifier: model.Classifier
    monitor: Monitor


class Versions:
    """The last two versions; safe to use from many threads.

    Parameters
    ----------
    directory
        Where they were trained.
    monitor
        Makes the client of a version.
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
        """Those that answer, the newest last."""
        with self._lock:
            return list(self._served)

    def pick(self) -> Served:
        """Which of them answers: each its share of the requests, by chance, so that they can be compared."""
        return random.choice(self.served)  # noqa: S311 (a demo's dice)

    def deploy(self, version: str) -> None:
        """Let a version answer, beside the newest so far; the one before that retires.

        Raises
        ------
        StackError
            When no such version was trained.
        """
        if version not in model.versions(self._directory):
            raise StackError(f"version: expected one of {', '.join(model.versions(self._directory))}")
        with self._lock:
            if any(one.version == version for one in self._served):
                return
            fresh = Served(version, model.load(self._directory, version), self._monitor(version))
            retired, self._served = self._served[:-1], [*self._served[-1:], fresh]
        for one in retired:
            one.monitor.close(timeout=3)

    def close(self) -> None:
        """Send what the clients still hold."""
        for one in self.served:
            one.monitor.close(timeout=3)
