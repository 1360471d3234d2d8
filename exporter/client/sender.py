"""Keep events in bounded memory and send them in batches, from a thread."""

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
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from exporter.client.encoding import describe_error, discard_random
from exporter.client.failures import Failure, rejection_detail
from exporter.client.transport import (
    FAILURES,
    KeepAliveConnection,
    Transport,
    accepted_count,
    is_final,
    new_idempotency_key,
    retry_after,
)
from exporter.errors import ExporterError

_FORK_SECONDS = 0.25
"""How long a fork waits at most for events to be sent."""
_EXIT_SECONDS = 2.0
"""How long the end of a process waits for its senders, all together."""


class _Sender(Protocol):
    """See `exporter.client.sender.Sender`."""

    def begin_flush(self) -> None:
        """Let the thread send the buffered events, from now on without waiting for more."""
        with self._changed:
            if self._buffer:
                self._start_thread()
            self._flushing += 1
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Send the buffered events; return whether all were sent in time."""
        with self._changed:
            if self._buffer:
                self._start_thread()
            self._flushing += 1
            try:
                self._changed.notify_all()
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
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
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
                    self.disconnect()
                if not self._finish(len(lines), accepted, failure):
                    break
        if self._closed:
            self.disconnect()

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

    def disconnect(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _next_batch(self) -> list[SizedEvent]:
        """Wait for events, then for others to send with them; return none after `close` or before a fork."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._closed or self._stopping_for_fork)
            if not self._buffer:
                self._thread = None
                return []
            self._changed.wait_for(
                lambda: self._flushing or self._closed or len(self._buffer) >= self._batch_size, self._interval
            )
            batch = [self._buffer.popleft() for _ in range(min(len(self._buffer), self._batch_size))]
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
                lines.append(self._encode(batch.pop()))
                size += len(lines[-1])
            except Exception as error:
                self._finish(1, 0, Failure("encode", describe_error(error)))
            if lines and size >= self._batch_bytes:
                yield lines
                lines, size = [], 0
            if not len(batch) % _ENCODED_PER_PAUSE and not self._flushing:
                time.sleep(0.0001)
        if lines:
            yield lines

    def _deliver(self, lines: list[bytes]) -> tuple[int, Failure]:
        """Send one body, repeatedly if necessary; return how many events were accepted, and why others were not."""
        body, key = b"\n".join(lines), new_idempotency_key()
        deadline, wait = time.monotonic() + self._give_up, 0.1
        while True:
            try:
                status, headers, response = self._connection.post(self._path, body, "application/x-ndjson", key)
            except FAILURES as error:
                final, headers, failure = False, {}, self._transport.explain_error(error)
            else:
                if status == 202:
                    self._note_success()
                    return accepted_count(response, len(lines)), Failure("rejected", rejection_detail(response))
                if status == 413 and len(lines) > 1:  # each event may be good, and only all together too large
                    return self._deliver_halves(lines)
                final, failure = is_final(status), self._transport.explain_response(status, headers, response)
            if final:
                return 0, failure
            self._note_failure(failure)
            wait = min(wait * 2, 30.0)
            delay = _with_jitter(wait, retry_after(headers))
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

    def _deliver_halves(self, lines: list[bytes]) -> tuple[int, Failure]:
        half = len(lines) // 2
        accepted, failure = self._deliver(lines[:half])
        more_accepted, other_failure = self._deliver(lines[half:])
        return accepted + more_accepted, failure if accepted < half else other_failure


def _dropped(count: int) -> str:
    return "1 event dropped" if count == 1 else f"{count} events dropped"


def _with_jitter(wait: float, retry_after: float | None) -> float:
    """Return how long to wait: random, so that the replicas of a service do not return at the same moment."""
    if retry_after is None:
        return random.uniform(wait / 2, wait)  # noqa: S311
    return retry_after + random.uniform(0, 0.25)  # noqa: S311
