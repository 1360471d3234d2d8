"""Background tasks: repeated whatever they raise, within their share of the time, until they are closed."""

from __future__ import annotations

import threading
import time

import pytest
from support.servers import eventually

from exporter.monitoring.background import BackgroundTask


class Task(BackgroundTask):
    """Counts its calls; the second one fails."""

    def __init__(self, seconds: float, **options: float) -> None:
        super().__init__("task", "the task failed", seconds, **options)  # type: ignore[arg-type]
        self.starts: list[float] = []
        self.work = 0.0

    def refresh(self) -> None:
        self.starts.append(time.monotonic())
        time.sleep(self.work)
        if len(self.starts) == 2:
            raise ZeroDivisionError


def test_an_error_is_logged_and_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """The next call comes after the same pause; the log has the traceback, of the module of the task."""
    task = Task(0.01)
    task.start()
    eventually(lambda: len(task.starts) > 3)
    task.close()
    (record,) = caplog.records
    assert (record.name, record.message, record.exc_info is None) == (__name__, "the task failed", False)
    count = len(task.starts)
    time.sleep(0.05)
    assert len(task.starts) == count


def test_a_long_call_is_followed_by_a_long_pause() -> None:
    """Calls take their share of the time at most: a fifth is four times as long a pause as the call."""
    task = Task(0.0, busy_share=0.2, at_once=True)
    task.work = 0.05
    task.start()
    eventually(lambda: len(task.starts) > 2)
    task.close()
    assert task.starts[1] - task.starts[0] >= 0.25


@pytest.mark.parametrize("at_once", [True, False])
def test_the_first_call_may_come_at_once(at_once: bool) -> None:
    """Otherwise after the pause, or never if the task is closed before."""
    task = Task(60.0, at_once=at_once)
    task.start()
    if at_once:
        eventually(lambda: task.starts)
    task.close(5.0)
    assert len(task.starts) == at_once
    assert "task" not in {thread.name for thread in threading.enumerate()}
