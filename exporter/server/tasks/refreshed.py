"""Metrics that a task refreshes, because they cost too much for a scrape."""

from __future__ import annotations

from typing import Any

from exporter.errors import ExporterError
from exporter.metrics.lines import FamilyLines
from exporter.scheduler import Task


class RefreshedMetrics(Task):
    """A task whose ``refresh`` sets the lines of ``/metrics`` by some key, and what has failed, empty for nothing."""

    def __init__(self, name: str, failure: str, seconds: float, **options: Any) -> None:
        super().__init__(name, failure, seconds, **options)
        self._lines: dict[Any, list[FamilyLines]] = {}
        self._failure = ""

    def lines(self) -> list[FamilyLines]:
        """Return the lines of ``/metrics``, as of the last refresh.

        Raises
        ------
        ExporterError
            When the last refresh failed.
        """
        if self._failure:
            raise ExporterError(self._failure)
        return [line for key, lines in list(self._lines.items()) if self.is_current(key) for line in lines]

    def is_current(self, key: Any) -> bool:  # noqa: ARG002 (for those that override it)
        """Return whether lines that were set before may still be shown."""
        return True

    def on_error(self, error: Exception) -> None:
        """Log an error, and leave no old numbers."""
        super().on_error(error)
        self._failure = f"{self.failure}; see the exporter's log"
