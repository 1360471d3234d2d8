"""What a Python model service imports to be monitored; standard library only.

::

    monitor = Monitor("http://127.0.0.1:9877", "digits", "3")
    prediction_id = monitor.record(inputs={"image": image}, prediction="7", confidence=0.93, duration_seconds=0.012)
    monitor.feedback(prediction_id, "corrected", label="1", user="teacher-4")
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import datetime as dt
import http.client
import json
import logging
import math
import os
import random
import re
import secrets
import threading
import time as clock
import urllib.parse
import uuid
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError

__all__ = ["Monitor"]

_log = logging.getLogger(__name__)

_BATCH_BYTES = 1 << 20
"""A batch stays well below the 16 MiB that the exporter takes in one body."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750
_TRY_LATER = frozenset({408, 425, 429})
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


class Monitor:
    """One model of a service, as its exporter sees it.

    `record` only puts the event into memory; one daemon thread sends what is there in batches. When
    the exporter is away the newest events are kept up to the bounds below, and the service never
    notices. Events still unsent when the process ends are given a moment, or call `close`
    (a process that ends by ``os._exit`` must). After ``os.fork`` the child starts empty, with
    counters at zero and a thread of its own.

    Parameters
    ----------
    url
        The exporter, such as ``http://127.0.0.1:9877``; ``https`` is verified against the system's
        certificates, ``user:password@`` becomes basic authentication, a path is a prefix.
    model, version
        Labels of everything recorded here.
    token_file
        A file with the bearer token that the exporter knows this service by; read for every request, so
        that a new token needs no restart. Without it the token is the environment's
        ``MODEL_EXPORTER_TOKEN``, if that is set and the URL has no user.
    capacity
        Events kept in memory; past it the oldest is dropped.
    capacity_bytes
        The same bound in bytes, for large inputs.
    batch_size
        Events sent in one request at most.
    interval
        Seconds an event waits for others to travel with.
    timeout
        Seconds one request may take.
    give_up
        Seconds after which a batch that the exporter cannot take is dropped for the next one.

    Attributes
    ----------
    sent : int
        Events the exporter has accepted.
    dropped : int
        Events lost: pushed out, refused by the exporter, not to be encoded, or unsent at `close`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        capacity: int = 10_000,
        capacity_bytes: int = 64 << 20,
        batch_size: int = 500,
        interval: float = 1.0,
        timeout: float = 5.0,
        give_up: float = 300.0,
    ) -> None:
        self._target = _Target(url, timeout, token_file)
        self._model = model
        self._version = version
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._batch_size = batch_size
        self._interval = interval
        self._give_up = give_up
        self._closed = False
        self._start_empty()
        _monitors.add(self)

    def _start_empty(self) -> None:
        # A signal handler or a finalizer may record while this thread holds the lock: hence the RLock.
        self._changed = threading.Condition(threading.RLock())
        self._buffer: deque[bytes] = deque()
        self._bytes = 0
        self._sending = 0
        self._flushing = 0
        self._thread: threading.Thread | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._warned = False
        self.sent = 0
        self.dropped = 0

    def record(
        self,
        *,
        id: str | None = None,  # noqa: A002 (the event's own field)
        inputs: Mapping[str, Any] | None = None,
        prediction: Any = None,
        confidence: float | None = None,
        duration_seconds: float | None = None,
        code: int = 200,
        time: dt.datetime | float | None = None,
    ) -> str:
        """Note one request to the model; never waits for the network and never raises.

        Parameters
        ----------
        id
            The request's own identifier, by which feedback finds it; a time-ordered UUID when absent.
        inputs
            Raw inputs by feature. They are encoded here and now, so that the caller may change them
            afterwards; anything with ``.tolist()`` (numpy) is taken, NaN counts as missing.
        prediction
            What the model answered; None when it did not.
        confidence
            From 0 to 1.
        duration_seconds
            How long the answer took.
        code
            HTTP status of the answer; 5xx are the model's errors.
        time
            When: a datetime, or seconds since the epoch; now when absent.

        Returns
        -------
        str
            The identifier; empty when ``id`` cannot be made a string.
        """
        event_id = ""
        try:
            event_id = _time_ordered_id() if id is None else str(id)
            event = {
                "id": event_id,
                "model": self._model,
                "version": self._version,
                "time": _rfc3339(time),
                "inputs": inputs,
                "prediction": prediction,
                "confidence": confidence,
                "duration_seconds": duration_seconds,
                "code": code,
            }
            self._put(_encode({key: value for key, value in event.items() if value is not None}))
        except Exception as error:  # monitoring must not break what it monitors
            self._drop(1, f"an event could not be recorded: {_said(error)}")
        return event_id

    def feedback(
        self,
        prediction_id: str,
        verdict: str,
        *,
        label: Any = None,
        user: str | None = None,
        comment: str | None = None,
    ) -> dict[str, Any]:
        """Hand on a user's word about a prediction; returns once it is on the exporter's disk.

        Parameters
        ----------
        prediction_id
            What `record` returned.
        verdict
            ``"accepted"`` or ``"corrected"``.
        label
            The right answer, when corrected.
        user, comment
            Who said so, and in which words.

        Returns
        -------
        dict
            The exporter's answer.

        Raises
        ------
        ExporterError
            When it is not on disk: the exporter is not there, is busy, or refused it, with its reason.
        """
        word = {
            "prediction_id": prediction_id,
            "verdict": verdict,
            "label": label,
            "user": user,
            "comment": comment,
        }
        body = _encode({key: value for key, value in word.items() if value is not None})
        try:
            connection = self._target.connect()
            with contextlib.closing(connection):
                status, _, answer = self._target.post(connection, "/v1/feedback", body, "application/json", _new_key())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ExporterError(f"{self._target.shown}: feedback not delivered: {error!r}") from error
        if status not in {200, 201}:
            raise ExporterError(f"{self._target.shown}: feedback not taken: {_reason(status, answer)}")
        try:
            result = json.loads(answer)
        except ValueError:
            raise ExporterError(f"{self._target.shown}: answered {status} without JSON: no exporter?") from None
        return result if isinstance(result, dict) else {"result": result}

    def flush(self, timeout: float = 5.0) -> bool:
        """Send what is there now, waiting at most ``timeout`` seconds.

        Returns
        -------
        bool
            Whether everything recorded before the call has left.
        """
        with self._changed:
            if self._buffer:
                self._start_thread()
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._buffer and not self._sending, timeout)
            finally:
                self._flushing -= 1

    def close(self, timeout: float = 5.0) -> None:
        """Send what is there, waiting at most ``timeout`` seconds, and stop; what is left counts as dropped."""
        self.flush(timeout)
        with self._changed:
            left = 0 if self._closed else len(self._buffer) + self._sending
            self._closed = True
            self._buffer.clear()
            self._changed.notify_all()
        if left:
            self._drop(left, f"{left} events were not sent before the end")

    def _put(self, event: bytes) -> None:
        pushed = 0
        with self._changed:
            if self._closed:
                raise ExporterError("it came after close()")
            self._buffer.append(event)
            self._bytes += len(event)
            while len(self._buffer) > self._capacity or self._bytes > self._capacity_bytes:
                self._bytes -= len(self._buffer.popleft())
                pushed += 1
            self._start_thread()
            if len(self._buffer) in {1, self._batch_size}:
                self._changed.notify_all()
        if pushed:
            self._drop(pushed, "the exporter is away or does not keep up: the oldest events were pushed out")

    def _drop(self, count: int, why: str) -> None:
        with self._changed:
            self.dropped += count
        self._warn(why)

    def _warn(self, why: str) -> None:
        """Log why events are lost: once where people see it, since a line for each would be the next outage."""
        level, self._warned = logging.DEBUG if self._warned else logging.WARNING, True
        _log.log(level, "%s: %s", self._target.shown, why)

    def _start_thread(self) -> None:
        if (self._thread is None or not self._thread.is_alive()) and not self._closed:
            thread = threading.Thread(target=self._run, name=f"monitor {self._model}", daemon=True)
            # Refused while the interpreter shuts down; then nothing is sent any more.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                accepted, why = self._deliver(batch)
            except Exception as error:  # the next batch may fare better
                accepted, why = 0, f"a batch could not be sent: {_said(error)}"
                self._disconnect()
            with self._changed:
                if self._closed:
                    break  # close() has counted this batch as dropped
                self.sent += accepted
                self.dropped += len(batch) - accepted
                self._sending = 0
                self._changed.notify_all()
            if accepted < len(batch):
                self._warn(why)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _next_batch(self) -> list[bytes]:
        """Wait for events and then for others to travel with them; nothing after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._closed)
            self._changed.wait_for(
                lambda: self._flushing or self._closed or len(self._buffer) >= self._batch_size, self._interval
            )
            return self._take()

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._buffer and len(batch) < self._batch_size and (not batch or size < _BATCH_BYTES):
            batch.append(self._buffer.popleft())
            size += len(batch[-1])
        self._bytes -= size
        self._sending = len(batch)
        return batch

    def _deliver(self, batch: list[bytes]) -> tuple[int, str]:
        """Send one batch, for as long as that makes sense: how many were accepted, and why not the others."""
        body, key = b"\n".join(batch), _new_key()
        until, wait = clock.monotonic() + self._give_up, 0.1
        while True:
            status, headers, answer = self._attempt(body, key)
            if status == 202:
                return _accepted(answer, len(batch)), f"the exporter refused events: {answer[:500]!r}"
            why = f"POST /v1/predictions: {_reason(status, answer)}"
            if 0 < status < 500 and status not in _TRY_LATER:
                return 0, why
            wait = min(wait * 2, 30.0)
            asked = _retry_after(headers)
            # Jitter, so that the replicas of a service do not come back in step.
            delay = random.uniform(wait / 2, wait) if asked is None else asked + random.uniform(0, 0.25)  # noqa: S311
            with self._changed:
                if clock.monotonic() + delay > until or self._changed.wait_for(lambda: self._closed, delay):
                    return 0, why

    def _attempt(self, body: bytes, key: str) -> tuple[int, Mapping[str, str], bytes]:
        """One request over the kept connection; status 0 when there was no answer."""
        kept = self._connection is not None
        try:
            self._connection = self._connection or self._target.connect()
            return self._target.post(self._connection, "/v1/predictions", body, "application/x-ndjson", key)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._disconnect()
            if kept:  # the server may have closed an idle connection: that is no failure yet
                return self._attempt(body, key)
            return 0, {}, repr(error).encode()


