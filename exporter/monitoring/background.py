"""Repeat a task in a background thread until the exporter stops."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod


class BackgroundTask(ABC):
    """Repeats `refresh` in a thread, which no error ends.

    Parameters
    ----------
    name
        Of the thread.
    failure
        What is logged with an error.
    seconds
        Least pause after each call.
    busy_share
        Share of the time that calls take, at most: after a long call, the pause is longer.
    at_once
        Whether the first call has no pause before it.

    Attributes
    ----------
    failure : str
        What is logged with an error.
    seconds : float
        Least pause; `refresh` may change it.
    closing : threading.Event
        Is set when the thread should end: a long call looks at it.
    """

    def __init__(
        self, name: str, failure: str, seconds: float, *, busy_share: float = 1.0, at_once: bool = False
    ) -> None:
        self.seconds = seconds
        self.closing = threading.Event()
        self.failure = failure
        self._busy_share = busy_share
        self._first_pause = 0.0 if at_once else seconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout: float = 1.0) -> None:
        """End the thread, for which this waits ``timeout`` seconds at most: it may be in the middle of a call."""
        self.closing.set()
        self._thread.join(timeout)

    @abstractmethod
    def refresh(self) -> None:
        """Do the work once."""

    def on_error(self, _error: Exception) -> None:
        """Log an error of `refresh`, while it is handled."""
        logging.getLogger(type(self).__module__).exception(self.failure)

    def wait(self, seconds: float) -> bool:
        """Wait until the next call is due; return whether the thread should end instead."""
        return self.closing.wait(seconds)

    def _run(self) -> None:
        pause = self._first_pause
        while not self.wait(pause):
            started = time.monotonic()
            try:
                self.refresh()
            except Exception as error:  # no error may end the thread
                self.on_error(error)
            pause = max(self.seconds, (time.monotonic() - started) * (1 / self._busy_share - 1))
