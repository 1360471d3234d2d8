"""Repeat tasks in a few threads until the exporter stops."""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from exporter.errors import ExporterError

Lane = Literal["memory", "files", "database", "prometheus", "trainer"]
"""What a task may wait for: tasks that wait for the same have one thread, and one that hangs delays no others."""


class Task(ABC):
    """A task that a `Scheduler` repeats; no error ends that.

    Parameters
    ----------
    name
        Of the task.
    failure
        What is logged with an error.
    seconds
        Least pause after each call; infinite for a task that runs only when `Scheduler.run_soon` asks for it.
    lane
        What it waits for.
    busy_share
        Share of the time that calls take, at most: after a long call, the pause is longer.
    at_once
        Whether the first call has no pause before it.
    budget
        Seconds that a call may take: then `must_stop` says so, and the next call continues.

    Attributes
    ----------
    seconds : float
        Least pause; `refresh` may change it.
    closing : threading.Event
        Is set when the exporter stops: a long call looks at it.
    """

    def __init__(
        self,
        name: str,
        failure: str,
        seconds: float,
        *,
        lane: Lane = "database",
        busy_share: float = 1.0,
        at_once: bool = False,
        budget: float = math.inf,
    ) -> None:
        self.name, self.failure, self.seconds, self.lane = name, failure, seconds, lane
        self.at_once = at_once
        self.closing = threading.Event()
        self._busy_share, self._budget, self._until = busy_share, budget, math.inf

    @abstractmethod
    def refresh(self) -> None:
        """Do the work once."""

    def on_error(self, _error: Exception) -> None:
        """Log an error of `refresh`, while it is handled."""
        logging.getLogger(type(self).__module__).exception(self.failure)

    def must_stop(self) -> bool:
        """Return whether a call should end: the exporter stops, or the call has used its time."""
        return self.closing.is_set() or time.monotonic() > self._until

    def run(self) -> float:
        """Do the work once, whatever happens; return the pause until the next call in seconds."""
        started = time.monotonic()
        self._until = started + self._budget
        try:
            self.refresh()
        except Exception as error:  # no error may end the thread
            self.on_error(error)
        return max(self.seconds, (time.monotonic() - started) * (1 / self._busy_share - 1))


class Scheduler:
    """Repeats tasks: those of a lane one after another, in a thread of their own.

    Parameters
    ----------
    tasks
        The tasks.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._closing, self._changed = threading.Event(), threading.Condition()
        self.tasks: tuple[Task, ...] = tuple(tasks)
        self._due: dict[Task, float] = {}
        lanes: dict[Lane, list[Task]] = {}
        for task in self.tasks:
            task.closing = self._closing
            self._due[task] = time.monotonic() + (0.0 if task.at_once else task.seconds)
            lanes.setdefault(task.lane, []).append(task)
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name="tasks", daemon=True) for lane in lanes.values()
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def run_soon(self, task: Task) -> None:
        """Call a task as soon as its lane is free; once more if that is asked for, however often, during a call."""
        with self._changed:
            self._due[task] = 0.0
            self._changed.notify_all()

    def close(self, timeout: float = 1.0) -> None:
        """End the threads, for which this waits ``timeout`` seconds at most: they may be in the middle of a call."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(end - time.monotonic(), 0.0))

    def _run(self, tasks: Sequence[Task]) -> None:
        while task := self._next(tasks):
            pause = task.run()
            with self._changed:
                self._due[task] = min(self._due[task], time.monotonic() + pause)

    def _next(self, tasks: Sequence[Task]) -> Task | None:
        """Wait until a task is due, and return it; None once the exporter stops."""
        with self._changed:
            while not self._closing.is_set():
                task = min(tasks, key=self._due.__getitem__)
                wait = self._due[task] - time.monotonic()
                if wait <= 0:
                    self._due[task] = math.inf
                    return task
                self._changed.wait(None if math.isinf(wait) else wait)
        return None


class RefreshedMetrics(Task):
    """A task whose ``refresh`` sets the lines of ``/metrics`` by some key, and what has failed, empty for nothing."""

    def __init__(self, name: str, failure: str, seconds: float, **options: Any) -> None:
        super().__init__(name, failure, seconds, **options)
        self._lines: dict[Any, list[Any]] = {}
        self._failure = ""

    def lines(self) -> list[Any]:
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