class _Target:
    """Where the exporter is, taken apart once."""

    def __init__(self, url: str, timeout: float, token_file: str | os.PathLike[str] | None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ExporterError(f"{url}: expected the exporter's address, such as http://127.0.0.1:9877")
        try:
            self._port = parts.port
        except ValueError as error:
            raise ExporterError(f"{url}: {error}") from None
        self._host = parts.hostname
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._timeout = timeout
        self._prefix = parts.path.rstrip("/")
        self._headers: dict[str, str] = {}
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._prefix}"
        self._token_file = None if token_file is None else Path(token_file)
        if self._token_file is not None:
            if parts.username is not None:
                raise ExporterError(f"{self.shown}: expected a user in the address or a token_file, got both")
            try:
                _token(self._token_file)
            except (OSError, ValueError) as error:
                raise ExporterError(f"the exporter's token: {error}") from None
        elif parts.username is None and (token := os.environ.get("MODEL_EXPORTER_TOKEN")):
            if not _TOKEN.fullmatch(token):
                raise ExporterError("MODEL_EXPORTER_TOKEN: is no bearer token")
            self._headers["Authorization"] = f"Bearer {token}"
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    def connect(self) -> http.client.HTTPConnection:
        return self._kind(self._host, self._port, timeout=self._timeout)

    def post(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, kind: str, key: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {**self._headers, "Content-Type": kind, "Idempotency-Key": key}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        connection.request("POST", self._prefix + path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def _token(file: Path) -> str:
    """The token in a file; what is none is refused without showing it."""
    token = file.read_text(encoding="ascii", errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{file}: expected one bearer token and nothing else")
    return token


def _time_ordered_id() -> str:
    """A UUID of version 7 (RFC 9562) whose 12 bits after the version carry the fraction of the millisecond."""
    milliseconds, rest = divmod(clock.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)))


def _new_key() -> str:
    return secrets.token_hex(16)


def _rfc3339(time: dt.datetime | float | None) -> str:
    if isinstance(time, dt.datetime):
        moment = time.astimezone(dt.UTC)
    else:
        moment = dt.datetime.fromtimestamp(clock.time() if time is None else time, dt.UTC)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _encode(document: Any) -> bytes:
    try:
        text = json.dumps(document, default=_plain, allow_nan=False, separators=(",", ":"))
    except ValueError:  # JSON has neither NaN nor infinities
        text = json.dumps(_finite(document), allow_nan=False, separators=(",", ":"))
    return text.encode()


def _plain(value: Any) -> Any:
    """What json cannot encode: numpy by ``tolist``, the rest as text, which the exporter counts as invalid."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _finite(_plain(value))


def _said(error: Exception) -> str:
    """An error for the log; what it holds of the caller's may not even have a text."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


def _accepted(answer: bytes, most: int) -> int:
    try:
        return min(int(json.loads(answer)["accepted"]), most)
    except (ValueError, TypeError, KeyError):
        return most


def _reason(status: int, answer: bytes) -> str:
    """What a problem document (RFC 9457) says, for people."""
    if not status:
        return answer.decode(errors="replace")
    try:
        problem = json.loads(answer)
        details = [f"{error['pointer']}: {error['detail']}" for error in problem.get("errors", [])[:5]]
        return "; ".join([f"{status} {problem['detail']}", *details])
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{status} {answer[:200].decode(errors='replace')}".rstrip()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, at most an hour."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), 3600.0) if text.isdecimal() else None


def _close_all() -> None:
    for monitor in list(_monitors):
        monitor.close(timeout=2.0)


def _after_fork_in_child() -> None:
    for monitor in list(_monitors):
        monitor._start_empty()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
