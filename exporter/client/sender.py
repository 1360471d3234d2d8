"""Keep events in bounded memory and send them in batches, from a thread."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import logging
import os
import random
import secrets
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from exporter.client.encoding import describe_error, discard_random
from exporter.client.transport import FAILURES, Failure, KeepAliveConnection, Transport
from exporter.errors import ExporterError

_FORK_SECONDS = 0.25
"""How long a fork waits at most for events to be sent."""
_EXIT_SECONDS = 2.0
"""How long the end of a process waits for its senders, all together."""


_senders: set[weakref.ref[Sender]] = set()
_workers: set[int] = set()


def _living() -> list[Sender]:
    """Return the senders. Another thread may make one meanwhile, which a `weakref.WeakSet` refuses during iteration."""
    return [sender for reference in list(_senders) if (sender := reference()) is not None]


def flush_at_exit_of_worker() -> None:
    """Flush at the end of a child of multiprocessing, which does not run ``atexit``."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process and util and process.parent_process() is not None and os.getpid() not in _workers:
        _workers.add(os.getpid())
        util.Finalize(None, _end, (Sender.flush,), exitpriority=0)


def _end(step: Callable[[Sender, float], object]) -> None:
    """Let all senders send at the same time: one whose exporter is unreachable takes no time from the others."""
    deadline, senders = time.monotonic() + _EXIT_SECONDS, _living()
    for sender in senders:
        sender.begin_flush()
    for sender in senders:
        step(sender, max(0.0, deadline - time.monotonic()))


def _before_fork() -> None:
    deadline = time.monotonic() + _FORK_SECONDS
    for sender in _living():
        sender.before_fork(deadline - time.monotonic())


def _after_fork_in_child() -> None:
    discard_random()
    for sender in _living():
        sender.reset_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


_log = logging.getLogger("exporter.client")

_TRY_LATER = frozenset({408, 425, 429})
_ENCODED_PER_PAUSE = 8
"""Events that are encoded before the service's threads get the interpreter."""
_JOIN_SECONDS = 0.1
"""How long a fork waits at most for the thread to end."""
SizedEvent = tuple[Any, ...]
"""An event: its size in bytes, then whatever its encoder needs."""


