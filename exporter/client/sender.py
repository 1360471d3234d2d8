"""Events that wait in bounded memory, and the thread that sends them in batches."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from exporter.client import ids
from exporter.client.encoding import describe_error
from exporter.client.transport import (
    FAILURES,
    KeepAliveConnection,
    Transport,
    accepted,
    final,
    new_key,
    reason,
    retry_after,
)
from exporter.errors import ExporterError

_log = logging.getLogger("exporter.client")

_BREATH = 8
"""Events encoded in a row: then the service's threads get the interpreter."""
_FORK_SECONDS = 0.25
"""What a fork waits at most for events to leave."""
_REST_SECONDS = 0.1
Sized = tuple[Any, ...]
"""What waits: the bytes it takes, then whatever its encoder knows."""


class Sender:
    """What a monitor's events wait in and leave by; see `Monitor` for the bounds.

    Parameters
    ----------
    target
        Where to.
    encode
        An event to a line of JSON; called in the sender's thread.
    name
        Of the thread.
    path
        The route that takes such lines.
    batch_bytes
        Bytes after which a body is sent, well below the 16 MiB that the exporter takes in one.
    """

    def __init__(
        self,
        target: Transport,
        encode: Callable[[Any], bytes],
        name: str,
        *,
        capacity: int,
        capacity_bytes: int,
        batch_size: int,
        interval: float,
        give_up: float,
        path: str = "/v1/predictions",
        batch_bytes: int = 1 << 20,
    ) -> None:
        self._target = target
        self._encode = encode
        self._name = name
        self.capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._batch_size = batch_size
        self._interval = interval
        self._give_up = give_up
        self._path = path
        self._batch_bytes = batch_bytes
        self._closed = False
        self.start_empty()
        _senders.add(self)

    def start_empty(self) -> None:
        """Begin anew, with what a forked process must not share: lock, connection, events, counts."""
        # A signal handler or a finalizer may record while this thread holds the lock: hence the RLock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._buffer: deque[Sized] = deque()
        self._bytes = 0
        self._sending = 0
        self._flushing = 0
        self._resting = self._starting = False
        self._thread: threading.Thread | None = None
        self._kept = KeepAliveConnection(self._target)
        self._warned = False
        self._trouble = False
        self.sent = 0
        self.dropped = 0

    def put(self, event: Sized) -> None:
        """Take an event; the oldest make room."""
        buffer = self._buffer
        with self._lock:
            if self._closed:
                raise ExporterError("it came after close()")
            buffer.append(event)
            self._bytes += event[0]
            waiting = len(buffer)
            if waiting > self.capacity and self._warned:  # as often as there are events, while the exporter is away
                self._bytes -= buffer.popleft()[0]
                self.dropped += 1
                waiting -= 1
            if waiting > self.capacity or self._bytes > self._capacity_bytes:
                self._push_out()
            if waiting == 1 or not waiting % self._batch_size:
                self._start_thread()
                self._changed.notify_all()

    def _push_out(self) -> None:
        pushed = 0
        while len(self._buffer) > self.capacity or self._bytes > self._capacity_bytes:
            self._bytes -= self._buffer.popleft()[0]
            pushed += 1
        self.drop(pushed, "the exporter is away or does not keep up: the oldest events were pushed out")

    def drop(self, count: int, why: str) -> None:
        """Count events that are lost, and say why."""
        with self._lock:
            self.dropped += count
        self._warn(why)

    def _warn(self, why: str) -> None:
        """Log why events are lost: once where people see it, since a line for each would be the next outage."""
        level, self._warned = logging.DEBUG if self._warned else logging.WARNING, True
        _log.log(level, "%s: %s", self._target.shown, why)

    def flush(self, timeout: float) -> bool:
        """Send what is there now; whether all of it has left in time."""
        with self._changed:
            if self._buffer:
                self._start_thread()
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._buffer and not self._sending, timeout)
            finally:
                self._flushing -= 1

    def before_fork(self, timeout: float) -> None:
        """Send what is there, if that has worked so far: the process may go on as its child alone.

        Then the thread ends until there is something to do again: a process with threads should not fork.
        """
        if not self._trouble and (self._buffer or self._sending):
            self.flush(timeout)
        with self._changed:
            thread = self._thread
            self._resting = True
            self._changed.notify_all()
        if thread is not None and not (self._buffer or self._sending) and thread is not threading.current_thread():
            thread.join(_REST_SECONDS)
        self._resting = False

    def close(self, timeout: float) -> None:
        """Send what is there and stop; what is left counts as dropped."""
        self.flush(timeout)
        with self._changed:
            left = 0 if self._closed else len(self._buffer) + self._sending
            self._closed = True
            self._buffer.clear()
            self._changed.notify_all()
        if left:
            self.drop(left, f"{left} events were not sent before the end")

    def _start_thread(self) -> None:
        if self._starting:  # a signal's handler records while this thread is starting one
            return
        self._starting = True
        try:
            if (self._thread is None or not self._thread.is_alive()) and not self._closed:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                # Refused while the interpreter shuts down; then nothing is sent any more.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
                    _at_end_of_a_worker()
        finally:
            self._starting = False

    def _run(self) -> None:
        while batch := self._next_batch():
            for lines in self._bodies(batch):
                try:
                    taken, why = self._deliver(lines)
                except Exception as error:  # the next batch may fare better
                    taken, why = 0, f"a batch could not be sent: {describe_error(error)}"
                    self.disconnect()
                if not self._settle(len(lines), taken, why):
                    break
        if self._closed:
            self.disconnect()

    def _settle(self, count: int, taken: int, why: str) -> bool:
        """Account for events that are under way no more; False after `close`, which has counted them as dropped."""
        with self._changed:
            if self._closed:
                return False
            self.sent += taken
            self.dropped += count - taken
            self._sending -= count
            self._changed.notify_all()
        if taken < count:
            self._warn(why)
        return True

    def disconnect(self) -> None:
        """Let go of the kept connection."""
        self._kept.close()

    def _next_batch(self) -> list[Sized]:
        """Wait for events and then for others to travel with them; nothing after `close`, or to rest."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._closed or self._resting)
            if not self._buffer:
                self._thread = None
                return []
            self._changed.wait_for(
                lambda: self._flushing or self._closed or len(self._buffer) >= self._batch_size, self._interval
            )
            batch = [self._buffer.popleft() for _ in range(min(len(self._buffer), self._batch_size))]
            self._bytes -= sum(event[0] for event in batch)
            self._sending = len(batch)
        return batch

    def _bodies(self, batch: list[Sized]) -> Iterator[list[bytes]]:
        """The batch as lines of JSON, in bodies that the exporter takes."""
        lines: list[bytes] = []
        size = 0
        batch.reverse()
        while batch:
            try:
                lines.append(self._encode(batch.pop()))
                size += len(lines[-1])
            except Exception as error:
                self._settle(1, 0, f"an event could not be encoded: {describe_error(error)}")
            if lines and size >= self._batch_bytes:
                yield lines
                lines, size = [], 0
            if not len(batch) % _BREATH and not self._flushing:
                time.sleep(0.0001)
        if lines:
            yield lines

    def _deliver(self, lines: list[bytes]) -> tuple[int, str]:
        """Send one body, for as long as that makes sense: how many events were accepted, and why not the others."""
        body, key = b"\n".join(lines), new_key()
        until, wait = time.monotonic() + self._give_up, 0.1
        while True:
            status, headers, answer = self._attempt(body, key)
            if status == 202:
                self._trouble = False
                return accepted(answer, len(lines)), f"the exporter refused events: {answer[:500]!r}"
            if status == 413 and len(lines) > 1:  # each may be good, and only all together too many
                half = len(lines) // 2
                parts = [self._deliver(lines[:half]), self._deliver(lines[half:])]
                return sum(part[0] for part in parts), parts[0][1] if parts[0][0] < half else parts[1][1]
            why = f"POST {self._path}: {reason(status, answer)}"
            if final(status):
                return 0, why
            self._trouble = True
            wait = min(wait * 2, 30.0)
            asked = retry_after(headers)
            # Jitter, so that the replicas of a service do not come back in step.
            delay = random.uniform(wait / 2, wait) if asked is None else asked + random.uniform(0, 0.25)  # noqa: S311
            with self._changed:
                if time.monotonic() + delay > until or self._changed.wait_for(lambda: self._closed, delay):
                    return 0, why

    def _attempt(self, body: bytes, key: str) -> tuple[int, Mapping[str, str], bytes]:
        """One request over the kept connection; status 0 when there was no answer."""
        try:
            return self._kept.post(self._path, body, "application/x-ndjson", key)
        except FAILURES as error:
            return 0, {}, repr(error).encode()


_senders: weakref.WeakSet[Sender] = weakref.WeakSet()
_workers: set[int] = set()


def _at_end_of_a_worker() -> None:
    """Have a child of multiprocessing send what is left: such a process ends without ``atexit``."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process and util and process.parent_process() is not None and os.getpid() not in _workers:
        _workers.add(os.getpid())
        util.Finalize(None, _flush_all, exitpriority=0)


def _flush_all() -> None:
    for sender in list(_senders):
        sender.flush(2.0)


def _close_all() -> None:
    for sender in list(_senders):
        sender.close(2.0)


def _before_fork() -> None:
    until = time.monotonic() + _FORK_SECONDS
    for sender in list(_senders):
        sender.before_fork(until - time.monotonic())


def _after_fork_in_child() -> None:
    ids.forget()
    for sender in list(_senders):
        with contextlib.suppress(Exception):
            sender.disconnect()  # this process's end of the parent's connection, which stays open
        sender.start_empty()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
