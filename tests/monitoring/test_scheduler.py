"""Repeated work: repeated whatever it raises, within its share of the time, until the exporter stops."""

from __future__ import annotations

import math
import threading
import time

import pytest
from support.servers import eventually

from exporter.scheduler import Scheduler, Task


class Counted(Task):
    """Counts its calls; the second one fails."""

    def __init__(self, seconds: float, **options: float | str) -> None:
        super().__init__("counted", "the task failed", seconds, **options)  # type: ignore[arg-type]
        self.starts: list[float] = []
        self.work = 0.0

    def refresh(self) -> None:
        self.starts.append(time.monotonic())
        time.sleep(self.work)
        if len(self.starts) == 2:
            raise ZeroDivisionError


class Hanging(Task):
    """Hangs until it is told to go on."""

    def __init__(self) -> None:
        super().__init__("hanging", "it hangs", 0.01, lane="prometheus", at_once=True)
        self.go_on = threading.Event()

    def refresh(self) -> None:
        self.go_on.wait(60)


def started(*tasks: Task) -> Scheduler:
    """Return a scheduler that runs."""
    scheduler = Scheduler(tasks)
    scheduler.start()
    return scheduler


def test_an_error_is_logged_and_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """The next call comes after the same pause; the log has the traceback, of the module of the task."""
    task = Counted(0.01)
    scheduler = started(task)
    eventually(lambda: len(task.starts) > 3)
    scheduler.close()
    (record,) = caplog.records
    assert (record.name, record.message, record.exc_info is None) == (__name__, "the task failed", False)
    count = len(task.starts)
    time.sleep(0.05)
    assert len(task.starts) == count


def test_a_long_call_is_followed_by_a_long_pause() -> None:
    """Calls take their share of the time at most: a fifth is four times as long a pause as the call."""
    task = Counted(0.0, busy_share=0.2, at_once=True)
    task.work = 0.05
    scheduler = started(task)
    eventually(lambda: len(task.starts) > 2)
    scheduler.close()
    assert task.starts[1] - task.starts[0] >= 0.25


@pytest.mark.parametrize("at_once", [True, False])
def test_the_first_call_may_come_at_once(at_once: bool) -> None:
    """Otherwise after the pause, or never if the exporter stops before."""
    task = Counted(60.0, at_once=at_once)
    scheduler = started(task)
    if at_once:
        eventually(lambda: task.starts)
    scheduler.close(5.0)
    assert len(task.starts) == at_once


def test_a_task_that_hangs_delays_only_those_that_wait_for_the_same() -> None:
    """The tasks of other lanes go on, and a stop does not wait for it."""
    hanging, other, same = Hanging(), Counted(0.01), Counted(0.01, lane="prometheus")
    scheduler = started(hanging, other, same)
    try:
        eventually(lambda: len(other.starts) > 3)
        assert not same.starts
        begun = time.monotonic()
        scheduler.close(0.1)
        assert time.monotonic() - begun < 5
    finally:
        hanging.go_on.set()


def test_a_task_may_be_asked_for() -> None:
    """It runs soon, although its pause has not passed, and never if nobody asks."""
    task = Counted(math.inf)
    scheduler = started(task, Counted(0.01))
    time.sleep(0.05)
    assert not task.starts
    scheduler.run_soon(task)
    eventually(lambda: len(task.starts) == 1)
    scheduler.close()


def test_a_call_ends_when_its_time_is_over() -> None:
    """Each call has its budget of time from its beginning; a call without one goes on."""
    task = Counted(0.0, budget=0.05)
    assert not task.must_stop()
    task.work = 0.1
    task.run()
    assert task.must_stop()
    without = Counted(0.0)
    without.run()
    assert not without.must_stop()