@dataclasses.dataclass(eq=False)
class Sender:
    """Buffers events and sends them; see `Monitor` for the bounds.

    Parameters
    ----------
    transport
        Connects to the exporter.
    encode
        Encodes an event as a line of JSON; called in the sender's thread.
    name
        The thread's name.
    path
        The route that accepts such lines.
    batch_bytes
        Bytes after which a body is sent, well below the 16 MiB that the exporter accepts.
    """

    transport: Transport
    encode: Callable[[Any], bytes]
    name: str
    capacity: int
    capacity_bytes: int
    batch_size: int
    interval: float
    give_up: float
    path: str = "/v1/predictions"
    batch_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        self._closed = False
        self._reset()
        _senders.add(weakref.ref(self, _senders.discard))  # it is flushed at forks and at the end of the process

    def reset_in_child(self) -> None:
        """Share nothing with the process that this one was forked from: no lock, connection, event or count."""
        with contextlib.suppress(OSError):
            self._connection.close_in_child()
        self._reset()

    def _reset(self) -> None:
        # A signal handler or a finalizer may record while this thread holds the lock: hence the RLock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._buffer: deque[SizedEvent] = deque()
        self._bytes = 0
        self._sending = 0
        self._flushing = 0
        self._stopping_for_fork = self._starting = False
        self._thread: threading.Thread | None = None
        self._connection = KeepAliveConnection(self.transport)
        self._warned: set[str] = set()
        self._failure: Failure | None = None
        self._overflow = 0
        self.sent = 0
        self.dropped = 0

    def add(self, event: SizedEvent) -> None:
        """Add an event to the buffer; the oldest events make room."""
        buffer = self._buffer
        with self._lock:
            if self._closed:
                raise ExporterError("it was recorded after close()")
            buffer.append(event)
            self._bytes += event[0]
            waiting = len(buffer)
            while waiting > self.capacity or self._bytes > self.capacity_bytes:
                size = buffer.popleft()[0]  # a signal handler may record here, and change the sum
                self._bytes -= size
                self.dropped += 1
                self._overflow += 1
                waiting -= 1
            if waiting == 1 or not waiting % self.batch_size:
                self._start_thread()
                self._changed.notify_all()

    def drop(self, count: int, reason: str, cause: str = "record") -> None:
        """Count dropped events, and log the reason."""
        with self._lock:
            self.dropped += count
        self._warn(Failure(cause, reason))

    def _warn(self, failure: Failure) -> None:
        """Log a failure: the first of its cause as a warning, then for debugging only, lest the log overflow."""
        level = logging.DEBUG if failure.cause in self._warned else logging.WARNING
        self._warned.add(failure.cause)
        with contextlib.suppress(Exception):  # of the service's own handler
            _log.log(level, "%s: %s", self.transport.display_url, failure.detail)

    def begin_flush(self) -> None:
        """Let the thread send the buffered events without waiting for more."""
        with self._changed:
            if self._buffer:
                self._start_thread()
            self._flushing += 1
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Send the buffered events; return whether all were sent in time."""
        with self._changed:
            self.begin_flush()
            try:
                return self._changed.wait_for(lambda: not self._buffer and not self._sending, timeout)
            finally:
                self._flushing -= 1

    def before_fork(self, timeout: float) -> None:
        """Send the buffered events, unless sending fails at the moment: only the child may continue.

        Then end the thread until there are events again: a process with threads should not fork.
        """
        if self._failure is None and (self._buffer or self._sending):
            self.flush(timeout)
        with self._changed:
            thread = self._thread
            self._stopping_for_fork = True
            self._changed.notify_all()
        if thread is not None and not (self._buffer or self._sending) and thread is not threading.current_thread():
            thread.join(_JOIN_SECONDS)
        self._stopping_for_fork = False

    def close(self, timeout: float) -> None:
        """Send the buffered events and stop; the rest counts as dropped."""
        self.flush(timeout)
        with self._changed:
            unsent = 0 if self._closed else len(self._buffer) + self._sending
            self._closed = True
            self._buffer.clear()
            self._sending = 0  # what is under way counts as dropped, so the end of the process need not wait for it
            self._changed.notify_all()
        if unsent:
            cause = "close" if self._failure is None else self._failure.cause
            self.drop(unsent, f"{_dropped(unsent)}: not sent before close()", cause)

    def _start_thread(self) -> None:
        if self._starting:  # a signal handler records while this thread starts the other
            return
        self._starting = True
        try:
            if (self._thread is None or not self._thread.is_alive()) and not self._closed:
                thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                # Fails while the interpreter shuts down; then nothing is sent any more.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
                    flush_at_exit_of_worker()
        finally:
            self._starting = False

    def _run(self) -> None:
        while batch := self._next_batch():
            for lines in self._bodies(batch):
                try:
                    accepted, failure = self._deliver(lines)
                except Exception as error:  # the next batch may succeed
                    accepted, failure = 0, Failure("error", describe_error(error))
                    self._connection.close()
                if not self._finish(len(lines), accepted, failure):
                    break
        if self._closed:
            self._connection.close()

    def _finish(self, count: int, accepted: int, failure: Failure) -> bool:
        """Count events that are sent or dropped; return False after `close`, which has counted them as dropped."""
        with self._changed:
            if self._closed:
                return False
            self.sent += accepted
            self.dropped += count - accepted
            self._sending -= count
            self._changed.notify_all()
        if accepted < count:
            self._warn(failure._replace(detail=f"{_dropped(count - accepted)}: {failure.detail}"))
        return True

    def _next_batch(self) -> list[SizedEvent]:
        """Wait for events, then for others to send with them; return none after `close` or before a fork."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._closed or self._stopping_for_fork)
            if not self._buffer:
                self._thread = None
                return []
            self._changed.wait_for(
                lambda: self._flushing or self._closed or len(self._buffer) >= self.batch_size, self.interval
            )
            batch = [self._buffer.popleft() for _ in range(min(len(self._buffer), self.batch_size))]
            size = sum(event[0] for event in batch)  # a finalizer may record here, and change the sum
            self._bytes -= size
            self._sending = len(batch)
        return batch

    def _bodies(self, batch: list[SizedEvent]) -> Iterator[list[bytes]]:
        """Encode the batch as lines of JSON, split into bodies that the exporter accepts."""
        lines: list[bytes] = []
        size = 0
        batch.reverse()
        while batch:
            try:
                lines.append(self.encode(batch.pop()))
                size += len(lines[-1])
            except Exception as error:
                self._finish(1, 0, Failure("encode", describe_error(error)))
            if lines and size >= self.batch_bytes:
                yield lines
                lines, size = [], 0
            if not len(batch) % _ENCODED_PER_PAUSE and not self._flushing:
                time.sleep(0.0001)
        if lines:
            yield lines

    def _deliver(self, lines: list[bytes]) -> tuple[int, Failure]:
        """Send one body, repeatedly if necessary; return how many events were accepted, and why others were not."""
        body, key = b"\n".join(lines), secrets.token_hex(16)
        deadline, wait = time.monotonic() + self.give_up, 0.1
        while True:
            try:
                status, headers, response = self._connection.post(self.path, body, "application/x-ndjson", key)
            except FAILURES as error:
                final, headers, failure = False, {}, self.transport.explain_error(error)
            else:
                if status == 202:
                    self._note_success()
                    return _accepted_count(response, len(lines)), Failure("rejected", _rejection_detail(response))
                if status == 413 and (half := len(lines) // 2):  # each may be good, and only all together too large
                    accepted, failure = self._deliver(lines[:half])
                    more, other_failure = self._deliver(lines[half:])
                    return accepted + more, failure if accepted < half else other_failure
                final, failure = (
                    status < 500 and status not in _TRY_LATER,
                    self.transport.explain_response(status, headers, response),
                )
            if final:
                return 0, failure
            self._note_failure(failure)
            wait = min(wait * 2, 30.0)
            delay = _with_jitter(wait, headers.get("Retry-After", "").strip())
            with self._changed:
                if time.monotonic() + delay > deadline or self._changed.wait_for(lambda: self._closed, delay):
                    return 0, failure

    def _note_success(self) -> None:
        """Remember that the exporter accepts events, and log if events were dropped meanwhile."""
        with self._lock:
            overflow, self._overflow = self._overflow, 0
            failure, self._failure = self._failure, None
        if overflow:
            cause = "overflow" if failure is None else failure.cause
            self._warn(Failure(cause, f"{_dropped(overflow)}: more were recorded than could be sent"))

    def _note_failure(self, failure: Failure) -> None:
        self._failure = failure
        kept = f"cannot send events, the newest {self.capacity:,} are kept: "
        self._warn(failure._replace(detail=kept + failure.detail))


def _dropped(count: int) -> str:
    return "1 event dropped" if count == 1 else f"{count} events dropped"


def _accepted_count(response: bytes, sent: int) -> int:
    """Return how many of the sent events the exporter accepted."""
    try:
        return min(int(json.loads(response)["accepted"]), sent)
    except (ValueError, TypeError, KeyError):
        return sent


def _rejection_detail(response: bytes) -> str:
    """Return why the first of the events that the exporter rejected was rejected."""
    try:
        first = json.loads(response)["rejected"][0]
        return f"rejected by the exporter: {first['pointer']}: {first['detail']}"
    except (ValueError, TypeError, LookupError, RecursionError):
        return f"rejected by the exporter: {response[:200].decode(errors='replace')}"


def _with_jitter(wait: float, retry_after: str) -> float:
    """Return how long to wait: random, so that the replicas of a service do not return at the same moment.

    As long as the server asks, but for at most an hour; or half of ``wait`` to all of it.
    """
    if not retry_after.isdecimal():
        return random.uniform(wait / 2, wait)  # noqa: S311
    return min(float(retry_after), 3600.0) + random.uniform(0, 0.25)  # noqa: S311


atexit.register(_end, Sender.close)
